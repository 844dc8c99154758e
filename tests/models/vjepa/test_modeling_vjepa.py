import math
import warnings

import pytest
import torch
from reference import TINY, inputs_of, largest_difference, reference_model, reference_tensors
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from transformers_vjepa.models.vjepa.modeling_vjepa import mean_prediction_error, sincos_positions

VARIANTS = ["vjepa_tiny_uniform", "vjepa_tiny_plain"]
TOLERANCE = 1e-5


@pytest.fixture
def config():
    return VJEPAConfig(**TINY)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return VJEPAModel(config).eval()


def clips(config, batch=2):
    shape = (batch, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CONTEXT = torch.tensor([[0, 3, 5, 17], [1, 2, 8, 30]])
TARGET = torch.tensor([[1, 2, 9, 20, 31], [0, 5, 9, 12, 29]])


# Against the published code


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_matches_the_reference(shared, variant):
    folder = shared / "reference" / variant
    model, expected = reference_model(folder), reference_tensors(folder / "forward.safetensors")
    output = model(**inputs_of(expected))
    assert largest_difference(output.loss, expected["loss"]) < TOLERANCE
    assert largest_difference(output.target_hidden_state, expected["target.tokens"]) < TOLERANCE
    for index in range(2):
        for ours, name in (
            (output.context_hidden_states, "context_tokens"),
            (output.predictions, "prediction"),
            (output.targets, "target_tokens"),
        ):
            assert largest_difference(ours[index], expected[f"mask{index}.{name}"]) < TOLERANCE, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_encoders_match_the_reference_unmasked_and_at_another_size(shared, variant):
    folder = shared / "reference" / variant
    model, expected = reference_model(folder), reference_tensors(folder / "forward.safetensors")
    clip = expected["clip"].transpose(1, 2)
    assert largest_difference(model.vjepa(clip).last_hidden_state, expected["target.tokens"]) < TOLERANCE
    larger = model.vjepa(expected["interp.clip"].transpose(1, 2)).last_hidden_state
    assert largest_difference(larger, expected["interp.target_tokens"]) < TOLERANCE
    model.update_target(0.0)  # now `vjepa` holds the context encoder
    assert largest_difference(model.vjepa(clip).last_hidden_state, expected["context.tokens_unmasked"]) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_match_the_reference(shared, variant):
    folder = shared / "reference" / variant
    model, expected = reference_model(folder), reference_tensors(folder / "forward.safetensors")
    output = model(**inputs_of(expected))
    output.loss.backward()
    encoder, predictor = model.context_encoder, model.vjepa.predictor
    attention = encoder.layer[0].attention
    qkv = torch.cat([layer.weight.grad for layer in (attention.query, attention.key, attention.value)])
    patch = expected["grad.encoder.backbone.patch_embed.proj.weight"]
    pairs = {
        "qkv": (qkv, expected["grad.encoder.backbone.blocks.0.attn.qkv.weight"]),
        "norm": (encoder.layernorm.bias.grad, expected["grad.encoder.backbone.norm.bias"]),
        "patch": (encoder.embeddings.patch_embeddings.weight.grad.view_as(patch), patch),
        "embed": (
            predictor.predictor_embeddings.weight.grad,
            expected["grad.predictor.backbone.predictor_embed.weight"],
        ),
        "mask0": (predictor.mask_tokens.grad[0], expected["grad.predictor.backbone.mask_tokens.0"]),
        "mask1": (predictor.mask_tokens.grad[1], expected["grad.predictor.backbone.mask_tokens.1"]),
    }
    for name, (ours, theirs) in pairs.items():
        assert theirs.abs().max() > 1e-6, name
        # An absolute tolerance of 1e-5 would accept any value: the gradients are this small.
        assert largest_difference(ours, theirs) < 1e-4 * theirs.abs().max().item(), name
    assert all(parameter.grad is None for parameter in model.vjepa.encoder.parameters())


def test_image_model_matches_the_ijepa_reference(shared):
    folder = shared / "reference" / "ijepa_tiny"
    model, expected = reference_model(folder), reference_tensors(folder / "forward.safetensors")
    output = model(**inputs_of(expected))
    assert largest_difference(output.loss, expected["loss_smooth_l1"]) < TOLERANCE
    assert largest_difference(output.target_hidden_state, expected["target.tokens"]) < TOLERANCE
    (context,) = output.context_hidden_states
    assert largest_difference(context, expected["context_tokens"]) < TOLERANCE
    for index in range(4):
        assert largest_difference(output.predictions[index], expected[f"prediction{index}"]) < TOLERANCE
        assert largest_difference(output.targets[index], expected[f"target_tokens{index}"]) < TOLERANCE
    images = model.vjepa(pixel_values=expected["image"]).last_hidden_state
    assert largest_difference(images, expected["target.tokens"]) < TOLERANCE


# Against hand-computed values


def test_sincos_positions_by_hand():
    # Width 6, uniform: 2 channels an axis, one frequency of 1. Token 5 of a 2 x 2 x 2 grid is (1, 0, 1).
    table = sincos_positions((2, 2, 2), 6, uniform_power=True)
    s, c = math.sin(1), math.cos(1)
    assert torch.allclose(table[5], torch.tensor([s, c, 0.0, 1.0, s, c]))
    # Width 16, plain: time 8 (frequencies 1, .1, .01, .001), height 4 and width 4 (1, .01).
    table = sincos_positions((2, 2, 2), 16, uniform_power=False)
    time = [math.sin(f) for f in (1, 0.1, 0.01, 0.001)] + [math.cos(f) for f in (1, 0.1, 0.01, 0.001)]
    height = [0.0, 0.0, 1.0, 1.0]
    width = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert torch.allclose(table[5], torch.tensor(time + height + width))
    # The surplus of uniform tables is cut off: ViT-L loses 2 of 3 x 342 channels.
    assert sincos_positions((1, 2, 2), 1024, uniform_power=True).shape == (4, 1024)


def test_patch_projection_is_the_strided_convolution(config, model):
    video = clips(config)
    linear = model.encoder.embeddings.patch_embeddings
    weight = linear.weight.view(-1, 3, config.tubelet_size, config.patch_size, config.patch_size)
    stride = weight.shape[2:]
    expected = nn.functional.conv3d(video.transpose(1, 2), weight, linear.bias, stride=stride)
    patches, grid = model.encoder.embeddings.patchify(video)
    assert grid == (2, 4, 4)
    assert torch.allclose(linear(patches), expected.flatten(2).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("loss, expected", [("l1", 1.0), ("l2", 0.625), ("smooth_l1", 0.5625)])
def test_loss_by_hand(config, loss, expected):
    model = VJEPAForPreTraining(VJEPAConfig(**(config.to_diff_dict() | {"pred_loss": loss}))).eval()
    with torch.no_grad():  # all predictions are 1/2, and the target features are -1 and 1 in turn
        nn.init.zeros_(model.vjepa.predictor.proj.weight)
        model.vjepa.predictor.proj.bias.fill_(0.5)
        nn.init.zeros_(model.vjepa.encoder.layernorm.weight)
        model.vjepa.encoder.layernorm.bias.copy_(torch.tensor([-1.0, 1.0]).repeat(config.hidden_size // 2))
    output = model(clips(config), [CONTEXT], [TARGET])
    # Errors of 3/2 and -1/2: L1 (3/2 + 1/2) / 2, L2 (9/8 + 1/8) / 2, smooth L1 (3/2 - 1/2 + 1/8) / 2.
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)
    assert output.prediction_loss is output.loss


@pytest.mark.parametrize(
    "loss, expected", [("l1", (0.5 + 3) / 2), ("l2", (0.125 + 4.5) / 2), ("smooth_l1", 10.25 / 6)]
)
def test_mean_over_targets_of_unequal_lengths(loss, expected):
    # One token with an error of 1/2 and two tokens with an error of 3. Smooth L1 counts all values alike:
    # (2 * 1/8 + 4 * 5/2) / 6; the other losses average the two masks.
    predictions = [torch.full((1, 1, 2), 0.5), torch.full((1, 2, 2), -3.0)]
    targets = [torch.zeros(1, 1, 2), torch.zeros(1, 2, 2)]
    assert mean_prediction_error(predictions, targets, loss=loss).item() == pytest.approx(expected)


def test_targets_masked_at_the_input_see_only_themselves(config):
    model = VJEPAForPreTraining(config).eval()
    video = clips(config)
    patches, grid = model.vjepa.encoder.embeddings.patchify(video)
    changed = patches.clone()
    untouched = torch.zeros(2, config.num_patches, dtype=torch.bool).scatter(1, TARGET, True)
    changed[~untouched] += 1.0  # other tokens than the targets
    model.context_encoder.embeddings.patchify = lambda pixels: (patches if pixels is video else changed, grid)
    masks = {"context_mask": [CONTEXT], "target_mask": [TARGET]}
    outputs = [
        [model(pixels, **masks, mask_targets_at=place) for pixels in (video, 0)] for place in ("input", "output")
    ]
    (seen, same), (whole, other) = outputs
    assert seen.target_hidden_state is None
    assert torch.equal(seen.targets[0], same.targets[0])
    assert not torch.allclose(whole.targets[0], other.targets[0], atol=1e-3)
    assert not torch.allclose(whole.targets[0], seen.targets[0], atol=1e-3)
    with pytest.raises(ValueError, match="mask_targets_at='middle' must be 'output' or 'input'"):
        model(video, **masks, mask_targets_at="middle")


def test_variance_regulariser_by_hand(config):
    model = VJEPAForPreTraining(config).eval()
    nn.init.zeros_(model.vjepa.predictor.proj.weight)  # constant predictions: std = sqrt(1e-4)
    plain = model(clips(config), [CONTEXT], [TARGET])
    regularised = model(clips(config), [CONTEXT], [TARGET], variance_weight=0.5)
    assert plain.variance_loss is None
    assert regularised.variance_loss.item() == pytest.approx(1 - 0.01)
    assert (regularised.loss - plain.loss).item() == pytest.approx(0.5 * 0.99, abs=1e-5)


def test_update_target_by_hand(config):
    model = VJEPAForPreTraining(config)
    with torch.no_grad():
        model.context_encoder.layernorm.weight.fill_(3.0)
    model.update_target(0.75)
    assert torch.allclose(model.vjepa.encoder.layernorm.weight, torch.full((48,), 1.5))
    model.update_target(1.0)
    assert torch.allclose(model.vjepa.encoder.layernorm.weight, torch.full((48,), 1.5))
    with pytest.raises(ValueError, match=r"momentum=1.5 must lie in \[0, 1\]"):
        model.update_target(1.5)


def test_initialisation(config):
    torch.manual_seed(0)
    model = VJEPAForPreTraining(VJEPAConfig(**{**TINY, "hidden_size": 192}))
    for name, parameter in model.named_parameters():
        if "layernorm" in name or "norm1" in name or "norm2" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias") or name.endswith("mask_tokens"):
            assert not parameter.any(), name
        elif parameter.numel() > 5000:
            # Truncation at +-2 is 100 standard deviations away; deep layers are not rescaled.
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
    context, target = model.context_encoder.state_dict(), model.vjepa.encoder.state_dict()
    assert all(torch.equal(context[name], target[name]) for name in context)


# What users may pass


def test_context_mask_drops_tokens_before_the_encoder(config, model):
    video = clips(config)
    spoiled = video.clone()
    # Tokens 16-31 lie in the second tubelet: a context without them must not see its frames.
    spoiled[:, 2:] = 100.0
    mask = torch.arange(16).expand(2, 16)
    seen = model(video, context_mask=mask).last_hidden_state
    assert seen.shape == (2, 16, 48)
    assert torch.equal(seen, model(spoiled, context_mask=mask).last_hidden_state)
    assert not torch.allclose(seen, model(video).last_hidden_state[:, :16])


def test_full_context_mask_changes_nothing_and_order_is_kept(config, model):
    video = clips(config)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).expand(2, 32)
    everything = model(video).last_hidden_state
    permuted = model(video, context_mask=order).last_hidden_state
    assert torch.allclose(permuted, everything[:, order[0]], atol=1e-5)


def test_lists_of_masks_give_tuples(config, model):
    video = clips(config)
    single = model(video, context_mask=CONTEXT, target_mask=TARGET)
    assert single.predictor_output.last_hidden_state.shape == (2, 5, 48)
    several = model(video, context_mask=[CONTEXT, TARGET], target_mask=[TARGET, CONTEXT])
    assert [states.shape[1] for states in several.last_hidden_state] == [4, 5]
    assert torch.equal(several.last_hidden_state[0], single.last_hidden_state)
    assert torch.equal(several.predictor_output[0].last_hidden_state, single.predictor_output.last_hidden_state)
    skipped = model(video, context_mask=CONTEXT, target_mask=TARGET, skip_predictor=True)
    assert skipped.predictor_output is None
    assert isinstance(model(video, return_dict=False), tuple)


def test_each_mask_generator_has_its_own_mask_token(config):
    model = VJEPAModel(config).eval()
    with torch.no_grad():
        model.predictor.mask_tokens[1] += 1.0
    outputs = model(clips(config), context_mask=[CONTEXT, CONTEXT], target_mask=[TARGET, TARGET]).predictor_output
    assert not torch.allclose(outputs[0].last_hidden_state, outputs[1].last_hidden_state)


def test_images_are_still_clips(config, model):
    image = clips(config)[:, 0]
    still = image.unsqueeze(1).expand(-1, config.frames_per_clip, -1, -1, -1)
    assert torch.equal(model(image).last_hidden_state, model(still).last_hidden_state)
    assert torch.equal(model.get_vision_features(image), model(still).last_hidden_state)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 1, 3, 32, 32), "frames=1, which is not a positive multiple of tubelet_size=2: pass 2"),
        ((2, 5, 3, 32, 32), "frames=5, which is not a positive multiple of tubelet_size=2: pass 4"),
        ((2, 4, 3, 30, 32), "height=30, which is not a positive multiple of patch_size=8: pass 24"),
        ((2, 4, 1, 32, 32), r"expected \(batch, frames, 3, height, width\)"),
        ((3, 32, 32), r"expected \(batch, frames, 3, height, width\)"),
    ],
)
def test_wrong_clips_are_refused(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_integer_pixels_are_refused(model):
    with pytest.raises(ValueError, match="dtype torch.uint8: pass normalised floats"):
        model(torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    "contexts, targets, message",
    [
        ([CONTEXT.int()], [TARGET], "context_mask has a mask of dtype torch.int32"),
        ([CONTEXT], [TARGET[:1]], r"target_mask .* expected int64 token indices of shape \(batch=2"),
        ([], [TARGET], "context_mask is an empty list"),
        ([CONTEXT], [[[1]]], "target_mask has a list where a tensor of token indices is expected"),
        ([CONTEXT - 32], [TARGET], r"context_mask has token -\d+: these clips have tokens 0 to 31"),
        ([CONTEXT], [TARGET + 32], r"target_mask has token \d+: these clips have tokens 0 to 31"),
        ([CONTEXT, CONTEXT], [TARGET] * 3, "2 context masks for 3 target masks"),
    ],
)
def test_wrong_masks_are_refused(config, contexts, targets, message):
    with pytest.raises(ValueError, match=message):
        VJEPAForPreTraining(config)(clips(config), contexts, targets)


# The transformers stack


def test_pretraining_checkpoint_loads_as_the_target_encoder(config, tmp_path, caplog):
    model = VJEPAForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter += 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path)
        base, info = VJEPAModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not [record for record in caplog.records if "shared" in record.message.lower()]
    video = clips(config)
    assert torch.equal(base(video).last_hidden_state, model.vjepa(video).last_hidden_state)
    assert isinstance(AutoModel.from_pretrained(tmp_path), VJEPAModel)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again(video, [CONTEXT], [TARGET]).loss, model(video, [CONTEXT], [TARGET]).loss)


