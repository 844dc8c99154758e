"""
Open untrusted media: FFmpeg and Pillow read only the given file, and memory is bounded before a header is trusted.

FFmpeg detects the format of a file from its content. A text file called `clip.mp4` may be a playlist, and FFmpeg opens
its entries: other files of this machine, or addresses. Therefore only formats that contain the media are allowed, and
a file that begins as a text is refused before any decoder sees it.

The bounds below are environment variables, so that worker processes follow them too.
"""

import codecs
import io
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import fsspec
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from .clip_sampling import CorruptVideoError

#: Extensions of videos: the formats of `_FORMATS`, with the names that cameras and programs give their files.
VIDEO_EXTENSIONS = frozenset(
    ".264 .265 .3g2 .3gp .3gp2 .3gpp .apng .asf .avi .divx .dv .evo .f4v .flv .gif .h264 .h265 .hevc .insv .ismv .ivf "
    ".lrv .m1v .m2t .m2ts .m2v .m4v .mjpeg .mjpg .mk3d .mkv .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .nut .obu .ogg "
    ".ogm .ogv .qt .rm .rmvb .tod .tp .trp .ts .vob .webm .wmv .xvid .y4m".split()
)
# Pillow reads AVIF from its version 11.3 on; older ones do not know the name.
_HAS_AVIF = "avif" in features.modules and features.check("avif")
#: Extensions of images.
IMAGE_EXTENSIONS = frozenset(
    ".bmp .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
) | frozenset([".avif"] if _HAS_AVIF else [])
#: Extensions of files that hold images or videos, but cannot be read here.
UNREADABLE_EXTENSIONS = (
    frozenset(
        ".7z .arw .avif .bik .braw .bz2 .cr2 .cr3 .dng .eps .exr .gz .h5 .hdf5 .hdr .heic .heics .heif .hif .jxl "
        ".m3u8 .mpd .mxf .nef .npy .npz .orf .psd .r3d .rar .raw .rw2 .swf .tfrecord .tgz .wtv "
        ".xz .zip .zst".split()
    )
    - IMAGE_EXTENSIONS
)
#: Formats of FFmpeg that contain the video itself. Excluded are `concat`, `hls`, `dash`, `sdp`, `image2`, ..., which
#: refer to files and addresses, and `mxf`, whose header sets the length of its index.
_FORMATS = (
    "apng,asf,av1,avi,bmp_pipe,dv,flv,gif,h261,h263,h264,hevc,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,nut,obu,ogg,png_pipe,rm,tiff_pipe,vc1,vvc,webp_pipe,yuv4mpegpipe"
)
# Formats of Pillow that are images. EPS files are programs, which Pillow passes to Ghostscript.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] if _HAS_AVIF else []))
# JPEG, PNG, WebP, BMP, TIFF, JPEG 2000 and its stream, AVIF and HEIC, PPM.
_IMAGE_HEAD = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II\*\0|MM\0\*|\0\0\0\x0cjP  |\xff\x4f\xff\x51|"
    rb".{4}ftyp(avif|heic|heix|mif1)|P[1-6]\s",
    re.DOTALL,
)


class UnknownScaleError(ValueError):
    """An image whose values cannot be mapped to 8 bits without a guess."""


def _bound(variable: str, default: int) -> int:
    """The value of an environment variable, a number of at least 1."""
    value = os.environ.get(variable, str(default))
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", value):
        raise ValueError(f"the environment variable {variable}={value!r} must be a whole number of at least 1")
    return int(value)


