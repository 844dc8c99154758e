"""
Reads a video with decord or torchcodec.

PyAV opens the file first. So the screening, the choice of the stream, the number of frames, their times and the rate
are the same for all decoders, and these two only decode. Both find frames by times and keyframe flags of the
container. Where measurements showed that this gives wrong frames, the file is refused.
"""

from abc import abstractmethod
from typing import Any, BinaryIO

import torch

from .clip_sampling import CorruptVideoError, DecodingError, NoVideoStreamError
from .pyav_reader import PyAVReader
from .video_reader import VideoReader, beyond_the_end, channels_first, rewound

_MISSING = "backend '{0}' is not installed: pip install transformers_vjepa[{0}], or use the default backend='pyav'"
_NEEDS_FFMPEG = "; torchcodec also needs FFmpeg's shared libraries on the system and a matching torch"
_TRY_PYAV = "use the default backend='pyav'"
# Formats without an index of their frames.
_WITHOUT_INDEX = ("mpegts", "mpeg")


class _OtherReader(VideoReader):
    """A decoder with its own FFmpeg, and the packets of the file as PyAV reads them."""

    backend: str
    _decoder: Any = None

    def __init__(self, source: str | bytes | BinaryIO, name: str) -> None:
        # Two decoders cannot share the position of a file object.
        self._source = source if isinstance(source, (str, bytes)) else rewound(source).read()
        self._packets = PyAVReader(self._source, name)
        try:
            self.name, self.num_frames = name, self._packets.num_frames
            self.fps, self.frame_size = self._packets.fps, self._packets.frame_size
            self._refuse(self._doubt())
            self._start()
            if len(self._decoder) != self.num_frames:
                self._refuse(f"it counts {len(self._decoder)} frames where the container has {self.num_frames}")
        except BaseException:
            self.close()
            raise

    @property
    def times(self) -> Any:
        return self._packets.times

    def close(self) -> None:
        self._decoder = None  # the last reference to it, and so to the file
        self._packets.close()

    @abstractmethod
    def _start(self) -> None:
        """Opens the decoder."""

    def _doubt(self) -> str | None:
        """Why the decoder would return wrong frames of this file, if that is known before decoding."""
        if self._packets.num_lost:
            return "packets of the file are damaged or missing"
        if self._packets.format_name in _WITHOUT_INDEX:
            return f"the format of the file ({self._packets.format_name}) has no index of its frames"
        if not self._packets.times_identify_frames:
            return "the file does not store when its frames are displayed"
        return None

    def _refuse(self, doubt: str | None) -> None:
        if doubt:
            raise DecodingError(self.name, f"{self.backend} would return wrong frames, because {doubt}; {_TRY_PYAV}")


class DecordReader(_OtherReader):
    """decord applies the rotation, but cannot be told which stream to read."""

    backend = "decord"

    def _start(self) -> None:
        try:
            import decord
        except ImportError as error:
            raise ImportError(_MISSING.format("decord")) from error
        self._errors = (decord.DECORDError, RuntimeError)
        try:
            self._decoder = decord.VideoReader(rewound(self._source), num_threads=1)
        except self._errors as error:
            if "cannot find video stream" in str(error):
                reason = f"decord finds no video stream that it knows; {_TRY_PYAV}"
                raise NoVideoStreamError(self.name, reason) from error
            raise CorruptVideoError(self.name, f"decord cannot open it; {_TRY_PYAV}") from error

    def _doubt(self) -> str | None:
        if self._packets.num_streams > 1:
            return f"the file has {self._packets.num_streams} video streams, and decord cannot be told which to read"
        if self._packets.table.has_open_groups:
            return "frames of the file depend on frames after the next keyframe"
        if any(mark.is_hidden for mark in self._packets.table.marks):
            return "the file has frames that are not displayed (an edit list)"
        return super()._doubt()

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        self._refuse(self._packets.false_start(indices))
        try:
            batch = self._decoder.get_batch(indices).asnumpy()
        except self._errors as error:
            raise CorruptVideoError(self.name, f"decord cannot decode the frames {indices}") from error
        if batch.shape[-1] != 3:
            raise CorruptVideoError(self.name, f"decord returns frames of shape {batch.shape[1:]}; {_TRY_PYAV}")
        return {index: channels_first(frame) for index, frame in zip(indices, batch, strict=True)}


class TorchCodecReader(_OtherReader):
    """Scans all packets when it opens the file, as PyAV does. torchcodec applies the rotation."""

    backend = "torchcodec"

    def _start(self) -> None:
        # torchcodec loads FFmpeg at import or at first use, depending on its version.
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError) as error:
            raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
        try:
            self._decoder = VideoDecoder(
                rewound(self._source),
                stream_index=self._packets.stream_index,
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise ImportError(_MISSING.format("torchcodec") + _NEEDS_FFMPEG) from error
            raise CorruptVideoError(self.name, "torchcodec cannot open it") from error

    def _read(self, indices: list[int]) -> dict[int, torch.Tensor]:
        self._refuse(self._packets.false_start(indices))
        try:
            batch = self._decoder.get_frames_at(indices).data
        except RuntimeError as error:
            if "no more frames" in str(error):
                # The error does not contain the number of frames.
                raise beyond_the_end(self.name, indices[-1], indices[-1]) from error
            raise CorruptVideoError(self.name, f"torchcodec cannot decode the frames {indices}") from error
        return dict(zip(indices, batch, strict=True))
