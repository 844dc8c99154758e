"""
Numbers of the published code, compared with this package in every clone of the repository.

`tests/vjepa_mini` has a pretraining checkpoint and a probe in the published layout (a random network of two blocks),
and what the published code computed from them in float32 (`numbers.safetensors`, `README.json`). The clips are sines
of integers, so every machine makes the same clips. Model, trainer and conversion of this package compute the rest.
`ijepa_predictor.safetensors` has the predictor of a random I-JEPA with its inputs and results.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reference import inputs_of, largest_difference, reference_tensors, repeat_run
from transformers import AutoModelForPreTraining, AutoModelForVideoClassification

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from transformers_vjepa.__main__ import main
from transformers_vjepa.conversion.conversion import (
    convert_network,
    load_published_checkpoint,
    load_published_classifier,
    published_checkpoint,
    published_probe,
)
from transformers_vjepa.models.vjepa.modeling_vjepa import mean_prediction_error
from transformers_vjepa.safety.safe_loading import read_checkpoint

FOLDER = Path(__file__).parent / "vjepa_mini"
CHECKPOINT, PROBE = FOLDER / "checkpoint.pth.tar", FOLDER / "probe.pth.tar"
README = json.loads((FOLDER / "README.json").read_text(encoding="utf-8"))
SCHEDULE, STEPS = README["schedule"], README["per_step"]
CONFIG = VJEPAConfig(**README["geometry"])
HEADS = CONFIG.num_attention_heads
NETWORKS = ("encoder", "predictor", "target_encoder")
#: Reached: 2e-6 on tokens, 2e-7 on the losses.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    return reference_tensors(FOLDER / "numbers.safetensors")


def published_clip(seed: int) -> torch.Tensor:
    """Two clips (2, 3, 4, 32, 32): batch, channels, frames, height, width, by the rule in README.json."""
    n = torch.arange(2 * 3 * 4 * 32 * 32, dtype=torch.float64)
    values = (n * (0.37 + 0.01 * seed)).sin() + (n * n * 1e-4 + seed).cos()
    return values.float().view(2, 3, 4, 32, 32)


def differing(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> set[str]:
    """Names that only one side has, or whose type, shape or bits differ."""
    same = {
        name
        for name in ours.keys() & theirs.keys()
        if ours[name].dtype == theirs[name].dtype == torch.float32
        and torch.equal(ours[name].contiguous().view(torch.int32), theirs[name].contiguous().view(torch.int32))
    }
    return (ours.keys() | theirs.keys()) - same


def pretraining_model() -> VJEPAForPreTraining:
    return load_published_checkpoint(CHECKPOINT, CONFIG)


# Forward and backward


def test_both_encoders_the_predictor_and_the_loss(numbers):
    output = pretraining_model()(**inputs_of(numbers | {"clip": published_clip(0)}))
    assert largest_difference(output.loss, numbers["loss"]) < TOLERANCE
    assert largest_difference(output.target_hidden_state, numbers["target.tokens"]) < TOLERANCE
    for index in range(2):
        for ours, name in (
            (output.context_hidden_states, "context_tokens"),
            (output.predictions, "prediction"),
            (output.targets, "target_tokens"),
        ):
            assert largest_difference(ours[index], numbers[f"mask{index}.{name}"]) < TOLERANCE, (index, name)


def test_gradients(numbers):
    model = pretraining_model()
    model(**inputs_of(numbers | {"clip": published_clip(0)})).loss.backward()
    # Of the patch embedding the file has the first 32 of 384 columns.
    patches = model.context_encoder.embeddings.patch_embeddings.weight.grad[:, :32]
    mask_token = model.vjepa.predictor.mask_tokens.grad[0]
    for ours, name in ((patches, "encoder.patch_embed"), (mask_token, "predictor.mask_tokens.0")):
        theirs = numbers[f"grad.{name}"]
        # Relative to the largest value: the gradients of the encoder stay below 1e-4. Reached: 6e-7.
        assert largest_difference(ours, theirs) < 1e-5 * theirs.abs().max().item(), name
    assert all(parameter.grad is None for parameter in model.vjepa.encoder.parameters())


def test_logits_of_the_probe(numbers):
    model = load_published_classifier(CHECKPOINT, PROBE, num_attention_heads=HEADS)
    with torch.no_grad():
        logits = model(published_clip(0).transpose(1, 2)).logits
    assert largest_difference(logits, numbers["probe.logits"]) < 1e-6  # reached: 6e-8


# Images


def test_the_predictor_and_the_loss_of_images():
    """
    Of a published I-JEPA the file has the predictor, what its encoders made of three images, the predictions of one of
    four targets, and the loss of all four (smooth L1).
    """
    numbers = reference_tensors(FOLDER / "ijepa_predictor.safetensors")
    config = VJEPAConfig.from_preset("ijepa-vith14", **README["ijepa_predictor"]["geometry"])
    predictor = VJEPAModel(config).predictor
    weights = {name: value for name, value in numbers.items() if name.startswith("predictor.")}
    predictor.load_state_dict(convert_network({name.partition(".")[2]: value for name, value in weights.items()}))
    context, context_mask = numbers["context_tokens"], numbers["context_mask"]
    predictions = [
        predictor(context, context_mask, numbers[f"target_mask{index}"], config.grid_size).last_hidden_state
        for index in range(4)
    ]
    assert largest_difference(predictions[0], numbers["prediction0"]) < TOLERANCE
    targets = [numbers[f"target_tokens{index}"] for index in range(4)]
    loss = mean_prediction_error(predictions, targets, loss=config.pred_loss)
    assert largest_difference(loss, numbers["loss_smooth_l1"]) < TOLERANCE


# Six training steps


@pytest.fixture(scope="module")
def trained(numbers, tmp_path_factory) -> SimpleNamespace:
    """The published run, repeated by `VJEPATrainer`: its log, and the weights of the first and the last step."""
    model = pretraining_model()
    model.update_target(0.0)  # the run starts with the target encoder equal to the context encoder
    start = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = [inputs_of(numbers | {f"step{step}.clip": published_clip(1 + step)}, f"step{step}.") for step in range(6)]
    log = repeat_run(model, SCHEDULE, inputs.__getitem__, tmp_path_factory.mktemp("six_steps"))
    return SimpleNamespace(
        log=log, start=published_checkpoint(start, CONFIG), end=published_checkpoint(model.state_dict(), CONFIG)
    )


@pytest.mark.parametrize(
    "name, logged, tolerance",
    # Weight decay and momentum are logged in float32.
    [("lr", "learning_rate", 1e-9), ("weight_decay", "weight_decay", 1e-6), ("momentum", "ema_momentum", 1e-6)],
)
def test_schedules_of_six_steps(trained, name, logged, tolerance):
    assert [entry[logged] for entry in trained.log] == pytest.approx(STEPS[name], rel=tolerance)


def test_losses_of_six_steps(trained):
    assert [entry["loss"] for entry in trained.log] == pytest.approx(STEPS["loss"], abs=TOLERANCE)  # reached: 6e-8


@pytest.mark.parametrize("part, tolerance", [("encoder", 1e-5), ("predictor", 1e-5), ("target_encoder", 1e-6)])
def test_weights_after_six_steps(trained, numbers, part, tolerance):
    """
    The file has norms, mask tokens and one fused attention of each network. Encoder and predictor move by 2e-3 and
    end within 6e-8 of the published weights. The target encoder moves by 1e-5 only and ends within 5e-7, because
    weights near 1 are rounded at every update. Gradients stay below `clip_grad`, so this run does not test clipping.
    """
    prefix = f"final.{part}."
    published = {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}
    assert len(published) > 10
    for name, theirs in published.items():
        start, end = (checkpoint[part][f"module.{name}"] for checkpoint in (trained.start, trained.end))
        assert largest_difference(end, theirs) < tolerance, name
        assert largest_difference(start, theirs) > 10 * tolerance, f"{name} has hardly moved: this test shows nothing"


# Conversion


def test_checkpoint_there_and_back_is_bit_equal(tmp_path):
    pretraining_model().save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    published, back = read_checkpoint(CHECKPOINT), published_checkpoint(model.state_dict(), model.config)
    for part in NETWORKS:  # with the position tables, which the model computes
        assert differing(back[part], published[part]) == set()


def test_probe_there_and_back_is_bit_equal(tmp_path):
    load_published_classifier(CHECKPOINT, PROBE, num_attention_heads=HEADS).save_pretrained(tmp_path)
    model = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert isinstance(model, VJEPAForVideoClassification)
    back = published_probe(model.state_dict(), model.config)["classifier"]
    # The published probe has a projection that it never applies; ours has zeros there.
    unused = {f"module.pooler.cross_attention_block.xattn.proj.{name}" for name in ("weight", "bias")}
    assert differing(back, read_checkpoint(PROBE)["classifier"]) == unused
    encoder = published_checkpoint(model.state_dict(), model.config)["target_encoder"]
    assert differing(encoder, read_checkpoint(CHECKPOINT)["target_encoder"]) == set()


def test_the_command_converts_there_and_back(tmp_path, monkeypatch):
    ours, back = tmp_path / "ours", tmp_path / "back"
    for words in (
        [CHECKPOINT, "--output_dir", ours, "--num_attention_heads", HEADS],
        [ours, "--to_original", "--output_dir", back],
    ):
        monkeypatch.setattr("sys.argv", ["vjepa", "convert_checkpoint", *map(str, words)])
        main()
    assert AutoModelForPreTraining.from_pretrained(ours).config.to_dict().items() >= README["geometry"].items()
    published, again = (read_checkpoint(folder / "checkpoint.pth.tar") for folder in (FOLDER, back))
    for part in NETWORKS:
        assert differing(again[part], published[part]) == set()
