"""Requirements of `transformers` on the forward pass of all three models, and on their configuration."""

import copy
import inspect
import json
import logging

import pytest
import torch
from reference import TINY
from rules import (
    CONTEXT,
    MODELS,
    TARGET,
    clips,
    gradients_of,
    inputs_of,
    largest_gap,
    scalar_of,
    tensors_of,
    tiny_config,
    tiny_model,
)
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from transformers_vjepa.pretraining.pixel_prediction import VJEPAForPixelPrediction

every_model = pytest.mark.parametrize("cls", MODELS)


# Outputs


def encoder_states(output) -> list[tuple[torch.Tensor, ...]]:
    """Hidden states of each pass through the encoder."""
    states = output.hidden_states
    return list(states) if isinstance(states[0], tuple) else [states]


def encoder_attentions(output) -> list[tuple[torch.Tensor, ...]]:
    attentions = output.attentions
    return list(attentions) if isinstance(attentions[0], tuple) else [attentions]


@every_model
@pytest.mark.parametrize("by_argument", [True, False])
def test_hidden_states_and_attentions(cls, by_argument):
    wanted = {"output_hidden_states": True, "output_attentions": True}
    model = tiny_model(cls, attn_implementation="eager", **({} if by_argument else wanted))
    inputs = inputs_of(cls) | (wanted if by_argument else {})
    output = model(**inputs)
    # Tokens that each pass through the encoder sees: those of its mask, or all.
    tokens = {VJEPAModel: [4], VJEPAForPreTraining: [4, 5], VJEPAForVideoClassification: [32]}[cls]
    for count, states, attentions in zip(tokens, encoder_states(output), encoder_attentions(output), strict=True):
        assert [state.shape for state in states] == [(2, count, 48)] * 3
        assert [weights.shape for weights in attentions] == [(2, 3, count, count)] * 2
        assert torch.allclose(attentions[1].sum(-1), torch.ones(2, 3, count))
    switched_off = model(**inputs_of(cls), output_hidden_states=False, output_attentions=False)
    assert switched_off.get("hidden_states") is None and switched_off.get("attentions") is None
    assert largest_gap(switched_off.to_tuple()[0], output.to_tuple()[0]) == 0