def test_pretraining_from_a_base_checkpoint_starts_at_its_encoder(config, model, tmp_path):
    with torch.no_grad():
        model.encoder.layernorm.bias += 0.5
    model.save_pretrained(tmp_path)
    pretraining = VJEPAForPreTraining.from_pretrained(tmp_path)
    context, target = pretraining.context_encoder.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(context[name], target[name]) for name in target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loading(config, model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = VJEPAModel.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    video = clips(config)
    output = half(video, target_mask=TARGET)
    assert output.last_hidden_state.dtype == output.predictor_output.last_hidden_state.dtype == dtype
    assert torch.allclose(output.last_hidden_state.float(), model(video).last_hidden_state, atol=0.1)


def test_device_map(config, model, tmp_path):
    model.save_pretrained(tmp_path)
    mapped = VJEPAModel.from_pretrained(tmp_path, device_map="auto")
    video = clips(config)
    assert torch.allclose(mapped(video).last_hidden_state.cpu(), model(video).last_hidden_state, atol=1e-5)


def test_eager_equals_sdpa_and_returns_attentions(config, model):
    video = clips(config)
    expected = model(video, context_mask=CONTEXT, target_mask=TARGET)
    assert model(video, output_attentions=True).attentions is None
    model.set_attn_implementation("eager")
    output = model(video, context_mask=CONTEXT, target_mask=TARGET, output_attentions=True, output_hidden_states=True)
    assert torch.allclose(output.last_hidden_state, expected.last_hidden_state, atol=1e-5)
    assert [weights.shape for weights in output.attentions] == [(2, 3, 4, 4)] * 2
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(2, 3, 4))
    assert len(output.hidden_states) == config.num_hidden_layers + 1
    predictor = output.predictor_output
    assert torch.allclose(predictor.last_hidden_state, expected.predictor_output.last_hidden_state, atol=1e-5)
    # The last predictor block computes the 5 target tokens only, attending to all 9.
    assert [weights.shape for weights in predictor.attentions] == [(2, 3, 9, 9), (2, 3, 5, 9)]


