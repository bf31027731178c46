"""Train, evaluate, probe or describe AlexNet; python main.py and alexnet train take the same flags.

python main.py --config=configs/alexnet.py[:DATA] [--workdir=DIR] [--mode=MODE]
    MODE: train (default), eval, probe, summary
alexnet train --config=alexnet:my_pictures --config.train.epochs=5
alexnet train --mode=eval --workdir=runs/alexnet-my_pictures --config.data.eval_split=test --config.eval.views=center
"""

import itertools
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import config as configs, memory
from alexnet_jax.cli import devices
from alexnet_jax.cli.overrides import split_overrides
from alexnet_jax.errors import AlexNetError

_MODES = ("train", "eval", "probe", "summary")
_FLAGS = flags.FlagValues()
_KINDS = {
    "cpu_devices": "a whole number from 1 to 512",
    "distributed": "true or false",
    "processes": "a whole number from 1 to 64",
    "num_processes": "a whole number, at least 1",
    "process_id": "a whole number, at least 0",
    "start_timeout": "a number of seconds, at least 1",
    "peer_timeout": "a number of seconds, at least 2",
    "hang_timeout": "a number of seconds, 0 for no end",
}
_DEFAULT = "alexnet"

flags.DEFINE_string(
    "config", _DEFAULT, "The recipe by name or path, with its data set: half:cifar10", flag_values=_FLAGS
)
flags.DEFINE_string("workdir", None, "Where the run lives (default: runs/<config>-<data>)", flag_values=_FLAGS)
flags.DEFINE_enum("mode", "train", _MODES, "What to do", flag_values=_FLAGS)
flags.DEFINE_string("checkpoint", "latest", "With --mode=eval: latest, best or a step", flag_values=_FLAGS)
flags.DEFINE_string(
    "predictions", None, "With --mode=eval: a CSV of every image's answers, the worst mistakes first",
    flag_values=_FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "cpu_devices", None, "Run on this many virtual CPU devices", lower_bound=1, upper_bound=512, flag_values=_FLAGS
)
flags.DEFINE_string(
    "compilation_cache", None, "The folder of compiled programs (default: in your own cache); empty: none",
    flag_values=_FLAGS,
)  # fmt: skip
# Several processes: docs/clusters.md.
flags.DEFINE_bool(
    "distributed", None, "Join the processes of a cluster: by default where there is one, --nodistributed: never",
    flag_values=_FLAGS,
)  # fmt: skip
flags.DEFINE_integer("processes", 1, "Start so many processes here", lower_bound=1, upper_bound=64, flag_values=_FLAGS)
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, outside of a known cluster", flag_values=_FLAGS)
flags.DEFINE_integer("num_processes", None, "How many processes there are", lower_bound=1, flag_values=_FLAGS)
flags.DEFINE_integer("process_id", None, "Which one this is, from 0", lower_bound=0, flag_values=_FLAGS)
flags.DEFINE_string(
    "local_devices", None, "The devices of this process: all, or numbers such as 0,1", flag_values=_FLAGS
)
flags.DEFINE_float("start_timeout", 120.0, "Seconds to wait for all processes", lower_bound=1.0, flag_values=_FLAGS)
flags.DEFINE_float("peer_timeout", 30.0, "Seconds of silence until one is lost", lower_bound=2.0, flag_values=_FLAGS)
flags.DEFINE_float(
    "hang_timeout", 600.0, "Seconds, at least, in which nothing moves until the run ends; 0: never",
    lower_bound=0.0, flag_values=_FLAGS,
)  # fmt: skip


def main(argv: list[str]) -> None:
    """Reads the flags and hands over: one call per mode. Raises AlexNetError."""
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{__doc__}\n{_FLAGS.main_module_help() or _FLAGS.get_help()}")
        print("  --config.section.field: any field of the recipe, such as --config.train.batch_size=64")
        return
    overrides, rest = split_overrides(argv)
    _parse(rest)
    workdir = Path(_FLAGS.workdir) if _FLAGS.workdir else None
    if _FLAGS.mode == "eval":
        _evaluate(argv, overrides, workdir)
        return
    if _FLAGS.predictions is not None:
        raise AlexNetError("--predictions belongs to --mode=eval: add it, or leave --predictions out.")
    config = configs.load_recipe(_FLAGS.config, overrides)
    if _FLAGS.mode == "train":
        _train(argv, config, workdir or _default_workdir(_FLAGS.config, config.data.name))
        return
    devices.settle(cpu_devices=_FLAGS.cpu_devices, compilation_cache=_FLAGS.compilation_cache)
    if _FLAGS.mode == "summary":
        from alexnet_jax.cli import summary

        print(summary.summarize(config))
        return
    memory.check(config, training=False)
    from alexnet_jax.train import start

    print(start.probe_start(config))


