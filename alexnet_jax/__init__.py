"""AlexNet as it was built in 2012: two towers, on one device or on two."""


class AlexNetError(Exception):
    """One sentence for the person at the terminal: what is wrong, where, and what to do."""
