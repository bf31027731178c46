"""The network of all towers as an ordinary Flax module, for everybody but this project itself."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.towers import TOWER


class AllTowers(AlexNet):
    """The network of all towers as an ordinary Flax module: images [B, H, W, 3] float32 -> logits [B, K].

    Its variables are those of `init_variables`, each leaf with a leading tower axis, and all towers run on the device
    of the call. Images, `keys_B` and `train` are as in `AlexNet`. `init` gives the parameters and running statistics
    alone. Raises AlexNetError for images or keys of another form.
    """

    @classmethod
    def of(cls, model: AlexNet) -> "AllTowers":
        """The whole network of which `model` is one tower."""
        own = ("parent", "name")  # Flax's fields of every module
        names = (field.name for field in dataclasses.fields(model) if field.name not in own)
        return cls(**{name: getattr(model, name) for name in names})

    @nn.compact
    def __call__(self, images: jax.Array, keys_B: jax.Array | None = None, train: bool = False) -> jax.Array:
        _check_images(images, keys_B)
        collections = ("params", "batch_stats", "intermediates", "perturbations")

        def tower(module: Any, images: jax.Array, keys_B: jax.Array | None) -> jax.Array:  # Flax asks for its name
            return AlexNet.__call__(module, images, keys_B, train)

        over_towers = nn.vmap(
            tower,
            in_axes=None,
            out_axes=None,
            axis_size=self.towers,
            axis_name=TOWER,
            variable_axes=dict.fromkeys(collections, 0),
            split_rngs={"params": True},
        )
        logits: jax.Array = over_towers(self, images, keys_B)
        return logits

    @nn.nowrap
    def init(self, rngs: Any, *args: Any, mutable: Any = ("params", "batch_stats"), **kwargs: Any) -> Any:
        """Flax's own, without the collections `intermediates` and `perturbations`, which belong to one batch."""
        return super().init(rngs, *args, mutable=mutable, **kwargs)


def _check_images(images: jax.Array, keys_B: jax.Array | None) -> None:
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 4 or shape[-1] != 3 or not jnp.issubdtype(dtype, jnp.floating):
        raise AlexNetError(
            f"images are {dtype} {list(shape)}, but the module reads float32 [B, H, W, 3] less the mean, as "
            "net.inputs(images) makes them of RGB in 0..255; net.apply takes images in 0..255 themselves."
        )
    if keys_B is not None and jnp.shape(keys_B)[:1] != shape[:1]:
        raise AlexNetError(
            f"keys_B has the shape {jnp.shape(keys_B)}, but it is one key per image: jax.random.split(key, {shape[0]})."
        )
