"""The ledger's pages: tables and sentences written from the rows and nothing else, between two marks.

A page says <!-- rows: NAME --> where something of the claim NAME belongs, NAME in short for a sentence of it, NAME
zh for its differences in Chinese, or one of `_ACROSS`, and <!-- /rows --> where it ends. What stands outside of the
marks is written by people and stays as it is.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import probe
from experiments.ledger import plans, verdicts
from experiments.ledger.claims import Claim, Comparison, Proxy
from experiments.ledger.rows import Row, measure
from experiments.ledger.verdicts import Difference, Results

PLOT = "result.png"
_BLOCK = re.compile(r"(<!-- rows: ([a-z0-9_ ]+) -->\n).*?(<!-- /rows -->)", re.DOTALL)
_CHINESE = {
    verdicts.AS_PREDICTED: "与预测一致",
    verdicts.REFUTED: "被推翻",
    verdicts.UNDECIDED: "未定",
    verdicts.NO_RUNS: "尚未运行",
    verdicts.MORE_TO_COME: "种子还不全",
    ", ": "\uff0c",
    " to ": " 至 ",
    " times": " 倍",
}


class Ledger:
    """All claims with all rows."""

    def __init__(self, claims: list[Claim], proxies: dict[str, Proxy], rows: list[Row]) -> None:
        self.claims, self.proxies, self.rows = {claim.name: claim for claim in claims}, proxies, rows
        self._results = dict[tuple[str, str], Results]()

    def results(self, claim: Claim, proxy: str) -> Results:
        """The rows of a claim on a proxy."""
        key = (claim.name, proxy)
        if key not in self._results:
            self._results[key] = verdicts.results(claim, self.proxies[proxy], self.rows)
        return self._results[key]

    def proxies_of(self, claim: Claim) -> list[str]:
        """The claim's own proxies that there are rows on, then others on which all of its variants were run.

        Not those on which only a variant was run that another claim shares, nor those on which two variants are one.
        """
        there = {(row["proxy"], row["what"]) for row in self.rows}
        own = [name for name in claim.seeds if any(self.results(claim, name).rows.values())]
        trained = [variant for variant in claim.variants.values() if not variant.of]
        others = [
            name for name, proxy in self.proxies.items()
            if name not in claim.seeds
            and len(words := {plans.what(variant, proxy) for variant in trained}) == len(trained)
            and all((name, what) in there for what in words)
        ]  # fmt: skip
        return own + [name for name in others if all(self.results(claim, name).rows.values())]

    def differences(self, claim: Claim, proxy: str) -> list[Difference]:
        """The comparisons of a claim on a proxy."""
        return verdicts.differences(self.results(claim, proxy))

    def verdict(self, claim: Claim) -> str:
        """All verdicts of a claim on all its proxies: one where they agree, else how many there are of each."""
        every = [difference.verdict for proxy in claim.seeds for difference in self.differences(claim, proxy)]
        if len(set(every)) < 2:
            return every[0] if every else "compares nothing"
        return ", ".join(f"{every.count(word)} {word}" for word in dict.fromkeys(every))

    def fill(self, text: str, path: Path) -> str:
        """A page with everything between its marks written anew. Raises AlexNetError for a mark of no claim."""

        def block(match: re.Match[str]) -> str:
            name, _, kind = match[2].partition(" ")
            if match[2] in _ACROSS:
                content = _ACROSS[match[2]](self)
            elif name in self.claims and kind in _OF_A_CLAIM:
                content = _OF_A_CLAIM[kind](self, self.claims[name])
            else:
                raise AlexNetError(
                    f"{path} has a mark of {match[2]!r}: it must be a claim, alone or with 'in short' or 'zh', or "
                    f"one of {', '.join(_ACROSS)}."
                )
            return f"{match[1]}{content}\n{match[3]}"

        return _BLOCK.sub(block, text)


def pages_of(root: Path) -> list[Path]:
    """The pages of a checkout that may quote the rows; `root` is its folder of experiments."""
    top = root.resolve().parent
    every = [*top.glob("README*.md"), *(top / "docs").glob("*.md"), *root.glob("README.md"), *root.glob("*/README.md")]
    return sorted(path for path in every if _BLOCK.search(files.read_text(path)))


def write(path: Path, ledger: Ledger) -> bool:
    """Writes a page anew from the rows; whether that changed it. Raises AlexNetError."""
    before = files.read_text(path)
    after = ledger.fill(before, path)
    if after != before:
        files.write_text(path, after)
    return after != before


# ---------------------------------------------------------------- of one claim


def section(ledger: Ledger, claim: Claim) -> str:
    """What the rows say of one claim: a table of its variants and one of its comparisons, for each proxy."""
    parts = [f"**Source.** {claim.source}"]
    parts += [f"**Known** when this was predicted. {claim.known}"] if claim.known else []
    parts += [f"**Predicted.** {claim.prediction}"]
    for name in ledger.proxies_of(claim) or [next(iter(claim.seeds))]:
        results = ledger.results(claim, name)
        parts.append(f"### {name}\n\n{ledger.proxies[name].what}.{_set_on(name, claim)}")
        if not any(results.rows.values()):
            parts.append("No run has ended yet.")
            continue
        parts += [_variants(results), _comparisons(ledger.differences(claim, name)), _made_with(results)]
    if ledger.proxies_of(claim):
        parts.append(f"![How the variants learned, where each seed ended, and the differences]({PLOT})")
    return "\n\n".join(part for part in parts if part)


def sentence(ledger: Ledger, claim: Claim) -> str:
    """What the rows say of one claim, in a sentence for each proxy, with a link to its folder."""
    link = f"../experiments/{claim.folder.name}/README.md"
    proxies = ledger.proxies_of(claim)
    if not proxies:
        return f"Our runs: none yet ([{claim.folder.name}]({link}))."
    sentences = [_on_proxy(ledger.proxies[name].where, ledger.differences(claim, name)) for name in proxies]
    return f"{' '.join(sentences)} [Rows]({link})."


def chinese(ledger: Ledger, claim: Claim) -> str:
    """All differences of a claim in Chinese: a line for each, a column for each proxy.

    A claim that is not translated has its comparisons in English.
    """
    proxies = ledger.proxies_of(claim) or [next(iter(claim.seeds))]
    names = claim.chinese or [comparison.what for comparison in claim.comparisons]
    rows = [
        [what, *(_in_chinese(f"{difference(d)}, n = {d.n}, {d.verdict}") if d.n else "" for d in of_each)]
        for what, *of_each in zip(names, *(ledger.differences(claim, proxy) for proxy in proxies), strict=True)
    ]
    return _table([f"[{claim.folder.name}](experiments/{claim.folder.name}/README.md)", *proxies], rows)


_OF_A_CLAIM: dict[str, Callable[[Ledger, Claim], str]] = {"": section, "in short": sentence, "zh": chinese}


def _on_proxy(where: str, differences: list[Difference]) -> str:
    """The differences on a proxy in one sentence, which says once what all of them share."""
    where = where[0].upper() + where[1:]
    those = [d for d in differences if d.n]
    if not those:
        return f"{where} no pair of runs has ended yet."
    shared, own = list[Callable[[Difference], str]](), list[Callable[[Difference], str]]()
    for words in (lambda d: f"n = {d.n}", lambda d: d.verdict):
        (shared if len({words(d) for d in those}) == 1 else own).append(words)
    each = [", ".join([f"{d.comparison.what} {difference(d)}", *(words(d) for words in own)]) for d in those]
    return f"{', '.join([where, *(words(those[0]) for words in shared)])}: {'; '.join(each)}."


def _set_on(proxy: str, claim: Claim) -> str:
    """What some variants set on this proxy only, such as more epochs than it has; the same settings once."""
    names = dict[tuple[str, ...], list[str]]()
    for name, variant in claim.variants.items():
        if proxy in variant.on:
            names.setdefault(variant.on[proxy], []).append(name)
    return "".join(
        f" Here {' and '.join(those)} {'have' if len(those) > 1 else 'has'} `{' '.join(settings)}`."
        for settings, those in names.items()
    )


def _variants(results: Results) -> str:
    """A line for each variant; the steps to 25 % training error where a run came that far."""
    head = ["variant", "parameters", "n", "top-1, %", "std", "all views", "training error, %"]
    timed = any(_values(rows, "steps_to_25") for rows in results.rows.values())
    lines = list[list[str]]()
    for name, rows in results.rows.items():
        ended = [row for row in rows if row["top1"]]
        diverged = f", {len(rows) - len(ended)} diverged" if len(ended) < len(rows) else ""
        parameters = f"{int(rows[0]['parameters']):,}" if rows and rows[0]["parameters"] else ""
        top1 = _values(ended, "top1")
        std = f"{statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        cells = [_mean(ended, "top1"), std, _mean(ended, "views_top1"), _mean(ended, "train_error")]
        cells += [_steps(rows)] if timed else []
        lines.append([name, parameters, f"{len(ended)}{diverged}", *cells])
    return _table(head + ["steps to 25 %"] * timed, lines)


def _steps(rows: list[Row]) -> str:
    """The mean steps to 25 % training error; where not every run came that far, how many did."""
    steps = _values(rows, "steps_to_25")
    if len(steps) < len(rows):
        return f"{len(steps)} of {len(rows)} came there" if steps else "never"
    return f"{statistics.fmean(steps):,.0f}" if steps else ""


def _mean(rows: list[Row], name: str) -> str:
    values = _values(rows, name)
    return f"{statistics.fmean(values):.2f}" if values else ""


def _values(rows: list[Row], name: str) -> list[float]:
    return [value for row in rows if (value := measure(row, name)) is not None]


def _comparisons(differences: list[Difference]) -> str:
    lines = list[list[str]]()
    for d in differences:
        mean, interval = (_mean_of(d), _interval(d)) if d.n else ("", "")
        n = f"{d.n}, {d.missing} without a pair" if d.missing else str(d.n)
        lines.append([d.comparison.what, predicted(d.comparison), n, mean, interval, d.verdict])
    return _table(["comparison", "predicted", "n", "difference", "95 % interval", "verdict"], lines) if lines else ""


def _made_with(results: Results) -> str:
    mine = [row for rows in results.rows.values() for row in rows]
    commits = sorted({row["commit"][:7] for row in mine})
    devices = sorted({row["device"].replace("1 x ", "") for row in mine})
    dates = sorted({row["date"] for row in mine})
    hours = sum(float(row["seconds"] or 0) for row in mine) / 3600
    made_at = "commit" if len(commits) == 1 else "commits"
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{len(mine)} rows of [runs.csv](../runs.csv); {made_at} {', '.join(commits)}; {span}; {', '.join(devices)}; "
        f"{hours:.1f} core hours of steps."
    )


# ---------------------------------------------------------------- across claims


def overview(ledger: Ledger) -> str:
    """For each claim its first difference, and all its verdicts."""
    rows = list[list[str]]()
    for claim in (claim for claim in ledger.claims.values() if claim.comparisons):
        first = ledger.differences(claim, next(iter(claim.seeds)))[0]
        link = f"[{claim.comparisons[0].what}]({claim.folder.name}/README.md)"
        ours = difference(first) if first.n else ""
        rows.append([link, claim.number, ours, str(first.n), ledger.verdict(claim)])
    return _table(["claim", "source", "ours", "n", "verdict"], rows)


def known(ledger: Ledger) -> str:
    """The claims that were predicted when results like theirs were known, and these results."""
    lines = [
        f"* [{claim.folder.name[:3]}]({claim.folder.name}/README.md): {claim.known}"
        for claim in ledger.claims.values() if claim.known
    ]  # fmt: skip
    return "\n".join(lines) or "None."


def specialization(ledger: Ledger) -> str:
    """Do the towers specialize in color? Of every variant with two towers of the claims on starts and towers."""
    rows = [
        [proxy, name, str(len(colors)), *(f"{statistics.fmean(of):.3f}" for of in list(zip(*colors, strict=True))[:2]),
         _rare(colors)]
        for proxy, name, colors in _with_two_towers(ledger)
    ]  # fmt: skip
    head = ["proxy", "variant", "n", "more colorful tower", "other tower", "rare by chance (5 %)"]
    return _table(head, rows) if rows else "No run with two towers has ended yet."


def specialization_in_short(ledger: Ledger) -> str:
    """In how many runs the towers differ in color more than chance would have it, in a sentence."""
    every = _with_two_towers(ledger)
    if not every:
        return "No run with two towers has ended yet."
    parts = list[str]()
    for proxy in dict.fromkeys(proxy for proxy, *_ in every):
        here = _rare([tower for where, _, colors in every if where == proxy for tower in colors])
        parts.append(f"in {here}{'' if parts else ' runs'} {ledger.proxies[proxy].where}")
    alone = [tower for _, name, colors in every if name == "no_communication" for tower in colors]
    parts += [f"of those without communication in {_rare(alone)}"] if alone else []
    return f"The towers differ in color {', '.join(parts)}; by chance it would be one in twenty."


_Colors = list[tuple[float, float, float]]  # of each run: the more colorful tower, the other, by chance


def _with_two_towers(ledger: Ledger) -> list[tuple[str, str, _Colors]]:
    """(proxy, variant, colors) of the claims on starts and towers; what they share once."""
    every = dict[tuple[str, str], _Colors]()
    for claim in (ledger.claims[name] for name in ("start", "two_towers") if name in ledger.claims):
        for proxy in ledger.proxies_of(claim):
            for name, rows in ledger.results(claim, proxy).rows.items():
                columns = ("color_0", "color_1", "color_chance")
                if numbers := [[float(row[key]) for key in columns] for row in rows if row["color_1"]]:
                    every.setdefault((proxy, name), [(max(a, b), min(a, b), chance) for a, b, chance in numbers])
    return [(proxy, name, colors) for (proxy, name), colors in every.items()]


def _rare(colors: _Colors) -> str:
    """In how many runs less than 5 % of random deals of the kernels differ as much."""
    return f"{sum(chance < 0.05 for *_, chance in colors)} of {len(colors)}"


def probe_warnings(ledger: Ledger) -> str:
    """Does the probe's warning foretell how a run begins? Of all runs on the proxies of the claim on starts."""
    rows, start = list[list[str]](), ledger.claims.get("start")
    for name in ledger.proxies_of(start) if start else ():
        runs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for row in (row for row in ledger.rows if row["proxy"] == name and row["probe"]):
            first, last = measure(row, "first_top1"), measure(row, "top1")
            if first is not None and last is not None:
                runs[float(row["probe"]) < 100 * probe.INDISTINGUISHABLE].append((first, last))
        for warns, pairs in ((warns, pairs) for warns, pairs in runs.items() if pairs):
            ranges = (f"{min(of):.1f} to {max(of):.1f}" for of in zip(*pairs, strict=True))
            rows.append([name, "warns" if warns else "does not", str(len(pairs)), *ranges])
    head = ["proxy", "the probe", "runs", "first evaluation, %", "top-1 at the end, %"]
    return _table(head, rows) if rows else "No run that the probe looked at has ended yet."


