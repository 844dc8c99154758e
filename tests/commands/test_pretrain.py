"""The pretraining script, run as its users run it."""

import json
import math
import os
import re
import shutil
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from children import child, in_two_processes, run_command, wait_until
from PIL import Image
from pretraining_command import command
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoVideoProcessor, TrainerCallback

from transformers_vjepa import VJEPAModel
from transformers_vjepa.command_line.parsing import RECIPES
from transformers_vjepa.commands import pretrain
from transformers_vjepa.commands.dry_run import describe_pretraining
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.arguments import parse_arguments
from transformers_vjepa.pretraining.masking import sample_clip_masks
from transformers_vjepa.pretraining.trainer import VJEPATrainingArguments
from transformers_vjepa.training.checkpoints import resolve_checkpoint, trained_steps


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "synthetic"
    return build_corpus(root, config=CorpusConfig(num_train=16, num_test=1, size=32, num_frames=10), num_processes=1)


@pytest.fixture
def with_images():
    """Requested by tests whose runs draw images."""


@pytest.fixture(autouse=True)
def without_images(request, monkeypatch):
    """Other runs draw no images: drawing takes longer than training here."""
    if "with_images" not in request.fixturenames:
        monkeypatch.setattr(setup, "TrainingImages", lambda *args, **kwargs: TrainerCallback())


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_ends_as_the_uninterrupted_one(with_images, corpus, tmp_path, workers):
    whole = pretrain.run(command(corpus, tmp_path / "whole", dataloader_num_workers=workers))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    settings = {"dataloader_num_workers": workers, "resume_from_checkpoint": "auto"}
    resumed = pretrain.run(command(corpus, tmp_path / "resumed", **settings))
    expected, got = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_leaves_a_model_a_processor_and_images(with_images, corpus, tmp_path, capsys):
    trainer = pretrain.run(command(corpus, tmp_path / "run"))
    model = VJEPAModel.from_pretrained(tmp_path / "run")
    target = trainer.model.vjepa.encoder.layernorm.weight
    assert torch.equal(model.encoder.layernorm.weight, target)
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "run")
    assert (processor.crop_size.height, processor.num_frames, processor.frame_step) == (32, 4, 2)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        assert AutoImageProcessor.from_pretrained(folder).crop_size.height == 32
    assert {file.name for file in (tmp_path / "run" / "pictures").glob("*.png")} == {
        "masks.png",
        "curves.png",
        "features.png",
    }
    assert "4 of 4 steps in " in capsys.readouterr().out
    # The same command again has nothing to do, and says so.
    pretrain.run(command(corpus, tmp_path / "run", resume_from_checkpoint="auto"))
    assert "has all 4 steps: nothing left to train" in capsys.readouterr().out


def built_from(corpus, tmp_path, **settings):
    arguments = command(corpus, tmp_path / "second", max_steps=1, init_from=tmp_path / "first", **settings)
    model_arguments, _, training = parse_arguments(arguments)
    return setup.build_model(model_arguments, training)


def test_continues_from_weights(corpus, tmp_path):
    first = pretrain.run(command(corpus, tmp_path / "first", max_steps=1))
    model = built_from(corpus, tmp_path)
    expected = first.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.vjepa.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.context_encoder.parameters())
    # Another size of the clip and another strategy keep all weights but the mask tokens.
    other = built_from(corpus, tmp_path, crop_size=64, mask_strategy="random_tube")
    assert other.config.crop_size == 64
    assert other.vjepa.predictor.mask_tokens.shape[0] == 1
    kept = other.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in expected.items() if "mask_tokens" not in name)
    with pytest.raises(ValueError, match="hidden_size=48 differs from the 24 of .*first: leave it out"):
        built_from(corpus, tmp_path, hidden_size=48)


def test_a_resumed_run_follows_its_arguments(corpus, tmp_path):
    pretrain.run(command(corpus, tmp_path / "run", max_steps=2))
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "slower" / "checkpoint-2")
    settings = {"max_steps": 4, "learning_rate": 1e-5, "warmup_steps": 1, "resume_from_checkpoint": "auto"}
    trainer = pretrain.run(command(corpus, tmp_path / "slower", **settings))
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry][2:]
    # Updates 3 and 4 of a cosine over int(1.25 * 4) - 1 steps from 1e-5 to 1e-6.
    expected = [1e-6 + 9e-6 * (1 + math.cos(math.pi * done / 4)) / 2 for done in (2, 3)]
    assert rates == pytest.approx(expected)


