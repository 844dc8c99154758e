"""
Long passes over a data set in numbered shards: each is written once, under a temporary name and then renamed, so that
a run that was killed goes on with the same command, with any number of processes.

    folder/
      settings.json                   what made the shards; other settings are refused
      features-00000.safetensors      clips 0 ... shard_size - 1
      features-00001.safetensors      clips shard_size ... 2 * shard_size - 1
"""

import glob
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.clip_reading import BrokenVideoMonitor, check_broken_share
from ..data.corpora import Corpus, IndexedCorpus, SequentialCorpus
from ..data.evaluation_clips import EvaluationClips, StreamedEvaluationClips, collate_evaluation_clips
from ..safety.atomic_files import atomic_path, write_text_atomically

_SETTINGS = "settings.json"
# What stands in it; `stem` and `suffix` make the names of files.
_RECORD = {"stem": str, "suffix": str, "num_items": int | None, "shard_size": int, "settings": dict, "notes": dict}
_HASH = re.compile(r"[0-9a-f]{64}")
_SHARD_BYTES, _MAX_SHARD_SIZE = 128 * 2**20, 1024


class ShardError(ValueError):
    """A folder of shards that cannot be made, was made with other settings, is not complete, or is none."""


class ShardContents(NamedTuple):
    """What a shard holds of the clips that could be read, and the broken ones."""

    #: By name, each with one row per clip; among them int64 `labels` and `index` (in the data set).
    tensors: dict[str, torch.Tensor]
    paths: list[str]
    #: (index, path, error).
    broken: list[tuple[int, str, str]]


