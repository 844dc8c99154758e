"""A pretraining built from dataclasses; tests/commands/test_pretrain.py builds it from command lines."""

from dataclasses import replace

import pytest
import torch
from pretraining_command import command
from transformers import TrainerCallback
from videos import write_video

from transformers_vjepa import VJEPATrainingArguments
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.arguments import DataArguments, ModelArguments, parse_arguments

SIZES = {"crop_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PREDICTOR = {"pred_hidden_size": 12, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}


@pytest.fixture(autouse=True)
def without_images(monkeypatch):
    monkeypatch.setattr(setup, "TrainingImages", lambda *args, **kwargs: TrainerCallback())


@pytest.fixture
def videos(tmp_path):
    for number in range(4):
        write_video(tmp_path / "corpus" / "train" / f"{number}.mp4", level=40 * number + 9)
    return tmp_path / "corpus"


def arguments(videos, output_dir, **changes):
    training = VJEPATrainingArguments(
        str(output_dir), per_device_train_batch_size=4, max_steps=1, save_steps=2, logging_steps=1, use_cpu=True
    )
    data = DataArguments(dataset=[str(videos / "train")], frame_step=2)
    return ModelArguments(**{**SIZES, **PREDICTOR, "frames_per_clip": 4, **changes}), data, training


def test_dataclasses_make_the_run_of_the_command_line(videos, tmp_path):
    given = arguments(videos, tmp_path / "python")
    typed = parse_arguments(command(videos, tmp_path / "typed", max_steps=1))
    assert setup.learning_arguments(*given) == setup.learning_arguments(*typed)
    trainers = []
    for built in (given, typed):
        trainer, checkpoint = setup.build(*built)
        assert checkpoint is None
        setup.train(trainer)
        trainers.append(trainer)
    expected, got = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert (tmp_path / "python" / "model.safetensors").is_file()
    _, checkpoint = setup.build(*given[:2], replace(given[2], max_steps=2, resume_from_checkpoint="auto"))
    assert checkpoint == str(tmp_path / "python" / "checkpoint-1")


def test_images_get_the_masks_of_images_unless_others_are_given(videos, tmp_path):
    built = arguments(videos, tmp_path / "run", frames_per_clip=1, patch_size=2)
    with pytest.raises(ValueError, match="MultiBlock is for videos, and frames_per_clip=1"):
        setup.build(*built, given={"mask_strategy"})
    trainer, _ = setup.build(*built)
    assert trainer.args.mask_strategy == "image_multiblock" and trainer.model.config.pred_num_mask_tokens == 1
