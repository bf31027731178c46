"""Evidence: claims with what was predicted of them, the runs that test them, and what the runs say."""
