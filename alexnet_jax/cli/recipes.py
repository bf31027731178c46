"""alexnet recipes: the networks there are, with their numbers."""

from alexnet_jax import summary
from alexnet_jax.cli import app


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = app.parser_of(__doc__)
    parser.add_argument("--markdown", action="store_true", help="as the table of docs/recipes.md")
    options = parser.parse_args(argv)
    found = summary.recipes()
    print(summary.markdown(found) if options.markdown else repr(found))
