"""Memory of the training feed over many records: python benchmarks/soak.py --data=NAME --data_dir=DIR

Reads --records records as training does. For each tenth of them it prints the resident memory of this
process and its workers: the least and the most, between which lie the batches (19 MB each) that happen
to be on their way. It ends with the growth of the most from the first tenth to the last, with status 1
where that is over --limit percent.
"""

import argparse
import sys
import time

import psutil

from alexnet_jax.data import feed as data, preprocess, sources


def _megabytes() -> float:
    """Resident memory of this process and its children."""
    process = psutil.Process()
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="the data set (%(default)s)")
    parser.add_argument("--data_dir", default="", help="where it lies")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--limit", type=float, default=5.0, help="of growth, in percent (%(default)s)")
    options = parser.parse_args()
    split = sources.open_split(options.data, "train", options.data_dir)
    reading = data.Feed(*data.parallelism(options.threads, options.workers))
    batches = data.train_batches(
        split, preprocess.Crop(256, 224), reading, batch_size=options.batch, seed=0, step=0, share=(0, 1)
    )
    steps, start = -(-options.records // options.batch), time.perf_counter()
    memory, seen = list[float](), list[float]()
    print(f"{options.data}: {len(split.source):,} records, {reading.threads} thread(s), {reading.workers} worker(s)")
    for step in range(1, steps + 1):
        next(batches)
        seen.append(_megabytes())
        if step * 10 // steps > (step - 1) * 10 // steps:
            memory.append(max(seen))
            rate = step * options.batch / (time.perf_counter() - start)
            print(
                f"{step * options.batch:9,} records  {min(seen):8.1f} to {max(seen):.1f} MB  {rate:8.1f} images/s",
                flush=True,
            )
            seen.clear()
    growth = 100 * (memory[-1] / memory[0] - 1)
    print(f"growth {growth:+.1f} % from {memory[0]:.1f} to {memory[-1]:.1f} MB")
    sys.exit(growth > options.limit)


if __name__ == "__main__":
    main()
