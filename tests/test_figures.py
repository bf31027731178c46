"""Figures show what they say: kernels, activations, curves, predictions; and the HTML report in a real browser."""

import json
import re
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import SMALL
from matplotlib.colors import to_hex
from PIL import Image

import alexnet_jax as alexnet
from alexnet_jax import AlexNetError, builder, config as configs, evaluate, extras, figures
from alexnet_jax.classifier import Classifier
from alexnet_jax.data.feed import Split
from alexnet_jax.figures import drawing, html_report, intermediates
from alexnet_jax.model import alexnet as models, placement
from alexnet_jax.train import loop

ROOT = Path(__file__).resolve().parent.parent
PIXELS = SMALL["data.crop_pixels"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


def _build(recipe: str = "alexnet", **fields: Any) -> Classifier:
    """A recipe's network at a small size, with three classes."""
    config = configs.load_recipe(f"{recipe}:digits", {"data.mean": (120.0, 110.0, 100.0), **SMALL, **fields})
    model = builder.model(config, 3)
    variables = jax.jit(lambda: models.init_variables(model, jax.random.key(3), PIXELS))()
    return Classifier(config, ("cat", "dog", "emu"), variables, inputs=builder.inputs(config))


@pytest.fixture(scope="module")
def net() -> Classifier:
    return _build()


@pytest.fixture(scope="module")
def run(folder: Path) -> loop.Run:
    """A run of four steps on the digits, evaluated at its end."""
    fields = SMALL | {"train.steps": 4, "log.every_steps": 1, "eval.views": "center"}
    config = configs.load_recipe("alexnet:digits", fields)
    return loop.train(config, folder / "run", command="alexnet train", eval_command="")


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def _with_kernels(net: Classifier, kernels: np.ndarray) -> Classifier:
    """The network with these kernels of conv1, [T, k, k, 3, C]."""
    params = jax.device_get(net.variables["params"])
    params = params | {"conv1": params["conv1"] | {"kernel": kernels.astype(np.float32)}}
    return Classifier(net.config, net.class_names, {"params": params}, inputs=net.inputs)


def test_filters_are_shown_around_gray_on_one_scale(net: Classifier) -> None:
    """Kernel 1 of tower 1 stands where it should, its zero is gray, the largest weight of all white or black."""
    kernels = np.array(jax.device_get(net.variables["params"]["conv1"]["kernel"]))
    figure = figures.filters(net)
    first, second = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
    size, scale = kernels.shape[1], np.abs(kernels).max()
    shown = second[:size, size + 1 : 2 * size + 1, :3]
    np.testing.assert_allclose(shown, 0.5 + kernels[1, ..., 1] / (2 * scale), atol=1e-6)
    both = np.stack([first, second])[..., :3][np.stack([first, second])[..., 3] == 1]
    assert both.min() == pytest.approx(0.5 + kernels.min() / (2 * scale))
    assert max(both.max() - 0.5, 0.5 - both.min()) == pytest.approx(0.5)
    assert (first[:size, size] == 0).all(), "the line between two kernels is transparent"


def test_filters_of_a_bgr_network_have_their_true_colors() -> None:
    red = np.zeros((2, 11, 11, 3, 3))
    red[..., 2, :] = 1.0  # the last of B, G, R
    figure = figures.filters(_with_kernels(_build(**{"data.bgr": True}), red))
    np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array())[0, 0], [1.0, 0.5, 0.5, 1.0])


def test_color_of_kernels(net: Classifier) -> None:
    """0 for gray, 1 for opposed colors, 2/3 for a single one and on average for noise."""
    rng, kernels = np.random.default_rng(0), np.zeros((2, 11, 11, 3, 3))
    kernels[0] = rng.normal(size=(11, 11, 1, 3))
    kernels[1, ..., 0] = rng.normal(size=(11, 11, 1)) * [1, -1, 0]
    kernels[1, ..., 1] = rng.normal(size=(11, 11, 1)) * [0, 0, 5]
    kernels[1, ..., 2] = rng.normal(size=(11, 11, 3))
    color = figures.color_of_kernels(_with_kernels(net, kernels))
    np.testing.assert_allclose(color[0], 0, atol=1e-6)
    np.testing.assert_allclose(color[1, :2], [1, 2 / 3], atol=1e-6)
    assert color[1, 2] == pytest.approx(2 / 3, abs=0.1)


