"""What a corpus has found: a video or picture that is not decoded yet, or the reason why it must not be read."""

import os
import re
from typing import Any, NamedTuple

PICTURE_EXTENSIONS = frozenset(".jpeg .jpg .png .webp".split())
NO_LABEL = -1
# Addresses that a row of a data set may name, also of a file in an archive there (`zip://clip.mp4::https://...`).
_ADDRESS = re.compile(r"((zip|tar)://((?!::).)*::)?(https?|hf)://((?!::).)*", re.DOTALL)


class EncodedClip(NamedTuple):
    """A video or picture that has been found, not decoded."""

    #: What names it in logs and results.
    path: str
    #: Class, or -1 where none is known.
    label: int
    #: Path or URL of a file, or the bytes of one (empty where a data set has none).
    data: str | bytes
    is_picture: bool
    #: Why it must not be read; empty for nearly all.
    refused: str = ""


def extension(path: str) -> str:
    """In lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def encoded_clip(value: Any, *, label: Any, name: str, is_picture: bool, folder: str | None) -> EncodedClip:
    """
    The clip stored in a cell: bytes, a path, or {"bytes", "path"}.

    Args:
        folder: where the files are that cells may name; "" for anywhere, `None` for nowhere.
    """
    if isinstance(value, dict):
        data = value.get("path") if value.get("bytes") is None else value["bytes"]
    else:
        data = value
    refused = ""
    if isinstance(data, str):
        is_picture = is_picture or extension(data) in PICTURE_EXTENSIONS
        data, refused = _named_file(data, folder=folder)
    elif not isinstance(data, bytes | None):
        data, refused = b"", f"it holds a {type(data).__name__} instead of bytes or a path"
    return EncodedClip(name, label if isinstance(label, int) else NO_LABEL, data or b"", is_picture, refused)


def _named_file(path: str, *, folder: str | None) -> tuple[str, str]:
    """The file or address that a cell names, and why it must not be read, if so; see [`encoded_clip`]."""
    if folder == "" or _ADDRESS.fullmatch(path):
        return path, ""
    if folder is not None and "://" not in path and "\0" not in path:
        root = os.path.abspath(folder)
        file = os.path.abspath(os.path.join(root, path))  # resolves `..`, not links: those are of this machine
        if os.path.commonpath([root, file]) == root:
            return file, ""
    files = "" if folder is None else f"files in {folder} or below, and "
    return path, f"it names {path!r}: of what rows name only {files}addresses (http, https, hf) are read"


__all__ = ["NO_LABEL", "PICTURE_EXTENSIONS", "EncodedClip", "encoded_clip", "extension"]
