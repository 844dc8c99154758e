import json
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from recorder import Numbers, recorder
from torch import nn
from torch.utils.data import Dataset, RandomSampler
from transformers import TrainerCallback

from transformers_vjepa import StreamPosition
from transformers_vjepa.safety.output_lock import FolderInUseError, OutputLock
from transformers_vjepa.training import stream_trainer
from transformers_vjepa.training.checkpoints import UnusableCheckpointError, resolve_checkpoint
from transformers_vjepa.training.stream_trainer import DivergedError, StreamTrainer


class Listed(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"value": torch.tensor([float(index)])}


def test_resuming_seeks_and_takes_the_cursors_along(tmp_path):
    recorder(tmp_path).train()
    cursors = json.loads((tmp_path / "checkpoint-2" / "stream_0.json").read_text())
    assert {lane: json.loads(cursor)["row"] for lane, cursor in cursors.items()} == {"0/0": 2, "0/1": 3}
    position = StreamPosition()
    resumed = recorder(tmp_path, position=position)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.seen == [4.0, 5.0, 6.0, 7.0]
    assert position.start_batch == 2 and position.cursors == cursors


def test_resuming_a_stream_that_cannot_seek_is_warned_of(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(stream_trainer.logger, "warning", messages.append)
    recorder(tmp_path, position=StreamPosition()).train()
    recorder(tmp_path, position=StreamPosition()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert messages == []
    trainer = recorder(tmp_path, Numbers(StreamPosition()), seekable=False)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(messages) == 1 and "the stream restarts at its first clip" in messages[0]
    assert trainer.seen[0] == 0.0


def test_logs_the_rate_and_the_skipped_videos(tmp_path):
    trainer = recorder(tmp_path)
    trainer.train()
    first, second = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert first["clips_per_second"] > 0 and 0 < first["data_wait_share"] < 1
    assert (first["videos_skipped"], second["videos_skipped"]) == (1, 1)  # since the start


def test_reading_draws_nothing_from_the_global_generator(tmp_path):
    trainer = recorder(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(iter(trainer.get_train_dataloader()))
    assert torch.equal(torch.rand(1), expected)


def test_a_data_set_with_a_length_is_sampled_as_usual(tmp_path):
    trainer = recorder(tmp_path, Listed(), max_steps=3)
    assert isinstance(trainer._get_train_sampler(trainer.train_dataset), RandomSampler)
    trainer.train()
    assert sorted(trainer.seen) == [0, 1, 2, 3, 4, 5]


class Raise(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, signum, step):
        self.signum, self.step = signum, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(self.signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(tmp_path, signum):
    before = signal.getsignal(signum)
    trainer = recorder(tmp_path, callbacks=[Raise(signum, 2)], save_steps=100)
    trainer.train()
    assert (trainer.state.global_step, trainer.stop_signal) == (3, signum)
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").is_file()
    assert signal.getsignal(signum) is before


def test_outside_of_the_main_thread_signals_are_left_alone(tmp_path):
    trainer = recorder(tmp_path)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 4


def test_a_loss_that_is_not_finite_stops(tmp_path):
    trainer = recorder(tmp_path)
    trainer.check_loss(torch.tensor(1.0), {})
    for value in ("nan", "inf"):
        with pytest.raises(DivergedError, match=f"the loss is {value} at step 0 on the videos a.mp4, b.mp4"):
            trainer.check_loss(torch.tensor(float(value)), {"path": ["a.mp4", "b.mp4"]})


def test_clips_are_normalised_once(tmp_path):
    trainer = recorder(tmp_path)
    trainer.processing_class = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    clips = torch.full((1, 1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.allclose(trainer.normalized(clips), torch.tensor(2.0))
    floats = torch.rand(1, 1, 3, 2, 2)
    assert trainer.normalized(floats) is floats
    with pytest.raises(ValueError, match="clips have type torch.int64: pass uint8 pixels"):
        trainer.normalized(clips.long())


def test_several_devices_in_one_process_are_refused():
    args = SimpleNamespace(n_gpu=2)
    with pytest.raises(ValueError, match="one process for 2 GPUs would run nn.DataParallel"):
        StreamTrainer(model=nn.Linear(1, 1), args=args)


class AfterStep(TrainerCallback):
    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def test_an_output_folder_in_use_is_refused(tmp_path):
    other = OutputLock(tmp_path / "run")
    other.acquire()
    trainer = recorder(tmp_path / "run")
    with pytest.raises(FolderInUseError, match="run is in use .process .*: wait until that run has ended"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    other.release()
    trainer.train()
    assert (tmp_path / "run" / "checkpoint-4").is_dir()


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("delete", [shutil.rmtree, empty])
def test_an_output_folder_that_is_deleted_comes_back_complete(tmp_path, caplog, delete):
    folder = tmp_path / "run"
    trainer = recorder(folder, callbacks=[AfterStep(3, lambda: delete(folder))])
    trainer.records = {"arguments.json": b"{}\n"}
    trainer.train()
    assert sorted(path.name for path in folder.iterdir()) == [".in_use.lock", "arguments.json", "checkpoint-4"]
    assert (folder / "arguments.json").read_bytes() == b"{}\n"
    assert resolve_checkpoint(folder, "auto") == str(folder / "checkpoint-4")
    assert f"{folder}, or files in it, were deleted during the training: arguments.json is written" in caplog.text
    assert "checkpoints before step 4 may be lost" in caplog.text


def test_an_output_folder_that_another_run_has_taken(tmp_path):
    folder = tmp_path / "run"
    other = OutputLock(folder)

    def replace():
        folder.rename(tmp_path / "moved")
        other.acquire()

    trainer = recorder(folder, callbacks=[AfterStep(3, replace)])
    with pytest.raises(UnusableCheckpointError, match="was deleted during the training, and .*run is in use"):
        trainer.train()
    assert sorted(path.name for path in folder.iterdir()) == [".in_use.json", ".in_use.lock"]
    assert resolve_checkpoint(tmp_path / "moved", "auto") == str(tmp_path / "moved" / "checkpoint-2")
    other.release()
