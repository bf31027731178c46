"""Claims and proxies as files: what is asked, what was predicted, and which runs decide.

experiments/proxies.toml          what stands in for ImageNet where ImageNet cannot be run
experiments/NNN_NAME/claim.toml   one question: its source, the prediction, the variants, the seeds
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError

FILE, PROXIES = "claim.toml", "proxies.toml"
MEASURES = ("top1", "top5", "views_top1", "first_top1", "train_error", "steps_to_25")


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A data set and a size of the network that stand in for ImageNet: `what`, or `where` in a sentence about its runs.

    It has so many `classes` and training `images`. Every recipe is brought to `width` of its features, and
    "section.field=value" of `set` are set in it. A run has `cores` CPU cores, 0 for all and any accelerator.
    """

    name: str
    what: str
    where: str
    data: str
    classes: int
    images: int
    width: float
    set: tuple[str, ...]
    cores: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of a claim: a recipe with "section.field=value" of `set`, and of `on[proxy]`, set in it.

    With `of` it is not trained but an ensemble: its seed s averages the runs of that variant with the seeds
    `members` s to `members` s + `members` - 1; `tune` also finds weights for them, as the 2012 source does.
    """

    name: str
    recipe: str
    set: tuple[str, ...] = ()
    on: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    of: str = ""
    members: int = 0
    tune: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The predicted difference of two measures, seed by seed: `predicted` is its [low, high].

    `first` and `second` are (variant, measure); a number in place of the second is a `constant`, and `second` the first
    again. The difference of steps is that of their logarithms: `ratio`.
    """

    what: str
    first: tuple[str, str]
    second: tuple[str, str]
    predicted: tuple[float, float]
    ratio: bool
    constant: float | None = None

    @property
    def of_top1(self) -> bool:
        """Whether it compares the top-1 of two variants."""
        return self.constant is None and self.first[1] == self.second[1] == "top1"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A question and the runs that decide it. `seeds` is how many there are on each proxy; the first proxy decides.

    `known`: the results of other runs that were known when the prediction was written, "" for none. `core_minutes` is
    what its runs were expected to take on one core. `number` is the source's in a few words, and `chinese` the
    comparisons in Chinese, () where nobody has translated them.
    """

    folder: Path
    question: str
    source: str
    number: str
    prediction: str
    known: str
    core_minutes: int
    seeds: dict[str, int]
    variants: dict[str, Variant]
    comparisons: tuple[Comparison, ...]
    chinese: tuple[str, ...]

    @property
    def name(self) -> str:
        """lrn, of experiments/009_lrn."""
        return self.folder.name.partition("_")[2]


def read_claims(root: Path) -> list[Claim]:
    """The claims of a folder of experiments, in the order of their numbers. Raises AlexNetError."""
    claims = [parse_claim(_read(path), path) for path in sorted(root.glob(f"[0-9]*_*/{FILE}"))]
    if not claims:
        raise AlexNetError(f"There are no claims in {root}: name the experiments/ of a checkout, --experiments=FOLDER.")
    return claims


def claim_named(claims: list[Claim], name: str) -> Claim:
    """The claim with this name or number. Raises AlexNetError."""
    for claim in claims:
        if name in (claim.name, claim.folder.name, claim.folder.name.partition("_")[0]):
            return claim
    raise AlexNetError(f"There is no claim {name!r}: use one of {', '.join(claim.name for claim in claims)}.")


def read_proxies(root: Path) -> dict[str, Proxy]:
    """The proxies of a folder of experiments, by name. Raises AlexNetError."""
    path = root / PROXIES
    return {name: _proxy(name, table, path) for name, table in _read(path).items()}


def parse_claim(table: dict[str, Any], path: Path) -> Claim:
    """The claim of a file's table. Raises AlexNetError, naming `path`."""
    variants = {name: _variant(name, part, path) for name, part in _table(table, "variants", path).items()}
    for variant in variants.values():
        if variant.of and (variant.of not in variants or variants[variant.of].of):
            raise AlexNetError(f"{path}: variants.{variant.name}.of={variant.of!r} is not a variant that is trained.")
    minutes, seeds = table.get("core_minutes"), _table(table, "seeds", path)
    if not isinstance(minutes, int) or minutes < 1:
        raise AlexNetError(f"{path}: core_minutes must be a whole number, the time of all runs of this claim.")
    if not all(isinstance(n, int) and 0 < n <= 1000 for n in seeds.values()):
        raise AlexNetError(f"{path}: seeds must be a table of proxies and whole numbers from 1 to 1,000.")
    comparisons = tuple(_comparison(part, variants, path) for part in table.get("comparisons", []))
    question, number = _text(table, "question", path), _text(table, "number", path)
    chinese = table.get("chinese", [])
    if not isinstance(chinese, list) or len(chinese) not in (0, len(comparisons)):
        raise AlexNetError(f"{path}: chinese must be a list with one text for each comparison.")
    return Claim(
        folder=path.parent, question=question, source=_text(table, "source", path), number=number,
        prediction=_text(table, "prediction", path), known=_text(table, "known", path) if "known" in table else "",
        core_minutes=minutes, seeds=dict(seeds), variants=variants, comparisons=comparisons, chinese=tuple(chinese),
    )  # fmt: skip


