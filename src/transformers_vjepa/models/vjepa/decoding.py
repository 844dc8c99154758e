"""
From a video to the frames of a clip, as uint8 RGB.

A video is a path, bytes, a seekable file object, or a folder of images ordered by name. The default decoder is PyAV:
its wheels contain FFmpeg (torchcodec needs it on the system), it is maintained (decord's last release is of 2021, with
wheels for x86-64 only), about as fast as torchcodec and faster than decord, and it reports damaged frames. All three
return the same bytes for files with a valid container; `Backend` lists the other differences.

Decoding runs on one thread: data-loader workers provide the parallelism. Every function opens, reads and closes its
video within the call, so no decoder crosses a fork. Frames have the size and rotation that the file asks for; pixels
that are not square stay as stored. No decoder notices damage that leaves a decodable bit stream.
"""

import bisect
import io
import itertools
import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from .clip_sampling import (
    ClipSampling,
    CorruptVideoError,
    DecodingError,
    NoVideoStreamError,
    TooShortVideoError,
    plan_clips,
    segment_places,
)
from .media_files import (
    IMAGE_EXTENSIONS,
    MAX_PIXELS,
    UNREADABLE_EXTENSIONS,
    extension,
    open_container,
    over_white,
    read_image,
)

VideoSource = str | os.PathLike | bytes | BinaryIO

#: The decoders and their differences:
#: - `pyav` refuses damaged frames; the others return the damaged result.
#: - `torchcodec` returns the same bytes as `pyav` for every file that both read, but its indices are off by one or two
#:   in AVI files with B-frames, which store no times.
#: - `decord` cannot read AV1, GIF, files without a duration and videos of one pixel (named errors). Its older FFmpeg
#:   interpolates the colours of odd-sized frames differently (up to 18 grey levels, 0.4 in the mean) and rounds a few
#:   MPEG-4 blocks differently (up to 2). If a header promises too many frames, it repeats the last one. In AVI files
#:   with B-frames its indices depend on the first frame that it reads. Its threads read ahead, so for a damaged file
#:   it sometimes also refuses frames before the damage.
#: - `decord` and `torchcodec` use their own FFmpeg, without the limits of `media_files.py`. PyAV opens the file first
#:   and refuses playlists. For untrusted files this is a weaker protection than reading with PyAV.
#: - For short Matroska files that do not store the duration of the last frame, the mean rate behind `target_fps` and
#:   `duration` is a few per cent off in `torchcodec`.
Backend = Literal["pyav", "decord", "torchcodec"]

# Headers may promise one or two frames too many. PyAV reports the true number at once; torchcodec does not, so its
# clips are planned again for every missing frame.
_MAX_PLANS = 6


@dataclass(frozen=True)
class VideoInfo:
    """
    Properties of a video that are known without decoding all of it.

    Args:
        num_frames (`int`): frames in the container; in some files, one or two of them do not decode.
        fps (`float`, *optional*): mean frames per second; `None` for a folder of images or a single frame.
        width (`int`): pixels, after rotation.
        height (`int`): pixels, after rotation.
    """

    num_frames: int
    fps: float | None
    width: int
    height: int


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
    decoder fails, a clip that lies before the failure is returned, and any other clip is refused.

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
        CorruptVideoError: the source is not a video, or its clip does not decode.
        DecodingError: the file does not exist, or `sampling` needs a frame rate and there is none.
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
        height, width = video.read([0])[0].shape[1:]
        return VideoInfo(num_frames=video.num_frames, fps=video.fps, width=width, height=height)


# Reading what was planned -------------------------------------------------------------------------------


class _Video(AbstractContextManager):
    """An open video, which closes at the end of a `with` block."""

    name: str
    num_frames: int
    fps: float | None
    _decoder: Any = None

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """The frames with these ascending indices: uint8 (3, height, width)."""
        if indices[-1] >= self.num_frames:
            raise _beyond_the_end(self.name, indices[-1], self.num_frames)
        return self._read(indices)

    @abstractmethod
    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """As `read`, for indices below `num_frames`."""

    def close(self) -> None:
        self._decoder = None  # the last reference to it, and so to the file

    def __exit__(self, *exception: object) -> None:
        self.close()


