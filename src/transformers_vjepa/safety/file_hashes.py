"""SHA-256 of whole files, by which damage and replaced files are found."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

_PART = 2**20  # bytes in memory


def file_hash(file: str | os.PathLike, *, progress: Callable[[int], Any] | None = None) -> str:
    """
    SHA-256 of a file, in hexadecimal digits. Memory does not depend on the size of the file.

    Args:
        progress: called with the number of bytes of each part that was read, for a bar.
    """
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while part := stream.read(_PART):
            digest.update(part)
            if progress is not None:
                progress(len(part))
    return digest.hexdigest()
