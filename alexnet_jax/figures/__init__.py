"""What one looks at: each function returns a Matplotlib figure, which `save` writes as PNG or SVG.

    from alexnet_jax import figures
    figures.filters(net)
    figures.save(figures.occlusion(net, "cat.jpg"), "occlusion.svg")

Matplotlib is not imported before something is drawn.
"""

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
