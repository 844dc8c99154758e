"""Prediction errors over space and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ..figures.images import HEAT, frame_titles
from ..figures.style import SHEET_WIDTH, color, new_figure
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, prediction_error
from ..pretraining.masking import sample_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 12  # of masks: with this number every token becomes a target


@dataclass(frozen=True)
class PredictionErrors:
    """
    L1 distance between predicted and target features, mean over their width: float (clips, time, rows, columns).

    Attributes:
        tokens: mean over the masks in which a token was a target; NaN where it never was.
        reference: error of the average feature of all clips at that place, the best guess without a context.
    """

    tokens: Tensor
    reference: Tensor


@torch.no_grad()
def prediction_errors(model: VJEPAForPreTraining, pixels: Tensor) -> PredictionErrors:
    """
    The errors of a predictor over several draws of multi-block masks, as in training. The pixels are normalised clips
    (clips, frames, 3, height, width).
    """
    config = model.config
    strategy = "image_multiblock" if config.is_image_model else "multiblock"
    generator = torch.Generator().manual_seed(0)
    total, count = torch.zeros(2, len(pixels), config.num_patches).unbind(0)
    for _ in range(_DRAWS):
        masks = sample_masks(config, strategy, batch_size=len(pixels), generator=generator)
        outputs = model(pixels, list(masks.context_mask), list(masks.target_mask))
        for prediction, target, places in zip(outputs.predictions, outputs.targets, masks.target_mask, strict=True):
            total.scatter_add_(1, places, prediction_error(prediction, target).mean(dim=-1))
            count.scatter_add_(1, places, torch.ones(places.shape))
    targets = layer_norm(outputs.target_hidden_state, outputs.target_hidden_state.shape[-1:])
    reference = prediction_error(targets.mean(dim=0, keepdim=True), targets).mean(dim=-1)
    errors = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
    return PredictionErrors(*(part.unflatten(1, config.grid_size) for part in (errors, reference)))


def draw_error_maps(errors: PredictionErrors, *, config: VJEPAConfig) -> Figure:
    """Mean error over clips at every place, one map per time step, on one scale."""
    maps = errors.tokens.nanmean(dim=0)
    figure = new_figure(SHEET_WIDTH, 1.95)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low, high = float(maps.min()), float(maps.max())
    for axis, values, title in zip(axes, maps, frame_titles(config), strict=True):
        image = axis.imshow(values.numpy(), cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=9, color=color("muted"))
        axis.axis("off")
    bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.09, pad=0.06, aspect=36)
    bar.set_label("mean L1 error of the predicted features", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure
