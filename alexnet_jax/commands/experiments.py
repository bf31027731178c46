"""alexnet experiments: the claims about AlexNet, the runs that test them, and what the runs say."""

import argparse
from pathlib import Path

from alexnet_jax import ending
from alexnet_jax.commands import border
from alexnet_jax.errors import AlexNetError
from alexnet_jax.evidence import claims, plans, rows, runner

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str]) -> None:
    """Lists, runs or reports. Raises AlexNetError."""
    options = _parser().parse_args(argv)
    {"list": _list, "run": _run, "report": _report}[options.what](options)


def _list(options: argparse.Namespace) -> None:
    """A line for each claim: how many of its runs there are rows of."""
    proxies, known = claims.read_proxies(options.experiments), _known(options.experiments)
    for claim in claims.read_claims(options.experiments):
        there = []
        for name, seeds in claim.seeds.items():
            wanted = plans.planned(claim, proxies[name], seeds)
            there.append(f"{name} {sum(run.key in known for run in wanted)}/{len(wanted)}")
        print(f"{claim.name:24} {', '.join(there):32} {claim.question}")


def _run(options: argparse.Namespace) -> None:
    """Runs what is missing of the claims that were named."""
    root = options.experiments
    proxies = claims.read_proxies(root)
    if options.proxy and options.proxy not in proxies:
        raise AlexNetError(f"--proxy={options.proxy} is not a proxy: use one of {', '.join(proxies)}.")
    named = [claims.claim_named(root, name) for name in options.names] if options.names else claims.read_claims(root)
    wanted = _wanted(named, proxies, options)
    known = _known(root)
    missing = [run for run in wanted if run.key not in known]
    print(f"{len(wanted):,} runs, {len(wanted) - len(missing):,} of them have a row; {len(missing):,} to run")
    for line in _cost(missing, rows.read(root)):
        print(line)
    if options.plan:
        for run in missing:
            print(f"  {run.proxy.name}  {run.what}  seed {run.seed}  {run.digest}")
        return
    ending.note(lambda: "every run that has ended has its row, and the others resume with the same command")
    keep = frozenset(_members(claims.read_claims(root), proxies))
    where = [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    for group in runner.groups(missing):
        runner.run_all(group, root, options.workdirs, keep=keep, overrides=where, say=_say)


def _wanted(
    named: list[claims.Claim], proxies: dict[str, claims.Proxy], options: argparse.Namespace
) -> list[plans.Planned]:
    """The runs of the claims, on the proxy that was asked for or on each claim's own; each once."""
    found = list[plans.Planned]()
    for claim in named:
        for name in [options.proxy] if options.proxy else claim.seeds:
            if name not in proxies:
                raise AlexNetError(f"{claim.folder / claims.FILE}: {name!r} is not a proxy: see {claims.PROXIES}.")
            seeds = options.seeds or claim.seeds.get(name, 1)
            found += plans.planned(claim, proxies[name], seeds)
    return list({run.key: run for run in found}.values())


def _members(every: list[claims.Claim], proxies: dict[str, claims.Proxy]) -> list[str]:
    """The digests of what ensembles are made of: their weights are still needed when they have ended."""
    return [
        plans.variant_run(claim.variants[variant.of], proxies[name], 0).digest
        for claim in every
        for variant in claim.variants.values()
        if variant.of
        for name in claim.seeds
    ]


def _known(root: Path) -> set[tuple[str, str]]:
    return {(row["digest"], row["seed"]) for row in rows.read(root)}


def _say(line: str) -> None:
    print(line, flush=True)


def _cost(missing: list[plans.Planned], known: list[rows.Row]) -> list[str]:
    return []


def _report(options: argparse.Namespace) -> None:
    raise AlexNetError("not yet")


def _parser() -> argparse.ArgumentParser:
    parser = border.Parser(
        prog="alexnet experiments", description=(__doc__ or "").partition(": ")[2], allow_abbrev=False
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
