"""The config: every value is checked, and none is there for nobody."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from alexnet_jax import builder, config as configs, schema
from alexnet_jax.configs.alexnet import get_config
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import loop
from experiments.ledger import plans

ROOT = Path(__file__).resolve().parent.parent


def test_saved_config_is_loaded_as_it_was(tmp_path: Path) -> None:
    config = get_config("imagenet2012")
    configs.save(config, ("cat", "dog"), tmp_path)
    assert configs.differences(config, configs.load(tmp_path)) == []
    assert configs.load_classes(tmp_path) == ("cat", "dog")


# A value outside of the range of each kind of field, and of what two fields may be together.
WRONG: list[tuple[str, Any]] = [
    ("data.name", ""), ("data.crop_pixels", 300), ("data.mean", (1.0, 2.0)), ("data.mean", (1.0, 2.0, 300.0)),
    ("data.std", (1.0, 0.0, 1.0)), ("data.color_noise_form", "variances"), ("data.color_std", (1.0,)),
    ("data.color_vectors", ()), ("data.color_noise_again", (91,)), ("data.color_noise_again", (124, 91)),
    ("data.threads", -1), ("data.prefetch_batches", 0), ("model.layers", ()), ("model.layers", ("conv1", "conv1")),
    ("model.layers", ("conv1", "conv7", "fc8")), ("model.layers", ("conv1", "fc1")),
    ("model.layers", ("conv1", "pool1", "fc8")), ("model.layers", ("conv1", "conv3", "fc6", "conv4", "fc7", "fc8")),
    ("model.exchange", ("conv9",)), ("model.conv1.post_ops", "relu sigmoid"), ("model.conv1.padding", (1, 2, 3)),
    ("model.conv1.padding", (-1, 2)), ("model.fc8.post_ops", "relu"), ("model.norm.k", 0.0),
    ("model.dropout.rate", 1.0), ("model.dropout.rate", -0.1), ("train.rates.conv1", -1.0), ("train.epochs", 0),
    ("train.learning_rate", float("nan")), ("train.drop_epochs", (5, 5)), ("train.drop_epochs", (0, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_check_names_the_field_of_a_wrong_value(field: str, value: Any) -> None:
    config = get_config("imagenet2012")
    config.train.rates.conv1 = 1.0
    config.model.fc1 = config.model.fc8
    config.update_from_flattened_dict({field: value})
    with pytest.raises(AlexNetError) as error:
        schema.check(config)
    assert f"config.{field}" in str(error.value)


def test_check_names_two_fields_that_do_not_go_together() -> None:
    config = get_config()
    config.mesh.hybrid, config.mesh.tower = True, 1
    schema.check(config)
    config.mesh.tower = 2
    with pytest.raises(AlexNetError, match=r"config\.mesh\.hybrid=True .* config\.mesh\.tower=2 is not possible: use"):
        schema.check(config)
    config.model.layers, config.model.exchange = ("conv1", "conv2"), ()
    with pytest.raises(AlexNetError, match=r"config\.model\.conv2 is the last layer"):
        schema.check(config)


def test_older_run_has_the_values_of_before_a_field(tmp_path: Path) -> None:
    """Each field that came later is missing from its config.json: each is then as the table says."""
    config = get_config()
    configs.save(config, ("a", "b"), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    later = {name: row.older for name, row in schema.FIELDS.items() if row.older != schema.ALWAYS}
    assert len(later) >= 16
    for name in later:
        *sections, last = name.removesuffix(".<layer>").split(".")
        del functools.reduce(dict.__getitem__, sections, saved)[last]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    older = configs.load(tmp_path)
    assert configs.differences(older, config) == [("precision", "float32", "auto")]
    assert older.train.decays.to_dict() == {}


def test_a_field_lives_in_its_recipe_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places add a field: it is then checked, set by flags, read from older runs, and part of what a run is."""
    recipe = tmp_path / "nesterov.py"
    recipe.write_text(
        "from alexnet_jax.configs import alexnet\n"
        "def get_config(data_name='digits'):\n"
        "    c = alexnet.get_config(data_name)\n"
        "    c.train.nesterov = 0\n"  # the first place
        "    return c\n"
    )
    with pytest.raises(AlexNetError, match=r"config\.train\.nesterov.*no such field"):
        configs.load_recipe(str(recipe))
    row = schema.Field(int, lambda v: v in (0, 1, 2), "0, 1 or 2", schema.Role.RUN, older=0)
    monkeypatch.setitem(schema.FIELDS, "train.nesterov", row)  # the second

    before, after = configs.load_recipe(str(recipe)), configs.load_recipe(str(recipe), {"train.nesterov": 2})
    with pytest.raises(AlexNetError, match=r"config\.train\.nesterov=3 .* 0, 1 or 2"):
        configs.load_recipe(str(recipe), {"train.nesterov": 3})
    configs.save(configs.find_recipe("alexnet:digits"), ("a", "b"), tmp_path)
    older = configs.load(tmp_path)  # a run from before the field
    assert older.to_dict() == before.to_dict()
    assert configs.differences(after, older, configs.Role.RUN) == [("train.nesterov", 2, 0)]
    assert configs.differences(after, older, configs.Role.NETWORK) == []
    assert plans.computed_from(older) == plans.computed_from(configs.find_recipe("alexnet:digits"))
    assert plans.computed_from(after)["train.nesterov"] == 2


