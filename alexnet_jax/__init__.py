"""AlexNet as it was built in 2012: two towers, on one device or on two.

    import alexnet_jax as alexnet
    net = alexnet.load("runs/first")                 # a run, or a weight file
    net.predict("cat.jpg", top=5)
    net = alexnet.build("alexnet", classes=10)       # any recipe by name, with fresh weights

Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from alexnet_jax.errors import AlexNetError

if TYPE_CHECKING:
    from alexnet_jax import figures
    from alexnet_jax.classifier import Classifier, build
    from alexnet_jax.export.onnx_engine import onnxruntime
    from alexnet_jax.summary import recipes
    from alexnet_jax.weights.load import load

__version__ = "0.3.0"
__all__ = ["AlexNetError", "Classifier", "__version__", "build", "figures", "load", "onnxruntime", "recipes"]

_HOMES = {
    "Classifier": "classifier",
    "build": "classifier",
    "load": "weights.load",
    "onnxruntime": "export.onnx_engine",
    "recipes": "summary",
}


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module(f"{__name__}.figures")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "figures"})
