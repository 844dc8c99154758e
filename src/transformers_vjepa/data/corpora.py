"""Where the videos are: folders, index files, tars, Parquet and Hub data sets behind two small interfaces."""

import glob
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, Video, load_dataset
from transformers.utils import logging

from ..safety.sanitizing import log_line, without_secrets
from .remote_reading import disable_datasets_retries, retried, storage_options

logger = logging.get_logger(__name__)

VIDEO_EXTENSIONS = frozenset(".3gp .avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
IMAGE_EXTENSIONS = frozenset(".jpeg .jpg .png .webp".split())
NO_LABEL = -1
_LABEL_COLUMNS = ("label", "labels", "cls")
# One random clip reads a whole row group; above this size the reading takes longer than the decoding.
_LARGE_ROW_GROUP = 64 * 2**20
# Addresses that a row of a data set may name, also of a file in an archive (`zip://clip.mp4::https://...`).
_ADDRESS = re.compile(r"((zip|tar)://((?!::).)*::)?(https?|hf)://((?!::).)*", re.DOTALL)
_INDEX_LINE = re.compile(r"^(?P<path>.+?)[\s,]+(?P<label>-?\d{1,18})$")
_NAMED_LINE = re.compile(r'^"?(?P<path>[^,"]+)"?\s*,\s*"?(?P<name>[^,"]+?)"?$')
_HEADER_LINE = re.compile(r"^\w+([\s,]+\w+)*$")
_BRACE_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?$")


class EncodedClip(NamedTuple):
    """A video or image that has been found, but not decoded."""

    #: Name for logs and results.
    path: str
    #: Class, or -1 if unknown.
    label: int
    #: Path or URL of a file, or the bytes of a file (empty if the row of a data set has none).
    data: str | bytes
    is_image: bool
    #: Why the file must not be read; empty if it may be read.
    refused: str = ""


def extension(path: str) -> str:
    """The extension in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def _is_media(path: str) -> bool:
    return extension(path) in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS


def encoded_clip(value: Any, *, label: Any, name: str, is_image: bool, folder: str | None) -> EncodedClip:
    """
    The clip in a cell of a data set: bytes, a path, or {"bytes", "path"}.

    Args:
        folder: the folder in which cells may name files; "" allows all files, `None` allows none.
    """
    if isinstance(value, dict):
        data = value.get("path") if value.get("bytes") is None else value["bytes"]
    else:
        data = value
    refused = ""
    if isinstance(data, str):
        is_image = is_image or extension(data) in IMAGE_EXTENSIONS
        data, refused = _named_file(data, folder=folder)
    elif not isinstance(data, bytes | None):
        data, refused = b"", f"it holds a {type(data).__name__} instead of bytes or a path"
    return EncodedClip(name, label if isinstance(label, int) else NO_LABEL, data or b"", is_image, refused)


def _named_file(path: str, *, folder: str | None) -> tuple[str, str]:
    """The file or address that a cell names, and the reason if it must not be read; see [`encoded_clip`]."""
    if folder == "" or _ADDRESS.fullmatch(path):
        return path, ""
    if folder is not None and "://" not in path and "\0" not in path:
        root = os.path.abspath(folder)
        file = os.path.abspath(os.path.join(root, path))  # resolves `..` but not links, which the user has made
        if os.path.commonpath([root, file]) == root:
            return file, ""
    files = "" if folder is None else f"files in {folder} or below, and "
    return path, f"it names {path!r}: rows may only name {files}addresses (http, https, hf)"


class PackedStrings(Sequence[str]):
    """
    Read-only paths in one pyarrow array. A million `str` objects take some 150 MB, and each forked worker copies the
    objects that it uses; the buffers of an array are smaller and stay shared.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        # As bytes, since a path need not be valid UTF-8; and without a list, which would hold a million objects.
        blob, ends = bytearray(), array("q", [0])
        for string in strings:
            blob += os.fsencode(string)
            ends.append(len(blob))
        buffers = [None, pa.py_buffer(np.array(ends)), pa.py_buffer(bytes(blob))]
        self._array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return os.fsdecode(self._array[index].as_py())


class IndexedCorpus(Protocol):
    """Videos that can be read in any order. Corpora hold flat arrays, which are cheap to fork, pickle and keep."""

    #: Names of the labels; empty if unknown.
    class_names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """Class of every video, -1 if unknown: int64 (videos,). Reads no video."""

    def __len__(self) -> int: ...

    def describe(self, index: int) -> str:
        """The name of video `index` for logs. Reads nothing."""

    def read(self, index: int) -> EncodedClip:
        """Find video `index`. Raises `OSError` or `pyarrow.ArrowInvalid` if the video cannot be read."""


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

    def read(self, index: int) -> EncodedClip:
        path = self._path(index)
        is_image = extension(path) in IMAGE_EXTENSIONS
        return EncodedClip(self.describe(index), int(self._labels[index]), path, is_image)

    def _path(self, index: int) -> str:
        path = self._paths[index]
        return path if "://" in path else os.path.join(self._root, path)


class TarCorpus:
    """
    Videos and images inside uncompressed (WebDataset) tars. A reference is (tar, offset, size), read once from the
    headers; nothing is extracted to the disk. The label is the sample's `.cls` member, or `label` of its `.json`
    member.

    Raises:
        ValueError: a file that is not an uncompressed tar, or that is truncated.
    """

    class_names = ()

    def __init__(self, tars: Sequence[str]) -> None:
        self._tars = tuple(tars)
        references = array("q")

        def names() -> Iterator[str]:
            for number, tar in enumerate(self._tars):
                for name, *reference in _tar_members(tar):
                    references.extend((number, *reference))
                    yield name

        self._names = PackedStrings(names())
        self._tar, self._offset, self._size, self._label = np.array(references).reshape(-1, 4).T

    @property
    def labels(self) -> np.ndarray:
        return self._label.astype(np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def describe(self, index: int) -> str:
        return f"{self._tars[self._tar[index]]}::{self._names[index]}"

    def read(self, index: int) -> EncodedClip:
        size = int(self._size[index])
        with open(self._tars[self._tar[index]], "rb") as file:
            file.seek(int(self._offset[index]))
            data = file.read(size)
        if len(data) != size:
            raise OSError(f"{self.describe(index)} has {len(data)} of {size} bytes: the tar changed on disk")
        is_image = extension(self._names[index]) in IMAGE_EXTENSIONS
        return EncodedClip(self.describe(index), int(self._label[index]), data, is_image)


def _tar_members(tar: str) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset, size, label) of every video and image of a tar; members of a sample are adjacent."""
    total = os.path.getsize(tar)
    sample, media, label = None, [], NO_LABEL
    try:
        with tarfile.open(tar, mode="r:") as archive:
            for member in archive:
                archive.members = []  # otherwise tarfile keeps every header in memory
                if not member.isreg() or member.sparse is not None:
                    continue
                folder, base = os.path.split(member.name)
                key = (folder, base.partition(".")[0])
                if key != sample:
                    yield from ((*entry, label) for entry in media)
                    sample, media, label = key, [], NO_LABEL
                if member.offset_data + member.size > total:
                    raise ValueError(f"{tar} is truncated inside {member.name!r}: copy the tar again")
                if _is_media(member.name) and not base.startswith("."):
                    media.append((member.name, member.offset_data, member.size))
                elif base.endswith((".cls", ".json")):
                    label = _parse_label(archive.extractfile(member).read(), where=f"{tar}::{member.name}")
            yield from ((*entry, label) for entry in media)
            _check_tar_end(tar, archive.offset)
    except (tarfile.TarError, OverflowError, LookupError) as error:  # also damaged sizes and extension headers
        raise ValueError(
            f"{tar} cannot be read as an uncompressed tar ({error}): copy it again, or decompress it first"
        ) from error


def _check_tar_end(tar: str, offset: int) -> None:
    """A tar ends with a block of zeros. Checked here, since tarfile also takes a damaged header for the end."""
    with open(tar, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        logger.warning("%s has no end mark: the file may be truncated", log_line(tar))
    elif block != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"{tar} is damaged or truncated at byte {offset}: copy the tar again")


def _parse_label(data: bytes, *, where: str) -> int:
    try:
        value = json.loads(data)  # an integer by itself is JSON too
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} holds neither an integer nor JSON: {data[:40]!r}") from error
    if isinstance(value, dict):
        value = value.get("label", NO_LABEL)
    if isinstance(value, int) and abs(value) >= 2**31:
        raise ValueError(f"{where}: label {str(value)[:20]} does not fit 32 bits")
    return value if isinstance(value, int) else NO_LABEL


class ParquetCorpus:
    """
    Videos or images in Parquet files, as bytes, paths, or the struct that `datasets.Video` and `datasets.Image`
    store. A reference is (file, row group, row). Reading a row reads the video and label columns of its row group.
    The last group is kept, so reading in order reads each group once.

    A path in a row must lie in the folder of the Parquet file or below, or be an address (http, https, hf): untrusted
    rows must not name arbitrary files of this machine.

    Args:
        files: paths of the files; all have the columns of the first.
        video_column: the column to read; by default the only video (or else image, or else binary) column.

    Raises:
        ValueError: no such column, or several possible columns.
    """

    def __init__(self, files: Sequence[str], *, video_column: str | None = None) -> None:
        self._files = tuple(files)
        with _reading(files[0]):
            features = Features.from_arrow_schema(pq.read_schema(files[0]))
        self._column, self._is_image, self._label, self.class_names = _find_columns(
            features, video_column, source=files[0]
        )
        groups, largest = [], 0
        for number, file in enumerate(self._files):
            metadata = self._metadata(file)
            for group in range(metadata.num_row_groups):
                row_group = metadata.row_group(group)
                groups.append((number, group, row_group.num_rows))
                largest = max(largest, row_group.total_byte_size)
        self._group_file, self._group_number, rows = np.array(groups, dtype=np.int64).reshape(-1, 3).T
        self._group_start = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._cached: tuple[int, pa.Table] | None = None
        if largest > _LARGE_ROW_GROUP:
            logger.warning(
                "%s has row groups of up to %d MiB, and each random clip reads a whole group: write the file with a "
                "smaller row_group_size, or pass load_dataset('parquet', data_files=..., streaming=True), which "
                "reads every group once",
                log_line(files[0]),
                largest // 2**20,
            )

    def _metadata(self, file: str) -> pq.FileMetaData:
        with _reading(file):
            metadata = pq.read_metadata(file)
            columns = metadata.schema.to_arrow_schema().names
        for column in (self._column, self._label):
            if column is not None and column not in columns:
                raise ValueError(
                    f"{file} has no column {column!r}, which {self._files[0]} has (only {', '.join(columns)}): pass "
                    "files with the same columns"
                )
        return metadata

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}

    def __len__(self) -> int:
        return int(self._group_start[-1])

    @property
    def labels(self) -> np.ndarray:
        """Reads the label column of all files, and no other column."""
        if self._label is None:
            return np.full(len(self), NO_LABEL, dtype=np.int64)
        parts = [np.empty(0, dtype=np.int64)]
        for file in self._files:
            with _reading(file):
                column = pq.read_table(file, columns=[self._label], partitioning=None)[self._label]
                parts += [chunk.cast(pa.int64()).fill_null(NO_LABEL).to_numpy() for chunk in column.chunks]
        labels = np.concatenate(parts)
        if len(labels) != len(self):
            raise ValueError(f"{self._files[0]} and its other files have {len(labels)} labels for {len(self)} rows")
        return labels

    def _locate(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._group_start, index, side="right")) - 1
        return group, index - int(self._group_start[group])

    def describe(self, index: int) -> str:
        group, row = self._locate(index)
        return f"{self._files[self._group_file[group]]}::row group {self._group_number[group]}, row {row}"

    def read(self, index: int) -> EncodedClip:
        group, row = self._locate(index)
        name, folder = self.describe(index), os.path.dirname(os.path.abspath(self._files[self._group_file[group]]))
        try:
            table = self._row_group(group)
            label = None if self._label is None else table[self._label][row].as_py()
            value = table[self._column][row].as_py()
        except (pa.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
            raise OSError(f"{name} cannot be read: {_first_line(error)}") from error
        return encoded_clip(value, label=label, name=name, is_image=self._is_image, folder=folder)

    def _row_group(self, group: int) -> pa.Table:
        if self._cached is None or self._cached[0] != group:
            self._cached = None  # never two groups in memory
            with pq.ParquetFile(self._files[self._group_file[group]]) as file:
                columns = [self._column] if self._label is None else [self._column, self._label]
                self._cached = group, file.read_row_group(int(self._group_number[group]), columns=columns)
        return self._cached[1]


class SubsetCorpus:
    """
    Some of the videos of another corpus, in the order of `indices`.

    Raises:
        ValueError: an index outside of the corpus.
    """

    def __init__(self, corpus: IndexedCorpus, indices: Iterable[int]) -> None:
        self._corpus = corpus
        self._indices = np.fromiter(indices, dtype=np.int64)
        outside = self._indices[(self._indices < 0) | (self._indices >= len(corpus))]
        if len(outside):
            raise ValueError(f"index {outside[0]} is outside of a corpus of {len(corpus)} videos")
        self.class_names = tuple(corpus.class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._corpus.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def describe(self, index: int) -> str:
        return self._corpus.describe(int(self._indices[index]))

    def read(self, index: int) -> EncodedClip:
        return self._corpus.read(int(self._indices[index]))


class RelabelledCorpus:
    """
    A corpus with other class indices, for example those of a model that numbers the classes differently.

    Args:
        corpus: a corpus in which every clip has a label.
        labels: new label of every label of the corpus.
        class_names: names of the new labels.
    """

    def __init__(self, corpus: IndexedCorpus, labels: Sequence[int], *, class_names: Sequence[str]) -> None:
        self._corpus = corpus
        self._new_labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._new_labels[self._corpus.labels]

    def __len__(self) -> int:
        return len(self._corpus)

    def describe(self, index: int) -> str:
        return self._corpus.describe(index)

    def read(self, index: int) -> EncodedClip:
        clip = self._corpus.read(index)
        return clip._replace(label=int(self._new_labels[clip.label]))


class SequentialCorpus:
    """
    Videos that can only be read in order: a streaming `datasets.IterableDataset`. The video column stays encoded, so
    that the stream splits and shuffles the videos before it decodes them.

    Args:
        dataset: for example `load_dataset(..., split="train", streaming=True)`.
        name: name for messages.
        video_column: as for `ParquetCorpus`.
        local_files: whether rows may name files of this machine, besides addresses (http, https, hf). Pass `False`
            for untrusted rows.

    Raises:
        ValueError: no such column, several possible columns, or a data set that does not know its columns.
    """

    def __init__(
        self, dataset: IterableDataset, *, name: str, video_column: str | None = None, local_files: bool = True
    ) -> None:
        name = without_secrets(name)
        if dataset.features is None:
            raise ValueError(f"{name} does not know its columns: set them with dataset.cast(features)")
        self.name = name
        self._local_files = local_files
        self._column, self._is_image, self._label, self.class_names = _find_columns(
            dataset.features, video_column, source=name
        )
        for encoded in (Video(decode=False), Image(decode=False)):
            if isinstance(dataset.features[self._column], type(encoded)):
                dataset = dataset.cast_column(self._column, encoded)
        self._dataset = dataset

    def lane(self, lane: int, *, lanes: int) -> tuple[IterableDataset, int, int]:
        """
        The part of the corpus that reader `lane` of `lanes` reads: (data set, stride, offset); of the rows of the
        data set the reader takes every `stride`-th from `offset` on. With at least as many shards as lanes no shard
        is read twice. Otherwise Parquet is split by row group, and as few lanes as possible share a shard.
        """
        disable_datasets_retries()
        dataset = self._dataset
        if dataset.num_shards < lanes:
            dataset = dataset.reshard()
        shards = dataset.num_shards
        if shards >= lanes:
            return dataset.shard(num_shards=lanes, index=lane, contiguous=False), 1, 0
        shard, offset = lane % shards, lane // shards
        stride = (lanes - 1 - shard) // shards + 1
        return dataset.shard(num_shards=shards, index=shard, contiguous=False), stride, offset

    def encoded(self, row: dict[str, Any], *, where: str) -> EncodedClip:
        """The clip of one row; `where` is its name if the row has no path."""
        label = None if self._label is None else row[self._label]
        value = row[self._column]
        path = value.get("path") if isinstance(value, dict) else None
        name = without_secrets(f"{self.name}::{path or where}")
        folder = "" if self._local_files else None
        return encoded_clip(value, label=label, name=name, is_image=self._is_image, folder=folder)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Raises `ValueError` for a damaged Parquet file."""
    try:
        yield
    # From Arrow, or from `datasets` for a damaged description of the features.
    except (pa.ArrowException, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{file} cannot be read as Parquet ({_first_line(error)}): copy the file again") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _find_columns(
    features: Features, video_column: str | None, *, source: str
) -> tuple[str, bool, str | None, tuple[str, ...]]:
    """The column with the videos, whether it holds images, the column with the labels, and the class names."""
    media = _find_media_column(features, source=source) if video_column is None else video_column
    if media not in features:
        raise ValueError(f"{source} has no column {media!r}: choose one of {', '.join(features)}")
    for name in _LABEL_COLUMNS:
        label = features.get(name)
        if isinstance(label, ClassLabel) or (isinstance(label, Value) and "int" in label.dtype):
            return media, isinstance(features[media], Image), name, tuple(getattr(label, "names", ()))
    return media, isinstance(features[media], Image), None, ()


def _find_media_column(features: Features, *, source: str) -> str:
    def is_raw(feature: Any) -> bool:
        fields = feature if isinstance(feature, dict) else {"bytes": feature}
        return isinstance(fields.get("bytes"), Value) and fields["bytes"].dtype in ("binary", "large_binary")

    for kind in (lambda f: isinstance(f, Video), lambda f: isinstance(f, Image), is_raw):
        columns = [name for name, feature in features.items() if kind(feature)]
        if len(columns) > 1:
            raise ValueError(f"{source} has several video columns ({', '.join(columns)}): set video_column")
        if columns:
            return columns[0]
    raise ValueError(f"{source} has no video, image or binary column among {', '.join(features)}")


def _parse_index_line(line: str, *, where: str) -> tuple[str, int, str | None] | None:
    """(path, label, class name) of a line of an index; `None` if no pattern fits."""
    if match := _INDEX_LINE.match(line):
        label = int(match["label"])
        if abs(label) >= 2**31:
            raise ValueError(f"{where}: label {label} does not fit 32 bits")
        return match["path"], label, None
    if _is_media(line.strip('"')):
        return line, NO_LABEL, None
    if (match := _NAMED_LINE.match(line)) and _is_media(match["path"]):
        return match["path"], NO_LABEL, match["name"]
    return None


def _open_index(file: str) -> FileCorpus:
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


def _open_folder(folder: str, *, video_column: str | None) -> IndexedCorpus:
    kinds = {".tar": [], ".parquet": [], "video": [], "image": []}
    for path in _walk(folder):
        kind = extension(path)
        if _is_media(path):
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
    paths = kinds[found[0]]
    if found[0] in (".tar", ".parquet"):
        return _open_files([os.path.join(folder, path) for path in paths], video_column=video_column)
    names = sorted({*map(_class_folder, paths)} - {None})
    number = {name: label for label, name in enumerate(names)} | {None: NO_LABEL}
    return FileCorpus(paths, labels=(number[_class_folder(path)] for path in paths), root=folder, class_names=names)


def _open_files(files: Sequence[str], *, video_column: str | None) -> IndexedCorpus:
    extensions = {extension(file) for file in files}
    if extensions == {".tar"}:
        return TarCorpus(files)
    if extensions == {".parquet"}:
        return ParquetCorpus(files, video_column=video_column)
    if extensions <= {".csv", ".txt"} and len(files) == 1:
        return _open_index(files[0])
    if extensions <= VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        return FileCorpus(files, labels=[NO_LABEL] * len(files))
    raise ValueError(
        f"{files[0]}: cannot read {', '.join(sorted(extensions))} as one data set; pass one .csv or .txt index, or "
        "only .tar files, only .parquet files, or only video and image files"
    )


def _open_remote(source: str, *, split: str, video_column: str | None) -> SequentialCorpus:
    builder = {".tar": "webdataset", ".parquet": "parquet"}.get(extension(source))
    shown = without_secrets(source)
    if builder is None:
        raise ValueError(f"{shown}: only .tar and .parquet URLs can be streamed; or pass a Hub data set id")
    files, options = {split: _expand_braces(source)}, storage_options(source)
    disable_datasets_retries()
    dataset = retried(
        lambda: load_dataset(builder, data_files=files, split=split, streaming=True, storage_options=options),
        name=shown,
    )
    return SequentialCorpus(dataset, name=source, video_column=video_column, local_files=False)


def _open_hub(source: str, *, split: str, video_column: str | None) -> SequentialCorpus:
    """Open a Hub data set. Raises `FileNotFoundError` if `source` looks like a local path, or cannot be reached."""
    looked = f"looked in {Path.cwd()}"
    if not _HUB_ID.match(source) or extension(source) in {".csv", ".txt", ".tar", ".parquet"} or _is_media(source):
        place = "" if os.path.isabs(source) else f" ({looked})"
        raise FileNotFoundError(f"{source!r} is neither a file, a folder nor a Hub data set id{place}")
    if "/" in source and os.path.isdir(source.partition("/")[0]):  # a mistyped path, not a user of the Hub
        raise FileNotFoundError(f"{source!r} is not a file or folder here ({looked})")
    name, _, config = source.partition(":")
    try:
        dataset = load_dataset(name, config or None, split=split, streaming=True)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source!r} is not a file or folder here ({looked}), and cannot be reached as a Hub data set: {error}"
        ) from error
    return SequentialCorpus(dataset, name=source, video_column=video_column, local_files=False)