def test_gradient_checkpointing_gives_the_same_gradients(config):
    torch.manual_seed(0)
    plain, checkpointed = VJEPAForPreTraining(config), VJEPAForPreTraining(config)
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for model in (plain, checkpointed):
        model.train()
        model(clips(config), [CONTEXT], [TARGET]).loss.backward()
    gradients = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
    assert gradients
    for name, value in checkpointed.named_parameters():
        if name in gradients:
            assert torch.allclose(value.grad, gradients[name], atol=1e-7), name


def test_drop_path_acts_on_the_context_encoder_only(config):
    model = VJEPAForPreTraining(VJEPAConfig(**TINY, drop_path_rate=0.5)).train()
    first, second = (model(clips(config), [CONTEXT], [TARGET]) for _ in range(2))
    assert not torch.equal(first.context_hidden_states[0], second.context_hidden_states[0])
    assert torch.equal(first.target_hidden_state, second.target_hidden_state)


def test_encoder_compiles_without_graph_breaks(config, model):
    video = clips(config)
    compiled = torch.compile(model.get_vision_features, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(video), model(video).last_hidden_state, atol=1e-5)


def test_encoder_exports(config, model):
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values_videos):
            return self.model.get_vision_features(pixel_values_videos)

    video = clips(config)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(Features(), (video,), dynamic_shapes=({0: batch},))
    more = clips(config, batch=5)
    assert torch.allclose(program.module()(more), model(more).last_hidden_state, atol=1e-5)


