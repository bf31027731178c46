"""Programs that a checkout brings beside the package: run each with python -m tools.NAME."""
