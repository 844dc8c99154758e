"""Files that are opened with FFmpeg or Pillow; tests/faults/test_security.py has the attacks."""

import importlib.util
import io
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from videos import write_video

from transformers_vjepa.models.vjepa import media_files
from transformers_vjepa.models.vjepa.clip_sampling import ClipSampling, CorruptVideoError
from transformers_vjepa.models.vjepa.decoding import decode_frames, read_clip
from transformers_vjepa.models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from transformers_vjepa.models.vjepa.media_files import (
    IMAGE_EXTENSIONS,
    UNREADABLE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    UnknownScaleError,
    check_head,
    extension,
    open_container,
    read_image,
    rgb_pixels,
)

DOCS = Path(__file__).resolve().parents[3] / "docs"


def png(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **settings)
    return file.getvalue()


def test_images_of_every_mode_become_rgb():
    grey = np.array([[0, 255]], dtype=np.uint8)
    expected = [[[0, 0, 0], [255, 255, 255]]]
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey).convert("1"),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(grey).convert("RGBA"),
        Image.fromarray(grey.astype(np.uint16) * 257),  # I;16
        Image.fromarray(grey.astype(np.int32) * 257),  # I, with values of 16 bits
        Image.fromarray(grey.astype(np.int32)),  # I, with values of 8 bits
    ):
        pixels = rgb_pixels(image)
        assert pixels.dtype == np.uint8 and pixels.tolist() == expected, image.mode


def test_images_are_rotated_as_their_file_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the image is the right side of the pixels
    data = png(Image.fromarray(np.array([[1, 2]], dtype=np.uint8)), exif=exif)
    assert read_image(data, "turned.png")[..., 0].tolist() == [[1], [2]]


def test_images_from_paths_and_bytes(tmp_path):
    data = png(Image.fromarray(np.array([[7]], dtype=np.uint8)))
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(data, "a").tolist() == read_image(tmp_path / "a.png", "a").tolist() == [[[7, 7, 7]]]
    with pytest.raises(CorruptVideoError, match=r"^a sample: it is not a complete image \("):
        read_image(data[:40], "a sample")
    (tmp_path / "a.png").write_bytes(data[:40])
    with pytest.raises(CorruptVideoError, match=r"^a folder: a.png is not a complete image \("):
        read_image(tmp_path / "a.png", "a folder")


def test_videos_from_paths_and_file_objects(tmp_path):
    path = write_video(tmp_path / "a.mp4", level=9)
    for source in (str(path), io.BytesIO(path.read_bytes())):
        with open_container(source, "a.mp4") as container:
            assert container.streams.video[0].frames == 12


def test_other_files_are_not_opened():
    with pytest.raises(CorruptVideoError, match=r"^a.mp4: FFmpeg cannot open it"):
        open_container(io.BytesIO(b""), "a.mp4")
    with pytest.raises(
        CorruptVideoError, match=r"^a.mp4: it begins as a text or playlist \(b'text'\): pass the video"
    ):
        open_container(io.BytesIO(b"text"), "a.mp4")


# Extensions ----------------------------------------------------------------------------------------------


def test_the_docs_list_every_extension():
    section = (DOCS / "data_formats.md").read_text().partition("\n## Files\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\.\w+)`", section))
    assert listed == VIDEO_EXTENSIONS | IMAGE_EXTENSIONS | UNREADABLE_EXTENSIONS
    assert not UNREADABLE_EXTENSIONS & (VIDEO_EXTENSIONS | IMAGE_EXTENSIONS)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("a/B.MP4", ".mp4"),
        ("a.b/c", ""),
        ("a.mp4?x=1", ".mp4?x=1"),  # a file may have this name
        ("https://host/a.PNG?X-Signature=a.b", ".png"),
        ("https://host/a.mp4#t=3.5", ".mp4"),
        ("zip://a.webm::https://host/b.zip?x=1", ".webm"),
        ("hf://datasets/user/name@main/a.tar", ".tar"),
    ],
)
def test_extensions(path, expected):
    assert extension(path) == expected