def test_filters_of_weight_norm_are_what_it_multiplies_with() -> None:
    """scale * v / |v| as `module` uses it: of kernel 0 with scale 0 nothing is left."""
    normed = _build("alexnet_wn")
    params = jax.device_get(normed.variables["params"])
    params["conv1"]["scale"] = params["conv1"]["scale"] * np.float32([0, 1, 2])
    normed.variables = normed.variables | {"params": params}
    shown = np.asarray(figures.filters(normed).axes[0].images[0].get_array())
    np.testing.assert_allclose(shown[:11, :11, :3], 0.5)
    v, scale = params["conv1"]["kernel"], params["conv1"]["scale"]
    effective = v / np.sqrt((v**2).sum(axis=(1, 2, 3), keepdims=True)) * scale[:, None, None, None]
    for kernel in (1, 2):
        left = 12 * kernel
        wanted = 0.5 + effective[0, ..., kernel] / (2 * np.abs(effective).max())
        np.testing.assert_allclose(shown[:11, left : left + 11, :3], wanted, atol=1e-6)


def test_specialization_of_towers() -> None:
    """Chance hardly makes one tower gray and the other colorful; between towers of equal kernels it decides."""
    wide = _build(**{"model.conv1.features": 8})
    kernels = np.random.default_rng(0).normal(size=(2, 11, 11, 3, 8))
    same = figures.specialization(_with_kernels(wide, np.stack([kernels[1], kernels[1]])))
    assert same["chance"] > 0.99
    kernels[0] = kernels[0].mean(axis=2, keepdims=True)
    found = figures.specialization(_with_kernels(wide, kernels))
    assert found["chance"] < 0.02
    assert found["difference"] == pytest.approx(abs(found["color"][0] - found["color"][1]))


def test_activations_are_those_of_features(net: Classifier) -> None:
    """The strongest channels of each tower first; fully connected layers whole."""
    picture = _noise(PIXELS, PIXELS)
    figure = figures.activations(net, picture)
    rows = [axes for axes in figure.axes if axes.images][1:]
    names = [axes.get_ylabel() for axes in rows]
    assert names[::2] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    for name, left, right in zip(names[::2], rows[::2], rows[1::2], strict=True):
        found = net.features(picture, name)
        for axes, part in zip((left, right), np.split(found, 2, axis=-1), strict=True):
            shown = np.asarray(axes.images[0].get_array())
            if part.ndim == 1:
                np.testing.assert_array_equal(shown.reshape(-1)[: part.size], part)
                continue
            strongest = part[..., part.mean(axis=(0, 1)).argmax()]
            width = strongest.shape[1]
            spread = float(np.ptp(strongest)) or 1.0
            np.testing.assert_allclose(shown[:, :width], (strongest - strongest.min()) / spread, atol=1e-5)


def test_occlusion_is_the_mean_over_the_squares_that_hide_a_pixel(net: Classifier) -> None:
    """By hand, one square at a time."""
    picture, k, side = _noise(PIXELS, PIXELS), 1, 40
    found = intermediates.occluded(net, picture, k, side=side, stride=20)
    total, times = np.zeros((PIXELS, PIXELS)), np.zeros((PIXELS, PIXELS))
    for top in (0, 20, PIXELS - side):
        for left in (0, 20, PIXELS - side):
            hidden = picture.copy()
            hidden[top : top + side, left : left + side] = (120, 110, 100)
            total[top : top + side, left : left + side] += net.probabilities(hidden)[k]
            times[top : top + side, left : left + side] += 1
    np.testing.assert_allclose(found, total / times, rtol=1e-4)
    assert np.ptp(found) > 0
    best = net.predict(picture, top=1)[0][0]
    assert best in figures.occlusion(net, picture, side=60).axes[1].get_title()
    with pytest.raises(AlexNetError, match="class_name='bat'"):
        figures.occlusion(net, picture, class_name="bat")