def _train(argv: list[str], config: ConfigDict, workdir: Path) -> None:
    from alexnet_jax.cli import cluster, report
    from alexnet_jax.train import loop, signals, watchdog as watch

    status = 0
    joined = cluster.joined(_FLAGS, argv, cluster.facts_of(config))
    with watch.Watch(_FLAGS.hang_timeout) as watching, joined as peers:
        devices.settle(cpu_devices=_FLAGS.cpu_devices, compilation_cache=_FLAGS.compilation_cache)
        memory.check(config, training=True)
        try:
            run = loop.train(
                config, workdir,
                command=f"{program()} {shlex.join(argv)}",
                eval_command=f"{program()} --mode=eval --workdir={shlex.quote(str(workdir))}",
                peers=peers, watch=watching,
            )  # fmt: skip
            report.after(run)
        except signals.Interrupted as stop:
            status = 128 + stop.signal
    if status:
        sys.exit(status)


def _evaluate(argv: list[str], overrides: list[str], workdir: Path | None) -> None:
    from alexnet_jax.cli import cluster
    from alexnet_jax.train import checksums as sums, evaluation, watchdog as watch

    if workdir is None:
        config = configs.load_recipe(_FLAGS.config)
        workdir = _default_workdir(_FLAGS.config, config.data.name)
    sums.mend(workdir)
    config = configs.load(workdir, overrides)  # before the devices start: they take seconds
    joined = cluster.joined(_FLAGS, argv, cluster.facts_of(config, checkpoint=_FLAGS.checkpoint))
    with watch.Watch(_FLAGS.hang_timeout) as watching, joined as peers:
        devices.settle(cpu_devices=_FLAGS.cpu_devices, compilation_cache=_FLAGS.compilation_cache)
        memory.check(config, training=False)
        evaluation.evaluate_checkpoint(
            workdir,
            which=_FLAGS.checkpoint,
            overrides=overrides,
            predictions=Path(_FLAGS.predictions) if _FLAGS.predictions is not None else None,
            peers=peers,
            watch=watching,
        )


def program() -> str:
    """How this program was started, with the interpreter that has its packages."""
    import os

    if Path(sys.argv[0]).name == "main.py":
        return f"{shlex.quote(os.path.relpath(sys.executable))} {shlex.quote(sys.argv[0])}"
    return "alexnet train"


def _parse(arguments: list[str]) -> None:
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        flag = argument.lstrip("-") if argument.startswith("-") else ""
        if flag in _FLAGS and not _FLAGS[flag].boolean and after.startswith("--"):
            raise AlexNetError(f"{argument} has no value: write {argument}=VALUE.")
    _FLAGS.unparse_flags()
    try:
        left = _FLAGS(["alexnet", *arguments])
    except flags.UnrecognizedFlagError as error:
        raise AlexNetError(f"--{error.flagname} is an unknown option: see --help.") from None
    except flags.IllegalFlagValueError as error:
        given, _, why = str(error).splitlines()[0].removeprefix("flag ").partition(": ")
        kind = _KINDS.get(given.partition("=")[0].lstrip("-"), why.removeprefix("value should be "))
        raise AlexNetError(f"{given} is not possible: it must be {kind}.") from None
    except flags.Error as error:
        raise AlexNetError(f"{str(error).splitlines()[0].rstrip('.')}: see --help.") from None
    if left[1:]:
        raise AlexNetError(f"{left[1]!r} is an unknown option: every option begins with --, see --help.")


def _default_workdir(recipe: str, data_name: str) -> Path:
    stem = Path(recipe.partition(":")[0]).stem
    return Path(f"runs/{stem}-{data_name.replace('/', '-').replace(':', '-')}")