#: Most pixels of an image or of a frame: by default 8192 x 8192, above 8K.
MAX_PIXELS = _bound("VJEPA_MAX_PIXELS", 2**26)
#: Most bytes of the decoded frames of one read (frames x height x width x 3): by default 2 GiB, 16 frames of 8K.
MAX_CLIP_BYTES = _bound("VJEPA_MAX_CLIP_BYTES", 2**31)
#: Most bytes of a file that is read from an address, after unpacking: by default 1 GiB.
MAX_FILE_BYTES = _bound("VJEPA_MAX_FILE_BYTES", 2**30)
#: Most seconds until an address has sent its file.
MAX_FETCH_SECONDS = _bound("VJEPA_MAX_FETCH_SECONDS", 600)
# Errors of Pillow for damaged files: a SyntaxError for PNG chunks, a TypeError for offsets of a TIFF,
# a RuntimeError for AVIF, ...
_BROKEN_IMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
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
# Bytes of a head: those that tell a text, those of the first reading, and those that FFmpeg searches for its formats.
_TEXT_HEAD, _HEAD, _PROBED = 32, 4096, 2**20
_MAX_ID3_TAGS = 16
# Heads of containers whose first bytes may all be printable: the size of a RIFF or MP4 box may spell a word.
_CONTAINER_HEAD = re.compile(rb"RIFF|YUV4MPEG2|P[1-7]\s|.{4}(ftyp|moov|mdat|free|skip|wide|pnot|uuid|junk)", re.DOTALL)
# Beginnings of texts that name other files or addresses; of players' playlists as well, which FFmpeg does not follow.
_REFERRING_HEAD = re.compile(
    rb"#extm3u|ffconcat|v=0\s|<|\[playlist\]|\[reference\]|# ?vobsub|rtsptext|smiltext|rem\s|file\s+[\"']|"
    rb"(https?|rtsp|file|concat):",
    re.IGNORECASE,
)
# Marks by which FFmpeg's probes find such texts, at the begin of a line or anywhere before the first zero byte.
_REFERRING_MARK = re.compile(
    rb"(^|[\r\n])(#extm3u|ffconcat version|c=in ip|m=video )|<mpd|<compositionplaylist", re.IGNORECASE
)
_BLANKS = b"\0 \t\r\n\v\f"
_MARKS_OF_ORDER = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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


def is_other_kind(file: str) -> bool:
    """
    Whether a file on the disk has an extension of a video, but is a file of another kind: TypeScript (`.ts`), or only
    sound (`.ogg`). Reads the head of files with these two extensions.
    """
    kind = extension(file)
    if kind not in (".ogg", ".ts") or not os.path.isfile(file):  # opening a FIFO would wait for a writer
        return False
    with open(file, "rb") as opened:
        head = opened.read(_HEAD)
    if kind == ".ts":
        return _is_text(head[:_TEXT_HEAD])
    return head.startswith(b"OggS") and not any(mark in head for mark in (b"theora", b"OVP80", b"BBCD", b"\1video"))


def open_container(source: str | BinaryIO, name: str, *, split_packets: bool = True) -> av.container.InputContainer:
    """
    Opens a video with FFmpeg.

    Args:
        source: absolute path, or a binary file object at its start.
        name: name of the video in errors.
        split_packets: whether FFmpeg splits or joins the packets of the container, so that each holds one frame.

    Raises:
        CorruptVideoError: not a video, a file that refers to other files, or a header that promises more frames
            than the file can hold.
    """
    check_head(source, name)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    if not split_packets:
        options["fflags"] = "noparse"
    try:
        return av.open(source, metadata_errors="replace", options=options)
    except av.ArgumentError as error:
        reason = "its format is not one that contains the video itself (MP4 does, a playlist does not)"
        if isinstance(source, str) and "%" in os.path.basename(source):
            reason += ", or its name is a pattern: rename it without %"
        raise CorruptVideoError(name, f"FFmpeg does not open it: {reason}") from error
    except av.FFmpegError as error:
        raise CorruptVideoError(name, f"FFmpeg cannot open it ({error.strerror})") from error


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """
    The pixels of an image of any mode: uint8 (height, width, 3), with the rotation of its file applied. This is the
    one rule for files, bytes, addresses and PIL images:

    - Transparent images lie over white, as in `transformers`.
    - 16-bit grey images keep their upper 8 bits, as Pillow does for colours; Pillow itself would convert them to
      white. Mode `I` counts as 16-bit if a value exceeds 255.
    - CMYK is converted as Pillow does. Colour profiles (ICC) are not applied.

    Raises:
        UnknownScaleError: floats, or integers of more than 16 bits.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise this would be a copy of a large image
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        low, high = image.getextrema()
        if low < 0 or high > 65535:
            raise UnknownScaleError(
                f"an image with values from {low} to {high} has no known scale: save it with 8 bits"
            )
        if image.mode != "I" or high > 255:
            grey = np.asarray(image) // 256
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise UnknownScaleError("an image of floats has no known scale: save it with 8 bits")
    if image.has_transparency_data:
        return over_white(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def over_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 4) over white, rounded: equal to what `transformers` computes in floats."""
    rgb = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
    for top in range(0, len(rgba), 64):  # a few rows at a time, since 16 bits would double a large image
        rows = rgba[top : top + 64].astype(np.uint16)
        rgb[top : top + 64] = 255 - ((255 - rows[..., :3]) * rows[..., 3:] + 127) // 255
    return rgb


