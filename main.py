"""Trains, evaluates or describes AlexNet.

python main.py --config=configs/alexnet.py[:DATA] [--workdir=DIR] [--mode=train|eval|probe|summary|bench_input]
"""

import ast
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax import AlexNetError, config as configs

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "alexnet.py"
CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, with its data set: configs/alexnet.py:cifar10")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives (default: runs/<config>-<data>)")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "probe", "summary", "bench_input"], "What to do")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "With --mode=eval: latest, best or a step")
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", None, "Run on this many virtual CPU devices", lower_bound=1)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes (jax.distributed.initialize)")


def main(argv: list[str]) -> None:
    """Settles the devices and the config, and hands over."""
    if argv[1:]:
        raise AlexNetError(f"{argv[1]!r} is no option of main.py: every option begins with --, see --help.")
    if CPU_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES.value)
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    logging.set_verbosity(logging.ERROR)  # orbax warns of every checkpoint that is not an evaluated one
    config = CONFIG.value
    workdir = Path(
        WORKDIR.value or f"runs/{_config_path().stem}-{config.data.name.replace('/', '-').replace(':', '-')}"
    )
    from alexnet_jax import bench_input, run, summary  # after the devices are settled

    if MODE.value == "eval":
        config = configs.load(workdir)
        config.mesh.tower = 0  # the devices are those of here, not those of the training
        config.update_from_flattened_dict(config_flags.get_override_values(flags.FLAGS["config"]))
    configs.check(config)
    if MODE.value == "summary":
        print(summary.summarize(config))
    elif MODE.value == "probe":
        print(run.probe_start(config))
    elif MODE.value == "bench_input":
        print(bench_input.bench_input(config))
    elif MODE.value == "eval":
        run.evaluate_checkpoint(config, workdir, which=CHECKPOINT.value)
    else:
        eval_command = f"{_program()} --mode=eval --workdir={shlex.quote(str(workdir))}"
        try:
            run.Run(
                config, workdir, command=f"{_program()} {shlex.join(sys.argv[1:])}", eval_command=eval_command
            ).train()
        except run.Interrupted as stop:
            sys.exit(128 + stop.signal)


def _config_path() -> Path:
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])


def _program() -> str:
    """How this program was started, with the interpreter that has its packages."""
    return f"{shlex.quote(os.path.relpath(sys.executable))} {shlex.quote(sys.argv[0])}"


# ---------------------------------------------------------------- errors for people

_CONFIG_FLAG = r"(?m)^--?config[=\n](.*)$"
_TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a tuple, such as (1, 2)",
    str: "text",
}


def _parse(argv: list[str]) -> list[str]:
    """The flags, or AlexNetError with one sentence that names the one that cannot be."""
    if not re.search(_CONFIG_FLAG, "\n".join(argv)):
        argv = [argv[0], f"--config={DEFAULT_CONFIG}", *argv[1:]]
    path, data_name = _recipe(argv)
    # ml_collections wants the file before the fields that are set in it, and looks for them in sys.argv.
    argv = sys.argv = [argv[0], f"--config={path}{':' * bool(data_name)}{data_name}", *_without_recipe(argv[1:])]
    if not path.exists():
        raise AlexNetError(f"--config={path}: there is no such file; the recipes are in {DEFAULT_CONFIG.parent}.")
    try:
        rest = flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        raise AlexNetError(_explain_override(argv) or f"{error}.") from None
    except flags.Error as error:
        raise AlexNetError(f"{str(error).splitlines()[0]}: see --help.") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        explanation = _explain_override(argv)
        if explanation is None:
            raise
        raise AlexNetError(explanation) from error
    return list(rest)


def _recipe(argv: list[str]) -> tuple[Path, str]:
    """The config file of --config=FILE[:DATA] or --config FILE[:DATA], and its data set ("" for its default)."""
    path, _, data_name = re.findall(_CONFIG_FLAG, "\n".join(argv))[-1].partition(":")
    return Path(path), data_name


def _without_recipe(arguments: list[str]) -> list[str]:
    """The arguments but --config=FILE[:DATA] or --config FILE[:DATA]."""
    values = {i + 1 for i, argument in enumerate(arguments) if argument in ("--config", "-config")}
    return [
        argument
        for i, argument in enumerate(arguments)
        if i not in values and not re.fullmatch(r"--?config(=.*)?", argument)
    ]


def _explain_override(argv: list[str]) -> str | None:
    """Which --config.section.field=value names no field, or has a value of another type."""
    path, data_name = _recipe(argv)
    get_config = runpy.run_path(str(path))["get_config"]
    config = get_config(data_name) if data_name else get_config()
    for arg in argv:
        if not arg.lstrip("-").startswith("config."):
            continue
        name, _, value = arg.lstrip("-").partition("=")
        here, at = config, "config"
        for key in name.split(".")[1:]:
            if not hasattr(here, "keys"):
                return f"--{name}: {at} is a single value, without fields of its own."
            if key not in here:
                return f"--{name}: {at} has no field {key!r}; it has {', '.join(here.keys())}."
            here, at = here[key], f"{at}.{key}"
        if hasattr(here, "keys"):
            return f"--{name}: this is a section; set one of its fields: {', '.join(here.keys())}."
        if not _reads_as(type(here), value):
            return f"--{name}={value}: it must be {_TYPES[type(here)]}."
    return None


def _reads_as(kind: type, text: str) -> bool:
    try:
        if kind is bool:
            return text.lower() in ("true", "false", "t", "f", "0", "1", "")
        return isinstance(ast.literal_eval(text), (int, float) if kind is float else kind)
    except (ValueError, SyntaxError):
        return kind is str


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=_parse)
    except AlexNetError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted before anything had to be saved")