@every_model
def test_attention_weights_that_the_implementation_does_not_return_are_none(cls, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers_vjepa"), "propagate", True)
    transformers_logging.warning_once.cache_clear()
    model, inputs = tiny_model(cls, num_pooler_layers=1), inputs_of(cls)
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    assert output.get("attentions") is None and all(len(states) == 3 for states in encoder_states(output))
    assert "output_attentions=True: this attention implementation returns no weights" in caplog.text
    assert largest_gap(model(**inputs), model(**inputs, output_attentions=True)) == 0
    as_tuple = model(**inputs, output_attentions=True, return_dict=False)
    assert len(as_tuple) == len(model(**inputs, return_dict=False))


@pytest.mark.parametrize("cls", [VJEPAModel, VJEPAForPreTraining])
def test_one_mask_gives_flat_states_and_a_list_of_masks_one_entry_each(cls):
    model = tiny_model(cls, attn_implementation="eager")
    wanted = {"output_hidden_states": True, "output_attentions": True}
    single = model(clips(), context_mask=CONTEXT, target_mask=TARGET, **wanted)
    assert [state.shape for state in single.hidden_states] == [(2, 4, 48)] * 3
    assert [weights.shape for weights in single.attentions] == [(2, 3, 4, 4)] * 2
    listed = model(clips(), context_mask=[CONTEXT], target_mask=[TARGET], **wanted)
    assert [len(entry) for entry in (listed.hidden_states, listed.attentions)] == [1, 1]
    assert largest_gap(listed.hidden_states[0], single.hidden_states) == 0
    if cls is VJEPAForPreTraining:
        assert single.loss == listed.loss


def test_states_of_pretraining_are_those_of_the_context_encoder():
    model = tiny_model(VJEPAForPreTraining, attn_implementation="eager")
    output = model(**inputs_of(VJEPAForPreTraining), output_hidden_states=True)
    for states, context in zip(output.hidden_states, output.context_hidden_states, strict=True):
        assert torch.equal(model.context_encoder.layernorm(states[-1]), context)


@every_model
def test_tuples_equal_the_outputs(cls):
    model = tiny_model(cls, attn_implementation="eager")
    inputs = inputs_of(cls) | {"output_hidden_states": True, "output_attentions": True}
    output = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert type(as_tuple) is tuple and len(as_tuple) == len(output)
    assert largest_gap(output, as_tuple) == 0
    model.config.return_dict = False
    assert type(model(**inputs)) is tuple
    assert largest_gap(output, model(**inputs)) == 0
    if cls is VJEPAModel:
        assert model.get_vision_features(clips()).shape == (2, 32, 48)


def test_no_names_are_left_within_a_tuple():
    model = tiny_model(VJEPAModel)
    output = model(clips(), context_mask=[CONTEXT, TARGET], target_mask=[TARGET, CONTEXT], return_dict=False)
    encoded, predicted = output
    assert [type(one) for one in predicted] == [tuple, tuple]
    assert [states.shape[1] for states in encoded] == [4, 5]
    assert [states[0].shape[1] for states in predicted] == [5, 4]


@every_model
def test_gradients_reach_hidden_states_and_attentions(cls):
    model = tiny_model(cls, attn_implementation="eager")
    output = model(**inputs_of(cls), output_hidden_states=True, output_attentions=True)
    kept = [*encoder_states(output)[0][:-1], *encoder_attentions(output)[0]]
    for tensor in kept:
        tensor.retain_grad()
    scalar_of({"loss": tensors_of(output)[0].float().sum()}).backward()
    assert len(kept) == 4 and all(tensor.grad is not None and tensor.grad.any() for tensor in kept)


@every_model
def test_a_batch_equals_its_samples(cls):
    model, inputs = tiny_model(cls), inputs_of(cls)
    together = model(**inputs)
    for index in range(2):

        def one(value, index=index):
            if isinstance(value, list):
                return [item[index : index + 1] for item in value]
            return value[index : index + 1] if isinstance(value, torch.Tensor) else value

        alone = model(**{name: one(value) for name, value in inputs.items()})
        for batched, single in zip(tensors_of(together), tensors_of(alone), strict=True):
            if single.ndim:  # the losses are means over the batch
                assert torch.allclose(batched[index : index + 1], single, atol=1e-5)


@every_model
def test_the_same_twice(cls):
    model = tiny_model(cls, drop_path_rate=0.5, attention_probs_dropout_prob=0.5)
    assert largest_gap(model(**inputs_of(cls)), model(**inputs_of(cls))) == 0
    model.train()
    assert largest_gap(model(**inputs_of(cls)), model(**inputs_of(cls))) > 0


@every_model
def test_signature_begins_with_the_main_input(cls):
    names = list(inspect.signature(cls.forward).parameters)
    assert names[1] == cls.main_input_name == "pixel_values_videos"
    assert {"output_hidden_states", "output_attentions"} <= set(names)
    # `Trainer` passes the number of items to a model that takes any argument, and then does not average the loss.
    assert cls.accepts_loss_kwargs is False


@pytest.mark.parametrize("cls", [*MODELS, VJEPAForPixelPrediction])
def test_arguments_of_other_models_must_be_none(cls):
    """transformers and its wrappers pass them to every model."""
    model, inputs = tiny_model(cls), inputs_of(VJEPAForPreTraining if cls is VJEPAForPixelPrediction else cls)
    foreign = {"input_ids": None, "attention_mask": None, "inputs_embeds": None, "interpolate_pos_encoding": None}
    assert largest_gap(model(**inputs, **foreign), model(**inputs)) == 0
    for name, value in (("input_ids", torch.zeros(2, 3)), ("num_items_in_batch", 2), ("pixel_value", clips())):
        with pytest.raises(TypeError, match=f"{cls.__name__} takes no {name}: leave them out or pass None"):
            model(**inputs, **{name: value})


# Types


@every_model
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_and_autocast(cls, dtype, tolerance):
    model, inputs = tiny_model(cls), inputs_of(cls)
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=dtype):
        mixed = model(**inputs)
    half = model.to(dtype)(**{**inputs, "pixel_values_videos": inputs["pixel_values_videos"].to(dtype)})
    assert largest_gap(mixed, expected) < tolerance
    assert largest_gap(half, expected) < tolerance
    if cls is VJEPAForPreTraining:
        assert half.loss.dtype == mixed.loss.dtype == torch.float32
    assert all(buffer.dtype == dtype for buffer in model.buffers())


# Attention


@every_model
def test_every_attention_gives_the_same(cls):
    model, inputs = tiny_model(cls, num_pooler_layers=1), inputs_of(cls)
    assert model.config._attn_implementation == "sdpa"
    expected, gradients = model(**inputs), gradients_of(model, inputs)
    model.set_attn_implementation("eager")
    assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {"eager"}
    assert largest_gap(model(**inputs), expected) < 1e-5
    for name, gradient in gradients_of(model, inputs).items():
        assert torch.allclose(gradient, gradients[name], atol=1e-5), name


