"""The one exception of this package that is meant for people."""


class AlexNetError(Exception):
    """One sentence: what is wrong, where, and what to do.

    It names arguments as a caller of the library writes them, `checkpoint='best'`, and config fields by their path,
    `config.train.steps`. The command line turns both into flags (`commands/border.py`).
    """
