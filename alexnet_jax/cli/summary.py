"""alexnet summary, or --mode=summary: the network as a table, where it lies, and what is often said wrongly of it."""

from alexnet_jax.cli import app
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.summary import summarize


def main(argv: list[str]) -> None:
    """Prints the summary of a recipe. Raises AlexNetError."""
    _, config, rest = take_recipe(argv, data="imagenet2012")
    description = "A recipe's network as a table; it needs no data. Without DATA it is ImageNet's."
    app.Parser(prog="alexnet summary", description=description, epilog=HELP).parse_args(rest)
    print(summarize(config))
