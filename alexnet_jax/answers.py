"""What a network answers, image by image, over a split: the confusion of its classes, its worst mistakes, a CSV."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.feed import Split
from alexnet_jax.evaluate import PerImage

Array = np.ndarray[Any, np.dtype[Any]]


class Collector:
    """Takes what an evaluation says of each batch; `answers` puts it together."""

    def __init__(self) -> None:
        self._batches: list[PerImage] = []

    def __call__(self, images: PerImage) -> None:
        self._batches.append(images)

    def answers(self, split: Split, evaluation: dict[str, Any]) -> "Answers":
        """Everything collected, of the images of `split` in its order; `evaluation` is what `evaluate` returned."""
        whole = {name: np.concatenate([b[name] for b in self._batches]) for name in ("label", "best", "odds", "right")}
        return Answers(split, evaluation, whole["label"], whole["best"], whole["odds"], whole["right"])


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to N images of a split, in its order, by the center crop.

    `labels` [N] int32; `best` [N, A] int32 and `odds` [N, A] float32: the most probable classes (five, or all where
    there are fewer) and their probabilities, in order; `right` [N] float32: the probability of the label. `evaluation`
    is what `evaluate` returned of them.
    """

    split: Split
    evaluation: dict[str, Any]
    labels: Array
    best: Array
    odds: Array
    right: Array

    def confusion(self) -> Array:
        """[K, K] int64: how many images of class row are called class column."""
        classes = len(self.split.class_names)
        found = np.zeros((classes, classes), np.int64)
        np.add.at(found, (self.labels, self.best[:, 0]), 1)
        return found

    def most_confused(self, count: int = 10) -> list[tuple[str, str, int]]:
        """[(class, what it is called, images)], the most frequent first; pairs that occur."""
        off = self.confusion()
        np.fill_diagonal(off, 0)
        order = np.argsort(-off, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, off.shape)
        names = self.split.class_names
        return [(names[r], names[c], int(off[r, c])) for r, c in zip(rows, columns, strict=True) if off[r, c]]

    def worst(self) -> Array:
        """[N]: the mistakes first, then the others, each by the probability of the label, the smallest first."""
        is_right = self.best[:, 0] == self.labels
        return np.lexsort((self.right, is_right))

    def key(self, i: int) -> str:
        """How people name image `i`: its file's name, or its split and number."""
        return str(self.split.source[i]["key"])

    def write_csv(self, path: Path) -> None:
        """One line per image, the worst mistakes first: image, label, probability of it, five answers with theirs.

        Raises AlexNetError where it cannot be written.
        """
        names, text = self.split.class_names, io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        answers = [(f"answer_{i}", f"probability_{i}") for i in range(1, self.best.shape[1] + 1)]
        table.writerow(["image", "class", "is_right", "probability", *(name for pair in answers for name in pair)])
        for i in self.worst().tolist():
            label, best = int(self.labels[i]), self.best[i].tolist()
            pairs = zip((names[k] for k in best), (f"{p:.6g}" for p in self.odds[i]), strict=True)
            row = (self.key(i), names[label], int(best[0] == label), f"{self.right[i]:.6g}")
            table.writerow([*row, *(part for pair in pairs for part in pair)])
        files.make_folder(path.absolute().parent)
        files.write_text(path, text.getvalue())
