"""Features of many pictures in one file, resumed after a kill, and exact neighbours among them."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from PIL import Image

import alexnet_jax as alexnet
from alexnet_jax import AlexNetError, config as configs, features, figures
from alexnet_jax.classifier import Classifier
from alexnet_jax.cli import neighbours, networks
from alexnet_jax.data import sources
from alexnet_jax.data.feed import Split


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("recipe") / "small.py"
    path.write_text(
        f"from {configs.recipe_module('alexnet').__name__} import get_config as whole\n"
        f"def get_config(data_name='digits'):\n    c = whole(data_name)\n"
        f"    c.update_from_flattened_dict({SMALL!r})\n    return c\n"
    )
    return alexnet.build(f"{path}:digits", classes=10, seed=3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty pictures, the sixth of them damaged."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"not a picture")
    return sorted(folder.iterdir())


def _load(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("layer", ["fc7", "conv5"])
def test_features_file_has_each_readable_picture(
    layer: str, net: Classifier, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, in order, with blocks of another size than the network's batches."""
    monkeypatch.setattr(features, "BLOCK", 3)
    messages: list[str] = []
    rows = features.write(net, features.of_files(paths, net), layer, tmp_path / "f.npz", say=messages.append)
    found, good = _load(tmp_path / "f.npz"), [path for path in paths if path.name != "05.png"]
    assert rows == len(good) == 19
    assert found["names"].tolist() == [str(path) for path in good]
    assert found["numbers"].tolist() == [i for i in range(20) if i != 5]
    assert found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], net.features(good, layer), rtol=1e-5, atol=1e-5)
    (message,) = messages
    assert "05.png" in message
    assert not (tmp_path / "f.npz.parts").exists()


