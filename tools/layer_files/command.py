"""python -m tools.layer_files: cuda-convnet's layer files, and the recipe that they are."""

import shlex
import textwrap
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.cli import app
from alexnet_jax.errors import AlexNetError
from tools.layer_files import network as networks
from tools.layer_files.nearest import DATA, Difference, Nearest, Pair, nearest, recipe_text
from tools.layer_files.rates import Rates, read_rates
from tools.layer_files.reading import Missing, merged, read

_COLUMNS = 80


def main(argv: list[str]) -> None:
    """Prints the recipe of two layer files, and writes it with --output. Raises AlexNetError."""
    parser = app.Parser(
        prog="python -m tools.layer_files",
        description="Reads cuda-convnet's layer files and prints the recipe that they are: the nearest by name, and "
        "every field that differs, as a flag of `alexnet train`. Run it from the top of a checkout.",
        epilog="A file of parameters holds the rates as they were last set by hand: see docs/from-cfg.md.",
    )
    parser.add_argument("layers", type=Path, metavar="LAYERS.cfg", help="the layers, such as layers-145.cfg")
    parser.add_argument("params", type=Path, metavar="LAYER-PARAMS.cfg", help="their parameters: layer-params-145.cfg")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.py", help="a recipe file for alexnet train --config=FILE.py"
    )
    options = parser.parse_args(argv)
    if options.output and options.output.suffix != ".py":
        raise AlexNetError(f"output={options.output} must end in .py, as a recipe does.")
    layers, params = read(options.layers), read(options.params)
    network = networks.read_network(layers, params)
    rates = read_rates(network.layers, params, network.missing)
    missing, match = merged(network.missing), nearest(network, rates)
    if options.output and missing:
        raise AlexNetError(
            f"output={options.output} cannot be written, because a recipe cannot say {missing[0].word} "
            f"({missing[0].where}): {missing[0].what}"
            + (f"; and {len(missing) - 1} more: leave output= out to see them." if len(missing) > 1 else ".")
        )
    pair = f"{options.layers.name} and {options.params.name}"
    if options.output:
        about = f"What `python -m tools.layer_files` read in {pair}: {match.recipe}, and what differs from it."
        files.write_text(options.output, recipe_text(match, about))
    print("\n".join(_described(pair, network, rates, match, missing)))
    if options.output:
        print(f"\n{options.output}: train with alexnet train --config={options.output}:{DATA}")


def _described(pair: str, network: networks.Network, rates: Rates, match: Nearest, missing: list[Missing]) -> list[str]:
    towers = "1 tower" if network.towers == 1 else f"{network.towers} towers"
    head = f"{pair}: {len(network.layers)} layers with weights, {towers}, {network.classes:,} classes"
    lines = [_wrapped(head, 2)]
    if missing:
        lines += ["", "What a recipe cannot say, and what is left out below:"]
        lines += [_wrapped(f"  {m.where}  {m.word}: {m.what}.", 4) for m in missing]
    lines += ["", f"The nearest recipe is {match.recipe}. How the network differs from it:"]
    if match.model:
        lines += [_flag(d, match.recipe) for d in match.model]
    elif missing:
        lines.append("  in nothing that a recipe can say")
    else:
        lines.append(f"  nothing: it is {match.recipe}, to the number")
    lines += ["", "How the training differs, as far as the file says it:"]
    lines += [_flag(d, match.recipe) for d in match.train] or [f"  nothing: {', '.join(_stated(rates))}"]
    lines += ["", *_rates(network, rates, match)]
    text = (
        "Neither file has the batch, the epochs, the color noise or the size of the images: those of the recipe stay. "
        f"Padding is what {networks.IMAGE_PIXELS} pixels need."
    )
    lines.append(_wrapped(text, 0))
    return lines


def _stated(rates: Rates) -> list[str]:
    words = {"train.momentum": "momentum", "train.weight_decay": "weight decay", "train.learning_rate": "learning rate"}
    stated = [f"{word} {rates.stated[field]:g}" for field, word in words.items() if field in rates.stated]
    return [*stated, "schedule dexp"] if "train.schedule" in rates.stated else stated


def _rates(network: networks.Network, rates: Rates, match: Nearest) -> list[str]:
    """What the learning rates of the file are, in words."""
    if not rates.last:
        frozen = ", ".join(rates.frozen)
        text = f"{frozen} has rate 0, which was set by hand at some time: the recipe decides when a layer is frozen."
        return [_wrapped(text, 0)] if frozen else []
    text = (
        "The file has no schedule, only the rates that were set last; it does not say with which the run began and "
        f"when they were changed. The schedule of {match.recipe} stays. It ends"
    )
    if not match.ends:
        return [_wrapped(text + " with the very rates of the file.", 0)]
    lines = [_wrapped(text + " with others:", 0)]
    for ours, theirs in dict.fromkeys((ours, theirs) for _, ours, theirs in match.ends):
        layers = [layer for layer, *pairs in match.ends if pairs == [ours, theirs]]
        its = f"{_pair(theirs)} at the end of {match.recipe}" if theirs else f"{match.recipe} has no such end"
        lines.append(_wrapped(f"  {', '.join(layers)}: {_pair(ours)}   ({its})", 4))
    return lines


def _pair(rates: Pair) -> str:
    return f"weights {rates[0]:g}, biases {rates[1]:g}"


def _flag(difference: Difference, recipe: str) -> str:
    """A field as a flag of `alexnet train`, where a flag can set it, and what the recipe has."""
    theirs = "not" if difference.theirs is None else _shown(difference.theirs)
    flag = f"--config.{difference.field}={shlex.quote(_shown(difference.ours))}"
    line = f"  {flag}   ({theirs} in {recipe})"
    return line if len(line) <= _COLUMNS else f"  {flag}\n      ({theirs} in {recipe})"


def _shown(value: object) -> str:
    """A value in the grammar of flags."""
    if isinstance(value, tuple):
        inner = ",".join(f'"{part}"' if isinstance(part, str) else str(part) for part in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, _COLUMNS, subsequent_indent=" " * indent)
