"""Training while its checkpoints are uploaded to the Hub; tests/hub/test_transfer.py has the uploads themselves."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_folders import write_checkpoint
from runs import trainer_of
from transformers import TrainerCallback
from videos import write_video

from transformers_vjepa.hub.transfer import HubError
from transformers_vjepa.safety.safe_loading import CheckpointError
from transformers_vjepa.training import checkpoints, hub_pushes
from transformers_vjepa.training.stream_trainer import StreamTrainer


class Release(TrainerCallback):
    """Lists the checkpoints when the last one is saved, and lets the upload continue."""

    def __init__(self, folder):
        self.folder, self.event, self.seen = folder, threading.Event(), []

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps:
            self.seen = sorted(folder.name for folder in self.folder.glob("checkpoint-*"))
            self.event.set()


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", level=40 * number + 9)
    monkeypatch.setattr(StreamTrainer, "init_hf_repo", lambda self: setattr(self, "hub_model_id", "me/name"))
    release = Release(tmp_path / "run")
    trainer = trainer_of(
        tmp_path / "run",
        str(tmp_path / "videos"),
        callbacks=[release],
        save_total_limit=1,
        push_to_hub=True,
        hub_strategy="checkpoint",
    )
    trainer.release = release
    return trainer


def test_a_checkpoint_on_its_way_is_not_rotated_away(trainer, monkeypatch):
    uploaded = []

    def upload(uploads, repo_id, **options):
        assert trainer.release.event.wait(60)
        files = [file for file in uploads.values() if isinstance(file, Path)]
        uploaded.append((options["message"], bool(files) and all(file.is_file() for file in files)))

    monkeypatch.setattr(hub_pushes, "upload", upload)
    trainer.train()
    assert trainer.release.seen == ["checkpoint-1", "checkpoint-5"]
    # While the first was on its way the others were not pushed.
    assert uploaded[0] == ("Training in progress, step 1", True) and len(uploaded) <= 2
    assert trainer.pushes.folders == []


@pytest.mark.parametrize(
    "error, reason",
    [(HubError("no room at the Hub"), "no room at the Hub"), (KeyError("ours"), "KeyError('ours')")],
)
def test_a_failed_push_is_a_warning_and_the_next_is_tried(trainer, monkeypatch, error, reason):
    steps, messages = [], []

    def upload(uploads, repo_id, **options):
        steps.append(options["message"])
        raise error

    monkeypatch.setattr(hub_pushes, "upload", upload)
    monkeypatch.setattr(hub_pushes.logger, "warning", messages.append)
    trainer.args.hub_always_push = True
    trainer.train()
    assert steps == [f"Training in progress, step {step}" for step in range(1, 6)]
    assert sorted(messages) == [
        f"checkpoint-{step} was not pushed to the Hub: {reason}. Training continues" for step in range(1, 6)
    ]


def test_the_finished_folder_is_pushed_or_a_warning_says_how(trainer, monkeypatch):
    folder, messages = trainer.args.output_dir, []

    def refuse(*args, **options):
        raise HubError("no room at the Hub")

    commit = SimpleNamespace(commit_url="https://hub/me/name/commit/1")
    monkeypatch.setattr(hub_pushes, "publish_folder", lambda folder, name, **options: commit)
    trainer.save_model()
    assert trainer.commit_url == commit.commit_url and (Path(folder) / "README.md").is_file()
    monkeypatch.setattr(hub_pushes, "publish_folder", refuse)
    monkeypatch.setattr(hub_pushes.logger, "warning", messages.append)
    trainer.finish()
    assert trainer.commit_url is None
    assert messages == [
        f"no room at the Hub. The model is saved in {folder}, but not pushed. Push the model with: "
        f"vjepa publish {folder} me/name"
    ]
    with pytest.raises(HubError, match="no room at the Hub"):
        trainer.push_to_hub()


def test_checkpoints_of_the_hub_are_screened(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path, 2).rename(tmp_path / "last-checkpoint")
    monkeypatch.setattr(checkpoints, "download_checkpoint", lambda name, token: folder)
    assert checkpoints.resolve_checkpoint(tmp_path / "run", "me/name") == str(folder)
    (folder / "optimizer.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="optimizer.pt is damaged .it has"):
        checkpoints.resolve_checkpoint(tmp_path / "run", "me/name")
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="optimizer.pt is not a checkpoint: torch.save .* did not write it"):
        checkpoints.resolve_checkpoint(tmp_path / "run", "me/name")