def test_a_resumed_run_says_what_it_does_otherwise(corpus, tmp_path, caplog, capsys):
    pretrain.run(command(corpus, tmp_path, max_steps=2))
    began = (tmp_path / "arguments.json").read_text()
    pretrain.run(command(corpus, tmp_path, max_steps=3, learning_rate=1e-5, resume_from_checkpoint="auto"))
    changes = "max_steps was 2 and is 3; learning_rate was 0.000625 and is 1e-05"
    assert f"other arguments than it began with: {changes}" in caplog.text
    assert "checkpoint-2, at step 2 of 3" in capsys.readouterr().out
    assert (tmp_path / "arguments.json").read_text() == began
    with pytest.raises(SystemExit, match="checkpoint-3 has hidden_size=24, and this command asks for 48: give the"):
        pretrain.run(command(corpus, tmp_path, max_steps=4, hidden_size=48, resume_from_checkpoint="auto"))
    with pytest.raises(SystemExit, match="checkpoint-3 has crop_size=32, and this command asks for 64: give the"):
        pretrain.run(command(corpus, tmp_path, max_steps=4, crop_size=64, resume_from_checkpoint="auto"))
    for text in ("", "[1]", '{"training": 3}', "[" * 10**5):
        (tmp_path / "arguments.json").write_text(text)
        with pytest.raises(SystemExit, match=r"^error: .*arguments.json is damaged \(.*\): restore it, or delete it"):
            pretrain.run(command(corpus, tmp_path, max_steps=4, resume_from_checkpoint="auto"))


