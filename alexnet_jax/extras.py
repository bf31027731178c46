"""Packages that only a part of the project needs: told in one sentence where they are missing."""

import importlib
import importlib.util
from typing import Any

from alexnet_jax.errors import AlexNetError


def module(name: str, *, extra: str, what: str) -> Any:
    """The module `name`, which `what` needs and the extra `extra` installs. Raises AlexNetError without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name.partition(".")[0]:  # it is here, and what it needs is not
            raise
        raise AlexNetError(f"{what} needs the package {error.name}: pip install 'alexnet_jax[{extra}]'.") from None
