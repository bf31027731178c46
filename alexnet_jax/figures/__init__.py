"""What one looks at: each function returns a Matplotlib figure, which `save` writes as PNG or SVG.

    from alexnet_jax import figures
    figures.filters(net)
    figures.save(figures.occlusion(net, "cat.jpg"), "occlusion.svg")

`architecture` returns the text of an SVG. Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_jax.figures.blueprint import architecture
    from alexnet_jax.figures.drawing import save
    from alexnet_jax.figures.history import curves
    from alexnet_jax.figures.intermediates import activations, occlusion
    from alexnet_jax.figures.kernels import color_of_kernels, filters, specialization
    from alexnet_jax.figures.pictures import confusion, neighbours, predictions

__all__ = [
    "activations", "architecture", "color_of_kernels", "confusion", "curves", "filters", "neighbours", "occlusion",
    "predictions", "save", "specialization",
]  # fmt: skip

_HOMES = {
    "blueprint": ("architecture",),
    "history": ("curves",),
    "drawing": ("save",),
    "kernels": ("color_of_kernels", "filters", "specialization"),
    "pictures": ("confusion", "neighbours", "predictions"),
    "intermediates": ("activations", "occlusion"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