CONTAINERS = {
    "mpegts": ("mpeg2video", [".ts", ".mts", ".m2ts", ".m2t", ".tod", ".tp", ".trp"]),
    "vob": ("mpeg2video", [".vob", ".mpg", ".mpeg", ".mpe", ".evo"]),
    "avi": ("mpeg4", [".avi", ".divx", ".xvid"]),
    "mov": ("mpeg4", [".mov", ".qt"]),
    "mp4": ("mpeg4", [".mp4", ".m4v", ".mp4v", ".f4v", ".insv", ".lrv", ".ismv"]),
    "3gp": ("mpeg4", [".3gp", ".3g2", ".3gpp", ".3gp2"]),
    "matroska": ("mpeg4", [".mkv", ".mk3d", ".webm"]),
    "asf": ("msmpeg4", [".wmv", ".asf"]),
    "flv": ("flv", [".flv"]),
    "rm": ("rv20", [".rm", ".rmvb"]),
    "ogg": ("libvpx", [".ogv", ".ogg", ".ogm"]),
    "nut": ("mpeg4", [".nut"]),
    "gif": ("gif", [".gif"]),
    "apng": ("apng", [".apng"]),
    "mpeg1video": ("mpeg1video", [".m1v", ".mpv"]),
    "mpeg2video": ("mpeg2video", [".m2v"]),
    "mjpeg": ("mjpeg", [".mjpeg", ".mjpg"]),
    "h264": ("libx264", [".264", ".h264"]),
    "hevc": ("libx265", [".265", ".h265", ".hevc"]),
    "yuv4mpegpipe": ("wrapped_avframe", [".y4m"]),
    "dv": ("dvvideo", [".dv"]),
    "ivf": ("libvpx", [".ivf"]),
}
#: Written by no encoder of PyAV that is fast enough for a test.
UNTRIED = {".obu"}


def test_every_extension_is_tried():
    assert {name for _, names in CONTAINERS.values() for name in names} | UNTRIED == VIDEO_EXTENSIONS


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_extension_of_a_video_is_read(tmp_path, container):
    codec, extensions = CONTAINERS[container]
    width, height = (720, 576) if container == "dv" else (176, 144)
    file = tmp_path / f"a{extensions[0]}"
    with av.open(str(file), "w", format=container) as output:
        try:
            stream = output.add_stream(codec, rate=25)
        except (ValueError, av.FFmpegError):
            pytest.skip(f"this PyAV has no encoder {codec}")
        stream.width, stream.height = width, height
        stream.pix_fmt = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}.get(container, "yuv420p")
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, dtype=np.uint8), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        for number in range(6):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    for name in extensions:
        renamed = file.rename(tmp_path / f"a{name}")
        clip = read_clip(renamed, sampling=ClipSampling(num_frames=2, frame_step=1))
        assert clip.shape == (2, 3, height, width) and 110 < clip.float().mean() < 140
        file = renamed


@pytest.mark.parametrize("name", sorted(IMAGE_EXTENSIONS))
def test_every_extension_of_an_image_is_read(tmp_path, name):
    if name == ".j2k":
        Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "a.j2k", "JPEG2000")
    else:
        mode, colour = ("1", 0) if name == ".pbm" else ("L", 9) if name == ".pgm" else ("RGB", (9, 9, 9))
        Image.new(mode, (16, 16), colour).save(tmp_path / f"a{name}")
    assert abs(int(read_image(tmp_path / f"a{name}", "a").max()) - 9) <= 9
    assert decode_frames(tmp_path, [0]).shape == (1, 3, 16, 16)


def test_a_folder_of_frames_loses_no_frame(tmp_path):
    for name in ("0.png", "1.TIF", "2.png"):
        Image.new("L", (8, 8), int(name[0])).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert decode_frames(tmp_path, [0, 1, 2])[:, 0, 0, 0].tolist() == [0, 1, 2]
    (tmp_path / "1.heic").touch()
    with pytest.raises(CorruptVideoError, match="1 of its frames, such as 1.heic, cannot be read: convert them"):
        decode_frames(tmp_path, [0])


def test_a_name_with_a_pattern_of_frames_is_refused_with_the_remedy(tmp_path):
    """FFmpeg would read the files that fit the pattern."""
    for name in ("a%03d.png", "a000.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    with pytest.raises(CorruptVideoError, match="or its name is a pattern: rename it without %"):
        read_clip(tmp_path / "a%03d.png", sampling=ClipSampling(num_frames=1))


# Images ---------------------------------------------------------------------------------------------------


def transparent(mode: str) -> Image.Image:
    """Red, or dark grey, of which the left pixel is invisible, the middle one is half and the right one opaque."""
    image = Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [255, 0, 0, 255]]], dtype=np.uint8))
    if mode == "P":
        palette = image.convert("RGB").quantize(2)
        palette.putdata([0, 1, 1])
        palette.putpalette([255, 0, 0, 255, 0, 0])
        palette.info["transparency"] = 0
        return palette
    if mode == "RGB":
        keyed = Image.fromarray(np.array([[[1, 2, 3], [255, 0, 0], [255, 0, 0]]], dtype=np.uint8))
        keyed.info["transparency"] = (1, 2, 3)
        return keyed
    return image.convert(mode)