@every_model
def test_attention_that_is_not_there_is_refused_by_transformers(cls, tmp_path):
    model = tiny_model(cls)
    with pytest.raises(ValueError, match=f"{cls.__name__} does not support .* flex_attention"):
        model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match='attn_implementation="nonsense"` is not supported'):
        cls(tiny_config(attn_implementation="nonsense"))
    # Supported, if the package and a GPU are available.
    with pytest.raises(ImportError, match="FlashAttention2"):
        model.set_attn_implementation("flash_attention_2")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="flex_attention"):
        cls.from_pretrained(tmp_path, attn_implementation="flex_attention")


@every_model
def test_attention_goes_through_the_interface_of_transformers(cls):
    """With the arguments that flash attention needs: no mask, not causal, heads on the second axis, a scaling."""
    seen = []

    def plain(module, query, key, value, attention_mask, scaling, dropout, is_causal, **kwargs):
        seen.append((attention_mask, is_causal, module.is_causal, dropout))
        assert query.shape[::3] == key.shape[::3] == value.shape[::3] and query.shape[1] == key.shape[1]
        weights = (query @ key.transpose(2, 3) * scaling).softmax(-1)
        return (weights @ value).transpose(1, 2), None

    AttentionInterface.register("plain", plain)
    model, inputs = tiny_model(cls), inputs_of(cls)
    expected = model(**inputs)
    model.set_attn_implementation("plain")
    assert largest_gap(model(**inputs), expected) < 1e-5
    assert len(seen) >= 2 and set(seen) == {(None, False, False, 0.0)}


# Gradient checkpointing


def checkpointing(model, name):
    """A method or attribute that is called "activation..." since transformers 5.23, and "gradient..." before."""
    new, old = name.format("activation"), name.format("gradient")
    return getattr(model, new if hasattr(model, new) else old)


@every_model
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_gradients_are_the_same(cls, use_reentrant):
    calls = []
    model, inputs = tiny_model(cls, num_pooler_layers=1).train(), inputs_of(cls)
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.mlp.register_forward_pre_hook(lambda part, _: calls.append(part))
    expected, once = gradients_of(model, inputs), len(calls)
    calls.clear()
    assert not checkpointing(model, "is_{}_checkpointing")
    checkpointing(model, "{}_checkpointing_enable")({"use_reentrant": use_reentrant})
    assert checkpointing(model, "is_{}_checkpointing") and all(layer.gradient_checkpointing for layer in layers)
    gradients = gradients_of(model, inputs)
    # Every trained layer runs a second time in the backward pass. The target encoder is not trained.
    target = list(model.vjepa.encoder.layer) if cls is VJEPAForPreTraining else []
    assert len(calls) == 2 * once - len(target)
    assert gradients.keys() == expected.keys()
    assert {name for name, value in model.named_parameters() if value.requires_grad} == gradients.keys()
    assert all(torch.allclose(gradients[name], value, atol=1e-6) for name, value in expected.items())
    checkpointing(model, "{}_checkpointing_disable")()
    assert not any(layer.gradient_checkpointing for layer in layers)


@every_model
def test_frozen_layers_pass_gradients_on_to_the_input(cls):
    """Adapters need this if layers are checkpointed with reentrant code."""
    model, inputs = tiny_model(cls).train(), inputs_of(cls)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    checkpointing(model, "{}_checkpointing_enable")({"use_reentrant": True})
    encoder = {VJEPAModel: "encoder", VJEPAForPreTraining: "context_encoder"}.get(cls, "vjepa.encoder")
    last = model.get_submodule(encoder).layer[-1].mlp.fc2.requires_grad_(True)
    scalar_of(model(**inputs)).backward()
    assert last.weight.grad.any()
    model.disable_input_require_grads()
    assert not model.get_input_embeddings()(torch.zeros(1, 384)).requires_grad


# Embeddings


@every_model
def test_input_embeddings_can_be_replaced(cls):
    model, inputs = tiny_model(cls), inputs_of(cls)
    expected = model(**inputs)
    replacement = copy.deepcopy(model.get_input_embeddings())
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement and model.get_output_embeddings() is None
    assert largest_gap(model(**inputs), expected) == 0
    nn.init.zeros_(replacement.weight)
    assert largest_gap(model(**inputs), expected) > 0.01


