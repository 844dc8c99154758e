"""V-JEPA networks: encoder, predictor, the pretraining model and the classifier.

Paper: "Revisiting Feature Prediction for Learning Visual Representations from Video"
(arXiv 2404.08471). This file imports only the configuration from the package, so that it can travel to the Hub as
remote code.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .configuration_vjepa import VJEPAConfig

logger = logging.get_logger(__name__)


@dataclass
class VJEPAModelOutput(BaseModelOutput):
    """
    Output of [`VJEPAModel`]. If `context_mask` is a list of masks, every field of the encoder is a tuple with one
    entry per mask. If `target_mask` is a list, `predictor_output` is a tuple with one entry per target mask.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch, tokens, hidden_size)`): encoder tokens after the final
            norm: the tokens of `context_mask` in its order, or all tokens in the order time, height, width.
        hidden_states (`tuple[torch.Tensor]`, *optional*): the embeddings, then the output of every block.
        attentions (`tuple[torch.Tensor]`, *optional*): attention weights of every block, of shape
            `(batch, heads, tokens, tokens)`.
        predictor_output (`BaseModelOutput`, *optional*): predicted features of the tokens of `target_mask`:
            `last_hidden_state` has shape `(batch, target tokens, hidden_size)`.
    """

    predictor_output: BaseModelOutput | tuple[BaseModelOutput, ...] | None = None

    def to_tuple(self) -> tuple:
        return tuple(_without_names(value) for value in super().to_tuple())


def _without_names(value: Any) -> Any:
    """The value with a tuple in place of every `ModelOutput`, at any depth."""
    if isinstance(value, ModelOutput):
        value = value.to_tuple()
    return tuple(_without_names(item) for item in value) if isinstance(value, tuple) else value


@dataclass
class VJEPAForPreTrainingOutput(ModelOutput):
    """
    Output of [`VJEPAForPreTraining`]. Lists have one entry per pair of a context and a target mask.

    Args:
        loss (`torch.Tensor` of shape `()`): `prediction_loss + variance_weight * variance_loss`.
        prediction_loss (`torch.Tensor` of shape `()`): mean of |prediction - target|^p / p over each pair, averaged
            over the pairs (V-JEPA, equation 1; p = 1).
        variance_loss (`torch.Tensor` of shape `()`, *optional*): hinge on the standard deviation of the predictions
            over tokens; `None` if `variance_weight` is 0.
        predictions (`list[torch.Tensor]`): predicted features, each `(batch, target tokens, hidden_size)`.
        targets (`list[torch.Tensor]`): normalised target features of the same tokens, without gradient.
        context_hidden_states (`list[torch.Tensor]`): context encoder tokens, one per context mask.
        target_hidden_state (`torch.Tensor` of shape `(batch, num_patches, hidden_size)`): tokens of the
            target encoder after its final norm, before the normalisation over features.
        hidden_states, attentions (*optional*): those of the context encoder, as in [`VJEPAModelOutput`]: a tuple of
            tensors if `context_mask` is a tensor, and one such tuple for each mask if it is a list.
    """

    loss: torch.Tensor | None = None
    prediction_loss: torch.Tensor | None = None
    variance_loss: torch.Tensor | None = None
    predictions: list[torch.Tensor] | None = None
    targets: list[torch.Tensor] | None = None
    context_hidden_states: list[torch.Tensor] | None = None
    target_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | tuple[tuple[torch.Tensor, ...], ...] | None = None
    attentions: tuple[torch.Tensor, ...] | tuple[tuple[torch.Tensor, ...], ...] | None = None


@dataclass
class VJEPAVideoClassifierOutput(ModelOutput):
    """
    Output of [`VJEPAForVideoClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): mean over videos and views, if labels are given.
        logits (`torch.Tensor` of shape `(batch, num_labels)`): logits of the video. Their probabilities are the mean
            of the views' probabilities (for regression, they are the mean of the views' logits).
        view_logits (`torch.Tensor` of shape `(batch, views, num_labels)`): logits of every view.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): those of the encoder, with the first axis
            `batch * views * segments`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    view_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def gather_tokens(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Tokens (batch, kept, width) with the indices `mask` (batch, kept), from `tokens` (batch, all, width)."""
    rows = torch.arange(tokens.shape[0], device=tokens.device).unsqueeze(1)
    return tokens[rows, mask]


def sincos_positions(
    grid_size: tuple[int, int, int], width: int, *, uniform_power: bool, is_image_model: bool = False
) -> torch.Tensor:
    """
    Fixed sine-cosine positions of a token grid, (time * height * width, `width`), float32.

    With `uniform_power`, time, height and width take `ceil(width / 6) * 2` channels each, and the surplus is cut off;
    otherwise they take D/2, D/4 and D/4. An image model (I-JEPA) has D/2 for the width, then D/2 for the height.
    """
    time, rows, columns = torch.meshgrid(*(torch.arange(size) for size in grid_size), indexing="ij")
    if is_image_model:
        axes = ((columns, width // 2), (rows, width // 2))
    elif uniform_power:
        channels = math.ceil(width / 6) * 2
        axes = ((time, channels), (rows, channels), (columns, channels))
    else:
        axes = ((time, width // 2), (rows, width // 4), (columns, width // 4))
    parts = []
    for axis, channels in axes:
        half = channels // 2
        # In float32, large positions would lose the last digits of the published tables.
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = axis.reshape(-1, 1).double() * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)[:, :width].float().contiguous()


def _floats_of(layer: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """
    The dtype that a layer computes in: that of its weight, or of its first parameter if other code has replaced the
    layer by one without a weight; `otherwise` for weights that are quantised to integers.
    """
    weight = getattr(layer, "weight", None)
    # The weight of a layer that torch has quantised is a method.
    weights = [weight] if isinstance(weight, torch.Tensor) else layer.parameters()
    return next((each.dtype for each in weights if each.dtype.is_floating_point), otherwise)


class VJEPAPositions(nn.Module):
    """Fixed 3-D sine-cosine position table, interpolated for grids of another size."""

    def __init__(self, config: VJEPAConfig, width: int):
        super().__init__()
        self.config = config
        self.width = width
        self.register_buffer("table", self.compute_table(), persistent=False)

    def compute_table(self) -> torch.Tensor:
        kinds = {"uniform_power": self.config.uniform_power, "is_image_model": self.config.is_image_model}
        return sincos_positions(self.config.grid_size, self.width, **kinds)

    def forward(self, grid_size: tuple[int, int, int], mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """Positions (batch or 1, tokens, width) of the tokens of `mask`, or of all tokens if it is None."""
        table = self.table
        if grid_size != self.config.grid_size:
            grid = table.float().reshape(*self.config.grid_size, self.width).permute(3, 0, 1, 2).unsqueeze(0)
            grid = nn.functional.interpolate(grid, size=grid_size, mode="trilinear", align_corners=False)
            table = grid.squeeze(0).flatten(1).transpose(0, 1)
        table = table.to(dtype)
        return table.unsqueeze(0) if mask is None else table[mask]


class VJEPAEmbeddings(nn.Module):
    """Patch projection plus positions, for the kept tokens only: masked patches cost nothing."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        patch_dim = config.in_chans * config.tubelet_size * config.patch_size**2
        # The same map as a Conv3d whose stride equals its kernel, on flattened patches.
        self.patch_embeddings = nn.Linear(patch_dim, config.hidden_size)
        self.position_embeddings = VJEPAPositions(config, config.hidden_size)

    def patchify(self, pixel_values_videos: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """
        Splits clips (batch, frames, channels, height, width) into flat patches.

        Returns:
            The patches (batch, tokens, channels * tubelet_size * patch_size^2) in the order time, height, width; and
            their grid (time, height, width).
        """
        config = self.config
        clips = self._check_clips(pixel_values_videos)
        batch, frames, channels, height, width = clips.shape
        tubelet, patch = config.tubelet_size, config.patch_size
        grid_size = (frames // tubelet, height // patch, width // patch)
        time, rows, columns = grid_size
        clips = clips.reshape(batch, time, tubelet, channels, rows, patch, columns, patch)
        clips = clips.permute(0, 1, 4, 6, 3, 2, 5, 7)
        patches = clips.reshape(batch, time * rows * columns, channels * tubelet * patch * patch)
        return patches.to(_floats_of(self.patch_embeddings, patches.dtype)), grid_size

    def _check_clips(self, clips: torch.Tensor) -> torch.Tensor:
        config = self.config
        if not clips.is_floating_point():
            raise ValueError(
                f"pixel_values_videos has dtype {clips.dtype}: pass normalised floats, as VJEPAVideoProcessor "
                "and normalize_clips return"
            )
        if clips.ndim == 4:
            # An image is repeated to a still clip (published image protocol).
            clips = clips.unsqueeze(1).expand(-1, config.frames_per_clip, -1, -1, -1)
        if clips.ndim != 5 or clips.shape[2] != config.in_chans:
            raise ValueError(
                f"pixel_values_videos has shape {tuple(clips.shape)}: expected (batch, frames, {config.in_chans}, "
                f"height, width), or (batch, {config.in_chans}, height, width) for images"
            )
        for name, axis in (("frames", 1), ("height", 3), ("width", 4)):
            field = "tubelet_size" if name == "frames" else "patch_size"
            value, unit = clips.shape[axis], getattr(config, field)
            if value < unit or value % unit:
                raise ValueError(
                    f"pixel_values_videos has {name}={value}, which is not a positive multiple of {field}={unit}: "
                    f"pass {max(unit, value // unit * unit)}"
                )
        return clips

    def forward(
        self, patches: torch.Tensor, grid_size: tuple[int, int, int], mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        if mask is not None:
            patches = gather_tokens(patches, mask)
        # The positions take the dtype of the weights, not of the activations: under autocast the residual stream
        # stays float32.
        dtype = _floats_of(self.patch_embeddings, patches.dtype)
        positions = self.position_embeddings(grid_size, mask, dtype)
        return self.patch_embeddings(patches) + positions


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Attention in plain operations, which also returns its weights. `query`, `key` and `value` have the shape
    (batch, heads, tokens, head size); the result has (batch, tokens, heads, head size).
    """
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class VJEPAAttention(nn.Module):
    """Multi-head attention of the tokens `queries` to the tokens `hidden_states`."""

    def __init__(self, config: VJEPAConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.head_size = hidden_size // num_attention_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.query = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:-1], -1, self.head_size).transpose(1, 2)

    def forward(self, hidden_states: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            self._split_heads(self.query(queries)),
            self._split_heads(self.key(hidden_states)),
            self._split_heads(self.value(hidden_states)),
            None,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        return self.proj(output.flatten(2)), weights


class VJEPAMLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: VJEPAConfig, hidden_size: int, mlp_ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * mlp_ratio))
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(int(hidden_size * mlp_ratio), hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VJEPADropPath(nn.Module):
    """Stochastic depth per sample (arXiv 1603.09382): drops a residual branch with probability `rate`."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * keep.to(branch.dtype) / (1 - self.rate)


class VJEPALayer(GradientCheckpointingLayer):
    """
    Pre-norm transformer block. With `num_queries`, only the last `num_queries` tokens are computed and returned; the
    other tokens still serve as keys and values.
    """

    def __init__(
        self,
        config: VJEPAConfig,
        hidden_size: int,
        num_attention_heads: int,
        mlp_ratio: float,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float | None = None,
    ):
        super().__init__()
        eps = config.layer_norm_eps if layer_norm_eps is None else layer_norm_eps
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attention = VJEPAAttention(config, hidden_size, num_attention_heads)
        self.drop_path = VJEPADropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = VJEPAMLP(config, hidden_size, mlp_ratio)

    def forward(
        self, hidden_states: torch.Tensor, num_queries: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        normed = self.norm1(hidden_states)
        queries = normed
        if num_queries is not None:
            queries, hidden_states = normed[:, -num_queries:], hidden_states[:, -num_queries:]
        attended, weights = self.attention(normed, queries)
        hidden_states = hidden_states + self.drop_path(attended)
        hidden_states = hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))
        return hidden_states, weights


def run_layers(
    layers: nn.ModuleList,
    hidden_states: torch.Tensor,
    *,
    num_queries_at_end: int | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
) -> BaseModelOutput:
    """Runs all blocks in turn. The last one computes only its last `num_queries_at_end` tokens (all if None)."""
    states, attentions = [hidden_states], []
    for index, layer in enumerate(layers):
        num_queries = num_queries_at_end if index == len(layers) - 1 else None
        hidden_states, weights = layer(hidden_states, num_queries=num_queries)
        if output_hidden_states:
            states.append(hidden_states)
        if output_attentions:
            attentions.append(weights)
    has_attentions = output_attentions and all(weights is not None for weights in attentions)
    if output_attentions and not has_attentions:
        logger.warning_once(
            "output_attentions=True: this attention implementation returns no weights, so `attentions` is None; call "
            "set_attn_implementation('eager') to get them"
        )
    return BaseModelOutput(
        last_hidden_state=hidden_states,
        hidden_states=tuple(states) if output_hidden_states else None,
        attentions=tuple(attentions) if has_attentions else None,
    )


class VJEPAEncoder(nn.Module):
    """Vision transformer over the kept tokens of a clip."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.embeddings = VJEPAEmbeddings(config)
        depth = config.num_hidden_layers
        self.layer = nn.ModuleList(
            VJEPALayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.mlp_ratio,
                drop_path_rate=config.drop_path_rate * index / max(depth - 1, 1),
            )
            for index in range(depth)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        patches: torch.Tensor,
        grid_size: tuple[int, int, int],
        mask: torch.Tensor | None = None,
        **wanted: bool,
    ) -> BaseModelOutput:
        """
        Args:
            patches (`torch.Tensor` of shape `(batch, all tokens, patch values)`): flat patches of whole clips.
            grid_size (`tuple[int, int, int]`): grid of the patches: time, height, width.
            mask (`torch.Tensor` of shape `(batch, kept tokens)`, *optional*): indices of the tokens to keep; the
                others are dropped before the patch projection.
            wanted: `output_hidden_states`, `output_attentions`.
        """
        output = run_layers(self.layer, self.embeddings(patches, grid_size, mask), **wanted)
        output.last_hidden_state = self.layernorm(output.last_hidden_state)
        return output


class VJEPAPredictor(nn.Module):
    """Narrow transformer that predicts the features of target tokens from context tokens (V-JEPA, section 3.1)."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        width = config.pred_hidden_size
        self.predictor_embeddings = nn.Linear(config.hidden_size, width)
        self.position_embeddings = VJEPAPositions(config, width)
        self.mask_tokens = nn.Parameter(torch.zeros(config.pred_num_mask_tokens, 1, 1, width))
        self.layer = nn.ModuleList(
            VJEPALayer(config, width, config.pred_num_attention_heads, config.pred_mlp_ratio)
            for _ in range(config.pred_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.proj = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        context_hidden_state: torch.Tensor,
        context_mask: torch.Tensor | None,
        target_mask: torch.Tensor,
        grid_size: tuple[int, int, int],
        mask_index: int = 0,
        **wanted: bool,
    ) -> BaseModelOutput:
        """
        Args:
            context_hidden_state (`torch.Tensor` of shape `(batch, context tokens, hidden_size)`): encoder tokens.
            context_mask (`torch.Tensor` of shape `(batch, context tokens)`, *optional*): indices of the context
                tokens; if None, the context is all tokens in order.
            target_mask (`torch.Tensor` of shape `(batch, target tokens)`): indices of the tokens to predict.
            grid_size (`tuple[int, int, int]`): grid of the clip: time, height, width.
            mask_index (`int`): number of the mask generator, which selects the mask token.
            wanted: `output_hidden_states`, `output_attentions`.
        """
        dtype = _floats_of(self.predictor_embeddings, context_hidden_state.dtype)
        context = self.predictor_embeddings(context_hidden_state)
        context = context + self.position_embeddings(grid_size, context_mask, dtype)
        mask_token = self.mask_tokens[mask_index % self.config.pred_num_mask_tokens]
        queries = mask_token + self.position_embeddings(grid_size, target_mask, dtype)
        tokens = torch.cat([context, queries], dim=1)
        # Only target tokens are returned: the last block skips the context tokens.
        output = run_layers(self.layer, tokens, num_queries_at_end=target_mask.shape[1], **wanted)
        output.last_hidden_state = self.proj(self.layernorm(output.last_hidden_state))
        return output


# MLP ratio of the published probes; independent of the encoder's ratio.
_POOLER_MLP_RATIO = 4.0


# Any of these dicts of a module makes its call more than its `forward`.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_HOOKS_OF_ALL_MODULES = (
    torch_module._global_forward_pre_hooks,
    torch_module._global_forward_hooks,
    torch_module._global_backward_pre_hooks,
    torch_module._global_backward_hooks,
)


def _is_plain_linear(layer: nn.Module) -> bool:
    """Whether a call of the layer only multiplies with its weight, adds its bias, and does nothing else."""
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)  # replaced, as for offloaded weights
        and not any(getattr(layer, name) for name in _HOOKS)
        and not any(_HOOKS_OF_ALL_MODULES)
        # Pruning and weight norm replace the parameter by a tensor that a hook computes.
        and all(layer._parameters.get(name) is not None for name in ("weight", "bias"))
        and not is_traceable_wrapper_subclass(layer.weight)  # quantised or sharded
        and layer.weight.shape == (layer.out_features, layer.in_features)  # partitioned weights are empty
    )


class VJEPAPoolerCrossAttention(nn.Module):
    """
    Attention of one learned query to the tokens. There is no output projection.

    A single query does not need the keys and values of all tokens: `q . (K x) = (K' q) . x`, and the weighted sum of
    values is the value of the weighted sum. This computes the same function `hidden_size / heads` times cheaper and
    without two more copies of all tokens.

    The short form reads the weights of `k_proj` and `v_proj`. A layer that does more than multiply with its weight is
    called on all tokens instead, as in any attention: with hooks, an adapter, pruning, a parametrisation, or
    quantised, sharded or offloaded weights.
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, query: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """From `query` (1, 1, width) and `tokens` (batch, tokens, width) to (batch, 1, width)."""
        by_head = (self.num_heads, self.head_size)
        query = self.q_proj(query).view(by_head) * self.head_size**-0.5
        if _is_plain_linear(self.k_proj):
            directions = torch.einsum("hs,hsd->hd", query, self.k_proj.weight.unflatten(0, by_head))
            # The key bias adds the same number to all scores of a head. It stays in the graph to get a gradient.
            offsets = (query * self.k_proj.bias.view(by_head)).sum(dim=1)
            scores = nn.functional.linear(tokens, directions, offsets).transpose(1, 2)
        else:
            scores = torch.einsum("hs,bnhs->bhn", query, self.k_proj(tokens).unflatten(2, by_head))
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(tokens.dtype)
        if _is_plain_linear(self.v_proj):
            summaries = torch.matmul(weights, tokens)
            values = torch.einsum("bhd,hsd->bhs", summaries, self.v_proj.weight.unflatten(0, by_head))
            return (values.flatten(1) + self.v_proj.bias).unsqueeze(1)
        values = torch.einsum("bhn,bnhs->bhs", weights, self.v_proj(tokens).unflatten(2, by_head))
        return values.flatten(1).unsqueeze(1)


class VJEPAPoolerCrossAttentionLayer(nn.Module):
    """Cross-attention of the learned query to the normed tokens, then an MLP; both residual."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.pooler_layer_norm_eps)
        self.cross_attn = VJEPAPoolerCrossAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.pooler_layer_norm_eps)
        self.mlp = VJEPAMLP(config, config.hidden_size, _POOLER_MLP_RATIO)

    def forward(self, query: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        hidden_states = query + self.cross_attn(query, self.norm1(tokens))
        return hidden_states + self.mlp(self.norm2(hidden_states))


class VJEPAAttentivePooler(nn.Module):
    """
    Attentive pooling (V-JEPA, section 4.2 and appendix): one learned query cross-attends to the tokens. Deeper poolers
    add `num_pooler_layers` self-attention blocks on the query.
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.cross_attention_layer = VJEPAPoolerCrossAttentionLayer(config)
        self.self_attention_layers = nn.ModuleList(
            VJEPALayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                _POOLER_MLP_RATIO,
                layer_norm_eps=config.pooler_layer_norm_eps,
            )
            for _ in range(config.num_pooler_layers)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `tokens` (batch, tokens, hidden_size) to (batch, hidden_size)."""
        hidden_states = self.cross_attention_layer(self.query_tokens, tokens)
        return run_layers(self.self_attention_layers, hidden_states).last_hidden_state.squeeze(1)


class VJEPAMeanPooler(nn.Module):
    """
    The mean over all tokens; of the tokens of several layers side by side, their means side by side. With
    `config.pooled_batch_norm` the means are standardised by the statistics of the training batches.
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.norm = nn.BatchNorm1d(config.pooled_size, affine=False) if config.pooled_batch_norm else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `tokens` (batch, tokens, pooled_size) to (batch, pooled_size)."""
        return self.norm(tokens.mean(dim=1))


POOLERS = {"attentive": VJEPAAttentivePooler, "mean": VJEPAMeanPooler}


def _refuse_weights_elsewhere(folder: Path) -> None:
    """Refuses a folder whose index of weights names files of other folders: transformers would open them."""
    for file in sorted(folder.glob("*.index.json")):
        try:
            shards = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is not an index of weights: copy or download it again") from error
        for shard in shards:
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise ValueError(f"{file} names {shard!r}, which is not a file beside it: copy the weights there")


class VJEPAPreTrainedModel(PreTrainedModel):
    """Base class of all V-JEPA models: weight initialisation and loading, as in `transformers`."""

    config: VJEPAConfig
    config_class = VJEPAConfig
    base_model_prefix = "vjepa"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VJEPALayer", "VJEPAEmbeddings", "VJEPAPredictor", "VJEPAPoolerCrossAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    # The loss is the mean of its batch: `Trainer` divides it by the number of accumulated batches. Otherwise `Trainer`
    # would pass the number of items, because `forward` takes any keyword.
    accepts_loss_kwargs = False
    # A pretraining checkpoint also holds the context encoder, which only pretraining needs.
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\."]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        See [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: the folder has a damaged index of weights, or one that names files of other folders.
        """
        if isinstance(pretrained_model_name_or_path, (str, os.PathLike)):
            _refuse_weights_elsewhere(Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection of the encoder that sees the pixels: in pretraining, of the context encoder."""
        return getattr(self, "context_encoder", self.base_model.encoder).embeddings.patch_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        getattr(self, "context_encoder", self.base_model.encoder).embeddings.patch_embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers: truncated normal, biases 0. Norms: weight 1, bias 0. No rescaling by depth."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, VJEPAPredictor):
            if self.config.pred_zero_init_mask_tokens:
                init.zeros_(module.mask_tokens)
            else:
                init.trunc_normal_(module.mask_tokens, std=std)
        elif isinstance(module, VJEPAAttentivePooler):
            init.trunc_normal_(module.query_tokens, std=std)
        elif isinstance(module, VJEPAPositions):
            init.copy_(module.table, module.compute_table())

    def _resolve_outputs(
        self, output_hidden_states: bool | None, output_attentions: bool | None, unused: dict[str, Any]
    ) -> dict[str, bool]:
        """The outputs that the arguments or the configuration ask for. Refuses `unused` arguments with a value."""
        # Wrappers for models of text, such as those of PEFT, pass their arguments to every model: `input_ids=None`.
        if given := sorted(name for name, value in unused.items() if value is not None):
            raise TypeError(f"{type(self).__name__} takes no {', '.join(given)}: leave them out or pass None")
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return {name: bool(getattr(self.config, name)) if it is None else it for name, it in wanted.items()}


def _only_pixels(pixel_values_videos: torch.Tensor | None, pixel_values: torch.Tensor | None) -> torch.Tensor:
    """The one input that is given: clips, or images under the name that image processors use."""
    given = [pixels for pixels in (pixel_values_videos, pixel_values) if pixels is not None]
    if len(given) != 1:
        raise ValueError(
            f"pass either pixel_values_videos (clips) or pixel_values (images): {len(given)} of them are given"
        )
    return given[0]


Masks = torch.Tensor | Sequence[torch.Tensor]


def check_masks(name: str, masks: Masks, batch: int, num_patches: int) -> list[torch.Tensor]:
    """
    The masks as a list.

    Raises:
        ValueError: a mask that is not an int64 tensor of token indices of shape `(batch, tokens)`, or no mask.
    """
    masks = [masks] if isinstance(masks, torch.Tensor) else list(masks)
    if not masks:
        raise ValueError(f"{name} is an empty list: pass one tensor of token indices per mask generator")
    for mask in masks:
        if not isinstance(mask, torch.Tensor):
            raise ValueError(f"{name} has a {type(mask).__name__} where a tensor of token indices is expected")
        if mask.dtype != torch.int64 or mask.ndim != 2 or mask.shape[0] != batch or mask.shape[1] == 0:
            raise ValueError(
                f"{name} has a mask of dtype {mask.dtype} and shape {tuple(mask.shape)}: expected int64 token "
                f"indices of shape (batch={batch}, tokens >= 1)"
            )
        # Skipped on accelerators, where reading a value would synchronise, and while tracing, where there is none.
        if type(mask) is torch.Tensor and mask.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (value.item() for value in mask.aminmax())
            if low < 0 or high >= num_patches:
                raise ValueError(
                    f"{name} has token {low if low < 0 else high}: these clips have tokens 0 to {num_patches - 1}"
                )
    return masks


def pair_masks(contexts: list, targets: list) -> list:
    """One context per target: paired in order, or a single context shared by all targets (I-JEPA)."""
    if len(contexts) not in (1, len(targets)):
        raise ValueError(
            f"{len(contexts)} context masks for {len(targets)} target masks: pass the same number of both, or one "
            "context mask"
        )
    return contexts * len(targets) if len(contexts) == 1 else contexts


def _by_mask(outputs: list[BaseModelOutput], masks: Masks | None) -> dict[str, Any]:
    """The fields of the encoder's outputs: those of the only output, or tuples of them if `masks` is a list."""
    if masks is None or isinstance(masks, torch.Tensor):
        return dict(outputs[0])
    return {name: tuple(output[name] for output in outputs) for name in outputs[0]}


class VJEPAModel(VJEPAPreTrainedModel):
    """
    The V-JEPA encoder and predictor. From a pretraining checkpoint it loads the target encoder (the exponential moving
    average), which is the encoder to evaluate and publish.

    Args:
        add_predictor (`bool`, defaults to `True`): also create the predictor. A classifier does not need it.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAConfig, VJEPAModel, VJEPAVideoProcessor

    config = VJEPAConfig.from_preset("vitt16", crop_size=64, num_hidden_layers=2, pred_num_hidden_layers=2)
    model = VJEPAModel(config).eval()
    video = torch.randint(0, 256, (16, 3, 72, 96), dtype=torch.uint8)
    inputs = VJEPAVideoProcessor.for_config(config)(video, return_tensors="pt")
    with torch.no_grad():
        features = model(**inputs).last_hidden_state
    assert features.shape == (1, config.num_patches, config.hidden_size) == (1, 128, 192)
    ```
    """

    # Keys that checkpoints of the other classes add. Predictor keys are unexpected only with add_predictor=False.
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"(^|\.)predictor\.", r"^(pooler|classifier)\."]

    def __init__(self, config: VJEPAConfig, add_predictor: bool = True):
        super().__init__(config)
        self.encoder = VJEPAEncoder(config)
        self.predictor = VJEPAPredictor(config) if add_predictor else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        context_mask: Masks | None = None,
        target_mask: Masks | None = None,
        skip_predictor: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        **unused: None,
    ) -> VJEPAModelOutput:
        """
        Args:
            pixel_values_videos (`torch.Tensor` of shape `(batch, frames, channels, height, width)`):
                normalised clips. `frames` is a multiple of `tubelet_size`, `height` and `width` of `patch_size`.
                Other sizes than those of the configuration interpolate the positions. Images of shape
                `(batch, channels, height, width)` are repeated to `frames_per_clip` frames.
            context_mask (`torch.Tensor` of shape `(batch, tokens)` or a list of them, *optional*): int64 indices of
                the tokens that the encoder sees (default: all). The others are dropped before the encoder.
            target_mask (`torch.Tensor` of shape `(batch, tokens)` or a list of them, *optional*): int64 indices of
                the tokens whose features the predictor predicts. Without it, the predictor does not run. The i-th
                target uses the i-th context, or the only context, and mask token i modulo `pred_num_mask_tokens`.
            skip_predictor (`bool`): do not run the predictor, even if `target_mask` is given.
            output_hidden_states, output_attentions (`bool`, *optional*): also return hidden states or attentions of
                every block. Attentions need `attn_implementation="eager"`: other implementations return none, and
                `attentions` is None, with a warning.
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): images, under the name that
                image processors use; instead of `pixel_values_videos`.
            unused: arguments of other models, such as `input_ids`, which must be None.

        Returns:
            [`VJEPAModelOutput`], or a tuple with `return_dict=False`.

        Raises:
            TypeError: an unknown argument that is not None.
            ValueError: both or none of the two pixel arguments, sizes that do not divide, integer pixels, masks of
                the wrong type or number, or target masks for a model without a predictor.
        """
        wanted = self._resolve_outputs(output_hidden_states, output_attentions, unused)
        patches, grid_size = self.encoder.embeddings.patchify(_only_pixels(pixel_values_videos, pixel_values))
        contexts: list[torch.Tensor | None] = [None]
        if context_mask is not None:
            contexts = check_masks("context_mask", context_mask, *patches.shape[:2])
        encoded = [self.encoder(patches, grid_size, mask, **wanted) for mask in contexts]

        predictor_output = None
        if target_mask is not None and not skip_predictor:
            if self.predictor is None:
                raise ValueError("target_mask needs the predictor: create this model with add_predictor=True")
            targets = check_masks("target_mask", target_mask, *patches.shape[:2])
            pairs = zip(pair_masks(encoded, targets), pair_masks(contexts, targets), targets, strict=True)
            predictor_output = tuple(
                self.predictor(context.last_hidden_state, context_ids, target_ids, grid_size, index, **wanted)
                for index, (context, context_ids, target_ids) in enumerate(pairs)
            )
            if isinstance(target_mask, torch.Tensor):
                predictor_output = predictor_output[0]

        return VJEPAModelOutput(**_by_mask(encoded, context_mask), predictor_output=predictor_output)

    def get_vision_features(self, pixel_values_videos: torch.Tensor, num_layers: int = 1) -> torch.Tensor:
        """
        Encoder tokens (batch, tokens, hidden_size * num_layers) of whole clips, in the order time, height, width. With
        `num_layers` above 1, each token has the outputs of that many last blocks side by side, the last block at the
        end, each after the final norm (see [`VJEPAConfig`], `num_pooled_layers`).
        """
        several = {"output_hidden_states": True} if num_layers > 1 else {}
        output = self(pixel_values_videos, skip_predictor=True, return_dict=True, **several)
        return self.last_layers(output, num_layers)

    def last_layers(self, output: VJEPAModelOutput, num_layers: int) -> torch.Tensor:
        """The tokens of `get_vision_features`, from an output that has `hidden_states` if `num_layers` is above 1."""
        if num_layers == 1:
            return output.last_hidden_state
        *earlier, _ = output.hidden_states[-num_layers:]
        return torch.cat([*map(self.encoder.layernorm, earlier), output.last_hidden_state], dim=-1)


