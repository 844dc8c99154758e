"""
Opening files that nobody vouches for: nothing but the file itself is read, and no header decides on memory alone.

FFmpeg takes the kind of a file from its content. A text called `clip.mp4` may be a playlist, whose entries it opens:
other files of this machine, or addresses. Of all its formats only those are let in that hold what they show.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageOps

from .clip_sampling import CorruptVideoError

#: Formats of FFmpeg that hold the video itself. Not among them: `concat`, `hls`, `dash`, `sdp`, `image2`, ... which
#: name files and addresses; `mxf`, whose index is as long as its header says.
_FORMATS = (
    "apng,asf,av1,avi,bmp_pipe,dv,flv,gif,h261,h263,h264,hevc,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,nut,obu,ogg,png_pipe,rm,tiff_pipe,vc1,vvc,webp_pipe,yuv4mpegpipe"
)
# Formats of Pillow that are pictures and no programs (as EPS is, which it hands to Ghostscript).
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: Largest picture of a video, in pixels: 8192 x 8192, above 8K.
MAX_PIXELS = 2**26
# What Pillow raises for damaged files: a SyntaxError for PNG chunks, a TypeError for offsets of a TIFF, ...
_BROKEN_IMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# Most frames of a track: 77 hours at 60 per second. FFmpeg's index takes 24 bytes for each.
_MAX_FRAMES = 2**24
# Boxes of an MP4 file: those that hold further ones, and those that say how many frames there are.
_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf", b"tref", b"udta"}
_COUNTING = {b"hdlr", b"stts", b"ctts", b"stsz", b"stz2", b"trun"}
_MAX_BOXES = 2**20


def open_container(source: str | BinaryIO, name: str) -> av.container.InputContainer:
    """
    Opens a video with FFmpeg.

    Args:
        source: absolute path, or a binary file object at its start.
        name: what errors call it.

    Raises:
        CorruptVideoError: not a video, a format that reads other files, or a header that promises more frames than
            the file can hold.
    """
    _check_promises(source, name)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    try:
        return av.open(source, metadata_errors="replace", options=options)
    except av.ArgumentError as error:
        reason = "it is in none of the formats that hold the video itself, as MP4 does and playlists do not"
        raise CorruptVideoError(name, f"FFmpeg does not open it: {reason}") from error
    except av.FFmpegError as error:
        raise CorruptVideoError(name, f"FFmpeg cannot open it ({error.strerror})") from error


def rgb_pixels(picture: Image.Image) -> np.ndarray:
    """
    The pixels of a picture of any mode: uint8 (height, width, 3). Grey ones of 16 bits keep their upper 8, as Pillow
    does with colours; its own conversion makes them white. Mode `I` is 16 bits where its values do not fit 8.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.getextrema()[1] > 255):
        grey = np.asarray(picture).clip(0, 65535) // 256
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def read_image(source: str | os.PathLike | bytes, name: str) -> np.ndarray:
    """
    Reads a picture with Pillow.

    Args:
        source: path or bytes of a file.
        name: what errors call it.

    Returns:
        uint8 (height, width, 3), RGB, rotated as the file says to show it.

    Raises:
        CorruptVideoError: no picture, not a whole one, or one of more pixels than Pillow takes for sane (179 million).
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_IMAGE_FORMATS) as picture:
            return rgb_pixels(ImageOps.exif_transpose(picture))
    except _BROKEN_IMAGE as error:
        what = "it" if isinstance(source, bytes) else os.path.basename(source)
        raise CorruptVideoError(name, f"{what} is not a whole picture ({error})") from error


def _check_promises(source: str | BinaryIO, name: str) -> None:
    """
    FFmpeg makes an index of as many frames as an MP4 header says, be it a billion in a kilobyte. Other formats are
    indexed as they are read.
    """
    if isinstance(source, str):
        with open(source, "rb") as file:
            return _check_promises(file, name)
    size = source.seek(0, 2)
    for promised in _promises(source, size, name):
        if promised > min(size, _MAX_FRAMES):
            raise CorruptVideoError(name, f"its header promises {promised} frames in {size} bytes")
    source.seek(0)


def _promises(file: BinaryIO, size: int, name: str) -> Iterator[int]:
    """The numbers of frames that the tracks and fragments of an MP4 file promise; of other files nothing or zeros."""
    tables: dict[bytes, list[bytes]] = {}
    for number, (kind, start, end) in enumerate(_boxes(file, 0, size)):
        if number == _MAX_BOXES:
            raise CorruptVideoError(name, f"it has more than {_MAX_BOXES} boxes: write it anew in larger fragments")
        if kind == b"cmov":
            raise CorruptVideoError(name, "its header is compressed: write it anew (ffmpeg -i FILE -c copy OUT.mp4)")
        if kind in (b"trak", b"moof"):
            yield _promised(tables)
            tables = {}
        if kind in _COUNTING:
            file.seek(start)
            tables.setdefault(kind, []).append(file.read(end - start))
    yield _promised(tables)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of every box between two places, each before those within."""
    rest = [(start, end)]  # no recursion: a file may nest its boxes as deeply as it likes
    while rest:
        start, end = rest.pop()
        if start + 8 > end:
            continue
        file.seek(start)
        head = file.read(16)
        size, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, header = int.from_bytes(head[8:], "big"), 16
        elif size == 0:  # to the end
            size = end - start
        if size < header:
            continue
        inner, last = start + header, min(start + size, end)
        yield kind, inner, last
        rest.append((start + size, end))
        if kind in _NESTED:
            rest.append((inner, last))


def _promised(tables: dict[bytes, list[bytes]]) -> int:
    """Frames of a track by its tables."""
    sizes = [int.from_bytes(table[8:12], "big") for kind in (b"stsz", b"stz2") for table in tables.get(kind, [])]
    fragments = [int.from_bytes(table[4:8], "big") for table in tables.get(b"trun", [])]
    times, offsets = ([_runs(table) for table in tables.get(kind, [])] for kind in (b"stts", b"ctts"))
    is_sound = all(table[8:12] == b"soun" for table in tables.get(b"hdlr", []))
    if is_sound and len(times) == 1 and times[0][:, 1].tolist() == [1]:
        return 0  # samples, of which FFmpeg indexes whole chunks
    return max([0, *sizes, *(int(runs[:, 0].sum(dtype=np.int64)) for runs in times + offsets), sum(fragments)])


def _runs(table: bytes) -> np.ndarray:
    """The entries of `stts` or `ctts`: how many samples, and a time (entries, 2)."""
    entries = min(int.from_bytes(table[4:8], "big"), max(0, len(table) - 8) // 8)
    return np.frombuffer(table[8 : 8 + 8 * entries], dtype=">u4").reshape(-1, 2)


__all__ = ["MAX_PIXELS", "open_container", "read_image", "rgb_pixels"]
