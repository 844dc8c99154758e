"""Reads a video with PyAV, which contains FFmpeg."""

import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import BinaryIO

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from transformers.utils import logging

from .clip_sampling import CorruptVideoError, NoVideoStreamError, has_constant_rate, plausible_fps
from .frame_table import FrameTable, Mark
from .media_files import MAX_PIXELS, open_container, over_white
from .video_reader import VideoReader, beyond_the_end, channels_first, check_clip_bytes, rewound

logger = logging.get_logger(__name__)

# Streams of images that belong to the file, not to the video: covers and previews.
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
# Frames that need no other frame. Decoders of formats that only have such frames leave the type out.
_INTRA = (PictureType.NONE, PictureType.I, PictureType.SI, PictureType.BI)
# Formats whose clock may start again.
_RESTARTING = ("mpegts", "mpeg")


class _FalseKeyframeError(Exception):
    """The container marks a frame as a keyframe, but the frame depends on others."""


class PyAVReader(VideoReader):
    """
    Decodes from the keyframe before the wanted frames if times and keyframes of the container are reliable, otherwise
    from the start. Of several video streams it reads the one that players show; covers and previews are no video.
    """

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        self.name = name
        self._source = source
        self._to_rgb = VideoReformatter()  # reuses its conversion tables for all frames
        self._open()
        try:
            self._table = FrameTable(
                self._scan(),
                tick=float(self._stream.time_base),
                restarts=self._container.format.name in _RESTARTING,
            )
        except BaseException:  # also an interrupt must not leave the file open
            self.close()
            raise
        self.times_identify_frames = self._table.is_seekable and not self._has_false_times()
        self._position_of = {
            mark.pts: at for at, mark in enumerate(self._table.marks) if self._table.kept[at] and mark.pts is not None
        }
        self._sound_starts: set[int] = set()
        self.num_frames, self.num_lost = self._table.num_frames, self._table.num_lost
        self.fps = self._mean_rate()
        if self.num_lost:
            logger.warning_once(
                f"{name!r}: packets are damaged or missing, so {self.num_lost} of its "
                f"{max(self.num_frames, self.num_lost)} frames are lost; clips repeat the frame before them"
            )

    @property
    def stream_index(self) -> int:
        """Index of the video stream among all streams of the file."""
        return self._stream.index

    @property
    def format_name(self) -> str:
        """FFmpeg's name of the container."""
        return self._container.format.name

    @property
    def num_streams(self) -> int:
        """Number of video streams, without covers and previews."""
        return len(self._videos)

    @property
    def table(self) -> FrameTable:
        """The frames in display order."""
        return self._table

    @cached_property
    def times(self) -> np.ndarray | None:
        """See [`VideoReader`]."""
        times = self._table.times
        if times is None or self._rate_of_times() is None:
            return None
        tick = float(self._stream.time_base)
        seconds = (np.array(times) - times[0]) * tick
        return None if has_constant_rate(seconds, tick=tick) else seconds

    def close(self) -> None:
        self._container.close()

    def read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        # Without reliable times, `num_frames` counts packets: the end is known after decoding only.
        if self.times_identify_frames and self.num_frames:
            return super().read(indices)
        self._refuse_lost(indices)
        return self._read_counting(indices)

    def whole_frames(self, clip: list[int]) -> list[int]:
        positions = self._table.positions
        if not any(index < len(positions) and positions[index] is None for index in clip):
            return clip
        whole = [index for index, position in enumerate(positions) if position is not None]
        return [whole[max(int(np.searchsorted(whole, index, side="right")) - 1, 0)] for index in clip]

    def false_start(self, indices: list[int]) -> str | None:
        """
        Why decoders that trust the container would return wrong frames: a keyframe before one of these frames depends
        on other frames, or the frames are to be mirrored. None if neither is found.
        """
        positions = [self._table.positions[index] for index in indices]
        starts = {keyframe for position in positions for keyframe in self._table.keyframes_of(position)}
        for keyframe in sorted(starts - self._sound_starts):
            packets = self._seek(keyframe)
            if packets is None:
                return "it cannot be searched by time"
            self._codec.flush_buffers()
            try:
                frames = [*self._codec.decode(next(packets)), *self._codec.decode(None)]
            except av.FFmpegError:
                continue  # the other decoder reports the damage
            if not self._starts_the_video(keyframe) and not all(_is_intra(frame) for frame in frames or [None]):
                return "its keyframes depend on other frames"
            if any(np.linalg.det(_display_matrix(frame)) < 0 for frame in frames):
                return "its frames are to be mirrored"
            self._sound_starts.add(keyframe)
        return None

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        self._refuse_lost(indices)
        positions = [self._table.positions[index] for index in indices]
        try:
            found = self._read_at(positions)
        except _FalseKeyframeError:
            found = {}
        if len(found) == len(positions):
            return {index: found[position] for index, position in zip(indices, positions, strict=True)}
        # A keyframe was none, seeking failed or packets were dropped: decode from the start and count frames.
        return self._read_counting(indices)

    def _refuse_lost(self, indices: list[int]) -> None:
        positions = self._table.positions
        lost = [index for index in indices if index < len(positions) and positions[index] is None]
        if lost:
            raise self._damaged(f"frame {lost[0]} is lost, because packets are damaged or missing")

    def _open(self) -> None:
        self._container = open_container(rewound(self._source), self.name)
        try:
            self._stream = self._choose_stream()
        except BaseException:
            self.close()
            raise
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}
        self.frame_size = self._codec.height, self._codec.width
        if self._codec.width * self._codec.height > MAX_PIXELS:
            self.close()
            size = f"{self._codec.width}x{self._codec.height}"
            raise CorruptVideoError(self.name, f"its frames of {size} pixels are larger than {MAX_PIXELS} pixels")

    def _choose_stream(self) -> av.VideoStream:
        """The stream that players show, among those that are a video and can be decoded."""
        streams = self._container.streams.video
        videos = [stream for stream in streams if not stream.disposition & _NOT_VIDEO]
        self._videos = [stream for stream in videos if stream.codec_context is not None]
        if self._videos:
            best = self._container.streams.best("video")
            return best if best in self._videos else self._videos[0]
        if videos:
            raise CorruptVideoError(self.name, "FFmpeg has no decoder for its video stream")
        raise NoVideoStreamError(self.name, "the file has no video stream" + (", only a cover" if streams else ""))

    def _packets(self) -> Iterator[av.Packet]:
        # A packet without bytes marks the end of the file; PyAV passes it on for every stream.
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _scan(self) -> list[Mark]:
        marks = []
        is_vp8 = self._codec.codec.canonical_name == "vp8"
        try:
            for packet in self._packets():
                # In VP8, bit 4 of a packet says whether the frame is shown.
                hidden = packet.is_discard or (is_vp8 and not memoryview(packet)[0] & 16)
                marks.append(Mark(packet.pts, packet.dts, packet.size, packet.is_keyframe, hidden, packet.is_corrupt))
        except av.FFmpegError as error:
            # The clip may lie before the damage.
            if not marks:
                raise CorruptVideoError(self.name, f"no packet of it is readable ({error.strerror})") from error
            logger.warning_once(
                f"{self.name!r}: ends after {len(marks)} packets, because of damage ({error.strerror})"
            )
        if marks and self._container.format.name == "mpegts" and self._begins_damaged():
            marks[0] = marks[0]._replace(is_damaged=True)
        return marks

    def _begins_damaged(self) -> bool:
        """
        Whether the first packet of a transport stream is damaged. When FFmpeg splits packets, it marks the packet
        before the damaged one instead, and the first packet has none before.
        """
        is_file_object = not isinstance(self._source, (str, bytes))
        place = self._source.tell() if is_file_object else None
        with open_container(rewound(self._source), self.name, split_packets=False) as container:
            stream = container.streams[self._stream.index]
            is_damaged = next((packet.is_corrupt for packet in container.demux(stream)), False)
        if is_file_object:  # both containers read from it
            self._source.seek(place)
        return is_damaged

    def _has_false_times(self) -> bool:
        """Whether times of packets do not identify frames although they differ."""
        # In VP8, a hidden packet may have the time of the next frame.
        if self._codec.codec.canonical_name == "vp8":
            return any(mark.is_hidden for mark in self._table.marks)
        return self._container.format.name == "avi" and bool(self._codec.has_b_frames)

    def _rate_of_times(self) -> float | None:
        times = self._table.times
        if times is None or times[-1] <= times[0]:
            return None
        return plausible_fps((len(times) - 1) / ((times[-1] - times[0]) * self._stream.time_base))

    def _mean_rate(self) -> float | None:
        # The rate in the header is not reliable: some Matroska files claim 1000 frames per second.
        return self._rate_of_times() or plausible_fps(self._stream.guessed_rate)

    def _read_at(self, positions: list[int]) -> dict[int, torch.Tensor]:
        """The frames at these positions. Frames are missing if seeking fails or packets are dropped."""
        found: dict[int, torch.Tensor] = {}
        for keyframe, wanted in self._table.runs(positions):
            packets = self._seek(keyframe)
            if packets is None:
                break
            error = self._decode_run(keyframe, packets, wanted, found)
            missing = wanted - found.keys()
            if error is not None and missing:
                index = min(self._table.positions.index(position) for position in missing)
                raise self._damaged(f"frame {index} does not decode ({error.strerror})") from error
            if error is None and not self._is_sound(keyframe):
                raise _FalseKeyframeError
        return found

    def _seek(self, keyframe: int) -> Iterator[av.Packet] | None:
        """The packets from the keyframe at this position on, or `None` if seeking fails."""
        mark = self._table.marks[keyframe]
        previous = self._table.marks[self._table.previous_keyframe(keyframe)]
        # Containers seek by PTS or by DTS. Landing before the keyframe is fine, landing after it is not. The first
        # packets after a seek in a program stream have wrong times: then start a group earlier.
        for time in dict.fromkeys((mark.pts, mark.dts, previous.pts, previous.dts)):
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
                packets = self._packets()
                for packet in packets:
                    at = self._position_of.get(packet.pts, -1)
                    if at == keyframe and packet.size == mark.size and packet.is_keyframe:
                        return itertools.chain([packet], packets)
                    if at > keyframe:
                        break
            except av.FFmpegError:
                continue
        return None

    def _decode_run(
        self, keyframe: int, packets: Iterator[av.Packet], wanted: set[int], found: dict[int, torch.Tensor]
    ) -> av.FFmpegError | None:
        """Adds the `wanted` frames to `found`, and returns the error that stopped decoding early, if any."""
        last = max(wanted)
        # In H.264 no frame depends on a non-reference frame (nal_ref_idc 0): skipping those outside of the clip
        # changes no other frame. HEVC guarantees this only within a temporal layer.
        can_skip = self._codec.name == "h264"
        self._codec.flush_buffers()
        error = None
        try:
            for packet in packets:
                at = self._position_of.get(packet.pts)
                if at is None:  # lost
                    continue
                if can_skip:
                    self._codec.skip_frame = "DEFAULT" if at in wanted or at == keyframe else "NONREF"
                self._keep(self._codec.decode(packet), keyframe, wanted, found)
                if at >= last:
                    break
        except av.FFmpegError as failure:
            error = failure
        try:
            # The decoder still holds frames: flushing it is cheaper than sending more packets.
            self._keep(self._codec.decode(None), keyframe, wanted, found)
        except av.FFmpegError as failure:
            error = error or failure
        return error

    def _keep(
        self, frames: Iterable[av.VideoFrame], keyframe: int, wanted: set[int], found: dict[int, torch.Tensor]
    ) -> None:
        for frame in frames:
            position = self._position_of.get(frame.pts)
            if position == keyframe:
                if not _is_intra(frame) and not self._starts_the_video(keyframe):
                    raise _FalseKeyframeError
                self._sound_starts.add(keyframe)
            if frame.is_corrupt and not wanted <= found.keys():
                # Damage spreads to every later frame of the group, and the result still looks like an image.
                raise self._damaged("a frame that the clip may depend on is damaged")
            if position in wanted:
                self._store(frame, position, found)

    def _is_sound(self, keyframe: int) -> bool:
        """Whether decoding can start at this keyframe, as far as that can be seen after decoding it."""
        is_hidden = self._table.marks[keyframe].is_hidden
        return keyframe in self._sound_starts or is_hidden or self._starts_the_video(keyframe)

    def _starts_the_video(self, keyframe: int) -> bool:
        return self._table.previous_keyframe(keyframe) == keyframe

    def _read_counting(self, indices: list[int]) -> dict[int, torch.Tensor]:
        """The frames with these indices, counted from the start of the file in the order of the decoder."""
        self.close()
        self._open()
        lost = [index for index, position in enumerate(self._table.positions) if position is None]
        wanted = {index - int(np.searchsorted(lost, index)): index for index in indices}
        found: dict[int, torch.Tensor] = {}
        count = 0
        try:
            for frame in self._decode_all():
                if frame.is_corrupt:
                    raise self._damaged(f"frame {count} is damaged")
                if count in wanted:
                    self._store(frame, wanted[count], found)
                    if len(found) == len(wanted):
                        return found
                count += 1
        except av.FFmpegError as error:
            raise self._damaged(f"decoding fails after {count} frames ({error.strerror})") from error
        if count == 0:
            raise CorruptVideoError(self.name, "none of its frames decodes")
        raise beyond_the_end(self.name, indices[-1], count + len(lost))

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        """All frames from the start. After a loss, decoding starts afresh."""
        table = self._table
        in_gap = fresh = has_begun = False
        for at, packet in enumerate(self._packets()):
            if at >= len(table.kept) or not table.kept[at]:
                in_gap = has_begun
                continue
            if in_gap and table.marks[at].is_keyframe:
                yield from self._codec.decode(None)
                self._codec.flush_buffers()
                fresh = True
            for frame in self._codec.decode(packet):
                if fresh and not _is_intra(frame):
                    raise self._damaged("no frame after a loss is independent of the lost ones")
                fresh = False
                yield frame
            has_begun, in_gap = True, False
        yield from self._codec.decode(None)

    def _damaged(self, reason: str) -> CorruptVideoError:
        return CorruptVideoError(self.name, f"{reason}: encode the file again or leave it out")

    def _store(self, frame: av.VideoFrame, key: int, found: dict[int, torch.Tensor]) -> None:
        # Frames may be larger than the header says.
        check_clip_bytes(self.name, frames=len(found) + 1, height=frame.height, width=frame.width)
        # Bicubic, as in torchcodec; it only matters for the colour planes of odd-sized frames.
        rgb = self._to_rgb.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        if frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components):
            rgba = frame.reformat(format="rgba", interpolation="BICUBIC").to_ndarray()
            rgb = rgb if rgba[..., 3].min() == 255 else over_white(rgba)
        found[key] = channels_first(_upright(rgb, _display_matrix(frame)))


def _is_intra(frame: av.VideoFrame | None) -> bool:
    """Whether the frame was decoded, and without other frames."""
    return frame is not None and frame.pict_type in _INTRA


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """How a frame is to be shown: (2, 2), from its coordinates (x, y) as a row to those on the screen."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    return np.eye(2) if data is None else np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2] / 2**16


def _upright(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The frame, turned by multiples of 90 degrees and mirrored as the display matrix says."""
    size = np.abs(matrix)
    if size[0, 1] + size[1, 0] > size[0, 0] + size[1, 1]:
        rgb, matrix = rgb.transpose(1, 0, 2), matrix[::-1]
    rgb = rgb[:, ::-1] if matrix[0, 0] < 0 else rgb
    return rgb[::-1] if matrix[1, 1] < 0 else rgb
