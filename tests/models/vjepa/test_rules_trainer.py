"""The models in the `Trainer` and the pipelines of `transformers`."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rules import CONTEXT, TARGET, clips, largest_gap, tiny_model
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments, pipeline

from transformers_vjepa import (
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAModel,
    VJEPAVideoProcessor,
)


class Samples(Dataset):
    """Samples for the default collator of transformers, with one mask each."""

    def __init__(self, cls: type[PreTrainedModel], size: int = 6):
        self.pretraining, self.size = cls is VJEPAForPreTraining, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        clip = {"pixel_values_videos": clips(1, seed=index)[0]}
        if self.pretraining:
            return clip | {"context_mask": CONTEXT[0], "target_mask": TARGET[0]}
        return clip | {"labels": index % 5}


def trainer_of(model: PreTrainedModel, folder: Path, compute_metrics=None, **arguments) -> Trainer:
    fields = {"max_steps": 1, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, **arguments}
    settings = TrainingArguments(
        str(folder),
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        eval_accumulation_steps=1,
        **fields,
    )
    samples = Samples(type(model))
    return Trainer(model, settings, train_dataset=samples, eval_dataset=samples, compute_metrics=compute_metrics)


def state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_trains_the_classifier(tmp_path, checkpointed):
    model = tiny_model(VJEPAForVideoClassification)
    before = state_of(model)
    trainer = trainer_of(model, tmp_path, gradient_checkpointing=checkpointed)
    assert trainer.label_names == ["labels"]
    trainer.train()
    # The key's bias adds the same number to all scores: its gradient is rounding error.
    unchanged = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in unchanged if not name.endswith(("key.bias", "k_proj.bias"))} == set()


def test_metrics_of_the_classifier_see_its_logits(tmp_path):
    """Metrics do not get a tuple of all outputs."""
    seen: list[EvalPrediction] = []

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    model = tiny_model(VJEPAForVideoClassification, output_hidden_states=True)
    metrics = trainer_of(model, tmp_path, compute_metrics=accuracy).evaluate()
    videos = torch.cat([clips(1, seed=index) for index in range(6)])
    labels = torch.arange(6) % 5
    with torch.no_grad():
        expected = model(videos, labels=labels)
    assert seen[0].predictions.shape == (6, 5)
    np.testing.assert_allclose(seen[0].predictions, expected.logits, atol=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((expected.logits.argmax(-1) == labels).float().mean().item())
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), abs=1e-5)


@pytest.mark.parametrize("cls", [VJEPAForVideoClassification, VJEPAForPreTraining])
def test_accumulated_steps_equal_one_large_batch(cls, tmp_path):
    states = []
    for batch, steps in ((4, 1), (2, 2), (1, 4)):
        model = tiny_model(cls)
        trainer = trainer_of(model, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
        trainer.train()
        states.append(state_of(model))
    assert largest_gap(states[0], state_of(tiny_model(cls))) > 1e-3
    assert largest_gap(states[1], states[0]) < 1e-5 and largest_gap(states[2], states[0]) < 1e-5


def test_pretrains(tmp_path):
    """All but the target encoder is trained: it needs `VJEPATrainer`, or calls of `update_target`."""
    model = tiny_model(VJEPAForPreTraining)
    before = state_of(model)
    # As for every model without labels: `label_names` lists its own inputs, so that the evaluation has a loss.
    trainer = trainer_of(model, tmp_path, label_names=["target_mask"])
    trainer.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("vjepa.predictor.") for name in changed)
    assert any(name.startswith("context_encoder.") for name in changed)
    assert not any(name.startswith("vjepa.encoder.") for name in changed)
    model.eval()
    samples = [Samples(VJEPAForPreTraining)[index] for index in range(6)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    with torch.no_grad():
        expected = model(**batch)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), abs=1e-5)
    (predictions,), (targets,) = trainer.predict(Samples(VJEPAForPreTraining)).predictions
    np.testing.assert_allclose(predictions, expected.predictions[0], atol=1e-5)
    np.testing.assert_allclose(targets, expected.targets[0], atol=1e-5)


# Pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pipelines")
    tiny_model(VJEPAForVideoClassification).save_pretrained(path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(path)
    VJEPAImageProcessor(crop_size=32).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 40, 50, 3), dtype=np.uint8)


def inputs_for(task: str, frames: np.ndarray) -> list:
    if task == "video-classification":
        return [frames, frames[::-1].copy(), 255 - frames]
    return [PIL.Image.fromarray(frame) for frame in frames[:3]]


TASKS = ["video-classification", "image-classification", "image-feature-extraction"]


@pytest.mark.parametrize("task", TASKS)
def test_batches_and_generators_equal_single_inputs(folder, frames, task):
    pipe, inputs = pipeline(task, str(folder), device="cpu"), inputs_for(task, frames)
    expected = [pipe(one) for one in inputs]
    assert expected[0] != expected[1]

    def numbers(answers: list) -> torch.Tensor:
        if task == "image-feature-extraction":
            return torch.tensor(answers)
        return torch.tensor([[answer["score"] for answer in one] for one in answers])

    batched = pipe(inputs, batch_size=2)
    streamed = list(pipe((one for one in inputs), batch_size=3))
    for answers in (batched, streamed):
        torch.testing.assert_close(numbers(answers), numbers(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_pipelines_in_half_precision(folder, frames, task, dtype):
    full, half = (pipeline(task, str(folder), device="cpu", dtype=wanted) for wanted in ("float32", dtype))
    assert half.dtype == half.model.dtype != torch.float32
    one = inputs_for(task, frames)[0]
    if task == "image-feature-extraction":
        assert (torch.tensor(half(one)) - torch.tensor(full(one))).abs().max() < 0.2
        return
    scores, expected = ({answer["label"]: answer["score"] for answer in pipe(one, top_k=5)} for pipe in (half, full))
    assert scores == pytest.approx(expected, abs=0.1) and sum(scores.values()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_a_saved_pipeline_answers_alike(folder, frames, task, tmp_path):
    pipe, one = pipeline(task, str(folder), device="cpu"), inputs_for(task, frames)[0]
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert pipeline(task, str(tmp_path), device="cpu")(one) == pipe(one)


def test_a_saved_pipeline_of_videos_wants_its_processor_beside_it(folder, frames, tmp_path):
    """`Pipeline.save_pretrained` writes image and audio processors, but no video processors."""
    pipe = pipeline("video-classification", str(folder), device="cpu")
    pipe.save_pretrained(tmp_path)
    pipe.video_processor.save_pretrained(tmp_path)
    again = pipeline("video-classification", str(tmp_path), device="cpu")
    assert again.video_processor.to_dict() == pipe.video_processor.to_dict()
    assert again(frames) == pipe(frames)


def test_features_have_no_pooled_form(folder, frames):
    pipe = pipeline("image-feature-extraction", str(folder), device="cpu", pool=True)
    assert isinstance(pipe.model, VJEPAModel)
    with pytest.raises(ValueError, match="No pooled output"):
        pipe(inputs_for("image-feature-extraction", frames)[0])
