"""Where the predictor errs, what the pooler attends to, and which clips are nearest."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from ..figures.images import HEAT, SHEET_WIDTH, Strip, draw_strips, frame_titles, frames_of, heat_colors
from ..figures.style import color
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAAttentivePooler, VJEPAForPreTraining, prediction_error
from ..pretraining.masking import Masks, sample_masks


def strategy_masks(config: VJEPAConfig, arm: str, *, batch_size: int) -> Masks:
    """
    Masks as an arm of the study trained with them, for a batch.

    Raises:
        ValueError: the strategy does not fit the geometry.
    """
    strategies = {"random_tube": "random_tube", "causal": "causal_multiblock_6"}
    truncation = "published" if arm == "published_truncation" else "balanced"
    generator = torch.Generator().manual_seed(3)
    strategy = strategies.get(arm, "multiblock")
    return sample_masks(config, strategy, batch_size=batch_size, generator=generator, truncation=truncation)


@torch.no_grad()
def attention_weights(pooler: VJEPAAttentivePooler, tokens: Tensor) -> Tensor:
    """
    How much the query of a pooler attends to every token, averaged over its heads: (clips, tokens), rows sum to 1.

    Args:
        tokens: (clips, tokens, width).
    """
    layer = pooler.cross_attention_layer
    attention = layer.cross_attn
    by_head = (attention.num_heads, attention.head_size)
    query = attention.q_proj(pooler.query_tokens).view(by_head)
    keys = attention.k_proj(layer.norm1(tokens)).unflatten(-1, by_head)
    scores = torch.einsum("hs,bths->bht", query, keys) * attention.head_size**-0.5
    return scores.softmax(dim=-1).mean(dim=1)


def attended_tokens(weights: Tensor) -> Tensor:
    """Over how many tokens attention (..., tokens) is spread: the exponential of its entropy."""
    return torch.special.entr(weights).sum(dim=-1).exp()


def standardised_directions(features: Tensor, *, reference: Tensor) -> Tensor:
    """
    Unit vectors of features (clips, values) whose cosines say how near clips are: each value less its mean over the
    clips of `reference` (clips, values), over its standard deviation there.
    """
    spread = reference.std(dim=0).clamp_min(1e-6)
    return normalize((features - reference.mean(dim=0)) / spread, dim=1)


def nearest_clips(features: Tensor, *, number: int = 5) -> Tensor:
    """
    The nearest other clips by the cosine of standardised features: int64 (clips, number), the nearest first.

    Args:
        features: (clips, values).
    """
    directions = standardised_directions(features, reference=features)
    similarity = directions @ directions.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(number, dim=1).indices


@dataclass(frozen=True)
class PredictionErrors:
    """
    L1 distance between predicted and target features, mean over their width.

    Attributes:
        tokens: of every token that was target, mean over masks: float (clips, time, rows, columns).
        reference: the same of the average feature of all clips at that place, the best guess without a context.
    """

    tokens: Tensor
    reference: Tensor


@torch.no_grad()
def prediction_errors(model: VJEPAForPreTraining, pixels: Tensor, *, draws: int = 12) -> PredictionErrors:
    """
    Where a predictor errs, over multi-block masks as in training, so many that every token is target.

    Args:
        model: encoders and predictor.
        pixels: normalised clips (clips, frames, 3, height, width).
        draws: masks of each generator.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    total, count = torch.zeros(2, len(pixels), config.num_patches).unbind(0)
    for _ in range(draws):
        masks = sample_masks(config, batch_size=len(pixels), generator=generator)
        outputs = model(pixels, list(masks.context_mask), list(masks.target_mask))
        for prediction, target, places in zip(outputs.predictions, outputs.targets, masks.target_mask, strict=True):
            total.scatter_add_(1, places, prediction_error(prediction, target).mean(dim=-1))
            count.scatter_add_(1, places, torch.ones(places.shape))
    targets = layer_norm(outputs.target_hidden_state, outputs.target_hidden_state.shape[-1:])
    reference = prediction_error(targets.mean(dim=0, keepdim=True), targets).mean(dim=-1)
    errors = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
    return PredictionErrors(*(part.unflatten(1, config.grid_size) for part in (errors, reference)))


def draw_error_maps(errors: PredictionErrors, *, config: VJEPAConfig) -> Figure:
    """Mean error over clips at every place, a map per time step, on one scale."""
    from matplotlib.figure import Figure

    maps = errors.tokens.nanmean(dim=0)
    figure = Figure(figsize=(SHEET_WIDTH, 1.95), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low, high = float(maps.min()), float(maps.max())
    for axis, values, title in zip(axes, maps, frame_titles(config), strict=True):
        image = axis.imshow(values.numpy(), cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=9, color=color("muted"))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.09, pad=0.06, aspect=36)
    bar.set_label("mean L1 error of the predicted features", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure


def draw_error_example(
    clips: Tensor, errors: PredictionErrors, *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    Frames of a clip, and over them the error of the prediction, from dark to bright: 5th to 95th percentile of all
    clips.
    """
    frames = frames_of(clips[shown, None], config)[0]
    low, high = np.nanpercentile(errors.tokens.numpy(), [5, 95])
    strips = [
        Strip(name, frames),
        Strip("error", heat_colors(frames, errors.tokens[shown].nan_to_num(0), low=low, high=high)),
    ]
    return draw_strips(strips, titles=frame_titles(config))


__all__ = [
    "PredictionErrors",
    "attended_tokens",
    "attention_weights",
    "draw_error_example",
    "draw_error_maps",
    "nearest_clips",
    "prediction_errors",
    "standardised_directions",
    "strategy_masks",
]
