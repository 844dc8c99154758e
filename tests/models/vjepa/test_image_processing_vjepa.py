"""The image processor: values equal to those of the video processor, inputs, and saved settings."""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from faulty_server import serving
from reference import TINY
from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.dynamic_module_utils import get_imports

from transformers_vjepa import VJEPAConfig, VJEPAImageProcessor, VJEPAVideoProcessor
from transformers_vjepa.models.vjepa import media_files
from transformers_vjepa.models.vjepa.clip_transforms import (
    center_crop,
    normalize_clips,
    resize_and_center_crop,
    resize_short_side,
)
from transformers_vjepa.models.vjepa.media_files import read_image


@pytest.fixture
def processor() -> VJEPAImageProcessor:
    return VJEPAImageProcessor(crop_size=32)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """(height, width, channels)"""
    return np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)


def values_of(processor: VJEPAImageProcessor, images: object, **arguments) -> torch.Tensor:
    return processor(images, return_tensors="pt", **arguments)["pixel_values"]


def test_values_by_hand():
    # Halving: every new pixel is the mean of 2 x 2 pixels. Mean 0.5 and deviation 0.25 turn a share v into 4 v - 2.
    processor = VJEPAImageProcessor(crop_size=2, size=2, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    image = np.array([[0, 0, 51, 51], [0, 0, 51, 51], [102, 102, 255, 255], [102, 102, 255, 255]], dtype=np.uint8)
    values = values_of(processor, image[None].repeat(3, axis=0))
    assert values.shape == (1, 3, 2, 2) and values.dtype == torch.float32
    torch.testing.assert_close(values[0], torch.tensor([[-2.0, -1.2], [-0.4, 2.0]]).expand(3, 2, 2))


def test_published_geometry():
    # 448 x 300 at short side 256: long side floor(256 x 448 / 300) = 382, crop from (16, 79).
    image = torch.randint(0, 256, (3, 300, 448), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = values_of(VJEPAImageProcessor(), image)
    resized = torch.nn.functional.interpolate(image[None].float(), (256, 382), mode="bilinear", antialias=False)
    expected = resized[0, :, 16:240, 79:303]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    # The fixed-point resize rounds each of its two passes.
    assert ((values[0] * std + mean) * 255 - expected).abs().max() < 1.2


@pytest.mark.parametrize("shape", [(45, 61), (61, 45), (200, 131), (20, 20)])
@pytest.mark.parametrize("crop_size", [32, 48])
def test_same_values_as_a_clip_of_one_frame(shape, crop_size):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    first = torch.from_numpy(image).permute(2, 0, 1)
    images, videos = VJEPAImageProcessor(crop_size=crop_size), VJEPAVideoProcessor(crop_size=crop_size)
    transparent = np.concatenate([image, image[..., :1]], axis=-1)
    pil = PIL.Image.fromarray(image)
    for given in (image, first, first.contiguous(), first / 255, image[..., :1], transparent, pil):
        expected = videos(given, return_tensors="pt")["pixel_values_videos"]
        values = values_of(images, given)
        assert values.shape == (1, 3, crop_size, crop_size)
        assert torch.equal(values, expected[:, 0])


def test_all_inputs_give_the_same_values(image, processor, tmp_path):
    first = torch.from_numpy(image).permute(2, 0, 1)
    expected = normalize_clips(resize_and_center_crop(first[None], size=32))
    pil = PIL.Image.fromarray(image)
    pil.save(tmp_path / "image.png")
    read_only = image.copy()
    read_only.flags.writeable = False
    for images in (
        image,
        first,
        first.contiguous(),
        first[None],
        [image],
        (first,),
        np.ascontiguousarray(image[::-1])[::-1],
        read_only,
        pil,
        [pil],
        [[pil]],
        str(tmp_path / "image.png"),
        [str(tmp_path / "image.png")],
    ):
        torch.testing.assert_close(values_of(processor, images), expected, atol=1e-6, rtol=0)


def test_addresses_and_base64_are_read_as_files_are(processor, tmp_path, monkeypatch):
    transparent = np.random.default_rng(2).integers(0, 256, (45, 61, 4), dtype=np.uint8)
    file = tmp_path / "image.png"
    PIL.Image.fromarray(transparent).save(file)
    expected = values_of(processor, transparent)
    encoded = base64.b64encode(file.read_bytes()).decode()
    with serving() as server:
        server.files["/image.png"] = file.read_bytes()
        address = server.url("/image.png")
        for given in (str(file), encoded, f"data:image/png;base64,{encoded}", address, PIL.Image.open(file)):
            assert torch.equal(values_of(processor, given), expected)
        monkeypatch.setattr(media_files, "MAX_FILE_BYTES", file.stat().st_size - 1)
        with pytest.raises(ValueError, match="its address sends more than"):
            processor(address)
    with pytest.raises(ValueError, match=r"'gone.png' is not an image: pass the path of a file, an address \(http, h"):
        processor("gone.png")


def test_batches(image, processor):
    other = image[:, ::-1].transpose(1, 0, 2)
    batch = values_of(processor, [image, PIL.Image.fromarray(other)])
    assert batch.shape == (2, 3, 32, 32)
    assert torch.equal(batch[0], values_of(processor, image)[0])
    assert torch.equal(batch[1], values_of(processor, other)[0])
    assert torch.equal(values_of(processor, np.stack([image, image[::-1]]))[0], batch[0])
    listed = processor([image, other])["pixel_values"]
    assert isinstance(listed, list) and torch.equal(listed[1], batch[1])
    assert processor(image, return_tensors="np")["pixel_values"].dtype == np.float32


def test_grey_images(image, processor):
    expected = values_of(processor, image[..., :1].repeat(3, axis=-1))
    assert torch.equal(values_of(processor, image[..., :1]), expected)
    assert torch.equal(values_of(processor, PIL.Image.fromarray(image[..., 0])), expected)
    with pytest.raises(ValueError, match="is not RGB"):
        processor(image[..., :1], do_convert_rgb=False)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_grey_images_of_16_bits(image, processor, tmp_path, mode):
    grey = image[..., 0]
    expected = values_of(processor, PIL.Image.fromarray(grey))
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.int32) * 257)
    assert deep.mode == mode
    file = tmp_path / "deep.tiff"
    deep.save(file)
    for given in (deep, str(file)):
        assert torch.equal(values_of(processor, given), expected)
    frames = VJEPAVideoProcessor(crop_size=32)([deep], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(frames[0], expected)
    assert np.array_equal(read_image(file, "deep"), grey[..., None].repeat(3, axis=-1))


def test_steps_can_be_left_out(image, processor):
    raw = values_of(processor, image, do_rescale=False, do_normalize=False)
    assert raw.dtype == torch.uint8
    assert torch.equal(normalize_clips(raw), values_of(processor, image))
    whole = values_of(processor, image, do_resize=False, do_center_crop=False, do_normalize=False)
    torch.testing.assert_close(whole[0].permute(1, 2, 0), torch.from_numpy(image) / 255)


def test_size_follows_the_crop(image, processor):
    assert VJEPAImageProcessor().size.shortest_edge == 256
    assert VJEPAImageProcessor(crop_size=384).size.shortest_edge == 438
    assert VJEPAImageProcessor(crop_size=384, size=400).size.shortest_edge == 400
    frames = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = normalize_clips(resize_and_center_crop(frames, size=16))
    assert torch.equal(values_of(processor, image, crop_size=16), expected)
    expected = normalize_clips(center_crop(resize_short_side(frames, edge=30), size=16))
    assert torch.equal(values_of(processor, image, crop_size=16, size=30), expected)
    unset = values_of(processor, image, crop_size=None, do_resize=None)
    assert torch.equal(unset, values_of(processor, image))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(8, 8), r"an image of shape \(8, 8\) has rank 2"),
        (np.zeros((1, 2, 3, 8, 8)), "has rank 5"),
        ([], "an empty list is not an image"),
        (3, "a int is not an image"),
        (Path("image.png"), "Path is not an image.*as strings"),
        (torch.zeros(5, 8, 8), r"shape \(1, 5, 8, 8\) is not RGB"),
        (torch.zeros(3, 0, 8), "at least one frame and pixel"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "torch.int64: pass uint8"),
        (torch.full((3, 8, 8), 2.0), r"from 2 to 2: floats must lie in \[0, 1\]"),
        (torch.zeros(3, 40, 3), "pass `input_data_format="),
    ],
)
def test_input_errors(processor, images, match):
    with pytest.raises(ValueError, match=match):
        processor(images, return_tensors="pt")


