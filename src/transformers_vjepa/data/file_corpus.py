"""Corpora of files: folders, and index files (path and label per line)."""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn, TextIO

import numpy as np
from transformers.utils import logging

from ..models.vjepa.media_files import (
    IMAGE_EXTENSIONS,
    UNREADABLE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    extension,
    is_media,
    is_other_kind,
)
from ..safety.sanitizing import address_without_secrets, log_line
from .class_numbers import as_number, number_labels
from .corpus import NO_LABEL, EncodedClip, IndexedCorpus, PackedStrings
from .remote_reading import check_address

logger = logging.get_logger(__name__)

# Folders of operating systems and storage devices, in lower case: thumbnails, waste bins, lost blocks, fork data.
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler", "__macosx", "__pycache__")
    + ("lost+found", "lost.dir", "system volume information", "found.000", "network trash folder", "temporary items")
    + ("@recently-snapshot", "@transcode")
)
# First-level folders that are the splits of a data set, not classes, if there are no others.
_SPLITS = frozenset("train training val valid validation dev test testing eval evaluation".split())
# Separators of the columns of an index, besides the space of the published format.
_SEPARATORS = ",;\t"
_OPENING_QUOTE = rf'^"|[{_SEPARATORS}]\s*"'
_PUBLISHED_LINE = re.compile(r"(?P<path>.+?)\s+(?P<label>[+-]?\d+(\.0*)?)")
_HEADER_WORDS = frozenset(
    "path paths pathname file files filename filenames filepath video videos videoname clip clips image images img "
    "media url uri name names label labels class classes classname category categories target targets action "
    "activity id ids index youtube".split()
)
# Fewer images in a folder are hardly the frames of a video, unless they are called frames.
_FEWEST_FRAMES = 8
_FRAME_NAME = re.compile(r"(.*[\W_])?frames?[\W_]*", re.IGNORECASE)


class FileCorpus:
    """Video or image files. `paths` are relative to `root`, absolute, or URLs."""

    def __init__(
        self, paths: Iterable[str], *, labels: Iterable[int], root: str = "", class_names: Sequence[str] = ()
    ) -> None:
        self._paths = PackedStrings(paths)
        self._labels = np.fromiter(labels, dtype=np.int64)
        self._root = root
        self.class_names = tuple(class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self._paths)

    def describe(self, index: int) -> str:
        path = self._path(index)
        return address_without_secrets(path) if "://" in path else path

    def origin(self, index: int) -> tuple[str, str | None]:
        path = self._paths[index]
        if "://" in path:
            return address_without_secrets(path), None
        name = os.path.normpath(path) if self._root else os.path.abspath(path)
        return name, os.path.join(self._root, path)

    def read(self, index: int) -> EncodedClip:
        path = self._path(index)
        is_image = extension(path) in IMAGE_EXTENSIONS
        return EncodedClip(self.describe(index), int(self._labels[index]), path, is_image)

    def _path(self, index: int) -> str:
        path = self._paths[index]
        return path if not self._root or "://" in path else os.path.join(self._root, path)


# Index files


class _Line(NamedTuple):
    """A clip of an index."""

    path: str
    #: A number or a name, `None` without a label.
    label: int | str | None


def open_text(file: str | os.PathLike, *, errors: str = "strict") -> TextIO:
    """A text file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets save it."""
    with open(file, "rb") as start:
        is_utf16 = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return open(file, encoding="utf-16" if is_utf16 else "utf-8-sig", errors=errors)


def split_columns(line: str) -> list[str]:
    """The columns of a line of CSV: separated by comma, semicolon or tab, with quotes or without."""
    line = re.sub(rf'"\s+([{_SEPARATORS}])', r'"\1', line)
    for separator in _SEPARATORS:
        try:
            row = next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
        except csv.Error:  # a quote that does not end its column: another separator
            continue
        if len(row) > 1:
            return [column.strip() for column in row]
    return [line]


