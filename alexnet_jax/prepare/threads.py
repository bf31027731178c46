"""Threads that work through images, all of which stop where one fails or the user interrupts."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from alexnet_jax import progress


class _Stopped(Exception):
    """Another thread failed, or the user stopped the program."""


@contextlib.contextmanager
def image_threads(
    threads: int, name: str, *, total: int, done: int = 0
) -> Iterator[tuple[ThreadPoolExecutor, Callable[[], None]]]:
    """(a pool, what its threads call before each image, which ends them after a failure in the block).

    Progress is a bar on a terminal, else a line every ten seconds.
    """
    lock, stop, count, printed = threading.Lock(), threading.Event(), done, time.monotonic()
    with progress.bar(total=total, done=done, what=name, unit="image") as bar, ThreadPoolExecutor(threads) as pool:

        def tick() -> None:
            nonlocal count, printed
            if stop.is_set():
                raise _Stopped
            with lock:
                count += 1
                bar.update()
                if bar.disable and time.monotonic() - printed > 10:
                    printed = time.monotonic()
                    print(f"{name}: {count:,} of {total:,} images", flush=True)

        try:
            yield pool, tick
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