def noise(ledger: Ledger) -> str:
    """How far seeds are apart on each proxy, and the effect that 3, 5 and 10 pairs of them tell from none."""
    rows = list[list[str]]()
    for name in ledger.proxies:
        every = [ledger.results(claim, name) for claim in ledger.claims.values() if name in claim.seeds]
        runs, pairs = verdicts.samples(every)
        if pairs:
            paired = verdicts.pooled(pairs)
            seen = (f"{verdicts.smallest_seen(paired, n):.1f}" for n in (3, 5, 10))
            rows.append([name, str(sum(map(len, runs))), f"{verdicts.pooled(runs):.2f}", f"{paired:.2f}", *seen])
    head = ["proxy", "runs", "std over seeds", "std of a pair's difference", "3 pairs see", "5", "10"]
    return _table(head, rows) if rows else "No pairs of runs have ended yet."


def calibration(ledger: Ledger) -> str:
    """Every comparison that was run at full size too: what each proxy says of it."""
    names = [name for name, proxy in ledger.proxies.items() if proxy.width < 1]
    rows = list[list[str]]()
    for claim in (claim for claim in ledger.claims.values() if "full" in ledger.proxies_of(claim)):
        theirs = {name: ledger.differences(claim, name) for name in names if name in ledger.proxies_of(claim)}
        for i, full in enumerate(ledger.differences(claim, "full")):
            others = (theirs[name][i] if name in theirs else None for name in names)
            cells = [difference(other) if other and other.n else "" for other in others]
            rows += [[full.comparison.what, difference(full), *cells]] if full.n else []
    return _table(["comparison", "full", *names], rows) if rows else "No pair of runs at full size has ended yet."