def test_unequal_images_do_not_make_a_batch(image, processor):
    images = [image, image[:40]]
    arguments = {"do_resize": False, "do_center_crop": False}
    with pytest.raises(ValueError, match=r"\(3, 40, 61\), \(3, 45, 61\)\] do not make a batch"):
        processor(images, return_tensors="pt", **arguments)
    assert [image.shape for image in processor(images, **arguments)["pixel_values"]] == [
        (3, 45, 61),
        (3, 40, 61),
    ]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"crop_size": {"height": 32, "width": 48}}, "must be a square"),
        ({"size": {"height": 40, "width": 40}}, r'must be \{"shortest_edge": pixels\}'),
        ({"crop_size": 32, "size": 30}, "smaller than the crop of 32 pixels: leave `size` out to get 36"),
        ({"resample": 3}, "V-JEPA uses bilinear resizing only"),
    ],
)
def test_setting_errors(image, processor, settings, match):
    with pytest.raises(ValueError, match=match):
        VJEPAImageProcessor(**settings)
    with pytest.raises(ValueError, match=match):
        processor(image, **settings)


def test_unknown_arguments_are_refused(image, processor):
    with pytest.raises(TypeError, match="num_views"):
        processor(image, num_views=3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with both processors, of different sizes, and the configuration of a model."""
    VJEPAConfig(**TINY).save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=48, num_frames=4).save_pretrained(tmp_path)
    VJEPAImageProcessor(crop_size=32, size=40, image_mean=[0.5, 0.4, 0.3]).save_pretrained(tmp_path)
    return tmp_path


def test_each_auto_class_finds_its_own_file(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
    image, video = AutoImageProcessor.from_pretrained(folder), AutoVideoProcessor.from_pretrained(folder)
    assert isinstance(image, VJEPAImageProcessor) and isinstance(video, VJEPAVideoProcessor)
    assert (image.crop_size.height, image.size.shortest_edge, image.image_mean) == (32, 40, (0.5, 0.4, 0.3))
    assert (video.crop_size.height, video.size.shortest_edge, video.num_frames) == (48, 54, 4)
    smaller = AutoImageProcessor.from_pretrained(folder, crop_size=28)
    assert (smaller.crop_size.height, smaller.size.shortest_edge) == (28, 32)
    stored = json.loads((folder / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "VJEPAImageProcessor"
    assert stored["size"] == {"shortest_edge": 40} and "num_frames" not in stored


def test_both_are_found_by_the_model_type_alone(folder):
    for name, key in (("preprocessor_config.json", "image"), ("video_preprocessor_config.json", "video")):
        stored = json.loads((folder / name).read_text())
        del stored[f"{key}_processor_type"]
        (folder / name).write_text(json.dumps(stored))
    assert isinstance(AutoImageProcessor.from_pretrained(folder), VJEPAImageProcessor)
    assert isinstance(AutoVideoProcessor.from_pretrained(folder), VJEPAVideoProcessor)


def test_settings_of_images_alone_make_a_video_processor(folder):
    # AutoVideoProcessor falls back to the file of the image processor.
    (folder / "video_preprocessor_config.json").unlink()
    video = AutoVideoProcessor.from_pretrained(folder)
    assert isinstance(video, VJEPAVideoProcessor)
    assert (video.crop_size.height, video.size.shortest_edge, video.num_frames) == (32, 40, 16)


def test_code_travels_with_the_settings(tmp_path, monkeypatch):
    for processor, name in ((VJEPAImageProcessor, "AutoImageProcessor"), (VJEPAVideoProcessor, "AutoVideoProcessor")):
        monkeypatch.setattr(processor, "_auto_class", name)
        processor(crop_size=32).save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.py"))
    assert {file.name for file in files} == {
        "clip_sampling.py",
        "clip_transforms.py",
        "configuration_vjepa.py",
        "frame_table.py",
        "media_files.py",
        "other_readers.py",
        "pyav_reader.py",
        "video_reader.py",
        "decoding.py",
        "image_processing_vjepa.py",
        "video_processing_vjepa.py",
    }
    # Packages that a user must have installed: no optional decoder.
    needed = {package for file in files for package in get_imports(file)}
    expected = {"PIL", "av", "fsspec", "huggingface_hub", "numpy", "torch", "torchvision", "transformers"}
    assert needed <= expected | set(sys.stdlib_module_names)
