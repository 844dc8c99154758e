"""Requirements of `transformers` on processors, for the video and the image processor."""

import copy
import json
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoVideoProcessor

from transformers_vjepa import VJEPAImageProcessor, VJEPAVideoProcessor

SETTINGS = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 18, "width": 18},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "do_convert_rgb": False,
}


class Kind(NamedTuple):
    processor: type
    auto: type
    key: str
    shape: tuple[int, ...]  # of one input

    def pixels(self, batch: int = 2) -> torch.Tensor:
        """uint8, channels first."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (batch, *self.shape), dtype=torch.uint8, generator=generator)

    def values(self, inputs: object, **arguments: object) -> torch.Tensor:
        return self.processor(**SETTINGS)(inputs, return_tensors="pt", **arguments)[self.key]


VIDEOS = Kind(VJEPAVideoProcessor, AutoVideoProcessor, "pixel_values_videos", (4, 3, 25, 31))
IMAGES = Kind(VJEPAImageProcessor, AutoImageProcessor, "pixel_values", (3, 25, 31))
every_kind = pytest.mark.parametrize("kind", [VIDEOS, IMAGES], ids=["videos", "images"])


@every_kind
def test_settings_survive_every_way_to_write_them_down(kind, tmp_path):
    processor = kind.processor(**SETTINGS)
    expected = processor.to_dict()
    assert {name: json.loads(processor.to_json_string())[name] for name in SETTINGS} == SETTINGS
    processor.to_json_file(tmp_path / "own.json")
    assert kind.processor.from_json_file(tmp_path / "own.json").to_dict() == expected
    assert kind.processor.from_dict(expected).to_dict() == copy.deepcopy(processor).to_dict() == expected
    processor.save_pretrained(tmp_path / "first")
    for source in (kind.processor, kind.auto):
        loaded = source.from_pretrained(tmp_path / "first")
        assert type(loaded) is kind.processor and loaded.to_dict() == expected
    loaded.save_pretrained(tmp_path / "second")
    folders = (tmp_path / "first", tmp_path / "second")
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second and len(first) == 1
    (text,) = (content.decode() for content in first.values())
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@every_kind
def test_arguments_replace_settings_that_are_loaded(kind):
    given = copy.deepcopy(SETTINGS)
    processor, unused = kind.processor.from_dict(given, size=42, crop_size=30, return_unused_kwargs=True, zzz=1)
    assert (processor.size.shortest_edge, processor.crop_size.height, unused["zzz"]) == (42, 30, 1)
    assert given == SETTINGS  # the call does not change it
    assert kind.processor.from_dict(given, do_normalize=False).do_normalize is False


@every_kind
@pytest.mark.parametrize("name", ["do_resize", "do_rescale", "do_normalize"])
def test_none_stays_none(kind, name, tmp_path):
    processor = kind.processor(**SETTINGS, **{name: None})
    assert processor.to_dict()[name] is None
    processor.save_pretrained(tmp_path)
    assert getattr(kind.processor.from_pretrained(tmp_path), name) is None


@every_kind
def test_works_without_settings(kind):
    processor = kind.processor()
    assert processor.model_input_names == [kind.key]
    output = processor(kind.pixels(1), return_tensors="pt")
    assert list(output) == [kind.key]
    assert output[kind.key].shape == (1, *kind.shape[:-2], 224, 224)


@every_kind
def test_batches_in_every_form(kind):
    first = kind.pixels()
    expected = kind.values(first)
    assert expected.shape == (2, *kind.shape[:-2], 18, 18) and expected.dtype == torch.float32
    last = first.movedim(-3, -1).contiguous()
    forms = {
        "numpy, channels last": last.numpy(),
        "torch, channels last": last,
        "list": list(first),
        "list of numpy": list(last.numpy()),
        "list of lists": [[one] for one in first],
    }
    if kind is VIDEOS:
        forms["lists of frames"] = [list(one.numpy()) for one in last]
        forms["lists of images"] = [[PIL.Image.fromarray(frame) for frame in one.numpy()] for one in last]
    else:
        forms["images"] = [PIL.Image.fromarray(one) for one in last.numpy()]
    for name, inputs in forms.items():
        torch.testing.assert_close(kind.values(inputs), expected, atol=1e-6, rtol=0, msg=name)
    for index in range(2):  # each alone, as a batch of one
        assert torch.equal(kind.values(first[index])[0], expected[index])


@every_kind
def test_kinds_of_tensors(kind):
    processor, pixels = kind.processor(**SETTINGS), kind.pixels()
    expected = processor(pixels, return_tensors="pt")[kind.key]
    as_numpy = processor(pixels, return_tensors="np")[kind.key]
    assert isinstance(as_numpy, np.ndarray) and np.array_equal(as_numpy, expected)
    as_list = processor(pixels)[kind.key]
    assert isinstance(as_list, list) and torch.equal(torch.stack(as_list), expected)
    with pytest.raises(ValueError, match="xx is not a valid TensorType"):
        processor(pixels, return_tensors="xx")
    output = processor(pixels, return_tensors="pt", device="cpu")
    output["numbers"] = torch.tensor([1])
    half = output.to("cpu", torch.bfloat16)
    assert (half[kind.key].dtype, half["numbers"].dtype) == (torch.bfloat16, torch.int64)


@every_kind
def test_the_call_leaves_settings_and_inputs_alone(kind):
    processor, pixels = kind.processor(**SETTINGS), kind.pixels()
    settings, kept = processor.to_dict(), pixels.clone()
    small = processor(pixels, crop_size=10, do_normalize=False, return_tensors="pt")[kind.key]
    assert small.shape[-2:] == (10, 10) and 0 <= small.min() and small.max() <= 1
    assert processor.to_dict() == settings and torch.equal(pixels, kept)
    with pytest.raises(TypeError, match="zzz"):
        processor(pixels, zzz=1)


def test_sampling_is_off_unless_asked_for():
    video = torch.randint(0, 256, (8, 3, 25, 31), dtype=torch.uint8)
    processor = VJEPAVideoProcessor(**SETTINGS, frame_step=1)
    for sampled, frames in ((False, 8), (True, 3)):
        processor.do_sample_frames = sampled
        for inputs, batch in ((video, 1), ([video, video], 2)):
            values = processor(inputs, num_frames=3, return_tensors="pt")["pixel_values_videos"]
            assert values.shape == (batch, frames, 3, 18, 18)
    with pytest.raises(ValueError, match="the frame rate is unknown"):
        processor(video, num_frames=3, fps=1)


def test_there_is_one_backend(tmp_path):
    """Pillow resizes differently from the published code: a request for it also returns the torchvision backend."""
    VJEPAImageProcessor(**SETTINGS).save_pretrained(tmp_path)
    for backend in ("torchvision", "pil"):
        assert type(AutoImageProcessor.from_pretrained(tmp_path, backend=backend)) is VJEPAImageProcessor
