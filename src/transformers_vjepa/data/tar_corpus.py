"""Corpora in uncompressed tars (WebDataset format)."""

import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from transformers.utils import logging

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, extension, is_media
from ..safety.sanitizing import log_line
from .corpus import NO_LABEL, EncodedClip, PackedStrings, container_names

logger = logging.get_logger(__name__)


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
        self._tars, self._tar_names = tuple(tars), container_names(tars)
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
                if is_media(member.name) and not base.startswith("."):
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
