"""Corpora in tables: Parquet files, and rows that are streamed by `datasets`."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, IterableDataset, Value, Video
from transformers.utils import logging

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, extension
from ..safety.sanitizing import log_line, without_secrets
from .corpus import NO_LABEL, EncodedClip, container_names
from .remote_reading import disable_datasets_retries

logger = logging.get_logger(__name__)

_LABEL_COLUMNS = ("label", "labels", "cls")
# One random clip reads a whole row group; above this size the reading takes longer than the decoding.
_LARGE_ROW_GROUP = 64 * 2**20
# Addresses that a row of a data set may name, also of a file in an archive (`zip://clip.mp4::https://...`).
_ADDRESS = re.compile(r"((zip|tar)://((?!::).)*::)?(https?|hf)://((?!::).)*", re.DOTALL)


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
        self._files, self._file_names = tuple(files), container_names(files)
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

    def origin(self, index: int) -> tuple[str, str | None]:
        group, row = self._locate(index)
        file = self._group_file[group]
        return f"{self._file_names[file]}::row group {self._group_number[group]}, row {row}", self._files[file]

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
