"""What `alexnet summary` prints: the table, the order of the operations, and the placement."""

import re

import pytest

from alexnet_jax import config as configs, summary
from alexnet_jax.cli import summary as command
from alexnet_jax.errors import AlexNetError


def _summary(recipe: str, *overrides: str, classes: int | None = None) -> str:
    return summary.summarize(configs.load_recipe(recipe, overrides), classes=classes)


def _plain(text: str) -> str:
    return " ".join(text.split())


def test_summary_of_alexnet() -> None:
    text = _summary("alexnet:imagenet2012")
    lines = text.splitlines()
    assert lines[0] == "1000 classes (imagenet2012), 2 towers, images of 224 x 224 pixels"
    assert "conv1  224x224x3  11x11x3/4 pad 0+3  55x55x48   image      34,944    105,415,200" in lines
    assert "conv3  13x13x256  3x3x256/1 pad 1    13x13x192  both      885,120    149,520,384" in lines
    assert "pool5  13x13x128  3x3/2 max          6x6x128    own             0              0" in lines
    assert re.search(r"^total +60,965,224 +724,406,816$", text, re.MULTILINE)
    assert "  conv2 -> relu2 -> norm2 -> spatial_norm2 -> pool2" in lines
    assert "Each sends every other one 30,836 numbers per image" in _plain(text)


def test_summary_names_the_hybrid_placement() -> None:
    """What of the network is where, by which scheme of the paper, and what crosses."""
    text = _plain(_summary("alexnet:imagenet2012", "mesh.hybrid=True"))
    assert "the hybrid of 2014 (One weird trick, scheme (a)). Every device has all layers before fc6" in text
    assert "(per tower 2,048 of fc6, 2,048 of fc7, 500 of fc8)" in text
    assert "Before fc6 each device sends the others 9,216 numbers per image of its own, before fc7 and fc8" in text
    assert "sends the others 9,216" in _plain(_summary("torchvision", "mesh.hybrid=True", classes=1000))


@pytest.mark.parametrize("recipe", configs.recipe_names())
def test_summary_fits_a_terminal(recipe: str) -> None:
    lines = _summary(f"{recipe}:imagenet2012").splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("---"))
    last = next(i for i, line in enumerate(lines) if line.startswith("total"))
    assert max(len(line) for line in lines[: rule - 1] + lines[last + 1 :]) <= 80
    assert max(map(len, lines)) <= (86 if recipe.startswith("alexnet_bn") else 80)  # "batch_norm1" is a long name


def test_summary_command_takes_a_recipe_and_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--config=half", "--config.model.fc7.features=5"])
    printed = capsys.readouterr().out
    assert printed.startswith("1000 classes (imagenet2012), 1 tower, images of 224 x 224 pixels\n")
    assert re.search(r"^fc7 +4096 +4096x5 +5 +20,485 +20,480$", printed, re.MULTILINE)
    command.main(["--config=half:digits"])
    assert capsys.readouterr().out.startswith("10 classes (digits), 1 tower, ")
    with pytest.raises(AlexNetError, match="--foo"):
        command.main(["--config=half", "--foo"])
