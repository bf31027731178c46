"""Train, evaluate, probe or describe AlexNet; python main.py and alexnet train take the same flags.

python main.py --config=configs/alexnet.py[:DATA] [--workdir=DIR] [--mode=train|eval|probe|summary|bench_input]
alexnet train --config=alexnet:my_pictures --config.train.epochs=5
alexnet train --mode=eval --workdir=runs/alexnet-my_pictures --config.data.eval_split=test --config.eval.views=center
"""

import itertools
import shlex
import sys
from pathlib import Path

from absl import flags

from alexnet_jax import config as configs, memory
from alexnet_jax.commands import devices
from alexnet_jax.commands.overrides import split_overrides
from alexnet_jax.errors import AlexNetError

_MODES = ("train", "eval", "probe", "summary", "bench_input")
_FLAGS = flags.FlagValues()
_DEFAULT = "alexnet"

flags.DEFINE_string(
    "config", _DEFAULT, "The recipe by name or path, with its data set: half:cifar10", flag_values=_FLAGS
)
flags.DEFINE_string("workdir", None, "Where the run lives (default: runs/<config>-<data>)", flag_values=_FLAGS)
flags.DEFINE_enum("mode", "train", _MODES, "What to do", flag_values=_FLAGS)
flags.DEFINE_string("checkpoint", "latest", "With --mode=eval: latest, best or a step", flag_values=_FLAGS)
flags.DEFINE_integer(
    "cpu_devices", None, "Run on this many virtual CPU devices", lower_bound=1, upper_bound=512, flag_values=_FLAGS
)
flags.DEFINE_bool("distributed", False, "One of several processes (jax.distributed.initialize)", flag_values=_FLAGS)


def main(argv: list[str]) -> None:
    """Reads the flags and hands over: one call per mode. Raises AlexNetError."""
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{__doc__}\n{_FLAGS.main_module_help() or _FLAGS.get_help()}")
        print("  --config.section.field: any field of the recipe, such as --config.train.batch_size=64")
        return
    overrides, rest = split_overrides(argv)
    _parse(rest)
    mode, workdir = _FLAGS.mode, Path(_FLAGS.workdir) if _FLAGS.workdir else None
    if mode == "eval":
        if workdir is None:
            config = configs.load_recipe(_FLAGS.config)
            workdir = _default_workdir(_FLAGS.config, config.data.name)
        config = configs.load(workdir, overrides)  # before the devices start: they take seconds
        devices.settle(cpu_devices=_FLAGS.cpu_devices, distributed=_FLAGS.distributed)
        memory.check(config, training=False)
        from alexnet_jax.training import evaluation

        evaluation.evaluate_checkpoint(workdir, which=_FLAGS.checkpoint, overrides=overrides)
        return
    config = configs.load_recipe(_FLAGS.config, overrides)
    devices.settle(cpu_devices=_FLAGS.cpu_devices, distributed=_FLAGS.distributed)
    if mode == "summary":
        from alexnet_jax.commands import summary

        print(summary.summarize(config))
        return
    memory.check(config, training=mode != "probe")
    if mode == "probe":
        from alexnet_jax.training import start

        print(start.probe_start(config))
    elif mode == "bench_input":
        from alexnet_jax.commands import bench_input

        print(bench_input.bench_input(config))
    else:
        from alexnet_jax.training import loop, signals

        workdir = workdir or _default_workdir(_FLAGS.config, config.data.name)
        eval_command = f"{program()} --mode=eval --workdir={shlex.quote(str(workdir))}"
        try:
            loop.train(config, workdir, command=f"{program()} {shlex.join(argv)}", eval_command=eval_command)
        except signals.Interrupted as stop:
            sys.exit(128 + stop.signal)


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
        kinds = {"cpu_devices": "a whole number from 1 to 512", "distributed": "true or false"}
        kind = kinds.get(given.partition("=")[0].lstrip("-"), why.removeprefix("value should be "))
        raise AlexNetError(f"{given} is not possible: it must be {kind}.") from None
    except flags.Error as error:
        raise AlexNetError(f"{str(error).splitlines()[0].rstrip('.')}: see --help.") from None
    if left[1:]:
        raise AlexNetError(f"{left[1]!r} is an unknown option: every option begins with --, see --help.")


def _default_workdir(recipe: str, data_name: str) -> Path:
    stem = Path(recipe.partition(":")[0]).stem
    return Path(f"runs/{stem}-{data_name.replace('/', '-').replace(':', '-')}")
