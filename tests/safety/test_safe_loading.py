import zipfile

import pytest
import torch
from reference import TINY

from transformers_vjepa import VJEPAConfig, VJEPAModel
from transformers_vjepa.conversion.conversion import read_folder
from transformers_vjepa.safety.safe_loading import CheckpointError, read_checkpoint, save_checkpoint


class RunsCode:
    """An object whose loading would leave a trace."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


def test_what_is_saved_is_read_in_place_and_without_code(tmp_path, monkeypatch):
    given, load = {}, torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: given.update(options) or load(path, **options))
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint({"encoder": {"weight": torch.arange(3.0)}, "epoch": 3}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["epoch"] == 3
    assert checkpoint["encoder"]["weight"].tolist() == [0.0, 1.0, 2.0]
    assert given == {"map_location": "cpu", "weights_only": True, "mmap": True}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth.tar"]


def test_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "checkpoint.pth.tar", tmp_path / "trace"
    torch.save({"encoder": RunsCode(trace)}, path)
    with pytest.raises(CheckpointError, match=r"more than tensors and plain data \(io.open\)"):
        read_checkpoint(path)
    assert not trace.exists()


def test_truncated_files_are_named_so(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint({"encoder": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="checkpoint.pth.tar is truncated: .* download it again"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a checkpoint: torch.save .* did not write it"):
            read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(CheckpointError, match="file is not a checkpoint: "):
        read_checkpoint(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="it holds a list instead of a dict"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nothing")


def test_folders_are_read_under_the_names_of_the_larger_models(tmp_path):
    model = VJEPAModel(VJEPAConfig(**TINY))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config, weights = read_folder(tmp_path)
    assert config.to_diff_dict() == model.config.to_diff_dict()
    assert weights.keys() == {f"vjepa.{name}" for name in model.state_dict()}
    assert all(torch.equal(weights[f"vjepa.{name}"], value) for name, value in model.state_dict().items())


def test_folders_without_a_model_or_with_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no saved model: it has no config.json or no model.safetensors"):
        read_folder(tmp_path)
    VJEPAModel(VJEPAConfig(**TINY)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        read_folder(tmp_path)
