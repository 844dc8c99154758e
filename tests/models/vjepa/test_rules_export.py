"""Models and processors outside of eager Python: compiled, exported, in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from rules import CONTEXT, SHALLOW, TARGET, clips, gradients_of, inputs_of, largest_gap, tiny_model
from transformers import PreTrainedModel

from transformers_vjepa import (
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAModel,
    VJEPAVideoProcessor,
)

DYNAMIC = torch.export.Dim.DYNAMIC
# One block each: compiling takes time for every layer.
DEPTH = {name: SHALLOW[name] for name in ("num_hidden_layers", "pred_num_hidden_layers")}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def thrice(inputs: Any) -> Any:
    """A batch three times as large."""
    if isinstance(inputs, dict):
        return {name: thrice(value) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [thrice(item) for item in inputs]
    return torch.cat([inputs] * 3) if isinstance(inputs, torch.Tensor) else inputs


def any_batch(inputs: Any) -> Any:
    """The same structure, with the first axis of every tensor left open."""
    if isinstance(inputs, dict):
        return {name: any_batch(value) for name, value in inputs.items()}
    if isinstance(inputs, list):
        return [any_batch(item) for item in inputs]
    return {0: DYNAMIC} if isinstance(inputs, torch.Tensor) else None


# Compiled


def test_pretraining_compiles_whole_and_trains_alike():
    model, inputs = tiny_model(VJEPAForPreTraining, **DEPTH), inputs_of(VJEPAForPreTraining)
    expected, gradients = model(**inputs), gradients_of(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert largest_gap(compiled(**inputs), expected) < 1e-5
    model.zero_grad()
    compiled(**inputs).loss.backward()
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-6), name


def test_compiled_once_for_batches_of_any_size():
    # The first loss writes `problem_type` into the configuration, as in all models of transformers.
    settings = {"attn_implementation": "eager", "problem_type": "single_label_classification", **DEPTH}
    model, inputs = tiny_model(VJEPAForVideoClassification, **settings), inputs_of(VJEPAForVideoClassification)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    assert largest_gap(compiled(**inputs, **wanted), model(**inputs, **wanted)) < 1e-5
    larger = thrice(inputs)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert largest_gap(compiled(**larger, **wanted), model(**larger, **wanted)) < 1e-5


@pytest.mark.parametrize("processor", [VJEPAVideoProcessor(crop_size=16), VJEPAImageProcessor(crop_size=16)])
def test_processors_compile(processor):
    pixels = torch.randint(0, 256, (3, 4, 3, 25, 31), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = pixels if isinstance(processor, VJEPAVideoProcessor) else pixels[:, 0]
    (expected,) = processor(inputs, return_tensors="pt").values()
    (compiled,) = torch.compile(processor, backend="eager")(inputs, return_tensors="pt").values()
    assert largest_gap(compiled, expected) < 0.02  # a grey level: uint8 is resized in fixed point or not


# Exported


@pytest.mark.parametrize("cls", [VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification])
def test_exports_for_batches_of_any_size(cls):
    model, inputs = tiny_model(cls, **DEPTH), inputs_of(cls)
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=any_batch(inputs))
    output = program.module()(**inputs)
    assert type(output) is type(model(**inputs))
    assert largest_gap(output, model(**inputs)) < 1e-5
    assert largest_gap(program.module()(**thrice(inputs)), model(**thrice(inputs))) < 1e-5


def test_exports_for_one_size_of_batch_and_from_a_file(tmp_path):
    model, videos = tiny_model(VJEPAForVideoClassification, **DEPTH), clips(2)
    program = torch.export.export(model, (videos,))
    torch.export.save(program, tmp_path / "classifier.pt2")
    loaded = torch.export.load(tmp_path / "classifier.pt2").module()
    assert largest_gap(loaded(videos), model(videos)) < 1e-5
    # torch before 2.9 raises another type of error, and names the position of the argument.
    with pytest.raises((AssertionError, RuntimeError), match=r"pixel_values_videos|\*args\[0\]\.shape\[0\]"):
        loaded(clips(3))


def test_exports_for_clips_of_any_size():
    model = tiny_model(VJEPAModel, **DEPTH)
    # Not the size of the configuration, where the positions need no interpolation.
    shape = {0: DYNAMIC, 3: DYNAMIC, 4: DYNAMIC}
    video = torch.randn(2, 4, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(
        model, (), kwargs={"pixel_values_videos": video}, dynamic_shapes={"pixel_values_videos": shape}
    )
    for side in (40, 64):
        other = clips(1, side=side)
        assert largest_gap(program.module()(pixel_values_videos=other), model(other)) < 1e-5


# ONNX


def run_onnx(path: Path, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: value.numpy() for name, value in inputs.items()}), strict=True))


def export_onnx(model: PreTrainedModel, path: Path, names: list[str], **inputs: torch.Tensor) -> None:
    torch.onnx.export(
        model,
        kwargs=inputs,
        f=path,
        dynamo=True,
        verbose=False,
        input_names=list(inputs),
        output_names=names,
        dynamic_shapes={name: {0: DYNAMIC} for name in inputs},
    )


def test_the_classifier_in_onnx_runtime(tmp_path):
    model = tiny_model(VJEPAForVideoClassification, num_pooler_layers=1, **DEPTH)
    export_onnx(model, tmp_path / "model.onnx", ["logits", "view_logits"], pixel_values_videos=clips(2))
    for batch in (1, 2, 5):
        output = run_onnx(tmp_path / "model.onnx", pixel_values_videos=clips(batch, seed=batch))
        expected = model(clips(batch, seed=batch))
        for name in ("logits", "view_logits"):
            np.testing.assert_allclose(output[name], expected[name].detach(), atol=1e-4)


def test_the_encoder_and_predictor_in_onnx_runtime(tmp_path):
    model = tiny_model(VJEPAModel, **DEPTH)
    names = ["last_hidden_state", "predicted"]
    inputs = {"pixel_values_videos": clips(2), "context_mask": CONTEXT, "target_mask": TARGET}
    export_onnx(model, tmp_path / "model.onnx", names, **inputs)
    larger = thrice(inputs)
    output, expected = run_onnx(tmp_path / "model.onnx", **larger), model(**larger)
    np.testing.assert_allclose(output["last_hidden_state"], expected.last_hidden_state.detach(), atol=1e-4)
    predicted = expected.predictor_output.last_hidden_state
    np.testing.assert_allclose(output["predicted"], predicted.detach(), atol=1e-4)
