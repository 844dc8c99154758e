"""
What identifies the data of a run: the name, size and modification time of every clip.

This is the one rule for everything that is kept and used again: features, predictions, the features and checkpoints of
`train_classifier`, the clips of a study, the index of the app, and the stream of a pretraining.

- The name is relative to the folder of the data set, so that a data set may be mounted at another path. The order of
  the names counts, because results are kept by their place.
- Size and time are those of the file that holds the clip: of a clip in a tar or a Parquet file, those of the tar or
  Parquet file; of a folder of frames, the sum of the sizes and the latest time. Files are not opened.
- Nothing is known of the size and time of an address, nor of streamed data beyond their name.
- Results of a file with another time are kept if its first and last bytes are the same (`content_digest`).
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers.utils import logging

from ..safety.atomic_files import atomic_path
from ..safety.sanitizing import log_line
from .corpora import Corpus
from .corpus import IndexedCorpus
from .table_corpus import SequentialCorpus

logger = logging.get_logger(__name__)

#: Name of the record of [`check_same_data`] in the output folder of a run.
DATA_RECORD = "data.parquet"
#: Size and time of a file that does not exist, cannot be reached or is an address.
UNKNOWN = (-1, -1)
_SECOND = 10**6  # microseconds: finer parts of a time are lost on some file systems
_EDGE = 2**16  # bytes
_RECORD = pa.schema(
    [("part", pa.string()), ("name", pa.binary()), ("size", pa.int64()), ("time", pa.int64())],
)


class ChangedDataError(ValueError):
    """The data are not those with which a run began."""


# Size and time


def file_stamp(file: str | None) -> tuple[int, int]:
    """
    Size in bytes and modification time in microseconds of a file, or of the files in a folder of frames; `UNKNOWN` for
    `None` and for a file that cannot be reached.
    """
    if file is None:
        return UNKNOWN
    try:
        status = os.stat(file)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size, status.st_mtime_ns // 1000
        with os.scandir(file) as entries:
            frames = [entry.stat() for entry in entries if entry.is_file()]
    except (OSError, ValueError):  # ValueError: a NUL in a name
        return UNKNOWN
    times = [status.st_mtime_ns, *(frame.st_mtime_ns for frame in frames)]
    return sum(frame.st_size for frame in frames), max(times) // 1000


def file_stamps(corpus: IndexedCorpus, indices: Sequence[int]) -> np.ndarray:
    """[`file_stamp`] of the files that hold some clips of a corpus: int64 (clips, 2)."""
    stamps = (stamp for _, stamp in _stamped(corpus, indices))
    return np.fromiter(stamps, dtype=np.dtype((np.int64, 2)), count=len(indices))


def _stamped(corpus: IndexedCorpus, indices: Sequence[int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and [`file_stamp`] of some clips of a corpus."""
    last, stamp = None, UNKNOWN
    for index in indices:
        name, file = corpus.origin(index)
        if file is None or file != last:  # the clips of a tar or of a Parquet file follow each other
            last, stamp = file, file_stamp(file)
        yield name, stamp


def changed_stamps(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """
    Which files have another size or time: bool (clips,), for stamps of the same clips, int64 (clips, 2). A time of
    whole seconds equals all times of that second, since some copies and file systems keep only seconds.
    """
    before, now = old[:, 1], new[:, 1]
    is_whole = (before % _SECOND == 0) | (now % _SECOND == 0)
    return (old[:, 0] != new[:, 0]) | np.where(is_whole, before // _SECOND != now // _SECOND, before != now)


def content_digest(corpus: IndexedCorpus, index: int) -> str:
    """
    SHA-256, in hexadecimal, of the size and of the first and last 64 KiB of a clip; empty for an address, a folder of
    frames and a clip that cannot be read. Another encoding of a video differs there, since its tables are at the
    beginning or at the end.
    """
    try:
        clip = corpus.read(index)
        if isinstance(clip.data, bytes):
            size, edges = len(clip.data), clip.data[:_EDGE] + clip.data[-_EDGE:]
        elif clip.refused or not os.path.isfile(clip.data):  # also no FIFO, which would block
            return ""
        else:
            with open(clip.data, "rb") as file:
                edges, size = file.read(_EDGE), file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _EDGE))
                edges += file.read(_EDGE)
    except (OSError, ValueError, pa.ArrowInvalid):
        return ""
    return hashlib.sha256(b"%d " % size + edges).hexdigest()


# Names and labels


def clips_digest(corpus: IndexedCorpus) -> str:
    """SHA-256, in hexadecimal, of the names and labels of all clips in their order. Warns of repeated clips."""
    digest = hashlib.sha256()
    names = _names(corpus)
    labels = corpus.labels
    for name, label in zip(names, labels.tolist(), strict=True):
        # No file name holds a NUL, whereas a line break is allowed.
        digest.update(b"%b\0%d\0" % (name.as_py(), label))
    _warn_of_repeats(names, labels)
    return digest.hexdigest()