@pytest.mark.parametrize("frames, height, width", [(2, 32, 32), (8, 32, 32), (4, 48, 16), (6, 64, 40)])
def test_clips_of_other_sizes_interpolate_the_positions(frames, height, width):
    """Without an option, as in V-JEPA 2 (other models of transformers have `interpolate_pos_encoding`)."""
    tokens = frames // 2 * height // 8 * width // 8
    video = torch.randn(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    model = tiny_model(VJEPAModel)
    everything = torch.arange(tokens).unsqueeze(0)
    output = model(video, target_mask=everything[:, :3])
    assert output.last_hidden_state.shape == (1, tokens, 48)
    assert output.predictor_output.last_hidden_state.shape == (1, 3, 48)
    masked = model(video, context_mask=everything.flip(1)).last_hidden_state
    assert torch.allclose(masked.flip(1), output.last_hidden_state, atol=1e-5)
    classifier = tiny_model(VJEPAForVideoClassification)
    assert classifier(video).logits.shape == (1, 5)
    pretraining = tiny_model(VJEPAForPreTraining)
    assert pretraining(video, [everything[:, :4]], [everything[:, 4:]]).loss.isfinite()


# The classifier's losses


@pytest.mark.parametrize("num_labels, shape", [(1, (2,)), (1, (2, 1)), (3, (2, 3))])
@pytest.mark.parametrize("views", [1, 2])
def test_regression(num_labels, shape, views, recwarn):
    model = tiny_model(VJEPAForVideoClassification, num_labels=num_labels, problem_type="regression")
    videos = torch.stack([clips(seed=seed) for seed in range(views)], dim=1).unsqueeze(2)
    labels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    output = model(videos, labels=labels)
    expected = (output.view_logits - labels.reshape(2, 1, num_labels)).square().mean()
    assert torch.allclose(output.loss, expected)
    # torch warns if a loss has to broadcast, which is nearly always a mistake.
    assert not [warning for warning in recwarn if "target size" in str(warning.message)]
    output.loss.backward()
    assert model.classifier.weight.grad.any()


@pytest.mark.parametrize(
    "labels, fields, expected",
    [
        (torch.tensor([0, 4]), {}, "single_label_classification"),
        (torch.tensor([0, 4], dtype=torch.int32), {"problem_type": "single_label_classification"}, None),
        (torch.eye(5)[:2], {}, "multi_label_classification"),
        (torch.tensor([0.5, 1.0]), {"num_labels": 1}, "regression"),
    ],
)
def test_kind_of_problem_follows_from_the_labels(labels, fields, expected):
    model = tiny_model(VJEPAForVideoClassification, **fields)
    if labels.dtype == torch.int32:
        with pytest.raises((RuntimeError, IndexError)):  # the cross-entropy of torch takes int64 only
            model(clips(), labels=labels)
        return
    assert model(clips()).loss is None and model.config.problem_type is None
    assert model(clips(), labels=labels).loss.ndim == 0
    assert model.config.problem_type == expected


@pytest.mark.parametrize("num_labels", [2, 7])
def test_number_of_labels_in_the_configuration(num_labels):
    config = tiny_config()
    config.num_labels = num_labels
    assert len(config.id2label) == len(config.label2id) == num_labels
    assert VJEPAForVideoClassification(config)(clips(1)).logits.shape == (1, num_labels)


# The configuration


COMMON = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["VJEPAModel"],
    "id2label": {0: "wave"},
    "label2id": {"wave": 0},
    "problem_type": "regression",
}


def test_common_arguments_of_configurations(tmp_path):
    config = VJEPAConfig(**TINY, **COMMON)
    for name, value in COMMON.items():
        assert getattr(config, name) == (torch.float16 if name == "dtype" else value), name
    assert VJEPAConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.to_json_file(tmp_path / "own.json")
    assert VJEPAConfig.from_json_file(tmp_path / "own.json").to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "within")
    loaded, unused = VJEPAConfig.from_pretrained(tmp_path, subfolder="within", return_unused_kwargs=True, zzz=1)
    assert unused == {"zzz": 1} and loaded.to_diff_dict() == config.to_diff_dict()
    assert VJEPAConfig.from_pretrained(tmp_path / "within", hidden_size=96).hidden_size == 96
    stored = json.loads((tmp_path / "within" / "config.json").read_text())
    assert stored["dtype"] == "float16" and "keys_to_ignore_at_inference" not in stored


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_hidden_layers"])
def test_common_properties_can_be_read_and_set(name):
    config = VJEPAConfig()
    setattr(config, name, 7)
    assert getattr(config, name) == config.to_dict()[name] == 7
    assert getattr(VJEPAConfig(**{name: 32}), name) == 32


@every_model
def test_parts_share_one_configuration(cls):
    model = tiny_model(cls)
    assert all(part.config is model.config for part in model.modules() if isinstance(part, PreTrainedModel))
    assert model.base_model is (model if cls is VJEPAModel else model.vjepa)
    chunked = tiny_model(cls, chunk_size_feed_forward=1)  # a field of all configurations, without effect here
    assert largest_gap(chunked(**inputs_of(cls)), model(**inputs_of(cls))) == 0
