"""Which tokens the query of an attentive pooler attends to."""

import torch
from torch import Tensor

from ..models.vjepa.modeling_vjepa import VJEPAAttentivePooler


@torch.no_grad()
def attention_weights(pooler: VJEPAAttentivePooler, tokens: Tensor) -> Tensor:
    """
    Attention of the query of a pooler to each of the tokens (clips, tokens, width), averaged over its heads: (clips,
    tokens); rows sum to 1.
    """
    layer = pooler.cross_attention_layer
    attention = layer.cross_attn
    by_head = (attention.num_heads, attention.head_size)
    query = attention.q_proj(pooler.query_tokens).view(by_head)
    keys = attention.k_proj(layer.norm1(tokens)).unflatten(-1, by_head)
    scores = torch.einsum("hs,bths->bht", query, keys) * attention.head_size**-0.5
    return scores.softmax(dim=-1).mean(dim=1)


def attended_tokens(weights: Tensor) -> Tensor:
    """Number of tokens over which attention (..., tokens) is spread: the exponential of its entropy."""
    return torch.special.entr(weights).sum(dim=-1).exp()
