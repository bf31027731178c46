"""A prepared set in the memory of its machine: read once from end to end, it is the system that keeps it there.

The feed reads records in random order. On a disk or a network that is slow at that, a first epoch is as slow; a set
that fits in memory is read ahead instead, as fast as its disk gives it. All processes of a machine share what the
system keeps, and it gives the memory back where something else needs it.
"""

import threading
from pathlib import Path

_CHUNK = 1 << 22  # bytes


def read_ahead(folder: Path | None, *, free: int) -> str:
    """Starts to read the records of a prepared set, where they are at most half of `free` bytes; in words.

    "" where there are no files to read. The thread ends with the process, and an unreadable file is left to the feed.
    """
    paths = sorted(folder.glob("*record-*-of-*")) if folder is not None else []
    size = sum(path.stat().st_size for path in paths)
    if not size:
        return ""
    if size > free // 2:
        return f"none: half of the free memory is {free / 2e9:.3g} GB, and the records take {size / 1e9:.3g} GB"
    threading.Thread(target=_read, args=(paths,), daemon=True).start()
    return f"all {size / 1e9:.3g} GB of records are read into memory meanwhile"


def _read(paths: list[Path]) -> None:
    chunk = bytearray(_CHUNK)
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                while file.readinto(chunk):
                    pass
        except OSError:
            continue
