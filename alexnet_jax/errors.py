"""The one exception of this package that is meant for people."""


class AlexNetError(Exception):
    """One sentence: what is wrong, where, and what to do.

    It names arguments as a caller of the library writes them, `checkpoint='best'`, and config fields by their path,
    `config.train.steps`.
    """

    status = 1  # the exit status of a command that it ends: the same command would fail again


class LostError(AlexNetError):
    """What a run needs was lost, such as a worker process: the same command resumes from the last checkpoint."""

    status = 75  # as in `exits.LOST`
