"""alexnet weights: weights in and out of files, and which AlexNet a file holds."""

import argparse
from pathlib import Path

from alexnet_jax.classifier import load_run
from alexnet_jax.cli import app, devices, networks
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.model.plain import factors
from alexnet_jax.progress import wrap
from alexnet_jax.weights import checkpoint
from alexnet_jax.weights.identify import identify
from alexnet_jax.weights.load import open_file


def export_weights(workdir: Path, which: str, output: Path) -> str:
    """Writes the weights of a checkpoint; says what was written. Raises AlexNetError."""
    net = load_run(workdir, which)
    net.save(output)
    by_layer = [f"{by:g} in {name}" for name, by in factors(net.tower).items()]
    folded = f"; the factor of the dropout is folded into the weights ({', '.join(by_layer)})" if by_layer else ""
    return f"{output}: step {net.step} of {workdir}, {net!r}{folded}"


def main(argv: list[str]) -> None:
    """Runs one command. Raises AlexNetError."""
    is_import = argv[:1] == ["import"]
    _, config, argv = take_recipe(argv, default=None) if is_import else ("", None, argv)
    options = _parser().parse_args(argv)
    if options.command == "export":
        devices.settle()
        print(wrap(export_weights(options.workdir, options.checkpoint, options.output)))
    elif config:
        devices.settle()
        said = checkpoint.to_run(
            options.input, config, options.workdir, classes=options.classes, channels=options.channels
        )
        print(wrap(said))
    else:
        print(identify(open_file(options.input)))


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a checkpoint's weights as .npz or .safetensors")
    out.add_argument("--workdir", type=Path, required=True)
    out.add_argument("--checkpoint", default="latest", help="latest, best or a step (%(default)s)")
    out.add_argument("--output", type=Path, required=True)
    into = commands.add_parser("import", help="a file's weights as a checkpoint", epilog=HELP)
    into.add_argument("--input", type=Path, required=True)
    into.add_argument("--workdir", type=Path, required=True)
    networks.add_file_options(into)
    which = commands.add_parser("identify", help="which AlexNet a file holds")
    which.add_argument("--input", type=Path, required=True)
    return parser
