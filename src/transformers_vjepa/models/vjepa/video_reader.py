"""What all readers of videos share: an open video, and the bounds of a read."""

import io
import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np
import torch

from .clip_sampling import CorruptVideoError, TooShortVideoError
from .media_files import MAX_CLIP_BYTES

VideoSource = str | os.PathLike | bytes | BinaryIO


class VideoReader(AbstractContextManager):
    """
    An open video, which closes at the end of a `with` block.

    Attributes:
        name (`str`): name of the video in errors.
        num_frames (`int`): frames that the container promises, lost ones included.
        num_lost (`int`): frames that are lost, because packets are damaged or missing.
        fps (`float`, *optional*): mean rate; None if it is unknown or not plausible.
        times (`Sequence[float]`, *optional*): seconds at which the frames are displayed, if the rate is variable.
        frame_size (`tuple[int, int]`, *optional*): height and width that the header promises, before rotation.
    """

    name: str
    num_frames: int
    num_lost: int = 0
    fps: float | None = None
    times: Sequence[float] | None = None
    frame_size: tuple[int, int] | None = None

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """The frames with these ascending indices: uint8 (3, height, width)."""
        if indices[-1] >= self.num_frames:
            raise beyond_the_end(self.name, indices[-1], self.num_frames)
        return self._read(indices)

    @abstractmethod
    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """As `read`, for indices below `num_frames`."""

    def whole_frames(self, clip: list[int]) -> list[int]:
        """
        The frames that are shown in place of these: the same, but for a lost frame the last whole one before it (or
        the first one, if there is none before).
        """
        return clip

    @abstractmethod
    def close(self) -> None:
        """Releases the file."""

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_clip_bytes(name: str, *, frames: int, height: int, width: int) -> None:
    """Raises CorruptVideoError if the frames of a read would take more than `MAX_CLIP_BYTES`."""
    size = frames * height * width * 3
    if size > MAX_CLIP_BYTES:
        raise CorruptVideoError(
            name,
            f"{frames} frames of {width}x{height} pixels take {size} bytes, more than {MAX_CLIP_BYTES}: "
            "scale the video down, read fewer frames or segments at once, or raise the environment variable "
            "VJEPA_MAX_CLIP_BYTES",
        )


def beyond_the_end(name: str, index: int, total: int) -> TooShortVideoError:
    """The error for a frame that the video does not have."""
    return TooShortVideoError(name, f"frame {index} is beyond its {total} frames: ask for less than {total}", total)


def channels_first(rgb: np.ndarray) -> torch.Tensor:
    """(height, width, 3) as a tensor (3, height, width) that shares no memory with a decoder's buffer."""
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))


def rewound(source: str | bytes | BinaryIO) -> str | BinaryIO:
    """The source, ready to be opened again from its first byte."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str):
        source.seek(0)
    return source