def is_header(line: str) -> bool:
    """Whether a line names columns: `path,label`, `"video_path";"class"`, `file name`, `Label`."""
    columns = [column.strip(' "#') for column in split_columns(line)][:2]
    words = [re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", column) for column in columns]
    return all(
        found and not re.sub(r"[A-Za-z\s_.-]", "", column) and _HEADER_WORDS.issuperset(map(str.lower, found))
        for column, found in zip(columns, words, strict=True)
    )


def _is_clip(path: str, root: str) -> bool:
    """Whether a part of a line is the path of a clip: a media file, its address, or something that exists."""
    if is_media(path) or "://" in path:
        return is_media(path)
    return bool(path) and os.path.exists(os.path.join(root, path))


def _parse_quoted(line: str, root: str) -> _Line | None:
    """A line with quotes around path or label; `None` if they are part of the path."""
    columns = split_columns(line)
    if len(columns) == 1:  # quotes around all of it, or around the path of the published format
        if not (match := re.fullmatch(r'"((?:[^"]|"")+)"(?:\s+(\S+))?', line)):
            return None
        columns = [match[1].replace('""', '"'), match[2] or ""]
    label = _label(columns[1])
    if len(columns) == 2 and (not isinstance(label, str) or _is_clip(columns[0], root)):
        return _Line(columns[0], label)
    return None


def _label(text: str) -> int | str | None:
    text = text.strip()
    return (text or None) if (number := as_number(text)) is None else number


def _parse_line(line: str, root: str) -> _Line | None:
    """The clip of a line of an index; `None` if the line has none of the formats of [`open_index`]."""
    if re.search(_OPENING_QUOTE, line):
        if line.count('"') % 2:
            return None
        if quoted := _parse_quoted(line, root):
            return quoted
    published = _PUBLISHED_LINE.fullmatch(line)
    if published and _is_clip(published["path"], root):
        return _Line(published["path"], _label(published["label"]))
    columns = [line.rpartition(separator) for separator in _SEPARATORS if separator in line]
    for path, _, label in columns:
        if _is_clip(path.strip(), root):
            return _Line(path.strip(), _label(label))
    # A path with a separator may also be a line with the label first.
    if _is_clip(line, root) and (not columns or "://" in line or os.path.exists(os.path.join(root, line))):
        return _Line(line, None)
    # A number is a label, whatever stands before it: an address without extension, or a file that is not there.
    if published and not columns:
        return _Line(published["path"], _label(published["label"]))
    if len(columns) == 1 and columns[0][0].count(columns[0][1]) == 0 and isinstance(_label(columns[0][2]), int):
        return _Line(columns[0][0].strip(), _label(columns[0][2]))
    return None


def open_index(file: str) -> FileCorpus:
    """
    An index with a path and a label per line: `path label` (the published format, with a number), or two columns of
    CSV, `path,label`, with a number or a name. A path without label is an unlabelled clip. A header is skipped.

    Raises:
        ValueError: another format, no clips, or numbers beside names.
    """
    root = os.path.dirname(os.path.abspath(file))
    paths: list[str] = []

    def labels() -> Iterator[int | str | None]:
        with open_text(file, errors="surrogateescape") as lines:
            for number, line in enumerate(map(str.strip, lines), start=1):
                if not line or (not paths and is_header(line)):
                    continue
                if (entry := _parse_line(line, root)) is None:
                    raise ValueError(
                        f"{file}, line {number}: {line[:80]!r} has none of the formats 'path label', 'path,label' and "
                        "'path,class name' (two columns, the path first; with quotes around a column that has commas "
                        "itself; a folder of frames must exist)"
                    )
                paths.append(entry.path)
                yield entry.label

    numbers, class_names = number_labels(labels(), source=file)
    if not paths:
        raise ValueError(f"{file} lists no videos: expected a path and a label per line")
    for address in {path.partition("://")[0]: path for path in paths if "://" in path}.values():
        check_address(address)
    return FileCorpus(paths, labels=numbers, root=root, class_names=class_names)


# Folders


def _walk(folder: str) -> Iterator[str]:
    """
    Files under a folder, relative to it, in sorted order, without hidden ones; links are followed once. The folders of
    operating systems are skipped with a warning. Raises `OSError` for a folder that cannot be read.
    """
    seen, skipped = set(), []

    def stop(error: OSError) -> NoReturn:
        raise error

    for current, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        skipped += (os.path.join(current, name) for name in folders if name.lower() in _SYSTEM_FOLDERS)
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or name.lower() in _SYSTEM_FOLDERS))
        # Once for each folder: for a million images, `relpath` of each file would take longer than all the rest.
        place = os.path.relpath(current, folder)
        prefix = "" if place == os.curdir else place + os.sep
        yield from (prefix + name for name in sorted(files) if not name.startswith("."))
    if skipped:
        places = log_line(", ".join(sorted(os.path.relpath(path, folder) for path in skipped)[:3]))
        logger.warning_once(f"{log_line(folder)}: {len(skipped)} folders of the system are skipped, such as {places}")


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


