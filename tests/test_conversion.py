import pytest
import torch
from reference import TINY, reference_model

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.conversion import convert_checkpoint, convert_network


def test_parts_go_to_their_places(shared):
    folder = shared / "reference" / "vjepa_tiny_uniform"
    model = reference_model(folder)
    published = torch.load(folder / "checkpoint.pth.tar", weights_only=True)
    for part, ours in (("encoder", model.context_encoder), ("target_encoder", model.vjepa.encoder)):
        assert torch.equal(ours.layernorm.weight, published[part]["module.backbone.norm.weight"])
    tokens = model.vjepa.predictor.mask_tokens
    for index in range(2):
        assert torch.equal(tokens[index], published["predictor"][f"module.backbone.mask_tokens.{index}"])


def test_fused_weights_are_split_in_order():
    fused = torch.arange(6.0).view(6, 1)
    converted = convert_network({"module.backbone.blocks.3.attn.qkv.weight": fused})
    assert {name: value.flatten().tolist() for name, value in converted.items()} == {
        "layer.3.attention.query.weight": [0.0, 1.0],
        "layer.3.attention.key.weight": [2.0, 3.0],
        "layer.3.attention.value.weight": [4.0, 5.0],
    }


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="not names of a published V-JEPA checkpoint: module.head.weight"):
        convert_network({"module.head.weight": torch.zeros(1)})


def test_missing_parts_and_wrong_sizes_are_refused(shared):
    with pytest.raises(ValueError, match="no target_encoder, predictor in"):
        convert_checkpoint({"encoder": {}}, VJEPAConfig(**TINY))
    published = torch.load(shared / "reference" / "vjepa_tiny_uniform" / "checkpoint.pth.tar", weights_only=True)
    with pytest.raises(ValueError, match="does not fit the configuration"):
        convert_checkpoint(published, VJEPAConfig(**TINY))
