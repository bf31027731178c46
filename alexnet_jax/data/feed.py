"""From records to batches: a batch is a pure function of (seed, step), wherever and however it is computed."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alexnet_jax.data import preprocess
from alexnet_jax.data.preprocess import Crop
from alexnet_jax.errors import AlexNetError, LostError

Batch = dict[str, np.ndarray]

_ORDER, _CROPS = 0, 1  # what a random stream is for, beside the seed and the epoch or step
_FOREVER = 2**62


class Source(Protocol):
    """Random access to the records of one split: {"image": bytes or [H, W, C] uint8, "label": int, "key": str}.

    `key` is how people name the record: its file name, or its split and number.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set: its records, its own name, and the classes' names in label order."""

    source: Source = dataclasses.field(repr=False)  # Grain asks for the repr: half a second with the digits' records
    name: str
    class_names: tuple[str, ...]
    folder: Path | None = None  # of a prepared data set, with its statistics


@dataclasses.dataclass(frozen=True)
class Feed:
    """How a process computes its batches. None of it changes what they hold."""

    threads: int = 2  # in each worker, or in this process without workers
    workers: int = 0  # processes of their own
    prefetch_batches: int = 4  # computed ahead
    max_bad_records: int = 0  # more of them end the run
    say: Callable[[str], None] = print  # to whom bad records are named

    @property
    def batches_in_memory(self) -> int:
        """The most batches in this host's memory at a time, including those on their way."""
        ahead = max(self.prefetch_batches, self.threads)
        return 2 + (self.workers * (ahead + 1) if self.workers else ahead)


def parallelism(threads: int, workers: int) -> tuple[int, int]:
    """(threads, workers) where 0 threads or -1 workers ask for what suits the cores of this process.

    One process decodes on about eight cores before the interpreter's lock binds, about 0.1 ms of
    Python per image; on more than sixteen cores it takes worker processes of eight threads each.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if workers < 0:
        workers = cores // 8 if cores > 16 and not threads else 0
    return threads or (8 if workers and cores > 16 else max(1, cores // max(1, workers))), workers


def train_batches(
    split: Split, images: Crop, feed: Feed, *, batch_size: int, seed: int, step: int, share: tuple[int, int]
) -> Iterator[Batch]:
    """Batches from `step` on, without end: image [b, H, W, 3] uint8, label [b] int32, place [b] int32.

    The records are shuffled anew each epoch, and a batch may hold the end of one and the beginning of the next.
    `batch_size` is the global one; this process gets part `share` = (index, count) of it, reads no other record, and
    `place` is where in the global batch each of its examples stands. Nothing but `step` is needed to resume: neither
    threads nor processes change what comes.

    A record that does not decode is named to `feed.say` and replaced by the next one in the data set that does. Raises
    AlexNetError when there are more of them than `feed.max_bad_records`, and for a label without a class.
    """
    load = functools.partial(_train_batch, split, images, batch_size, seed, share, feed.max_bad_records + 2)
    return _checked(computed_ahead(step, _FOREVER, load, feed), split, feed)


def eval_batches(split: Split, images: Crop, feed: Feed, *, batch_size: int, share: tuple[int, int]) -> Iterator[Batch]:
    """Every record of the split once, in order, its center square of crop_pixels; label -1 fills up the last batch.

    A record that does not decode is named to `feed.say` and counted with a black image.
    """
    batches = -(-len(split.source) // batch_size)
    load = functools.partial(_eval_batch, split, images, batch_size, share)
    return _checked(computed_ahead(0, batches, load, feed), split, feed)


def fingerprint(split: Split) -> dict[str, Any]:
    """What tells this split from another one: its size, and digests of its classes and of some of its records."""
    digest, names = hashlib.blake2b(digest_size=8), "\n".join(split.class_names).encode()
    for number in np.linspace(0, len(split.source) - 1, 8).round().astype(int).tolist():
        record = split.source[number]
        image = record["image"]
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())
        digest.update(f"{record['key']} {record['label']}".encode())
    return {
        f"the number of images of {split.name}": len(split.source),
        f"the classes of {split.name}": hashlib.blake2b(names, digest_size=8).hexdigest(),
        f"the records of {split.name}": digest.hexdigest(),
    }


def some_images(split: Split, images: Crop, count: int) -> np.ndarray:
    """Up to `count` images from all over the split, center cropped, uint8 [n, crop, crop, 3]; bad ones are left out."""
    numbers = np.unique(np.linspace(0, len(split.source) - 1, count).round().astype(int)).tolist()
    batch = _load(split, images, numbers, [None] * len(numbers))
    good = batch["bad"] < 0
    if not any(good):
        raise AlexNetError(f"Not one picture of {split.name} can be read: {_fault(split, numbers[0])}.")
    return batch["image"][good]


def _train_batch(
    split: Split, crop: Crop, size: int, seed: int, share: tuple[int, int], tries: int, step: int
) -> Batch:
    index, count = share
    # Drawn for the global batch, so that an example's crop does not depend on how many processes there are.
    place = np.arange(size)[index::count]
    crops = np.random.default_rng((seed, _CROPS, step)).random((size, 2))
    corners = [*crops[place // crop.chunk]] if crop.random else [None] * len(place)
    records = len(split.source)
    epochs = (divmod(at, records) for at in (step * size + place).tolist())
    numbers = [int(_order(seed, epoch, records)[position]) for epoch, position in epochs]
    return _load(split, crop, numbers, corners, tries=tries) | {"place": place.astype(np.int32)}


def _eval_batch(split: Split, crop: Crop, size: int, share: tuple[int, int], number: int) -> Batch:
    index, count = share
    numbers = range(number * size, (number + 1) * size)[index::count]
    return _load(split, crop, numbers, [None] * len(numbers))


@functools.lru_cache(2)  # a batch may hold the end of one epoch and the beginning of the next
def _order(seed: int, epoch: int, records: int) -> np.ndarray:
    """The record numbers in the order of an epoch; 10 MB for ImageNet, drawn in 20 ms."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(records)


