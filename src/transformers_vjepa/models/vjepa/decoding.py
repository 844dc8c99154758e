"""
From a video to the frames of a clip, as uint8 RGB.

A video is a path, bytes, a seekable file object, or a folder of pictures ordered by name. Three decoders
stand behind one small interface. The default is PyAV: its wheels carry their own FFmpeg, so it needs no
system package (torchcodec needs FFmpeg's shared libraries), it is maintained (decord's last release is of
2021, with wheels for x86-64 only), it is about as fast as torchcodec and faster than decord, and it shows
which frames are damaged. All three give the same bytes on files whose container is sane; what differs
otherwise is said at `Backend`.

Decoding runs on one thread: data-loader workers are the parallelism. Every function opens, reads and closes
its video within the call, so no decoder is ever carried across a fork. Pictures come out in the size and with
the rotation the file asks for; pixels that are not square stay as they are stored. Damage that leaves a
decodable bit stream (random bytes in a small picture, say) is seen by no decoder.
"""

import bisect
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, get_args

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
from .media_files import MAX_PIXELS, open_container, read_image

VideoSource = str | os.PathLike | bytes | BinaryIO

#: The decoders, and where they differ:
#: - `pyav` refuses damaged frames; the others return what the decoder made of them.
#: - `torchcodec` gives the same bytes as `pyav` on every file that both read, but its indices are off by one
#:   or two in AVI files with B-frames, which store no times.
#: - `decord` reads no AV1, no GIF, no file without a duration and no picture of one pixel (named errors). Its
#:   older FFmpeg interpolates the colour of odd-sized pictures differently (up to 18 grey levels, 0.4 in the
#:   mean) and rounds a few MPEG-4 blocks differently (up to 2). It repeats the last frame where a header
#:   promises too many, and in AVI files with B-frames its indices depend on where it starts. It reads ahead in
#:   threads: of a damaged file it may refuse frames that stand before the damage, or not, as it happens.
#: - `decord` and `torchcodec` read what PyAV has opened before, which takes no playlists (`opening.py`); their own
#:   FFmpeg has no such bound. For files of strangers that is the weaker protection.
#: - The mean rate behind `target_fps` and `duration` is a few per cent off in `torchcodec` for short Matroska
#:   files that do not store how long the last frame lasts.
Backend = Literal["pyav", "decord", "torchcodec"]

_PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Headers promise one or two frames too many. PyAV counts them at once, torchcodec leads there one by one.
_MAX_PLANS = 6