def test_curves_are_those_of_the_log(run: loop.Run, folder: Path) -> None:
    """Thin lines of batches, points of evaluations; a line of --mode=eval, or one cut off, is left out."""
    copied = folder / "copied"
    copied.mkdir()
    lines = (run.workdir / "metrics.jsonl").read_text()
    logged = [json.loads(line) for line in lines.splitlines()]
    evaluation = next(entry for entry in logged if "eval_top1" in entry)
    other = json.dumps(evaluation | {"mode": "eval", "eval_top1": 0.0}) + '\n{"step": 3, "lo'
    (copied / "metrics.jsonl").write_text(lines + other)
    figure = figures.curves([run.workdir, copied])
    loss, top1 = figure.axes[:2]
    for number in (0, 1):
        np.testing.assert_allclose(
            loss.lines[3 * number].get_ydata(), [entry["loss"] for entry in logged if "loss" in entry]
        )
        np.testing.assert_allclose(
            top1.lines[2 * number + 1].get_ydata(), [e["eval_top1"] for e in logged if "eval_top1" in e]
        )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        drawing.short(str(run.workdir), 60), drawing.short(str(copied), 60),
    ]  # fmt: skip
    with pytest.raises(AlexNetError, match=r"metrics\.jsonl"):
        figures.curves(folder / "nowhere")


def test_confusion_in_percent_of_each_class(run: loop.Run) -> None:
    assert run.answers is not None
    counts = run.answers.confusion()
    figure = figures.confusion(run.answers)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, 100 * counts / counts.sum(1, keepdims=True))
    assert sorted(int(text.get_text()) for text in figure.axes[0].texts) == sorted(counts[counts > 0].tolist())
    label, called, images = run.answers.most_confused(1)[0]
    assert f"{images:5,}  {label} called {called}" in figure.get_supxlabel()


def test_predictions_are_in_order_and_the_label_is_green(run: loop.Run) -> None:
    found = run.answers
    assert found is not None
    among = (found.top_classes == found.labels[:, None]).any(axis=1)
    chosen = [int(found.worst()[0]), int(np.flatnonzero(among)[0])]  # one whose class is shown, at least
    figure = figures.predictions(found, chosen)
    for place, i in enumerate(chosen):
        picture, bars = figure.axes[place], figure.axes[2 + place]
        assert picture.get_title() == found.split.class_names[found.labels[i]]
        np.testing.assert_allclose([bar.get_width() for bar in bars.patches], found.top_probabilities[i])
        assert [text.get_text() for text in bars.texts] == [found.split.class_names[k] for k in found.top_classes[i]]
        colors = [to_hex(bar.get_facecolor()) for bar in bars.patches]
        right = [drawing.GOOD if k == found.labels[i] else drawing.BAD for k in found.top_classes[i]]
        assert colors == right
    with pytest.raises(AlexNetError, match="chosen="):
        figures.predictions(found, [299])


def test_run_keeps_the_predictions_of_its_last_evaluation(run: loop.Run) -> None:
    assert run.answers is not None
    found = alexnet.load(run.workdir).answers("digits")
    np.testing.assert_array_equal(found.top_classes[:, 0], run.answers.top_classes[:, 0])
    np.testing.assert_allclose(found.label_probability, run.answers.label_probability, rtol=1e-4, atol=1e-6)


def _drawn(recipe: str) -> list[str]:
    """The texts of a recipe's drawing."""
    config = configs.load_recipe(f"{recipe}:imagenet2012")
    figure = figures.architecture(builder.model(config, 1000), config.data.crop_pixels)
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("recipe", ["alexnet", "half", "conv6", "no_communication", "alexnet_bn", "caffe_alexnet"])
def test_architecture_is_of_the_live_model(recipe: str) -> None:
    """A box per layer and tower, and the numbers that each tower sends."""
    config, texts = configs.load_recipe(f"{recipe}:imagenet2012"), _drawn(recipe)
    model = builder.model(config, 1000)
    for layer in model.stack:
        assert texts.count(layer.name) == model.towers
    sent = placement.traffic(model, config.data.crop_pixels)
    exchanges = [text for text in texts if text.endswith(" floats")]
    meets = [layer.name for layer in model.stack if layer.name in model.exchange and model.towers > 1]
    assert exchanges == [f"{sent[name]:,} floats" for name in meets]
    assert texts.count("all_gather") == (len(exchanges) + 1 if model.towers > 1 else 0)


