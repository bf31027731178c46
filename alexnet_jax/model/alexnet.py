"""The network of one tower.

Which layers there are, how wide they are, what follows each and which of them read the other tower's maps is up to the
config (`configs/alexnet.py`, section model). This file says what the words mean.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import layers, towers
from alexnet_jax.model.towers import TOWER, gather_towers


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); on a GPU the gradient is found from the result, which the next operation keeps, so that x is not."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: Any, tangents: Any) -> Any:
    y, (dx,) = relu(*primals), tangents
    # Behind a barrier: XLA would see that y > 0 where x > 0, and keep x.
    gpu = dict.fromkeys(("cuda", "rocm"), jax.lax.optimization_barrier)
    kept = jax.lax.platform_dependent(jax.lax.stop_gradient(y), default=lambda y: y, **gpu)
    return y, jnp.where(kept > 0, dx, 0)


# The words of `post_ops`. What else knows a word by its name is in CONTRIBUTING.md.
POINTWISE: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": relu, "tanh": jnp.tanh}
POOLS = ("pool", "avg_pool")
OPERATIONS = (*POINTWISE, "norm", "spatial_norm", "batch_norm", *POOLS, "dropout")
BY_UNIT = frozenset((*POINTWISE, "batch_norm", "dropout"))  # those that a part of the units can do for itself
HOMOGENEOUS = ("relu", *POOLS, "dropout")  # f(a x) = a f(x) for a > 0
LOGITS = "logits"


@dataclasses.dataclass(frozen=True)
class ChannelNorm:
    """The constants of `layers.channel_norm`."""

    size: int
    alpha: float
    beta: float
    k: float
    alpha_over_size: bool
    across_towers: bool


@dataclasses.dataclass(frozen=True)
class SpatialNorm:
    """The constants of `layers.spatial_norm`."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """`momentum` of the running mean and variance, and the `epsilon` added to the variance."""

    momentum: float
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Pool:
    """`kind` is "max" or "avg"; `size` and `stride` in pixels; `ceil`: see `layers.pool`."""

    kind: str
    size: int
    stride: int
    ceil: bool


@dataclasses.dataclass(frozen=True)
class Dropout:
    """The probability of a zero, and the form: see `dropout`."""

    rate: float
    inverted: bool


Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array, such as those of flax.linen.initializers


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any, fan_in: int | None = None) -> jax.Array:
    """Uniform within 1 / sqrt(`fan_in`), by default that of a kernel [..., units]."""
    bound = (fan_in or math.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """A convolution with `features` channels per tower, and the post-ops (of OPERATIONS) that follow it.

    `padding` is as in `layers.tower_conv`; `kernel_init`, `bias_init` and `weight_norm` are as in `DenseLayer`.
    """

    name: str
    features: int
    kernel_size: int
    stride: int
    padding: tuple[int, int]
    post_ops: tuple[str, ...] = ()
    kernel_init: Initializer = fan_in_uniform
    bias_init: Initializer | None = None
    weight_norm: bool = False


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A fully connected layer with `features` units per tower, and the post-ops that follow it.

    `kernel_init` and `bias_init` are as in Flax; without the latter the biases are uniform within 1 / sqrt(fan-in) too,
    PyTorch's default for its Conv2d and Linear. With `weight_norm` the weights of a unit are scale * v / |v| (Salimans
    and Kingma 2016, arXiv 1602.07868, equation 2); the parameter `kernel` is v, and `scale` starts as |v|.
    """

    name: str
    features: int
    post_ops: tuple[str, ...] = ()
    kernel_init: Initializer = fan_in_uniform
    bias_init: Initializer | None = None
    weight_norm: bool = False


