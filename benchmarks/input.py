"""The feed's speed on this machine, beside PyTorch's DataLoader and tf.data over the same photographs.

    python benchmarks/input.py --photographs=FOLDER [--torch=PYTHON] [--tensorflow=PYTHON] [--json=FILE]

Images per second from stored bytes to batches of 224 x 224 uint8 crops, with as many threads or workers
for each, from the originals and from what `prepare --pack=256` makes of them, as JPEGs and as pixels
(`--raw`). FOLDER has JPEGs, in folders or not; they are repeated until they are a thousand. `--torch` and
`--tensorflow` name Pythons that have these. All run in turn, each in a process of its own, so that a ratio
is one of neighbors in time on a machine whose speed drifts; batches made ahead before the clock starts are
not counted. At the end: how many cores such rates need to feed a device.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOADERS = {
    "feed": "this feed",
    "bare": "the bare decoder (simplejpeg, nothing around it)",
    "torch": "PyTorch DataLoader, same decoder and interpolation",
    "torch-area": "PyTorch DataLoader, same decoder, resized by area as in 2012",
    "torch-pillow": "PyTorch DataLoader, Pillow",
    "tensorflow": "tf.data",
}
LAYOUTS = {
    "originals": [],
    "packed, short side 256": ["--pack=256"],
    "pixels, 256 x 256": ["--pack=256", "--raw"],
}
TARGETS = (5_000, 10_000, 20_000)  # images/s
Batches = Iterator[Any]


def feed(where: Path, workers: int, batch: int) -> Batches:
    """The training feed over the prepared set."""
    from alexnet_jax.data import feed as data, preprocess, sources

    (name,) = (path.name for path in (where / "data").iterdir())
    split = sources.open_split(name, "train", str(where / "data"))
    return data.train_batches(
        split, preprocess.Crop(256, 224), data.Feed(threads=workers), batch_size=batch, seed=0, step=0, share=(0, 1)
    )


def bare(where: Path, workers: int, batch: int) -> Batches:
    """Decoding alone, in threads; an array is gone before the next one comes."""
    from concurrent.futures import ThreadPoolExecutor

    import simplejpeg

    encoded = [path.read_bytes() for path in sorted((where / "loose").iterdir())]

    def decode(numbers: range) -> None:
        for i in numbers:
            simplejpeg.decode_jpeg(encoded[i % len(encoded)], "RGB")

    with ThreadPoolExecutor(workers) as pool:
        at = 0
        while True:
            shares = [range(at + i, at + batch * workers, workers) for i in range(workers)]
            list(pool.map(decode, shares))
            at += batch * workers
            yield from range(workers)


def torch_loader(where: Path, workers: int, batch: int, *, kind: str) -> Batches:
    """A DataLoader over loose files: decode, short side to 256, a random crop of 224."""
    import cv2
    import numpy as np
    import simplejpeg
    import torch
    from PIL import Image

    paths = sorted((where / "loose").iterdir())

    def resized(data: bytes, path: Path) -> np.ndarray:
        if kind == "torch-pillow":
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            scale = 256 / min(picture.size)
            size = (max(256, round(picture.width * scale)), max(256, round(picture.height * scale)))
            return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
        pixels = simplejpeg.decode_jpeg(data, "RGB")
        scale = 256 / min(pixels.shape[:2])
        if scale == 1:
            return pixels
        size = (max(256, round(pixels.shape[1] * scale)), max(256, round(pixels.shape[0] * scale)))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if kind == "torch-area" else cv2.INTER_LINEAR)

    class Photographs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            path = paths[i * 7919 % len(paths)]
            pixels = resized(b"" if kind == "torch-pillow" else path.read_bytes(), path)
            rng = np.random.default_rng(i)
            top, left = rng.integers(0, pixels.shape[0] - 223), rng.integers(0, pixels.shape[1] - 223)
            return pixels[top : top + 224, left : left + 224].copy(), i % 1000

    return iter(
        torch.utils.data.DataLoader(
            Photographs(), batch, num_workers=workers, worker_init_fn=lambda _: cv2.setNumThreads(0)
        )
    )


def tensorflow(where: Path, workers: int, batch: int) -> Batches:
    """tf.data over a TFRecord file of the same bytes, in `workers` threads."""
    import tensorflow as tf

    path = str(where / "photographs.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for file in sorted((where / "loose").iterdir()):
            writer.write(file.read_bytes())

    def load(data: Any) -> Any:
        pixels = tf.io.decode_jpeg(data, channels=3)
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        size = tf.maximum(256, tf.cast(tf.round(shape * 256 / tf.reduce_min(shape)), tf.int32))
        pixels = tf.cond(
            tf.reduce_min(tf.shape(pixels)[:2]) == 256,
            lambda: pixels,
            lambda: tf.cast(tf.image.resize(pixels, size), tf.uint8),
        )
        return tf.image.random_crop(pixels, (224, 224, 3)), 0

    records = tf.data.TFRecordDataset(path).repeat().shuffle(200).map(load, num_parallel_calls=workers)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    return iter(records.batch(batch).prefetch(2).with_options(options).as_numpy_iterator())


def measure(loader: str, where: Path, workers: int, batch: int, count: int) -> float:
    """Images per second over `count` batches, after those that may have been made ahead."""
    make = {"feed": feed, "bare": bare, "tensorflow": tensorflow}.get(loader)
    batches = make(where, workers, batch) if make else torch_loader(where, workers, batch, kind=loader)
    for _ in range(8):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch / (time.perf_counter() - start)


def lay_out(photographs: Path, where: Path, layout: list[str]) -> None:
    """`data`: the prepared set; `loose`: the same pictures' bytes as files, of JPEGs."""
    from alexnet_jax.cli import prepare
    from alexnet_jax.data import sources

    paths = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"error: there is no .jpg, .jpeg or .JPEG in {photographs}: name a folder of photographs.")
    for i in range(max(1000, len(paths))):
        link = where / "pictures" / "train" / f"class{i % 2}" / f"{i:05}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(paths[i % len(paths)].absolute())
    for i in range(2):
        link = where / "pictures" / "val" / f"class{i}" / "0.jpg"
        link.parent.mkdir(parents=True)
        link.symlink_to(paths[0].absolute())
    options = [f"--from={where / 'pictures'}", "--name=photographs", f"--data_dir={where / 'data'}", *layout]
    prepare.main(["folder", *options])
    if "--raw" in layout:
        return
    (where / "loose").mkdir()
    (name,) = (path.name for path in (where / "data").iterdir())
    source = sources.open_split(name, "train", str(where / "data")).source
    for i in range(len(source)):
        (where / "loose" / f"{i:05}.jpg").write_bytes(source[i]["image"])


