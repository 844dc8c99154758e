"""VJEPAForVideoClassification and its poolers (modeling_vjepa.py)."""

import math

import pytest
import torch
from reference import TINY, largest_difference, reference_tensors
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForVideoClassification

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from transformers_vjepa.conversion.conversion import load_published_classifier
from transformers_vjepa.models.vjepa.modeling_vjepa import VJEPAAttentivePooler, VJEPAMeanPooler, VJEPAModel


def tiny(**fields) -> VJEPAForVideoClassification:
    torch.manual_seed(0)
    return VJEPAForVideoClassification(VJEPAConfig(**TINY, **{"num_labels": 5} | fields)).eval()


def clips(*leading, seed=1):
    return torch.randn(*leading, 4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def attend_with_keys_and_values(pooler: VJEPAAttentivePooler, tokens: torch.Tensor) -> torch.Tensor:
    """The cross-attention layer as it is usually written: keys and values of every token."""
    layer, heads = pooler.cross_attention_layer, pooler.cross_attention_layer.cross_attn.num_heads
    attention, normed = layer.cross_attn, layer.norm1(tokens)
    query = pooler.query_tokens.expand(len(tokens), -1, -1)
    parts = (attention.q_proj(query), attention.k_proj(normed), attention.v_proj(normed))
    split = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)
    attended = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    states = query + attended
    return (states + layer.mlp(layer.norm2(states))).squeeze(1)


@pytest.mark.parametrize(("variant", "heads"), [("vjepa_tiny_uniform", 4), ("vjepa_tiny_plain", 3)])
@pytest.mark.parametrize("depth", [1, 3])
def test_probes_agree_with_the_published_code(shared, variant, heads, depth):
    folder = shared / "reference" / variant
    model = load_published_classifier(
        folder / "checkpoint.pth.tar", folder / f"probe_depth{depth}.pth.tar", num_attention_heads=heads
    )
    assert model.config.num_pooler_layers == depth - 1
    expected = reference_tensors(folder / f"probe_depth{depth}.safetensors")
    clip = reference_tensors(folder / "forward.safetensors")["clip"].transpose(1, 2)
    views = torch.stack(
        [
            torch.stack([expected[f"views.clip.segment{s}.view{v}"].transpose(1, 2) for s in range(4)], dim=1)
            for v in range(3)
        ],
        dim=1,
    )
    with torch.no_grad():
        assert largest_difference(model(clip).logits, expected["logits_single_clip"]) < 1e-5
        output = model(views)
    assert largest_difference(output.view_logits, expected["views.logits"]) < 1e-5
    # The logits of several views are logarithms of probabilities: nothing is left to do but to compare.
    assert largest_difference(output.logits, expected["views.probabilities"].log()) < 1e-5


def test_one_query_needs_no_keys_and_values():
    torch.manual_seed(0)
    pooler = VJEPAAttentivePooler(VJEPAConfig(**TINY))
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(2, 32, 48)
    ours, usual = pooler(tokens), attend_with_keys_and_values(pooler, tokens)
    assert torch.allclose(ours, usual, atol=2e-5)
    names = [name for name, _ in pooler.named_parameters()]
    gradients = [torch.autograd.grad(out.square().sum(), list(pooler.parameters())) for out in (ours, usual)]
    for name, mine, theirs in zip(names, *gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3), name


def test_every_parameter_of_the_head_gets_a_gradient():
    model = tiny(num_pooler_layers=1)
    model(clips(2), labels=torch.tensor([0, 3])).loss.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_mean_pooling_by_hand():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert torch.equal(VJEPAMeanPooler(VJEPAConfig(**TINY))(tokens), torch.tensor([[2.0, 4.0]]))
    model = tiny(pooling="mean")
    with torch.no_grad():
        pooled = model.vjepa(clips(2)).last_hidden_state.mean(dim=1)
        assert torch.allclose(model(clips(2)).logits, model.classifier(pooled), atol=1e-6)
    assert not [name for name in model.state_dict() if name.startswith("pooler")]