def read_image(source: str | os.PathLike | bytes, name: str) -> np.ndarray:
    """
    Reads an image with Pillow; see [`rgb_pixels`].

    Args:
        source: path or bytes of a file.
        name: name of the image in errors.

    Returns:
        uint8 (height, width, 3), RGB, with the rotation of the file applied.

    Raises:
        CorruptVideoError: not an image, an incomplete image, more than `MAX_PIXELS` pixels, an image without a known
            scale, or a file with several images, which is a video.
    """
    what = "it" if isinstance(source, bytes) else os.path.basename(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_IMAGE_FORMATS) as image:
            if refusal := _why_refused(image):
                raise CorruptVideoError(name, f"{what} {refusal}")
            return rgb_pixels(image)
    except CorruptVideoError:
        raise
    except UnknownScaleError as error:
        raise CorruptVideoError(name, f"{what} is {error}") from error
    except Image.DecompressionBombError as error:
        raise CorruptVideoError(name, f"{what} has more pixels than Pillow reads ({error}): scale it down") from error
    except _BROKEN_IMAGE as error:
        # Pillow's message has the whole path, which is private in the app and in logs.
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise CorruptVideoError(name, f"{what} is not a complete image ({reason})") from error


def _why_refused(image: Image.Image) -> str:
    """Why an image that is open but not loaded must not be read; empty if it may be read."""
    if image.width * image.height > MAX_PIXELS:
        return (
            f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS}: scale it down, or raise the "
            "environment variable VJEPA_MAX_PIXELS"
        )
    # A photograph of a phone (MPO) has further images beside it, such as its depth, and is still one photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        remedy = "rename it to .apng" if image.format == "PNG" else "save it as a video (.mp4) or .gif"
        return f"holds several images ({image.format}), which would be read as a still: {remedy}, or keep one image"
    return ""


def read_address(url: str, *, name: str, **options: Any) -> bytes:
    """
    The file at an address of any kind that fsspec supports.

    Args:
        url: the address.
        name: name of the file in errors.
        options: of fsspec for this address.

    Raises:
        CorruptVideoError: the file has more than `MAX_FILE_BYTES` bytes after unpacking, or takes longer than
            `MAX_FETCH_SECONDS`.
        OSError: the file cannot be read.
    """
    system, path = fsspec.core.url_to_fs(url, **options)
    # A stream of one request. fsspec would first ask for the size, which no bound can rely on.
    streamed = {"block_size": 0, "size": 1, "headers": {"Accept-Encoding": "identity"}}
    start, read = time.monotonic(), io.BytesIO()
    with system.open(path, "rb", **(streamed if url.startswith(("http://", "https://")) else {})) as file:
        while chunk := file.read(min(2**20, MAX_FILE_BYTES + 1 - read.tell())):
            read.write(chunk)
            if read.tell() > MAX_FILE_BYTES:
                variable, bound = "VJEPA_MAX_FILE_BYTES", f"{MAX_FILE_BYTES} bytes"
            elif time.monotonic() - start > MAX_FETCH_SECONDS:
                variable, bound = "VJEPA_MAX_FETCH_SECONDS", f"{MAX_FETCH_SECONDS} seconds"
            else:
                continue
            remedy = f"download it, or raise the environment variable {variable}"
            raise CorruptVideoError(name, f"its address sends more than {bound} allow: {remedy}")
    return read.getvalue()


