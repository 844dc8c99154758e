"""
Open untrusted media: FFmpeg and Pillow read only the given file, and memory is bounded before a header is trusted.

FFmpeg detects the format of a file from its content. A text file called `clip.mp4` may be a playlist, and FFmpeg opens
its entries: other files of this machine, or addresses. Therefore only formats that contain the media are allowed.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageOps

from .clip_sampling import CorruptVideoError

VIDEO_EXTENSIONS = frozenset(".3gp .avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
IMAGE_EXTENSIONS = frozenset(".jpeg .jpg .png .webp".split())
#: Formats of FFmpeg that contain the video itself. Excluded are `concat`, `hls`, `dash`, `sdp`, `image2`, ..., which
#: refer to files and addresses, and `mxf`, whose header sets the length of its index.
_FORMATS = (
    "apng,asf,av1,avi,bmp_pipe,dv,flv,gif,h261,h263,h264,hevc,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,nut,obu,ogg,png_pipe,rm,tiff_pipe,vc1,vvc,webp_pipe,yuv4mpegpipe"
)
# Formats of Pillow that are images. EPS files are programs, which Pillow passes to Ghostscript.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# JPEG, PNG, WebP, BMP, TIFF, JPEG 2000 and its stream, AVIF and HEIC, PPM.
_IMAGE_HEAD = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II\*\0|MM\0\*|\0\0\0\x0cjP  |\xff\x4f\xff\x51|"
    rb".{4}ftyp(avif|heic|heix|mif1)|P[1-6]\s",
    re.DOTALL,
)
#: Largest frame of a video, in pixels: 8192 x 8192, above 8K.
MAX_PIXELS = 2**26
#: Largest size of the decoded frames of one read (frames x height x width x 3 bytes): 2 GiB, 16 frames of 8K.
MAX_CLIP_BYTES = 2**31
# Errors of Pillow for damaged files: a SyntaxError for PNG chunks, a TypeError for offsets of a TIFF, ...
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
# Largest number of frames in a track: 77 hours at 60 per second. FFmpeg's index takes 24 bytes per frame.
_MAX_FRAMES = 2**24
# Boxes of an MP4 file that contain further boxes, and boxes with numbers of frames.
_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf", b"tref", b"udta"}
_COUNTING = {b"hdlr", b"stts", b"ctts", b"stsz", b"stz2", b"trun"}
_MAX_BOXES = 2**20


def extension(path: str) -> str:
    """
    The extension in lower case, with its dot. Of an address the query (a signature, often) and the fragment do not
    count; of a file in an archive (`zip://clip.mp4::https://...`) the first name counts.
    """
    if "://" in path:
        path = re.split(r"[?#]|::", path, maxsplit=1)[0]
    return os.path.splitext(path)[1].lower()


def is_media(path: str) -> bool:
    """Whether the extension of a file is one of a video or an image."""
    return extension(path) in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS


def is_image_data(data: bytes) -> bool:
    """Whether the first bytes of a file are those of an image that is not a GIF (which counts as a video)."""
    return _IMAGE_HEAD.match(data) is not None


def open_container(source: str | BinaryIO, name: str, *, split_packets: bool = True) -> av.container.InputContainer:
    """
    Opens a video with FFmpeg.

    Args:
        source: absolute path, or a binary file object at its start.
        name: name of the video in errors.
        split_packets: whether FFmpeg splits or joins the packets of the container, so that each holds one frame.

    Raises:
        CorruptVideoError: not a video, a format that refers to other files, or a header that promises more frames
            than the file can hold.
    """
    _check_promises(source, name)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    if not split_packets:
        options["fflags"] = "noparse"
    try:
        return av.open(source, metadata_errors="replace", options=options)
    except av.ArgumentError as error:
        reason = "its format is not one that contains the video itself (MP4 does, a playlist does not)"
        raise CorruptVideoError(name, f"FFmpeg does not open it: {reason}") from error
    except av.FFmpegError as error:
        raise CorruptVideoError(name, f"FFmpeg cannot open it ({error.strerror})") from error


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """
    The pixels of an image of any mode: uint8 (height, width, 3). 16-bit grey images keep their upper 8 bits, as Pillow
    does for colours; Pillow itself would convert them to white. Mode `I` counts as 16-bit if a value exceeds 255.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.getextrema()[1] > 255):
        grey = np.asarray(image).clip(0, 65535) // 256
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def read_image(source: str | os.PathLike | bytes, name: str) -> np.ndarray:
    """
    Reads an image with Pillow.

    Args:
        source: path or bytes of a file.
        name: name of the image in errors.

    Returns:
        uint8 (height, width, 3), RGB, with the rotation of the file applied.

    Raises:
        CorruptVideoError: not an image, an incomplete image, or more pixels than Pillow allows (179 million).
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_IMAGE_FORMATS) as image:
            return rgb_pixels(ImageOps.exif_transpose(image))
    except _BROKEN_IMAGE as error:
        what = "it" if isinstance(source, bytes) else os.path.basename(source)
        raise CorruptVideoError(name, f"{what} is not a complete image ({error})") from error


def _check_promises(source: str | BinaryIO, name: str) -> None:
    """Refuses MP4 headers that promise more frames than fit into the file; FFmpeg would allocate an index for all."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            return _check_promises(file, name)
    size = source.seek(0, 2)
    for promised in _promises(source, size, name):
        if promised > min(size, _MAX_FRAMES):
            raise CorruptVideoError(name, f"its header promises {promised} frames in {size} bytes")
    source.seek(0)


def _promises(file: BinaryIO, size: int, name: str) -> Iterator[int]:
    """Numbers of frames that the tracks and fragments of an MP4 file promise; for other files nothing or zeros."""
    tables: dict[bytes, list[bytes]] = {}
    for number, (kind, start, end) in enumerate(_boxes(file, 0, size)):
        if number == _MAX_BOXES:
            raise CorruptVideoError(name, f"it has more than {_MAX_BOXES} boxes: write it with larger fragments")
        if kind == b"cmov":
            raise CorruptVideoError(name, "its header is compressed: convert it (ffmpeg -i FILE -c copy OUT.mp4)")
        if kind in (b"trak", b"moof"):
            yield _promised(tables)
            tables = {}
        if kind in _COUNTING:
            file.seek(start)
            tables.setdefault(kind, []).append(file.read(end - start))
    yield _promised(tables)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and start and end of the content, of every box between two places; a box comes before its inner boxes."""
    rest = [(start, end)]  # no recursion: a file may nest its boxes to any depth
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
    """Number of frames of a track, from its tables."""
    sizes = [int.from_bytes(table[8:12], "big") for kind in (b"stsz", b"stz2") for table in tables.get(kind, [])]
    fragments = [int.from_bytes(table[4:8], "big") for table in tables.get(b"trun", [])]
    times, offsets = ([_runs(table) for table in tables.get(kind, [])] for kind in (b"stts", b"ctts"))
    is_sound = all(table[8:12] == b"soun" for table in tables.get(b"hdlr", []))
    if is_sound and len(times) == 1 and times[0][:, 1].tolist() == [1]:
        return 0  # audio samples: FFmpeg indexes whole chunks of them
    return max([0, *sizes, *(int(runs[:, 0].sum(dtype=np.int64)) for runs in times + offsets), sum(fragments)])


def _runs(table: bytes) -> np.ndarray:
    """The entries of `stts` or `ctts`: (entries, 2), a number of samples and a time."""
    entries = min(int.from_bytes(table[4:8], "big"), max(0, len(table) - 8) // 8)
    return np.frombuffer(table[8 : 8 + 8 * entries], dtype=">u4").reshape(-1, 2)