# Several layers pooled together


def idle_last_block(model):
    """Makes the last block of the encoder add nothing, so that the outputs of the last two blocks are equal."""
    for layer in (model.encoder.layer[-1].attention.proj, model.encoder.layer[-1].mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_features_of_several_layers_stand_side_by_side_each_normed(config, model):
    last = model.get_vision_features(clips(config))
    both = model.get_vision_features(clips(config), num_layers=2)
    assert both.shape == (2, 32, 96) and torch.equal(both[..., 48:], last)
    assert largest_difference(both[..., :48], last) > 0.01  # the block before
    assert both[..., :48].mean(dim=-1).abs().max() < 1e-5  # after the norm
    idle_last_block(model)
    both = model.get_vision_features(clips(config), num_layers=2)
    assert torch.equal(both[..., :48], both[..., 48:])


def test_a_classifier_of_several_layers(tmp_path):
    torch.manual_seed(0)
    config = VJEPAConfig(**TINY, pooling="mean", num_pooled_layers=2, num_labels=3)
    assert config.pooled_size == 96
    model = VJEPAForVideoClassification(config).eval()
    assert model.classifier.weight.shape == (3, 96)
    idle_last_block(model.vjepa)
    # Class 0 reads the block before, class 1 the last block: with an idle last block their logits are equal.
    with torch.no_grad():
        model.classifier.weight[1] = model.classifier.weight[0].roll(48)
        model.classifier.weight[:2, :48] *= torch.tensor([[1.0], [0.0]])
        model.classifier.weight[:2, 48:] *= torch.tensor([[0.0], [1.0]])
    output = model(clips(config))
    assert output.logits[:, 0].abs().min() > 1e-4 and output.hidden_states is None
    assert torch.allclose(output.logits[:, 0], output.logits[:, 1], atol=1e-6)
    assert len(model(clips(config), output_hidden_states=True).hidden_states) == 3
    model.save_pretrained(tmp_path)
    for loader in (AutoModelForVideoClassification, AutoModelForImageClassification):
        loaded = loader.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(clips(config)).logits, output.logits)
    # The norm is the encoder's own, and both halves reach the blocks.
    model.train()(clips(config), labels=torch.tensor([0, 2])).loss.backward()
    assert model.vjepa.encoder.layernorm.weight.grad.abs().max() > 0
    assert model.vjepa.encoder.layer[0].mlp.fc1.weight.grad.abs().max() > 0


def test_batch_normalisation_of_the_means(config, model, tmp_path):
    model.save_pretrained(tmp_path)
    fields = {"pooling": "mean", "pooled_batch_norm": True, "num_labels": 3}
    classifier = VJEPAForVideoClassification.from_pretrained(tmp_path, **fields)
    norm = classifier.pooler.norm
    assert norm.running_mean.abs().max() == 0 and (norm.running_var == 1).all() and norm.weight is None
    tokens = torch.randn(64, 1, 5, 48) * 3 + 7
    pooled = classifier.pooler.train()(tokens.flatten(0, 1))
    assert pooled.mean(dim=0).abs().max() < 1e-4 and (pooled.std(dim=0) - 1).abs().max() < 0.02
    assert (norm.running_mean - 0.7).abs().max() < 0.2  # a tenth of the way
