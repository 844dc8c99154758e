"""When the images of a run are drawn; tests/commands/test_pretrain.py looks at the files."""

import pytest
from transformers import TrainerControl, TrainerState

from transformers_vjepa import VJEPAConfig, VJEPAMaskCollator, VJEPATrainingArguments
from transformers_vjepa.pretraining import images
from transformers_vjepa.pretraining.images import TrainingImages


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(images, "time", clock)
    return clock


@pytest.fixture
def drawn(monkeypatch):
    """Steps at which curves were drawn."""
    steps = []
    monkeypatch.setattr(images, "plot_training_curves", lambda history, path, noun: steps.append(history[-1]["step"]))
    return steps


def save_every(clock, drawn, tmp_path, *, seconds, saves, minutes):
    """Steps at which a run with so many checkpoints draws at its checkpoints, and at its end."""
    callback = TrainingImages(None, collator=VJEPAMaskCollator(VJEPAConfig()), processor=None, minutes=minutes)
    arguments = VJEPATrainingArguments(str(tmp_path), use_cpu=True)
    state = TrainerState()
    for step in range(1, saves + 1):
        clock.now += seconds
        state.log_history.append({"loss": 1.0, "step": step})
        callback.on_save(arguments, state, TrainerControl())
    at_saves = list(drawn)
    callback.on_train_end(arguments, state, TrainerControl())
    return at_saves, drawn[len(at_saves) :]


@pytest.mark.parametrize(
    "seconds, minutes, expected",
    [
        (3, 10, []),  # a short run with 14 checkpoints draws once, at its end
        (240, 10, [3, 6, 9, 12]),
        (3600, 10, list(range(1, 15))),
        (3, 0, list(range(1, 15))),
    ],
)
def test_images_are_drawn_every_so_many_minutes_and_at_the_end(clock, drawn, tmp_path, seconds, minutes, expected):
    assert save_every(clock, drawn, tmp_path, seconds=seconds, saves=14, minutes=minutes) == (expected, [14])


def test_the_default_is_ten_minutes(tmp_path):
    assert VJEPATrainingArguments(str(tmp_path), use_cpu=True).save_images_minutes == 10
    with pytest.raises(ValueError, match="save_images_minutes=-1"):
        VJEPATrainingArguments(str(tmp_path), use_cpu=True, save_images_minutes=-1)