WHITE, HALF, RED = [255, 255, 255], [255, 127, 127], [255, 0, 0]


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("RGBA", [WHITE, HALF, RED]),
        ("LA", [WHITE, [165] * 3, [76] * 3]),
        ("P", [WHITE, RED, RED]),
        ("RGB", [WHITE, RED, RED]),
    ],
)
def test_transparent_images_lie_over_white_by_every_way_in(tmp_path, mode, expected):
    image = transparent(mode)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for pixels in (rgb_pixels(image), read_image(data, "a"), read_image(tmp_path / "a.png", "a")):
        assert pixels.tolist() == [expected]
    assert decode_frames(tmp_path, [0])[0].permute(1, 2, 0).tolist() == [expected]


def test_transparency_is_that_of_arrays_for_every_value(tmp_path):
    grid = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).astype(np.uint8)
    rgba = grid[..., [0, 0, 0, 1]]
    processor = VJEPAImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    of_array = processor(rgba, return_tensors="pt")["pixel_values"][0]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    for given in (Image.fromarray(rgba), str(tmp_path / "a.png")):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"][0], of_array)


@pytest.mark.parametrize("kind", ["gif", "apng"])
def test_transparent_videos_lie_over_white(tmp_path, kind):
    frames = []
    for number in range(3):
        pixels = np.full((16, 16, 4), (255, 0, 0, 255), dtype=np.uint8)
        pixels[:8, :, 3] = 0
        pixels[12:, : 4 * number] = (0, 0, 255, 255)
        frames.append(Image.fromarray(pixels))
    still, *others = frames
    still.save(
        tmp_path / f"a.{kind}", "PNG" if kind == "apng" else "GIF", save_all=True, append_images=others, duration=100
    )
    first = read_clip(tmp_path / f"a.{kind}", sampling=ClipSampling(num_frames=2, frame_step=1))[0]
    assert first[:, 4, 4].tolist() == WHITE and first[:, 10, 4].tolist() == RED


def test_rotated_images_are_upright_by_every_way_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[1, 2]], dtype=np.uint8)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert rgb_pixels(image)[..., 0].tolist() == [[1], [2]]
    assert decode_frames(tmp_path, [0])[0, 0].tolist() == [[1], [2]]


def test_images_without_a_known_scale_are_refused(tmp_path):
    for values, message in (
        (np.full((4, 4), 0.5, dtype=np.float32), "an image of floats has no known scale: save it with 8 bits"),
        (np.full((4, 4), 70000, dtype=np.int32), "an image with values from 70000 to 70000 has no known scale"),
        (np.full((4, 4), -1, dtype=np.int32), "an image with values from -1 to -1 has no known scale"),
    ):
        image = Image.fromarray(values)
        image.save(tmp_path / "a.tif")
        with pytest.raises(UnknownScaleError, match=message):
            rgb_pixels(image)
        with pytest.raises(CorruptVideoError, match=f"^b: a.tif is {message}"):
            read_image(tmp_path / "a.tif", "b")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animated_images_are_no_stills(tmp_path, kind):
    if kind == "AVIF" and ".avif" not in IMAGE_EXTENSIONS:
        pytest.skip("this Pillow reads no AVIF")
    still, *others = (Image.new("RGB", (16, 16), (level, 0, 0)) for level in (0, 100, 200))
    one, three = io.BytesIO(), io.BytesIO()
    still.save(one, kind)
    still.save(three, kind, save_all=True, append_images=others, duration=100)
    assert read_image(one.getvalue(), "a").shape == (16, 16, 3)
    with pytest.raises(CorruptVideoError, match=rf"^a: it holds several images \({kind}\), which would be .* still: "):
        read_image(three.getvalue(), "a")


def test_photographs_with_a_second_image_are_stills():
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(
        file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), (200, 0, 0))]
    )
    assert read_image(file.getvalue(), "a").tolist() == np.full((16, 16, 3), 9).tolist()


# Bounds ---------------------------------------------------------------------------------------------------


def test_images_have_at_most_so_many_pixels(monkeypatch):
    data = png(Image.new("RGB", (8, 4)))
    monkeypatch.setattr(media_files, "MAX_PIXELS", 32)
    assert read_image(data, "a").shape == (4, 8, 3)
    monkeypatch.setattr(media_files, "MAX_PIXELS", 31)
    with pytest.raises(
        CorruptVideoError, match=r"it has 8x4 pixels, more than 31: scale it down, or raise .*MAX_PIXE"
    ):
        read_image(data, "a")