class Weighted(nn.Module):
    """The weights of a layer in one tower and what they compute, before the post-ops; all parameters are float32.

    A convolution is [B, H, W, C] -> [B, H', W', features] of the type of its input, a fully connected layer
    [B, C] -> [B, features] float32.
    """

    layer: ConvLayer | DenseLayer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.layer
        window = 2 * (layer.kernel_size,) if isinstance(layer, ConvLayer) else ()
        shape = (*window, x.shape[-1], layer.features)
        bias_init = layer.bias_init or functools.partial(fan_in_uniform, fan_in=math.prod(shape[:-1]))
        kernel = self.param("kernel", layer.kernel_init, shape, jnp.float32)
        bias = self.param("bias", bias_init, shape[-1:], jnp.float32)
        if layer.weight_norm:
            length = jnp.sqrt((kernel * kernel).sum(axis=range(len(shape) - 1)))
            scale = self.param("scale", lambda _: length)
            kernel = kernel * (scale / length).reshape((1,) * (len(shape) - 1) + scale.shape)
        bias = bias.reshape((1,) * (x.ndim - 1) + bias.shape)
        if isinstance(layer, ConvLayer):
            return (layers.tower_conv(x, kernel, stride=layer.stride, padding=layer.padding) + bias).astype(x.dtype)
        return layers.tower_matmul(x, kernel) + bias


