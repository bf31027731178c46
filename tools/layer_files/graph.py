"""A layer file as rows: the layers with weights from the images up, each with what follows it.

A net is followed from its cost down to its images. The 2012 source writes several towers as layers side by side,
conv1a and conv1b, so a row of layers is followed at a time. All of a row must be alike but for their inputs, since a
config has one value for all towers. A layer reads its own tower where it has one input, and all towers where it has one
of each.
"""

import dataclasses
from collections.abc import Sequence

from alexnet_jax.errors import AlexNetError
from tools.layer_files import vocabulary
from tools.layer_files.reading import Missing, Section, number_of

Sections = dict[str, Section]
Row = tuple[Section, ...]
_OF_ONE_TOWER = ("inputs", "gpu", "initwfunc", "initbfunc")  # keys in which the layers of a row may differ


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A layer with weights, in all towers."""

    name: str  # ours: conv1, fc6, ...
    row: Row
    operations: list[Section]  # of the first tower: what follows up to the next weights, in order
    kept: tuple[int, ...]  # which inputs are the features of the layer below
    reads_all: bool  # the features of all towers


def read_graph(layers: Sections, params: Sections, missing: list[Missing]) -> list[Weighted]:
    """The layers with weights from the images up; adds to `missing` what no config can say.

    Raises AlexNetError where the layers are not a chain of rows from `type=data` to one `cost.logreg`.
    """
    vocabulary.check_types(layers)
    for section in layers.values():
        missing += vocabulary.missing_of(section, section.text("type"))
        missing += vocabulary.missing_of(params[section.name], section.text("type")) if section.name in params else ()
    cost = _cost(layers)
    row = _named(layers, cost, cost.texts("inputs")[-1:])
    if row[0].text("type") != "softmax":
        raise AlexNetError(f"{cost.where('inputs')}: [{cost.name}] must read a softmax last, not [{row[0].name}].")
    seen = {cost.name, row[0].name}
    row = _named(layers, row[0], row[0].texts("inputs"))
    weighted, operations = list[Weighted](), list[Section]()
    while not any(section.text("type") == "data" for section in row):
        seen |= {section.name for section in row}
        _check_alike(row, {})
        _check_alike(row, params)
        if row[0].text("type") in vocabulary.WITH_WEIGHTS:
            kept, below, reads_all = _below(layers, row, seen, missing)
            weighted.append(Weighted("", row, operations[::-1], kept, reads_all))
            row, operations = below, []
        else:
            operations.append(row[0])
            row = tuple(_one_input(layers, section) for section in row)
    if other := [section for section in row if section.text("type") != "data"]:
        raise AlexNetError(
            f"{other[0].where()}: one tower reads [{other[0].name}] and another the image: both must read it."
        )
    if extra := [
        s for s in layers.values() if s.name not in seen and s.text("type") not in ("data", *vocabulary.JOINED)
    ]:
        raise AlexNetError(f"{extra[0].where()}: nothing on the way to the cost reads [{extra[0].name}]: remove it.")
    for section in operations:
        what = "done to the image before the first weights"
        missing += [Missing(section.where("type"), section.word("type"), what)] * bool(vocabulary.post_ops(section))
    return _checked(weighted[::-1], cost)


def _checked(weighted: list[Weighted], cost: Section) -> list[Weighted]:
    """The layers with their names. Raises AlexNetError where they are not towers that meet in the last one."""
    if not weighted:
        raise AlexNetError(f"{cost.where()}: no conv and no fc lies below [{cost.name}], so nothing is learned.")
    towers = len(weighted[0].row)
    for layer in weighted:
        if len(layer.row) != towers and (layer is not weighted[-1] or len(layer.row) != 1):
            raise AlexNetError(
                f"{layer.row[0].where()}: [{layer.row[0].name}] is one of {len(layer.row)}, and there are {towers} "
                "towers: only the last layer may join them."
            )
    kinds = [layer.row[0].text("type") for layer in weighted]
    if kinds != sorted(kinds) or kinds[-1] != "fc":
        at = next((i for i in range(1, len(kinds)) if kinds[i] < kinds[i - 1]), -1)
        raise AlexNetError(f"{weighted[at].row[0].where()}: here convolutions come first, and the last layer is an fc.")
    return [dataclasses.replace(layer, name=f"{kinds[i]}{i + 1}") for i, layer in enumerate(weighted)]


def _cost(layers: Sections) -> Section:
    costs = [section for section in layers.values() if section.text("type") == "cost.logreg"]
    if len(costs) != 1:
        file = next(iter(layers.values())).path.name
        raise AlexNetError(f"{file} has {len(costs)} layers of type=cost.logreg: it must have one, where a net ends.")
    return costs[0]


def _named(layers: Sections, reader: Section, names: Sequence[str]) -> Row:
    """The layers of these names, those that are joined under one name one by one. Raises AlexNetError."""
    row = list[Section]()
    for name in names:
        if name not in layers:
            raise AlexNetError(f"{reader.where('inputs')}: [{reader.name}] reads {name!r}, but there is no such layer.")
        section = layers[name]
        if section.line >= reader.line:  # the format's own rule; it leaves no circles
            raise AlexNetError(f"{reader.where('inputs')}: [{reader.name}] reads [{name}], which must stand above it.")
        joined = section.text("type") in vocabulary.JOINED
        row += _named(layers, section, section.texts("inputs")) if joined else [section]
    return tuple(row)


def _one_input(layers: Sections, section: Section) -> Section:
    row = _named(layers, section, section.texts("inputs"))
    if len(row) != 1:
        raise AlexNetError(f"{section.where('inputs')}: [{section.name}] reads {len(row)} layers: it must be one.")
    return row[0]


def _check_alike(row: Row, params: Sections) -> None:
    """Raises AlexNetError where towers have different values, in the layers or, if given, in their parameters."""
    sections = [params[section.name] if params else section for section in row if not params or section.name in params]
    for other in sections[1:]:
        first = sections[0]
        for key in first.fields | other.fields:
            one, two = (section.fields[key][0] if key in section.fields else "nothing" for section in (first, other))
            if key not in _OF_ONE_TOWER and _values(one) != _values(two):
                raise AlexNetError(
                    f"{other.where(key)}: [{other.name}] has {two} as its {key}, and [{first.name}] in line "
                    f"{first.line} has {one}: the towers must be alike."
                )


def _values(text: str) -> list[float | str]:
    numbers = [(number_of(part), part.strip()) for part in text.split(",")]
    return [part if number is None else number for number, part in numbers]


# ---------------------------------------------------------------- what a row reads


def _below(layers: Sections, row: Row, seen: set[str], missing: list[Missing]) -> tuple[tuple[int, ...], Row, bool]:
    """(which inputs are features, the row that they are, whether each layer reads all of it).

    An input without weights below it is a second look at the image where there is another with weights; it is named in
    `missing` and left out. Raises AlexNetError where what is read is not a row.
    """
    kept, reads = tuple[int, ...](), list[Row]()
    for section in row:
        names = section.texts("inputs")
        images = [all(_is_image(layers, s) for s in _named(layers, section, [name])) for name in names]
        kept = tuple(i for i, image in enumerate(images) if not image or all(images))
        reads.append(_named(layers, section, [names[i] for i in kept]))
        for name in (names[i] for i in range(len(names)) if i not in kept):
            seen |= _down_to_the_image(layers, layers[name])
            what = f"a second look at the image, by way of {name}: here a layer reads features or the image"
            missing.append(Missing(section.where("inputs"), section.word("inputs"), what))
    first, names_of = row[0], [[section.name for section in read] for read in reads]
    if all(len(read) == 1 for read in reads):
        below = tuple(read[0] for read in reads)
        if len({section.name for section in below}) == len(row) or _is_image(layers, below[0]):
            return kept, below, False
        raise AlexNetError(
            f"{first.where('inputs')}: {len(row)} towers read [{below[0].name}], which is in one: here there are as "
            "many towers everywhere."
        )
    each_once = len(set(names_of[0])) == len(names_of[0]) and all(sorted(n) == sorted(names_of[0]) for n in names_of)
    if each_once and len(row) in (1, len(reads[0])):
        return kept, reads[0], True
    raise AlexNetError(
        f"{first.where('inputs')}: [{first.name}] reads {', '.join(names_of[0])}: here a layer reads its own tower, or "
        "each of the towers once."
    )


def _is_image(layers: Sections, section: Section) -> bool:
    """Whether there are no weights between a layer and the images."""
    way = _down_to_the_image(layers, section)
    return not any(layers[name].text("type") in vocabulary.WITH_WEIGHTS for name in way)


def _down_to_the_image(layers: Sections, section: Section) -> set[str]:
    """The names of a layer and of all below it."""
    way, todo = set[str](), [section]
    while todo:
        now = todo.pop()
        if now.name not in way:
            way.add(now.name)
            todo += [] if now.text("type") == "data" else _named(layers, now, now.texts("inputs"))
    return way
