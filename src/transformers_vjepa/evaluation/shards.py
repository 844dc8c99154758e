"""
Long passes over a data set, in numbered shards. Each shard is written atomically, so that a killed run continues with
the same command and any number of processes.

    folder/
      settings.json                   what the shards depend on; other settings are refused
      features-00000.safetensors      clips 0 ... shard_size - 1
      features-00000.files.json       SHA-256 of the shard; sizes, times and hashes of the files of its clips, and
                                      which of the clips are broken
      features-00001.safetensors      clips shard_size ... 2 * shard_size - 1

A later pass computes a shard again if the shard is damaged, if a file of it was replaced, or if a clip that was broken
can be read now. A shard is computed as a whole, so it has the bytes that a first pass would give it. Whoever reads the
shards of a folder compares them with their SHA-256 before ([`ShardFolder.paths`]).
"""

import glob
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.arguments import CorpusArguments
from ..data.clip_reading import BrokenVideoMonitor, check_broken_share
from ..data.corpora import Corpus
from ..data.corpus import IndexedCorpus
from ..data.evaluation_clips import (
    ClipGeometry,
    EvaluationClips,
    StreamedEvaluationClips,
    collate_evaluation_clips,
)
from ..data.fingerprints import UNKNOWN, changed_stamps, content_digest, file_stamps
from ..data.table_corpus import SequentialCorpus
from ..safety.atomic_files import atomic_path, write_text_atomically
from ..safety.file_hashes import file_hash
from ..safety.sanitizing import json_text, log_line

logger = logging.get_logger(__name__)

_SETTINGS = "settings.json"
# Keys and types of the settings file.
_RECORD = {"stem": str, "suffix": str, "num_items": int | None, "shard_size": int, "settings": dict, "notes": dict}
_HASH = re.compile(r"[0-9a-f]{64}")
# Key of the metadata of a shard.
_CONTENTS = "contents"
_SHARD_BYTES, _MAX_SHARD_SIZE = 128 * 2**20, 1024
# A bar appears only if the comparison of the hashes takes longer.
_SECONDS_WITHOUT_BAR = 5.0


class ShardError(ValueError):
    """A folder of shards that cannot be written, was made with other settings, is incomplete, or has no shards."""


class ShardContents(NamedTuple):
    """The results of a shard: those of the clips that could be read, and the broken clips."""

    #: By name, each with one row per clip; among them int64 `labels` and `index` (in the data set).
    tensors: dict[str, torch.Tensor]
    paths: list[str]
    #: (index, path, error).
    broken: list[tuple[int, str, str]]


class ShardFiles(NamedTuple):
    """What a shard was made of, see [`~data.fingerprints`]."""

    #: int64 (clips, 2): size and time.
    stamps: np.ndarray
    #: The [`content_digest`] of each clip.
    digests: list[str]
    #: Places of the broken clips in the data set.
    broken: list[int]
    #: SHA-256 of the shard, in hexadecimal; empty for a shard of an earlier version.
    sha256: str = ""


def describe_broken(broken: Iterable[tuple[int, str, str]]) -> list[dict[str, str]]:
    """Broken clips as JSON files list them: `path` and `error` of each."""
    return [{"path": path, "error": error} for _, path, error in broken]


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """
    How a pass over a data set is computed. These options change no result, so a pass may be continued with others.

    Args:
        batch_size: clips of a forward pass; segments and views count as clips.
        num_workers: processes that decode, for each process that computes.
        max_broken_share: see [`BrokenVideoMonitor`]. Below this share, broken videos are recorded in their shard.
        rank: number of this process among those that share the work.
        world_size: number of processes that share the work.
        progress: show a bar for the part of this process.

    Raises:
        ValueError: a number out of range.
    """

    batch_size: int = 8
    num_workers: int = 0
    max_broken_share: float = 0.05
    rank: int = 0
    world_size: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"`batch_size`={self.batch_size} must be at least 1")
        check_broken_share(self.max_broken_share)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} must lie in [0, world_size={self.world_size})")

    @classmethod
    def from_arguments(cls, data: CorpusArguments, state: PartialState) -> "PassOptions":
        """The options of a command, for one of the processes that share its work."""
        return cls(
            batch_size=data.clips_per_batch,
            num_workers=data.num_workers,
            max_broken_share=data.max_broken_share,
            rank=state.process_index,
            world_size=state.num_processes,
            progress=state.is_main_process,
        )


