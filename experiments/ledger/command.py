"""python -m experiments.ledger: the claims about AlexNet, the runs that test them, and what the runs say."""

import argparse
import shlex
import sys
from pathlib import Path

from alexnet_jax import ending, progress as bars
from alexnet_jax.cli import border
from alexnet_jax.errors import AlexNetError
from alexnet_jax.figures import drawing
from experiments.ledger import claims, costs, pages, plans, plots, rows, runner

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str]) -> None:
    """Lists, runs or reports. Raises AlexNetError."""
    options = _parser().parse_intermixed_args(argv)
    {"list": _list, "run": _run, "report": _report}[options.what](options)


def _list(options: argparse.Namespace) -> None:
    """A line for each claim: how many of its runs there are rows of."""
    everything, known = claims.read_claims(options.experiments), _known(options.experiments)
    proxies = claims.read_proxies(options.experiments)
    for claim in everything:
        there = []
        for name, seeds in claim.seeds.items():
            wanted = plans.planned(claim, proxies[name], seeds)
            there.append(f"{name} {sum(run.key in known for run in wanted)}/{len(wanted)}")
        print(f"{claim.name:24} {', '.join(there):42} {claim.question}")


def _run(options: argparse.Namespace) -> None:
    """Runs what is missing of the claims that were named."""
    root = options.experiments
    everything, proxies = claims.read_claims(root), claims.read_proxies(root)
    if options.proxy and options.proxy not in proxies:
        raise AlexNetError(f"--proxy={options.proxy} is not a proxy: use one of {', '.join(proxies)}.")
    named = [claims.claim_named(root, name) for name in options.names] or everything
    pairs = [(claim, proxies[name]) for claim in named for name in _proxies_of(claim, proxies, options)]
    wanted = list({run.key: run for pair in pairs for run in plans.planned(*pair, _seeds(*pair, options))}.values())
    known = _known(root)
    needed = {member for pair in pairs for member in plans.members(*pair, _seeds(*pair, options), known)}
    missing = [run for run in wanted if run.key not in known or (run.key in needed and not _is_here(run, options))]
    print(f"{len(wanted):,} runs, {len(wanted) - len(missing):,} of them have a row; {len(missing):,} to run")
    for line in costs.in_words(missing, rows.read(root), at_a_time=len(runner.slots(missing))):
        print(line)
    if options.plan:
        print("\n".join(f"  {shlex.join(runner.command_of(run))}" for run in missing))
        return
    ending.note(lambda: "every run that has ended has its row, and the others resume with the same command")
    where = [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    every = [
        (claim, proxies[name]) for claim in everything for name in {*claim.seeds, options.proxy} if name in proxies
    ]
    keep = {member for pair in every for member in plans.members(*pair, _seeds(*pair, options), known)}
    for group in runner.groups(missing):
        runner.run_all(group, root, options.workdirs, keep=keep, overrides=where, say=_say)
    for claim, proxy in pairs:
        seeds = _seeds(claim, proxy, options)
        runner.add_ensembles(claim, proxy, seeds, root, options.workdirs, overrides=where, say=_say)


def _proxies_of(claim: claims.Claim, proxies: dict[str, claims.Proxy], options: argparse.Namespace) -> list[str]:
    """The proxy that was asked for, or the claim's own. Raises AlexNetError."""
    if options.proxy:
        return [options.proxy]
    if unknown := [name for name in claim.seeds if name not in proxies]:
        raise AlexNetError(f"{claim.folder / claims.FILE}: {unknown[0]!r} is not a proxy: see {claims.PROXIES}.")
    return list(claim.seeds)


def _seeds(claim: claims.Claim, proxy: claims.Proxy, options: argparse.Namespace) -> int:
    return int(options.seeds or claim.seeds.get(proxy.name, 1))


def _is_here(run: plans.Planned, options: argparse.Namespace) -> bool:
    """Whether the weights of a run that ended are in its workdir still, for the ensembles that it belongs to."""
    return (options.workdirs / run.name / "checkpoints").is_dir()


def _known(root: Path) -> set[tuple[str, str]]:
    return {(row["digest"], row["seed"]) for row in rows.read(root)}


def _say(line: str) -> None:
    bars.write(line)
    sys.stdout.flush()


def _report(options: argparse.Namespace) -> None:
    """Writes the tables and plots anew: of the claims' pages, and of every page that quotes the ledger."""
    root = options.experiments
    everything = claims.read_claims(root)
    named = {claims.claim_named(root, name).name for name in options.names}
    ledger = pages.Ledger(everything, claims.read_proxies(root), rows.read(root))
    for claim in everything:
        if named and claim.name not in named:
            continue
        found = [ledger.results(claim, name) for name in ledger.proxies_of(claim)]
        if not found:
            (claim.folder / pages.PLOT).unlink(missing_ok=True)
        else:
            drawing.save(plots.plot(found), claim.folder / pages.PLOT, about=plots.digest(found))
        print(f"{claim.name:24} {ledger.in_all(claim)}")
    for path in pages.of(root):
        if pages.write(path, ledger):
            print(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = border.Parser(
        prog="python -m experiments.ledger", description=(__doc__ or "").partition(": ")[2], allow_abbrev=False
    )
    parser.add_argument(
        "what", choices=["list", "run", "report"], help="list or run the claims, or write what runs say"
    )
    parser.add_argument("names", nargs="*", help="claims, by name or number (default: all)")
    parser.add_argument("--proxy", help="run them on this one, such as imagenet, instead of each claim's own")
    parser.add_argument("--seeds", type=border.whole(1, 1000), help="of each variant (default: as the claim says)")
    parser.add_argument("--plan", action="store_true", help="only say what would be run, and what it would cost")
    parser.add_argument("--workdirs", type=Path, default=Path("runs/experiments"), help="of the runs (%(default)s)")
    parser.add_argument("--data_dir", default="", help="where the data lie, if not where TFDS keeps them")
    parser.add_argument("--experiments", type=Path, default=_CHECKOUT / "experiments", help=argparse.SUPPRESS)
    return parser
