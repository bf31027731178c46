"""A network one can use: from a run, a weight file or a recipe; on pictures, on arrays, or inside jit and grad.

net = load("runs/first")
net.predict("cat.jpg", top=5)
net.features(images, "fc7")
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts, weights
from alexnet_jax.configs import datasets
from alexnet_jax.data import images as pictures
from alexnet_jax.data.images import Picture
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import model as models, placement, towers
from alexnet_jax.network.preprocess import Input, Views, crop_view
from alexnet_jax.network.towers import DATA, PER_EXAMPLE

_BATCH = 32  # pictures at a time on each row of the mesh


def load(
    path: str | Path,
    *,
    checkpoint: str | int = "latest",
    recipe: str | None = None,
    classes: Sequence[str] | str | Path | None = None,
    channels: str | None = None,
    mesh: Mesh | None = None,
) -> "Classifier":
    """The network of a run's workdir, or of a weight file (.safetensors, .npz, .pth).

    `checkpoint` is latest, best or a step of a workdir. For a file that does not say which network it holds, `recipe`
    names it ("torchvision", "caffe_alexnet", ...), `classes` its classes in the order of its outputs (names, or a file
    with one per line) and `channels` "rgb" or "bgr". The network runs on one device, or on `mesh`
    (`alexnet_jax.network.towers.make_mesh`). Raises AlexNetError.
    """
    path = Path(path)
    if not path.exists():
        raise AlexNetError(f"There is no {path}: give the workdir of a run, or a .safetensors, .npz or .pth file.")
    if path.is_dir():
        if recipe or classes or channels:
            raise AlexNetError(f"{path} is the workdir of a run, which knows its recipe and classes: leave them out.")
        from alexnet_jax.training.checkpoint import restore_network

        config = configs.load(path)
        restored = restore_network(path, str(checkpoint), mesh=mesh or _one_device(config))
        inputs = _inputs(restored.config, workdir=path)
        return Classifier(restored.config, restored.class_names, restored.variables, inputs=inputs, mesh=mesh)
    loaded = weights.load_file(path, recipe=recipe, classes=classes, channels=channels)
    return Classifier(loaded.config, loaded.class_names, loaded.variables, inputs=_inputs(loaded.config), mesh=mesh)


def build(recipe: str, *, classes: int | Sequence[str] = 1000, seed: int = 0, mesh: Mesh | None = None) -> "Classifier":
    """A recipe's network with fresh weights: build("alexnet"), build("half:my_pictures", classes=("cat", "dog")).

    Without a data set in `recipe` the input is preprocessed with ImageNet's means. `classes` is their number or their
    names. The weights are those of a training run with this `seed`. Raises AlexNetError.
    """
    config = configs.load_recipe(recipe if ":" in recipe else f"{recipe}:imagenet2012")
    names = _class_names(classes)
    model, pixels = parts.network(config, len(names)), config.data.crop_pixels
    key, _ = jax.random.split(jax.random.key(seed))  # as training does
    variables = jax.jit(lambda: models.init_variables(model, key, pixels))()
    return Classifier(config, names, variables, inputs=_inputs(config), mesh=mesh)


def _class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, bool) or not isinstance(classes, int | Sequence) or isinstance(classes, str):
        raise AlexNetError(f"classes={classes!r} must be a number of classes or their names.")
    names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(map(str, classes))
    if not 1 <= len(names) <= 1_000_000 or len(set(names)) != len(names):
        raise AlexNetError(f"classes={classes!r} must be at least 1 class, each once.")
    return names


def _one_device(config: ConfigDict) -> Mesh:
    return towers.make_mesh(towers=config.model.towers, tower=1, devices=jax.devices()[:1])


def _inputs(config: ConfigDict, workdir: Path | None = None) -> Input:
    """The preprocessing of a config, where the data set itself may not be here: then ImageNet's means."""
    if config.data.mean or config.data.mean_image:
        return parts.inputs(config, workdir=workdir)
    filled = ConfigDict(config.to_dict())
    filled.data.mean = datasets.facts("imagenet2012")["mean"]
    return parts.inputs(filled)