class AlexNet(nn.Module):
    """One tower of AlexNet: images [B, H, W, 3] float32, 0..255 less the mean -> logits [B, K].

    Every tower gets the same images. The logits have been gathered, so they are the same on every tower. `train` turns
    dropout on, for which `keys_B` has one key per example, the same on all towers, and makes batch norms use the batch,
    over all devices of the axis `data_axis`.

    `hybrid` asks for the placement of 2014, in which the fully connected layers are split over the devices by units.
    `placement.for_mesh` sets what follows from it on a mesh, `data_axis` and `split_over`, the number of those devices;
    the parameters are this device's share then, and the images its own. `exchange_dtype` is what exchanges carry,
    except that of the logits, whose ties would be counted as errors.

    `compute_dtype` is that of what is multiplied and of all activations but the logits. Sums of products and of norms,
    logits, parameters and gradients are float32; a GPU and a TPU round the gradients of convolution kernels before.

    It must run under an axis named `tower` (`towers.over_towers`); `all_towers.AllTowers` is the module for everybody
    else. The result of each operation can be read in the collection `intermediates` and shifted through the collection
    `perturbations`, under the paper's names: conv1_out (what the weights give), norm1, pool1, relu1, ...

    Raises AlexNetError where there is no such axis, where the image shrinks below a window, and where `train` and
    `keys_B` do not go together.
    """

    classes: int
    towers: int
    stack: tuple[ConvLayer | DenseLayer, ...]
    exchange: frozenset[str]
    norm: ChannelNorm
    spatial_norm: SpatialNorm
    batch_norm: BatchNorm
    pool: Pool
    dropout: Dropout
    compute_dtype: str = "float32"
    exchange_dtype: str = "float32"
    hybrid: bool = False
    data_axis: str | None = None
    split_over: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, keys_B: jax.Array | None = None, train: bool = False) -> jax.Array:
        _check_axis()
        self._check_keys(keys_B, train)
        x, reshard, keys_of_all = images.astype(self.compute_dtype), resharding(self), self._keys_of_all(keys_B)
        for number, layer in enumerate(self.stack):
            if layer.name in reshard:
                x = reshard[layer.name](x, layer.name, self.exchange_dtype)
            if layer.name in self.exchange:
                x = gather_towers(x, layer.name, self.exchange_dtype)
            x = self._record(layer.name + "_out", self._weighted(layer, x))
            keys = keys_of_all if self.splits(layer) else keys_B
            keys = None if keys is None else _layer_keys(keys, number)
            for word in layer.post_ops:
                name = operation_name(word, layer.name)
                with jax.named_scope(name):  # what a profile calls it
                    x = self._record(name, self._apply(word, layer, x, keys, train))
        if LOGITS in reshard:
            x = reshard[LOGITS](x, LOGITS)
        return gather_towers(x, LOGITS)[:, : self.classes]

    @nn.nowrap
    def splits(self, layer: ConvLayer | DenseLayer) -> bool:
        """Whether the units of a layer are split over `split_over` devices; if not, each device has all of them."""
        possible = isinstance(layer, DenseLayer) and BY_UNIT.issuperset(layer.post_ops)
        return self.split_over > 1 and possible and layer.features % self.split_over == 0

    @nn.nowrap
    def _check_keys(self, keys_B: jax.Array | None, train: bool) -> None:
        drops = self.dropout.rate > 0 and any("dropout" in layer.post_ops for layer in self.stack)
        if train and drops and keys_B is None:
            raise AlexNetError("train=True needs keys_B for dropout, one key per image: jax.random.split(key, B).")
        if keys_B is not None and not train:
            raise AlexNetError("keys_B are for training alone: pass train=True with them, or neither.")

    @nn.nowrap
    def _keys_of_all(self, keys_B: jax.Array | None) -> jax.Array | None:
        """The keys of the examples that a split layer sees."""
        drops = any(self.splits(layer) and "dropout" in layer.post_ops for layer in self.stack)
        return towers.gather_keys(keys_B) if drops and keys_B is not None else keys_B

    def _weighted(self, layer: ConvLayer | DenseLayer, x: jax.Array) -> jax.Array:
        if isinstance(layer, ConvLayer):
            _check_fits(x, layer.name, window=layer.kernel_size, padding=sum(layer.padding))
            return Weighted(layer, name=layer.name)(x)
        features = layer.features // (self.split_over if self.splits(layer) else 1)
        own = Weighted(dataclasses.replace(layer, features=features), name=layer.name)
        x = own(x.reshape(x.shape[0], -1))  # fc6: [B, 6, 6, 256] -> [B, 9216]
        return x if layer is self.stack[-1] else x.astype(self.compute_dtype)

    def _apply(
        self, word: str, layer: ConvLayer | DenseLayer, x: jax.Array, keys_B: jax.Array | None, train: bool
    ) -> jax.Array:
        name = operation_name(word, layer.name)
        if word in POINTWISE:
            return POINTWISE[word](x)
        if word == "norm":
            constants = dataclasses.asdict(self.norm)
            gather = functools.partial(gather_towers, layer=name, dtype=self.exchange_dtype)
            return layers.channel_norm(x, gather=gather if constants.pop("across_towers") else None, **constants)
        if word == "spatial_norm":
            return layers.spatial_norm(x, **dataclasses.asdict(self.spatial_norm))
        if word == "batch_norm":
            constants, name = dataclasses.asdict(self.batch_norm), operation_name("bn", layer.name)
            axis = None if self.splits(layer) else self.data_axis  # a split layer sees the whole batch
            with jax.named_scope(f"sum_{name}"):
                norm = nn.BatchNorm(**constants, use_running_average=not train, axis_name=axis, name=name)
                return norm(x.astype(jnp.float32)).astype(x.dtype)
        if word in POOLS:
            _check_fits(x, layer.name, window=self.pool.size, padding=0)
            return layers.pool(x, **dataclasses.asdict(pool_of(self, word)))
        assert word == "dropout", word  # config.py has checked the words
        over = self.split_over if self.splits(layer) else 1
        return dropout(x, **dataclasses.asdict(self.dropout), keys_B=keys_B, split_over=over)

    def _record(self, name: str, x: jax.Array) -> jax.Array:
        self.sow("intermediates", name, x, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        return self.perturb(name, x)


def dropout(x: jax.Array, *, rate: float, inverted: bool, keys_B: jax.Array | None, split_over: int = 1) -> jax.Array:
    """Dropout: [B, ...] -> the same shape. `keys_B` is a key for each example, None in evaluation.

    As the 2012 source does it (`layer.cu`, HiddenSexLayer; paper, section 4.2): zero with probability `rate` in
    training, and everything times 1 - `rate` in evaluation. `inverted`: what is kept is divided by 1 - `rate` in
    training, and nothing is done in evaluation. Where the last axis is a device's share of `split_over`, the mask is
    that share of the whole one.
    """
    if keys_B is None:
        return x if inverted else x * (1.0 - rate)
    whole = (*x.shape[1:-1], split_over * x.shape[-1])
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, np.float32(1.0 - rate), whole))
    keep = towers.own_units(draw(keys_B), split_over)
    return jnp.where(keep, x / (1.0 - rate) if inverted else x, 0.0)


