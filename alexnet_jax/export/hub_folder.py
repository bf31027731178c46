"""A folder as the Hugging Face Hub wants it: the weights, what they are as JSON, and a model card."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from alexnet_jax import files, weight_file
from alexnet_jax.classifier import Classifier
from alexnet_jax.errors import AlexNetError
from alexnet_jax.train import provenance
from alexnet_jax.train.metrics import entries
from alexnet_jax.weights import hub
from alexnet_jax.weights.identify import nearest_recipe

_CONFIG, _CARD = "config.json", "README.md"
# They say where files lay on somebody's machine, and nothing of the network.
_PRIVATE = ("--workdir", "--coordinator", "--config.data.data_dir")


def check_license(license: str) -> None:
    """Raises AlexNetError for what cannot be the Hub's name of a license."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", license):
        raise AlexNetError(
            f"--license={license} is not a license of the Hub: use one such as apache-2.0, mit or other."
        )


def write(
    net: Classifier, folder: Path, *, license: str, workdir: Path | None = None, checkpoint: str = "latest"
) -> str:
    """Writes model.safetensors, config.json and README.md; what was done, in words.

    With the `workdir` of a run, README.md tells its data, accuracy, command and commit.
    A failure leaves no folder. Raises AlexNetError.
    """
    files.check_free(folder, "output")
    accuracy, training = "Not known: this step was not evaluated.", ""
    if workdir:
        evaluated = [entry for entry in entries(workdir) if entry["step"] == net.step and "eval_top1" in entry]
        prefix = "eval_average_" if checkpoint.endswith(":average") else "eval_"
        accuracy = _accuracy(evaluated[-1], prefix) if evaluated else accuracy
        training = _training(workdir, net.step or 0)
    with files.new_folder(folder) as growing:
        net.save(growing / hub.MODEL)
        about = weight_file.metadata(net.config, net.class_names, net.inputs, net.step)
        files.write_text(growing / _CONFIG, json.dumps(about, indent=1) + "\n")
        files.write_text(growing / _CARD, card(net, license, accuracy, training))
    return f"{folder}: {hub.MODEL}, {_CONFIG} and {_CARD}; read {_CARD}, then: hf upload OWNER/NAME {folder}"


def _accuracy(entry: dict[str, Any], prefix: str) -> str:
    """An evaluation as a table; `prefix` tells that of the average from that of the weights."""
    by_views = {"center crop": prefix, f"{entry.get('eval_views', 1)} views": f"{prefix}views_"}
    rows = [
        f"| {views} | {entry[f'{name}top1']:.2f} % | {entry[f'{name}top5']:.2f} % | {entry[f'{name}loss']:.4f} |"
        for views, name in by_views.items()
        if f"{name}top1" in entry
    ]
    head = f"On {entry['eval_images']:,} images of `{entry.get('eval_split', 'the evaluation split')}`:"
    return "\n".join([head, "", "| views | top-1 | top-5 | loss |", "| --- | --- | --- | --- |", *rows])


def _training(workdir: Path, step: int) -> str:
    """The command and commit of each start of the run before `step`, each pair once, without private paths."""
    before = [start for start in provenance.starts(workdir) if start["step"] <= step]
    pairs = dict.fromkeys((_public(start["command"]), start["commit"] or "unknown") for start in before)
    lines = [f"```\n{command}\n```\n\nCommit of the code: `{commit}`." for command, commit in pairs]
    return "\n\nThen:\n\n".join(lines)


def _public(command: str) -> str:
    """A command line without its private options, --name=value or --name value."""
    kept: list[str] = []
    is_value = False
    for word in shlex.split(command):
        name, equals, _ = word.partition("=")
        if is_value or name in _PRIVATE:
            is_value = not is_value and not equals
        else:
            kept.append(word)
    return shlex.join(kept)


def card(net: Classifier, license: str, accuracy: str, training: str) -> str:
    """The model card as Markdown, its front matter as the Hub reads it (huggingface.co/docs/hub/model-cards)."""
    config, side = net.config, net.image_pixels
    count = f"{len(net.class_names):,} class{'es' if len(net.class_names) > 1 else ''}"
    front = [
        "---", "library_name: alexnet_jax", f"license: {license}", "pipeline_tag: image-classification",
        "tags:", *(f"- {tag}" for tag in ("alexnet", "image-classification", "jax", "flax", "safetensors")), "---",
    ]  # fmt: skip
    what = [
        f"# AlexNet on {config.data.name}",
        f"{repr(net)[1:-1]}.",
        f"Recipe: `{nearest_recipe(config)}` of alexnet_jax. Data: `{config.data.name}`"
        f"{'' if net.step is None else f', after step {net.step:,}'}. Input: {side} x {side} pixels out of the center "
        f"of an image whose short side has {config.data.resize_pixels}, RGB. Output: logits of {count}, named in "
        f"`{_CONFIG}`.",
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join([
        *what, "## Accuracy", accuracy,
        "## Training", training or "Not known: the weights came without the history of their run.", "## Limits",
        f"It names one of {count} for any image, also for one that shows none of them, and has the biases of its "
        "training data. Nothing is known of its accuracy on other data. It is a network of 2012: newer ones are "
        "smaller and far more accurate.",
        "## Use", _USE,
    ]) + "\n"  # fmt: skip


_USE = f"""With alexnet_jax and its extra `hub`:

```python
import alexnet_jax

net = alexnet_jax.load("hf://OWNER/NAME")  # or the path of this folder
net.predict("picture.jpg", top=5)
```

With safetensors and NumPy alone, `image` being RGB `[crop_pixels, crop_pixels, 3]` in 0..255:

```python
import json
import numpy as np
from safetensors.numpy import load_file

config, weights = json.load(open("{_CONFIG}")), load_file("{hub.MODEL}")
x = (image - weights.get("mean_image", np.float32(config["mean"]))) / np.float32(config["std"])
x = x[..., ::-1] if config["channels"] == "BGR" else x
```

The layers are those of `config["model"]["layers"]`, each followed by its `post_ops`. Convolutions are
`conv1.weight` `[channels, channels of a group, rows, columns]`, grouped where they read their own tower only, and fully
connected layers `fc6.weight` `[units, inputs]`, the first one's inputs in the order channel, row, column. (Where the
network is torchvision's, the names are torchvision's: `features.0.weight`.) Dropout is nothing: its factor is in the
weights."""
