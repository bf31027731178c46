"""A network one can use: from a run, a weight file or a recipe; on pictures, on arrays, or inside jit and grad.

net = load("runs/first")
net.predict("cat.jpg", top=5)
net.features(images, "fc7")
"""

import functools
import itertools
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, evaluate as evaluation, progress, weight_file
from alexnet_jax.data import datasets, feed, pictures, sources
from alexnet_jax.data.feed import Split
from alexnet_jax.data.pictures import Picture
from alexnet_jax.data.preprocess import Input, Views, crop_view
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.model.all_towers import AllTowers
from alexnet_jax.model.towers import BATCH_SHARDED, DATA, REPLICATED

_BATCH = 32  # the most pictures at a time on each row of the mesh; a power of two


def load_run(workdir: Path, checkpoint: str | int = "latest", *, mesh: Mesh | None = None) -> "Classifier":
    """The network of a run: of its `checkpoint` latest, best or a step. `alexnet_jax.load` also takes weight files.

    It runs on one device, or on `mesh`. Raises AlexNetError.
    """
    from alexnet_jax.train.checkpoint import restore_network

    run = restore_network(workdir, str(checkpoint), mesh=mesh or _one_device())
    inputs = inputs_of(run.config, workdir=workdir)
    return Classifier(run.config, run.class_names, run.variables, inputs=inputs, mesh=mesh, step=run.step)


def build(recipe: str, *, classes: int | Iterable[str] = 1000, seed: int = 0, mesh: Mesh | None = None) -> "Classifier":
    """A recipe's network with fresh weights: build("alexnet"), build("half:my_pictures", classes=("cat", "dog")).

    Without a data set in `recipe` the input is preprocessed with ImageNet's means. `classes` is their number or their
    names. The weights are those of a training run with this `seed`. Raises AlexNetError.
    """
    config = configs.load_recipe(recipe if ":" in str(recipe) else f"{recipe}:imagenet2012")
    names = _class_names(classes)
    model, pixels = builder.model(config, len(names)), config.data.crop_pixels
    seed_on_device = jax.device_put(np.int32(_whole("seed", seed, 0, 2**31 - 1)))

    def init(seed: jax.Array) -> Any:
        key, _ = jax.random.split(jax.random.key(seed))  # as training does
        return models.init_variables(model, key, pixels)

    variables = jax.jit(init)(seed_on_device)
    return Classifier(config, names, variables, inputs=inputs_of(config), mesh=mesh)


def _class_names(classes: int | Iterable[str]) -> tuple[str, ...]:
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        return tuple(f"class {i}" for i in range(_whole("classes", classes, 1, 1_000_000)))
    names = tuple(map(str, classes))
    if not names or len(set(names)) != len(names):
        raise AlexNetError("classes must be a number, or at least one name and each once.")
    return names


