"""torch files: read in place and without code, written completely, refused by name."""

import zipfile

import pytest
import torch

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
