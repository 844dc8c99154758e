"""
From a video to the frames of a clip, as uint8 RGB.

A video is a path, bytes, a seekable file object, or a folder of images ordered by name. The default decoder is PyAV:
its wheels contain FFmpeg (torchcodec needs it on the system), it is maintained (decord's last release is of 2021, with
wheels for x86-64 only), about as fast as torchcodec and faster than decord, and it reports damaged frames. `Backend`
lists the differences.

Decoding runs on one thread: data-loader workers provide the parallelism. Every function opens, reads and closes its
video within the call, so no decoder crosses a fork. Frames have the size, rotation and reflection that the file asks
for; pixels that are not square stay as stored. No decoder notices damage that leaves a decodable bit stream.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from .clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    NoVideoStreamError,
    TooShortVideoError,
    plan_clips,
    segment_places,
)
from .media_files import IMAGE_EXTENSIONS, UNREADABLE_EXTENSIONS, extension, read_image
from .other_readers import DecordReader, TorchCodecReader
from .pyav_reader import PyAVReader
from .video_reader import VideoReader, VideoSource, channels_first, check_clip_bytes

#: The decoders. Advice: use `pyav`. The others are for comparisons.
#:
#: PyAV reads the packets of the file for all three. So they have the same stream, number of frames, times, rate and
#: limits, and refuse the same playlists. `decord` and `torchcodec` then decode with their own FFmpeg, without the
#: limits of `media_files.py`: for untrusted files a weaker protection.
#:
#: Single frames of 53 files (49 of other containers and codecs, made with FFmpeg 5.1, and 4 real ones) were compared
#: with decoding from the start. `pyav` returned the right frames of all. The others returned wrong frames, and
#: therefore refuse with the reason:
#:
#: - MPEG transport and program streams, AVI with B-frames, files without distinct times, and lost packets (both);
#: - keyframe flags that are wrong, and frames that are to be mirrored (both);
#: - groups whose frames depend on the next keyframe (HEVC and H.264 with open groups, MPEG-4 with B-frames), edit
#:   lists, and several video streams (`decord`);
#: - another number of frames than the container has (both).
#:
#: Other differences:
#:
#: - `pyav` refuses damaged frames; the others return the damaged result. Threads of `decord` read ahead, so for a
#:   damaged file it sometimes also refuses frames before the damage.
#: - Colours of 10-bit and interlaced video differ at edges (means of 1 to 7 grey levels). `torchcodec` is equal to
#:   `pyav` elsewhere. `decord` also differs for odd sizes (up to 18 grey levels, 0.4 in the mean), MPEG-4 (up to 2)
#:   and ProRes (up to 1).
#: - `decord` cannot read AV1, GIF, Theora, files without a duration, videos of one pixel and some small rotated ones
#:   (named errors). If a header promises too many frames, it repeats the last one.
Backend = Literal["pyav", "decord", "torchcodec"]

# Headers may promise one or two frames too many. PyAV reports the true number at once; torchcodec does not, so its
# clips are planned again for every missing frame.
_MAX_PLANS = 6
_READERS: dict[str, Callable[[Any, str], VideoReader]] = {
    "pyav": PyAVReader,
    "decord": DecordReader,
    "torchcodec": TorchCodecReader,
}


@dataclass(frozen=True)
class VideoInfo:
    """
    Properties of a video that are known without decoding all of it.

    Args:
        num_frames (`int`): frames in the container; in some files, one or two of them do not decode.
        fps (`float`, *optional*): mean frames per second; `None` for a folder of images, or if neither the times of
            the frames nor the header give a plausible rate ([`plausible_fps`]).
        width (`int`): pixels, after rotation.
        height (`int`): pixels, after rotation.
        lost_frames (`int`): frames that are lost, because packets are damaged or missing.
    """

    num_frames: int
    fps: float | None
    width: int
    height: int
    lost_frames: int = 0


def read_clip(
    source: VideoSource,
    *,
    sampling: ClipSampling | None = None,
    generator: torch.Generator | None = None,
    backend: Backend = "pyav",
) -> torch.Tensor:
    """
    Reads one clip of a video.

    If fewer frames decode than the container promises, the clip is placed among the frames that decode. If the
    decoder fails, a clip that lies before the failure is returned, and any other clip is refused. If packets are lost
    (in a transport stream, for example), a warning has the number of lost frames. The frames from there to the next
    keyframe keep their places, and a clip repeats the frame before them, as players do; a clip that has lost more than
    half of its frames is refused.

    Args:
        source: path of a file or of a folder of images, bytes, or a seekable binary file object.
        sampling: which frames make the clip; by default 16 frames, every fourth.
        generator: draws the start with one random number; all starts are equally likely. `None` takes the clip in
            the middle of the video.
        backend: the decoder. A folder of images needs none.

    Returns:
        uint8 tensor (num_frames, 3, height, width), RGB, with the rotation of the file applied.

    Raises:
        NoVideoStreamError: the source has no video stream or no images.
        TooShortVideoError: fewer frames than `sampling` accepts.
        CorruptVideoError: the source is not a video, its clip does not decode, or the decoded frames would take more
            than 2 GiB (`MAX_CLIP_BYTES`).
        DecodingError: the file does not exist, `sampling` needs a frame rate and there is none, or the backend would
            return wrong frames.
        ImportError: the backend is not installed.
    """
    return read_segments(source, num_segments=1, sampling=sampling, generator=generator, backend=backend)[0]


def read_segments(
    source: VideoSource,
    *,
    num_segments: int,
    sampling: ClipSampling | None = None,
    generator: torch.Generator | None = None,
    backend: Backend = "pyav",
    cache: "VideoCache | None" = None,
) -> torch.Tensor:
    """
    Reads clips spread evenly over a video, for the frozen evaluation. The first clip starts with the first frame, and
    the last clip ends with the last frame; a single clip is the middle one. In a short video the clips overlap. With a
    `generator` (for training), the possible starts are divided into `num_segments` equal parts, and one start is drawn
    from each part. Every frame is decoded once per call; with a `cache`, once for all calls. Arguments and errors are
    those of `read_clip`.

    Returns:
        uint8 tensor (num_segments, num_frames, 3, height, width).
    """
    places = segment_places(num_segments)
    if generator is not None:
        draws = torch.rand(num_segments, generator=generator).tolist()
        places = [(segment + draw) / num_segments for segment, draw in enumerate(draws)]
    with (_open if cache is None else cache.open)(source, backend=backend) as video:
        return _read_planned(video, sampling=sampling, places=places)


def decode_frames(source: VideoSource, indices: Sequence[int], *, backend: Backend = "pyav") -> torch.Tensor:
    """
    Reads the frames with these indices, which count from 0 in display order. Any order and repeats are allowed.

    Returns:
        uint8 tensor (len(indices), 3, height, width), as in `read_clip`.

    Raises:
        ValueError: no index, or a negative one.
        TooShortVideoError: an index at or beyond the end.
        DecodingError: see `read_clip`.
    """
    if len(indices) == 0 or min(indices) < 0:
        raise ValueError(f"`indices`={list(indices)} must hold at least one number, none below 0")
    with _open(source, backend=backend) as video:
        return _gather(video, [int(index) for index in indices])


def probe_video(source: VideoSource, *, backend: Backend = "pyav") -> VideoInfo:
    """Length, rate and displayed size of a video. Decodes one frame; errors are those of `read_clip`."""
    with _open(source, backend=backend) as video:
        first = video.whole_frames([0])
        height, width = video.read(first)[first[0]].shape[1:]
        return VideoInfo(
            num_frames=video.num_frames, fps=video.fps, width=width, height=height, lost_frames=video.num_lost
        )


# Reading what was planned -------------------------------------------------------------------------------


def _read_planned(video: VideoReader, *, sampling: ClipSampling | None, places: Sequence[float]) -> torch.Tensor:
    """A clip for each place; the clips are planned again if fewer frames decode than the container promises."""
    sampling = ClipSampling() if sampling is None else sampling
    total = video.num_frames
    times = None if sampling.clip_fps is None else video.times
    for _ in range(_MAX_PLANS):
        clips = plan_clips(total, sampling=sampling, places=places, fps=video.fps, times=times, name=video.name)
        clips = [_without_lost_frames(video, clip) for clip in clips]
        try:
            frames = _gather(video, [index for clip in clips for index in clip])
        except TooShortVideoError as error:
            total = min(error.num_frames, total - 1)
        else:
            return frames.unflatten(0, (len(clips), -1))
    raise CorruptVideoError(video.name, f"the number of its frames changes with every reading (now {total})")


def _without_lost_frames(video: VideoReader, clip: list[int]) -> list[int]:
    """The clip with its lost frames replaced; a clip that has lost more than half of them would be mostly a still."""
    whole = video.whole_frames(clip)
    lost = sum(index != wanted for index, wanted in zip(whole, clip, strict=True))
    if 2 * lost > len(clip):
        reason = f"{lost} of the {len(clip)} frames of a clip are lost, because packets are damaged or missing"
        raise CorruptVideoError(video.name, f"{reason}: record the video again or leave it out")
    return whole


def _gather(video: VideoReader, indices: list[int]) -> torch.Tensor:
    height, width = video.frame_size or (0, 0)
    check_clip_bytes(video.name, frames=len(indices), height=height, width=width)
    frames = video.read(sorted(set(indices)))
    sizes = sorted({tuple(frame.shape[1:]) for frame in frames.values()})
    if len(sizes) > 1:
        raise CorruptVideoError(video.name, f"the size of its frames changes: {sizes} (height, width)")
    return torch.stack([frames[index] for index in indices])


def _open(source: VideoSource, *, backend: Backend) -> VideoReader:
    """The video, opened with the backend; a folder of images needs none."""
    if backend not in _READERS:
        raise ValueError(f"`backend`={backend!r} must be one of {', '.join(get_args(Backend))}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _READERS[backend](bytes(source), f"<{len(source)} bytes>")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _ImageFolder(path)
        if not path.is_file():  # opening a FIFO would wait for a writer
            raise DecodingError(str(path), "it is not a regular file" if path.exists() else "there is no such file")
        # Absolute: in a relative path FFmpeg takes the part before a colon for a protocol.
        return _READERS[backend](os.path.abspath(path), str(path))
    if not hasattr(source, "read") or not hasattr(source, "seek"):
        raise TypeError(f"`source` is a {type(source).__name__}: pass a path, bytes or a seekable file object")
    return _READERS[backend](source, str(getattr(source, "name", f"<{type(source).__name__}>")))


# Keeping decoded videos ---------------------------------------------------------------------------------


class _DecodedVideo(VideoReader):
    """All frames of a video, uint8 (frames, 3, height, width)."""

    def __init__(self, video: VideoReader, frames: torch.Tensor) -> None:
        self.name, self.fps, self.times = video.name, video.fps, video.times
        self.frames, self.num_frames = frames, len(frames)

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        return {index: self.frames[index] for index in indices}

    def close(self) -> None:
        """The frames stay for the next reading."""


class VideoCache:
    """
    Keeps the decoded frames of the first videos that this process reads. For small corpora of short videos, which are
    read many times: there, opening and decoding is the largest cost. The frames are the same as without a cache.

    A video is kept whole or not at all. Videos that do not fit, are damaged or are not files are read without the
    cache. No video is dropped: in random order, every video is equally likely to be the next.

    Args:
        max_bytes: size of the cache; a frame takes 3 bytes per pixel.
    """

    def __init__(self, max_bytes: int) -> None:
        self._videos: dict[str, _DecodedVideo] = {}
        self._refused: set[str] = set()
        self._room = max_bytes

    def open(self, source: VideoSource, *, backend: Backend) -> VideoReader:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        if name in self._videos:
            return self._videos[name]
        video = _open(source, backend=backend)
        if name is None or name in self._refused:
            return video
        try:
            fits = video.num_frames * video.read([0])[0].numel() <= self._room
            frames = _gather(video, list(range(video.num_frames))) if fits else None
        except DecodingError:  # the frames of the clip may still decode
            frames = None
        if frames is None:
            self._refused.add(name)
            return video
        self._videos[name] = _DecodedVideo(video, frames)
        video.close()
        self._room -= frames.numel()
        return self._videos[name]


# Folders ------------------------------------------------------------------------------------------------


class _ImageFolder(VideoReader):
    """Frames saved as images, in the natural order of their names."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
        if lost := sorted(file.name for file in files if extension(file.name) in UNREADABLE_EXTENSIONS):
            raise CorruptVideoError(
                self.name, f"{len(lost)} of its frames, such as {lost[0]}, cannot be read: convert them"
            )
        images = (file for file in files if extension(file.name) in IMAGE_EXTENSIONS)
        self._images = sorted(images, key=lambda file: natural_order(file.name))
        self.num_frames = len(self._images)
        if not self._images:
            raise NoVideoStreamError(self.name, f"the folder has no images ({', '.join(sorted(IMAGE_EXTENSIONS))})")

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        found = {}
        for index in indices:
            found[index] = channels_first(read_image(self._images[index], self.name))
            height, width = found[index].shape[1:]
            check_clip_bytes(self.name, frames=len(indices), height=height, width=width)
        return found

    def close(self) -> None:
        """No file is open between two readings."""


def natural_order(name: str) -> list[str | int]:
    """Sort key that compares numbers in names by value: `seq2` before `seq10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
