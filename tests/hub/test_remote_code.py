"""The code beside uploaded models: one folder that is complete, added to uploads and never to local folders."""

import json
import os
from pathlib import Path

import pytest
from reference import TINY
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports
from transformers.utils import PushToHubMixin

from transformers_vjepa import VJEPAConfig, VJEPAImageProcessor, VJEPAModel, VJEPAVideoProcessor
from transformers_vjepa.hub.remote_code import AUTO_MAPS, add_code, code_files

NAMES = {file.name for file in code_files()}


@pytest.mark.parametrize("file", code_files(), ids=lambda file: file.stem)
def test_each_relative_import_is_a_file_of_the_folder(file):
    assert {f"{name}.py" for name in get_relative_imports(file)} <= NAMES
    assert {Path(found).name for found in get_relative_import_files(file)} <= NAMES
    assert "transformers_vjepa" not in get_imports(file)


def test_each_named_class_is_in_the_folder():
    for classes in AUTO_MAPS.values():
        for module, _, name in (each.partition(".") for each in classes.values()):
            assert f"{module}.py" in NAMES
            (file,) = (file for file in code_files() if file.stem == module)
            assert f"\nclass {name}(" in file.read_text()


def test_code_is_added_to_settings_only(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    add_code(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": 32}')
    add_code(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == NAMES | {"model.safetensors", "preprocessor_config.json"}
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == {
        "auto_map": {"AutoImageProcessor": "image_processing_vjepa.VJEPAImageProcessor"},
        "crop_size": 32,
    }


@pytest.fixture
def uploaded(monkeypatch):
    """Replaces the upload of transformers. The fixture is the dict of the uploaded files."""
    files = {}

    def upload(self, folder, repo_id, timestamps, **options):
        assert timestamps == {} and repo_id == "me/name" and options["commit_message"] == "message"
        files.update({name: Path(folder, name).read_bytes() for name in os.listdir(folder)})

    monkeypatch.setattr(PushToHubMixin, "_upload_modified_files", upload)
    return files


def tiny_model():
    return VJEPAModel(VJEPAConfig(**TINY))


@pytest.mark.parametrize("make", [VJEPAConfig, tiny_model, VJEPAVideoProcessor, VJEPAImageProcessor])
def test_the_last_step_of_every_push_adds_the_code_to_a_copy(tmp_path, uploaded, make):
    pushed = make()
    pushed.save_pretrained(tmp_path)
    (tmp_path / "old.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    times = {"old.json": (tmp_path / "old.json").stat().st_mtime}
    pushed._upload_modified_files(str(tmp_path), "me/name", times, commit_message="message")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert uploaded.keys() == (before.keys() | NAMES) - {"old.json"}
    (settings,) = uploaded.keys() & AUTO_MAPS.keys()
    assert json.loads(uploaded[settings])["auto_map"] == AUTO_MAPS[settings]


def test_transformers_still_uploads_through_the_replaced_method():
    """`push_to_hub` and `save_pretrained` would upload without the code if transformers renamed the method."""
    called = "_upload_modified_files"
    assert called in PushToHubMixin.push_to_hub.__code__.co_names
    for each in (VJEPAConfig, VJEPAModel, VJEPAVideoProcessor, VJEPAImageProcessor):
        save = getattr(each.save_pretrained, "__wrapped__", each.save_pretrained)
        assert called in save.__code__.co_names
        assert each._upload_modified_files is not PushToHubMixin._upload_modified_files
