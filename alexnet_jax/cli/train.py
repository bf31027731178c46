"""Train, evaluate, probe or describe AlexNet; python main.py and alexnet train take the same flags.

python main.py --config=configs/alexnet.py[:DATA] [--workdir=DIR] [--mode=MODE]
    MODE: train (default), eval, probe, summary
alexnet train --config=alexnet:my_pictures --config.train.epochs=5
alexnet train --mode=eval --workdir=runs/alexnet-my_pictures --config.data.eval_split=test --config.eval.views=center
"""

import functools
import os
import shlex
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from alexnet_jax import config as configs, exits, schema
from alexnet_jax.cli import devices
from alexnet_jax.cli.flags import HELP
from alexnet_jax.errors import AlexNetError

_FLAGS = flags.FLAGS

flags.DEFINE_string("config", "alexnet", HELP)
flags.DEFINE_string("workdir", None, "Where the run lives (default: runs/RECIPE-DATA)")
flags.DEFINE_enum("mode", "train", ("train", "eval", "probe", "summary"), "What to do")
flags.DEFINE_string("checkpoint", "latest", "With --mode=eval: latest, best or a step")
flags.DEFINE_string("predictions", None, "With --mode=eval: a CSV with the prediction of every image, worst first")
flags.DEFINE_integer("cpu_devices", None, "Run on this many virtual CPU devices", lower_bound=1, upper_bound=512)
flags.DEFINE_string(
    "compilation_cache", None, "The folder of compiled programs (default: in your own cache); empty: none"
)
# Several processes: docs/clusters.md.
flags.DEFINE_bool("distributed", None, "Join the processes of a cluster: by default where there is one")
flags.DEFINE_integer("processes", 1, "Start so many processes here", lower_bound=1, upper_bound=64)
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, outside of a known cluster")
flags.DEFINE_integer("num_processes", None, "How many processes there are", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Which one this is, from 0", lower_bound=0)
flags.DEFINE_string("local_devices", None, "The devices of this process: all, or numbers such as 0,1")
flags.DEFINE_float("start_timeout", 120.0, "Seconds to wait for all processes", lower_bound=1.0)
flags.DEFINE_float("peer_timeout", 30.0, "Seconds of silence until a process counts as lost", lower_bound=2.0)
flags.DEFINE_float(
    "hang_timeout", 600.0, "Seconds, at least, without progress until the run ends; 0: never", lower_bound=0.0
)
flags.register_validator(
    "workdir", lambda folder: not (folder or "").startswith("-"), message="names no folder: write --workdir=FOLDER"
)


def main(argv: list[str]) -> None:
    """Reads the flags and does what --mode says. Raises AlexNetError."""
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{__doc__}\n{_FLAGS.module_help(__name__)}\n\n--helpfull: the flags of JAX and absl too")
        return
    if "jax_platforms" not in _FLAGS:
        jax.config.config_with_absl()
    try:
        app.run(functools.partial(_run, argv), argv=["alexnet train", *argv], flags_parser=_parse)
    except SystemExit as end:  # as app.run ends
        if end.code:
            raise


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags but for --config.section.field=value, which are returned, with whatever else there is."""
    _FLAGS.unparse_flags()
    _FLAGS.set_gnu_getopt(True)
    _, *rest = _FLAGS(argv, known_only=True)
    if _FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.FATAL)  # what Orbax logs of an error, it raises too
    return rest


def _run(argv: list[str], rest: list[str]) -> None:
    workdir = Path(_FLAGS.workdir) if _FLAGS.workdir else None
    if _FLAGS.mode == "eval":
        _evaluate(argv, rest, workdir)
        return
    if _FLAGS.predictions is not None:
        raise AlexNetError("--predictions belongs to --mode=eval: add it, or leave --predictions out.")
    config = configs.find_recipe(_FLAGS.config)
    _override(config, rest)
    if _FLAGS.mode == "train":
        _train(argv, config, workdir or _default_workdir(_FLAGS.config, config.data.name))
        return
    _settle_devices()
    if _FLAGS.mode == "summary":
        from alexnet_jax import summary

        print(summary.summarize(config))
        return
    from alexnet_jax import builder
    from alexnet_jax.train import start

    print(start.describe_probe(builder.train_setup(config)))


def _settle_devices() -> None:
    devices.settle(cpu_devices=_FLAGS.cpu_devices, compilation_cache=_FLAGS.compilation_cache)


def _override(config: ConfigDict, rest: list[str]) -> list[str]:
    """Sets the fields of --config.section.field=value, ["section.field=value"]. Raises for any other argument."""
    overrides, rest = configs.override(config, rest)
    if positional := _FLAGS(["alexnet train", *rest])[1:]:
        raise AlexNetError(f"{positional[0]!r} is not an option: every option begins with --, see --help.")
    schema.check(config)
    return [f"{name}={value}" for name, value in overrides.items()]


def _train(argv: list[str], config: ConfigDict, workdir: Path) -> None:
    from alexnet_jax.cli import cluster, report, trackers
    from alexnet_jax.train import loop
    from alexnet_jax.train.watchdog import Watchdog

    status = 0
    joined = cluster.joined(_FLAGS, argv, cluster.facts_of(config))
    with Watchdog(_FLAGS.hang_timeout) as watchdog, joined as group:
        _settle_devices()
        try:
            run = loop.train(
                config, workdir,
                command=f"{program()} {shlex.join(argv)}",
                eval_command=f"{program()} --mode=eval --workdir={shlex.quote(str(workdir))}",
                group=group, watchdog=watchdog, open_trackers=lambda: trackers.opened(config, workdir),
            )  # fmt: skip
            report.after(run)
        except exits.Stopped as stop:
            status = 128 + stop.signal
    if group.count > 1:
        exits.exit_now(None, status=status)
    if status:
        sys.exit(status)


def _evaluate(argv: list[str], rest: list[str], workdir: Path | None) -> None:
    from alexnet_jax.cli import cluster
    from alexnet_jax.evaluate import evaluate_checkpoint
    from alexnet_jax.train import checksums
    from alexnet_jax.train.watchdog import Watchdog

    if workdir is None:
        config = configs.load_recipe(_FLAGS.config)
        workdir = _default_workdir(_FLAGS.config, config.data.name)
    checksums.restore_files(workdir)
    config = configs.load(workdir)  # before the devices start: they take seconds
    overrides = _override(config, rest)
    joined = cluster.joined(_FLAGS, argv, cluster.facts_of(config, checkpoint=_FLAGS.checkpoint))
    with Watchdog(_FLAGS.hang_timeout) as watchdog, joined as group:
        _settle_devices()
        evaluate_checkpoint(
            workdir, which=_FLAGS.checkpoint, overrides=overrides, group=group, watchdog=watchdog,
            predictions=Path(_FLAGS.predictions) if _FLAGS.predictions is not None else None,
        )  # fmt: skip
    if group.count > 1:
        exits.exit_now(None, status=0)


def program() -> str:
    """How this program was started, with the interpreter that has its packages."""
    if Path(sys.argv[0]).name == "main.py":
        return f"{shlex.quote(os.path.relpath(sys.executable))} {shlex.quote(sys.argv[0])}"
    return "alexnet train"


def _default_workdir(recipe: str, data_name: str) -> Path:
    stem = Path(recipe.partition(":")[0]).stem
    return Path(f"runs/{stem}-{data_name.replace('/', '-').replace(':', '-')}")