class VJEPAForPreTraining(VJEPAPreTrainedModel):
    """
    Masked feature prediction. `context_encoder` is trained. `vjepa` holds the predictor and the target encoder, which
    gets no gradient: it is an exponential moving average of `context_encoder` (call `update_target` after each
    optimizer step). The weights load into [`VJEPAModel`] unchanged.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining

    config = VJEPAConfig.from_preset("vitt16", crop_size=64, num_hidden_layers=2, pred_num_hidden_layers=2)
    model = VJEPAForPreTraining(config)
    tokens = torch.randperm(config.num_patches).expand(2, -1)  # the same mask for both clips
    output = model(torch.randn(2, 16, 3, 64, 64), context_mask=tokens[:, :32], target_mask=tokens[:, 32:])
    output.loss.backward()
    model.update_target(momentum=0.998)  # after the step of an optimizer
    assert output.predictions[0].shape == (2, 96, 192)
    ```
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        self.vjepa = VJEPAModel(config)
        self.context_encoder = VJEPAEncoder(config)
        self.vjepa.encoder.requires_grad_(False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model.vjepa.encoder.requires_grad_(False)  # loading makes every parameter trainable
        return (model, info) if output_loading_info else model

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        # A checkpoint of the base model has no context encoder. It becomes a copy of the target encoder, so its
        # weights are not missing, unless the checkpoint lacks both encoders, or only a part of this one.
        names = {name for name, _ in self.context_encoder.named_parameters()}
        missing = set(loading_info.missing_keys)
        if {f"context_encoder.{name}" for name in names} <= missing:
            copied = {name for name in names if f"vjepa.encoder.{name}" not in missing}
            loading_info.missing_keys = missing - {f"context_encoder.{name}" for name in copied}
        super()._adjust_missing_and_unexpected_keys(loading_info)

    def initialize_weights(self) -> None:
        """
        Initialises as usual, then copies weights that were not loaded into one encoder from the other. In a new model,
        the target encoder becomes a copy of the context encoder.
        """
        was_initialized = getattr(self, "_is_hf_initialized", False)
        super().initialize_weights()
        if was_initialized:
            return
        context = dict(self.context_encoder.named_parameters())
        for name, target in self.vjepa.encoder.named_parameters():
            pair = (context[name], target) if getattr(target, "_is_hf_initialized", False) else (target, context[name])
            init.copy_(*pair)

    def train(self, mode: bool = True) -> "VJEPAForPreTraining":
        """Training mode, except for the target encoder: its features must not be noisy."""
        super().train(mode)
        self.vjepa.encoder.eval()
        return self

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """
        Moves the target encoder towards the context encoder: target = momentum * target + (1 - momentum) * context.

        Parameters are matched by name, in one fused update; works with plain, DDP and FSDP2 (DTensor) parameters.

        Args:
            momentum (`float`): in [0, 1]; 0 copies the context encoder, 1 keeps the target encoder.

        Raises:
            ValueError: a momentum outside [0, 1], or encoders with different parameters.
        """
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum={momentum} must lie in [0, 1]")
        context = dict(self.context_encoder.named_parameters())
        target = dict(self.vjepa.encoder.named_parameters())
        if different := sorted(context.keys() ^ target.keys()):
            raise ValueError(
                f"only one of the two encoders has the parameter {different[0]} ({len(different)} differ): change "
                "context_encoder and vjepa.encoder in the same way (adapters, pruning, parametrisations)"
            )
        torch._foreach_lerp_(list(target.values()), [context[name] for name in target], 1.0 - momentum)

    @torch.no_grad()
    def surprise(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """
        Prediction error of each time step, given only the preceding steps: the mean over features of
        |prediction - target|. As in "Intuitive physics understanding emerges from self-supervised pretraining on
        natural videos" (arXiv 2502.11831), except that the target encoder sees only the step itself: the target
        features of a time step do not depend on earlier frames. Put the model into evaluation mode first.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(batch, frames, channels, height, width)`): normalised clips.

        Returns:
            float32 `(batch, time, height, width)` on the token grid; NaN at the first step, which has no context.

        Raises:
            ValueError: clips of a single time step; see also [`VJEPAModel.forward`].
        """
        patches, grid_size = self.context_encoder.embeddings.patchify(pixel_values_videos)
        steps, *area = grid_size
        if steps < 2:
            raise ValueError(
                f"clips of {pixel_values_videos.shape[1]} frames have a single time step, and surprise compares a "
                f"step with earlier ones: pass at least {2 * self.config.tubelet_size} frames"
            )
        tokens = torch.arange(math.prod(grid_size), device=patches.device).expand(patches.shape[0], -1)
        tokens = tokens.unflatten(1, (steps, -1))
        errors = [torch.full(tokens[:, 0].shape, math.nan, device=patches.device)]
        for step in range(1, steps):
            context, target = tokens[:, :step].flatten(1), tokens[:, step]
            seen = self.context_encoder(patches, grid_size, context).last_hidden_state
            prediction = self.vjepa.predictor(seen, context, target, grid_size).last_hidden_state
            features = self.vjepa.encoder(patches, grid_size, target).last_hidden_state
            normalised = nn.functional.layer_norm(features, features.shape[-1:])
            errors.append(prediction_error(prediction, normalised).mean(dim=-1))
        return torch.stack(errors, dim=1).unflatten(2, area)

    @torch.no_grad()
    def _target_features(
        self, patches: torch.Tensor, grid_size: tuple[int, int, int], targets: list[torch.Tensor], masked_at: str
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Features of the whole clip (`None` if no whole clip was encoded), and normalised features of each target."""
        if masked_at == "input":
            parts = [self.vjepa.encoder(patches, grid_size, mask).last_hidden_state for mask in targets]
            return None, [nn.functional.layer_norm(part, part.shape[-1:]) for part in parts]
        if masked_at != "output":
            raise ValueError(f"mask_targets_at={masked_at!r} must be 'output' or 'input'")
        whole = self.vjepa.encoder(patches, grid_size).last_hidden_state
        normalised = nn.functional.layer_norm(whole, whole.shape[-1:])
        # With a device map, masks are on the device of the pixels, predictions on the device of the predictor.
        return whole, [gather_tokens(normalised, mask.to(normalised.device)) for mask in targets]

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        context_mask: Masks,
        target_mask: Masks,
        variance_weight: float = 0.0,
        mask_targets_at: Literal["output", "input"] = "output",
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **unused: None,
    ) -> VJEPAForPreTrainingOutput:
        """
        Args:
            pixel_values_videos (`torch.Tensor` of shape `(batch, frames, channels, height, width)`):
                normalised clips.
            context_mask, target_mask (`torch.Tensor` or `list[torch.Tensor]`): int64 token indices of shape
                `(batch, tokens)`, one tensor per mask generator. Several target masks may share one context mask
                (I-JEPA).
            variance_weight (`float`): weight of the variance regulariser; 0 in all released models.
            mask_targets_at (`str`): the target encoder sees the whole clip, and its output is masked (`"output"`, as
                published); or it sees the tokens of one target mask at a time (`"input"`; I-JEPA, appendix C).
            output_hidden_states, output_attentions (`bool`, *optional*): also return hidden states or attentions of
                every block of the context encoder. Attentions need `attn_implementation="eager"`: other
                implementations return none, and `attentions` is None, with a warning.
            unused: as in [`VJEPAModel.forward`].

        Returns:
            [`VJEPAForPreTrainingOutput`], or a tuple with `return_dict=False`. The loss is that of
            `config.pred_loss`.

        Raises:
            TypeError, ValueError: see [`VJEPAModel.forward`].
        """
        wanted = self._resolve_outputs(output_hidden_states, output_attentions, unused)
        patches, grid_size = self.context_encoder.embeddings.patchify(pixel_values_videos)
        contexts = check_masks("context_mask", context_mask, *patches.shape[:2])
        targets = check_masks("target_mask", target_mask, *patches.shape[:2])

        target_hidden_state, features = self._target_features(patches, grid_size, targets, mask_targets_at)
        outputs = [self.context_encoder(patches, grid_size, mask, **wanted) for mask in contexts]
        encoded = [output.last_hidden_state for output in outputs]
        kept = _by_mask(outputs, context_mask)
        kept.pop("last_hidden_state")
        pairs = zip(pair_masks(encoded, targets), pair_masks(contexts, targets), targets, strict=True)
        predictions = [
            self.vjepa.predictor(context, context_ids, target_ids, grid_size, index).last_hidden_state
            for index, (context, context_ids, target_ids) in enumerate(pairs)
        ]

        loss = prediction_loss = mean_prediction_error(predictions, features, loss=self.config.pred_loss)
        variance_loss = None
        if variance_weight:
            variance_loss = sum(_variance_hinge(prediction) for prediction in predictions) / len(predictions)
            loss = prediction_loss + variance_weight * variance_loss
        return VJEPAForPreTrainingOutput(
            loss=loss,
            prediction_loss=prediction_loss,
            variance_loss=variance_loss,
            predictions=predictions,
            targets=features,
            context_hidden_states=encoded,
            target_hidden_state=target_hidden_state,
            **kept,
        )


def prediction_error(prediction: torch.Tensor, target: torch.Tensor, *, loss: str = "l1") -> torch.Tensor:
    """The error of each predicted value in float32, for a value of `VJEPAConfig.pred_loss`."""
    prediction, target = prediction.float(), target.float()
    if loss == "smooth_l1":
        return nn.functional.smooth_l1_loss(prediction, target, reduction="none")
    error = (prediction - target).abs()
    return error.square() / 2 if loss == "l2" else error


def mean_prediction_error(
    predictions: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], *, loss: str = "l1"
) -> torch.Tensor:
    """
    The loss of pretraining, without regulariser, for a value of `VJEPAConfig.pred_loss`.

    Args:
        predictions, targets: one tensor (batch, target tokens, width) for each target mask; the numbers of tokens may
            differ.
    """
    errors = [
        prediction_error(prediction, target.to(prediction.device), loss=loss)
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    # The published I-JEPA averages over all targets together, the published V-JEPA over each mask and then over masks.
    shares = [error.numel() if loss == "smooth_l1" else 1 for error in errors]
    return sum(share * error.mean() for share, error in zip(shares, errors, strict=True)) / sum(shares)


def _variance_hinge(prediction: torch.Tensor) -> torch.Tensor:
    """Mean of max(0, 1 - std over tokens): the optional regulariser of the published code."""
    std = (prediction.float().var(dim=1) + 1e-4).sqrt()
    return nn.functional.relu(1.0 - std).mean()


def average_views(view_logits: torch.Tensor) -> torch.Tensor:
    """
    From logits (batch, views, classes) to the logarithm of the mean probability over views, (batch, classes). The
    logits of a single view stay as they are.
    """
    if view_logits.shape[1] == 1:
        return view_logits.squeeze(1)
    return view_logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(view_logits.shape[1])


class VJEPAForVideoClassification(VJEPAPreTrainedModel):
    """
    Classifier of clips and images: encoder, pooler (`config.pooling`) and a linear layer. With a frozen encoder it is
    the probe of the frozen evaluation (V-JEPA, section 4.2). Pretraining checkpoints give it their target encoder.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification

    config = VJEPAConfig.from_preset("vitt16", crop_size=64, num_hidden_layers=2, num_labels=3)
    model = VJEPAForVideoClassification(config)
    model.freeze_encoder()  # train the pooler and the linear layer only
    output = model(torch.randn(2, 16, 3, 64, 64), labels=torch.tensor([0, 2]))
    output.loss.backward()
    views = torch.randn(2, 3, 2, 16, 3, 64, 64)  # two videos, three views of two segments
    assert model(views).logits.shape == output.logits.shape == (2, 3)
    ```
    """

    # Keys that pretraining checkpoints add.
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"(^|\.)predictor\."]

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vjepa = VJEPAModel(config, add_predictor=False)
        self.pooler = POOLERS[config.pooling](config)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels)
        self._encoder_is_frozen = False
        self.post_init()

    def freeze_encoder(self) -> None:
        """Freezes the encoder: no gradients, and evaluation mode even while the rest is in training mode."""
        self._encoder_is_frozen = True
        self.vjepa.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VJEPAForVideoClassification":
        """Training mode, except for a frozen encoder."""
        super().train(mode)
        if self._encoder_is_frozen:
            self.vjepa.eval()
        return self

    def encode(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """
        The input of the pooler.

        Args:
            pixel_values_videos: as in `forward`.

        Returns:
            `(batch, views, segments * tokens, pooled_size)`: for each view, the tokens of its segments in order. With
            `config.num_pooled_layers` above 1 a token has several layers, see [`VJEPAModel.get_vision_features`].
        """
        return self._encode(pixel_values_videos)[0]

    def _encode(self, pixels: torch.Tensor, **wanted: bool) -> tuple[torch.Tensor, VJEPAModelOutput]:
        grouping = pixels.shape[:3] if pixels.ndim == 7 else (pixels.shape[0], 1, 1)
        clips = pixels.flatten(0, 2) if pixels.ndim == 7 else pixels
        num_layers = self.config.num_pooled_layers
        needed = wanted | ({"output_hidden_states": True} if num_layers > 1 else {})
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._encoder_is_frozen):
            output = self.vjepa(clips, **needed, return_dict=True)  # the configuration may ask for tuples
            tokens = self.vjepa.last_layers(output, num_layers)
        if not wanted.get("output_hidden_states"):
            output.hidden_states = None
        return tokens.unflatten(0, grouping).flatten(2, 3), output

    def classify(self, tokens: torch.Tensor, labels: torch.Tensor | None = None) -> VJEPAVideoClassifierOutput:
        """
        Classifies the result of `encode`.

        Args:
            tokens (`torch.Tensor` of shape `(batch, views, tokens, pooled_size)`): the result of `encode`.
            labels: as in `forward`.
        """
        pooled = self.pooler(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        view_logits = self.classifier(pooled)
        loss = None if labels is None else self._loss(view_logits, labels)
        return VJEPAVideoClassifierOutput(loss=loss, logits=self._average(view_logits), view_logits=view_logits)

    def _loss(self, view_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits, labels = view_logits.flatten(0, 1), labels.repeat_interleave(view_logits.shape[1], dim=0)
        if self.config.problem_type == "single_label_classification" and labels.is_floating_point():
            return nn.functional.cross_entropy(logits, labels.to(logits.dtype))  # shares of classes: mixed clips
        return self.loss_function(labels=labels, pooled_logits=logits, config=self.config)

    def _average(self, view_logits: torch.Tensor) -> torch.Tensor:
        if view_logits.shape[1] == 1:
            return view_logits.squeeze(1)
        problem_type = self.config.problem_type
        if problem_type == "regression" or self.num_labels == 1:
            return view_logits.mean(dim=1)
        logits = view_logits.float()
        if problem_type == "multi_label_classification":
            yes, no = (nn.functional.logsigmoid(sign * logits).logsumexp(dim=1) for sign in (1, -1))
            return (yes - no).to(view_logits.dtype)
        return average_views(logits).to(view_logits.dtype)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        **unused: None,
    ) -> VJEPAVideoClassifierOutput:
        """
        Args:
            pixel_values_videos (`torch.Tensor`): normalised pixels, one of
                - `(batch, frames, channels, height, width)`: one clip of each video;
                - `(batch, views, segments, frames, channels, height, width)`: several clips. The segments of a view
                  are classified together, and the probabilities of the views are averaged;
                - `(batch, channels, height, width)`: images, each repeated to a clip.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, num_labels)`, *optional*): class indices; shares of
                classes (with `config.problem_type="single_label_classification"`); or labels as `transformers` takes
                them for the problem types `"multi_label_classification"` and `"regression"`.
            output_hidden_states, output_attentions, pixel_values, unused: as in [`VJEPAModel.forward`].

        Returns:
            [`VJEPAVideoClassifierOutput`], or a tuple with `return_dict=False`.

        Raises:
            TypeError, ValueError: see [`VJEPAModel.forward`].
        """
        wanted = self._resolve_outputs(output_hidden_states, output_attentions, unused)
        tokens, encoded = self._encode(_only_pixels(pixel_values_videos, pixel_values), **wanted)
        output = self.classify(tokens, labels)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output


__all__ = [
    "POOLERS",
    "VJEPAAttentivePooler",
    "VJEPAForPreTraining",
    "VJEPAForPreTrainingOutput",
    "VJEPAForVideoClassification",
    "VJEPAMeanPooler",
    "VJEPAModel",
    "VJEPAModelOutput",
    "VJEPAPreTrainedModel",
    "VJEPAVideoClassifierOutput",
]
