"""The command line of a recipe has the grammar of ml_collections.config_flags; recipes may be as others write them."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as configs
from alexnet_jax.cli.flags import take_recipe
from alexnet_jax.errors import AlexNetError

ROOT = Path(__file__).resolve().parent.parent.parent
# config_flags loads a recipe by a way that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
RECIPE = f"--config={ROOT / 'configs' / 'alexnet.py'}:imagenet2012"


def _plain(argv: list[str]) -> ConfigDict:
    """The config of a program that has nothing but DEFINE_config_file."""
    values, new = flags.FlagValues(), any("rates" in argument for argument in argv)
    config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=["", *argv], accept_new_attributes=new, lock_config=not new
    )
    assert values(["", *argv]) == [""]
    return values.config


@pytest.mark.parametrize(
    "argv",
    [
        [RECIPE, "--config.train.drop_epochs=5,7"],
        [RECIPE, "--config.train.drop_epochs=5"],
        [RECIPE, "--config.train.drop_epochs=(5,7)"],
        [RECIPE, "--config.train.drop_epochs=5", "--config.train.drop_epochs=7"],
        [RECIPE, "--config.data.flip", "--config.data.bgr=true"],
        [RECIPE, "--noconfig.data.flip", "--config.data.cache=0"],
        [RECIPE, "--config.train.rates.conv1=0.5"],  # an empty section in the recipe
        [RECIPE, "--flagfile=F"],
        [*RECIPE.split("="), "--config.train.steps", "3", "-config.train.learning_rate=1"],
        [RECIPE, "--config.train.steps=3", "--config.train.steps=4"],
        [RECIPE, "--config.model.conv1.post_ops=relu pool", "--config.model.conv1.padding=(1,1)"],
    ],
    ids=lambda argv: " ".join(argv[1:])[-60:],
)
def test_overrides_equal_those_of_config_flags(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("F").write_text("--config.train.seed=3\n--noconfig.data.flip\n")
    text, config, rest = take_recipe(["argument", *argv, "--other"])
    assert config.to_dict() == _plain(argv).to_dict()
    assert config.to_dict() != configs.load_recipe("alexnet:imagenet2012").to_dict()
    assert (text, rest) == (RECIPE.removeprefix("--config="), ["argument", "--other"])


def test_recipe_by_name_equals_its_file() -> None:
    by_name = take_recipe(["--config.train.steps=3", "--config=alexnet:imagenet2012"])[1]  # an override may come first
    assert by_name.to_dict() == _plain([RECIPE, "--config.train.steps=3"]).to_dict()


def test_library_overrides_equal_flags() -> None:
    """As a mapping with values, or as "section.field=value", of which the last one of a field counts."""
    argv = ["--config.train.drop_epochs=5,7", "--noconfig.data.flip", "--config.train.rates.conv1=0.5"]
    config = take_recipe(["--config=alexnet:digits", *argv])[1]
    values = {"train.drop_epochs": (5, 7), "data.flip": False, "train.rates.conv1": 0.5}
    assert configs.load_recipe("alexnet:digits", values).to_dict() == config.to_dict()
    texts = ["train.drop_epochs=2", "train.drop_epochs=(5,7)", "data.flip=false", "train.rates.conv1=0.5"]
    assert configs.load_recipe("alexnet:digits", texts).to_dict() == config.to_dict()


FOREIGN = {
    "frozen": """
from ml_collections import FrozenConfigDict
from alexnet_jax.configs.alexnet import get_config as base
def get_config(data_name="digits"):
    return FrozenConfigDict(base(data_name))
""",
    "placeholder": """
from ml_collections.config_dict import placeholder
from alexnet_jax.configs.alexnet import get_config as base
def get_config(data_name="digits"):
    c = base(data_name)
    del c.train.steps
    c.train.steps = placeholder(int)
    return c
""",
    "dataclass": """
from __future__ import annotations
import dataclasses
from alexnet_jax.configs.alexnet import get_config as base
@dataclasses.dataclass
class Sizes:
    fc6: int = 64
    later: Sizes | None = None
def get_config(data_name="digits"):
    c = base(data_name)
    c.model.fc6.features = Sizes().fc6
    return c
""",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_recipes_as_others_write_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(FOREIGN[name])
    _, config, _ = take_recipe([f"--config={path}:cifar10", "--config.train.steps=7"])
    expected = {"train.steps": 7} | ({"model.fc6.features": 64} if name == "dataclass" else {})
    assert config.to_dict() == configs.load_recipe("alexnet:cifar10", expected).to_dict()
    if name == "placeholder":
        with pytest.raises(AlexNetError, match=r"config\.train\.steps=None .* a whole number"):
            take_recipe([f"--config={path}"])


@pytest.mark.parametrize(
    ("argument", "field", "kind"),
    [
        ("--config.train.steps=abc", "config.train.steps", "a whole number"),
        (f"--config.train.steps={'9' * 30}", "config.train.steps", "a whole number from 0"),
        (f"--config.train.steps={'9' * 5000}", "config.train.steps", "a whole number"),
        ("--config.train.rates.conv1=abc", "config.train.rates.conv1", "a number"),
        (f"--config.train.learning_rate={'9' * 400}", "config.train.learning_rate", "a finite number"),
        ("--config.data.flip=maybe", "config.data.flip", "true or false"),
        ("--config.train.drop_epochs=a b", "config.train.drop_epochs", "a tuple, such as 5,7"),
        ("--config.train.drop_epochs=7,5", "config.train.drop_epochs", "(30,)"),
        ("--config.train.schedule=sine", "config.train.schedule", "'cosine'"),
        ("--config.train=3", "config.train", "one of its fields"),
        ("--config.train.steps", "--config.train.steps", "Missing value"),
        ("--config.train.stepz=3", "config.train.stepz", "'steps'"),
        ("--config.trian.steps=3", "config.trian.steps", "'train'"),
        ("--config.train.rates.conv9=1", "config.train.rates.conv9", "conv1, conv2"),
        ("--config.train.steps.x=3", "config.train.steps", "a single value"),
        ("--config.=3", "config.", "checkpoint, data"),
    ],
)
def test_wrong_override_names_field_and_kind(argument: str, field: str, kind: str) -> None:
    with pytest.raises(AlexNetError) as error:
        take_recipe([argument])
    assert field in str(error.value)
    assert kind in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_flags_of_jax_and_absl() -> None:
    help_ = _python("main.py", "--helpfull").stdout
    for flag in ("--config:", "--[no]jax_debug_nans:", "--[no]pdb_post_mortem:"):
        assert flag in help_
    code = """
import sys, jax, pdb
from alexnet_jax.cli import train
sys.stdout.isatty = lambda: True
pdb.post_mortem = lambda *_: print("post mortem", jax.config.jax_debug_nans)
from alexnet_jax import summary
summary.summarize = lambda config: {}["a bug"]
train.main(["--mode=summary", "--jax_debug_nans", "--pdb_post_mortem"])
"""
    ended = _python("-c", code)
    assert "post mortem True" in ended.stdout
    assert "KeyError: 'a bug'" in ended.stderr
