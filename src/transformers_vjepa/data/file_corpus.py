"""Corpora of files: folders, and index files (path and label per line)."""

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from transformers.utils import logging

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, extension, is_media
from ..safety.sanitizing import log_line, without_secrets
from .corpus import NO_LABEL, EncodedClip, PackedStrings

logger = logging.get_logger(__name__)

_INDEX_LINE = re.compile(r"^(?P<path>.+?)[\s,]+(?P<label>-?\d{1,18})$")
_NAMED_LINE = re.compile(r'^"?(?P<path>[^,"]+)"?\s*,\s*"?(?P<name>[^,"]+?)"?$')
_HEADER_LINE = re.compile(r"^\w+([\s,]+\w+)*$")


class FileCorpus:
    """Video or image files. `paths` are relative to `root`, absolute, or URLs."""

    def __init__(
        self, paths: Iterable[str], *, labels: Iterable[int], root: str = "", class_names: Sequence[str] = ()
    ) -> None:
        self._paths = PackedStrings(paths)
        self._labels = np.fromiter(labels, dtype=np.int32)
        self._root = root
        self.class_names = tuple(class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def describe(self, index: int) -> str:
        path = self._path(index)
        return without_secrets(path) if "://" in path else path

    def origin(self, index: int) -> tuple[str, str | None]:
        path = self._paths[index]
        if "://" in path:
            return without_secrets(path), None
        name = os.path.normpath(path) if self._root else os.path.abspath(path)
        return name, os.path.join(self._root, path)

    def read(self, index: int) -> EncodedClip:
        path = self._path(index)
        is_image = extension(path) in IMAGE_EXTENSIONS
        return EncodedClip(self.describe(index), int(self._labels[index]), path, is_image)

    def _path(self, index: int) -> str:
        path = self._paths[index]
        return path if "://" in path else os.path.join(self._root, path)


def _parse_index_line(line: str, *, where: str) -> tuple[str, int, str | None] | None:
    """(path, label, class name) of a line of an index; `None` if no pattern fits."""
    if match := _INDEX_LINE.match(line):
        label = int(match["label"])
        if abs(label) >= 2**31:
            raise ValueError(f"{where}: label {label} does not fit 32 bits")
        return match["path"], label, None
    if is_media(line.strip('"')):
        return line, NO_LABEL, None
    if (match := _NAMED_LINE.match(line)) and is_media(match["path"]):
        return match["path"], NO_LABEL, match["name"]
    return None


def open_index(file: str) -> FileCorpus:
    """An index in one of the formats that [`open_corpus`] describes; class names are numbered in sorted order."""
    paths, labels, names = [], array("l"), []
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            line, where = line.strip(), f"{file}, line {number}"
            if entry := _parse_index_line(line, where=where):
                paths.append(entry[0].strip('"'))
                labels.append(entry[1])
                names.append(entry[2])
            elif line and not (number == 1 and _HEADER_LINE.match(line)):
                raise ValueError(
                    f"{where}: {line[:80]!r} has none of the formats 'path label', 'path,label' and "
                    "'path,class name' (two columns, the path first)"
                )
    if not paths:
        raise ValueError(f"{file} lists no videos: expected a path and a label per line")
    root = os.path.dirname(os.path.abspath(file))
    if not any(names):
        return FileCorpus(paths, labels=labels, root=root)
    if None in names:
        raise ValueError(
            f"{file} gives no class name for {paths[names.index(None)]}, but for other videos: name the class in each "
            "line"
        )
    classes = sorted(set(names))
    numbers = {name: number for number, name in enumerate(classes)}
    return FileCorpus(paths, labels=array("l", map(numbers.__getitem__, names)), class_names=classes, root=root)


def _walk(folder: str) -> Iterator[str]:
    """Files under a folder, relative to it, in sorted order, without hidden ones; links are followed once."""
    seen = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(current, name), folder)


def _class_folder(path: str) -> str | None:
    """As in torchvision's ImageFolder, the first-level folder is the class."""
    return path.partition(os.sep)[0] if os.sep in path else None


def _skip_thumbnails(folder: str, *, images: Sequence[str], videos: Sequence[str]) -> None:
    """Warns that the images beside videos are skipped. Raises `ValueError` if a whole class would be lost."""
    named = f"{log_line(folder)} holds {len(videos)} videos, such as {log_line(videos[0])} (.gif counts as a video)"
    classes = {*map(_class_folder, videos)} - {None}
    if lost := sorted({*map(_class_folder, images)} - classes - {None} if classes else ()):
        raise ValueError(
            f"{named}, and images only in {log_line(', '.join(lost[:5]))}: images beside videos are skipped, and so "
            "would be these classes; move the images or the videos to another folder, or list the files in an index "
            "(.csv)"
        )
    logger.warning_once(f"{named}: its {len(images)} images are taken for thumbnails and skipped")


def scan_folder(folder: str) -> tuple[str, list[str]]:
    """
    The files of a folder that are one corpus: their kind ("video", "image", ".tar" or ".parquet"), and their paths,
    relative to the folder.

    Raises:
        FileNotFoundError: there are none.
        ValueError: files of several kinds.
    """
    kinds = {".tar": [], ".parquet": [], "video": [], "image": []}
    for path in _walk(folder):
        kind = extension(path)
        if is_media(path):
            kind = "video" if kind in VIDEO_EXTENSIONS else "image"
        if kind in kinds:
            kinds[kind].append(path)
    if kinds["video"] and kinds["image"]:
        _skip_thumbnails(folder, images=kinds["image"], videos=kinds["video"])
        kinds["image"] = []
    found = [kind for kind, paths in kinds.items() if paths]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no videos ({' '.join(sorted(VIDEO_EXTENSIONS))}), images "
            f"({' '.join(sorted(IMAGE_EXTENSIONS))}), .tar or .parquet files, at any depth"
        )
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds files of several kinds ({', '.join(found)}): select one kind by a pattern such as "
            f"{os.path.join(folder, '*.tar')}"
        )
    return found[0], kinds[found[0]]


def folder_corpus(folder: str, paths: Sequence[str]) -> FileCorpus:
    """The files of a folder; the first-level folders are the classes, in sorted order."""
    names = sorted({*map(_class_folder, paths)} - {None})
    number = {name: label for label, name in enumerate(names)} | {None: NO_LABEL}
    return FileCorpus(paths, labels=(number[_class_folder(path)] for path in paths), root=folder, class_names=names)
