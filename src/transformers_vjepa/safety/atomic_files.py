"""Atomic writes: a file is complete under its name, or the earlier file is still there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush_to_disk(path: str | os.PathLike) -> None:
    """Has the contents of a file, or the names in a folder, written to the disk (fsync)."""
    if os.name == "nt":  # Windows cannot do this for folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str | os.PathLike, *, shared: bool = False, flush: bool = True) -> Iterator[Path]:
    """
    A temporary path beside `path`, `.NAME.unfinished`. When the block ends without an error, the temporary file is
    renamed to `path`; after an error it is removed.

    Args:
        path: the file to write. Its folder must exist.
        shared: several processes may write this file at the same time, so each of them gets a temporary name of its
            own. Otherwise the name is always the same, and a new attempt overwrites what a killed process left.
        flush: write the contents to the disk before the renaming, so that also a power cut leaves no partial file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{f'.{uuid.uuid4().hex}' if shared else ''}.unfinished")
    try:
        yield temporary
        if flush:
            flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file that is complete or not changed; several processes may write it at the same time."""
    with atomic_path(path, shared=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
