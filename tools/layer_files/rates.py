"""From the file of parameters to the fields of a config's train section, as far as there are any.

The file was edited by hand while a net trained, and holds what was set last. So momentum, weight decay and, where it
names a schedule, the schedule are facts of the whole run; a rate that is a mere number is the rate at the end. It can
be held to the end of a recipe's schedule (`end_of`), but not made one: the rate at which the run began, when it was
lowered and since when a layer is frozen stand in comments, if anywhere. Batch, epochs and color noise are options of
the command line.

Source: layer.py, WeightLayerParser, of the 2012 source and of cuda-convnet2; lr.cu:94-113 there for dexp.
"""

import collections
import dataclasses
import re
from typing import Any

from ml_collections import ConfigDict

from tools.layer_files.graph import Sections, Weighted
from tools.layer_files.network import of, one
from tools.layer_files.reading import Missing, Section, number_of

# What neither release has: no file can ask for it, so it is 0.
_NOT_THERE = ("train.lars", "train.label_smoothing", "train.ema_decay", "train.warmup_epochs")


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a file of parameters says: fields of the config, or the rates that it was left with."""

    stated: dict[str, Any]  # {"train.momentum": 0.9, ...}
    last: dict[str, tuple[float, float]]  # by layer: rates of weights and biases as set last; {} with a schedule
    frozen: list[str]  # the layers whose weights have 0


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """A learning rate: the number, or dexp from it to `factor` times less in equal pieces."""

    base: float
    factor: float = 1.0
    pieces: int = 0  # 0: constant


def read_rates(layers: list[Weighted], params: Sections, missing: list[Missing]) -> Rates:
    """The rates of the network's layers; adds to `missing` what no field can say. Raises AlexNetError."""
    stated: dict[str, Any] = dict.fromkeys(_NOT_THERE, 0.0)
    weights, biases = dict[str, _Schedule](), dict[str, _Schedule]()
    momenta, decays = list[tuple[float, Section, str]](), dict[str, float]()
    for layer in layers:
        section = of(params, layer.row[0])
        weights[layer.name] = _schedule(section, "epsw", "schedw", layer, missing)
        biases[layer.name] = _schedule(section, "epsb", "schedb", layer, missing)
        momenta.append((one(section, "momw", layer, missing), section, "momw"))
        momenta.append((section.number("momb"), section, "momb"))
        decays[layer.name] = one(section, "wc", layer, missing, "0")
    stated["train.momentum"] = momenta[0][0]
    for value, section, key in momenta:
        if value != momenta[0][0]:
            what = "another momentum than that of the other layers; here there is one for all"
            missing.append(Missing(section.where(key), section.word(key), what))
    usual = stated["train.weight_decay"] = collections.Counter(decays.values()).most_common(1)[0][0]
    stated |= {f"train.decays.{name}": decay for name, decay in decays.items() if decay != usual}
    frozen = [name for name, schedule in weights.items() if not schedule.base]
    shapes = {(s.factor, s.pieces) for s in weights.values()}, {(s.factor, s.pieces) for s in biases.values()}
    if any(pieces for shape in shapes for _, pieces in shape):
        if len(shapes[0]) == len(shapes[1]) == 1:
            return Rates(stated | _dexp(layers, params, weights, biases, missing), {}, frozen)
        section = of(params, layers[0].row[0])
        missing.append(Missing(section.where("epsw"), "epsw", "schedules of several kinds; here there is one for all"))
    return Rates(stated, {name: (weights[name].base, biases[name].base) for name in weights}, frozen)