def test_segments_are_classified_together_and_views_averaged():
    model = tiny()
    videos = clips(2, 3, 2)  # 2 videos, 3 views, 2 segments
    with torch.no_grad():
        output = model(videos)
        for view in range(3):
            tokens = torch.cat([model.vjepa(videos[:, view, segment]).last_hidden_state for segment in range(2)], 1)
            expected = model.classifier(model.pooler(tokens))
            assert torch.allclose(output.view_logits[:, view], expected, atol=1e-6)
        one = model(videos[:, :1, :1])
        assert torch.equal(one.logits, one.view_logits[:, 0])
        assert torch.allclose(one.logits, model(videos[:, 0, 0]).logits, atol=1e-6)
    assert torch.allclose(output.logits.softmax(-1), output.view_logits.softmax(-1).mean(1), atol=1e-6)
    assert model.encode(videos).shape == (2, 3, 2 * 32, 48)


def test_several_labels_average_their_own_probabilities():
    model = tiny(problem_type="multi_label_classification")
    with torch.no_grad():
        output = model(clips(2, 3, 1))
    assert torch.allclose(output.logits.sigmoid(), output.view_logits.sigmoid().mean(1), atol=1e-6)
    regression = tiny(num_labels=1)
    with torch.no_grad():
        output = regression(clips(2, 3, 1))
    assert torch.allclose(output.logits, output.view_logits.mean(1), atol=1e-6)


def test_losses_by_hand():
    model = tiny()
    labels = torch.tensor([4, 1])
    output = model(clips(2, 2, 1), labels=labels)
    picked = output.view_logits.log_softmax(-1)[torch.arange(2)[:, None], torch.arange(2)[None], labels[:, None]]
    assert torch.allclose(output.loss, -picked.mean(), atol=1e-6)
    assert model.config.problem_type == "single_label_classification"
    # Mixed clips: 70 % of one class and 30 % of another.
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0]])
    output = model(clips(1), labels=shares)
    log_probabilities = output.logits.log_softmax(-1)[0]
    assert torch.allclose(output.loss, -(0.7 * log_probabilities[0] + 0.3 * log_probabilities[1]), atol=1e-6)


def test_other_problem_types():
    several = tiny(problem_type="multi_label_classification")
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]])
    output = several(clips(1), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy(output.logits.sigmoid(), labels)
    assert torch.allclose(output.loss, expected, atol=1e-5)
    number = tiny(num_labels=1)
    output = number(clips(2), labels=torch.tensor([1.0, -1.0]))
    assert torch.allclose(output.loss, (output.logits.squeeze() - torch.tensor([1.0, -1.0])).square().mean())


def test_images_are_still_clips():
    model = tiny()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images.unsqueeze(1).expand(-1, 4, -1, -1, -1)).logits
        assert torch.equal(model(images).logits, expected)
        assert torch.equal(model(pixel_values=images).logits, expected)
        base = model.vjepa(pixel_values=images).last_hidden_state
    assert base.shape == (2, 32, 48)
    for given in ({}, {"pixel_values": images, "pixel_values_videos": images}):
        with pytest.raises(ValueError, match="either pixel_values_videos .* or pixel_values .*: [02] of them are"):
            model(**given)