def describe_left_out(paths: Iterable[str]) -> str:
    """How many files of each extension these are, the most frequent first: `3 .heic, 1 without an extension`."""
    counts = Counter(extension(path) or "without an extension" for path in paths)
    named = [f"{number} {kind}" for kind, number in counts.most_common(12)]
    return log_line(", ".join(named)) + (", ..." if len(counts) > 12 else "")


def _check_left_out(folder: str, left_out: Sequence[str], *, used: Sequence[str]) -> None:
    """
    Warns once that files are left out. Raises `ValueError` if a whole class would be lost, because its files look like
    images or videos that cannot be read.
    """
    if not left_out:
        return
    unreadable = [path for path in left_out if extension(path) in UNREADABLE_EXTENSIONS]
    classes = {*map(_class_folder, used)} - {None}
    if lost := sorted({*map(_class_folder, unreadable)} - classes - {None} if classes else ()):
        raise ValueError(
            f"{log_line(folder)} holds only files that cannot be read ({describe_left_out(unreadable)}) in "
            f"{log_line(', '.join(lost[:5]))}: convert them (to .mp4 or .png, say), unpack them, or move these "
            "folders away; otherwise these classes would be lost"
        )
    unused = sorted({*map(_class_folder, left_out)} - classes - {None} if classes else ())
    folders = f", among them all of {log_line(', '.join(unused[:5]))}" if unused else ""
    advice = f"; convert or unpack those of {describe_left_out(unreadable)} to use them" if unreadable else ""
    logger.warning_once(
        f"{log_line(folder)}: {len(left_out)} files are left out, because they are not images or videos that can be "
        f"read: {describe_left_out(left_out)}, such as {log_line(left_out[0])}{folders}{advice}"
    )


def _check_link(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise FileNotFoundError(
            f"{log_line(path)} is a link to {log_line(os.readlink(path))}, which does not exist, so a folder of clips "
            "may be missing: mount its disk, or remove the link"
        )


def scan_folder(folder: str) -> tuple[str, list[str]]:
    """
    The files of a folder that are one corpus: their kind ("video", "image", ".tar" or ".parquet"), and their paths,
    relative to the folder.

    Raises:
        FileNotFoundError: there are none; or a link leads nowhere and may have been a folder of clips.
        ValueError: files of several kinds, or files of a whole class that cannot be read.
    """
    kinds = {".tar": [], ".parquet": [], "video": [], "image": []}
    left_out = []
    for path in _walk(folder):
        kind = extension(path)
        if kind in IMAGE_EXTENSIONS:
            kind = "image"
        elif kind in VIDEO_EXTENSIONS:
            kind = "" if is_other_kind(os.path.join(folder, path)) else "video"
        else:
            _check_link(os.path.join(folder, path))
        kinds.get(kind, left_out).append(path)
    if kinds["video"] and kinds["image"]:
        _skip_thumbnails(folder, images=kinds["image"], videos=kinds["video"])
        kinds["image"] = []
    found = [kind for kind, paths in kinds.items() if paths]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no videos (.mp4 .mkv .webm .avi .mov .gif ...), images (.jpg .png .webp .tif ...), "
            ".tar or .parquet files, at any depth" + (f"; it holds {describe_left_out(left_out)}" if left_out else "")
        )
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds files of several kinds ({', '.join(found)}): select one kind by a pattern such as "
            f"{os.path.join(folder, '*.tar')}"
        )
    _check_left_out(folder, left_out, used=kinds[found[0]])
    return found[0], kinds[found[0]]


