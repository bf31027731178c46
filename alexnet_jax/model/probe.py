"""Whether a network can tell one image from another before its first step.

With too small weights under large biases every image gives nearly the same activations in the last
layers, and training sits at ln(classes) until it happens to leave it. The 2012 source avoids that with
a std of 0.03 in conv3 to conv5, of which the paper's text says nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.preprocess import Input
from alexnet_jax.model import alexnet as models, towers

IMAGES = 16
# Of the signal between images in that within one, at the last hidden layer.
INDISTINGUISHABLE = 0.02


@dataclasses.dataclass(frozen=True)
class Stage:
    """The activations of a layer or operation over a few images.

    `between`: how far a value moves from image to image, the root mean square of its std over the images.
    `within`: how large the values of one image are, their root mean square. `dead`: the share of channels or
    units that no image makes positive, after a ReLU only. `divides`: the mean of what a response norm divides by.
    """

    name: str
    between: float
    within: float
    dead: float | None = None
    divides: float | None = None

    @property
    def ratio(self) -> float:
        """`between` over `within`: the share of the signal that tells images apart, at most about 1."""
        return self.between / self.within if self.within else 0.0


def stages(model: models.AlexNet, variables: Any, images: np.ndarray, inputs: Input) -> list[Stage]:
    """The stages of the network in order, the logits last, over `images`, uint8 [B, crop, crop, 3]."""

    def measure(variables: Any, images: jax.Array) -> Any:
        seen = towers.over_towers(models.apply_with_intermediates(model), out_axes=0)(variables, inputs(images))
        before, measured = None, {}
        for name in _in_order(model):
            measured[name] = _measure(name, seen[name], before)
            before = seen[name]
        return measured

    measured = jax.device_get(jax.jit(measure)(variables, images))
    return [Stage(name, **{key: float(value) for key, value in measured[name].items()}) for name in _in_order(model)]


def _in_order(model: models.AlexNet) -> list[str]:
    names: list[str] = []
    for layer in model.stack:
        names.append(f"{layer.name}_out")
        names += [models.operation_name(word, layer.name) for word in layer.post_ops if word != "dropout"]
    return [*names[:-1], "logits"]


def _measure(name: str, x: jax.Array, before: jax.Array | None) -> dict[str, jax.Array]:
    """The figures of a stage, [T, B, ..., C], that was computed from `before`."""
    found = {"between": jnp.sqrt(x.var(axis=1).mean()), "within": jnp.sqrt(jnp.mean(x * x))}
    if name.startswith("relu"):
        found["dead"] = jnp.mean(jnp.all(x <= 0, axis=range(1, x.ndim - 1)).astype(jnp.float32))
    if name.startswith(("norm", "spatial_norm")) and before is not None:
        there = jnp.abs(x) > 0
        divisor = jnp.where(there, before / jnp.where(there, x, 1.0), 0.0)
        found["divides"] = divisor.sum() / jnp.maximum(there.sum(dtype=jnp.float32), 1.0)
    return found


def last_hidden(found: list[Stage]) -> Stage:
    """The activations that the last layer reads."""
    return found[-2]


def warning(found: list[Stage], classes: int) -> str | None:
    """One sentence if the network hardly tells images apart, else None."""
    stage = last_hidden(found)
    if stage.ratio >= INDISTINGUISHABLE:
        return None
    return (
        f"images are indistinguishable at {stage.name} (only {stage.ratio:.1e} of the signal differs between them): a "
        f"run that starts here tends to sit at ln({classes}) = {np.log(classes):.3f}"
    )


def describe(found: list[Stage], classes: int) -> str:
    """The table of all stages, and the warning where there is one."""
    head = f"{'stage':16}{'between images':>16}{'within one':>12}{'ratio':>9}{'dead':>8}{'divides by':>12}"
    lines = [head, "-" * len(head)]
    for stage in found:
        dead = "" if stage.dead is None else f"{100 * stage.dead:.1f} %"
        divides = "" if stage.divides is None else f"{stage.divides:.3f}"
        lines.append(
            f"{stage.name:16}{stage.between:16.3e}{stage.within:12.3e}{stage.ratio:9.4f}{dead:>8}{divides:>12}".rstrip()
        )
    verdict = warning(found, classes)
    return "\n".join(
        [*lines, "", f"warning: {verdict}." if verdict else "The network tells the images apart at every stage."]
    )


def in_a_line(found: list[Stage]) -> str:
    """The figures that matter most, for the first lines of a run."""
    stage = last_hidden(found)
    dead = max(found, key=lambda s: s.dead or 0.0)
    norms = ", ".join(f"{s.name} divides by {s.divides:.2f}" for s in found if s.divides is not None)
    return (
        f"{100 * stage.ratio:.1f} % of the signal at {stage.name} differs between images (logits: std "
        f"{found[-1].between:.1e}); at most {100 * (dead.dead or 0.0):.0f} % dead" + (f"; {norms}" if norms else "")
    )
