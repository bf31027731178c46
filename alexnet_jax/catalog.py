"""The recipes by name, each with the numbers that tell it from the others."""

import dataclasses
import textwrap
from typing import Any

from alexnet_jax import config as configs, parts
from alexnet_jax.model import alexnet as models, placement, table

_HEAD = (
    "recipe",
    "what it is",
    "conv1",
    "conv2",
    "towers meet at",
    "parameters",
    "multiply-adds",
    "run to its end here",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One network: its name, its title, and its numbers with 1000 classes."""

    name: str
    title: str
    towers: int
    conv1: str  # the post-ops of the first layer, in order
    conv2: str
    towers_meet_at: tuple[str, ...]
    parameters: int
    multiply_adds: int  # per image
    image_pixels: int

    def __str__(self) -> str:
        towers = "1 tower" if self.towers == 1 else f"{self.towers} towers"
        numbers = f"{self.parameters:10,} parameters {self.multiply_adds:11,} multiply-adds  {towers}"
        return f"{self.name:22}{numbers}\n{textwrap.indent(textwrap.fill(self.title, 76), '    ')}"


class Recipes(list[Recipe]):
    """A list of recipes that a terminal shows in 80 columns and a notebook as a table."""

    def __repr__(self) -> str:
        return "\n".join(("With 1000 classes, multiply-adds per image:", *map(str, self)))

    def _repr_markdown_(self) -> str:
        return markdown(self)


def recipes() -> Recipes:
    """All networks of the package with their numbers, for 1000 classes; takes a few seconds."""
    return Recipes(_recipe(name) for name in configs.recipe_names())


def build(name: str, classes: int = 1000) -> tuple[models.AlexNet, int]:
    """(the network of a recipe, its input's pixels). Raises AlexNetError for a name that is not one."""
    config = configs.recipe_module(name).get_config("imagenet2012")
    return parts.network(config, classes), config.data.crop_pixels


def title(name: str) -> str:
    """The first sentence of a recipe's docstring."""
    module: Any = configs.recipe_module(name)
    text: str = module.__doc__.strip().split("\n\n")[0].replace("\n", " ")
    return text.rstrip(".")


def _recipe(name: str) -> Recipe:
    model, pixels = build(name)
    rows = table.rows(model, pixels)
    post_ops = {layer.name: " ".join(layer.post_ops) for layer in model.stack}
    meet = tuple(row.name for row in placement.table(model) if row.exchange and row.name != placement.LOGITS)
    return Recipe(
        name, title(name), model.towers,
        conv1=post_ops.get("conv1", "none"),
        conv2=post_ops.get("conv2", "none"),
        towers_meet_at=meet if model.towers > 1 else (),
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.macs for row in rows),
        image_pixels=pixels,
    )  # fmt: skip


def markdown(found: list[Recipe]) -> str:
    """The recipes as a Markdown table; docs/recipes.md has it.

    Nobody has run one of them on ImageNet to its end here; the default recipe was, on the digits.
    """
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for r in found:
        ran = "on the digits" if r.name == "alexnet" else "no"
        where = " ".join(r.towers_meet_at) or "one tower"
        lines.append(
            (f"`{r.name}`", r.title, r.conv1, r.conv2, where, f"{r.parameters:,}", f"{r.multiply_adds:,}", ran)
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