@dataclass(frozen=True)
class VideoInfo:
    """
    What is known of a video without decoding it whole.

    Args:
        num_frames (`int`): frames that the container holds; of some files one or two do not decode.
        fps (`float`, *optional*): mean frames per second; `None` for a folder of pictures or a single frame.
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
    One clip of a video.

    Where the container promises more frames than decode, the clip is placed anew among those that do. Where
    the decoder fails, a clip that lies before the failure is returned and any other is refused.

    Args:
        source: path of a file or a folder of pictures, bytes, or a seekable binary file object.
        sampling: which frames; by default 16, every fourth.
        generator: draws the start, all starts equally likely, with one number whatever the video. `None`
            takes the middle of the video.
        backend: the decoder. A folder of pictures is read without one.

    Returns:
        uint8 tensor (num_frames, 3, height, width), RGB, rotated as the file says to show it.

    Raises:
        NoVideoStreamError: there is nothing to see.
        TooShortVideoError: fewer frames than `sampling` accepts.
        CorruptVideoError: not a video, or one whose clip does not decode.
        DecodingError: no such file, or no frame rate where `sampling` needs one.
        ImportError: the backend is not installed.
    """
    place = 0.5 if generator is None else torch.rand((), generator=generator).item()
    with _open(source, backend=backend) as video:
        return _read_planned(video, sampling=sampling, places=[place])[0]


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
    Clips spread evenly over a video, for the frozen evaluation: the first starts with the first frame, the
    last ends with the last frame, and one alone is the middle clip; in a short video they overlap. With a
    `generator` the possible starts are divided into as many equal parts, and each part gives one start at random
    (for training). A frame is decoded once; with a `cache`, once for all calls. Otherwise as `read_clip`.

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
    The frames with these indices, counted from 0 in the order they are shown; any order, repeats allowed.

    Returns:
        uint8 tensor (len(indices), 3, height, width), as in `read_clip`.

    Raises:
        ValueError: no index, or a negative one.
        TooShortVideoError: an index at or beyond the end.
        DecodingError: see `read_clip`.
    """
    if len(indices) == 0 or min(indices) < 0:
        raise ValueError(f"`indices`={list(indices)} must be at least one number, none below 0")
    with _open(source, backend=backend) as video:
        return _gather(video, [int(index) for index in indices])


def probe_video(source: VideoSource, *, backend: Backend = "pyav") -> VideoInfo:
    """Length, rate and shown size of a video. Decodes one frame; a broken file raises as in `read_clip`."""
    with _open(source, backend=backend) as video:
        height, width = video.read([0])[0].shape[1:]
        return VideoInfo(num_frames=video.num_frames, fps=video.fps, width=width, height=height)


# Reading what was planned -------------------------------------------------------------------------------


class _Video(Protocol):
    """An open video. `read` takes ascending indices and returns uint8 tensors (3, height, width) by index."""

    name: str
    num_frames: int
    fps: float | None

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]: ...

    def __enter__(self) -> "_Video": ...

    def __exit__(self, *exception: object) -> None: ...


def _read_planned(video: _Video, *, sampling: ClipSampling | None, places: Sequence[float]) -> torch.Tensor:
    """A clip for each place, planned anew when fewer frames decode than the container promises."""
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
    raise CorruptVideoError(video.name, f"the number of frames changes at every reading, last {total}")


def _gather(video: _Video, indices: list[int]) -> torch.Tensor:
    frames = video.read(sorted(set(indices)))
    sizes = sorted({tuple(frame.shape[1:]) for frame in frames.values()})
    if len(sizes) > 1:
        raise CorruptVideoError(video.name, f"the size of its frames changes: {sizes} (height, width)")
    return torch.stack([frames[index] for index in indices])


def _open(source: VideoSource, *, backend: Backend) -> _Video:
    """The video opened with its backend: a folder has its own."""
    if backend not in _BACKENDS:
        raise ValueError(f"`backend`={backend!r} must be one of {', '.join(get_args(Backend))}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _BACKENDS[backend](bytes(source), f"<{len(source)} bytes>")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _ImageFolder(path)
        if not path.is_file():  # a FIFO, say, could not be opened before something writes to it
            raise DecodingError(str(path), "it is no regular file" if path.exists() else "there is no such file")
        # Absolute, or FFmpeg takes what is before a colon for a protocol.
        return _BACKENDS[backend](os.path.abspath(path), str(path))
    if not hasattr(source, "read") or not hasattr(source, "seek"):
        raise TypeError(f"`source` is a {type(source).__name__}: give a path, bytes or a seekable file object")
    return _BACKENDS[backend](source, str(getattr(source, "name", f"<{type(source).__name__}>")))


def _rewound(source: str | bytes | BinaryIO) -> str | BinaryIO:
    """The source for one more opening, from its first byte."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str):
        source.seek(0)
    return source


def _screened(source: str | bytes | BinaryIO, name: str) -> str | BinaryIO:
    """The source for a decoder that cannot be told what not to open: PyAV has opened it, and found no playlist."""
    open_container(_rewound(source), name).close()
    return _rewound(source)


# Keeping decoded videos ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DecodedVideo:
    """All frames of a video, uint8 (frames, 3, height, width)."""

    name: str
    fps: float | None
    frames: torch.Tensor

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def __enter__(self) -> "_DecodedVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        if indices[-1] >= self.num_frames:
            raise _beyond_the_end(self.name, indices[-1], self.num_frames)
        return {index: self.frames[index] for index in indices}