def _load(
    split: Split, crop: Crop, numbers: Sequence[int], corners: Sequence[np.ndarray | None], *, tries: int = 1
) -> Batch:
    """The records of these numbers, cropped at these corners; a black image of label -1 for a number beyond them.

    `bad` is the number of a record that cannot be loaded, or -1. The next one of so many `tries` stands in for it; if
    there is none, its image is black.
    """
    size, side, records = len(numbers), crop.crop_pixels, len(split.source)
    batch: Batch = {
        "image": np.empty((size, side, side, 3), np.uint8),  # to clear them takes as long as to crop them
        "label": np.full(size, -1, np.int32),
        "bad": np.full(size, -1, np.int64),
    }
    for i, (number, corner) in enumerate(zip(numbers, corners, strict=True)):
        for further in range(tries if number < records else 0):
            if _put(split, crop, (number + further) % records, corner, batch, i):
                break
            batch["bad"][i] = number
        else:
            batch["image"][i] = 0
    return batch


def _put(split: Split, crop: Crop, number: int, corner: np.ndarray | None, batch: Batch, i: int) -> bool:
    """Puts a record into place i of the batch; False where it is bad. `_fault` says why."""
    try:
        record = split.source[number]
        batch["label"][i] = record["label"]
        batch["image"][i] = crop(record["image"], corner)
    except Exception:
        # Whatever the reader raises: a worker must not die of one record, and `_fault` reads it again.
        return False
    return bool(0 <= record["label"] < len(split.class_names))


def _fault(split: Split, number: int) -> str:
    """Which record this is and what is wrong with it. Raises AlexNetError where its label has no class."""
    try:
        record = split.source[number]
    except Exception as error:
        return f"{split.name}[{number}] cannot be read ({str(error).splitlines()[0]})"
    classes, label = len(split.class_names), int(record["label"])
    if not 0 <= label < classes:
        raise AlexNetError(
            f"The record {record['key']} of {split.name} has the label {label}, but the data set has {classes} "
            f"classes, 0 to {classes - 1}: use a split that is labelled, or prepare the data again."
        )
    try:
        preprocess.decode(record["image"])
    except ValueError as error:
        return f"{record['key']} does not decode ({error})"
    return f"{record['key']} could not be loaded, but could the second time"


def _checked(batches: Iterator[Batch], split: Split, feed: Feed) -> Iterator[Batch]:
    """The batches without their `bad`; reports every bad record once."""
    found: dict[int, str] = {}
    with contextlib.closing(batches):  # type: ignore[type-var]
        for batch in batches:
            bad = batch.pop("bad")
            for number in bad[bad >= 0].tolist():
                if number in found:
                    continue
                found[number] = _fault(split, number)
                feed.say(f"bad record {len(found)} of {split.name} ({feed.max_bad_records} allowed): {found[number]}")
                if len(found) > feed.max_bad_records:
                    raise AlexNetError(
                        f"{split.name} has more bad records than config.data.max_bad_records={feed.max_bad_records}: "
                        f"{'; '.join(found.values())}. Repair or remove them, or allow more."
                    )
            yield batch


def computed_ahead(first: int, end: int, compute: Callable[[int], Any], feed: Feed) -> Iterator[Any]:
    """compute(first) to compute(end - 1) in order, by threads or worker processes; what is None is left out."""
    import grain  # only a run needs it

    stream = grain.MapDataset.range(first, end).map(compute)
    # The buffer counts batches, and its default of 500 would hold 10 GB of them.
    ahead = max(feed.prefetch_batches, feed.threads)
    batches = stream.to_iter_dataset(grain.ReadOptions(num_threads=feed.threads, prefetch_buffer_size=ahead))
    if feed.workers:
        options = grain.MultiprocessingOptions(num_workers=feed.workers, per_worker_buffer_size=1)
        batches = batches.mp_prefetch(options, worker_init_fn=_end_with_parent)
        return _of_workers(iter(batches))
    return iter(batches)


def _of_workers(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of worker processes that ignore Ctrl-C and SIGTERM: it is up to this process to end them.

    A terminal, or a scheduler, sends these to the workers too. They inherit the signals that are blocked here while
    they are started, which the first batch does. Raises LostError where a worker dies.
    """
    resource_tracker.ensure_running()  # it unblocks them where it is started on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        try:
            first = list(itertools.islice(batches, 1))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from itertools.chain(first, batches)
    except RuntimeError as error:
        # Grain has no type of its own for it.
        died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if not died:
            raise
        how = "killed, as the kernel does where memory runs out" if died[1] == "-9" else f"gone, exit status {died[1]}"
        raise LostError(
            f"A worker process that reads images was {how}. Start the same command again; if it happens again, set "
            f"config.data.workers and config.data.prefetch_batches lower."
        ) from error
    finally:
        batches.close()  # type: ignore[attr-defined]


def _end_with_parent(index: int, count: int) -> None:
    """In a worker: it ends when the process that started it is gone, killed perhaps."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
