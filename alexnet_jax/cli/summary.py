"""alexnet summary: a network as a table, and where its towers meet; it needs no data."""

from alexnet_jax.cli import app
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.summary import summarize


def main(argv: list[str]) -> None:
    """Prints the summary of a recipe. Raises AlexNetError."""
    _, config, rest = take_recipe(argv, data="imagenet2012")
    app.parser_of(__doc__, epilog=f"{HELP}. Without DATA it is ImageNet's.").parse_args(rest)
    print(summarize(config))