def _schedule(section: Section, key: str, separate: str, layer: Weighted, missing: list[Missing]) -> _Schedule:
    """A learning rate with its schedule.

    The 2012 source has the rate in epsW and the schedule in schedW: dexp[1000,4], dexp[250,0,4] with the noise between,
    or with names. cuda-convnet2 has both in epsW: dexp[base=0.01;tgtFactor=250;numSteps=4].
    """
    base, text, at = 0.0, section.text(key), key
    if number_of(section.texts(key)[0]) is not None:
        base = one(section, key, layer, missing) if key == "epsw" else section.number(key)
        text, at = section.text(separate, "default"), separate
    match = re.fullmatch(r"(\w+)\s*(?:\[(.*)\])?", text)
    kind, inner = (match[1].lower(), match[2] or "") if match else ("", "")
    parts = [part.partition("=")[::2] for part in re.split("[,;]", inner) if part]
    names = {name.strip().lower(): number_of(value) for name, value in parts if value}
    unnamed = [number_of(name) for name, value in parts if not value]
    base = names.get("base") or base
    if kind in ("default", "const"):
        return _Schedule(base)
    factor = names.get("tgtfactor", unnamed[0] if unnamed else None)
    pieces = names.get("numsteps", unnamed[-1] if len(unnamed) > 1 else None)
    noise = names.get("noisestdev", unnamed[1] if len(unnamed) > 2 else 0.0)
    if kind == "dexp" and factor and pieces and pieces >= 1 and factor > 0 and not noise:
        return _Schedule(base, factor, int(pieces))
    what = "a schedule that a config has not: constant and dexp without noise can be read"
    missing.append(Missing(section.where(at), section.word(at), what))
    return _Schedule(base)


def _dexp(
    layers: list[Weighted],
    params: Sections,
    weights: dict[str, _Schedule],
    biases: dict[str, _Schedule],
    missing: list[Missing],
) -> dict[str, Any]:
    """The fields of a schedule by itself. A rate of 0 was set by hand, so that it is not part of it."""
    first, first_bias = next(iter(weights.values())), next(iter(biases.values()))
    bases = collections.Counter(schedule.base for schedule in weights.values() if schedule.base)
    rate = bases.most_common(1)[0][0] if bases else 0.0
    stated: dict[str, Any] = {
        "train.learning_rate": rate,
        "train.schedule": "dexp",
        "train.dexp.factor": first.factor,
        "train.dexp.pieces": first.pieces,
        "train.dexp.bias_factor": first_bias.factor,
        "train.dexp.bias_pieces": first_bias.pieces,
    }
    for layer in layers:
        base, bias = weights[layer.name].base, biases[layer.name].base
        if not base:
            continue
        stated[f"train.rates.{layer.name}"] = round(base / rate, 12)
        stated[f"train.freeze_epochs.{layer.name}"] = None  # never
        ratio = round(bias / base, 12)
        if stated.setdefault("train.bias_rate", ratio) != ratio:
            section = of(params, layer.row[0])
            what = "another ratio of the rates of biases and weights; here there is one for all layers"
            missing.append(Missing(section.where("epsb"), section.word("epsb"), what))
    return stated


def end_of(config: ConfigDict) -> dict[str, tuple[float, float]]:
    """By layer: the rates of weights and biases with which the config's schedule ends; {} where they fall steadily."""
    c = config.train
    if c.schedule not in ("steps", "dexp", "constant"):
        return {}
    ends = {}
    for layer in config.model.layers:
        weights = biases = c.learning_rate * c.rates.get(layer, 1.0)
        biases *= c.bias_rate
        if c.schedule == "steps":
            weights /= c.drop_factor ** _past(c.own_drop_epochs.get(layer, c.drop_epochs), c.epochs)
            weights *= c.raise_factor ** _past(c.raise_epochs, c.epochs)
            biases /= c.drop_factor ** _past(c.bias_drop_epochs, c.epochs)
        elif c.schedule == "dexp":
            weights, biases = weights / c.dexp.factor, biases / c.dexp.bias_factor
        is_frozen = c.freeze_epochs.get(layer, c.epochs + 1) <= c.epochs
        ends[layer] = (0.0, 0.0) if is_frozen else (weights, biases)
    return ends


def _past(drops: tuple[int, ...], epochs: float) -> int:
    return sum(drop <= epochs for drop in drops)
