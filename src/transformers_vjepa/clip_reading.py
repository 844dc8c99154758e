"""From a video or picture that a corpus has found to its frames, and what to do with those that are broken."""

import logging
from collections import deque

import fsspec
import pyarrow as pa
import torch

from .clip_sampling import ClipSampling, DecodingError
from .corpora import EncodedClip
from .decoding import Backend, VideoCache, read_segments
from .opening import read_picture
from .redaction import log_line, without_secrets

logger = logging.getLogger(__name__)

#: Videos over which the share of broken ones is taken, and the failures from which on it can stop a run.
BROKEN_WINDOW, MIN_BROKEN = 1000, 20
#: What a broken video raises. Anything else is a mistake of ours and stops the run at once.
BROKEN_VIDEO_ERRORS = (DecodingError, OSError, pa.ArrowInvalid)


class RefusedClipError(DecodingError):
    """A data set names what is not its own: a file of this machine outside of its folder."""


class TooManyBrokenVideosError(RuntimeError):
    """The share of videos that cannot be read or decoded is above the bound."""


class BrokenVideoMonitor:
    """
    Counts broken videos among the last `BROKEN_WINDOW` that this process tried, and logs each. From
    `MIN_BROKEN` failures in the window on, a share above `max_share` raises `TooManyBrokenVideosError`.
    """

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._broken: deque[bool] = deque(maxlen=BROKEN_WINDOW)
        self._examples: deque[str] = deque(maxlen=3)

    def succeeded(self) -> None:
        self._broken.append(False)

    def failed(self, path: str, error: Exception | str) -> None:
        """Note that `path` is broken; `error` is what was raised, or what `describe_error` made of it."""
        reason = error if isinstance(error, str) else describe_error(error)
        example = log_line(f"{path} ({reason})")
        logger.warning("skipped a broken video: %s", example)
        self._broken.append(True)
        self._examples.append(example)
        failures = sum(self._broken)
        if failures >= MIN_BROKEN and failures > self._max_share * len(self._broken):
            raise TooManyBrokenVideosError(
                f"{failures} of the last {len(self._broken)} videos are broken "
                f"({failures / len(self._broken):.1%}), more than max_broken_share={self._max_share:.1%}; the last "
                f"ones: {'; '.join(self._examples)}. Repair or drop them, or raise max_broken_share"
            ) from (None if isinstance(error, str) else error)


def check_broken_share(max_broken_share: float) -> None:
    """
    Raises:
        ValueError: a share outside [0, 1).
    """
    if not 0 <= max_broken_share < 1:
        raise ValueError(f"max_broken_share={max_broken_share} must lie in [0, 1)")


def describe_error(error: Exception) -> str:
    """Kind and reason of an error, without the name of the video."""
    reason = error.reason if isinstance(error, DecodingError) else error  # the rest repeats the path
    return without_secrets(f"{type(error).__name__}: {reason}")


def read_frames(
    clip: EncodedClip,
    *,
    sampling: ClipSampling,
    num_segments: int = 1,
    generator: torch.Generator | None = None,
    backend: Backend = "pyav",
    cache: VideoCache | None = None,
) -> torch.Tensor:
    """
    The frames of a clip, or of several segments of a video (see [`read_segments`]).

    Returns:
        uint8 (num_segments, frames, 3, height, width); a picture comes once, as (1, 1, 3, height, width): crop it
        first, then repeat it.

    Raises:
        DecodingError, OSError: the video or picture is broken.
    """
    data = clip.data
    if clip.refused:
        raise RefusedClipError(clip.path, clip.refused)
    if not data:
        raise OSError(f"{clip.path} is empty")
    if isinstance(data, str) and "://" in data:
        with fsspec.open(data, "rb") as file:
            data = file.read()
    if clip.is_picture:
        return _read_picture(data, name=clip.path)[None, None]
    return read_segments(
        data, num_segments=num_segments, sampling=sampling, generator=generator, backend=backend, cache=cache
    )


def _read_picture(data: str | bytes, *, name: str) -> torch.Tensor:
    """uint8 (3, height, width), channels last in memory as decoders deliver frames."""
    return torch.from_numpy(read_picture(data, name)).permute(2, 0, 1)


__all__ = [
    "BROKEN_VIDEO_ERRORS",
    "BROKEN_WINDOW",
    "MIN_BROKEN",
    "BrokenVideoMonitor",
    "RefusedClipError",
    "TooManyBrokenVideosError",
    "check_broken_share",
    "describe_error",
    "read_frames",
]