def _names(corpus: IndexedCorpus) -> pa.LargeBinaryArray:
    """As bytes, since a name need not be valid UTF-8."""
    encoded = (os.fsencode(corpus.origin(index)[0]) for index in range(len(corpus)))
    return pa.array(encoded, pa.large_binary())


def _warn_of_repeats(names: pa.Array, labels: np.ndarray) -> None:
    """Warns if clips occur more than once, and whether under several labels."""
    counts = pc.value_counts(names)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(repeated):
        return
    pairs = pa.table({"name": names, "label": labels}).group_by(["name", "label"]).aggregate([])
    several = pc.value_counts(pairs["name"])
    contradicting = several.filter(pc.greater(several.field("counts"), 1)).field("values")
    text = f"clips that occur more than once in the data: {len(repeated):,}, such as {_shown(repeated)}"
    if len(contradicting):
        text += f"; with several labels: {len(contradicting):,}, such as {_shown(contradicting)}"
    logger.warning_once(text)


def _shown(names: pa.Array) -> str:
    return log_line(os.fsdecode(names[0].as_py()))


# The record of a run


def check_same_data(
    file: Path, corpora: Mapping[str, Corpus], *, began: Path | None, can_continue: bool = True
) -> None:
    """
    Compares the clips of a run that is resumed with the record of the run, and records those of a new run in a Parquet
    file: name, size and time. Streamed corpora are left out.

    Args:
        file: the record, in the output folder of the run.
        corpora: by the name of their part, such as `"train"`.
        began: the record beside the checkpoint to resume from; `None` for a new run. A run of version 0.1 has none,
            which is a warning.
        can_continue: whether the run may continue with other data, so that the error may name this remedy.

    Raises:
        ChangedDataError: clips were added, removed or moved, or files have another size; the message has the numbers,
            the first names and the remedy. Files that only have another time are a warning.
    """
    parts = [_part(part, corpus) for part, corpus in corpora.items() if not isinstance(corpus, SequentialCorpus)]
    table = pa.concat_tables([_RECORD.empty_table(), *parts])
    if began is not None and began.is_file():
        record = _read_record(began)
        if changes := _describe_changes(record, table):
            remedy = f", or delete {began} to continue with the data as they are" if can_continue else ""
            raise ChangedDataError(
                f"the data are not those with which {began.parent} was begun: {changes}. Restore them, or start again "
                f"in another folder{remedy}"
            )
        _warn_of_other_times(record, table)
    elif began is not None:
        logger.warning(
            f"{began.parent} has no {began.name}, so nobody can tell whether the data are those with which the run "
            "began; they are recorded from now on"
        )
    if not file.is_file() or file != began:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _part(part: str, corpus: IndexedCorpus) -> pa.Table:
    stamps = np.empty((len(corpus), 2), dtype=np.int64)

    def names_and_stamps() -> Iterator[bytes]:  # one pass, which takes a while for a million files
        for place, (name, stamp) in enumerate(_stamped(corpus, range(len(corpus)))):
            stamps[place] = stamp
            yield os.fsencode(name)

    names = pa.array(names_and_stamps(), pa.binary())
    _warn_of_repeats(names, corpus.labels)
    columns = [pa.repeat(part, len(names)), names, stamps[:, 0], stamps[:, 1]]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, _RECORD.types, strict=True)], _RECORD)


def _read_record(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None).select(_RECORD.names).cast(_RECORD)
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise ChangedDataError(
            f"{file} is damaged ({log_line(str(error))}): delete it to continue with the data as they are"
        ) from error


def _describe_changes(old: pa.Table, new: pa.Table) -> str:
    """The differences between two records that change a run, in words; empty if there are none."""
    keys = [pc.binary_join_element_wise(table["part"].cast(pa.binary()), table["name"], b"\0") for table in (old, new)]
    changes = []
    for word, here, there in (("added", 1, 0), ("removed", 0, 1)):
        names = (old, new)[here]["name"].filter(pc.invert(pc.is_in(keys[here], value_set=keys[there])))
        if len(names):
            changes.append(f"clips {word}: {len(names):,}, such as {_shown(names)}")
    if changes:
        return "; ".join(changes)
    if not keys[0].equals(keys[1]):
        return f"the {len(new):,} clips stand in another order, or are repeated another number of times"
    names = new["name"].filter(pc.not_equal(old["size"], new["size"]))
    if not len(names):
        return ""
    return f"files with another size, or that could not be reached: {len(names):,}, such as {_shown(names)}"


def _warn_of_other_times(old: pa.Table, new: pa.Table) -> None:
    is_changed = changed_stamps(*(np.stack([table["size"], table["time"]], axis=1) for table in (old, new)))
    if is_changed.any():
        names = new["name"].filter(pa.array(is_changed))
        logger.warning(
            f"files with another modification time than at the beginning: {len(names):,}, such as {_shown(names)}; "
            "the run continues, because their sizes are the same"
        )
