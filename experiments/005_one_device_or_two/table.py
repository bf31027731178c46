"""The table of README.md from rows.csv: python experiments/005_one_device_or_two/table.py"""

import csv
import itertools
from pathlib import Path

_SHOWN = (10, 20, 40, 80, 120)


def main() -> None:
    """One line per run: its first switch, the first one with a jump, and how far apart the two runs are."""
    with (Path(__file__).parent / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    print("setting", "variant", "seed", "first switch", "first jump", *_SHOWN, "loss", sep=" | ")
    for (setting, variant, seed), group in itertools.groupby(rows, lambda r: (r["setting"], r["variant"], r["seed"])):
        run = list(group)
        switched = next((row for row in run if row["relus"] or row["pools"]), None)
        first = f"{switched['step']}: {_words(switched)}" if switched else "none"
        apart = [f"{float(run[step - 1]['apart']):.0e}" for step in _SHOWN]
        loss = abs(float(run[-1]["loss_b"]) / float(run[-1]["loss_a"]) - 1)
        print(setting, variant, seed, first, _jump(run), *apart, f"{loss:.0e}", sep=" | ")


def _jump(run: list[dict[str, str]]) -> str:
    """The first step with a switch in which the distance becomes more than three times what it was, and above 1e-7."""
    for old, new in itertools.pairwise(run):
        before, after = float(old["apart"]), float(new["apart"])
        if after > max(3 * before, 1e-7) and (new["relus"] or new["pools"]):
            return f"{new['step']}: {_words(new)}, {before:.0e} to {after:.0e}"
    return "none"


def _words(row: dict[str, str]) -> str:
    return " ".join(filter(None, (row["pools"], row["relus"])))


if __name__ == "__main__":
    main()