def _whole(name: str, value: Any, least: int, most: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise AlexNetError(f"{name}={value!r} must be a whole number from {least} to {most:,}.")
    return number


def _one_device() -> Mesh:
    return towers.make_mesh(towers=1, tower=1, devices=jax.devices()[:1])


def inputs_of(config: ConfigDict, workdir: Path | None = None) -> Input:
    """The preprocessing of a config, where the data set itself may not be here: then ImageNet's means."""
    if config.data.mean or config.data.mean_image:
        return builder.inputs(config, workdir=workdir)
    filled = ConfigDict(config.to_dict())
    filled.data.mean = datasets.facts("imagenet2012")["mean"]
    return builder.inputs(filled)


class Classifier:
    """A network with its classes and its preprocessing. `load` and `build` make one.

    Pictures are paths, PIL images or uint8 arrays [H, W, 3] (RGB), one or several: a list, a generator, an array
    [B, H, W, 3]. Of any size, their short side is brought to `resize_pixels` and the center square cropped; a camera's
    orientation mark is applied. Several are read and computed batch after batch. What is not a picture raises
    AlexNetError.
    """

    def __init__(
        self, config: ConfigDict, class_names: tuple[str, ...], variables: dict[str, Any], *, inputs: Input,
        mesh: Mesh | None = None, step: int | None = None, precision: str = "float32", engine: "Engine | None" = None,
    ) -> None:  # fmt: skip
        if precision not in ("float32", "bfloat16"):
            raise AlexNetError(f"precision={precision!r} must be 'float32' or 'bfloat16'.")
        self.config, self.class_names, self.inputs, self.step = config, class_names, inputs, step
        self._options: dict[str, Any] = {"inputs": inputs, "step": step, "precision": precision, "engine": engine}
        self.how = {"precision": precision, "engine": engine.__name__ if engine else "jax"}  # as `using` has it
        # Whatever it was trained in and on, its numbers are float32, and each operation is whole on every device.
        own = {"compute_dtype": precision, "exchange_dtype": config.mesh.exchange_dtype, "hybrid": False}
        self.tower = builder.model(config, len(class_names)).clone(**own)
        self._operations = _operations(self.tower, self.image_pixels)
        self.mesh = mesh or _one_device()
        towers.check_mesh(self.mesh, towers=self.tower.towers)
        self.variables = jax.device_put(variables, placement.shardings(self.tower, variables, self.mesh))
        self._process, self._compiled = os.getpid(), dict[Any, Step]()
        self._parts: Any = None  # see `_apart`

    def __reduce__(self) -> Any:
        """Pickled with its weights as NumPy's; unpickled it is on the first device of the process that does it."""
        weights = jax.device_get(self.variables)
        return functools.partial(type(self), **self._options), (self.config, self.class_names, weights)

    def using(self, **options: Any) -> "Classifier":
        """The same network and weights with another `precision`, "float32" or "bfloat16", or another `engine`.

        In bfloat16 its products are less exact, and faster on a CPU with units for them; logits are float32 either way
        (docs/speed.md). An `engine` computes instead of JAX, such as `alexnet_jax.onnxruntime`. Raises AlexNetError.
        """
        return type(self)(self.config, self.class_names, self.variables, mesh=self.mesh, **self._options | options)

    def __repr__(self) -> str:
        count, pixels = self.tower.towers, self.image_pixels
        return (
            f"<AlexNet: {count} tower{'s' if count > 1 else ''}, "
            f"{models.count_parameters(self.tower, self.variables['params']):,} parameters, "
            f"{len(self.class_names):,} classes, {pixels} x {pixels} pixels>"
        )

    def predict(self, images: Picture | Iterable[Picture], *, top: int = 5, views: str = "center") -> Any:
        """[(class name, probability), ...], the `top` most probable first; a list of these for several pictures.

        `views` is "center", or "all" for the average over the ten views of 2012. Raises AlexNetError.
        """
        top = _whole("top", top, 1, 1_000_000)
        probabilities = self.probabilities(images, views=views)
        best = np.argsort(-probabilities, axis=-1, kind="stable")[..., :top]
        found = [
            [(self.class_names[k], float(row[k])) for k in order]
            for row, order in zip(np.atleast_2d(probabilities), np.atleast_2d(best), strict=True)
        ]
        return found if probabilities.ndim == 2 else found[0]

    def probabilities(self, images: Picture | Iterable[Picture], *, views: str = "center") -> np.ndarray:
        """[K] float32 for one picture, [B, K] for several, in the order of `class_names`; `views` as in `predict`."""
        return _compute(self, images, "probabilities", views)

    def logits(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """[K] float32 for one picture, [B, K] for several, of the center crop."""
        return _compute(self, images, "logits")

    def features(self, images: Picture | Iterable[Picture], layer: str) -> np.ndarray:
        """The activations of a layer for the center crop: float32 [H, W, C] or [C], for several pictures [B, ...].

        conv1 to fc8 are the layers' outputs, after the ReLU (or tanh, or batch norm) that follows at once, as Caffe
        computes in place. conv1_out is what the weights give, relu1, norm1, pool1, ... what each operation gives;
        `layers` lists them. C are the channels of all towers, tower 0 first. Raises AlexNetError for another layer.
        """
        if not isinstance(layer, str) or layer not in self._operations:
            names = ", ".join(one.name for one in self.tower.stack)
            raise AlexNetError(f"layer={layer!r} is not in this network: use {names}, or see net.layers.")
        return _compute(self, images, layer)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """{what `features` takes: the shape of its result for one picture}, in the order of the network."""
        return {name: shape for name, (_, shape) in self._operations.items()}

    @property
    def image_pixels(self) -> int:
        """The side of the square that the network reads."""
        return int(self.config.data.crop_pixels)

    def evaluate(
        self, data: str, *, split: str = "", data_dir: str | Path = "", views: str = "center"
    ) -> dict[str, Any]:
        """{eval_top1, eval_top5 (percent), eval_loss (nats), eval_images, eval_classes} over a prepared data set.

        `data` is its name, `split` "" is its validation or test split, and `data_dir` "" is where the run had it, or
        ~/tensorflow_datasets. With views="all" also eval_views_top1, ... Raises AlexNetError, also where its classes
        are not the network's.
        """
        return self.answers(data, split=split, data_dir=data_dir, views=views).evaluation

    def answers(
        self, data: str, *, split: str = "", data_dir: str | Path = "", views: str = "center"
    ) -> evaluation.Predictions:
        """What the network says of each image, and `evaluate`'s result of it as `.evaluation`; arguments as there."""
        return _answers(self, data, _split_of(self, data, split, data_dir), _views(self.config, views))

    def save(self, path: str | Path) -> None:
        """Writes a .safetensors or .npz that `load` reads, with its recipe, classes and preprocessing.

        The weights are those of plain layers: the factor of the 2012 dropout is folded into the layer after it.
        Raises AlexNetError.
        """
        weight_file.save(
            Path(path), self.tower, jax.device_get(self.variables), config=self.config, class_names=self.class_names,
            inputs=self.inputs, step=self.step,
        )  # fmt: skip

    @functools.cached_property
    def module(self) -> AllTowers:
        """The network as an ordinary Flax module: module.apply(net.variables, net.inputs(images)) -> logits [B, K].

        It reads float32 [B, crop, crop, 3] less the mean, as `inputs` makes it of RGB in 0..255. A third argument, one
        key per image, means training: dropout, and batch norms that use the batch (mutable=["batch_stats"]).
        """
        return AllTowers.of(self.tower)

    def apply(self, variables: Any, images: jax.Array) -> jax.Array:
        """Logits [B, K] of RGB images [B, crop, crop, 3] in 0..255, or [K] of one [crop, crop, 3].

        A plain function of its arguments, uint8 or float: jit it, vmap it, take gradients by variables or float images.
        Raises AlexNetError for arguments of another form.
        """
        _check_arguments(variables, np.shape(images), self.image_pixels)
        one = len(np.shape(images)) == 3
        x = self.inputs(jnp.asarray(images)[None] if one else jnp.asarray(images))
        logits_BK = towers.over_towers(models.logits_fn(self.tower))(variables, x)
        return logits_BK[0] if one else logits_BK


def _check_arguments(variables: Any, shape: tuple[int, ...], pixels: int) -> None:
    if len(shape) not in (3, 4) or shape[-3:] != (pixels, pixels, 3):
        raise AlexNetError(
            f"images have the shape {shape}: apply takes [B, {pixels}, {pixels}, 3] or [{pixels}, {pixels}, 3], "
            "RGB in 0..255; net.logits takes pictures of any size."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise AlexNetError("variables must be such as net.variables: {'params': ...}, and 'batch_stats' if any.")


def _compute(net: Classifier, images: Picture | Iterable[Picture], what: str, views: str = "center") -> np.ndarray:
    """Logits, probabilities or an operation, the mean over the views: [...] of one picture, [B, ...] of several."""
    if net._process != os.getpid():
        raise AlexNetError(
            "This process was forked from the one that made the network, and JAX's threads were not: start processes "
            "by multiprocessing.get_context('spawn') and pass them the network, or make it after the fork."
        )
    taken, size = _views(net.config, views), _BATCH * net.mesh.shape[DATA]
    if (what, taken) not in net._compiled:
        net._compiled[what, taken] = (net._options["engine"] or _jax_step)(net, what, taken)
    step = net._compiled[what, taken]
    batches, several = pictures.batches(images, net.config.data.resize_pixels, size)
    results: list[np.ndarray] = []
    for batch in batches:
        results.append(step(batch, size if results else 0))
    if not results:
        raise AlexNetError("images is empty: give at least one picture.")
    found = np.concatenate(results)
    return found if several else found[0]


def _views(config: ConfigDict, views: str) -> Views:
    if views not in ("center", "all"):
        raise AlexNetError(f"views={views!r} must be 'center' or 'all'.")
    every = builder.views(config)
    return every if views == "all" else every[:1]


# step(uint8 squares [B, resize, resize, 3], how many rows a compiled one has) -> [B, ...] float32
Step = Callable[[np.ndarray, int], np.ndarray]
Engine = Callable[[Classifier, str, Views], Step]  # makes the step for logits, probabilities or an operation


def _jax_step(net: Classifier, what: str, views: Views) -> Step:
    """The jitted network: `what`, the mean over the views."""
    operation, shape = net._operations.get(what, ("logits", (len(net.class_names),)))

    def one_tower(variables: Any, images: jax.Array) -> jax.Array:
        result = models.apply_with_intermediates(net.tower)(variables, images)[operation]
        return result if operation == "logits" else towers.gather_towers(result, operation)[..., : shape[-1]]

    run = towers.over_towers(one_tower, mesh=net.mesh)

    def of_views(variables: Any, images: jax.Array) -> jax.Array:
        variables = _in_one(variables)

        def one_view(view: jax.Array) -> jax.Array:
            result = run(variables, net.inputs(crop_view(images, view, net.image_pixels)))
            return jax.nn.softmax(result) if what == "probabilities" else result

        return jax.lax.map(one_view, jnp.asarray(np.asarray(views, np.int32))).mean(axis=0)

    own = placement.specs(net.tower, net.variables, net.mesh) if net.mesh.size > 1 else REPLICATED
    run_on_mesh = towers.sharded(of_views, mesh=net.mesh, in_specs=(own, BATCH_SHARDED), out_specs=BATCH_SHARDED)
    rows = net.mesh.shape[DATA]

    def step(batch: np.ndarray, compiled: int) -> np.ndarray:
        # A few pictures are padded to a power of two: neither a whole batch nor a compilation for every number. In
        # bfloat16 to two: a CPU has no fast product of one row.
        least = max(len(batch), 2 if net.tower.compute_dtype == "bfloat16" else 1)
        wanted = compiled or rows << (-(-least // rows) - 1).bit_length()
        padded = np.pad(batch, ((0, wanted - len(batch)), *((0, 0),) * 3))
        on_device = towers.to_devices({"image": padded}, net.mesh)["image"]
        return np.asarray(jax.device_get(run_on_mesh(_apart(net), on_device))[: len(batch)])

    return step


def _apart(net: Classifier) -> Any:
    """The variables; on one device (a tuple of the towers' own) for each leaf, kernels in the type of the products.

    XLA:CPU copies a part of an array before it multiplies by it, which for a picture takes longer than all the rest.
    """
    leaves, tree = jax.tree.flatten(net.variables)
    if net.mesh.size > 1 or (net.tower.towers == 1 and net.tower.compute_dtype == "float32"):
        return net.variables
    if not net._parts or any(new is not old for new, old in zip(leaves, net._parts[0], strict=True)):
        exact = any(layer.weight_norm for layer in net.tower.stack)  # whose lengths are those of the float32 weights
        typed = [leaf if leaf.ndim < 3 or exact else leaf.astype(net.tower.compute_dtype) for leaf in leaves]
        net._parts = leaves, jax.tree.unflatten(tree, [tuple(jnp.split(leaf, len(leaf))) for leaf in typed])
    return net._parts[1]


def _in_one(parts: Any) -> Any:
    """The inverse of `_apart`, inside jit, where XLA sees that nothing need be put together."""
    if isinstance(parts, dict):
        return {name: _in_one(part) for name, part in parts.items()}
    return jnp.concatenate([part.astype(jnp.float32) for part in parts]) if isinstance(parts, tuple) else parts


def _answers(net: Classifier, data: str, split: Split, views: Views) -> evaluation.Predictions:
    c = net.config.data
    # Threads alone: worker processes would start a script again that has no main guard.
    threads, warn = feed.parallelism(c.threads, 0)[0], functools.partial(warnings.warn, stacklevel=2)
    setup = builder.Evaluation(
        net.tower, net.mesh, split, net.inputs, views, batch_size=_BATCH * net.mesh.shape[DATA],
        side_pixels=c.resize_pixels, data_name=data,
        feed=feed.Feed(threads, 0, c.prefetch_batches, c.max_bad_records, warn),
    )  # fmt: skip
    per_image: list[evaluation.PerImage] = []
    run = evaluation.evaluator(setup, progress.bar, warn)
    return evaluation.Predictions.of(split, run(net.variables, {}, last=True, each=per_image.append), per_image)


def _split_of(net: Classifier, data: str, split: str, data_dir: str | Path) -> Split:
    """A split of a data set whose classes are the network's. Raises AlexNetError."""
    c = net.config.data
    opened = sources.open_split(data, split, str(data_dir or (c.data_dir if data == c.name else "")))
    for label, (theirs, ours) in enumerate(itertools.zip_longest(opened.class_names, net.class_names)):
        if theirs != ours:
            raise AlexNetError(
                f"Label {label} is {theirs!r} in {data} and {ours!r} in the network: evaluate it on the classes "
                "that it was trained on."
            )
    return opened


def _operations(tower: models.AlexNet, image_pixels: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{what `features` takes: (the network's own name of it, the shape for one picture)}."""
    shapes, found = placement.shapes(tower, image_pixels), dict[str, Any]()
    for layer in tower.stack:
        own = (f"{layer.name}_out", *(models.operation_name(word, layer.name) for word in layer.post_ops))
        in_place = itertools.takewhile(lambda word: word in models.BY_UNIT and word != "dropout", layer.post_ops)
        for name, operation in ((layer.name, own[len(list(in_place))]), *zip(own, own, strict=True)):
            *space, channels = shapes[operation]
            # The last layer is rounded up to equal shares of the classes.
            channels = tower.classes if layer is tower.stack[-1] else channels * tower.towers
            found[name] = operation, (*space, channels)
    return found
