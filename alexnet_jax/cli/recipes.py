"""alexnet recipes: the networks there are, with their numbers."""

from alexnet_jax import catalog
from alexnet_jax.cli import border


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = border.Parser(prog="alexnet recipes", description="the networks there are, with their numbers")
    parser.add_argument("--markdown", action="store_true", help="as the table of docs/recipes.md")
    options = parser.parse_args(argv)
    found = catalog.recipes()
    print(catalog.markdown(found) if options.markdown else repr(found))
