"""Models are loaded completely, or an error of one line says why not."""

import json
import os

import pytest
import torch
from reference import TINY, largest_difference
from safetensors.torch import load_file, save_file
from stock_models import stock_folder_of
from transformers import IJepaForImageClassification, ViTImageProcessor
from transformers.utils import logging

from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAVideoProcessor,
)
from transformers_vjepa.hub import loading
from transformers_vjepa.hub.loading import (
    load_model,
    load_processor,
    load_whole,
    read_config,
    without_load_report,
)
from transformers_vjepa.hub.transfer import HubError


@pytest.fixture
def folder(tmp_path):
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_whole_model_is_loaded_and_settings_are_passed_on(folder):
    assert load_whole(VJEPAModel, str(folder), remedy="", add_predictor=False).predictor is None


def test_missing_and_damaged_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    lost = sorted(name for name in weights if name.startswith("vjepa.predictor."))
    save_file({name: value for name, value in weights.items() if name not in lost}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"has no weights for {lost[0]} \({len(lost)} missing\): train it$"):
        load_whole(VJEPAForPreTraining, str(folder), remedy="train it")
    (folder / "model.safetensors").write_bytes(b"noise")
    with pytest.raises(ValueError, match=rf"the weights of {folder} are damaged .*: copy or download them again"):
        load_whole(VJEPAForPreTraining, str(folder), remedy="")


def test_weights_of_other_sizes_than_the_configuration_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises(ValueError, match="have other sizes than its config.json says: copy or download both again$"):
        load_whole(VJEPAModel, str(folder), remedy="")


def test_names_that_are_not_a_model_are_refused_without_asking_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FileNotFoundError, match="^there is no folder model/x here, though there is model: check"):
        load_whole(VJEPAModel, "model/x", remedy="")
    with pytest.raises(FileNotFoundError, match="^there is no folder /nowhere/x here: check the name"):
        load_whole(VJEPAModel, "/nowhere/x", remedy="")
    (folder.parent / "run" / "checkpoint-2").mkdir(parents=True)
    (folder.parent / "run" / "checkpoint-10").mkdir()
    os.utime(folder.parent / "run" / "checkpoint-2", (1, 1))
    with pytest.raises(FileNotFoundError, match=r"run holds no model \(no config.json\): .* run/checkpoint-10 is a"):
        load_whole(VJEPAModel, "run", remedy="")
    (folder.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no model \(no config.json\): check the name"):
        load_whole(VJEPAModel, "empty", remedy="")


def test_only_errors_of_the_hub_are_explained(folder):
    with pytest.raises(HubError, match="^no connection$"), loading.loading("me/name"):
        raise OSError("no\nconnection")
    with pytest.raises(PermissionError), loading.loading(str(folder)):
        raise PermissionError("locked")


def test_a_missing_processor_is_replaced_with_a_warning(folder, monkeypatch):
    messages, config = [], VJEPAConfig(**TINY)
    monkeypatch.setattr(loading.logger, "warning", messages.append)
    assert load_processor(str(folder), config).crop_size == VJEPAVideoProcessor.for_config(config).crop_size
    assert messages == [f"{folder} has no video processor: pixels are normalised with ImageNet's mean and deviation"]
    VJEPAVideoProcessor(crop_size=24, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    assert list(load_processor(str(folder), config).image_mean) == [0.1, 0.2, 0.3] and len(messages) == 1


def test_the_verbosity_is_restored_after_loading():
    before = logging.get_verbosity()
    with pytest.raises(KeyError), without_load_report():
        assert logging.get_verbosity() == logging.ERROR
        raise KeyError
    assert logging.get_verbosity() == before


# Stock I-JEPA models


def test_a_stock_encoder_is_loaded_by_its_name(tmp_path, monkeypatch):
    messages, stock = [], stock_folder_of(tmp_path / "stock", settings={"add_pooling_layer": True})
    monkeypatch.setattr(loading.logger, "warning", messages.append)
    name, images = str(tmp_path / "stock"), torch.randn(2, 3, 32, 32)
    config = read_config(name)
    assert config.is_image_model and config.pred_loss == "smooth_l1" and config.num_hidden_layers == 2
    with torch.no_grad():
        expected = stock(images).last_hidden_state
        encoder = load_whole(VJEPAModel, name, remedy="", add_predictor=False)
        assert largest_difference(encoder.get_vision_features(images), expected) < 1e-5
        model, info = load_model(VJEPAForPreTraining, name, dtype=torch.float32)
        for each in (model.vjepa.encoder, model.context_encoder):
            assert largest_difference(each(*each.embeddings.patchify(images)).last_hidden_state, expected) < 1e-5
    assert all(key.startswith("vjepa.predictor.") for key in info["missing_keys"]) and info["missing_keys"]
    left_out = "left out: position embeddings (computed), pooler (not part of I-JEPA)"
    begin = f"{name} is a stock I-JEPA model, an encoder without a predictor"
    assert messages == [f"{begin}; {left_out}", f"{begin}: the predictor is new; {left_out}"]
    with pytest.raises(ValueError, match=r"has no weights for vjepa.predictor.* missing\): train it$"):
        load_whole(VJEPAForPreTraining, name, remedy="train it")
    with pytest.raises(ValueError, match=r"has no weights for classifier.bias \(2 missing\): train it$"):
        load_whole(VJEPAForVideoClassification, name, remedy="train it")


def test_a_stock_classifier_is_loaded_by_its_name_with_its_pixels(tmp_path):
    name, images = str(tmp_path), torch.randn(2, 3, 32, 32)
    stock = stock_folder_of(tmp_path, IJepaForImageClassification, id2label={0: "a", 1: "b", 2: "c"})
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_whole(VJEPAForVideoClassification, name, remedy="")
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.config.pooling == "mean"
    with torch.no_grad():
        assert largest_difference(model.eval()(images).logits, stock(images).logits) < 1e-5
    processor = load_processor(name, model.config)
    assert list(processor.image_mean) == [0.5] * 3 and processor.crop_size["height"] == 32
