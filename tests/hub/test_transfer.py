"""Errors of the Hub in one line, the files to upload, and the checkpoint to download; without a connection."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from transformers_vjepa.hub import transfer
from transformers_vjepa.hub.transfer import (
    HubError,
    checkpoint_files,
    download_checkpoint,
    explain,
    hub_errors,
    model_files,
)

TOKEN = "hf_" + "secretsecret"


def refused(status, *, kind=HfHubHTTPError, token=True, message=None):
    """The error of `huggingface_hub` for an answer with this status."""
    request = SimpleNamespace(headers={"authorization": TOKEN} if token else {})
    response = SimpleNamespace(status_code=status, headers={}, request=request)
    return kind("refused", response=response, server_message=message)


@pytest.mark.parametrize(
    "error, line",
    [
        (LocalTokenNotFoundError("no token"), "no token for me/name: log in with hf auth login, or set HF_TOKEN"),
        (refused(401, token=False), "no token for me/name: log in with hf auth login, or set HF_TOKEN"),
        (refused(401), "the Hub does not accept the token: log in again with hf auth login, or set HF_TOKEN to"),
        (refused(401, kind=GatedRepoError, token=False), "me/name is gated: ask for access on its page, and log in"),
        (refused(401, kind=RepositoryNotFoundError, token=False), "there is no me/name on this machine or on the Hub"),
        (refused(404, kind=RepositoryNotFoundError), "there is no me/name on this machine or on the Hub"),
        (refused(403), "the token does not allow this with me/name: use a token with write access, or another name"),
        (refused(412), "me/name has changed on the Hub in the meantime: try again"),
        (refused(400, message=f"wrong\n{TOKEN}"), "the Hub refuses the files for me/name: wrong hf_***"),
        (refused(500), "the connection to the Hub failed (HfHubHTTPError: refused): try again"),
        (HTTPError(""), "the connection to the Hub failed (HTTPError: HTTPError): try again"),
        (OSError(f"cannot\nread {TOKEN}"), "cannot read hf_***"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_are_explained_in_one_line(error, line):
    found = explain(error, "me/name")
    assert found.startswith(line) and "\n" not in found


def test_the_cause_behind_another_error_is_explained():
    with pytest.raises(HubError, match="^the token does not allow this with me/name"), hub_errors("me/name"):
        raise RuntimeError("while uploading") from refused(403)
    with pytest.raises(HubError, match="^already explained$"), hub_errors("me/name"):
        raise HubError("already explained")
    with pytest.raises(KeyError), hub_errors("me/name"):
        raise KeyError("an error of ours")


def test_only_named_files_of_a_model_are_uploaded(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "optimizer.pt", "train.csv", "arguments.json", "curves.png"):
        (tmp_path / name).write_bytes(b"data")
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text('{"b": 1, "a": 2}')
    (tmp_path.parent / "secret.png").write_bytes(b"data")
    card = "![a](curves.png) ![b](../secret.png) ![c](https://host/x.png) ![d](absent.png)"
    uploads = model_files(tmp_path, card=card)
    assert {name for name in uploads if not name.endswith(".py")} == {
        "README.md",
        "config.json",
        "curves.png",
        "model-00001-of-00002.safetensors",
        "processor_config.json",
    }
    assert uploads["README.md"] == card.encode()
    assert json.loads(uploads["config.json"])["auto_map"]["AutoModel"] == "modeling_vjepa.VJEPAModel"
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert "modeling_vjepa.py" in uploads
    assert model_files(tmp_path / "nothing", card=None) == {}


def test_images_of_the_card_may_lie_in_another_folder(tmp_path):
    (tmp_path / "run" / "pictures").mkdir(parents=True)
    (tmp_path / "run" / "pictures" / "curves.png").write_bytes(b"png")
    uploads = model_files(tmp_path / "checkpoint-2", card="![a](pictures/curves.png)", images_in=tmp_path / "run")
    assert uploads == {"README.md": b"![a](pictures/curves.png)", "pictures/curves.png": b"png"}


def test_a_checkpoint_is_uploaded_without_the_pickled_arguments(tmp_path):
    for name in ("model.safetensors", "training_args.bin", "folder/rng_state.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"data")
    assert checkpoint_files(tmp_path) == {
        "last-checkpoint/folder/rng_state.pth": tmp_path / "folder" / "rng_state.pth",
        "last-checkpoint/model.safetensors": tmp_path / "model.safetensors",
    }
    assert set(checkpoint_files(tmp_path, "checkpoint-2")) == {
        "checkpoint-2/folder/rng_state.pth",
        "checkpoint-2/model.safetensors",
    }


@pytest.mark.parametrize(
    "files, wanted",
    [
        (["config.json", "last-checkpoint/a", "checkpoint-9/a"], "last-checkpoint"),
        (["checkpoint-9/a", "checkpoint-10/a", "checkpoint-x/a", "checkpoint-11"], "checkpoint-10"),
    ],
)
def test_the_last_checkpoint_is_downloaded(tmp_path, monkeypatch, files, wanted):
    asked = []
    monkeypatch.setattr(transfer.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(transfer.HfApi, "list_repo_files", lambda self, name, revision: files)
    monkeypatch.setattr(transfer, "snapshot_download", lambda name, **given: (asked.append(given), str(tmp_path))[1])
    assert download_checkpoint("me/name@old") == tmp_path / wanted
    assert asked == [{"revision": "old", "token": None, "allow_patterns": [f"{wanted}/*"]}]


def test_a_repository_without_a_checkpoint_is_named(monkeypatch):
    monkeypatch.setattr(transfer.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(transfer.HfApi, "list_repo_files", lambda self, name, revision: ["config.json"])
    with pytest.raises(HubError, match=r"me/name@old on the Hub holds no checkpoint .* --init_from me/name@old"):
        download_checkpoint("me/name@old")