class VideoCache:
    """
    The decoded frames of the first videos that this process reads, for small corpora of short videos that are read
    again and again: opening and decoding costs more there than all the rest. The frames are the same.

    A video is kept whole or not at all. Those that have no room, are damaged somewhere, or are no files are read as
    ever. Nothing is ever dropped: in random order the next video to be read may be any.

    Args:
        max_bytes: at 3 bytes per pixel.
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
            decoded = self._decode(video)
        except DecodingError:  # the frames that are wanted may be sound all the same
            decoded = None
        if decoded is None:
            self._refused.add(name)
            return video
        video.__exit__(None, None, None)
        self._room -= decoded.frames.numel()
        self._videos[name] = decoded
        return decoded

    def _decode(self, video: _Video) -> _DecodedVideo | None:
        if video.num_frames * video.read([0])[0].numel() > self._room:
            return None
        return _DecodedVideo(video.name, video.fps, _gather(video, list(range(video.num_frames))))


# PyAV ---------------------------------------------------------------------------------------------------


class _Mark(NamedTuple):
    """What is kept of a packet: times in units of the stream (`pts` shown, `dts` decoded) and flags."""

    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_discard: bool


class _Timeline:
    """
    The frames of a stream in the order they are shown, read off the times of its packets (which are in the
    order they are decoded) without decoding any:

        position (decoding order)   0     1     2     3        a frame per packet
        time                        0  1024   512  1536
        index (order shown)         0     2     1     3
    """

    def __init__(self, marks: list[_Mark]) -> None:
        self.position = {mark.pts: position for position, mark in enumerate(marks)}
        self._keyframes = [mark for mark in marks if mark.is_keyframe]
        self._keyframe_positions = [self.position[mark.pts] for mark in self._keyframes]
        # What comes before the first keyframe has no reference and is not shown; edit lists mark further
        # packets that are decoded but not shown.
        head = self._keyframe_positions[0] if self._keyframes else len(marks)
        self.times = sorted(m.pts for m in marks[head:] if not m.is_discard and m.pts >= marks[head].pts)

    def runs(self, times: Iterable[int]) -> list[tuple[_Mark, set[int]]]:
        """Splits ascending times into runs to be decoded at one go, each from its keyframe."""
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
        """The last keyframe from which decoding reaches the frame shown at `time`."""
        at = bisect.bisect_right(self._keyframe_positions, self.position[time]) - 1
        # A B-frame decoded after a keyframe but shown before it may lean on the group before.
        while at > 0 and self._keyframes[at].pts > time:
            at -= 1
        return self._keyframes[at]


class _PyAVVideo:
    """
    Decodes only from the keyframe before the wanted frames where the times in the container can be trusted,
    and counts frames from the start of the file where they cannot (AVI with B-frames, which stores no times).
    The times come from one pass over the packets, which reads the file but decodes nothing.
    """

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        self.name = name
        self._source = source
        self._to_rgb = VideoReformatter()  # keeps the conversion tables from frame to frame
        self._open()
        try:
            marks = self._scan()
            self._timeline = self._trusted_timeline(marks)
        # Whatever it was goes on; only the file must not stay open.
        except BaseException:
            self._container.close()
            raise
        times = sorted(mark.pts for mark in marks if mark.pts is not None)
        if self._timeline is not None:
            times = self._timeline.times
        self.num_frames = len(marks) if self._timeline is None else len(times)
        self.fps = self._mean_rate(times)

    def __enter__(self) -> "_PyAVVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        if self._timeline is not None:
            if indices[-1] >= self.num_frames:
                raise _beyond_the_end(self.name, indices[-1], self.num_frames)
            times = [self._timeline.times[index] for index in indices]
            found = self._read_at(times)
            if len(found) == len(times):
                return {index: found[time] for index, time in zip(indices, times, strict=True)}
            # The container did not lead there, or not every packet became a frame: count instead.
        return self._read_counting(indices)

    def _open(self) -> None:
        self._container = open_container(_rewound(self._source), self.name)
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            self._container.close()
            if not streams:
                raise NoVideoStreamError(self.name, "the file has no video stream")
            raise CorruptVideoError(self.name, "FFmpeg has no decoder for its video stream")
        self._stream = streams[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}
        if self._codec.width * self._codec.height > MAX_PIXELS:
            self._container.close()
            size = f"{self._codec.width}x{self._codec.height}"
            raise CorruptVideoError(self.name, f"its pictures of {size} pixels are larger than {MAX_PIXELS} pixels")

    def _packets(self) -> Iterator[av.Packet]:
        for packet in self._container.demux(self._stream):
            # The packet without bytes marks the end of the file; one flagged corrupt was cut off.
            if packet.size == 0 or packet.is_corrupt:
                return
            yield packet

    def _scan(self) -> list[_Mark]:
        marks = []
        try:
            for packet in self._packets():
                marks.append(_Mark(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except av.FFmpegError as error:
            # What comes before the damage may hold the clip.
            if not marks:
                raise CorruptVideoError(self.name, f"nothing in it is readable ({error.strerror})") from error
        return marks

    def _trusted_timeline(self, marks: list[_Mark]) -> _Timeline | None:
        """The timeline, or `None` where the times in the container do not name frames."""
        if self._container.format.name == "avi" and self._codec.has_b_frames:
            return None
        if self._codec.codec.canonical_name == "vp8":  # has packets that are never shown
            return None
        distinct = {mark.pts for mark in marks}
        if None in distinct or len(distinct) < len(marks):
            return None
        timeline = _Timeline(marks)
        return timeline if timeline.times else None

    def _mean_rate(self, times: list[int]) -> float | None:
        # Not the header's: Matroska files are known to claim 1000 frames per second.
        if len(times) > 1 and times[-1] > times[0]:
            return float((len(times) - 1) / ((times[-1] - times[0]) * self._stream.time_base))
        rate = self._stream.guessed_rate
        return float(rate) if rate else None

    def _read_at(self, times: list[int]) -> dict[int, torch.Tensor]:
        """The frames shown at these times, as far as the container leads to them."""
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
        """The packets from `keyframe` on, or `None` where the container does not lead there."""
        position = self._timeline.position
        target = position[keyframe.pts]
        # Containers seek by the one or by the other. Landing early is fine, landing late is not.
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
        """Adds the `wanted` frames to `found`, and returns the error that cut decoding short, if any."""
        position = self._timeline.position
        last = max(position[time] for time in wanted)
        # In H.264 no frame depends on a non-reference frame (nal_ref_idc 0), so leaving out those that the
        # clip does not want changes no other. HEVC promises that only within a temporal layer.
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
            # Frames wait in the decoder for their turn: emptying it is cheaper than feeding further packets.
            self._keep(self._codec.decode(None), wanted, found)
        except av.FFmpegError as failure:
            error = error or failure
        return error

    def _keep(self, frames: Iterable[av.VideoFrame], wanted: set[int], found: dict[int, torch.Tensor]) -> None:
        for frame in frames:
            if frame.is_corrupt and not wanted <= found.keys():
                # Damage spreads to every later frame of its group, and looks like a picture.
                raise self._damaged("a frame that the clip may depend on is damaged")
            if frame.pts in wanted:
                found[frame.pts] = self._to_tensor(frame)

    def _read_counting(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """The frames with these indices, counted from the start of the file as they leave the decoder."""
        self._container.close()
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
            raise CorruptVideoError(self.name, "no frame of it decodes")
        raise _beyond_the_end(self.name, indices[-1], count)

    def _damaged(self, reason: str) -> CorruptVideoError:
        return CorruptVideoError(self.name, f"{reason}: encode the file again, or leave it out")

    def _to_tensor(self, frame: av.VideoFrame) -> torch.Tensor:
        # Bicubic is what torchcodec uses; it only matters for the colour planes of odd-sized pictures.
        rgb = self._to_rgb.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        # The rotation to be shown with, counter-clockwise in degrees, from the display matrix.
        return _channels_first(np.rot90(rgb, k=round(frame.rotation / 90) % 4))


# decord and torchcodec ----------------------------------------------------------------------------------


class _DecordVideo:
    """Trusts the frame count of the header; rotates by itself."""

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        try:
            import decord
        except ImportError as error:
            raise ImportError(_MISSING.format("decord")) from error
        self.name = name
        self._errors = (decord.DECORDError, RuntimeError)
        try:
            self._reader = decord.VideoReader(_screened(source, name), num_threads=1)
        except self._errors as error:
            if "cannot find video stream" in str(error):
                raise NoVideoStreamError(name, "decord finds no video stream it knows; " + _TRY_PYAV) from error
            raise CorruptVideoError(name, "decord cannot open it; " + _TRY_PYAV) from error
        self.num_frames = len(self._reader)
        starts = self._reader.get_frame_timestamp([0, self.num_frames - 1])[:, 0]
        has_times = starts[1] > starts[0]
        self.fps = float((self.num_frames - 1) / (starts[1] - starts[0]) if has_times else self._reader.get_avg_fps())

    def __enter__(self) -> "_DecordVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        del self._reader

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        if indices[-1] >= self.num_frames:
            raise _beyond_the_end(self.name, indices[-1], self.num_frames)
        try:
            batch = self._reader.get_batch(indices).asnumpy()
        except self._errors as error:
            raise CorruptVideoError(self.name, f"decord cannot decode the frames {indices}") from error
        if batch.shape[-1] != 3:
            raise CorruptVideoError(self.name, f"decord returns a picture of {batch.shape[1:]}; " + _TRY_PYAV)
        return {index: _channels_first(frame) for index, frame in zip(indices, batch, strict=True)}


class _TorchCodecVideo:
    """Scans the file as PyAV does here; rotates by itself."""

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        # The library loads FFmpeg at import or at first use, depending on the version, and says so in both.
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError) as error:
            raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
        self.name = name
        try:
            self._decoder = VideoDecoder(_screened(source, name), num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
            if "video stream" in str(error):
                raise NoVideoStreamError(name, "torchcodec finds no video stream in it") from error
            raise CorruptVideoError(name, "torchcodec cannot open it") from error
        self.num_frames = len(self._decoder)
        self.fps = self._decoder.metadata.average_fps

    def __enter__(self) -> "_TorchCodecVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        del self._decoder

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        if indices[-1] >= self.num_frames:
            raise _beyond_the_end(self.name, indices[-1], self.num_frames)
        try:
            batch = self._decoder.get_frames_at(indices).data
        except RuntimeError as error:
            if "no more frames" in str(error):
                # It does not say how many there were.
                raise _beyond_the_end(self.name, indices[-1], indices[-1]) from error
            raise CorruptVideoError(self.name, f"torchcodec cannot decode the frames {indices}") from error
        return dict(zip(indices, batch, strict=True))


# Folders ------------------------------------------------------------------------------------------------


class _ImageFolder:
    """Frames saved as pictures, ordered by name with numbers as numbers (`2.png` before `10.png`)."""

    fps = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        pictures = [
            file for file in path.iterdir() if file.suffix.lower() in _PICTURES and not file.name.startswith(".")
        ]
        self._pictures = sorted(pictures, key=lambda file: _natural_order(file.name))
        self.num_frames = len(pictures)
        if not pictures:
            raise NoVideoStreamError(self.name, f"the folder holds no picture ({', '.join(sorted(_PICTURES))})")

    def __enter__(self) -> "_ImageFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        if indices[-1] >= self.num_frames:
            raise _beyond_the_end(self.name, indices[-1], self.num_frames)
        pictures = {index: self._pictures[index] for index in indices}
        return {index: _channels_first(read_image(path, self.name)) for index, path in pictures.items()}


# Small parts shared by the readers ----------------------------------------------------------------------

_MISSING = "backend '{0}' is not installed: pip install transformers_vjepa[{0}], or use the default backend='pyav'"
_NEEDS_FFMPEG = "; torchcodec also needs FFmpeg's shared libraries on the system and a matching torch"
_TRY_PYAV = "try the default backend='pyav'"
_BACKENDS: dict[str, Callable[[Any, str], _Video]] = {
    "pyav": _PyAVVideo,
    "decord": _DecordVideo,
    "torchcodec": _TorchCodecVideo,
}


def _natural_order(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _channels_first(rgb: np.ndarray) -> torch.Tensor:
    """(height, width, 3) to a tensor (3, height, width) that shares nothing with a decoder's buffer."""
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))


def _beyond_the_end(name: str, index: int, total: int) -> TooShortVideoError:
    reason = f"frame {index} is beyond its {total} frames: ask for less than {total}"
    return TooShortVideoError(name, reason, total)


__all__ = ["Backend", "VideoInfo", "VideoSource", "decode_frames", "probe_video", "read_clip", "read_segments"]
