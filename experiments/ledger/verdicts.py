"""Verdicts on predictions: the paired difference, its interval, and a rule that was set before any run.

The interval is the 95 % interval of the mean difference over seeds, by Student's t. The verdict is "as predicted" where
all of it lies in what was predicted, "refuted" where none of it does, and "undecided" otherwise. Five of a hundred such
intervals miss the truth by chance: of a few dozen comparisons one or two. There is no verdict before all seeds are in
that the claim asks for: whoever may stop at what they like to see will find it.
"""

import dataclasses
import math
import statistics

from experiments.ledger import plans, rows
from experiments.ledger.claims import Claim, Comparison, Proxy
from experiments.ledger.rows import Row

AS_PREDICTED, REFUTED, UNDECIDED = "as predicted", "refuted", "undecided"
NO_RUNS, MORE_TO_COME = "no runs yet", "not all seeds yet"
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """A comparison over its seeds: `n` pairs, their mean, and the interval of it; of steps, ratios.

    `missing` is how many seeds have no pair although both were run: one diverged, or never came to 25 %. `wanted` is
    how many seeds the claim asks for. `each` has the differences of the pairs, of ratios their logarithms.
    """

    comparison: Comparison
    n: int
    mean: float
    low: float
    high: float
    missing: int
    wanted: float
    each: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """By the rule at the top of this module."""
        if not self.n:
            return NO_RUNS
        if self.n < 2 or self.n + self.missing < self.wanted:
            return MORE_TO_COME
        begin, end = self.comparison.predicted
        if begin <= self.low and self.high <= end:
            return AS_PREDICTED
        return REFUTED if self.high < begin or self.low > end else UNDECIDED


@dataclasses.dataclass(frozen=True)
class Results:
    """The rows of a claim on one proxy: by variant, in the order of their seeds, and how many of each are `wanted`."""

    claim: Claim
    proxy: Proxy
    rows: dict[str, list[Row]]
    wanted: dict[str, float]

    def values(self, variant: str, measure: str) -> dict[int, float | None]:
        """A measure by seed."""
        return {int(row["seed"]): rows.measure(row, measure) for row in self.rows[variant]}


def results(claim: Claim, proxy: Proxy, every: list[Row]) -> Results:
    """What the rows hold of a claim on a proxy; seeds beyond those that the claim asks for are left out."""
    asked = claim.seeds.get(proxy.name, math.inf)
    by_variant, wanted = dict[str, list[Row]](), dict[str, float]()
    for name, variant in claim.variants.items():
        if variant.of:
            key, wanted[name] = plans.ensemble_digest(variant, claim, proxy), asked
        else:
            key = plans.variant_run(variant, proxy, 0).digest
            wanted[name] = max([asked, *(asked * v.members for v in claim.variants.values() if v.of == name)])
        mine = [row for row in every if row["digest"] == key and int(row["seed"]) < wanted[name]]
        by_variant[name] = sorted(mine, key=lambda row: int(row["seed"]))
    return Results(claim, proxy, by_variant, wanted)


def differences(of: Results) -> list[Difference]:
    """Every comparison of a claim, in order."""
    return [_difference(comparison, of) for comparison in of.claim.comparisons]


def _difference(comparison: Comparison, of: Results) -> Difference:
    (a, of_a), (b, of_b) = comparison.first, comparison.second
    first, second = of.values(a, of_a), of.values(b, of_b)
    if comparison.constant is not None:
        second = dict.fromkeys(first, comparison.constant)
    variant = of.claim.variants[a]
    if variant.of and variant.of == b:  # against the mean of its own members
        second = {seed: _mean_of_members(second, seed, variant.members) for seed in first}
    pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
    whole = [(x, y) for x, y in pairs if x is not None and y is not None]
    logs = [math.log(x / y) if comparison.ratio else x - y for x, y in whole]
    missing, wanted = len(pairs) - len(whole), of.wanted[a]
    wanted = len(pairs) if math.isinf(wanted) else wanted  # a proxy that the claim asks for no number of seeds on
    if not logs:
        return Difference(comparison, 0, math.nan, math.nan, math.nan, missing, wanted)
    mean, half = statistics.fmean(logs), half_width(logs)
    ends = (mean, mean - half, mean + half)
    mean, low, high = (math.exp(end) for end in ends) if comparison.ratio else ends
    return Difference(comparison, len(logs), mean, low, high, missing, wanted, tuple(logs))


def _mean_of_members(values: dict[int, float | None], seed: int, members: int) -> float | None:
    theirs = [values.get(member) for member in range(seed * members, (seed + 1) * members)]
    return None if any(value is None for value in theirs) else statistics.fmean(v for v in theirs if v is not None)


def half_width(values: list[float]) -> float:
    """Half of the 95 % interval of the mean of several values; infinite for one."""
    return smallest_seen(statistics.stdev(values), len(values)) if len(values) > 1 else math.inf


def smallest_seen(std: float, n: int) -> float:
    """The smallest difference that `n` > 1 pairs tell from none: where differences of pairs have this std."""
    from scipy import stats

    return float(stats.t.ppf(0.5 + _CONFIDENCE / 2, n - 1)) * std / math.sqrt(n)


def samples(every: list[Results]) -> tuple[list[list[float]], list[list[float]]]:
    """Top-1 of each variant that has two seeds or more, those that claims share once, and the differences of pairs."""
    runs = {rows_[0]["digest"]: rows_ for results in every for rows_ in results.rows.values() if rows_}
    alone = [[float(row["top1"]) for row in mine if row["top1"]] for mine in runs.values()]
    plain = [d for results in every for d in differences(results) if d.comparison.of_top1]
    return [sample for sample in alone if len(sample) > 1], [list(d.each) for d in plain if d.n > 1]


def pooled(parts: list[list[float]]) -> float:
    """The std within samples of two values or more, each around a mean of its own."""
    squares = sum((x - statistics.fmean(part)) ** 2 for part in parts for x in part)
    return math.sqrt(squares / sum(len(part) - 1 for part in parts))