def resharding(model: AlexNet) -> dict[str, Callable[..., jax.Array]]:
    """{layer, or LOGITS: the function of `towers` that reshards its input over `data`}, in order.

    {} where nothing is split.
    """
    between = {
        (False, True): towers.gather_examples,
        (True, True): towers.gather_units,
        (True, False): towers.units_to_examples,
    }
    names = [*(layer.name for layer in model.stack), LOGITS]
    split = [False, *(model.splits(layer) for layer in model.stack), False]
    return {name: between[way] for name, way in zip(names, itertools.pairwise(split), strict=True) if way in between}


def _check_axis() -> None:
    try:
        jax.lax.axis_index(TOWER)
    except NameError:
        raise AlexNetError(
            "This module is one tower and needs the axis 'tower': use net.module or net.apply of alexnet_jax.load and "
            "build, or model.all_towers.AllTowers.of(module)."
        ) from None


def _check_fits(x: jax.Array, layer_name: str, *, window: int, padding: int) -> None:
    if min(x.shape[1:3]) + padding < window:
        raise AlexNetError(
            f"At {layer_name} the image has shrunk to {x.shape[1]} x {x.shape[2]} pixels, too small for a window of "
            f"{window}: use a larger config.data.crop_pixels, or smaller windows and strides in config.model."
        )


def operation_name(word: str, layer_name: str) -> str:
    """The paper's name of an operation: pool after conv5 is pool5, norm after conv1 is norm1."""
    return word + layer_name.lstrip("convf")


def pool_of(model: AlexNet, word: str) -> Pool:
    """The pooling that `pool` or `avg_pool` stands for: the latter averages whatever the kind of the former."""
    return model.pool if word == "pool" else dataclasses.replace(model.pool, kind="avg")


def _layer_keys(keys_B: jax.Array, number: int) -> jax.Array:
    tower = jax.lax.axis_index(TOWER)
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, number), tower))(keys_B)


def init_variables(model: AlexNet, key: jax.Array, image_pixels: int) -> dict[str, Any]:
    """{"params": {layer: {kernel, bias}}} of all towers, each leaf with a leading tower axis.

    A network with batch norms has their running means and variances as "batch_stats" beside them.
    """

    def one_tower(key: jax.Array) -> Any:
        images = jnp.zeros((1, image_pixels, image_pixels, 3), jnp.float32)
        variables = model.init(key, images)
        return {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    keys = jax.random.split(key, model.towers)
    variables: dict[str, Any] = towers.over_towers(one_tower, out_axes=0)(keys)
    return variables


def logits_fn(model: AlexNet) -> Callable[..., jax.Array]:
    """`program(variables, images)` of one tower -> logits, for `towers.over_towers`."""

    def program(variables: Any, images: jax.Array) -> jax.Array:
        logits = model.apply(variables, images)
        assert isinstance(logits, jax.Array)
        return logits

    return program


def apply_with_intermediates(model: AlexNet) -> Callable[..., dict[str, jax.Array]]:
    """`program(variables, images)` of one tower -> {operation: its result, "logits": the logits}, all float32."""

    def program(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        logits, state = model.apply(variables, images, mutable=["intermediates"])
        return {name: value.astype(jnp.float32) for name, value in state["intermediates"].items()} | {"logits": logits}

    return program


def count_parameters(model: AlexNet, params: Any) -> int:
    """The parameters of the network, from arrays or shapes, without the spare units that round the classes up."""
    last = params[model.stack[-1].name]
    units = model.towers * last["bias"].shape[-1]
    per_unit = last["kernel"].shape[-2] + len(last) - 1  # its weights, its bias, and its scale where it has one
    return sum(leaf.size for leaf in jax.tree.leaves(params)) - (units - model.classes) * per_unit


def in_top_k(logits_BK: jax.Array, labels_B: jax.Array, k: int) -> jax.Array:
    """Whether the label is one of the k largest logits, [B] bool; of equal logits the first counts as the larger."""
    label_logit = jnp.take_along_axis(logits_BK, labels_B[:, None], axis=1)
    earlier = jnp.arange(logits_BK.shape[1], dtype=labels_B.dtype)[None] < labels_B[:, None]
    ahead = (logits_BK > label_logit) | ((logits_BK == label_logit) & earlier)
    return ahead.sum(axis=1) < k