def _expand_braces(pattern: str) -> list[str]:
    """`shard-{08..10}.tar` -> shard-08.tar, shard-09.tar, shard-10.tar."""
    match = _BRACE_RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [path for number in numbers for path in _expand_braces(head + number + tail)]


Corpus = IndexedCorpus | SequentialCorpus


def is_corpus(source: object) -> bool:
    """Whether `source` is an open corpus."""
    return isinstance(source, SequentialCorpus) or hasattr(source, "describe")


def open_corpus(
    source: str | os.PathLike | Dataset | IterableDataset | Corpus,
    *,
    split: str = "train",
    video_column: str | None = None,
) -> Corpus:
    """
    Open a corpus of any kind.

    Args:
        source: one of
            - a folder, searched at any depth for videos, images, `.tar` or `.parquet` files; the first-level
              folders of videos and images are the labels, in sorted order;
            - a `.csv` or `.txt` index in the published format: path (absolute, or relative to the index) and
              integer label per line; or path and class name, separated by a comma;
            - a `.tar`, `.parquet`, video or image file, or a pattern for several: `part-*.tar`,
              `part-{000..127}.tar`;
            - a URL of `.tar` or `.parquet` files (`https://`, `hf://`, ...);
            - a Hub data set id, `user/name` or `user/name:config`;
            - a `datasets.Dataset`, or a streaming `datasets.IterableDataset`;
            - an open corpus, which is returned unchanged.
        split: split of a Hub data set.
        video_column: column with the videos; by default the only possible one.

    Returns:
        An `IndexedCorpus` for local files, a `SequentialCorpus` for everything else.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source cannot be read, or is ambiguous.
    """
    if is_corpus(source):
        return source
    if isinstance(source, Dataset):
        source = source.to_iterable_dataset()
    if isinstance(source, IterableDataset):
        return SequentialCorpus(source, name="the data set", video_column=video_column)
    source = os.path.expanduser(os.fspath(source))
    if "://" in source:
        return _open_remote(source, split=split, video_column=video_column)
    if os.path.isdir(source):
        return _open_folder(source, video_column=video_column)
    if os.path.isfile(source):
        return _open_files([source], video_column=video_column)
    if any(character in source for character in "*?[{"):
        files = [file for pattern in _expand_braces(source) for file in sorted(glob.glob(pattern)) or [pattern]]
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise FileNotFoundError(f"no file matches {missing[0]!r} (from {source!r}); looked in {Path.cwd()}")
        return _open_files(files, video_column=video_column)
    return _open_hub(source, split=split, video_column=video_column)
