"""The pages of the ledger: tables and sentences written from the rows and nothing else, between two marks.

A page says <!-- rows: NAME --> where something of the claim NAME belongs, NAME in short for a sentence of it, NAME
zh for its differences in Chinese, or <!-- rows: ledger -->, and <!-- /rows --> where it ends. What stands outside of
the marks is written by people and stays as it is.
"""

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import probe
from experiments.ledger import chinese, plans, verdicts
from experiments.ledger.claims import Claim, Comparison, Proxy
from experiments.ledger.rows import Row, measure
from experiments.ledger.verdicts import Difference, Results

PLOT = "result.png"
_BLOCK = re.compile(r"(<!-- rows: ([a-z0-9_ ]+) -->\n).*?(<!-- /rows -->)", re.DOTALL)


class Ledger:
    """All claims with all rows, and what is written of them."""

    def __init__(self, claims: list[Claim], proxies: dict[str, Proxy], every: list[Row]) -> None:
        self.claims, self.proxies = {claim.name: claim for claim in claims}, proxies
        self.every = every
        self._found = dict[tuple[str, str], Results]()

    def results(self, claim: Claim, proxy: str) -> Results:
        """The rows of a claim on a proxy."""
        key = (claim.name, proxy)
        if key not in self._found:
            self._found[key] = verdicts.results(claim, self.proxies[proxy], self.every)
        return self._found[key]

    def proxies_of(self, claim: Claim) -> list[str]:
        """The claim's own proxies that there are rows on, then others on which all of its variants were run.

        Not those on which only a variant was run that another claim shares, nor those on which two variants are one.
        """
        there = {(row["proxy"], row["what"]) for row in self.every}
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

    def in_all(self, claim: Claim) -> str:
        """The verdicts of a claim, of all its comparisons on all its proxies."""
        return in_all([found for proxy in claim.seeds for found in self.differences(claim, proxy)])

    # ------------------------------------------------------------ what is written

    def filled(self, text: str, path: Path) -> str:
        """A page with everything between its marks written anew. Raises AlexNetError for a mark of no claim."""
        written: dict[str, Callable[[], str]] = {
            "ledger": lambda: self.table(whole=False), "ledger zh": lambda: self.table(whole=False, zh=True),
            "ledger experiments": lambda: self.table().replace("](experiments/", "]("),
            "calibration": lambda: calibration(self), "noise": lambda: noise(self), "probe": lambda: warned(self),
            "specialization": lambda: specialization(self),
            "specialization in short": lambda: specialization_in_short(self),
        }  # fmt: skip
        kinds = {"": self.section, "in short": self.sentence, "zh": self.answer}

        def block(match: re.Match[str]) -> str:
            name, _, kind = match[2].partition(" ")
            if match[2] in written:
                said = written[match[2]]()
            elif name in self.claims and kind in kinds:
                said = kinds[kind](self.claims[name])
            else:
                raise AlexNetError(
                    f"{path} has a mark of {match[2]!r}: it must be a claim, alone or with 'in short' or 'zh', or "
                    f"one of {', '.join(written)}."
                )
            return f"{match[1]}{said}\n{match[3]}"

        return _BLOCK.sub(block, text)

    def table(self, *, whole: bool = True, zh: bool = False) -> str:
        """The ledger: for each claim its first difference, and all its verdicts; `whole`: without runs, too."""
        head = "| 论断 | 来源 | 我们 | n | 结论 |" if zh else "| claim | source | ours | n | verdict |"
        lines = [head, "| --- | --- | --- | --- | --- |"]
        for claim in (claim for claim in self.claims.values() if claim.comparisons):
            found = self.differences(claim, next(iter(claim.seeds)))
            if not found[0].n and not whole:
                continue
            ours, n = (said(found[0]), str(found[0].n)) if found[0].n else ("", "0")
            what, number = claim.chinese[:2] if zh else (claim.comparisons[0].what, claim.number)
            verdict = self.in_all(claim)
            if zh:
                verdict, ours = re.sub(r"(\d+) ", r"\1 项", chinese.translated(verdict)), chinese.translated(ours)
            link = f"[{what}](experiments/{claim.folder.name}/README.md)"
            lines.append(f"| {link} | {number} | {ours} | {n} | {verdict} |")
        return "\n".join(lines)

    def section(self, claim: Claim) -> str:
        """What the rows say of one claim: a table of its variants and one of its comparisons, for each proxy."""
        parts = [f"**Source.** {claim.source}", f"**Predicted.** {claim.prediction}"]
        for name in self.proxies_of(claim) or [next(iter(claim.seeds))]:
            found = self.results(claim, name)
            parts.append(f"### {name}\n\n{self.proxies[name].what}.{_set_on(name, claim)}")
            if not any(found.rows.values()):
                parts.append("No run has ended yet.")
                continue
            parts += [_variants(found), _comparisons(self.differences(claim, name)), _made_with(found)]
        if self.proxies_of(claim):
            parts.append(f"![How the variants learned, where each seed ended, and the differences]({PLOT})")
        return "\n\n".join(part for part in parts if part)

    def sentence(self, claim: Claim) -> str:
        """What the rows say of one claim, in a sentence for each proxy, with a link to its folder."""
        proxies = self.proxies_of(claim)
        if not proxies:
            return f"Our runs: none yet ([{claim.folder.name}](../experiments/{claim.folder.name}/README.md))."
        told = [
            _in_short(self.proxies[name].where, [d for d in self.differences(claim, name) if d.n]) for name in proxies
        ]
        return f"{' '.join(told)} [Rows](../experiments/{claim.folder.name}/README.md)."

    def answer(self, claim: Claim) -> str:
        """All differences of a claim, in Chinese: a line for each, a column for each proxy."""
        proxies = self.proxies_of(claim) or [next(iter(claim.seeds))]
        head = f"| [{claim.folder.name}](experiments/{claim.folder.name}/README.md) | {' | '.join(proxies)} |"
        lines = [head, f"| --- |{' --- |' * len(proxies)}"]
        found = [self.differences(claim, proxy) for proxy in proxies]
        for what, *of_each in zip(chinese.comparisons(claim), *found, strict=True):
            cells = [chinese.translated(f"{said(d)}, {_n(d)}, {d.verdict}") if d.n else "" for d in of_each]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        return "\n".join(lines)