def _comparison(table: dict[str, Any], variants: dict[str, Variant], path: Path) -> Comparison:
    pair, interval = table.get("difference"), table.get("predicted")
    if not isinstance(pair, list) or len(pair) != 2:
        raise AlexNetError(
            f'{path}: comparisons.difference must be two variants, such as ["alexnet", "no_lrn"], or one and a number.'
        )
    constant = float(pair[1]) if isinstance(pair[1], int | float) else None
    sides = [str(side).partition(".") for side in (pair if constant is None else [pair[0]] * 2)]
    for side, _, measure in sides:
        if side not in variants or (measure or "top1") not in MEASURES:
            raise AlexNetError(
                f"{path}: comparisons.difference names {side}{measure and '.'}{measure}: it must be one of "
                f"{', '.join(variants)}, or that with one of .{', .'.join(MEASURES)}."
            )
    if not isinstance(interval, list) or len(interval) != 2 or not interval[0] < interval[1]:
        raise AlexNetError(f"{path}: comparisons.predicted must be [low, high], such as [0.0, inf].")
    first, second = ((side, measure or "top1") for side, _, measure in sides)
    low, high = map(float, interval)
    ratio = first[1] == "steps_to_25"
    if ratio and low <= 0:
        raise AlexNetError(f"{path}: comparisons.predicted of steps is a ratio, above 0.")
    return Comparison(_text(table, "what", path), first, second, (low, high), ratio, constant)


def _variant(name: str, table: dict[str, Any], path: Path) -> Variant:
    unknown = set(table) - {"recipe", "set", "on", "of", "members", "tune"}
    if unknown or bool(table.get("recipe")) == bool(table.get("of")):
        what = f"unknown {sorted(unknown)}" if unknown else "either a recipe or of"
        raise AlexNetError(f"{path}: variants.{name} must have recipe, set and on, or of, members and tune: {what}.")
    return Variant(
        name, table.get("recipe", ""), tuple(table.get("set", ())),
        {proxy: tuple(changes) for proxy, changes in table.get("on", {}).items()},
        table.get("of", ""), table.get("members", 0), table.get("tune", False),
    )  # fmt: skip


def _proxy(name: str, table: dict[str, Any], path: Path) -> Proxy:
    what, where, data = (_text(table, key, path) for key in ("what", "where", "data"))
    width, cores = table.get("width"), table.get("cores", 0)
    classes, images = table.get("classes", 0), table.get("images", 0)
    if not all(isinstance(count, int) for count in (classes, images, cores)) or min(classes, images) < 1:
        raise AlexNetError(f"{path}: {name} must have classes and images, and may have cores, as whole numbers.")
    if not isinstance(width, int | float) or not 0 < width <= 1:
        raise AlexNetError(f"{path}: {name}.width must be above 0 and at most 1.")
    return Proxy(name, what, where, data, classes, images, float(width), tuple(table.get("set", ())), cores)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(files.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise AlexNetError(f"{path} is not TOML: {error}.") from error


def _text(table: dict[str, Any], key: str, path: Path) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise AlexNetError(f"{path} has no {key}: write it as text.")
    return " ".join(value.split())


def _table(table: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict) or not value:
        raise AlexNetError(f"{path} has no table [{key}].")
    return value
