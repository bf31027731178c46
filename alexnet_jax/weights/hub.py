"""Networks of the Hugging Face Hub: hf://OWNER/NAME, and hf://OWNER/NAME@REVISION."""

import re
from pathlib import Path

from alexnet_jax import extras
from alexnet_jax.errors import AlexNetError

MODEL = "model.safetensors"  # the Hub's name for the one file of weights of a folder

_ADDRESS = re.compile(r"hf://(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")


def is_address(path: str | Path) -> bool:
    """Whether it names a network of the Hub. pathlib makes one slash of two: an option of a command is a Path."""
    return str(path).startswith("hf:/")


def is_exported(path: Path) -> bool:
    """Whether it is a folder as the Hub has it. A run's workdir, whatever else lies in it, is not."""
    return (path / MODEL).is_file() and not (path / "checkpoints").exists()


def downloaded(address: str | Path) -> Path:
    """The weight file behind an address, in the cache of huggingface_hub. Raises AlexNetError."""
    address = f"hf://{str(address).removeprefix('hf:').lstrip('/')}"
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise AlexNetError(
            f"{address} is not the address of a network: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION."
        )
    name, revision = found["name"], found["revision"]
    huggingface_hub = extras.module("huggingface_hub", extra="hub", what=f"hf://{name}")
    errors = huggingface_hub.errors
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[MODEL, "config.json"])
    except errors.RepositoryNotFoundError:
        raise AlexNetError(
            f"The Hugging Face Hub has no model {name}, or does not show it to you: check the name, or log in with "
            "hf auth login."
        ) from None
    except errors.RevisionNotFoundError:
        raise AlexNetError(f"The model {name} of the Hugging Face Hub has no revision {revision!r}.") from None
    except Exception as error:  # whatever a network makes a client raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise AlexNetError(
            f"hf://{name} cannot be downloaded ({reason}): check the connection and try again."
        ) from error
    path = Path(folder) / MODEL
    if not path.is_file():
        raise AlexNetError(f"The model {name} of the Hugging Face Hub has no {MODEL}: it was not exported from here.")
    return path
