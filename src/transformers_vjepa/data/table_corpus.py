"""Corpora in tables: Parquet files, data sets of `datasets`, and rows that `datasets` streams."""

import os
import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, Video
from transformers.utils import logging

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, extension, is_image_data
from ..safety.sanitizing import log_line, without_secrets
from .class_numbers import plain_label
from .corpus import NO_LABEL, EncodedClip, container_names
from .remote_reading import address_name, disable_datasets_retries
from .table_labels import (
    LABEL_COLUMNS,
    dataset_labels,
    find_label_column,
    first_line,
    kind_of,
    numbers_of,
    read_labels,
    reading_parquet,
)

logger = logging.get_logger(__name__)

_AnyDataset = TypeVar("_AnyDataset", Dataset, IterableDataset)

# One random clip reads a whole row group; above this size the reading takes longer than the decoding.
_LARGE_ROW_GROUP = 64 * 2**20
# Addresses that a row of a data set may name, also of a file in an archive (`zip://clip.mp4::https://...`).
_ADDRESS = re.compile(r"((zip|tar)://((?!::).)*::)?(https?|hf)://((?!::).)*", re.DOTALL)


def encoded_clip(value: Any, *, label: int, name: str, is_image: bool, folder: str | None) -> EncodedClip:
    """
    The clip in a cell of a data set: bytes, a path, or {"bytes", "path"}. Bytes are an image if they begin like one,
    and files are images by their extension.

    Args:
        is_image: whether the column holds images, whatever their bytes.
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
    elif isinstance(data, bytes):
        is_image = is_image or is_image_data(data)
    elif data is not None:
        data, refused = b"", f"it holds a {type(data).__name__} instead of bytes or a path"
    return EncodedClip(name, label, data or b"", is_image, refused)


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


def _check_first_paths(file: str, column: str) -> None:
    """Refuses a file whose first rows all name files that must not be read. Reads no bytes of images or videos."""
    with reading_parquet(file), pq.ParquetFile(file) as opened:
        group = opened.metadata.row_group(0) if opened.metadata.num_row_groups else None
        parts = [group.column(number) for number in range(group.num_columns)] if group and group.num_rows else []
        values = {part.path_in_schema: part.statistics for part in parts}
        filled, named = values.get(f"{column}.bytes"), f"{column}.path"
        if named not in values or filled is None or filled.null_count != group.num_rows:
            return
        rows = opened.read_row_group(0, columns=[named])[column].to_pylist()
    folder, paths = os.path.dirname(os.path.abspath(file)), [(row or {}).get("path") for row in rows]
    if all(path is not None and _named_file(path, folder=folder)[1] for path in paths):
        raise ValueError(
            f"{file} holds paths of files outside of its folder, such as {paths[0]!r}, instead of the bytes of the "
            "files: datasets.Dataset.to_parquet writes only paths. Write the data set with push_to_hub or "
            "save_to_disk, which store the bytes, or list the files in an index (.csv)"
        )


class ParquetCorpus:
    """
    Videos or images in Parquet files, as bytes, paths, or the struct that `datasets.Video` and `datasets.Image`
    store. A reference is (file, row group, row). Reading a row reads the video column of its row group. The last group
    is kept, so reading in order reads each group once. The labels of all files are read at the start.

    A path in a row must lie in the folder of the Parquet file or below, or be an address (http, https, hf): untrusted
    rows must not name arbitrary files of this machine.

    Args:
        files: paths of the files; all have the columns of the first.
        video_column: the column to read; by default the only video (or else image, or else binary) column.
        label_column: the column with the labels; by default `label`, `labels` or `cls`.

    Raises:
        ValueError: no such column, or several possible columns; labels that [`read_labels`] refuses; or the file holds
            no bytes, but paths outside of its folder, as `datasets.Dataset.to_parquet` writes them.
    """

    def __init__(
        self, files: Sequence[str], *, video_column: str | None = None, label_column: str | None = None
    ) -> None:
        self._files, self._file_names = tuple(files), container_names(files)
        with reading_parquet(files[0]):
            features = Features.from_arrow_schema(pq.read_schema(files[0]))
        self._column, self._is_image, label = _find_columns(features, video_column, label_column, source=files[0])
        _check_first_paths(files[0], self._column)
        groups, largest = [], 0
        for number, file in enumerate(self._files):
            metadata = self._metadata(file, label=label)
            for group in range(metadata.num_row_groups):
                row_group = metadata.row_group(group)
                groups.append((number, group, row_group.num_rows))
                largest = max(largest, row_group.total_byte_size)
        self._group_file, self._group_number, rows = np.array(groups, dtype=np.int64).reshape(-1, 3).T
        self._group_start = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._cached: tuple[int, pa.Table] | None = None
        self._labels, self.class_names = np.full(len(self), NO_LABEL, dtype=np.int64), ()
        if label is not None:
            self._labels, self.class_names = read_labels(self._files, label)
        if len(self._labels) != len(self):
            raise ValueError(f"{files[0]} and its other files have {len(self._labels)} labels for {len(self)} rows")
        if largest > _LARGE_ROW_GROUP:
            logger.warning(
                "%s has row groups of up to %d MiB, and each random clip reads a whole group: write the file with a "
                "smaller row_group_size, or pass load_dataset('parquet', data_files=..., streaming=True), which "
                "reads every group once",
                log_line(files[0]),
                largest // 2**20,
            )

    def _metadata(self, file: str, *, label: str | None) -> pq.FileMetaData:
        with reading_parquet(file):
            metadata = pq.read_metadata(file)
            features = Features.from_arrow_schema(metadata.schema.to_arrow_schema())
        for column in (self._column, label):
            if column is not None and column not in features:
                raise ValueError(
                    f"{file} has no column {column!r}, which {self._files[0]} has (only {', '.join(features)}): pass "
                    "files with the same columns"
                )
        if label is None and (labels := find_label_column(features, None, source=file)):
            raise ValueError(
                f"{file} has labels in the column {labels!r}, and {self._files[0]} has none: pass files with the same "
                "columns"
            )
        return metadata

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}

    def __len__(self) -> int:
        return int(self._group_start[-1])

    @property
    def labels(self) -> np.ndarray:
        return self._labels

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
            value = table[self._column][row].as_py()
        except (pa.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
            raise OSError(f"{name} cannot be read: {first_line(error)}") from error
        label = int(self._labels[index])
        return encoded_clip(value, label=label, name=name, is_image=self._is_image, folder=folder)

    def _row_group(self, group: int) -> pa.Table:
        if self._cached is None or self._cached[0] != group:
            self._cached = None  # never two groups in memory
            with pq.ParquetFile(self._files[self._group_file[group]]) as file:
                number = int(self._group_number[group])
                self._cached = group, file.read_row_group(number, columns=[self._column])
        return self._cached[1]


class DatasetCorpus:
    """
    Videos or images of a `datasets.Dataset`, in memory or in memory-mapped files. They stay encoded, also if the data
    set has a format or a transform.

    Args:
        dataset: for example `load_dataset(..., split="train")`.
        name: name for messages.
        video_column, label_column: as for `ParquetCorpus`.
        folder: the folder that `save_to_disk` wrote. Its rows may name addresses (http, https, hf) only; the rows of
            other data sets may also name files.

    Raises:
        ValueError: no such column, or several possible columns; labels that [`number_labels`] refuses.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        name: str,
        video_column: str | None = None,
        label_column: str | None = None,
        folder: str | None = None,
    ) -> None:
        self._name, self._folder = name, folder
        self._column, self._is_image, label = _find_columns(dataset.features, video_column, label_column, source=name)
        self._labels, self.class_names = np.full(len(dataset), NO_LABEL, dtype=np.int64), ()
        if label is not None:
            self._labels, self.class_names = dataset_labels(dataset, label, source=name)
        self._dataset = _encoded(dataset.with_format(None).select_columns([self._column]), self._column)

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def describe(self, index: int) -> str:
        return f"{self._name}::row {index}"

    def origin(self, index: int) -> tuple[str, str | None]:
        return f"row {index}", self._folder

    def read(self, index: int) -> EncodedClip:
        name, label = self.describe(index), int(self._labels[index])
        try:
            value = self._dataset[index][self._column]
        except (pa.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
            raise OSError(f"{name} cannot be read: {first_line(error)}") from error
        files = "" if self._folder is None else None
        return encoded_clip(value, label=label, name=name, is_image=self._is_image, folder=files)


def _encoded(dataset: _AnyDataset, column: str) -> _AnyDataset:
    """The same data set, whose videos or images are not decoded."""
    for encoded in (Video(decode=False), Image(decode=False)):
        if isinstance(dataset.features[column], type(encoded)):
            dataset = dataset.cast_column(column, encoded)
    return dataset


class SequentialCorpus:
    """
    Videos that can only be read in order: a streaming `datasets.IterableDataset`. The video column stays encoded, so
    that the stream splits and shuffles the videos before it decodes them.

    A label that is a number is the class. A label that is a name has a class if the names are known: from a
    `ClassLabel`, or from a model ([`with_classes`]).

    Args:
        dataset: for example `load_dataset(..., split="train", streaming=True)`.
        name: name for messages.
        video_column, label_column: as for `ParquetCorpus`.
        local_files: whether rows may name files of this machine, besides addresses (http, https, hf). Pass `False`
            for untrusted rows.

    Raises:
        ValueError: no such column, several possible columns, or a data set that does not know its columns.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        *,
        name: str,
        video_column: str | None = None,
        label_column: str | None = None,
        local_files: bool = True,
    ) -> None:
        name = address_name(name)
        if dataset.features is None:
            raise ValueError(f"{name} does not know its columns: set them with dataset.cast(features)")
        self.name = name
        self._local_files = local_files
        self._column, self._is_image, self.label_column = _find_columns(
            dataset.features, video_column, label_column, source=name
        )
        label = None if self.label_column is None else dataset.features[self.label_column]
        # Numbers in the place of names that are numbers (`"10"` may be the third name).
        self._numbers = numbers_of(label.names, source=name) if isinstance(label, ClassLabel) else None
        self._find: Callable[[int | str], int] | None = None
        has_names = isinstance(label, ClassLabel) and self._numbers is None
        self.class_names = tuple(label.names) if has_names else ()
        self._dataset = _encoded(dataset, self._column)

    def with_classes(self, find: Callable[[int | str], int]) -> "SequentialCorpus":
        """
        The same corpus, with other classes. `find` returns the class of a label, a number or a name, or raises a
        `ValueError`; it must be picklable.
        """
        other = copy(self)
        other._find = find
        return other

    def class_of(self, label: Any, *, needed: bool) -> tuple[int, str]:
        """
        The class of a label, -1 if there is none; and, if the label is `needed`, why its class is unknown, otherwise
        an empty text.
        """
        try:
            return self._class_of(plain_label(label)), ""
        except ValueError as error:
            return NO_LABEL, f"its label {str(label)[:80]!r} has no class: {error}" if needed else ""

    def _class_of(self, label: int | str | None) -> int:
        if label is None:
            return NO_LABEL
        if self._numbers is not None:
            if label not in range(len(self._numbers)):
                raise ValueError(f"the data set has {len(self._numbers)} classes")
            label = self._numbers[label]
        if self._find is not None:
            return self._find(label)
        if isinstance(label, str):
            raise ValueError(
                "the names of a stream are only known at its end: download the data set, or number its labels (a "
                "ClassLabel column)"
            )
        return label

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

    def encoded(self, row: dict[str, Any], *, where: str, needs_label: bool = False) -> EncodedClip:
        """
        The clip of one row; `where` is its name if the row has no path. With `needs_label` a clip whose label has no
        known class is refused; otherwise its label is -1, because pretraining ignores labels.
        """
        value = None if self.label_column is None else row[self.label_column]
        label, unknown = self.class_of(value, needed=needs_label)
        value = row[self._column]
        path = value.get("path") if isinstance(value, dict) else None
        name = f"{self.name}::{without_secrets(path or where)}"
        folder = "" if self._local_files else None
        clip = encoded_clip(value, label=label, name=name, is_image=self._is_image, folder=folder)
        return clip._replace(refused=clip.refused or unknown)


def _find_columns(
    features: Features, video_column: str | None, label_column: str | None, *, source: str
) -> tuple[str, bool, str | None]:
    """The column with the videos, whether it holds images, and the column with the labels. Names unused columns."""
    media = _find_media_column(features, source=source) if video_column is None else video_column
    if media not in features:
        raise ValueError(f"{source} has no column {media!r}: choose one of {', '.join(features)}")
    label = find_label_column(features, label_column, source=source)
    others = [name for name in features if name != media]
    if label is None and others:
        kinds = ", ".join(f"{name} ({kind_of(features[name])})" for name in others)
        logger.warning_once(
            f"{log_line(source)} has no labels: no column {', '.join(LABEL_COLUMNS)} with numbers or names. Not used "
            f"are {log_line(kinds)}: name the column with the labels (label_column), or rename it to "
            f"{LABEL_COLUMNS[0]}"
        )
    return media, isinstance(features[media], Image), label


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
    raise ValueError(
        f"{source} has no video, image or binary column among {', '.join(features)}: name a column of paths with "
        "--video_column"
    )