_ACROSS: dict[str, Callable[[Ledger], str]] = {
    "ledger": overview,
    "known": known,
    "calibration": calibration,
    "noise": noise,
    "probe": probe_warnings,
    "specialization": specialization,
    "specialization in short": specialization_in_short,
}


# ---------------------------------------------------------------- cells


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def difference(d: Difference) -> str:
    """A difference with its interval: +1.23 (+0.45 to +2.01) points, or 5.90 (5.10 to 6.80) times."""
    interval = f" ({_interval(d)})" if d.n > 1 else ""
    return f"{d.mean:.2f}{interval} times" if d.comparison.ratio else f"{d.mean:+.2f}{interval}"


def _mean_of(d: Difference) -> str:
    return f"{d.mean:.2f} times" if d.comparison.ratio else f"{d.mean:+.2f}"


def _interval(d: Difference) -> str:
    sign = "" if d.comparison.ratio else "+"
    return f"{d.low:{sign}.2f} to {d.high:{sign}.2f}" if d.n > 1 else ""


def predicted(comparison: Comparison) -> str:
    """The predicted interval: at least 2 times, -1 to +1."""
    low, high = comparison.predicted
    unit, sign = (" times", "") if comparison.ratio else ("", "+")
    if math.isinf(high):
        return f"at least {low:g}{unit}"
    if math.isinf(low):
        return f"at most {high:{sign}g}{unit}"
    return f"{low:{sign}g} to {high:{sign}g}{unit}"


def _in_chinese(text: str) -> str:
    """A verdict or a difference with the words of the page in Chinese."""
    for word, theirs in _CHINESE.items():
        text = text.replace(word, theirs)
    return text