def test_bounds_are_set_by_the_environment(monkeypatch):
    names = ("MAX_PIXELS", "MAX_CLIP_BYTES", "MAX_FILE_BYTES", "MAX_FETCH_SECONDS")
    assert [getattr(media_files, name) for name in names] == [2**26, 2**31, 2**30, 600]
    for number, name in enumerate(names, start=7):
        monkeypatch.setenv(f"VJEPA_{name}", str(number))
    spec = importlib.util.spec_from_file_location(f"{media_files.__name__}_again", media_files.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert [getattr(again, name) for name in names] == [7, 8, 9, 10]
    for wrong in ("0", "-1", "1e9", ""):
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(ValueError, match=f"VJEPA_X='{wrong}' must be a who"),
        ):
            patch.setenv("VJEPA_X", wrong)
            media_files._bound("VJEPA_X", 1)


# Heads ----------------------------------------------------------------------------------------------------

PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n",
    "short": b"#EXTM3U\n",
    "concat": b"ffconcat version 1.0\nfile x\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 1.2.3.4\n",
    "sdp without its first line": b"\xff\xfe\x01s=x\nc=IN IP4 1.2.3.4\nm=video 9 RTP/AVP 96\n",
    "dash": b"<?xml version='1.0'?><MPD>",
    "dash behind binary": b"\xff\x01<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>",
    "imf": b"\x01<CompositionPlaylist>",
    "pls": b"[playlist]\nFile1=x\n",
    "asx": b"<ASX version='3'>",
    "asf reference": b"[Reference]\nRef1=http://host/x\n",
    "smil": b"<smil>",
    "subtitles": b"# VobSub index file, v7\n",
    "quicktime text": b"RTSPtextrtsp://host/x\n",
    "address": b"http://host/x\n",
    "cue": b'REM x\nFILE "a.avi" BINARY\n',
    "plain": b"anything at all that is printable\n",
}
BEFORE = {
    "nothing": b"",
    "UTF-8": b"\xef\xbb\xbf",
    "blanks": b" \r\n\t",
    "zeros": b"\0\0\0\0",
    "ID3": b"ID3\4\0\0\0\0\0\x02ab",
    "ID3 with a footer": b"ID3\4\0\x10\0\0\0\x02ab3DI\4\0\x10\0\0\0\x02",
    "two ID3": b"ID3\4\0\0\0\0\0\0" * 2,
    "large ID3": b"ID3\4\0\0\0\1\0\0" + bytes(2**14),
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_are_refused_whatever_stands_around_them(kind):
    for before in BEFORE.values():
        for after in (b"", b"\0", b"\x47\x40\0\x10" + bytes(400)):
            with pytest.raises(CorruptVideoError, match=r"^a: it begins as a text or playlist \(b"):
                check_head(io.BytesIO(before + PLAYLISTS[kind] + after), "a")


def test_playlists_in_wide_characters_are_refused():
    for order in ("utf-16-le", "utf-16-be"):
        with pytest.raises(CorruptVideoError, match="begins as a text"):
            check_head(io.BytesIO("\ufeff#EXTM3U\n".encode(order)), "a")


def test_marks_far_behind_the_start_are_found():
    with pytest.raises(CorruptVideoError, match="begins as a text"):
        check_head(io.BytesIO(b"\xff" * 900_000 + b"\nc=IN IP4 1.2.3.4\n"), "a")


def test_many_tags_are_refused_at_once():
    with pytest.raises(CorruptVideoError, match="it begins with more than 16 ID3 tags: remove them"):
        check_head(io.BytesIO(b"ID3\4\0\0\0\0\0\0" * 10**5), "a")


@pytest.mark.parametrize(
    "head",
    [
        b"RIFFABCDAVI LISTABCDhdrlavihABCDABCD",  # the sizes of a large file may be printable
        b"ABCDmdatABCDABCDABCDABCDABCDABCDABCD",
        b"YUV4MPEG2 W176 H144 F25:1 Ip A128:117 C420jpeg\nFRAME\n",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"<MPD c=IN IP4 #EXTM3U",
        b"",
    ],
)
def test_heads_of_media_are_not_refused(head):
    check_head(io.BytesIO(head), "a")


@pytest.mark.parametrize("flags, refused", [(0, True), (1, False)])
@pytest.mark.parametrize("kind", [b"alis", b"rsrc"])
def test_frames_in_another_file_are_refused(tmp_path, kind, flags, refused):
    video = write_video(tmp_path / "a.mp4", level=9).read_bytes()
    at = video.index(b"url \0\0\0\1")
    data = video[:at] + kind + flags.to_bytes(4, "big") + video[at + 8 :]
    if refused:
        with pytest.raises(CorruptVideoError, match=r"^<\d+ bytes>: its frames are in another file: write one file"):
            read_clip(data, sampling=ClipSampling(num_frames=2))
    else:
        assert read_clip(data, sampling=ClipSampling(num_frames=2)).shape == (2, 3, 32, 48)
