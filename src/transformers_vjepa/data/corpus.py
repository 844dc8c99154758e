"""What a corpus is: clips that are found but not decoded, and parts of other corpora."""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

NO_LABEL = -1


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


def container_names(files: Sequence[str]) -> tuple[str, ...]:
    """The paths of tars or Parquet files below the folder that all of them share."""
    paths = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return tuple(os.path.relpath(path, folder) for path in paths)


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

    def origin(self, index: int) -> tuple[str, str | None]:
        """
        The name of video `index` within its data set, which stays the same if the data set is moved, and the file or
        folder of frames that holds the video (`None`: an address). Reads nothing.
        """

    def read(self, index: int) -> EncodedClip:
        """Find video `index`. Raises `OSError` or `pyarrow.ArrowInvalid` if the video cannot be read."""


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

    def origin(self, index: int) -> tuple[str, str | None]:
        return self._corpus.origin(int(self._indices[index]))

    def read(self, index: int) -> EncodedClip:
        return self._corpus.read(int(self._indices[index]))


class RelabelledCorpus:
    """
    A corpus with other class indices, for example those of a model that numbers the classes differently.

    Args:
        corpus: a corpus in which every clip has a label.
        classes: the new label of each label that a clip has.
        class_names: names of the new labels.
    """

    def __init__(self, corpus: IndexedCorpus, classes: Mapping[int, int], *, class_names: Sequence[str]) -> None:
        self._corpus = corpus
        self._labels = np.array([classes[label] for label in corpus.labels.tolist()], dtype=np.int64)
        self.class_names = tuple(class_names)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self._corpus)

    def describe(self, index: int) -> str:
        return self._corpus.describe(index)

    def origin(self, index: int) -> tuple[str, str | None]:
        return self._corpus.origin(index)

    def read(self, index: int) -> EncodedClip:
        return self._corpus.read(index)._replace(label=int(self._labels[index]))
