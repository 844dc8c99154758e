"""Models are loaded completely, or an error of one line says why not."""

import json
import os

import pytest
from reference import TINY
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor
from transformers_vjepa.hub import loading
from transformers_vjepa.hub.loading import load_processor, load_whole, without_load_report
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