def test_architecture_of_the_front_page_is_current() -> None:
    page = (ROOT / "docs" / "two_towers.svg").read_text(encoding="utf-8")
    assert re.findall("<text.*>(.*)</text>", page) == _drawn("alexnet"), "alexnet figures architecture writes it"


def test_figure_is_the_same_file_each_time(net: Classifier, tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        for name in ("a", "b"):
            figures.save(figures.filters(net), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == pytest.approx(150 * drawing.WIDTH, abs=2)
    with pytest.raises(AlexNetError, match=r"a\.pdf"):
        figures.save(figures.filters(net), tmp_path / "a.pdf")


def test_figures_without_matplotlib_say_what_to_install(monkeypatch: pytest.MonkeyPatch, net: Classifier) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr(extras, "importlib", types.SimpleNamespace(import_module=missing))
    with pytest.raises(AlexNetError, match=r"alexnet_jax\[figures\]"):
        figures.filters(net)


@pytest.fixture(scope="module")
def report(run: loop.Run, folder: Path) -> Path:
    """The report of the run, with a class and its files named so that they would run a script."""
    assert run.answers is not None
    split = run.answers.split
    names = tuple(f"{EVIL}{name}" for name in split.class_names)
    source = [dict(split.source[i]) | {"key": f"{EVIL}/\"'{i}.png"} for i in range(len(split.source))]
    by_class = run.answers.evaluation["eval_by_class"]
    renamed = {f"{EVIL}{name}": row for name, row in by_class.items()}
    found = evaluate.Predictions(
        Split(source, split.name, names), run.answers.evaluation | {"eval_by_class": renamed}, run.answers.labels,
        run.answers.top_classes, run.answers.top_probabilities, run.answers.label_probability,
    )  # fmt: skip
    html_report.write(run.workdir, folder / "report.html", alexnet.load(run.workdir), found)
    return folder / "report.html"


def test_html_report_escapes_every_name(report: Path) -> None:
    """Neither a class nor a file, and nothing is loaded from anywhere."""
    text = report.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href|srcset)=["'](?!data:)""", text)
    assert not re.search(r"url\(", text)
    assert report.stat().st_size < 3e6


def test_html_report_has_the_facts_of_the_run(report: Path, run: loop.Run) -> None:
    text = report.read_text()
    assert run.answers is not None
    entry = run.answers.evaluation
    for words in (
        f"{entry['eval_top1']:.2f} %", "alexnet train", f"{entry['eval_precision']:.2f}", "The worst mistakes",
        f"alexnet predict --workdir={run.workdir}", "multiply-adds", "4 steps",
    ):  # fmt: skip
        assert words in text
    mistakes = int((run.answers.top_classes[:, 0] != run.answers.labels).sum())
    assert len(re.findall("<figcaption>", text)) == min(12, mistakes)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_html_report_in_a_browser(report: Path, width: int, tmp_path: Path) -> None:
    """It fits the width, all of its pictures load, and no script runs; light and dark are two pages."""
    around = tmp_path / "around.html"
    around.write_text(
        f"<body style='margin:0'><iframe id='page' src='{report.as_uri()}' style='border:0;width:{width}px;"
        "height:4000px'></iframe><pre id='found'></pre><script>const frame = document.getElementById('page');"
        "frame.onload = () => { const d = frame.contentDocument; const images = [...d.images];"
        "document.getElementById('found').textContent = JSON.stringify({wide: d.documentElement.scrollWidth,"
        "images: images.length, broken: images.filter(i => !i.naturalWidth).length, "
        "scripts: d.scripts.length}); };</script>"
    )
    dom = _chromium("--allow-file-access-from-files", "--virtual-time-budget=8000", "--dump-dom", around.as_uri())
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom)[1])  # type: ignore[index]
    assert found == {"wide": width, "images": found["images"], "broken": 0, "scripts": 0}
    assert found["images"] >= 4
    corners = []
    for mode in ([], ["--force-dark-mode"]):
        shot = tmp_path / f"{len(mode)}.png"
        _chromium(*mode, f"--window-size={max(width, 500)},900", f"--screenshot={shot}", report.as_uri())
        with Image.open(shot) as picture:
            corners.append(np.asarray(picture.convert("L"))[-30, 4])
    assert corners[0] == 255
    assert corners[1] < 64


def _chromium(*options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
