"""The command line of every command that takes a recipe: --config=RECIPE[:DATA] --config.section.field=value."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import config as configs, schema
from alexnet_jax.errors import AlexNetError

HELP = (
    "--config=RECIPE[:DATA]: a recipe by its name or file, with its data set; --config.section.field=value sets a "
    "field of it, such as --config.model.towers=1"
)


def take_recipe(
    argv: Sequence[str], *, default: str | None = "alexnet", data: str = ""
) -> tuple[str, ConfigDict, list[str]]:
    """(RECIPE[:DATA], its config with the fields of `argv` set, the other arguments), also from a --flagfile.

    `data` is the data set of a recipe that is named without one, instead of its own. Raises AlexNetError.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # options may follow the arguments without a name
    flags.DEFINE_string("config", default, HELP, flag_values=values)
    _, *rest = values(["", *argv], known_only=True)
    if values.config is None:
        raise AlexNetError(f"Which recipe is missing: {HELP}.")
    text = values.config if ":" in values.config or not data else f"{values.config}:{data}"
    config = configs.find_recipe(text)
    _, rest = configs.override(config, rest)
    schema.check(config)
    return values.config, config, rest
