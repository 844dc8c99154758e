"""
The common tests of transformers, run on the classes of this package beside those of V-JEPA 2.

pytest does not collect this file. `make test-transformers` runs it, with a checkout of the transformers repository at
the installed version: its tests are not in the wheel. `TRANSFORMERS_CHECKOUT` names the checkout.
"""

import copy
import importlib
import os
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers

import tests.models
from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAModel,
    VJEPAVideoProcessor,
)


def checkout() -> Path:
    """The folder of the checkout; ends the run if there is none, or one of another version."""
    folder = Path(os.environ.get("TRANSFORMERS_CHECKOUT", ""))
    init = folder / "src" / "transformers" / "__init__.py"
    if not os.environ.get("TRANSFORMERS_CHECKOUT") or not init.is_file():
        pytest.exit("TRANSFORMERS_CHECKOUT names no checkout of transformers: run `make test-transformers`", 2)
    if f'__version__ = "{transformers.__version__}"' not in init.read_text(encoding="utf-8"):
        pytest.exit(f"{folder} is not transformers {transformers.__version__}, the installed version: remove it", 2)
    return folder


# The package of the tests of transformers is named `tests`, as this one is, and its files import each other by this
# name: both folders become one package.
tests.__path__.append(str(checkout() / "tests"))
tests.models.__path__.append(str(checkout() / "tests" / "models"))
modeling = importlib.import_module("tests.test_modeling_common")
configuration = importlib.import_module("tests.test_configuration_common")
videos = importlib.import_module("tests.test_video_processing_common")
images = importlib.import_module("tests.test_image_processing_common")
# As registering the classes in the library would do: tests of the loss leave out models without one.
modeling.MODEL_MAPPING_NAMES = {**modeling.MODEL_MAPPING_NAMES, "vjepa": "VJEPAModel"}
# Collected here too: the same tests on the same machine, for comparison.
VJEPA2ModelTest = importlib.import_module("tests.models.vjepa2.test_modeling_vjepa2").VJEPA2ModelTest


class ModelTester:
    """Tiny models and their inputs, as the common tests ask for them."""

    batch_size = 2
    is_training = True
    image_size, num_frames, num_channels = 16, 4, 3
    patch_size, tubelet_size = 8, 2
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 2
    seq_length = 8

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> VJEPAConfig:
        return VJEPAConfig(
            patch_size=self.patch_size,
            crop_size=self.image_size,
            frames_per_clip=self.num_frames,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            pred_hidden_size=32,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=2,
            num_pooler_layers=1,
        )

    def prepare_config_and_inputs(self) -> tuple[VJEPAConfig, dict[str, Any]]:
        shape = [self.batch_size, self.num_frames, self.num_channels, self.image_size, self.image_size]
        return self.get_config(), {"pixel_values_videos": modeling.floats_tensor(shape)}

    prepare_config_and_inputs_for_common = prepare_config_and_inputs


class VJEPAModelTest(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification)
    test_resize_embeddings = False  # there is no vocabulary

    def setUp(self) -> None:
        self.model_tester = ModelTester(self)

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        batch = len(inputs["pixel_values_videos"])
        if model_class is VJEPAForPreTraining:
            tokens = torch.arange(self.model_tester.seq_length).expand(batch, -1)
            inputs |= {"context_mask": tokens, "target_mask": tokens[:, 3:]}  # the tests expect all tokens
        if model_class is VJEPAForVideoClassification and return_labels:
            inputs["labels"] = torch.zeros(batch, dtype=torch.int64)
        return inputs

    def test_config(self) -> None:
        tester = configuration.ConfigTester(self, config_class=VJEPAConfig, has_text_modality=False, hidden_size=32)
        tester.run_common_tests()

    def test_model_get_set_embeddings(self) -> None:
        """As in the tests of V-JEPA 2: the embedding of patches is a linear layer."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            replacement = torch.nn.Linear(1, 1)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)
            self.assertIsNone(model.get_output_embeddings())

    def check_training_gradient_checkpointing(self, *arguments: Any, **keywords: Any) -> None:
        # The test looks at the first layer of a model. In pretraining, this is one of the target encoder, which gets
        # no gradients. tests/models/vjepa/test_rules_models.py looks at all layers.
        with mock.patch.object(type(self), "all_model_classes", (VJEPAModel, VJEPAForVideoClassification)):
            super().check_training_gradient_checkpointing(*arguments, **keywords)

    def test_correct_missing_keys(self) -> None:
        # The test expects missing keys where a model of pretraining is loaded from a base model. There, the context
        # encoder is a copy of the target encoder, as `VJEPAForPreTraining` says: no weight is random.
        with mock.patch.object(type(self), "all_model_classes", (VJEPAModel, VJEPAForVideoClassification)):
            super().test_correct_missing_keys()


SETTINGS = {
    "do_resize": True,
    "size": {"shortest_edge": 20},
    "do_center_crop": True,
    "crop_size": {"height": 18, "width": 18},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
SIZES = {"min_resolution": 30, "max_resolution": 80}


class VideoTester:
    """Inputs for the tests of video processors."""

    batch_size, num_frames, num_channels = 3, 8, 3

    def expected_output_video_shape(self, videos: list) -> tuple[int, ...]:
        return self.num_frames, self.num_channels, 18, 18

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> list:
        return videos.prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
            **SIZES,
        )


class VJEPAVideoProcessorTest(videos.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = VJEPAVideoProcessor
    test_cast_dtype = True
    # A clip always has `num_frames` frames, also at a rate: those that `test_call_sample_frames` expects.
    video_processor_dict = {**SETTINGS, "num_frames": 6}

    def setUp(self) -> None:
        super().setUp()
        self.video_processor_tester = VideoTester()

    @unittest.skip("a crop of 84 pixels from a side of 42 would have black borders: it is refused")
    def test_video_processor_from_dict_with_kwargs(self) -> None:
        pass


class ImageTester:
    """Inputs for the tests of image processors."""

    batch_size, num_channels = 3, 3
    image_processing_classes = {"torchvision": VJEPAImageProcessor}

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def prepare_image_processor_dict(self) -> dict[str, Any]:
        return dict(SETTINGS)

    def expected_output_image_shape(self, images: list) -> tuple[int, ...]:
        return self.num_channels, 18, 18

    def prepare_image_inputs(self, equal_resolution: bool = False, numpify: bool = False, torchify: bool = False):
        return images.prepare_image_inputs(
            batch_size=self.batch_size,
            num_channels=self.num_channels,
            equal_resolution=equal_resolution,
            numpify=numpify,
            torchify=torchify,
            **SIZES,
        )


class VJEPAImageProcessorTest(images.ImageProcessingTestMixin, unittest.TestCase):
    test_cast_dtype = True
    image_processor_tester_class = ImageTester

    @unittest.skip("the processors return RGB: four channels with `do_convert_rgb=False` are refused")
    def test_call_numpy_4_channels(self) -> None:
        pass