def compare(pythons: dict[str, str], where: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of every turn of every loader."""
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    for turn in range(args.turns):
        for name, python in pythons.items():
            options = [f"--only={name}", f"--where={where}", f"--workers={args.workers}", f"--batch={args.batch}"]
            command = [python, __file__, *options, f"--batches={args.batches}"]
            out = subprocess.run(command, capture_output=True, text=True)
            if out.returncode:
                sys.exit(f"error: {name} failed under {python}: {out.stderr.splitlines()[-1]}")
            rates[name].append(json.loads(out.stdout.splitlines()[-1]))
        said = "  ".join(f"{name} {rates[name][-1]:.0f}" for name in pythons)
        print(f"turn {turn + 1}: {said} images/s", flush=True)
    return rates


def table(rates: dict[str, list[float]], workers: int) -> str:
    """Markdown; a ratio is the median of the turns', with their range."""
    lines = ["| loader | images/s | a core | this feed against it |", "|---|---|---|---|"]
    for name, seen in rates.items():
        middle = statistics.median(seen)
        ratios = [ours / theirs for ours, theirs in zip(rates["feed"], seen, strict=True)]
        against = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if name != "feed" else ""
        lines.append(f"| {LOADERS[name]} | {middle:,.0f} | {middle / workers:,.0f} | {against} |")
    return "\n".join(lines)


def cores_table(rates: dict[str, dict[str, list[float]]], workers: int) -> str:
    """Markdown: computed from the medians of this feed, as if cores added up."""
    a_core = {title: statistics.median(seen["feed"]) / workers for title, seen in rates.items()}
    lines = [
        "| images/s | " + " | ".join(f"cores, {title}" for title in a_core) + " |",
        "| --- |" + " --- |" * len(a_core),
    ]
    for target in TARGETS:
        cells = [f"{target / rate:,.1f}" for rate in a_core.values()]
        lines.append(f"| {target:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs")
    parser.add_argument("--torch", help="a Python that has PyTorch, OpenCV, simplejpeg and Pillow")
    parser.add_argument("--tensorflow", help="a Python that has TensorFlow")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each (%(default)s)")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--batches", type=int, default=30, help="counted in a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the rates are kept")
    parser.add_argument("--only", choices=list(LOADERS), help="measure here and print JSON")
    parser.add_argument("--where", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.where, args.workers, args.batch, args.batches)), flush=True)
        os._exit(0)  # other libraries' worker processes take seconds to end, and say so
    if not args.photographs:
        parser.error("--photographs is missing: a folder of JPEGs")
    pythons = {"feed": sys.executable, "bare": sys.executable}
    pythons |= {name: args.torch for name in LOADERS if args.torch and name.startswith("torch")}
    pythons |= {"tensorflow": args.tensorflow} if args.tensorflow else {}
    rates: dict[str, dict[str, list[float]]] = {}
    for title, layout in LAYOUTS.items():
        here = {"feed": sys.executable} if "--raw" in layout else pythons  # the others read files of JPEGs
        with tempfile.TemporaryDirectory() as folder:
            lay_out(args.photographs, Path(folder), layout)
            rates[title] = compare(here, Path(folder), args)
        print(
            f"\n{title}, {args.workers} threads or workers each:\n\n{table(rates[title], args.workers)}\n", flush=True
        )
    print(f"cores needed, computed from these rates:\n\n{cores_table(rates, args.workers)}\n")
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("simplejpeg", "opencv-python-headless", "grain")
    ]
    print(f"{processor()}, {datetime.date.today()}, {', '.join(versions)}")
    if args.json:
        args.json.write_text(json.dumps({"processor": processor(), "workers": args.workers, "turns": rates}, indent=1))


if __name__ == "__main__":
    main()
