"""alexnet weights: weights in and out, and which AlexNet a file holds."""

import argparse
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from alexnet_jax import config as configs, parts, weights
from alexnet_jax.errors import AlexNetError
from alexnet_jax.network import towers
from alexnet_jax.training.checkpoint import Checkpoints, restore_network
from alexnet_jax.training.plan import build_optimizer
from alexnet_jax.training.step import make_state
from alexnet_jax.weights import Arrays


def export_weights(workdir: Path, which: str, output: Path) -> str:
    """Writes the weights of a checkpoint; what was written, in words. Raises AlexNetError."""
    mesh = towers.make_mesh(towers=1, tower=1, devices=jax.devices()[:1])
    net = restore_network(workdir, which, mesh=mesh)
    config, pixels, step = net.config, net.config.data.crop_pixels, net.step
    arrays = weights.to_arrays(net.model, jax.device_get(net.variables))
    about = {
        "model": config.model.to_dict(),
        "channels": "BGR" if config.data.bgr else "RGB",
        "mean": config.data.mean,
        "std": config.data.std,
        "crop_pixels": pixels,
        "classes": net.class_names,
        "step": step,
    }
    weights.write(output, arrays, about)
    return f"{output}: step {step} of {workdir}, {sum(a.size for a in arrays.values()):,} numbers, {about['channels']}"


# ---------------------------------------------------------------- in


def import_weights(
    path: Path, config: ConfigDict, workdir: Path, *, classes: Path | None = None, channels: str = ""
) -> str:
    """Makes `workdir` a run of `config` whose checkpoint of step 0 has the file's weights; says what was done.

    `channels` and `classes` say the order of colours and of classes in the file where it does not.
    Raises AlexNetError.
    """
    if (workdir / "checkpoints").exists():
        raise AlexNetError(f"{workdir} holds a run already: name another --workdir.")
    arrays, about, kind = weights.read(path)
    names = _file_classes(arrays, about, classes, config.model.layers[-1])
    order = _order_of_classes(config, names)
    model, pixels = parts.network(config, len(names)), config.data.crop_pixels
    first, last = (model.stack[i].name for i in (0, -1))
    for name in list(arrays):
        if name.startswith(last + "_"):
            arrays[name] = arrays[name][[names.index(one) for one in order]]
    theirs = channels.upper() or about.get("channels") or ("BGR" if kind == "caffe" else "RGB")
    ours = "BGR" if config.data.bgr else "RGB"
    if theirs != ours and f"{first}_w" in arrays:
        arrays[f"{first}_w"] = arrays[f"{first}_w"][:, ::-1]
    variables = weights.from_arrays(model, arrays, pixels)
    optimizer, _ = build_optimizer(config, images=1, steps=1)
    state = jax.jit(lambda: make_state(model, optimizer, seed=config.train.seed, image_pixels=pixels))()
    state = state.replace(params=variables["params"], statistics=variables.get("batch_stats", {}))
    workdir.mkdir(parents=True, exist_ok=True)
    configs.save(config, order, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, jax.device_put(state))
    checkpoints.close()
    turned = f"{theirs} turned into {ours}" if theirs != ours else ours
    sorted_anew = "in the data set's order" if order != names else "in the file's order"
    return f"{workdir}: step 0 from {path}, {turned}, {len(names):,} classes {sorted_anew}{_not_as(about, config)}"


def _not_as(about: dict[str, Any], config: ConfigDict) -> str:
    """Where the config is of another network than the one that the file says it was trained as."""
    theirs = ConfigDict(configs.tuples(about.get("model", config.model.to_dict())))
    fields = [field for field, *_ in configs.differences(config.model, theirs)]
    if not fields:
        return ""
    return f"\nwarning: these weights were trained with other values of config.model.{', config.model.'.join(fields)}"


def _file_classes(arrays: Arrays, about: dict[str, Any], path: Path | None, last: str) -> tuple[str, ...]:
    """The classes in the order of the file's outputs."""
    if f"{last}_b" not in arrays:
        raise AlexNetError(
            f"The file has no {last}_b, the last layer of this config: it holds {', '.join(sorted(arrays))}."
        )
    count = len(arrays[f"{last}_b"])
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        names = tuple(line.split()[0] for line in lines if line.strip())
    elif "classes" in about:
        names = tuple(about["classes"])
    elif count == 1000:
        names = _sorted_wnids()
    else:
        raise AlexNetError(
            f"Which {count} classes the file has is not in it: name them, a line each, in --classes=FILE."
        )
    if len(names) != count or len(set(names)) != count:
        raise AlexNetError(f"{path or 'The file'} names {len(set(names))} classes, but the weights have {count}.")
    return names


def _sorted_wnids() -> tuple[str, ...]:
    """ImageNet's 1000 classes in the order of their WordNet ids, which Caffe, PyTorch and TFDS share.

    The 2012 source has that of the devkit, ILSVRC2012_ID (make-data.py): `--classes=map_clsloc.txt`.
    """
    import tensorflow_datasets as tfds

    return tuple(tfds.builder("imagenet2012").info.features["label"].names)


def _order_of_classes(config: ConfigDict, names: tuple[str, ...]) -> tuple[str, ...]:
    """The data set's order where it has these classes, and the file's otherwise."""
    try:
        theirs = parts.open_split(config, config.data.eval_split).class_names
    except AlexNetError:
        return names  # it is not prepared here
    return theirs if set(theirs) == set(names) else names


def main(argv: list[str]) -> None:
    """Runs one command. Raises AlexNetError."""
    parser = argparse.ArgumentParser(prog="alexnet weights", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a checkpoint's weights as .npz or .safetensors")
    out.add_argument("--workdir", type=Path, required=True)
    out.add_argument("--checkpoint", default="latest", help="latest, best or a step (%(default)s)")
    out.add_argument("--output", type=Path, required=True)
    into = commands.add_parser("import", help="a file's weights as a checkpoint; --config.section.field=value too")
    into.add_argument("--input", type=Path, required=True)
    into.add_argument("--config", required=True, metavar="FILE[:DATA]", help="the recipe that the weights are of")
    into.add_argument("--workdir", type=Path, required=True)
    into.add_argument("--classes", type=Path, help="the classes, a line each, in the order of the file's outputs")
    into.add_argument("--channels", choices=["rgb", "bgr"], default="", help="the order of colours in the file")
    which = commands.add_parser("identify", help="which AlexNet a file holds")
    which.add_argument("--input", type=Path, required=True)
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "import":
        raise AlexNetError(f"{rest[0]} is no option of {options.command}: see --help.")
    if options.command == "export":
        print(export_weights(options.workdir, options.checkpoint, options.output))
    elif options.command == "import":
        config = configs.load_recipe(options.config, [f.removeprefix("--config.") for f in rest])
        print(
            import_weights(options.input, config, options.workdir, classes=options.classes, channels=options.channels)
        )
    else:
        print(weights.identify(options.input))