class Classifier:
    """A network with its classes and its preprocessing. `load` and `build` make one.

    Pictures are paths, PIL images or uint8 arrays [H, W, 3] or [B, H, W, 3] (RGB), one or a list of them. A picture of
    any size is brought to the network's: its short side to `resize_pixels`, the center square cropped; a camera's
    orientation mark is applied.

    It is longer than other classes because it is what a person sees of the package: one method per question.
    """

    def __init__(
        self,
        config: ConfigDict,
        class_names: tuple[str, ...],
        variables: dict[str, Any],
        *,
        inputs: Input,
        mesh: Mesh | None = None,
    ) -> None:
        self.config, self.class_names, self.inputs = config, class_names, inputs
        self.tower = parts.network(config, len(class_names))
        self.mesh = mesh or _one_device(config)
        towers.check_mesh(self.mesh, towers=self.tower.towers)
        self.variables = jax.device_put(variables, placement.shardings(self.tower, variables, self.mesh))
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        parameters = models.count_parameters(self.tower, self.variables["params"])
        return (
            f"<AlexNet: {self.tower.towers} tower(s), {parameters:,} parameters, {len(self.class_names):,} classes, "
            f"{self.image_pixels} x {self.image_pixels} pixels>"
        )

    # ------------------------------------------------------------ for a person with pictures

    def predict(self, images: Picture | Sequence[Picture], *, top: int = 5, views: str = "center") -> Any:
        """[(class name, probability), ...], the `top` most probable first; a list of these for several pictures.

        `views` is "center", or "all" for the average over the ten views of 2012. Raises AlexNetError.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise AlexNetError(f"top={top!r} must be a whole number of at least 1.")
        batch, several = pictures.squares(images, self.config.data.resize_pixels)
        probabilities = self._over(batch, "probabilities", self._views(views))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        rows = [
            [(self.class_names[k], float(row[k])) for k in order]
            for row, order in zip(probabilities, best, strict=True)
        ]
        return rows if several else rows[0]

    def probabilities(self, images: Picture | Sequence[Picture], *, views: str = "center") -> np.ndarray:
        """[K] float32 for one picture, [B, K] for several; classes in the order of `class_names`."""
        batch, several = pictures.squares(images, self.config.data.resize_pixels)
        found = self._over(batch, "probabilities", self._views(views))
        return found if several else found[0]

    def logits(self, images: Picture | Sequence[Picture]) -> np.ndarray:
        """[K] float32 for one picture, [B, K] for several, of the center crop."""
        batch, several = pictures.squares(images, self.config.data.resize_pixels)
        found = self._over(batch, "logits", self._views("center"))
        return found if several else found[0]

    def features(self, images: Picture | Sequence[Picture], layer: str) -> np.ndarray:
        """The activations of a layer for the center crop, all towers' channels side by side: [..., H, W, C] or [..., C].

        conv1 to fc8 are the layers' outputs, after ReLU where it follows at once (Caffe's in-place convention);
        pool1, norm1, relu1, ... are single operations, and conv1_out, ... what the weights alone give.
        `layers` lists them. Raises AlexNetError.
        """
        name = self._operation(layer)
        batch, several = pictures.squares(images, self.config.data.resize_pixels)
        found = self._over(batch, name, self._views("center"))
        return found if several else found[0]

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """{what `features` takes: the shape of its result for one picture}, in order."""
        shapes = placement.shapes(self.tower, self.image_pixels)
        found: dict[str, tuple[int, ...]] = {}
        for layer in self.tower.stack:
            words = [models.operation_name(word, layer.name) for word in layer.post_ops if word != "dropout"]
            for name in (layer.name, *words):
                shape = shapes[self._operation(name)]
                found[name] = (*shape[:-1], shape[-1] * self.tower.towers)
        last = self.tower.stack[-1].name
        return found | {last: (len(self.class_names),)}

    @property
    def image_pixels(self) -> int:
        """The side of the square that the network reads."""
        return int(self.config.data.crop_pixels)

    def save(self, path: str | Path) -> None:
        """Writes a .safetensors or .npz that `load` reads, with its recipe, classes and preprocessing.

        The weights are those of plain layers: the factor of the 2012 dropout is folded into the layer after it.
        Raises AlexNetError.
        """
        arrays = weights.to_arrays(self.tower, jax.device_get(self.variables))
        weights.write(Path(path), arrays, weights.about(self.config, self.class_names, self.inputs), self.tower)

    # ------------------------------------------------------------ for a Flax user

    @functools.cached_property
    def module(self) -> nn.Module:
        """The network as an ordinary Flax module of all towers: module.apply(net.variables, x) -> logits [B, K].

        Its x is float32 [B, crop, crop, 3] as `inputs` makes it: less the mean, over the std. It runs on one device.
        """
        return models.all_towers(self.tower)

    def apply(self, variables: Any, images: jax.Array) -> jax.Array:
        """Logits [B, K] of RGB images [B, crop, crop, 3] in 0..255, or [K] of one [crop, crop, 3].

        A plain function of its arguments: jit it, take gradients by variables or float images, vmap it. On one device.
        Raises AlexNetError for images of another shape.
        """
        shape, pixels = tuple(jnp.shape(images)), self.image_pixels
        if len(shape) not in (3, 4) or shape[-3:] != (pixels, pixels, 3):
            raise AlexNetError(
                f"images have the shape {shape}: apply takes [B, {pixels}, {pixels}, 3] or [{pixels}, {pixels}, 3], "
                "RGB in 0..255; net.logits takes pictures of any size."
            )
        one = len(shape) == 3
        x = self.inputs(jnp.asarray(images)[None] if one else jnp.asarray(images))
        logits_BK = towers.over_towers(models.tower_program(self.tower))(variables, x)
        return logits_BK[0] if one else logits_BK

    # ------------------------------------------------------------ inside

    def _operation(self, layer: str) -> str:
        """The name under which the network shows what `features` calls `layer`. Raises AlexNetError."""
        for one in self.tower.stack:
            if layer == one.name:
                first = one.post_ops[0] if one.post_ops else ""
                direct = first in ("relu", "tanh")
                return models.operation_name(first, layer) if direct else f"{layer}_out"
        if layer in placement.shapes(self.tower, self.image_pixels) and not layer.startswith("dropout"):
            return layer
        names = [one.name for one in self.tower.stack]
        raise AlexNetError(f"layer={layer!r} is not in this network: use {', '.join(names)}, or see net.layers.")

    def _views(self, views: str) -> Views:
        if views not in ("center", "all"):
            raise AlexNetError(f"views={views!r} must be 'center' or 'all'.")
        found = parts.views(self.config)
        return found if views == "all" else found[:1]

    def _over(self, batch: np.ndarray, what: str, views: Views) -> np.ndarray:
        """`what` (logits, probabilities or an operation) for uint8 squares [N, resize, resize, 3], mean over views."""
        size = _BATCH * self.mesh.shape[DATA]
        results = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            # One picture alone is a batch of the mesh's rows, so that it does not cost a whole batch.
            wanted = size if len(batch) > self.mesh.shape[DATA] else self.mesh.shape[DATA]
            padded = np.pad(part, ((0, wanted - len(part)), *((0, 0),) * 3))
            there = towers.to_devices({"image": padded}, self.mesh)["image"]
            results.append(np.asarray(self._step(what, views)(self.variables, there))[: len(part)])
        return np.concatenate(results)

    def _step(self, what: str, views: Views) -> Callable[..., Any]:
        if (what, views) not in self._compiled:
            self._compiled[what, views] = self._compile(what, views)
        return self._compiled[what, views]

    def _compile(self, what: str, views: Views) -> Callable[..., Any]:
        operation = "logits" if what == "probabilities" else what

        def tower_program(variables: Any, images: jax.Array) -> jax.Array:
            found = models.seeing_program(self.tower)(variables, images)[operation]
            return found if operation == "logits" else towers.gather_towers(found)

        run = towers.over_towers(tower_program, mesh=self.mesh)

        def step(variables: Any, images: jax.Array) -> jax.Array:
            def one(view: jax.Array) -> jax.Array:
                result = run(variables, self.inputs(crop_view(images, view, self.image_pixels)))
                return jax.nn.softmax(result) if what == "probabilities" else result

            return jax.lax.map(one, jnp.asarray(np.asarray(views, np.int32))).mean(axis=0)

        spec = placement.specs(self.tower, self.variables)
        return towers.sharded(step, mesh=self.mesh, in_specs=(spec, PER_EXAMPLE), out_specs=PER_EXAMPLE)