def test_a_frozen_encoder_stays_as_it_is():
    model = tiny(drop_path_rate=0.5)
    model.freeze_encoder()
    model.train()
    assert model.training and model.pooler.training and not model.vjepa.training
    output = model(clips(2), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert all(value.grad is None for value in model.vjepa.parameters())
    assert all(value.grad is not None for value in (*model.pooler.parameters(), *model.classifier.parameters()))
    with torch.no_grad():
        assert torch.equal(model(clips(2)).logits, model(clips(2)).logits)
    tokens = model.encode(clips(2))
    assert not tokens.requires_grad
    assert torch.equal(model.classify(tokens).logits, model(clips(2)).logits)


def test_loads_a_pretraining_checkpoint_without_its_other_parts(tmp_path, caplog):
    torch.manual_seed(0)
    pretrained = VJEPAForPreTraining(VJEPAConfig(**TINY))
    torch.nn.init.ones_(pretrained.context_encoder.layernorm.bias)  # unlike the target encoder
    pretrained.save_pretrained(tmp_path)
    model, info = VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"pooler", "classifier"}
    assert not info["unexpected_keys"]
    expected = pretrained.vjepa.encoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.vjepa.encoder.state_dict().items())
    assert model.vjepa.predictor is None
    with pytest.raises(ValueError, match="target_mask needs the predictor"):
        model.vjepa(clips(1), target_mask=torch.tensor([[0]]))
    # A base model's checkpoint, whose names have no prefix.
    VJEPAModel(VJEPAConfig(**TINY)).save_pretrained(tmp_path / "base")
    _, info = VJEPAForVideoClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not info["unexpected_keys"]


def test_saved_and_loaded_through_the_auto_classes(tmp_path):
    names = {0: "wave", 1: "clap", 2: "jump"}
    model = tiny(num_labels=3, id2label=names, label2id={name: i for i, name in names.items()}, num_pooler_layers=1)
    model.save_pretrained(tmp_path)
    for auto in (AutoModelForVideoClassification, AutoModelForImageClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert loaded.config.id2label == names
        with torch.no_grad():
            assert torch.allclose(loaded(clips(1)).logits, model(clips(1)).logits, atol=1e-6)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"predictor"}
    assert torch.equal(base.encoder.layernorm.weight, model.vjepa.encoder.layernorm.weight)


def test_another_number_of_labels_needs_to_be_asked_for(tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=2)
    model = VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (2, 48)
    assert torch.equal(model.pooler.query_tokens, tiny().pooler.query_tokens)


def test_hidden_states_and_attentions_of_the_encoder():
    model = tiny(attn_implementation="eager")
    with torch.no_grad():
        output = model(clips(2, 3, 2), output_hidden_states=True, output_attentions=True)
        as_tuple = model(clips(1), return_dict=False)
    assert [state.shape for state in output.hidden_states] == [(12, 32, 48)] * 3
    assert [weights.shape for weights in output.attentions] == [(12, 3, 32, 32)] * 2
    assert as_tuple[0].shape == (1, 5)


def test_checkpointing_compiling_and_half_precision_agree():
    model, labels = tiny(num_pooler_layers=1), torch.tensor([0, 1])
    plain = model(clips(2), labels=labels)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(clips(2)).logits, plain.logits, atol=1e-5)
    half = tiny(num_pooler_layers=1).to(torch.bfloat16)
    with torch.no_grad():
        difference = half(clips(2).bfloat16()).logits.float() - plain.logits
    assert difference.abs().max() < 0.05
    model.gradient_checkpointing_enable()
    model.train()
    assert torch.allclose(model(clips(2), labels=labels).loss, plain.loss, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"num_pooler_layers": -1}, "`num_pooler_layers`=-1 must be at least 0"),
        ({"pooler_layer_norm_eps": 0.0}, "`pooler_layer_norm_eps`=0.0 must be greater than 0"),
    ],
)
def test_wrong_settings(fields, error):
    with pytest.raises(Exception, match=error):
        VJEPAConfig(**TINY, **fields)


def test_the_average_of_two_views_by_hand():
    model = tiny(num_labels=2, pooling="mean")
    torch.nn.init.eye_(model.classifier.weight)
    tokens = torch.zeros(1, 2, 1, 48)  # one token in each of two views, whose first two features are the logits
    tokens[0, 0, 0, 0] = math.log(3.0)  # 75 % for the first class in the first view, 50 % in the second
    output = model.classify(tokens)
    assert torch.allclose(output.view_logits, torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]]))
    assert torch.allclose(output.logits.softmax(-1), torch.tensor([[0.625, 0.375]]))
