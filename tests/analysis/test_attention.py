"""The attention of a pooler, compared with its output."""

import torch

from transformers_vjepa import VJEPAConfig
from transformers_vjepa.analysis.attention import attended_tokens, attention_weights
from transformers_vjepa.models.vjepa.modeling_vjepa import VJEPAAttentivePooler


def test_attention_weights_are_those_of_the_pooler():
    torch.manual_seed(0)
    pooler = VJEPAAttentivePooler(VJEPAConfig(hidden_size=12, num_attention_heads=1)).eval()
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(3, 7, 12)
    weights = attention_weights(pooler, tokens)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    layer = pooler.cross_attention_layer
    normed = layer.norm1(tokens)
    with torch.no_grad():
        by_hand = weights[:, None] @ layer.cross_attn.v_proj(normed)  # one head: the weighted mean of the values
    torch.testing.assert_close(by_hand, layer.cross_attn(pooler.query_tokens, normed).detach())


def test_attended_tokens_by_hand():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(attended_tokens(weights), torch.tensor([4.0, 2.0, 1.0]))