def test_features_by_another_engine_are_its_own(
    net: Classifier, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As close as its logits, said in the file, and not to be continued by JAX."""
    fast, pictures = net.using(engine=alexnet.onnxruntime), features.of_files(paths, net)
    features.write(net, pictures, "fc7", tmp_path / "jax.npz")
    features.write(fast, pictures, "fc7", tmp_path / "f.npz")
    found, wanted = _load(tmp_path / "f.npz"), _load(tmp_path / "jax.npz")
    assert json.loads(str(found["about"]))["engine"] == "onnxruntime"
    np.testing.assert_allclose(found["features"], wanted["features"], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(features, "BLOCK", 4)
    _interrupted(fast, paths, tmp_path / "g.npz", at=1)
    with pytest.raises(AlexNetError, match=r"g\.npz\.parts"):
        features.write(net, pictures, "fc7", tmp_path / "g.npz")


def test_features_of_a_split_have_its_labels(net: Classifier, tmp_path: Path) -> None:
    split = sources.open_split("digits", "test", "")
    few = Split([split.source[i] for i in range(10)], "test", split.class_names)
    features.write(net, features.of_split(few, net, "digits"), "fc6", tmp_path / "f.npz")
    found = features.read(tmp_path / "f.npz")
    assert [found.label(i) for i in range(10)] == [split.class_names[r["label"]] for r in few.source]
    images = [np.repeat(record["image"], 3, axis=-1) for record in few.source]
    np.testing.assert_allclose(next(found.blocks())[1], net.features(images, "fc6"), rtol=1e-5, atol=1e-5)
    assert found.about["data"] == "digits"


def _interrupted(net: Classifier, paths: list[Path], output: Path, *, at: int) -> None:
    """`features.write` in blocks of four, with Ctrl-C before block `at`."""
    blocks = features._blocks

    def some(*arguments: Any) -> Iterator[features.Block]:
        yield from itertools.islice(blocks(*arguments), at)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_blocks", some)
        with pytest.raises(KeyboardInterrupt):
            features.write(net, features.of_files(paths, net), "fc7", output)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_interrupted_features_resume_to_the_bit(
    net: Classifier, paths: list[Path], tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any block, with half of the next one on the disk already."""
    monkeypatch.setattr(features, "BLOCK", 4)
    pictures = features.of_files(paths, net)
    features.write(net, pictures, "fc7", tmp_path / "whole.npz")
    _interrupted(net, paths, tmp_path / "f.npz", at=at)
    for name in ("features", "rows"):
        with (tmp_path / "f.npz.parts" / name).open("ab") as file:
            file.write(b"half of a block")
    messages: list[str] = []
    features.write(net, pictures, "fc7", tmp_path / "f.npz", say=messages.append)
    assert [f" {4 * at} of 20 " in message for message in messages[:1]] == [at > 0]
    ours, theirs = _load(tmp_path / "f.npz"), _load(tmp_path / "whole.npz")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_features_do_not_continue_another_call(
    net: Classifier, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BLOCK", 4)
    _interrupted(net, paths, tmp_path / "f.npz", at=1)
    for other, layer in ((paths, "fc6"), (paths[1:], "fc7")):
        with pytest.raises(AlexNetError, match=r"f\.npz\.parts"):
            features.write(net, features.of_files(other, net), layer, tmp_path / "f.npz")


@pytest.mark.parametrize(("output", "layer", "named"), [("f.txt", "fc7", "output=.*f.txt"), ("f.npz", "fc9", "'fc9'")])
def test_wrong_output_or_layer_is_refused(
    net: Classifier, paths: list[Path], tmp_path: Path, output: str, layer: str, named: str
) -> None:
    with pytest.raises(AlexNetError, match=named):
        features.write(net, features.of_files(paths, net), layer, tmp_path / output)
    assert not list(tmp_path.iterdir())


def _file(tmp_path: Path, rows: np.ndarray, **more: Any) -> features.FeatureFile:
    names = np.asarray([f"{'ab'[i % 2]}/{i}.png" for i in range(len(rows))])
    about = json.dumps({"layer": "fc7", "shape": list(rows.shape[1:]), "network": "x"})
    np.savez(tmp_path / "f.npz", features=rows, names=names, numbers=np.arange(len(rows)), about=about, **more)
    return features.read(tmp_path / "f.npz")


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbours_are_those_of_brute_force_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    """In blocks of seven rows, far from the origin too, where the square of a sum loses its digits."""
    monkeypatch.setattr(features, "_READ_BYTES", 7 * 4 * 24)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(100, 2, 3, 4)) + offset).astype(np.float32)
    found = _file(tmp_path, rows)
    assert [len(block) for _, block in found.blocks()] == [7] * 14 + [2]
    queries = np.concatenate([rows[[5, 60]], (rng.normal(size=(6, 2, 3, 4)) + offset).astype(np.float32)])
    nearest, distances = features.nearest(queries, found, top=9)
    difference = queries.reshape(8, 1, -1).astype(np.float64) - rows.reshape(1, 100, -1)
    wanted = np.sqrt((difference**2).sum(-1))
    order = np.argsort(wanted, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(nearest, order)
    np.testing.assert_allclose(distances, np.take_along_axis(wanted, order, 1), rtol=1e-7)
    assert distances[0, 0] == distances[1, 0] == 0


def test_neighbours_of_equal_distance_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_READ_BYTES", 2 * 4 * 3)
    found = _file(tmp_path, np.tile(np.float32([[1, 2, 3], [3, 2, 1]]), (4, 1)))
    assert features.nearest(np.float32([[1, 2, 3]]), found, top=5)[0].tolist() == [[0, 2, 4, 6, 1]]


def test_neighbours_leave_out_the_picture_itself(tmp_path: Path) -> None:
    """Under its name, or as the end of a longer path; another one of the same name in another folder is."""
    found = _file(tmp_path, np.arange(8, dtype=np.float32)[:, None])
    nearest, _ = features.nearest(np.float32([[3], [3]]), found, top=2, without=["val/b/3.png", "val/a/3.png"])
    assert nearest.tolist() == [[2, 4], [3, 2]]
    assert features.nearest(np.float32([[0]]), found, top=99)[0].shape == (1, 8)


def test_neighbours_command_lists_the_others_as_text_and_csv(
    net: Classifier, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    features.write(net, features.of_files(paths[:3], net), "fc7", tmp_path / "f.npz")
    monkeypatch.setattr(networks, "open_network", lambda _: net)
    command = [str(paths[0]), "--weights=w.npz", f"--features={tmp_path / 'f.npz'}", "--top=6"]
    neighbours.main(command)
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == str(paths[0])
    assert sorted(line.split()[1] for line in listed[1:]) == [str(path) for path in paths[1:3]]
    neighbours.main([*command, "--csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["rank"], row["neighbour"]) for row in rows] == [
        (str(rank), line.split()[1]) for rank, line in enumerate(listed[1:], 1)
    ]


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    found = _file(tmp_path, np.zeros((9, 5), np.float32))
    with pytest.raises(AlexNetError, match=r"f\.npz .*\(5,\)"):
        features.nearest(np.zeros((1, 4)), found, top=1)
    content = (tmp_path / "f.npz").read_bytes()
    for cut in (0, 100, len(content) // 2):
        (tmp_path / "f.npz").write_bytes(content[:cut])
        with pytest.raises(AlexNetError, match=r"f\.npz"):
            features.read(tmp_path / "f.npz")
    with pytest.raises(AlexNetError, match=r"nowhere\.npz"):
        features.read(tmp_path / "nowhere.npz")


def test_neighbours_figure_is_in_order(net: Classifier, paths: list[Path], tmp_path: Path) -> None:
    good = [path for path in paths if path.name != "05.png"]
    features.write(net, features.of_files(good, net), "fc7", tmp_path / "f.npz")
    found = features.read(tmp_path / "f.npz")
    queries = good[:2]
    rows, distances = features.nearest(
        net.features(queries, "fc7"), found, top=3, without=[str(path) for path in queries]
    )
    figure = figures.neighbours(queries, found, rows, distances, lambda row: good[row])
    for line in (0, 1):
        axes = figure.axes[4 * line : 4 * line + 4]
        assert axes[0].get_title() == queries[line].name
        for place, row in enumerate(rows[line]):
            assert axes[1 + place].get_title() == f"{good[row].name}\n{distances[line, place]:.4g}"
    with Image.open(good[rows[0, 0]]) as picture:
        center = np.asarray(picture)[:, 5:85].mean(axis=(0, 1))
    np.testing.assert_allclose(np.asarray(figure.axes[1].images[0].get_array()).mean(axis=(0, 1)), center, atol=3)
