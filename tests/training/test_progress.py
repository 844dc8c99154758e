"""What is seen of a training while it runs."""

import re
import sys
from types import SimpleNamespace

import pytest
from recorder import recorder

from transformers_vjepa.training.progress import TrainingProgress, duration_text, log_text


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"), (3725, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_a_log_is_one_line_of_what_people_know():
    logs = {"loss": 0.80654, "learning_rate": 0.001, "epoch": 1.0, "clips_per_second": 1234.5, "data_wait_share": 0.25}
    expected = "step   20: loss 0.8065, lr 1.00e-03, clips/s 1,234.5, waiting for data 25%"
    assert log_text(logs, step=20, num_steps=1000) == expected
    assert log_text(logs | {"videos_skipped": 3.0}, step=20, num_steps=1000) == f"{expected}, 3 videos skipped"
    of_images = log_text(logs | {"videos_skipped": 3.0}, step=20, num_steps=1000, of_images=True)
    assert of_images == f"{expected.replace('clips/s', 'images/s')}, 3 images skipped"
    assert log_text({"eval_accuracy": 0.714}, step=5, num_steps=9) == "step 5: validation accuracy 71.4%"
    assert log_text({"train_runtime": 3.0, "epoch": 1.0}, step=9, num_steps=9) == ""


@pytest.mark.parametrize(
    ("is_terminal", "disable_tqdm", "has_bar"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_run_shows_bar_and_lines(tmp_path, capsys, monkeypatch, is_terminal, disable_tqdm, has_bar):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    trainer = recorder(tmp_path)
    trainer.args.disable_tqdm = disable_tqdm
    trainer.train()
    out, err = capsys.readouterr()
    assert re.findall(r"^step (\d): loss 0\.0000, lr", out, flags=re.MULTILINE) == ["2", "4"]
    assert re.search(r"training: 100%.* 4/4 .*clips/s", err) if has_bar else "training" not in err


def test_evaluation_has_a_bar_where_training_has_one(capsys, monkeypatch):
    args, state = SimpleNamespace(disable_tqdm=False), SimpleNamespace(is_world_process_zero=True)
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        TrainingProgress().on_prediction_step(args, state, None, eval_dataloader=range(7))
        assert ("/7 " in capsys.readouterr().err) == is_terminal


def test_a_resumed_bar_begins_where_the_run_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    recorder(tmp_path, max_steps=2).train()
    trainer = recorder(tmp_path)
    trainer.args.disable_tqdm = False
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    bars = re.findall(r"\d/4 ", capsys.readouterr().err)
    assert bars[0] == "2/4 " and bars[-1] == "4/4 "