def check_head(source: str | BinaryIO, name: str) -> None:
    """
    Refuses what no decoder may see. Every decoder calls this function before it opens a file: the FFmpeg of decord
    and torchcodec follows playlists that the FFmpeg of PyAV takes for a video.

    Args:
        source: path, or a binary file object, which is set to its start.
        name: name of the video in errors.

    Raises:
        CorruptVideoError: a text that may name other files, an MP4 file whose frames are in another file, or an MP4
            header that promises more frames than the file can hold.
    """
    if isinstance(source, str):
        with open(source, "rb") as file:
            return check_head(file, name)
    for head in _heads(source, name):
        if _refers(head):
            raise CorruptVideoError(name, f"it begins as a text or playlist ({head[:40]!r}): pass the video itself")
    _check_promises(source, name)


def _heads(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The first bytes of a file, and those behind each ID3 tag at its start, which FFmpeg skips."""
    start = 0
    for _ in range(_MAX_ID3_TAGS):
        file.seek(start)
        head = file.read(_HEAD)
        if head and b"\0" not in head:  # FFmpeg searches up to the first zero byte
            head += file.read(_PROBED - _HEAD)
        yield head
        if not head.startswith(b"ID3") or len(head) < 10:
            return
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 16 else 0)
    raise CorruptVideoError(name, f"it begins with more than {_MAX_ID3_TAGS} ID3 tags: remove them")


def _refers(head: bytes) -> bool:
    """Whether these first bytes are those of a text, or of a format that names other files."""
    start = head
    for mark in _MARKS_OF_ORDER:
        if head.startswith(mark):
            start = head[len(mark) :].replace(b"\0", b"")
    start = start.lstrip(_BLANKS)
    if _REFERRING_HEAD.match(start) or any(_REFERRING_MARK.search(text.partition(b"\0")[0]) for text in (head, start)):
        return True
    return _is_text(start[:_TEXT_HEAD]) and not _CONTAINER_HEAD.match(head)


def _is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters; they may end within a character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(character.isprintable() or character in "\t\r\n" for character in text)


def _check_promises(source: BinaryIO, name: str) -> None:
    """Refuses MP4 headers that promise more frames than fit into the file; FFmpeg would allocate an index for all."""
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
        if kind == b"dref":
            file.seek(start)
            _check_references(file.read(min(end - start, 4096)), name)
        if kind in (b"trak", b"moof"):
            yield _promised(tables)
            tables = {}
        if kind in _COUNTING:
            file.seek(start)
            tables.setdefault(kind, []).append(file.read(end - start))
    yield _promised(tables)


def _check_references(table: bytes, name: str) -> None:
    """Refuses a table of data references (`dref`) with an entry that is another file."""
    start = 8
    while start + 12 <= len(table):
        size, kind, flags = struct.unpack_from(">I4sI", table, start)
        # Flag 1: the frames are in this file. Of the other entries FFmpeg knows the aliases of QuickTime.
        if kind in (b"alis", b"rsrc") and not flags & 1:
            raise CorruptVideoError(name, "its frames are in another file: write one file (ffmpeg -i FILE OUT.mp4)")
        start += max(size, 12)


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