def test_a_run_is_not_resumed_on_other_data(corpus, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(corpus / "train", videos)
    pretrain.run(command(corpus, tmp_path / "run", dataset=videos, max_steps=1))
    resumed = {"dataset": videos, "max_steps": 2, "resume_from_checkpoint": "auto"}
    shutil.copy(videos / "000000.mp4", videos / "more.mp4")
    expected = (
        f"error: the data are not those with which {tmp_path / 'run'} was begun: clips added: 1, such as more.mp4. "
        "Restore them, or start again in another folder, or delete "
        f"{tmp_path / 'run' / 'data.parquet'} to continue with the data as they are"
    )
    with pytest.raises(SystemExit) as info:
        pretrain.run(command(corpus, tmp_path / "run", **resumed))
    assert str(info.value) == expected
    (videos / "more.mp4").unlink()
    videos.rename(tmp_path / "moved")  # names are relative to the folder of the data
    trainer = pretrain.run(command(corpus, tmp_path / "run", **resumed | {"dataset": tmp_path / "moved"}))
    assert trainer.state.global_step == 2


def test_a_resumed_run_compares_the_clips_of_a_step(corpus, tmp_path, caplog, monkeypatch):
    pretrain.run(command(corpus, tmp_path, max_steps=1, gradient_accumulation_steps=2))
    resumed = {"max_steps": 1, "resume_from_checkpoint": "auto"}
    setup.build_from_argv(command(corpus, tmp_path, **resumed))
    assert "other arguments than it began with: clips_per_step was 8 and is 4" in caplog.text
    caplog.clear()
    # The same product of other factors, processes among them.
    setup.build_from_argv(command(corpus, tmp_path, per_device_train_batch_size=8, **resumed))
    monkeypatch.setattr(setup, "check_processes", lambda world_size: None)
    monkeypatch.setattr(VJEPATrainingArguments, "world_size", 2)
    setup.build_from_argv(command(corpus, tmp_path, **resumed))
    assert "other arguments" not in caplog.text
    # Published masks are cut per process.
    settings = {"mask_truncation": "published", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    setup.build_from_argv(command(corpus, tmp_path, **settings, **resumed))
    assert "per_device_train_batch_size was 4 and is 2" in caplog.text


def test_card_and_summary_of_a_resumed_run_know_its_sessions(corpus, tmp_path, capsys):
    pretrain.run(command(corpus, tmp_path, max_steps=2))
    assert re.search(r"^2 of 2 steps in ", capsys.readouterr().out, flags=re.MULTILINE)
    resumed = {"max_steps": 3, "per_device_train_batch_size": 2, "resume_from_checkpoint": "auto"}
    pretrain.run(command(corpus, tmp_path, **resumed))
    assert re.search(r"^3 of 3 steps, 1 of them in ", capsys.readouterr().out, flags=re.MULTILINE)
    card = (tmp_path / "README.md").read_text()
    assert "| clips per step | 2 at the end, another number before |" in card and "| clips seen | 10 |" in card
    # A model that is saved later has the same card.
    (tmp_path / "model.safetensors").unlink()
    pretrain.run(command(corpus, tmp_path, **resumed))
    assert "| clips seen | 10 |" in (tmp_path / "README.md").read_text()
    assert re.search(r"^3 of 3 steps; loss ", capsys.readouterr().out, flags=re.MULTILINE)


def test_what_trains_nothing_writes_nothing(corpus, tmp_path):
    pretrain.run(command(corpus, tmp_path / "run", max_steps=2))
    card = tmp_path / "run" / "README.md"
    card.write_text("mine")
    pretrain.run(command(corpus, tmp_path / "run", max_steps=1, resume_from_checkpoint="auto"))
    assert card.read_text() == "mine"
    with pytest.raises(SystemExit, match="nothing/here"):
        pretrain.run(command(Path("nothing/here"), tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    (tmp_path / "half").mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "half" / "checkpoint-2")
    with pytest.raises(
        SystemExit, match="half holds no model .no config.json.: the run has not ended; .*checkpoint-2 is a"
    ):
        pretrain.run(["--init_from", str(tmp_path / "half"), "--dataset", str(corpus), "--dry_run"])


def test_the_recipe_of_the_card_makes_the_same_run(corpus, tmp_path, monkeypatch):
    argv = command(corpus, tmp_path / "run", max_steps=2, push_to_hub=False)
    pretrain.run(argv)
    recipe = re.search(r"```yaml\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), flags=re.DOTALL)[1]
    assert not re.search("debug|accelerator_config|checkpointing|hub", recipe)
    (tmp_path / "card.yaml").write_text(recipe)
    monkeypatch.chdir(corpus)  # data are named without their folders
    again = parse_arguments(["--config", str(tmp_path / "card.yaml"), "--output_dir", str(tmp_path / "run")])
    first = parse_arguments(argv)
    assert setup.learning_arguments(*again) == setup.learning_arguments(*first)


def test_an_incomplete_checkpoint_is_passed_over(corpus, tmp_path):
    pretrain.run(command(corpus, tmp_path / "run"))
    (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").unlink()
    _, _, training = parse_arguments(command(corpus, tmp_path / "run", resume_from_checkpoint="auto"))
    found = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint)
    assert found == str(tmp_path / "run" / "checkpoint-2")


def test_a_model_that_was_not_saved_is_saved_when_nothing_is_left(corpus, tmp_path):
    pretrain.run(command(corpus, tmp_path / "run", max_steps=2))
    expected = weights(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    pretrain.run(command(corpus, tmp_path / "run", max_steps=2, resume_from_checkpoint="auto"))
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "run").items())


def test_images_of_an_earlier_run_do_not_stop_this_one(with_images, corpus, tmp_path):
    settings = {"max_steps": 1, "save_strategy": "no"}
    pretrain.run(command(corpus, tmp_path / "run", **settings))
    pretrain.run(command(corpus, tmp_path / "run", crop_size=64, **settings))
    assert VJEPAModel.from_pretrained(tmp_path / "run").config.crop_size == 64


@pytest.mark.slow
def test_two_processes_share_the_stream(corpus, tmp_path):
    # Steps of one process on 8 clips, or of two on 4 each: the same clips and masks, so the same weights. Adam's
    # usual epsilon would turn rounding differences of tiny gradients into whole steps.
    settings = {"max_steps": 2, "adam_epsilon": 0.01, "start_learning_rate": 0.1, "learning_rate": 0.1}
    arguments = command(corpus, tmp_path / "two", dataloader_num_workers=2, **settings)
    output = in_two_processes(run_command, "pretrain", arguments, folder=tmp_path / "printed")
    assert output.count("2 of 2 steps in ") == 1
    alone = command(corpus, tmp_path / "one", per_device_train_batch_size=8, **settings)
    losses = [entry["loss"] for entry in pretrain.run(alone).state.log_history if "loss" in entry]
    logged = json.loads((tmp_path / "two" / "trainer_state.json").read_text())["log_history"]
    assert [entry["loss"] for entry in logged if "loss" in entry] == pytest.approx(losses, abs=1e-5)
    start = setup.build_from_argv(command(corpus, tmp_path / "start", **settings))[0].model.state_dict()
    expected, got = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((start[name] - value).abs().max() for name, value in expected.items()) > 1e-3
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops(corpus, tmp_path, signum):
    arguments = command(corpus, tmp_path / "run", max_steps=100000, save_steps=100000, dataloader_num_workers=1)
    with child(run_command, "pretrain", arguments, output=tmp_path / "printed.txt") as process:
        # Its log says that a step is done.
        wait_until(lambda: re.search(r"^step +[1-9]", process.output, flags=re.MULTILINE), process)
        os.killpg(process.pid, signum)  # the workers get it too, as from a terminal or a scheduler
        assert process.wait() == 128 + signum
    assert "continue with the same command and --resume_from_checkpoint auto" in process.output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert trained_steps(str(checkpoint)) == int(checkpoint.name.split("-")[1]) > 0
    assert (checkpoint / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments",
    ["--preset ijepa-vith14", "--preset vitt16 --frames_per_clip 1", "--config vitl16 --frames_per_clip 1"],
)
def test_models_of_one_frame_take_the_masks_of_images(corpus, tmp_path, arguments):
    argv = ["--dataset", str(corpus / "train"), "--output_dir", str(tmp_path / "run"), *arguments.split()]
    assert "image_multiblock: " in describe_pretraining(argv)
    with pytest.raises(SystemExit, match="error: RandomTube is for videos.*--mask_strategy image_multiblock"):
        pretrain.run([*argv, "--mask_strategy", "random_tube", "--dry_run"])
    with pytest.raises(SystemExit, match="error: MultiBlock is for videos.*--mask_strategy image_multiblock"):
        pretrain.run([*argv, "--mask_strategy", "multiblock", "--dry_run"])


def test_images_as_still_clips_are_noted(tmp_path, caplog):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (48, 40), (60 * number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    still = command(tmp_path, tmp_path / "still", dataset=tmp_path / "pictures", max_steps=1)
    one = command(tmp_path, tmp_path / "one", dataset=tmp_path / "pictures", max_steps=1, preset="ijepa-vith14")
    for argv, notes in ((still, 1), ([*one, "--frames_per_clip", "1", "--patch_size", "4"], 0)):
        caplog.clear()
        pretrain.run(argv)
        assert caplog.text.count("every clip is a still of 4 equal frames. --frames_per_clip 1 (I-JEPA)") == notes


def test_recipe_gives_defaults_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"hidden_size": 48, "learning_rate": 0.5, "crop_scale": [0.5, 1.0]}))
    arguments = ["--config", str(recipe), "--learning_rate", "0.25", "--output_dir", str(tmp_path)]
    model, data, training = parse_arguments(arguments)
    assert (model.hidden_size, training.learning_rate, data.crop_scale) == (48, 0.25, [0.5, 1.0])


def test_a_preset_on_the_command_line_wins_over_the_architecture_of_a_recipe():
    recipe = str(RECIPES / "tiny_cpu.yaml")
    for argv in (["--config", recipe, "--preset", "vits16"], ["--preset=vits16"]):
        model, _, _ = parse_arguments(argv)
        assert (model.preset, model.hidden_size, model.patch_size) == ("vits16", None, None)
    model, data, _ = parse_arguments(["--config", recipe, "--init-from", "somewhere", "--target-fps", "5"])
    assert (model.hidden_size, model.crop_size, data.frame_step) == (None, 32, None)


def test_without_arguments_it_is_the_demo():
    model, data, training = parse_arguments([])
    assert (model.hidden_size, data.dataset, training.output_dir) == (96, ["synthetic"], "outputs/pretrain")
    assert parse_arguments(["--dataset", "videos"])[0].hidden_size is None


def test_the_processor_samples_as_the_model_was_trained(corpus, tmp_path):
    argv = command(corpus, tmp_path / "run")
    place = argv.index("--frame_step")
    argv[place : place + 2] = ["--clip_duration", "0.5"]
    trainer, _ = setup.build_from_argv(argv)
    assert trainer.processing_class.fps == 8  # four frames in half a second


def test_recipe_values_take_the_form_of_arguments(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: some/folder\nframe_step: 2\n")
    arguments = ["--config", str(recipe), "--output_dir", str(tmp_path)]
    assert parse_arguments(arguments)[1].dataset == ["some/folder"]
    _, data, _ = parse_arguments([*arguments, "--target_fps", "5"])
    assert (data.frame_step, data.target_fps) == (None, 5.0)


@pytest.mark.parametrize("name, preset, clips", [("vitl16", "vitl16", 24), ("vith16", "vith16", 24)])
def test_published_recipes(tmp_path, name, preset, clips):
    recipe = RECIPES / f"{name}.yaml"
    model, data, training = parse_arguments(
        ["--config", str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"]
    )
    assert model.preset == preset
    assert training.per_device_train_batch_size == clips
    assert (training.max_steps, training.warmup_steps, training.clip_grad_from_step) == (90000, 12000, 12300)
    assert (training.start_learning_rate, training.learning_rate) == (2e-4, 6.25e-4)
    assert (training.ema_momentum, training.mask_truncation) == (0.998, "published")


# Steps of warm-up, and images of a step on this number of GPUs: global batch 2,048.
@pytest.mark.parametrize(
    "name, preset, steps, warmup, images, gpus",
    [
        ("ijepa_vitb16", "ijepa-vitb16", 375_000, 9_375, 128, 16),
        ("ijepa_vitl16", "ijepa-vitl16", 375_000, 9_375, 128, 16),
        ("ijepa_vith14", "ijepa-vith14", 187_500, 9_375, 128, 16),
        ("ijepa_vith16_448", "ijepa-vith16-448", 187_500, 9_375, 16, 128),
        ("ijepa_vitg16", "ijepa-vitg16", 305_008, 20_796, 16, 128),
    ],
)
def test_published_recipes_of_images(tmp_path, name, preset, steps, warmup, images, gpus):
    model, data, training = parse_arguments(["--config", name, "--output_dir", str(tmp_path), "--bf16", "false"])
    assert (model.preset, training.per_device_train_batch_size, images * gpus) == (preset, images, 2048)
    assert (training.max_steps, training.warmup_steps, training.schedule_scale) == (steps, warmup, 1.0)
    rates = (training.start_learning_rate, training.learning_rate, training.final_learning_rate)
    assert rates == (1e-4, 1e-3, 1e-6)
    assert (training.weight_decay, training.final_weight_decay, training.max_grad_norm) == (0.04, 0.4, 0.0)
    assert (training.ema_momentum, training.final_ema_momentum) == (0.996, 1.0)
    assert (data.crop_scale, data.crop_ratio, data.flip_probability) == ([0.3, 1.0], [0.75, 1.333333], 0.0)


# Of each recipe: grid of tokens (time, height, width), width of encoder and predictor, steps, clips of a batch, masks,
# and the tokens of context and target for each generator, if these are fixed.
RECIPE_PROMISES = {
    "tiny_cpu": ((4, 4, 4), 96, 48, 2400, 32, "balanced", [(28, 36), (16, 48)]),
    "tiny_images": ((1, 8, 8), 96, 96, 1200, 32, "balanced", None),
    "vitl16": ((8, 14, 14), 1024, 384, 90000, 24, "published", None),
    "vith16": ((8, 14, 14), 1280, 384, 90000, 24, "published", None),
    "vith16_384": ((8, 24, 24), 1280, 384, 90000, 10, "published", None),
    "ijepa_vitb16": ((1, 14, 14), 768, 384, 375_000, 128, "published", None),
    "ijepa_vitl16": ((1, 14, 14), 1024, 384, 375_000, 128, "published", None),
    "ijepa_vith14": ((1, 16, 16), 1280, 384, 187_500, 128, "published", None),
    "ijepa_vith16_448": ((1, 28, 28), 1280, 384, 187_500, 16, "published", None),
    "ijepa_vitg16": ((1, 14, 14), 1408, 384, 305_008, 16, "published", None),
}


def test_each_recipe_of_pretraining_is_tested():
    own = {file.stem for file in RECIPES.glob("*.yaml") if not re.match("probe|finetune", file.stem)}
    assert own == set(RECIPE_PROMISES)


@pytest.mark.parametrize("name", RECIPE_PROMISES)
def test_every_recipe_keeps_its_promises(tmp_path, name):
    model, _, training = parse_arguments(["--config", name, "--output_dir", str(tmp_path), "--bf16", "false"])
    grid, width, pred_width, steps, clips, truncation, lengths = RECIPE_PROMISES[name]
    config = setup.build_config(model)
    assert (config.grid_size, config.hidden_size, config.pred_hidden_size) == (grid, width, pred_width)
    assert (training.max_steps, training.per_device_train_batch_size) == (steps, clips)
    strategy = "image_multiblock" if config.is_image_model else "multiblock"
    assert (training.mask_strategy, training.mask_truncation) == (strategy, truncation)
    masks = sample_clip_masks(config, strategy, clip_seeds=range(clips), truncation=truncation)
    if config.is_image_model:  # one context, and 4 targets of 15 to 20 % of the image, but for rounded sides
        (context,), targets = masks
        assert context.shape[1] >= 10
        assert [0.13 < target.shape[1] / config.num_patches < 0.23 for target in targets] == [True] * 4
        return
    found = [(context.shape[1], target.shape[1]) for context, target in zip(*masks, strict=True)]
    if truncation == "balanced":
        assert found == lengths
    else:  # cut to the shortest of the batch
        assert all(0 < context < target and context + target < config.num_patches for context, target in found)


def test_the_recipe_of_images_learns_from_single_frames_of_the_built_in_corpus(corpus, tmp_path):
    model, data, training = parse_arguments(["--config", "tiny_images", "--output_dir", str(tmp_path / "run")])
    assert data.dataset == ["synthetic"]
    data.dataset, training.dataloader_num_workers = [str(corpus / "train")], 0
    trainer, _ = setup.build(model, data, training)
    assert trainer.model.config.pred_loss == "smooth_l1"
    stream = iter(trainer.train_dataset)
    first, second = ({item["path"]: item["pixel_values_videos"] for item in islice(stream, 16)} for _ in range(2))
    assert first.keys() == second.keys() and len(first) == 16  # the second time, another frame and crop of each video
    assert all(image.shape == (1, 3, 48, 48) for image in first.values())
    assert not any(torch.equal(image, second[path]) for path, image in first.items())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dataset": "/no/such/folder"}, "error: .*/no/such/folder"),
        ({"crop_size": 33}, "(?s)error: .*`crop_size`=33 is not a multiple of `patch_size`=8"),
        ({"mask_strategy": "stripes"}, "error: unknown mask strategy 'stripes'"),
        ({"resume_from_checkpoint": "last"}, "error: no checkpoint in"),
        ({"resume_from_checkpoint": "nowhere"}, "error: nowhere is not a complete checkpoint"),
        ({"decode_timeout": -1}, "error: decode_timeout=-1.0 must be at least 0"),
        ({"flip_probability": 2}, "error: `flip_probability`=2.0 must lie in"),
        ({"output_dir": "synthetic"}, "error: .*is the folder of the built-in corpus"),
    ],
)
def test_mistakes_end_with_one_line(corpus, tmp_path, changes, message):
    settings = {"output_dir": tmp_path / "run"} | changes
    if "output_dir" in changes:
        settings["dataset"] = "synthetic"
    with pytest.raises(SystemExit, match=message) as exit_info:
        pretrain.run(command(corpus, **settings))
    assert str(exit_info.value).count("\n") <= 1


def test_unknown_recipe_entries_are_refused(corpus, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lerning_rate: 1.0\n")
    with pytest.raises(SystemExit, match=r"recipe.yaml sets unknown arguments \(lerning_rate\)"):
        pretrain.run([*command(corpus, tmp_path / "run"), "--config", str(recipe)])


def test_a_run_is_not_started_over_another(corpus, tmp_path):
    pretrain.run(command(corpus, tmp_path / "run", max_steps=2))
    with pytest.raises(SystemExit, match="continue it with --resume_from_checkpoint auto"):
        pretrain.run(command(corpus, tmp_path / "run"))