def of(root: Path) -> list[Path]:
    """The pages of a checkout that may quote the rows."""
    top = root.resolve().parent
    every = [*top.glob("README*.md"), *(top / "docs").glob("*.md"), *root.glob("README.md"), *root.glob("*/README.md")]
    return sorted(path for path in every if _BLOCK.search(files.read_text(path)))


def write(path: Path, ledger: Ledger) -> bool:
    """Writes a page anew from the rows; whether that changed it. Raises AlexNetError."""
    before = files.read_text(path)
    after = ledger.filled(before, path)
    if after != before:
        files.write_text(path, after)
    return after != before


# ---------------------------------------------------------------- across claims


def specialization(ledger: Ledger) -> str:
    """Do the towers specialize in color? Of every variant with two towers of the claims on starts and towers."""
    head = "| proxy | variant | n | more colorful tower | other tower | rare by chance (5 %) |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    for proxy, name, found in _with_two_towers(ledger):
        more, less = (statistics.fmean(row[i] for row in found) for i in (0, 1))
        lines.append(f"| {proxy} | {name} | {len(found)} | {more:.3f} | {less:.3f} | {_rare(found)} |")
    return "\n".join(lines) if len(lines) > 2 else "No run with two towers has ended yet."


def specialization_in_short(ledger: Ledger) -> str:
    """In how many runs the towers differ in color more than chance would have it, in a sentence."""
    every = _with_two_towers(ledger)
    told = list[str]()
    for proxy in dict.fromkeys(proxy for proxy, *_ in every):
        found = [row for where, _, rows in every if where == proxy for row in rows]
        told.append(f"in {_rare(found)}{'' if told else ' runs'} {ledger.proxies[proxy].where}")
    if not told:
        return "No run with two towers has ended yet."
    alone = [row for _, name, rows in every if name == "no_communication" for row in rows]
    told += [f"of those without communication in {_rare(alone)}"] if alone else []
    return f"The towers differ in color {', '.join(told)}; by chance it would be one in twenty."


def _with_two_towers(ledger: Ledger) -> list[tuple[str, str, list[tuple[float, float, float]]]]:
    """(proxy, variant, `_towers_of` its rows) of the claims on starts and towers; what they share once."""
    every = dict[tuple[str, str], list[tuple[float, float, float]]]()
    for claim in (ledger.claims[name] for name in ("start", "two_towers") if name in ledger.claims):
        for proxy in ledger.proxies_of(claim):
            for name, mine in ledger.results(claim, proxy).rows.items():
                if found := _towers_of(mine):
                    every.setdefault((proxy, name), found)
    return [(proxy, name, found) for (proxy, name), found in every.items()]


