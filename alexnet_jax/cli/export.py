"""alexnet export: a network as ONNX, StableHLO, .npz, .safetensors, or a folder for the Hugging Face Hub."""

import argparse
from pathlib import Path
from typing import Any

from alexnet_jax import extras, files
from alexnet_jax.cli import app, networks
from alexnet_jax.errors import AlexNetError
from alexnet_jax.export import hub_folder, onnx_graph, stablehlo
from alexnet_jax.progress import wrap

_GRAPHS: dict[str, Any] = {"onnx": onnx_graph, "stablehlo": stablehlo}
_PACKAGES = {"onnx": "onnx", "stablehlo": "flatbuffers"}  # that they need; JAX serializes with flatbuffers
_FORMATS = (*_GRAPHS, "npz", "safetensors", "hf")


def main(argv: list[str]) -> None:
    """Writes one file or folder. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    _check(options)
    net = networks.open_network(options)
    if options.format in _GRAPHS:
        pixels = "uint8" if options.pixels == "uint8" else "float32"
        said = _GRAPHS[options.format].write(net, options.output, pixels=pixels)
    elif options.format == "hf":
        run = {"workdir": options.workdir, "checkpoint": options.checkpoint}
        said = hub_folder.write(net, options.output, license=options.license or "apache-2.0", **run)
    else:
        net.save(options.output)
        said = f"{options.output}: {net!r}"
    print(wrap(said))


def _check(options: argparse.Namespace) -> None:
    """Raises AlexNetError for what can be told before the network is loaded."""
    if options.pixels and options.format not in _GRAPHS:
        raise AlexNetError(f"--pixels is an option of onnx and stablehlo, not of --format={options.format}.")
    if options.license and options.format != "hf":
        raise AlexNetError(f"--license is an option of hf, not of --format={options.format}.")
    if options.format == "hf":
        hub_folder.check_license(options.license or "apache-2.0")
        files.check_free(options.output, "output")
        return
    if options.output.suffix != f".{options.format}":
        raise AlexNetError(f"output={options.output} must end in .{options.format}.")
    if options.output.is_dir():
        raise AlexNetError(f"output={options.output} is a folder: name a file.")
    if options.format in _GRAPHS:
        extras.module(_PACKAGES[options.format], extra="export", what=f"alexnet export --format={options.format}")


def _parser() -> argparse.ArgumentParser:
    parser = app.parser_of(__doc__)
    parser.add_argument("--format", choices=_FORMATS, required=True)
    networks.add_options(parser, file_flag="--input")
    parser.add_argument("--output", type=Path, required=True, help="NAME.FORMAT; for hf, a new folder")
    parser.add_argument("--pixels", choices=["float", "uint8"], help="what onnx and stablehlo take (float)")
    parser.add_argument("--license", help="of the weights, in the model card of hf (apache-2.0)")
    return parser
