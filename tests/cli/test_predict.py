"""`alexnet predict`: a table, CSV or JSON of every picture that can be read, and a sentence for every other."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from PIL import Image

import alexnet_jax as alexnet
from alexnet_jax import AlexNetError, __main__ as program
from alexnet_jax.classifier import Classifier
from alexnet_jax.cli import predict, weights

CLASSES = ('tabby, "cat"', "ün\ndog", "a" * 90)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network in net.npz, and as the run `run` with a checkpoint of step 0."""
    folder = tmp_path_factory.mktemp("network")
    recipe = folder / "small.py"
    recipe.write_text(
        "from alexnet_jax.configs import alexnet\n"
        "def get_config(data_name='digits'):\n"
        "    config = alexnet.get_config(data_name)\n"
        f"    config.update_from_flattened_dict({SMALL | {'data.resize_pixels': 75}!r})\n"
        "    return config\n"
    )
    alexnet.build(str(recipe), classes=CLASSES).save(folder / "net.npz")
    alexnet.build(str(recipe), classes=10).save(folder / "ten.npz")
    arguments = (f"--input={folder / 'ten.npz'}", f"--config={recipe}:imagenet2012", f"--workdir={folder / 'run'}")
    weights.main(["import", *arguments])
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures and others, in folders, under names that are hard to print."""
    folder = tmp_path / "pictures"
    for i, name in enumerate((b"b.jpg", b'a, "quoted".png', b"deep/er/c.webp", b"caf\xe9.png", b"new\nline.png")):
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        encoded, size = io.BytesIO(), (80, 90) if i else (300, 200)  # a JPEG that is decoded at a half
        kind = {b"jpg": "JPEG", b"png": "PNG", b"ebp": "WEBP"}[name[-3:]]
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)).save(encoded, kind)
        Path(os.fsdecode(path)).write_bytes(encoded.getvalue())
    for name in (".hidden.jpg", ".folder/picture.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not to be read")
    return folder


SORTED = ['a, "quoted".png', "b.jpg", "caf\udce9.png", "deep/er/c.webp", "new\nline.png"]


@pytest.fixture(scope="module")
def net(network: Path) -> Classifier:
    return alexnet.load(network / "net.npz")


def test_engine_and_precision_are_options(
    network: Path, net: Classifier, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Each close to JAX in float32; both together are refused."""
    arguments = ["predict", f"--weights={network / 'net.npz'}", "--json", str(pictures / "b.jpg")]
    wanted = dict(net.predict(pictures / "b.jpg"))
    for option, bound in (("--engine=onnxruntime", 1e-5), ("--precision=bfloat16", 0.02)):
        program.main([*arguments, option])
        for row in json.loads(capsys.readouterr().out)[0]["predictions"]:
            assert row["probability"] == pytest.approx(wanted[row["class"]], rel=bound)
    assert row["probability"] != wanted[row["class"]]  # of bfloat16
    with pytest.raises(SystemExit, match="bfloat16"):
        program.main([*arguments, "--engine=onnxruntime", "--precision=bfloat16"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match=r"alexnet_jax\[export\]"):
        program.main([*arguments, "--engine=onnxruntime"])


def test_json_and_csv_are_those_of_net_predict(
    network: Path, net: Classifier, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every picture of a folder, sorted, without hidden ones; names whole, and nothing else on stdout."""
    arguments = [f"--weights={network / 'net.npz'}", "--top=2", "--views=all", str(pictures)]
    expected = [
        [str(pictures / name).replace("\udce9", "\\xe9"), str(rank), class_name, probability]
        for name in SORTED
        for rank, (class_name, probability) in enumerate(net.predict(pictures / name, top=2, views="all"), 1)
    ]
    predict.main([*arguments, "--json"])
    of_json = [
        [entry["picture"], str(rank), prediction["class"], prediction["probability"]]
        for entry in json.loads(capsys.readouterr().out)
        for rank, prediction in enumerate(entry["predictions"], 1)
    ]
    predict.main([*arguments, "--csv"])
    out, err = capsys.readouterr()
    head, *of_csv = csv.reader(io.StringIO(out))
    assert (head, err) == (["picture", "rank", "class", "probability"], "")
    for found in (of_json, of_csv):
        assert [row[:3] for row in found] == [row[:3] for row in expected]
        assert [float(row[3]) for row in found] == pytest.approx([row[3] for row in expected], rel=1e-5)


def test_predict_table_fits_a_terminal(
    network: Path, net: Classifier, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([f"--weights={network / 'net.npz'}", str(pictures / "b.jpg"), str(pictures / SORTED[2])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(pictures / "b.jpg")
    assert lines[4].endswith("/caf\\xe9.png")
    assert len(lines) == 8
    best = net.predict(pictures / "b.jpg")
    for line, (name, probability) in zip(lines[1:4], best, strict=True):
        shown = name.replace("\n", "\\n")
        shown = shown if len(shown) < 69 else shown[:66] + "..."
        assert line == f"  {100 * probability:5.1f} %  {shown}"
        assert len(line) <= 80


def test_predict_takes_a_checkpoint_of_a_run(network: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--workdir={network / 'run'}", str(pictures / "b.jpg"), "--json"]
    predict.main([*arguments, "--checkpoint=0", "--top=1000"])
    (entry,) = json.loads(capsys.readouterr().out)
    expected = alexnet.load(network / "run").predict(pictures / "b.jpg", top=10)
    assert [(said["class"], said["probability"]) for said in entry["predictions"]] == expected
    with pytest.raises(AlexNetError, match=r"checkpoint=5 is not in .*: use latest, best or one of 0"):
        predict.main([*arguments, "--checkpoint=5"])


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_unreadable_picture_is_named_and_the_others_are_predicted(
    form: list[str], network: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "text.txt").write_text("no picture")
    (pictures / "b.jpg").write_bytes((pictures / "b.jpg").read_bytes()[:-500])
    given = [str(pictures), str(pictures / "missing.jpg")]
    with pytest.raises(SystemExit, match=r"^error: 3 of 7 pictures could not be read\.$"):
        program.main(["predict", f"--weights={network / 'net.npz'}", *given, *form])
    out, err = capsys.readouterr()
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 3
    for name, line in zip(("b.jpg", "text.txt", "missing.jpg"), warnings, strict=True):
        assert name in line
    assert len(re.findall(r"pictures/\w", out)) == 4 * (3 if form == ["--csv"] else 1)
    assert "warning" not in out