def _rare(found: list[tuple[float, float, float]]) -> str:
    """In how many runs less than 5 % of random deals of the kernels differ as much."""
    return f"{sum(chance < 0.05 for *_, chance in found)} of {len(found)}"


def warned(ledger: Ledger) -> str:
    """Does the probe's warning foretell how a run begins? Of all runs on the proxies of the claim on starts."""
    head = "| proxy | the probe | runs | first evaluation, % | top-1 at the end, % |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    start = ledger.claims.get("start")
    for name in ledger.proxies_of(start) if start else ():
        said: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for row in (row for row in ledger.every if row["proxy"] == name and row["probe"]):
            first, last = measure(row, "first_top1"), measure(row, "top1")
            if first is not None and last is not None:
                said[float(row["probe"]) < 100 * probe.INDISTINGUISHABLE].append((first, last))
        for warns, runs in ((warns, runs) for warns, runs in said.items() if runs):
            cells = [f"{min(of):.1f} to {max(of):.1f}" for of in zip(*runs, strict=True)]
            lines.append(f"| {name} | {'warns' if warns else 'does not'} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "No run that the probe looked at has ended yet."


def noise(ledger: Ledger) -> str:
    """How far seeds are apart on each proxy, and the effect that 3, 5 and 10 pairs of them tell from none."""
    lines = [
        "| proxy | runs | std over seeds | std of a pair's difference | 3 pairs see | 5 | 10 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ledger.proxies:
        found = [ledger.results(claim, name) for claim in ledger.claims.values() if name in claim.seeds]
        runs, pairs = verdicts.samples(found)
        if not pairs:
            continue
        apart, paired = verdicts.pooled(runs), verdicts.pooled(pairs)
        seen = " | ".join(f"{verdicts.smallest_seen(paired, n):.1f}" for n in (3, 5, 10))
        lines.append(f"| {name} | {sum(map(len, runs))} | {apart:.2f} | {paired:.2f} | {seen} |")
    return "\n".join(lines) if len(lines) > 2 else "No pairs of runs have ended yet."


def calibration(ledger: Ledger) -> str:
    """Every comparison that was run at full size too: what each proxy says of it."""
    names = [name for name, proxy in ledger.proxies.items() if proxy.width < 1]
    lines = [f"| comparison | full | {' | '.join(names)} |", f"| --- | --- | {' | '.join('---' for _ in names)} |"]
    for claim in ledger.claims.values():
        if "full" not in ledger.proxies_of(claim):
            continue
        full = ledger.differences(claim, "full")
        others = {name: ledger.differences(claim, name) for name in names if name in ledger.proxies_of(claim)}
        for i, there in ((i, there) for i, there in enumerate(full) if there.n):
            cells = [said(others[name][i]) if name in others and others[name][i].n else "" for name in names]
            lines.append(f"| {there.comparison.what} | {said(there)} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "No pair of runs at full size has ended yet."


def _towers_of(mine: list[Row]) -> list[tuple[float, float, float]]:
    """(color of the more colorful tower, of the other, chance) of each row that has two towers."""
    known = [row for row in mine if row["color_1"]]
    pairs = [(float(row["color_0"]), float(row["color_1"]), float(row["color_chance"])) for row in known]
    return [(max(a, b), min(a, b), chance) for a, b, chance in pairs]


# ---------------------------------------------------------------- tables and numbers


def said(difference: Difference) -> str:
    """A difference with its interval: +1.23 (0.45 to 2.01) points, or 5.9 (5.1 to 6.8) times."""
    d = difference
    if d.comparison.ratio:
        interval = f" ({d.low:.2f} to {d.high:.2f})" if d.n > 1 else ""
        return f"{d.mean:.2f}{interval} times"
    interval = f" ({d.low:+.2f} to {d.high:+.2f})" if d.n > 1 else ""
    return f"{d.mean:+.2f}{interval}"


def _in_short(where: str, found: list[Difference]) -> str:
    """The differences on a proxy in one sentence, which says once what all of them share."""
    where = where[0].upper() + where[1:]
    if not found:
        return f"{where} no pair of runs has ended yet."
    shared, own = list[Callable[[Difference], str]](), list[Callable[[Difference], str]]()
    for words in (_n, _verdict):
        (shared if len({words(d) for d in found}) == 1 else own).append(words)
    each = [", ".join([f"{d.comparison.what} {said(d)}", *(words(d) for words in own)]) for d in found]
    return f"{', '.join([where, *(words(found[0]) for words in shared)])}: {'; '.join(each)}."


def _n(difference: Difference) -> str:
    return f"n = {difference.n}"


def _verdict(difference: Difference) -> str:
    return difference.verdict


def in_all(found: list[Difference]) -> str:
    """The verdicts of several comparisons: one word where they agree, else how many are of each kind."""
    words = [d.verdict for d in found] or ["compares nothing"]
    if len(set(words)) == 1:
        return words[0]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _set_on(proxy: str, claim: Claim) -> str:
    """What some variants set on this proxy only, such as more epochs than it has; the same settings once."""
    told = dict[tuple[str, ...], list[str]]()
    for name, variant in claim.variants.items():
        if proxy in variant.on:
            told.setdefault(variant.on[proxy], []).append(name)
    return "".join(
        f" Here {' and '.join(names)} {'have' if len(names) > 1 else 'has'} `{' '.join(words)}`."
        for words, names in told.items()
    )


def _variants(found: Results) -> str:
    """A line for each variant; the steps to 25 % training error where a run came that far."""
    heads = ["variant", "parameters", "n", "top-1, %", "std", "all views", "training error, %"]
    rows = [row for mine in found.rows.values() for row in mine]
    timed = any(measure(row, "steps_to_25") is not None for row in rows)
    heads += ["steps to 25 %"] if timed else []
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for name, mine in found.rows.items():
        good = [row for row in mine if row["top1"]]
        if not mine:
            lines.append(f"| {name} | | 0 |{' |' * (len(heads) - 3)}")
            continue
        diverged = f", {len(mine) - len(good)} diverged" if len(good) < len(mine) else ""
        parameters = f"{int(mine[0]['parameters']):,}" if mine[0]["parameters"] else ""
        cells = [_mean(good, "top1"), _std(good, "top1"), _mean(good, "views_top1"), _mean(good, "train_error")]
        cells += [_steps(mine)] if timed else []
        lines.append(f"| {name} | {parameters} | {len(good)}{diverged} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _steps(mine: list[Row]) -> str:
    """The mean steps to 25 % training error; where not every run came that far, how many did."""
    steps = [value for row in mine if (value := measure(row, "steps_to_25")) is not None]
    if len(steps) < len(mine):
        return f"{len(steps)} of {len(mine)} came there" if steps else "never"
    return f"{statistics.fmean(steps):,.0f}"


def _mean(mine: list[Row], name: str) -> str:
    values = [value for row in mine if (value := measure(row, name)) is not None]
    return f"{statistics.fmean(values):.2f}" if values else ""


def _std(mine: list[Row], name: str) -> str:
    values = [value for row in mine if (value := measure(row, name)) is not None]
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""


def _comparisons(found: list[Difference]) -> str:
    if not found:
        return ""
    head = "| comparison | predicted | n | difference | 95 % interval | verdict |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    for d in found:
        if not d.n:
            cells = ["0", "", ""]
        else:
            mean = f"{d.mean:.2f} times" if d.comparison.ratio else f"{d.mean:+.2f}"
            sign = "" if d.comparison.ratio else "+"
            cells = [str(d.n), mean, f"{d.low:{sign}.2f} to {d.high:{sign}.2f}" if d.n > 1 else ""]
        if d.missing:
            cells[0] += f", {d.missing} without a pair"
        lines.append(f"| {d.comparison.what} | {predicted(d.comparison)} | {' | '.join(cells)} | {d.verdict} |")
    return "\n".join(lines)


def predicted(comparison: Comparison) -> str:
    """The predicted interval in words."""
    low, high = comparison.predicted
    unit = " times" if comparison.ratio else ""
    sign = "" if comparison.ratio else "+"
    if math.isinf(high):
        return f"at least {low:g}{unit}"
    if math.isinf(low):
        return f"at most {high:{sign}g}{unit}"
    return f"{low:{sign}g} to {high:{sign}g}{unit}"


def _made_with(found: Results) -> str:
    mine = [row for of_variant in found.rows.values() for row in of_variant]
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
