"""Files that are opened with FFmpeg or Pillow; tests/faults/test_security.py has the attacks."""

import io

import numpy as np
import pytest
from PIL import Image
from videos import write_video

from transformers_vjepa.models.vjepa.clip_sampling import CorruptVideoError
from transformers_vjepa.models.vjepa.media_files import open_container, read_image, rgb_pixels


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


@pytest.mark.parametrize("data", [b"", b"text", b"#EXTM3U\n#EXTINF:1,\nsecret.ts\n"])
def test_other_files_are_not_opened(data):
    with pytest.raises(CorruptVideoError, match=r"^a.mp4: FFmpeg (does not|cannot) open it"):
        open_container(io.BytesIO(data), "a.mp4")