def test_roles_decide_what_a_run_is() -> None:
    """What a run is known by, and what it resumes with."""
    config = configs.load_recipe("alexnet:digits")

    def role(name: str, value: Any) -> set[str]:
        other = configs.load_recipe("alexnet:digits", {name: value})
        found = {role.name for role in configs.Role if configs.differences(config, other, role)}
        return found if plans.computed_from(config) != plans.computed_from(other) else found - {"TRAINING"}

    assert role("data.threads", 3) == {"HOST"}
    assert role("train.learning_rate", 3.0) == role("train.rates.conv1", 0.5) == {"HOST", "TRAINING"}
    assert role("train.seed", 3) == role("data.flip", True) == {"HOST", "TRAINING", "RUN"}
    assert role("model.conv1.features", 3) == role("data.bgr", True) == {"HOST", "TRAINING", "RUN", "NETWORK"}


def test_a_last_layer_too_narrow_for_the_classes_is_one_sentence() -> None:
    config = get_config()
    config.model.fc8.features = 4
    with pytest.raises(AlexNetError, match=r"config\.model\.fc8\.features=4 is too small for 10 classes"):
        builder.model(config, 10)


class _Recorder:
    """A config that notes which of its leaves are read."""

    def __init__(self, config: ConfigDict, path: str, read: set[str]) -> None:
        self._config, self._path, self._read = config, path, read

    def __getattr__(self, key: str) -> Any:
        return getattr(self._config, key) if key in ("to_dict",) else self[key]

    def __getitem__(self, key: str) -> Any:
        value, path = self._config[key], f"{self._path}.{key}"
        if isinstance(value, ConfigDict):
            return _Recorder(value, path, self._read)
        self._read.add(path)
        return value

    def get(self, key: str, default: Any) -> Any:
        return self[key] if self.__contains__(key) else default

    def keys(self) -> Any:
        return self._config.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._config

    def __iter__(self) -> Any:
        return iter(self._config)


def test_every_leaf_of_the_config_is_read(
    small_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run, which also evaluates, or by the schedule or noise it belongs to; checking and saving do not count."""
    read: set[str] = set()
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(builder, "with_statistics", lambda config, folder: config)  # a copy would not be recorded
    small_config.train.steps = 2
    loop.train(_Recorder(small_config, "config", read), tmp_path, command="", eval_command="")  # type: ignore[arg-type]
    coloured = get_config("imagenet2012")
    for schedule in ("constant", "plateau", "dexp", "polynomial", "cosine"):
        coloured.train.schedule = schedule
        recorder: Any = _Recorder(coloured, "config", read)
        params = {"conv1": {"kernel": jax.numpy.zeros(3), "bias": jax.numpy.zeros(3)}}
        optimizer, _ = builder.optimizer(recorder, images=1000, steps=100)
        optimizer.update(params, optimizer.init(params), params)
        builder.augmentation(recorder, images=1000)
        builder.plateau_rule(recorder)
        builder.plan(recorder, images=1000)
    by_the_command = {"config.log.track"}  # cli/trackers.py
    assert {f"config.{path}" for path, _ in configs.flat(small_config)} - read == by_the_command