def default_shard_size(num_items: int | None, *, item_bytes: int) -> int:
    """
    Clips of a shard: what 128 MiB hold, which is in memory while it is computed and lost where a run is killed; at
    most 1,024; and of a small data set a sixteenth, so that several processes find work.

    Args:
        num_items: clips in all, `None` if unknown.
        item_bytes: size of the results of a clip.
    """
    size = min(_SHARD_BYTES // item_bytes, _MAX_SHARD_SIZE)
    return max(1, size if num_items is None else min(size, -(-num_items // 16)))


class ShardFolder:
    """
    The shards of a pass over `num_items` clips. Opening it writes the settings, or compares them with those that are
    there.

    Args:
        folder: made if it does not exist.
        stem, suffix: names of the files, such as `"features"` and `".safetensors"`.
        num_items: clips in all; `None` where that shows only at the end (streamed data).
        shard_size: clips of a shard, broken ones included.
        settings: everything that the contents depend on, as JSON holds it.
        notes: what else is worth recording; not compared.

    Raises:
        ShardError: the folder was made with other settings, which the message lists; it cannot be written; or a
            `shard_size` below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        stem: str,
        suffix: str,
        num_items: int | None,
        shard_size: int,
        settings: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        if shard_size < 1:
            raise ShardError(f"`shard_size`={shard_size} must be at least 1")
        self.folder = Path(folder)
        self.stem, self.suffix, self.num_items, self.shard_size = stem, suffix, num_items, shard_size
        layout = {"stem": stem, "suffix": suffix, "num_items": num_items, "shard_size": shard_size}
        # As they come back from the file, so that tuples equal lists.
        record = json.loads(json.dumps({**layout, "settings": settings, "notes": notes or {}}))
        self.settings, self.notes, self._record = record["settings"], record["notes"], record
        with writing_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / _SETTINGS).exists():
            self._compare(record)
        else:
            self._write_record()

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "ShardFolder":
        """
        The shards that are in a folder.

        Raises:
            ShardError: it has none.
        """
        record = _read_record(Path(folder))
        return cls(folder, **record)

    def _write_record(self) -> None:
        file = self.folder / _SETTINGS
        with writing_errors(file):
            write_text_atomically(file, json.dumps(self._record, indent=2) + "\n")

    def _compare(self, record: dict[str, Any]) -> None:
        there = _read_record(self.folder)
        if self.num_items is None:  # known from an earlier run that came to the end
            self.num_items = record["num_items"] = there.get("num_items")
        theirs, ours = (_flat({**it, **it["settings"], "settings": {}, "notes": {}}) for it in (there, record))
        names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if names:
            differences = "; ".join(describe_change(name, theirs.get(name), ours.get(name)) for name in names)
            raise ShardError(
                f"{self.folder} was made with other settings: {differences}. Choose another folder, or delete this one"
            )

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.stem}-{shard:05d}{self.suffix}"

    def indices(self, shard: int) -> range:
        """Clips of a shard; of a streamed one, which may hold fewer, at most these."""
        end = (shard + 1) * self.shard_size
        return range(shard * self.shard_size, end if self.num_items is None else min(end, self.num_items))

    def pending(self, *, rank: int = 0, world_size: int = 1) -> list[int]:
        """
        Shards that process `rank` of `world_size` has to write: every `world_size`-th, but for those that exist. Where
        the number is not known yet, the first to write.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must lie in [0, world_size={world_size})")
        if self.num_items is None:
            return [next(shard for shard in itertools.count() if not self.path(shard).exists())]
        return [shard for shard in range(rank, self._count(), world_size) if not self.path(shard).exists()]

    def paths(self) -> list[Path]:
        """
        All files, in order.

        Raises:
            ShardError: some are missing.
        """
        # Not the whole list of what is missing, which is as long as the settings say.
        first = next(shard for shard in itertools.count() if not self.path(shard).exists())
        if self.num_items is None or first < self._count():
            there = len(list(self.folder.glob(f"{glob.escape(self.stem)}-*{glob.escape(self.suffix)}")))
            number = "some" if self.num_items is None else f"{self._count() - there} of {self._count()}"
            raise ShardError(
                f"{number} shards are missing in {self.folder} (the first is {self.path(first).name}): run the "
                "same command again to write them"
            )
        return [self.path(shard) for shard in range(self._count())]

    def finish(self, num_items: int) -> None:
        """Records the number of clips, where only reading them all has shown it."""
        self.num_items = self._record["num_items"] = num_items
        self._write_record()

    def _count(self) -> int:
        return -(-self.num_items // self.shard_size)

    @contextmanager
    def writing(self, shard: int) -> Iterator[Path]:
        """
        A temporary path, which becomes the shard when the block ends without an error.

        Raises:
            ShardError: it cannot be written.
        """
        with writing_errors(self.path(shard)), atomic_path(self.path(shard)) as path:
            yield path


@contextmanager
def writing_errors(path: str | os.PathLike) -> Iterator[None]:
    """
    Names what a full disk, or a folder without leave to write, makes of writing results.

    Args:
        path: what is written.

    Raises:
        ShardError: with the path, what is free there, and how to go on.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        there = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e6
        raise ShardError(
            f"cannot write {path} ({error}), with {free:.1f} MB free there: make room, or see to it that the folder "
            "may be written, and run the same command again; or choose another folder"
        ) from error


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _SETTINGS).read_text())
    except FileNotFoundError as error:
        raise ShardError(f"{folder} has no {_SETTINGS}: it holds no shards") from error
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


def describe_change(name: str, old: Any, new: Any) -> str:
    """A setting that was another, in words; of hashes only that they differ, since nobody reads them."""
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
        return f"{name} changed" + (" (files, their order or labels)" if name == "manifest" else "")
    return f"{name} was {old!r} and is {new!r}"


class _Buffer:
    """The clips of the shard that is being computed, each tensor in a block of the size of a whole shard."""

    def __init__(self, shard_size: int) -> None:
        self._shard_size = shard_size
        self._blocks: dict[str, torch.Tensor] = {}
        self.clear()

    def clear(self) -> None:
        self._count, self._paths, self._broken = 0, [], []

    @property
    def num_seen(self) -> int:
        return self._count + len(self._broken)

    def add(self, tensors: dict[str, torch.Tensor], *, paths: Sequence[str], broken: Sequence[tuple]) -> None:
        end = self._count + len(paths)
        for name, rows in tensors.items():
            if name not in self._blocks:
                self._blocks[name] = torch.empty((self._shard_size, *rows.shape[1:]), dtype=rows.dtype)
            self._blocks[name][self._count : end] = rows
        self._count = end
        self._paths += paths
        self._broken += broken

    def contents(self) -> ShardContents:
        blocks = self._blocks if self._count else {}
        return ShardContents({name: block[: self._count] for name, block in blocks.items()}, self._paths, self._broken)


def fill_shards(
    shards: ShardFolder,
    corpus: Corpus,
    *,
    geometry: Mapping[str, Any],
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    write: Callable[[Path, ShardContents], None],
    batch_size: int,
    num_workers: int = 0,
    max_broken_share: float = 0.05,
    rank: int = 0,
    world_size: int = 1,
    description: str = "clips",
    progress: bool = True,
) -> None:
    """
    Computes the shards of this process that do not exist yet, one after the other; one at a time is in memory.

    Args:
        shards: where they go; as many items as the corpus has videos, `None` for a streamed corpus.
        corpus: the videos. One that can only be streamed is read in order, by one process and at most one worker.
        geometry: the keyword arguments of [`EvaluationClips`].
        compute: uint8 pixels (batch, views, segments, frames, 3, crop, crop), on the CPU, to tensors by name, on the
            CPU, with a row per clip.
        write: writes a shard to a path.
        batch_size: videos of a call of `compute`.
        num_workers: processes that decode.
        max_broken_share: see [`BrokenVideoMonitor`]; broken videos below it are recorded in their shard.
        rank, world_size: this process among those that share the work.
        description: what the progress bar says.
        progress: show a bar, of this process's part.

    Raises:
        ValueError: see [`EvaluationClips`], or a number out of range.
        ShardError: several processes for a streamed corpus, or a shard that cannot be written.
        TooManyBrokenVideosError: see `max_broken_share`. Finished shards stay.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size`={batch_size} must be at least 1")
    check_broken_share(max_broken_share)
    is_streamed = isinstance(corpus, SequentialCorpus)
    if is_streamed and world_size > 1:
        raise ShardError(f"{corpus.name} is streamed, which {world_size} processes cannot share: use one")
    pending = shards.pending(rank=rank, world_size=world_size)
    if not pending:
        return
    make_loader = _streamed_loader if is_streamed else _indexed_loader
    loader, total = make_loader(shards, corpus, pending, geometry, batch_size=batch_size, num_workers=num_workers)
    monitor, buffer = BrokenVideoMonitor(max_broken_share), _Buffer(shards.shard_size)
    end = pending[0] * shards.shard_size
    with tqdm(total=total, desc=description, unit="clip", disable=not progress) as bar:
        for batch in loader:
            first, count = _first_index(batch), len(batch["path"]) + len(batch["broken"])
            shard, end = first // shards.shard_size, first + count
            _take_in(batch, buffer=buffer, compute=compute, monitor=monitor)
            if buffer.num_seen == len(shards.indices(shard)):
                _flush(buffer, shards=shards, shard=shard, write=write)
            bar.update(count)
    if is_streamed:
        if buffer.num_seen:
            _flush(buffer, shards=shards, shard=shard, write=write)
        shards.finish(end)


def _indexed_loader(
    shards: ShardFolder,
    corpus: IndexedCorpus,
    pending: Sequence[int],
    geometry: Mapping[str, Any],
    *,
    batch_size: int,
    num_workers: int,
) -> tuple[DataLoader, int | None]:
    """Batches that do not reach over the end of a shard, and the number of clips in them."""
    clips = EvaluationClips(corpus, **geometry)
    batches = [
        list(shards.indices(shard)[first : first + batch_size])
        for shard in pending
        for first in range(0, len(shards.indices(shard)), batch_size)
    ]
    loader = DataLoader(clips, batch_sampler=batches, num_workers=num_workers, collate_fn=collate_evaluation_clips)
    return loader, sum(map(len, batches))


def _streamed_loader(
    shards: ShardFolder,
    corpus: SequentialCorpus,
    pending: Sequence[int],
    geometry: Mapping[str, Any],
    *,
    batch_size: int,
    num_workers: int,
) -> tuple[DataLoader, int | None]:
    start = pending[0] * shards.shard_size
    clips = StreamedEvaluationClips(
        corpus, start=start, batch_size=batch_size, shard_size=shards.shard_size, **geometry
    )
    workers = min(num_workers, 1)
    return DataLoader(clips, batch_size=None, num_workers=workers, collate_fn=collate_evaluation_clips), None


def _first_index(batch: dict[str, Any]) -> int:
    return min([*batch["index"].tolist(), *(index for index, _, _ in batch["broken"])])


def _take_in(
    batch: dict[str, Any],
    *,
    buffer: _Buffer,
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    monitor: BrokenVideoMonitor,
) -> None:
    for _, path, error in batch["broken"]:
        monitor.failed(path, error)
    for _ in batch["path"]:
        monitor.succeeded()
    tensors = {}
    if batch["path"]:
        tensors = compute(batch["pixel_values_videos"]) | {name: batch[name] for name in ("labels", "index")}
    buffer.add(tensors, paths=batch["path"], broken=batch["broken"])


def _flush(buffer: _Buffer, *, shards: ShardFolder, shard: int, write: Callable[[Path, ShardContents], None]) -> None:
    with shards.writing(shard) as path:
        write(path, buffer.contents())
    buffer.clear()


def write_safetensors(path: Path, contents: ShardContents) -> None:
    """Tensors under their names; paths and broken videos as JSON in the metadata."""
    save_file(
        contents.tensors,
        path,
        metadata={"format": "pt", "paths": json.dumps(contents.paths), "broken": json.dumps(contents.broken)},
    )


def read_safetensors(path: Path, *, names: Sequence[str] | None = None) -> ShardContents:
    """
    A shard that [`write_safetensors`] wrote.

    Args:
        names: tensors to read; all by default. A shard without any readable clip has none.

    Raises:
        ShardError: a damaged file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}
        broken = [(int(index), str(name), str(error)) for index, name, error in json.loads(metadata["broken"])]
        return ShardContents(tensors, [str(name) for name in json.loads(metadata["paths"])], broken)
    except (SafetensorError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is damaged ({error}): delete it, and run the same command again") from error


__all__ = [
    "ShardContents",
    "ShardError",
    "ShardFolder",
    "default_shard_size",
    "fill_shards",
    "read_safetensors",
    "write_safetensors",
    "writing_errors",
]
