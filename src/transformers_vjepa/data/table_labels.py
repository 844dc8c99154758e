"""The labels of tables: which columns they may lie in, and the classes of Parquet files that name them differently."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

from ..safety.sanitizing import without_secrets
from .class_numbers import as_number, number_labels
from .corpus import NO_LABEL
from .remote_reading import open_address

#: Names of the columns that may hold labels; the first one with numbers or names is used.
LABEL_COLUMNS = ("label", "labels", "cls")
_LABEL_TYPES = ("int", "uint", "float", "bool", "string", "large_string")


def may_be_label(feature: Any) -> bool:
    """Whether a column holds numbers or names, and not lists of them, bytes, ..."""
    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and feature.dtype.startswith(_LABEL_TYPES))


def find_label_column(features: Features, name: str | None, *, source: str) -> str | None:
    """
    The column with the labels: `name`, or by default the first of `LABEL_COLUMNS` that may hold labels, or `None` if
    there is no such column.

    Raises:
        ValueError: `name` is not a column, or holds neither numbers nor names.
    """
    if name is None:
        return next((each for each in LABEL_COLUMNS if each in features and may_be_label(features[each])), None)
    if name not in features:
        raise ValueError(f"{source} has no label column {name!r}: choose one of {', '.join(features)}")
    if not may_be_label(features[name]):
        raise ValueError(
            f"the label column {name!r} of {source} holds {kind_of(features[name])}: choose a column of numbers or "
            "names"
        )
    return name


def kind_of(feature: Any) -> str:
    """The type of a column in a word."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower()


@contextmanager
def reading_parquet(file: str) -> Iterator[None]:
    """Raises `ValueError` for a damaged Parquet file."""
    try:
        yield
    # From Arrow, or from `datasets` for a damaged description of the features.
    except (pa.ArrowException, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{file} cannot be read as Parquet ({first_line(error)}): copy the file again") from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_labels(files: Sequence[str], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """
    The labels of Parquet files; reads no other column. If all files have the same `ClassLabel`, its order holds.
    Otherwise the values of all files, numbers or names, are numbered together, so that a name is one class in all.

    Returns:
        int64 (rows of all files,), -1 if unknown; and the names of the classes, empty if the labels are numbers.

    Raises:
        ValueError: a damaged file, or labels that [`number_labels`] refuses.
    """
    found = []
    for file in files:
        with reading_parquet(file), pq.ParquetFile(file) as opened:
            names = _class_names(Features.from_arrow_schema(opened.schema_arrow), column)
            # `read_table` takes much longer if row groups are small.
            cells = opened.read(columns=[column], use_threads=False)[column]
            found.append((file, names, *_distinct(cells)))
    return _number(found)


def dataset_labels(dataset: Dataset, column: str, *, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of a `datasets.Dataset`, as [`read_labels`] returns them. `source` is its name in errors."""
    cells = dataset.select_columns([column]).with_format("arrow")[:][column]
    return _number([(source, _class_names(dataset.features, column), *_distinct(cells))])


def _distinct(cells: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """The place of each cell among the distinct values, and these values; the last one, `None`, is no label."""
    cells = cells.combine_chunks()
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    cells = cells.dictionary_encode()
    places = cells.indices.fill_null(len(cells.dictionary)).to_numpy(zero_copy_only=False)
    return places.astype(np.int64), [*cells.dictionary.to_pylist(), None]


def _number(
    tables: Sequence[tuple[str, tuple[str, ...] | None, np.ndarray, list[Any]]],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of tables: their names in errors, the names of their `ClassLabel`, and `_distinct`."""
    values: list[Any] = []
    codes = [np.empty(0, dtype=np.int64)]
    for source, names, places, distinct in tables:
        codes.append(len(values) + places)
        values += [_named(value, names, source=source) for value in distinct]
    first, names, *_ = tables[0]
    if len({names for _, names, *_ in tables}) == 1 and names is not None and numbers_of(names, source=first) is None:
        place = {name: number for number, name in enumerate(names)}
        classes = np.array([place.get(value, NO_LABEL) for value in values], dtype=np.int64)
        return classes[np.concatenate(codes)], names
    classes, class_names = number_labels(values, source=first)
    return classes[np.concatenate(codes)], class_names


def _class_names(features: Features, column: str) -> tuple[str, ...] | None:
    """The names of a `ClassLabel` column; `None` for other columns."""
    feature = features.get(column)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _named(value: Any, names: Sequence[str] | None, *, source: str) -> Any:
    """A value of a label column as [`number_labels`] takes it; `names` are those of a `ClassLabel`."""
    if names is None or value is None or value == NO_LABEL:
        return value
    if value not in range(len(names)):
        raise ValueError(f"{source} has the label {value!r} and {len(names)} classes: correct one of them")
    return names[value]


def numbers_of(names: Sequence[str], *, source: str) -> tuple[int, ...] | None:
    """The numbers that the names of a `ClassLabel` are; `None` if one is a name, or if all are in place."""
    numbers = [as_number(name) for name in names]
    if None in numbers or numbers == list(range(len(names))):
        return None
    return tuple(number_labels(numbers, source=source)[0].tolist())


def check_class_names(files: Sequence[str], column: str) -> None:
    """
    Compare the `ClassLabel` of Parquet files at addresses, which are streamed with the names of the first.

    Raises:
        ValueError: other names, or another order.
        OSError: a file cannot be read.
    """

    def read(file: str) -> tuple[str, ...] | None:
        with open_address(file, seekable=True) as opened:
            return _class_names(Features.from_arrow_schema(pq.read_schema(opened)), column)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(read, files))
    for file, names in zip(files, found, strict=True):
        if names != found[0]:
            raise ValueError(
                f"{without_secrets(file)} names the classes of {column} differently than {without_secrets(files[0])}: "
                "download the files, since classes are matched by name on the disk only"
            )
