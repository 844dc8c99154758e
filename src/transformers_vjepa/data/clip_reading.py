"""Read the frames of a video or image that a corpus has found; count, bound and report broken videos."""

import faulthandler
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import torch
from transformers.utils import logging

from ..models.vjepa.clip_sampling import ClipSampling, DecodingError
from ..models.vjepa.decoding import Backend, VideoCache, read_segments
from ..models.vjepa.media_files import read_image
from ..safety.sanitizing import log_line, without_secrets
from .corpus import EncodedClip
from .remote_reading import fetch

logger = logging.get_logger(__name__)

#: The share of broken videos is computed over this many videos, and stops a run from this many broken ones on.
BROKEN_WINDOW, MIN_BROKEN = 1000, 20
_SLOW = (
    "reading %s has taken longer than decode_timeout=%g s, and only a DataLoader worker can be stopped and replaced: "
    "if the process hangs, stop it, and use workers or leave the video out"
)
#: What a broken video raises. Any other error is a bug and stops the run at once.
BROKEN_VIDEO_ERRORS = (DecodingError, OSError, pa.ArrowInvalid)


class RefusedClipError(DecodingError):
    """A clip that must not be read: `refused` of [`EncodedClip`] has the reason."""


class TooManyBrokenVideosError(RuntimeError):
    """The share of videos that cannot be read or decoded is above the bound."""


@dataclass(frozen=True)
class Decoding:
    """
    How videos are decoded, and how many of them may be broken.

    Args:
        backend: see [`read_clip`].
        max_broken_share: share of broken videos among the last `BROKEN_WINDOW` that a worker tried, above which the
            run stops; in [0, 1).
        timeout: seconds to find and read one video (`--decode_timeout`); 0 for no limit. The worker of a
            [`ClipLoader`] that takes longer is replaced, and the video is skipped as a broken one. Without a
            `ClipLoader` a warning names the video.
        cache_bytes: size of the decoded videos that each worker keeps, see [`VideoCache`].

    Raises:
        ValueError: a value out of range.
    """

    backend: Backend = "pyav"
    max_broken_share: float = 0.05
    timeout: float = 60.0
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        check_broken_share(self.max_broken_share)
        for name, value in (("decode_timeout", self.timeout), ("cache_bytes", self.cache_bytes)):
            if value < 0:
                raise ValueError(f"{name}={value} must be at least 0")


class BrokenVideoMonitor:
    """
    Counts and logs the broken videos among the last `BROKEN_WINDOW` that this process tried. From `MIN_BROKEN`
    broken videos in the window on, a share above `max_share` raises `TooManyBrokenVideosError`. `kind` is what the
    messages call them: a model of single images reads images, as a rule.
    """

    def __init__(self, max_share: float, *, kind: Literal["video", "image"] = "video") -> None:
        self._max_share, self._kind = max_share, kind
        self._broken: deque[bool] = deque(maxlen=BROKEN_WINDOW)
        self._examples: deque[str] = deque(maxlen=3)

    def succeeded(self) -> None:
        self._broken.append(False)

    def failed(self, path: str, error: Exception | str) -> None:
        """Note that `path` is broken. `error` is the error, or the text that `describe_error` made of the error."""
        reason = error if isinstance(error, str) else describe_error(error)
        example = log_line(f"{path} ({reason})")
        logger.warning("skipped a broken %s: %s", self._kind, example)
        self._broken.append(True)
        self._examples.append(example)
        failures = sum(self._broken)
        if failures >= MIN_BROKEN and failures > self._max_share * len(self._broken):
            raise TooManyBrokenVideosError(
                f"{failures} of the last {len(self._broken)} {self._kind}s are broken "
                f"({failures / len(self._broken):.1%}), more than max_broken_share={self._max_share:.1%}; the last "
                f"ones: {'; '.join(self._examples)}. Repair or drop them, or raise max_broken_share"
            ) from (None if isinstance(error, str) else error)


class Reading(NamedTuple):
    """What a process was reading when the process ended."""

    #: The video; empty between two videos.
    name: str
    #: The call stack at the time limit of the video; empty if the process ended earlier.
    traceback: str


class ReadingWatch:
    """
    Bounds the time that this process takes to find, open and decode a video.

    In a worker of a `ClipLoader` (that is, with `notes`) the time limit ends the process, because nothing else ends a
    decoder that hangs in C. The loader learns the name of the video from a note. In any other process the time limit
    only logs a warning.

    Args:
        timeout: seconds; 0 for no limit.
        notes: folder in which the process notes which video it reads.
        unreadable: videos whose reading has ended a process before, and why.
    """

    def __init__(
        self, timeout: float, *, notes: str | None = None, unreadable: Mapping[str, str] | None = None
    ) -> None:
        self._timeout = timeout
        self._unreadable = unreadable or {}
        # Unbuffered and in append mode, because faulthandler writes to the file after the name.
        self._note = None if notes is None else open(_note(notes, os.getpid()), "ab", buffering=0)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """
        Use this context to read the video `name`.

        Raises:
            DecodingError: the reading of this video has ended a process before.
        """
        if name in self._unreadable:
            raise DecodingError(name, self._unreadable[name])
        with ExitStack() as end:
            if self._note is not None:
                self._note.write(os.fsencode(name) + b"\0")
                end.callback(self._note.truncate, 0)
                if self._timeout:
                    faulthandler.dump_traceback_later(self._timeout, exit=True, file=self._note)
                    end.callback(faulthandler.cancel_dump_traceback_later)
            elif self._timeout:
                timer = threading.Timer(self._timeout, logger.warning, (_SLOW, log_line(name), self._timeout))
                timer.daemon = True
                timer.start()
                end.callback(timer.cancel)
            yield


def last_reading(notes: str, pid: int) -> Reading:
    """The last note that the process `pid` wrote with a [`ReadingWatch`] before it ended."""
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
    reason = error.reason if isinstance(error, DecodingError) else error  # its text repeats the path
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
    Read the frames of a clip, or of several segments of a video (see [`read_segments`]). A URL is fetched in up to 5
    tries; `seed` determines the waiting times between the tries.

    Returns:
        uint8 (num_segments, frames, 3, height, width). An image is returned once, as (1, 1, 3, height, width): crop
        the image first, then repeat it.

    Raises:
        DecodingError, OSError: the video or image is broken.
    """
    data = clip.data
    if clip.refused:
        raise RefusedClipError(clip.path, clip.refused)
    if not data:
        raise OSError(f"{clip.path} is empty")
    if isinstance(data, str) and "://" in data:
        data = fetch(data, seed=seed)
    if clip.is_image:
        if isinstance(data, str) and not os.path.isfile(data):
            raise FileNotFoundError(f"{clip.path} is not a regular file")
        # The channels stay last in memory, as decoders deliver frames.
        return torch.from_numpy(read_image(data, clip.path)).permute(2, 0, 1)[None, None]
    return read_segments(
        data, num_segments=num_segments, sampling=sampling, generator=generator, backend=backend, cache=cache
    )