def folder_corpus(folder: str, paths: Sequence[str]) -> FileCorpus:
    """
    The files of a folder; the first-level folders are the classes. Folders that are the splits of a data set (`train`
    and `val`) are not classes: a warning says so, and the clips have no label. Images that seem to be the frames of
    videos are images, with a warning.
    """
    names = sorted({*map(_class_folder, paths)} - {None})
    if names and _SPLITS.issuperset(map(str.lower, names)):
        logger.warning_once(
            f"{log_line(folder)} has the first-level folders {log_line(', '.join(names))}, which are splits and not "
            f"classes: its clips have no labels. Pass {log_line(os.path.join(folder, names[0]))} for the classes in it"
        )
        return FileCorpus(paths, labels=[NO_LABEL] * len(paths), root=folder)
    numbers, class_names = number_labels(names, source=folder)
    if not class_names and sorted(numbers.tolist()) == list(range(len(names))):
        class_names = [names[index] for index in np.argsort(numbers)]  # as the user wrote the numbers: `03`
    number = dict(zip(names, numbers.tolist(), strict=True)) | {None: NO_LABEL}
    corpus = FileCorpus(
        paths, labels=(number[_class_folder(path)] for path in paths), root=folder, class_names=class_names
    )
    if frames := frame_folders(corpus):
        logger.warning_once(
            f"{log_line(folder)}: {len(frames)} folders, such as {log_line(os.path.relpath(frames[0], folder))}, hold "
            "numbered images, as the frames of a video do. Each image is read as a clip of its own: to read each "
            "folder as a video, list the folders in an index (.csv) with 'folder,class' in each line"
        )
    return corpus


def frame_folders(corpus: IndexedCorpus) -> list[str]:
    """
    The folders of images that seem to be the frames of videos: their images are numbered without gaps, and a class has
    several such folders or the images are called frames (`frame_0001.jpg`). Returns no folders for other corpora.
    """
    if not len(corpus) or extension(corpus.describe(0)) not in IMAGE_EXTENSIONS:
        return []
    files = defaultdict(list)
    for index, label in enumerate(corpus.labels.tolist()):
        place, _, name = corpus.describe(index).rpartition(os.sep)
        files[label, place].append(name)
    number = Counter(label for label, _ in files if label != NO_LABEL)
    return sorted(place for (label, place), names in files.items() if _are_frames(names, has_others=number[label] > 1))


def _are_frames(names: Sequence[str], *, has_others: bool) -> bool:
    """
    Whether images are called `frame_0001.jpg`, `frame_0002.jpg`, ..., in steps of one size; few may be missing.
    Images with other names are frames only if their class `has_others` folders.
    """
    found = [re.fullmatch(r"(.*?)(\d{1,18})\.\w+", name) for name in names]
    if None in found or len({match[1] for match in found}) > 1:
        return False
    if not _FRAME_NAME.fullmatch(found[0][1]) and (len(names) < _FEWEST_FRAMES or not has_others):
        return False
    numbers = np.unique([int(match[2]) for match in found])
    steps = np.diff(numbers)
    return len(numbers) > 1 and (numbers[-1] - numbers[0]) / steps.min() < 1.25 * len(names)