def default_shard_size(num_items: int | None, *, item_bytes: int) -> int:
    """
    Clips of a shard. A shard takes at most 128 MiB and 1,024 clips, because it is in memory while it is computed and
    is lost if the run is killed. A small data set is divided into sixteen, so that several processes have work.

    Args:
        num_items: clips in all, `None` if unknown.
        item_bytes: size of the results of a clip.
    """
    size = min(_SHARD_BYTES // item_bytes, _MAX_SHARD_SIZE)
    return max(1, size if num_items is None else min(size, -(-num_items // 16)))


@dataclass
class ShardFolder:
    """
    The shards of a pass over `num_items` clips. The settings are written, or compared with those in the folder.

    Args:
        folder: created if it does not exist.
        stem, suffix: names of the files, such as `"features"` and `".safetensors"`.
        num_items: number of clips; `None` for streamed data, whose number is known only at the end.
        shard_size: clips of a shard, broken ones included.
        settings: everything that the contents depend on, as JSON holds it.
        notes: more information to record; it is not compared.

    Raises:
        ShardError: the folder was made with other settings (the message lists them) or cannot be written; or
            `shard_size` is below 1.
    """

    folder: str | os.PathLike
    _: KW_ONLY
    stem: str
    suffix: str
    num_items: int | None
    shard_size: int
    settings: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ShardError(f"`shard_size`={self.shard_size} must be at least 1")
        self.folder = Path(self.folder)
        self.settings = json.loads(json_text(self.settings))  # lists in place of tuples, as in the file
        with writing_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._begun_with: Mapping[str, Any] = self.notes
        if (self.folder / _SETTINGS).exists():
            there = _read_record(self.folder)
            self._compare(there)
            self._begun_with = there["notes"]
        else:
            self._write_record()

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "ShardFolder":
        """
        Opens the shards in a folder.

        Raises:
            ShardError: the folder has no shards.
        """
        return cls(folder, **_read_record(Path(folder)))

    def _write_record(self) -> None:
        file = self.folder / _SETTINGS
        with writing_errors(file):  # all processes write this file
            write_text_atomically(file, json_text({name: getattr(self, name) for name in _RECORD}))

    def _compare(self, there: dict[str, Any]) -> None:
        if self.num_items is None:  # an earlier run that reached the end has recorded the number
            self.num_items = there["num_items"]
        here = {name: getattr(self, name) for name in _RECORD}
        theirs, ours = (_flat({**it, **it["settings"], "settings": {}, "notes": {}}) for it in (there, here))
        if changes := describe_changes(theirs, ours):
            raise ShardError(
                f"{self.folder} was made with other settings: {changes}. Choose another folder, or delete this one"
            )

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.stem}-{shard:05d}{self.suffix}"

    def write_files(self, shard: int, files: ShardFiles) -> None:
        """Records what a shard is made of."""
        record = {
            "sha256": files.sha256,
            "files": files.stamps.tolist(),
            "digests": files.digests,
            "broken": files.broken,
        }
        with writing_errors(self._files(shard)):
            write_text_atomically(self._files(shard), json_text(record, indent=None))

    def read_files(self, shard: int) -> ShardFiles | None:
        """What [`write_files`] recorded; `None` if the record is absent or does not fit the shard."""
        places, record = self.indices(shard), self._record(shard)
        try:
            stamps = np.array(record["files"], dtype=np.int64)
            digests, broken = map(str, record["digests"]), map(int, record["broken"])
            files = ShardFiles(stamps, list(digests), list(broken), str(record.get("sha256", "")))
        except (ValueError, TypeError, LookupError, OverflowError):
            return None
        fits = stamps.shape == (len(places), 2) and len(files.digests) == len(places)
        return files if fits and all(index in places for index in files.broken) else None

    def _record(self, shard: int) -> dict[str, Any]:
        try:
            record = json.loads(self._files(shard).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}

    def is_damaged(self, shard: int) -> bool:
        """Whether an existing shard differs from its recorded SHA-256. Earlier versions recorded none."""
        known, file = self._record(shard).get("sha256"), self.path(shard)
        if not known:
            return False
        status = file.stat()
        return known != _hash_of(file, status.st_size, status.st_mtime_ns)

    def stamps(self, shard: int, indices: Sequence[int]) -> np.ndarray:
        """The recorded [`file_stamps`] of some clips of a shard: int64 (clips, 2), -1 if nothing is recorded."""
        files, here = self.read_files(shard), self.indices(shard)
        if files is None or not all(index in here for index in indices):
            return np.full((len(indices), 2), UNKNOWN, dtype=np.int64)
        return files.stamps[np.array(indices, dtype=np.int64) - here.start]

    def remove(self, shard: int) -> None:
        """Removes a shard that is computed again, so that a pass that is stopped leaves no results of other files."""
        with writing_errors(self.path(shard)):
            self.path(shard).unlink()

    def _files(self, shard: int) -> Path:
        return self.folder / f"{self.stem}-{shard:05d}.files.json"

    def indices(self, shard: int) -> range:
        """Clips of a shard. The last shard of streamed data may hold fewer."""
        end = (shard + 1) * self.shard_size
        return range(shard * self.shard_size, end if self.num_items is None else min(end, self.num_items))

    def pending(self, *, rank: int = 0, world_size: int = 1) -> list[int]:
        """
        Shards that process `rank` of `world_size` has to write: every `world_size`-th shard, if it does not exist. If
        the number of clips is not known yet, the first shard that does not exist.
        """
        if self.num_items is None:
            return [next(shard for shard in itertools.count() if not self.path(shard).exists())]
        return [shard for shard in self.shards(rank=rank, world_size=world_size) if not self.path(shard).exists()]

    def shards(self, *, rank: int = 0, world_size: int = 1) -> range:
        """The shards of process `rank` of `world_size`, if the number of clips is known."""
        return range(rank, self._count(), world_size)

    def paths(self) -> list[Path]:
        """
        All files, in order, after each was compared with its SHA-256. A file is read once for this, unless it changes.

        Raises:
            ShardError: some are missing, or one is damaged.
        """
        # List no more than one missing shard: an untrusted settings file may claim any number of shards.
        first = next(shard for shard in itertools.count() if not self.path(shard).exists())
        if self.num_items is None or first < self._count():
            there = len(list(self.folder.glob(f"{glob.escape(self.stem)}-*{glob.escape(self.suffix)}")))
            number = "some" if self.num_items is None else f"{self._count() - there} of {self._count()}"
            raise ShardError(
                f"{number} shards are missing in {self.folder} (the first is {self.path(first).name}): run the "
                "same command again to write them"
            )
        for shard in tqdm(range(self._count()), desc="checking shards", leave=False, delay=_SECONDS_WITHOUT_BAR):
            if self.is_damaged(shard):
                raise ShardError(
                    f"{self.path(shard)} is damaged (its SHA-256 is not the recorded one): delete it, and run the "
                    "same command again"
                )
        return [self.path(shard) for shard in range(self._count())]

    def warn_of_other_versions(self) -> None:
        """Warns if shards of this folder were made with other versions of the packages that read the clips."""
        before, now = (notes.get("versions") for notes in (self._begun_with, self.notes))
        if before != now and any(self.folder.glob(f"{glob.escape(self.stem)}-*{glob.escape(self.suffix)}")):
            logger.warning(
                f"{self.folder} was begun with versions {before} and continues with {now}: delete it if features of "
                "both must not be mixed"
            )

    def finish(self, num_items: int) -> None:
        """Records the number of clips of streamed data, which is known when all have been read."""
        self.num_items = num_items
        self._write_record()

    def _count(self) -> int:
        return -(-self.num_items // self.shard_size)


@cache
def _hash_of(file: Path, size: int, time: int) -> str:
    """The [`file_hash`] of a shard; computed once for a command that continues a pass and reads its results."""
    return file_hash(file)


@contextmanager
def writing_errors(path: str | os.PathLike) -> Iterator[None]:
    """
    Around the writing of a file or folder.

    Raises:
        ShardError: the disk is full, or the folder may not be written; with the path, the free space and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        there = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e6
        raise ShardError(
            f"cannot write {path} ({error}), with {free:.1f} MB free there: make room or allow writing to the folder, "
            "and run the same command again; or choose another folder"
        ) from error


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _SETTINGS).read_text())
    except FileNotFoundError as error:
        raise ShardError(f"{folder} has no {_SETTINGS}: the folder holds no shards") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{folder / _SETTINGS} cannot be read ({error}): delete the folder") from error
    if not isinstance(record, dict) or record.keys() != _RECORD.keys():
        raise ShardError(f"{folder / _SETTINGS} does not describe shards: expected {', '.join(_RECORD)}")
    for name, kind in _RECORD.items():
        value = record[name]
        is_path = isinstance(value, str) and Path(value).name != value
        if not isinstance(value, kind) or is_path or (isinstance(value, int) and value < 0):
            raise ShardError(f"{folder / _SETTINGS} does not describe shards: {name} is {value!r}")
    return record


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings that differ, in words and by name; empty if none does."""
    changes = []
    for name in sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)):
        before, now = old.get(name), new.get(name)
        if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (before, now)):  # nobody reads a hash
            changes.append(f"{name} changed" + (" (clips, their order or labels)" if name == "manifest" else ""))
        else:  # an earlier version recorded less
            was = f"was {before!r}" if name in old else "was not recorded"
            changes.append(f"{name} {was} and is {now!r}")
    return "; ".join(changes)


def fill_shards(
    shards: ShardFolder,
    corpus: Corpus,
    geometry: ClipGeometry,
    options: PassOptions,
    *,
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    write: Callable[[Path, ShardContents], None],
    description: str = "clips",
) -> None:
    """
    Computes the shards of this process that are missing, damaged or outdated: a file of them was replaced, or a clip
    that was broken can be read now. One shard at a time is in memory.

    Args:
        shards: where the results go, with an item for each video of the corpus.
        corpus: the videos. A corpus that can only be streamed is read in order, by one process and at most one worker;
            its finished shards stay as they are.
        compute: from uint8 pixels (batch, views, segments, frames, 3, crop, crop) on the CPU to tensors by name on the
            CPU, with one row per video. It gets `options.batch_size` clips at a time, but at least one video.
        write: writes a shard to a path.
        description: name of the progress bar.

    Raises:
        ValueError: see [`EvaluationClips`].
        ShardError: several processes for a streamed corpus, or a shard that cannot be written.
        TooManyBrokenVideosError: see `max_broken_share` of [`PassOptions`]. Finished shards stay.
    """
    is_streamed = isinstance(corpus, SequentialCorpus)
    if is_streamed:
        _check_streamed(shards, corpus, options)
    stamps = {} if is_streamed else _stamps_of(shards, corpus, options)
    for shard in _outdated(shards, corpus, stamps, geometry, options):
        shards.remove(shard)
    pending = shards.pending(rank=options.rank, world_size=options.world_size)
    if not pending:
        return
    shards.warn_of_other_versions()
    total = None if is_streamed else sum(len(shards.indices(shard)) for shard in pending)
    loader = _loader(shards, corpus, pending, geometry, options)
    monitor = BrokenVideoMonitor(options.max_broken_share)
    parts: list[ShardContents] = []
    end = pending[0] * shards.shard_size
    with tqdm(total=total, desc=description, unit=geometry.noun, disable=not options.progress) as bar:
        for batch in loader:
            parts.append(_results(batch, compute=compute, monitor=monitor))
            count = len(batch["path"]) + len(batch["broken"])
            first = min([*batch["index"].tolist(), *(index for index, _, _ in batch["broken"])])
            shard, end = first // shards.shard_size, first + count
            if end == shards.indices(shard).stop:
                _flush(parts, shards, shard, corpus, stamps.get(shard), write)
            bar.update(count)
    if is_streamed:
        if parts:
            _flush(parts, shards, shard, corpus, None, write)
        shards.finish(end)


def _check_streamed(shards: ShardFolder, corpus: SequentialCorpus, options: PassOptions) -> None:
    """Raises `ShardError` for several processes; warns that earlier shards cannot be compared with the data."""
    if options.world_size > 1:
        raise ShardError(
            f"{corpus.name} is streamed, and {options.world_size} processes cannot share a stream: use one process"
        )
    if shards.path(0).exists():
        logger.warning(
            f"{shards.folder}: finished shards of {log_line(corpus.name)} stay as they are, since nobody can tell "
            "whether streamed data have changed; delete shards to compute them again"
        )


def _stamps_of(shards: ShardFolder, corpus: IndexedCorpus, options: PassOptions) -> dict[int, np.ndarray]:
    """
    The [`file_stamps`] of the clips of each shard of this process. Taken before the clips are read: a file that is
    replaced afterwards differs from its stamp in the next pass.
    """
    own = shards.shards(rank=options.rank, world_size=options.world_size)
    return {shard: file_stamps(corpus, shards.indices(shard)) for shard in own}


def _outdated(
    shards: ShardFolder,
    corpus: Corpus,
    stamps: Mapping[int, np.ndarray],
    geometry: ClipGeometry,
    options: PassOptions,
) -> list[int]:
    """Shards that exist and must be computed again; says why."""
    replaced, broken, absent, damaged = {}, {}, {}, {}
    for shard in (shard for shard in stamps if shards.path(shard).exists()):
        if shards.is_damaged(shard):
            damaged[shard] = list(shards.indices(shard))
            continue
        now, places, files = stamps[shard], np.array(shards.indices(shard)), shards.read_files(shard)
        is_there = now[:, 0] >= 0
        if files is None:
            replaced[shard] = places[is_there].tolist()
            continue
        # A disk that is not mounted must not cost the results of its files.
        absent[shard] = places[(files.stamps[:, 0] >= 0) & ~is_there].tolist()
        is_changed = changed_stamps(files.stamps, now) & is_there
        known = dict(zip(places.tolist(), files.digests, strict=True))
        replaced[shard] = [
            index
            for index in places[is_changed].tolist()
            if not known[index] or known[index] != content_digest(corpus, index)
        ]
        if replaced[shard]:
            continue
        broken[shard] = files.broken
        if is_changed.any():  # copies with other times
            shards.write_files(shard, files._replace(stamps=np.where(is_changed[:, None], now, files.stamps)))
    asked = [index for indices in broken.values() for index in indices]
    readable = _readable(corpus, asked, geometry, options) if asked else set()
    again = {shard: sorted(readable.intersection(indices)) for shard, indices in broken.items()}
    for what, found, result in (
        ("of a damaged shard", damaged, "their shards are computed again"),
        ("of another file", replaced, "their shards are computed again"),
        ("that were broken and can be read now", again, "their shards are computed again"),
        ("that cannot be reached now", absent, "their earlier results stay"),
    ):
        if clips := [index for indices in found.values() for index in indices]:
            name = log_line(corpus.describe(clips[0]))
            logger.warning(f"{shards.folder}: clips {what}: {len(clips):,}, such as {name}; {result}")
    return [shard for shard in stamps if damaged.get(shard) or replaced.get(shard) or again.get(shard)]


def _files_of(corpus: Corpus, indices: Sequence[int], stamps: np.ndarray | None, broken: Sequence[int]) -> ShardFiles:
    """What a shard is made of; without the digest of a file that changed while the shard was computed."""
    if stamps is None:  # nothing is known of the files of streamed data
        return ShardFiles(np.empty((0, 2), dtype=np.int64), [], list(broken))
    is_changed = changed_stamps(stamps, file_stamps(corpus, indices))
    pairs = zip(indices, is_changed, strict=True)
    digests = ["" if changed else content_digest(corpus, index) for index, changed in pairs]
    return ShardFiles(stamps, digests, list(broken))


def _readable(corpus: IndexedCorpus, indices: Sequence[int], geometry: ClipGeometry, options: PassOptions) -> set[int]:
    """Which of the clips can be read now."""
    loader = DataLoader(
        EvaluationClips(corpus, geometry),
        batch_sampler=[[index] for index in indices],
        collate_fn=collate_evaluation_clips,
        num_workers=min(options.num_workers, len(indices)),
    )
    return {index for batch in loader for index in batch["index"].tolist()}


def _loader(
    shards: ShardFolder, corpus: Corpus, pending: Sequence[int], geometry: ClipGeometry, options: PassOptions
) -> DataLoader:
    """Batches of the pending shards that do not reach over the end of a shard."""
    size = max(1, options.batch_size // geometry.clips_per_video)
    loading: dict[str, Any] = {"collate_fn": collate_evaluation_clips, "num_workers": options.num_workers}
    if isinstance(corpus, SequentialCorpus):
        start, loading["num_workers"] = pending[0] * shards.shard_size, min(options.num_workers, 1)
        clips = StreamedEvaluationClips(corpus, geometry, start=start, batch_size=size, shard_size=shards.shard_size)
        return DataLoader(clips, batch_size=None, **loading)
    places = map(shards.indices, pending)
    batches = [list(some[first : first + size]) for some in places for first in range(0, len(some), size)]
    return DataLoader(EvaluationClips(corpus, geometry), batch_sampler=batches, **loading)


def _results(
    batch: dict[str, Any],
    *,
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    monitor: BrokenVideoMonitor,
) -> ShardContents:
    for _, path, error in batch["broken"]:
        monitor.failed(path, error)
    for _ in batch["path"]:
        monitor.succeeded()
    tensors = {}
    if batch["path"]:
        tensors = compute(batch["pixel_values_videos"]) | {name: batch[name] for name in ("labels", "index")}
    return ShardContents(tensors, batch["path"], batch["broken"])


def _flush(
    parts: list[ShardContents],
    shards: ShardFolder,
    shard: int,
    corpus: Corpus,
    stamps: np.ndarray | None,
    write: Callable[[Path, ShardContents], None],
) -> None:
    """Joins and removes the parts before the shard is written, since writing takes memory, too."""
    names = next((part.tensors.keys() for part in parts if part.tensors), ())
    contents = ShardContents(
        {name: torch.cat([part.tensors[name] for part in parts if part.tensors]) for name in names},
        [path for part in parts for path in part.paths],
        [entry for part in parts for entry in part.broken],
    )
    parts.clear()
    files = _files_of(corpus, shards.indices(shard), stamps, sorted(index for index, _, _ in contents.broken))
    path = shards.path(shard)
    with writing_errors(path), atomic_path(path) as temporary:
        write(temporary, contents)
        # Before the shard gets its name: each shard that exists has its own record.
        shards.write_files(shard, files._replace(sha256=file_hash(temporary)))


def write_safetensors(path: Path, contents: ShardContents) -> None:
    """
    Writes a shard: tensors under their names; paths and broken videos as JSON in the metadata. Equal contents give
    equal bytes: safetensors writes several keys of metadata in a random order, so there is one key.
    """
    save_file(
        contents.tensors,
        path,
        metadata={_CONTENTS: json.dumps({"paths": contents.paths, "broken": contents.broken})},
    )


def read_safetensors(path: Path, *, names: Sequence[str] | None = None) -> ShardContents:
    """
    Reads a shard that [`write_safetensors`] wrote.

    Args:
        names: tensors to read; by default all. A shard without a readable clip has no tensors.

    Raises:
        ShardError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}
        if _CONTENTS in metadata:
            named = json.loads(metadata[_CONTENTS])
        else:  # version 0.1
            named = {name: json.loads(metadata[name]) for name in ("paths", "broken")}
        broken = [(int(index), str(name), str(error)) for index, name, error in named["broken"]]
        return ShardContents(tensors, [str(name) for name in named["paths"]], broken)
    except (SafetensorError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is damaged ({error}): delete it, and run the same command again") from error
