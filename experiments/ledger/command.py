"""The claims about AlexNet, the runs that test them, and what the rows of these runs say.

Run it from the top of a checkout, which it needs for its experiments/ folder and for the commit that each row names.
"""

import argparse
import shlex
from pathlib import Path

from alexnet_jax import exits
from alexnet_jax.cli import app
from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from experiments.ledger import claims, costs, pages, plans, plots, rows, runner

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str]) -> None:
    """Lists, runs or reports. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    root = options.experiments
    ledger = pages.Ledger(claims.read_claims(root), claims.read_proxies(root), rows.read(root))
    every = list(ledger.claims.values())
    named = [claims.claim_named(every, name) for name in options.names] or every
    {"list": _list, "run": _run, "report": _report}[options.command](ledger, named, options)


def _list(ledger: pages.Ledger, named: list[claims.Claim], options: argparse.Namespace) -> None:
    """A line for each claim: how many of its runs there are rows of."""
    known = _keys(ledger.rows)
    for claim in named:
        counts = []
        for name, seeds in claim.seeds.items():
            runs = plans.planned(claim, _proxy(ledger, name), seeds)
            counts.append(f"{name} {sum(run.key in known for run in runs)}/{len(runs)}")
        print(f"{claim.name:24} {', '.join(counts):42} {claim.question}")


def _run(ledger: pages.Ledger, named: list[claims.Claim], options: argparse.Namespace) -> None:
    """Runs what is missing of the claims that were named."""

    def with_seeds(claim: claims.Claim, proxy: str) -> tuple[claims.Claim, claims.Proxy, int]:
        return claim, _proxy(ledger, proxy), options.seeds or claim.seeds.get(proxy, 1)

    root, workdirs, known = options.experiments, options.workdirs, _keys(ledger.rows)
    asked = [options.proxy] if options.proxy else []
    chosen = [with_seeds(claim, name) for claim in named for name in asked or claim.seeds]
    wanted = list({run.key: run for each in chosen for run in plans.planned(*each)}.values())
    needed = {member for each in chosen for member in plans.members(*each, known)}  # their weights, for ensembles
    missing = [
        run for run in wanted
        if run.key not in known or (run.key in needed and not (workdirs / run.name / "checkpoints").is_dir())
    ]  # fmt: skip
    print(f"{len(wanted):,} runs, {len(wanted) - len(missing):,} of them have a row; {len(missing):,} to run")
    for line in costs.estimates(missing, ledger.rows, at_a_time=len(runner.slots(missing))):
        print(line)
    if options.plan:
        for run in missing:
            print(f"  {shlex.join(runner.command_of(run))}")
        return
    exits.hint = lambda: "every run that has ended has its row, and the others resume with the same command"
    overrides = [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    every = [with_seeds(claim, name) for claim in ledger.claims.values() for name in {*claim.seeds, *asked}]
    keep = {member for each in every for member in plans.members(*each, known)}
    for group in runner.groups(missing):
        runner.run_all(group, root, workdirs, keep=keep, overrides=overrides)
    for each in chosen:
        runner.add_ensembles(*each, root, workdirs, overrides=overrides)


def _report(ledger: pages.Ledger, named: list[claims.Claim], options: argparse.Namespace) -> None:
    """Writes plots of the claims that were named, and every page that quotes the ledger."""
    for claim in named:
        results = [ledger.results(claim, name) for name in ledger.proxies_of(claim)]
        if results:
            drawing.save(plots.plot(results), claim.folder / pages.PLOT, about=plots.digest(results))
        else:
            (claim.folder / pages.PLOT).unlink(missing_ok=True)
        print(f"{claim.name:24} {ledger.verdict(claim)}")
    for path in pages.pages_of(options.experiments):
        if pages.write(path, ledger):
            print(f"wrote {path}")


def _keys(known: list[rows.Row]) -> set[tuple[str, str]]:
    return {(row["digest"], row["seed"]) for row in known}


def _proxy(ledger: pages.Ledger, name: str) -> claims.Proxy:
    if name not in ledger.proxies:
        raise AlexNetError(f"{name!r} is not a proxy: use one of {', '.join(ledger.proxies)}, of {claims.PROXIES}.")
    return ledger.proxies[name]


def _parser() -> argparse.ArgumentParser:
    shared = app.Parser(add_help=False)
    shared.add_argument("names", nargs="*", metavar="CLAIM", help="by name or number: lrn, 009 (default: all claims)")
    shared.add_argument("--experiments", type=Path, default=_CHECKOUT / "experiments", help=argparse.SUPPRESS)
    parser = app.Parser(
        prog="python -m experiments.ledger", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", parents=[shared], help="the claims, and how many of their runs have a row")
    run = commands.add_parser("run", parents=[shared], help="do the runs that have no row yet; resumes when killed")
    run.add_argument("--proxy", help="run the claims on this proxy, such as imagenet, instead of their own")
    run.add_argument("--seeds", type=app.whole(1, 1000), help="per variant (default: as the claim says)")
    run.add_argument("--plan", action="store_true", help="only print the commands of the runs, and how long they take")
    run.add_argument("--workdirs", type=Path, default=Path("runs/experiments"), help="folder of the runs (%(default)s)")
    run.add_argument("--data_dir", default="", help="where the data sets are, if not where TFDS keeps them")
    commands.add_parser("report", parents=[shared], help="write the tables, plots and verdicts from the rows")
    return parser
