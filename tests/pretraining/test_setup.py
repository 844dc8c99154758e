"""A pretraining built from dataclasses; tests/commands/test_pretrain.py builds it from command lines."""

import itertools
import os
import shutil
import signal
import sys
from dataclasses import replace

import pytest
import torch
from pretraining_command import command
from stock_models import stock_folder_of
from transformers import TrainerCallback
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPATrainingArguments
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.arguments import DataArguments, ModelArguments, parse_arguments
from transformers_vjepa.pretraining.image_masking import ImageMultiBlock
from transformers_vjepa.training.checkpoints import is_finished

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


def test_the_loss_goes_with_the_checkpoint(videos, tmp_path):
    first = arguments(videos, tmp_path / "run", frames_per_clip=1, patch_size=2)
    trainer, _ = setup.build(*first)
    assert trainer.model.config.pred_loss == "smooth_l1"  # I-JEPA's, for clips of one frame
    setup.train(trainer)
    saved = str(tmp_path / "run")
    assert setup.build_config(ModelArguments(init_from=saved)).pred_loss == "smooth_l1"
    other = setup.build_config(ModelArguments(init_from=saved, pred_loss="l2"))
    assert other.pred_loss == "l2"
    setup.check_architecture(saved, trainer.model.config)
    with pytest.raises(ValueError, match="has pred_loss=smooth_l1, and this command asks for l2: give the arguments"):
        setup.check_architecture(saved, other)
    assert setup.build_config(ModelArguments(preset="ijepa-vith14")).pred_loss == "smooth_l1"
    assert setup.build_config(ModelArguments(preset="vitl16")).pred_loss == "l1"


def test_a_stock_model_is_a_start(videos, tmp_path):
    stock = stock_folder_of(tmp_path / "stock", patch_size=4)
    name = str(tmp_path / "stock")
    built = arguments(videos, tmp_path / "run")
    start = ModelArguments(init_from=name, pred_num_hidden_layers=1)  # a stock model has no predictor to fit
    trainer, _ = setup.build(start, *built[1:])
    model = trainer.model
    assert model.config.pred_num_hidden_layers == 1 and model.config.pred_loss == "smooth_l1"
    for encoder in (model.context_encoder, model.vjepa.encoder):
        assert torch.equal(encoder.layer[1].mlp.fc1.weight, stock.layers[1].mlp.fc1.weight)
    assert trainer.run_details.start == name and trainer.args.mask_strategy == "image_multiblock"
    with pytest.raises(ValueError, match="hidden_size=24 differs from the 48 of .*stock: leave it out"):
        setup.build_config(ModelArguments(init_from=name, hidden_size=24))


def test_blocks_of_images_follow_the_arguments(videos, tmp_path):
    model, data, training = arguments(videos, tmp_path / "run", frames_per_clip=1, patch_size=2)
    changed = replace(training, mask_target_scale=[0.2, 0.3], mask_context_scale=[0.5, 0.9], mask_num_targets=2)
    trainer, _ = setup.build(model, data, changed)
    expected = ImageMultiBlock(num_targets=2, target_scale=(0.2, 0.3), context_scale=(0.5, 0.9))
    assert trainer.data_collator.generators == (expected,)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"mask_num_targets": 2, "mask_strategy": "image_block"},
            "mask_num_targets=2 is for image_multiblock only",
        ),
        ({"mask_target_scale": [0.2]}, r"mask_target_scale=\[0.2\] must be two numbers, the least and the largest"),
        ({"mask_context_scale": [0.9, 0.5]}, r"`context_scale`=\(0.9, 0.5\) must be an increasing range"),
    ],
)
def test_wrong_blocks_of_images_are_refused(videos, tmp_path, changes, message):
    model, data, training = arguments(videos, tmp_path / "run", frames_per_clip=1, patch_size=2)
    with pytest.raises(ValueError, match=message):
        setup.build(model, data, replace(training, **changes))


def finish_killed_at(write, built):
    """
    Finishes a run in a forked process, with SIGKILL when it opens or renames its `write`-th file for writing. Returns
    whether the process got that far.
    """
    if (process := os.fork()) == 0:
        folder, count = built[2].output_dir, itertools.count(1)

        def hook(event, args):
            is_write = event == "os.rename" or (event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT)
            if is_write and str(args[0]).startswith(folder) and next(count) == write:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            trainer, checkpoint = setup.build(*built)
            sys.addaudithook(hook)
            setup.train(trainer, checkpoint)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_a_run_that_was_killed_at_any_write_of_its_end_is_finished(videos, tmp_path, capsys):
    given = arguments(videos, tmp_path / "whole")
    setup.train(setup.build(*given)[0])
    whole = tmp_path / "whole"
    of_the_end = {path.name for path in whole.iterdir() if path.is_file()}
    of_the_end -= {"arguments.json", "data.parquet", ".in_use.lock"}
    model = {"config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"}
    model |= {"video_preprocessor_config.json"}
    assert of_the_end - model == {"README.md", "manifest.json", "trainer_state.json", "training_args.bin"}
    for write in itertools.count(1):
        run = shutil.copytree(whole, tmp_path / f"run-{write}")
        for name in of_the_end:
            (run / name).unlink()
        built = (*given[:2], replace(given[2], output_dir=str(run), resume_from_checkpoint="auto"))
        if not finish_killed_at(write, built):
            break
        assert not is_finished(run, steps=1)
        trainer, checkpoint = setup.build(*built)
        setup.train(trainer, checkpoint)
        assert f"{run} was not finished: the model is written from {checkpoint}" in capsys.readouterr().out
        for name in model & of_the_end - {"config.json"}:
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
        assert VJEPAConfig.from_pretrained(run).to_diff_dict() == VJEPAConfig.from_pretrained(whole).to_diff_dict()
        assert (run / "README.md").read_text().replace(run.name, "whole") == (whole / "README.md").read_text()
        assert is_finished(run, steps=1)
    assert write == 8
    setup.train(*setup.build(*built))
    assert "was not finished" not in capsys.readouterr().out


def test_initial_weights_of_other_sizes_than_their_configuration_are_refused(tmp_path):
    given = ModelArguments(**SIZES, **PREDICTOR, frames_per_clip=4)
    training = VJEPATrainingArguments(str(tmp_path / "run"), max_steps=1, use_cpu=True)
    model = setup.build_model(given, training)
    model.save_pretrained(tmp_path / "model")
    start = ModelArguments(init_from=str(tmp_path / "model"))
    loaded = setup.build_model(start, training).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    model.config.hidden_size *= 2
    model.config.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="model: .*encoder.* has another size than config.json says .*: copy or"):
        setup.build_model(start, training)
