"""From a video or picture that a corpus has found to its frames, and what to do with those that are broken."""

import faulthandler
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from ..models.vjepa.clip_sampling import ClipSampling, DecodingError
from ..models.vjepa.decoding import Backend, VideoCache, read_segments
from ..models.vjepa.media_files import read_image
from ..safety.sanitizing import log_line, without_secrets
from .corpora import EncodedClip
from .remote_reading import fetch

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


class Reading(NamedTuple):
    """What a process was reading when it ended."""

    #: The video; empty between two videos.
    name: str
    #: Where the process stood when the time for the video had run out; empty if it had not.
    traceback: str


class ReadingWatch:
    """
    Bounds the time that this process takes for a video, be it to find, to open or to decode it.

    In a worker of a `ClipLoader` (that is, with `notes`) it ends the process: nothing less ends a decoder that is
    stuck in C. The loader learns from a note which video it was. Any other process is only warned of.

    Args:
        timeout: seconds; 0 for any time.
        notes: folder in which the process notes what it is reading.
        unreadable: videos that have ended a process before, and why.
    """

    def __init__(
        self, timeout: float, *, notes: str | None = None, unreadable: Mapping[str, str] | None = None
    ) -> None:
        self._timeout = timeout
        self._unreadable = unreadable or {}
        # Unbuffered, and appending: faulthandler writes behind the name.
        self._note = None if notes is None else open(_note(notes, os.getpid()), "ab", buffering=0)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """
        Around the reading of the video `name`.

        Raises:
            DecodingError: it has ended a process before.
        """
        if name in self._unreadable:
            raise DecodingError(name, self._unreadable[name])
        if self._note is None:
            with self._warning(name):
                yield
            return
        self._note.write(os.fsencode(name) + b"\0")
        if self._timeout:
            faulthandler.dump_traceback_later(self._timeout, exit=True, file=self._note)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._note.truncate(0)

    @contextmanager
    def _warning(self, name: str) -> Iterator[None]:
        if not self._timeout:
            yield
            return
        timer = threading.Timer(
            self._timeout,
            logger.warning,
            (
                "reading %s has taken longer than decode_timeout=%g s, and only a DataLoader worker could be ended "
                "for it: if it never comes back, stop this process, and use workers or leave the video out",
                log_line(name),
                self._timeout,
            ),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def last_reading(notes: str, pid: int) -> Reading:
    """What the process `pid`, which has ended, last noted with a [`ReadingWatch`]."""
    file = _note(notes, pid)
    name, _, traceback = file.read_bytes().partition(b"\0") if file.exists() else (b"", b"", b"")
    return Reading(os.fsdecode(name), traceback.decode(errors="replace"))


def _note(notes: str, pid: int) -> Path:
    return Path(notes) / str(pid)


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
    seed: int = 0,
) -> torch.Tensor:
    """
    The frames of a clip, or of several segments of a video (see [`read_segments`]). What lies behind a URL is fetched
    in up to 5 tries; `seed` determines how long is waited between them.

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
        data = fetch(data, seed=seed)
    if clip.is_image:
        return _read_image(data, name=clip.path)[None, None]
    return read_segments(
        data, num_segments=num_segments, sampling=sampling, generator=generator, backend=backend, cache=cache
    )


def _read_image(data: str | bytes, *, name: str) -> torch.Tensor:
    """uint8 (3, height, width), channels last in memory as decoders deliver frames."""
    if isinstance(data, str) and not os.path.isfile(data):
        raise FileNotFoundError(f"{name} is no regular file")
    return torch.from_numpy(read_image(data, name)).permute(2, 0, 1)


__all__ = [
    "BROKEN_VIDEO_ERRORS",
    "BROKEN_WINDOW",
    "MIN_BROKEN",
    "BrokenVideoMonitor",
    "Reading",
    "ReadingWatch",
    "RefusedClipError",
    "TooManyBrokenVideosError",
    "check_broken_share",
    "describe_error",
    "last_reading",
    "read_frames",
]