def _read_planned(video: _Video, *, sampling: ClipSampling | None, places: Sequence[float]) -> torch.Tensor:
    """A clip for each place; the clips are planned again if fewer frames decode than the container promises."""
    sampling = ClipSampling() if sampling is None else sampling
    total = video.num_frames
    for _ in range(_MAX_PLANS):
        clips = plan_clips(total, sampling=sampling, places=places, fps=video.fps, name=video.name)
        try:
            frames = _gather(video, [index for clip in clips for index in clip])
        except TooShortVideoError as error:
            total = min(error.num_frames, total - 1)
        else:
            return frames.unflatten(0, (len(clips), -1))
    raise CorruptVideoError(video.name, f"the number of its frames changes with every reading (now {total})")


def _gather(video: _Video, indices: list[int]) -> torch.Tensor:
    frames = video.read(sorted(set(indices)))
    sizes = sorted({tuple(frame.shape[1:]) for frame in frames.values()})
    if len(sizes) > 1:
        raise CorruptVideoError(video.name, f"the size of its frames changes: {sizes} (height, width)")
    return torch.stack([frames[index] for index in indices])


def _open(source: VideoSource, *, backend: Backend) -> _Video:
    """The video, opened with the backend; a folder of images needs none."""
    if backend not in _BACKENDS:
        raise ValueError(f"`backend`={backend!r} must be one of {', '.join(get_args(Backend))}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _BACKENDS[backend](bytes(source), f"<{len(source)} bytes>")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _ImageFolder(path)
        if not path.is_file():  # opening a FIFO would wait for a writer
            raise DecodingError(str(path), "it is not a regular file" if path.exists() else "there is no such file")
        # Absolute: in a relative path FFmpeg takes the part before a colon for a protocol.
        return _BACKENDS[backend](os.path.abspath(path), str(path))
    if not hasattr(source, "read") or not hasattr(source, "seek"):
        raise TypeError(f"`source` is a {type(source).__name__}: pass a path, bytes or a seekable file object")
    return _BACKENDS[backend](source, str(getattr(source, "name", f"<{type(source).__name__}>")))


def _rewound(source: str | bytes | BinaryIO) -> str | BinaryIO:
    """The source, ready to be opened again from its first byte."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str):
        source.seek(0)
    return source


def _screened(source: str | bytes | BinaryIO, name: str) -> str | BinaryIO:
    """The source for decoders without a list of safe formats: PyAV opens it first, and refuses playlists."""
    open_container(_rewound(source), name).close()
    return _rewound(source)


# Keeping decoded videos ---------------------------------------------------------------------------------


class _DecodedVideo(_Video):
    """All frames of a video, uint8 (frames, 3, height, width)."""

    def __init__(self, name: str, fps: float | None, frames: torch.Tensor) -> None:
        self.name, self.fps, self.frames, self.num_frames = name, fps, frames, len(frames)

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        return {index: self.frames[index] for index in indices}


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

    def open(self, source: VideoSource, *, backend: Backend) -> _Video:
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
        video.close()
        self._room -= frames.numel()
        self._videos[name] = _DecodedVideo(video.name, video.fps, frames)
        return self._videos[name]


# PyAV ---------------------------------------------------------------------------------------------------


class _Mark(NamedTuple):
    """Times of a packet, in units of the stream (`pts`: display, `dts`: decoding), and its flags."""

    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_discard: bool


class _Timeline:
    """
    The frames of a stream in display order, from the times of its packets. The packets are in decoding order, and none
    is decoded:

        position (decoding order)   0     1     2     3        a frame per packet
        time                        0  1024   512  1536
        index (display order)       0     2     1     3
    """

    def __init__(self, marks: list[_Mark]) -> None:
        self.position = {mark.pts: position for position, mark in enumerate(marks)}
        self._keyframes = [mark for mark in marks if mark.is_keyframe]
        self._keyframe_positions = [self.position[mark.pts] for mark in self._keyframes]
        # Packets before the first keyframe have no reference and are not displayed. Edit lists mark further packets
        # that are decoded but not displayed.
        head = self._keyframe_positions[0] if self._keyframes else len(marks)
        self.times = sorted(m.pts for m in marks[head:] if not m.is_discard and m.pts >= marks[head].pts)

    def runs(self, times: Iterable[int]) -> list[tuple[_Mark, set[int]]]:
        """Splits ascending times into runs. Each run is decoded in one pass, from its keyframe on."""
        runs: list[tuple[_Mark, set[int]]] = []
        last = -1
        for time in times:
            keyframe = self._keyframe_for(time)
            if self.position[keyframe.pts] > last:
                runs.append((keyframe, set()))
            runs[-1][1].add(time)
            last = max(last, self.position[time])
        return runs

    def _keyframe_for(self, time: int) -> _Mark:
        """The last keyframe from which decoding reaches the frame displayed at `time`."""
        at = bisect.bisect_right(self._keyframe_positions, self.position[time]) - 1
        # A B-frame that is decoded after a keyframe but displayed before it may need the group before.
        while at > 0 and self._keyframes[at].pts > time:
            at -= 1
        return self._keyframes[at]


class _PyAVVideo(_Video):
    """Decodes from the keyframe before the wanted frames if the times are reliable, otherwise from the start."""

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        self.name = name
        self._source = source
        self._to_rgb = VideoReformatter()  # reuses its conversion tables for all frames
        self._open()
        try:
            marks = self._scan()
            self._timeline = self._reliable_timeline(marks)
        except BaseException:  # also an interrupt must not leave the file open
            self.close()
            raise
        times = sorted(mark.pts for mark in marks if mark.pts is not None)
        if self._timeline is not None:
            times = self._timeline.times
        self.num_frames = len(marks) if self._timeline is None else len(times)
        self.fps = self._mean_rate(times)

    def close(self) -> None:
        self._container.close()

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        # Without a timeline, `num_frames` counts packets: the end is known after decoding only.
        return self._read_counting(indices) if self._timeline is None else super().read(indices)

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        times = [self._timeline.times[index] for index in indices]
        found = self._read_at(times)
        if len(found) == len(times):
            return {index: found[time] for index, time in zip(indices, times, strict=True)}
        # Seeking failed or packets were dropped: decode from the start and count frames.
        return self._read_counting(indices)

    def _open(self) -> None:
        self._container = open_container(_rewound(self._source), self.name)
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            self.close()
            if not streams:
                raise NoVideoStreamError(self.name, "the file has no video stream")
            raise CorruptVideoError(self.name, "FFmpeg has no decoder for its video stream")
        self._stream = streams[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}
        if self._codec.width * self._codec.height > MAX_PIXELS:
            self.close()
            size = f"{self._codec.width}x{self._codec.height}"
            raise CorruptVideoError(self.name, f"its frames of {size} pixels are larger than {MAX_PIXELS} pixels")

    def _packets(self) -> Iterator[av.Packet]:
        for packet in self._container.demux(self._stream):
            # A packet without bytes marks the end of the file. A corrupt packet is truncated: the file ends there.
            if packet.size == 0 or packet.is_corrupt:
                return
            yield packet

    def _scan(self) -> list[_Mark]:
        marks = []
        try:
            for packet in self._packets():
                marks.append(_Mark(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except av.FFmpegError as error:
            # The clip may lie before the damage.
            if not marks:
                raise CorruptVideoError(self.name, f"no packet of it is readable ({error.strerror})") from error
        return marks

    def _reliable_timeline(self, marks: list[_Mark]) -> _Timeline | None:
        """The timeline, or `None` if the times in the container do not identify frames."""
        if self._container.format.name == "avi" and self._codec.has_b_frames:
            return None
        if self._codec.codec.canonical_name == "vp8":  # has packets that are never displayed
            return None
        distinct = {mark.pts for mark in marks}
        if None in distinct or len(distinct) < len(marks):
            return None
        timeline = _Timeline(marks)
        return timeline if timeline.times else None

    def _mean_rate(self, times: list[int]) -> float | None:
        # The rate in the header is not reliable: some Matroska files claim 1000 frames per second.
        if len(times) > 1 and times[-1] > times[0]:
            return float((len(times) - 1) / ((times[-1] - times[0]) * self._stream.time_base))
        rate = self._stream.guessed_rate
        return float(rate) if rate else None

    def _read_at(self, times: list[int]) -> dict[int, torch.Tensor]:
        """The frames displayed at these times. Frames are missing if seeking fails or packets are dropped."""
        found: dict[int, torch.Tensor] = {}
        for keyframe, wanted in self._timeline.runs(times):
            packets = self._seek(keyframe)
            if packets is None:
                break
            error = self._decode_run(packets, wanted, found)
            missing = wanted - found.keys()
            if error is not None and missing:
                index = self._timeline.times.index(min(missing))
                raise self._damaged(f"frame {index} does not decode ({error.strerror})") from error
        return found

    def _seek(self, keyframe: _Mark) -> Iterator[av.Packet] | None:
        """The packets from `keyframe` on, or `None` if seeking fails."""
        position = self._timeline.position
        target = position[keyframe.pts]
        # Containers seek by PTS or by DTS. Landing before the keyframe is fine, landing after it is not.
        for time in {keyframe.pts, keyframe.dts} - {None}:
            try:
                self._container.seek(time, stream=self._stream)
                packets = self._packets()
                for packet in packets:
                    at = position.get(packet.pts, len(position))
                    if at == target:
                        return itertools.chain([packet], packets)
                    if at > target:
                        break
            except av.FFmpegError:
                continue
        return None

    def _decode_run(
        self, packets: Iterator[av.Packet], wanted: set[int], found: dict[int, torch.Tensor]
    ) -> av.FFmpegError | None:
        """Adds the `wanted` frames to `found`, and returns the error that stopped decoding early, if any."""
        position = self._timeline.position
        last = max(position[time] for time in wanted)
        # In H.264 no frame depends on a non-reference frame (nal_ref_idc 0): skipping those outside of the clip
        # changes no other frame. HEVC guarantees this only within a temporal layer.
        can_skip = self._codec.name == "h264"
        self._codec.flush_buffers()
        error = None
        try:
            for packet in packets:
                if can_skip:
                    self._codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                self._keep(self._codec.decode(packet), wanted, found)
                if position.get(packet.pts, last) >= last:
                    break
        except av.FFmpegError as failure:
            error = failure
        try:
            # The decoder still holds frames: flushing it is cheaper than sending more packets.
            self._keep(self._codec.decode(None), wanted, found)
        except av.FFmpegError as failure:
            error = error or failure
        return error

    def _keep(self, frames: Iterable[av.VideoFrame], wanted: set[int], found: dict[int, torch.Tensor]) -> None:
        for frame in frames:
            if frame.is_corrupt and not wanted <= found.keys():
                # Damage spreads to every later frame of the group, and the result still looks like an image.
                raise self._damaged("a frame that the clip may depend on is damaged")
            if frame.pts in wanted:
                found[frame.pts] = self._to_tensor(frame)

    def _read_counting(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """The frames with these indices, counted from the start of the file in the order of the decoder."""
        self.close()
        self._open()
        wanted, found, count = set(indices), {}, 0
        try:
            for packet in itertools.chain(self._packets(), [None]):
                for frame in self._codec.decode(packet):
                    if frame.is_corrupt:
                        raise self._damaged(f"frame {count} is damaged")
                    if count in wanted:
                        found[count] = self._to_tensor(frame)
                        if len(found) == len(wanted):
                            return found
                    count += 1
        except av.FFmpegError as error:
            raise self._damaged(f"decoding fails after {count} frames ({error.strerror})") from error
        if count == 0:
            raise CorruptVideoError(self.name, "none of its frames decodes")
        raise _beyond_the_end(self.name, indices[-1], count)

    def _damaged(self, reason: str) -> CorruptVideoError:
        return CorruptVideoError(self.name, f"{reason}: encode the file again or leave it out")

    def _to_tensor(self, frame: av.VideoFrame) -> torch.Tensor:
        # Bicubic, as in torchcodec; it only matters for the colour planes of odd-sized frames.
        rgb = self._to_rgb.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        if frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components):
            rgba = frame.reformat(format="rgba", interpolation="BICUBIC").to_ndarray()
            rgb = rgb if rgba[..., 3].min() == 255 else over_white(rgba)
        # The display matrix gives the rotation in degrees, counter-clockwise.
        return _channels_first(np.rot90(rgb, k=round(frame.rotation / 90) % 4))


# decord and torchcodec ----------------------------------------------------------------------------------


class _DecordVideo(_Video):
    """Takes the number of frames from the header. decord applies the rotation."""

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        try:
            import decord
        except ImportError as error:
            raise ImportError(_MISSING.format("decord")) from error
        self.name = name
        self._errors = (decord.DECORDError, RuntimeError)
        try:
            self._decoder = decord.VideoReader(_screened(source, name), num_threads=1)
        except self._errors as error:
            if "cannot find video stream" in str(error):
                raise NoVideoStreamError(name, "decord finds no video stream that it knows; " + _TRY_PYAV) from error
            raise CorruptVideoError(name, "decord cannot open it; " + _TRY_PYAV) from error
        self.num_frames = len(self._decoder)
        first, last = self._decoder.get_frame_timestamp([0, self.num_frames - 1])[:, 0]
        self.fps = float((self.num_frames - 1) / (last - first) if last > first else self._decoder.get_avg_fps())

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        try:
            batch = self._decoder.get_batch(indices).asnumpy()
        except self._errors as error:
            raise CorruptVideoError(self.name, f"decord cannot decode the frames {indices}") from error
        if batch.shape[-1] != 3:
            raise CorruptVideoError(self.name, f"decord returns frames of shape {batch.shape[1:]}; " + _TRY_PYAV)
        return {index: _channels_first(frame) for index, frame in zip(indices, batch, strict=True)}


class _TorchCodecVideo(_Video):
    """Scans all packets when it opens the file, as `_PyAVVideo`. torchcodec applies the rotation."""

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        # torchcodec loads FFmpeg at import or at first use, depending on its version.
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError) as error:
            raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
        self.name = name
        screened = _screened(source, name)
        try:
            self._decoder = VideoDecoder(screened, num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
            if "video stream" in str(error):
                raise NoVideoStreamError(name, "torchcodec finds no video stream in it") from error
            raise CorruptVideoError(name, "torchcodec cannot open it") from error
        self.num_frames = len(self._decoder)
        self.fps = self._decoder.metadata.average_fps

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        try:
            batch = self._decoder.get_frames_at(indices).data
        except RuntimeError as error:
            if "no more frames" in str(error):
                # The error does not contain the number of frames.
                raise _beyond_the_end(self.name, indices[-1], indices[-1]) from error
            raise CorruptVideoError(self.name, f"torchcodec cannot decode the frames {indices}") from error
        return dict(zip(indices, batch, strict=True))


# Folders ------------------------------------------------------------------------------------------------


class _ImageFolder(_Video):
    """Frames saved as images, in the natural order of their names."""

    fps = None

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
        return {index: _channels_first(read_image(self._images[index], self.name)) for index in indices}


# Small parts shared by the readers ----------------------------------------------------------------------

_MISSING = "backend '{0}' is not installed: pip install transformers_vjepa[{0}], or use the default backend='pyav'"
_NEEDS_FFMPEG = "; torchcodec also needs FFmpeg's shared libraries on the system and a matching torch"
_TRY_PYAV = "try the default backend='pyav'"
_BACKENDS: dict[str, Callable[[Any, str], _Video]] = {
    "pyav": _PyAVVideo,
    "decord": _DecordVideo,
    "torchcodec": _TorchCodecVideo,
}


def natural_order(name: str) -> list[str | int]:
    """Sort key that compares numbers in names by value: `seq2` before `seq10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _channels_first(rgb: np.ndarray) -> torch.Tensor:
    """(height, width, 3) as a tensor (3, height, width) that shares no memory with a decoder's buffer."""
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))


def _beyond_the_end(name: str, index: int, total: int) -> TooShortVideoError:
    return TooShortVideoError(name, f"frame {index} is beyond its {total} frames: ask for less than {total}", total)
