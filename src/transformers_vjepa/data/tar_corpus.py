"""Corpora in uncompressed tars (WebDataset format)."""

import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Features, IterableDataset, Value
from transformers.utils import logging

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, extension
from ..safety.sanitizing import log_line
from .class_numbers import number_labels
from .corpus import EncodedClip, PackedStrings, container_names
from .remote_reading import address_name, open_address
from .table_corpus import SequentialCorpus
from .tar_samples import DamagedTarError, SampleBounds, TarClip, TarFindings, has_end_mark, open_tar, read_clips

logger = logging.get_logger(__name__)

# A sample of a streamed tar is held in memory: bounds for one video, and for several.
_MAX_VIDEO_BYTES, _MAX_SAMPLE_BYTES = 2**30, 2**28
# Clips that are read when a streamed tar is opened, to find faults that all samples have.
_CHECKED_ROWS = 5
# A row of a streamed tar. The name of a member is in bytes, since it need not be valid UTF-8.
_ROW = Features({name: Value("string") for name in ("tar", "label", "refused")})
_ROW |= {name: Value("binary") for name in ("member", "video")}


class TarCorpus:
    """
    Videos and images inside uncompressed (WebDataset) tars. A reference is (tar, offset, size), read once from the
    headers; nothing is extracted to the disk. [`~data.tar_samples`] says which members are clips and labels.

    Raises:
        ValueError: a file that is not an uncompressed tar, or that is truncated; a sample with a fault.
    """

    def __init__(self, tars: Sequence[str]) -> None:
        self._tars, self._tar_names = tuple(tars), container_names(tars)
        references, labels, findings = array("q"), [], TarFindings()

        def names() -> Iterator[str]:
            for number, tar in enumerate(self._tars):
                for clip in _indexed_clips(tar, findings):
                    references.extend((number, *clip.content))
                    labels.append(clip.label)
                    yield clip.name

        self._names = PackedStrings(names())
        self._tar, self._offset, self._size = np.array(references).reshape(-1, 3).T
        self._label, self.class_names = number_labels(labels, source=self._tars[0])
        if fault := findings.unmatched():
            raise ValueError(f"{self._tars[0]}{' and others' if len(tars) > 1 else ''}: {fault}")
        _report(self._tars[0], findings, counted=True)

    @property
    def labels(self) -> np.ndarray:
        return self._label.astype(np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def describe(self, index: int) -> str:
        return f"{self._tars[self._tar[index]]}::{self._names[index]}"

    def origin(self, index: int) -> tuple[str, str | None]:
        tar = self._tar[index]
        return f"{self._tar_names[tar]}::{self._names[index]}", self._tars[tar]

    def read(self, index: int) -> EncodedClip:
        size = int(self._size[index])
        with open(self._tars[self._tar[index]], "rb") as file:
            file.seek(int(self._offset[index]))
            data = file.read(size)
        if len(data) != size:
            raise OSError(f"{self.describe(index)} has {len(data)} of {size} bytes: the tar changed on disk")
        is_image = extension(self._names[index]) in IMAGE_EXTENSIONS
        return EncodedClip(self.describe(index), int(self._label[index]), data, is_image)


def _indexed_clips(tar: str, findings: TarFindings) -> Iterator[TarClip[tuple[int, int]]]:
    """The clips of a tar on the disk; their content is (offset, size)."""
    total = os.path.getsize(tar)

    def place(_: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int]:
        if member.offset_data + member.size > total:
            raise ValueError(f"{tar} is truncated inside {member.name!r}: copy the tar again")
        return member.offset_data, member.size

    try:
        with open_tar(tar) as archive:
            for clip in read_clips(archive, place, findings=findings):
                if clip.fault:
                    raise ValueError(f"{tar}: {clip.fault}")
                yield clip
            _warn_without_end_mark(tar, archive)
    except DamagedTarError as error:
        raise ValueError(f"{tar} {error}") from error


def _warn_without_end_mark(tar: str, archive: tarfile.TarFile) -> None:
    if not has_end_mark(archive):
        logger.warning("%s has no end mark: the file may be truncated", log_line(tar))


def _report(source: str, findings: TarFindings, *, counted: bool) -> None:
    """Name once what is not used: `counted` with first names, or only the kinds, which many shards have in common."""
    for tally, kinds in (
        (findings.unused, findings.unused.kinds()),
        (findings.samples, [kind for kind in (findings.THUMBNAILS, findings.LABELS) if kind in findings.samples]),
    ):
        if kinds:
            text = log_line(tally.text(*kinds) if counted else ", ".join(kinds))
            logger.warning_once(f"{log_line(source)}: left out {text}")


class StreamedTarCorpus(SequentialCorpus):
    """
    The clips of tars at addresses, in order. [`~data.tar_samples`] says which members are clips and labels.
    A sample with a fault is a clip that must not be read, so it is named and counted as a broken video.

    Args:
        tars: addresses, one for each shard.
        name: name for messages.
    """

    def __init__(self, tars: Sequence[str], *, name: str) -> None:
        dataset = IterableDataset.from_generator(
            _stream_rows, features=_ROW, gen_kwargs={"tars": list(tars), "source": address_name(name)}
        )
        super().__init__(dataset, name=name, video_column="video")

    def check_start(self) -> None:
        """
        Read the first clips.

        Raises:
            ValueError: no clips, or a sample with a fault.
            OSError, and the other [`~data.remote_reading.source_errors`]: the first tar cannot be read.
        """
        dataset, _, _ = self.lane(0, lanes=1)
        rows = list(islice(dataset.select_columns(["tar", "refused"]).iter(batch_size=1), _CHECKED_ROWS))
        for row in rows:
            if refused := row["refused"][0]:
                raise ValueError(f"{row['tar'][0]}: {refused}")
        if not rows:
            raise ValueError(f"{self.name} holds no videos or images")

    def encoded(self, row: dict[str, Any], *, where: str, needs_label: bool = False) -> EncodedClip:
        member = os.fsdecode(row["member"])
        label, unknown = self.class_of(row["label"], needed=needs_label)
        is_image = extension(member) in IMAGE_EXTENSIONS
        return EncodedClip(f"{row['tar']}::{member}", label, row["video"], is_image, row["refused"] or unknown)


def _stream_rows(tars: list[str], source: str) -> Iterator[dict[str, Any]]:
    """The rows of [`StreamedTarCorpus`]: one for each clip, and one for each fault."""
    for tar in tars:
        shown, findings = address_name(tar), TarFindings()

        def row(clip: TarClip[bytes], shown: str = shown) -> dict[str, Any]:
            label = None if clip.label is None else str(clip.label)
            video, member = clip.content or b"", os.fsencode(clip.name)
            return {"tar": shown, "member": member, "video": video, "label": label, "refused": clip.fault}

        with open_address(tar) as file, open_tar(stream=file) as archive:
            bounds = SampleBounds(_MAX_VIDEO_BYTES, _MAX_SAMPLE_BYTES)
            for clip in read_clips(archive, _contents, findings=findings, bounds=bounds):
                yield row(clip)
            _warn_without_end_mark(shown, archive)
        if fault := findings.unmatched():
            yield row(TarClip("*", None, None, fault))
        _report(source, findings, counted=False)


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return archive.extractfile(member).read()
