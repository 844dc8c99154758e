"""The pictures of a report: what masks hide, what features see, what a probe looks at and where a predictor errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, layer_norm, normalize

from .configuration_vjepa import VJEPAConfig
from .feature_decoder import DecodedClips
from .masking import Masks, sample_masks
from .modeling_vjepa import VJEPAAttentivePooler, VJEPAForPreTraining, prediction_error
from .report_numbers import percent
from .report_page import color
from .video_processing_vjepa import VJEPAVideoProcessor
from .visualization import _TARGET_COLOR, _paint_tokens, _principal_colors, _token_kinds, _tubelet_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 4.6  # inches, as the charts have
_LABEL_WIDTH = 1.15
_CELL_PIXELS = 128  # of a frame inside a picture, about
_HEAT = "inferno"


@dataclass(frozen=True)
class Strip:
    """
    One row of images.

    Attributes:
        label: stands on its left.
        images: float (time, height, width, 3) in [0, 1].
        border: a name of `report_page.COLORS`, for a frame around the row.
        is_first: a gap above sets it off.
    """

    label: str
    images: Tensor
    border: str | None = None
    is_first: bool = False


def draw_strips(strips: Sequence[Strip], *, titles: Sequence[str], title: str = "") -> Figure:
    """
    Rows of images as one figure.

    Args:
        strips: from top to bottom, each with as many images.
        titles: one per column.
        title: over all of them.
    """
    from matplotlib.figure import Figure

    steps, label_width = len(titles), _LABEL_WIDTH
    cell = min((_WIDTH - label_width) / steps, 1.0)
    # Inches: between rows, above a first one, for the titles.
    gap, space, top = 0.05, 0.14, 0.54 if title else 0.24
    places, height = [], top
    for index, strip in enumerate(strips):
        height += space if strip.is_first and index else 0
        places.append(height)
        height += cell + gap
    width = label_width + steps * cell
    figure = Figure(figsize=(width, height))
    for strip, place in zip(strips, places, strict=True):
        axis = figure.add_axes((label_width / width, 1 - (place + cell) / height, steps * cell / width, cell / height))
        axis.imshow(_joined(strip), interpolation="none", extent=(0, steps, 0, 1), aspect="auto")
        axis.axis("off")
        axis.text(-0.09, 0.5, strip.label, ha="right", va="center", fontsize=9.5, linespacing=1.25)
        if place == places[0]:
            for column, name in enumerate(titles):
                axis.text(column + 0.5, 1.06, name, ha="center", va="bottom", fontsize=9, color=color("muted"))
    if title:
        figure.text(0, 1 - 0.04 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure


def _joined(strip: Strip) -> np.ndarray:
    """The images side by side with clear gaps: RGBA uint8, enlarged by whole factors."""
    from matplotlib.colors import to_rgb

    factor = max(1, round(_CELL_PIXELS / strip.images.shape[1]))
    images = strip.images.clamp(0, 1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if strip.border is not None:
        edge = torch.tensor(to_rgb(color(strip.border)))
        images = images.clone()
        width = max(2, images.shape[1] // 22)
        for side in (images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]):
            side[:] = edge
    opaque = torch.cat([images, torch.ones(*images.shape[:3], 1)], dim=-1)
    gap = max(2, images.shape[1] // 26)
    padded = torch.nn.functional.pad(opaque, (0, 0, 0, gap))  # transparent at the right of each image
    joined = padded.permute(1, 0, 2, 3).flatten(1, 2)
    return (joined * 255).round().byte().numpy()


def frame_titles(config: VJEPAConfig) -> list[str]:
    """A title for every time step, the frames of the clip that its tokens span; of many a short one, not for all."""
    size, steps = config.tubelet_size, config.grid_size[0]
    titles = []
    for step in range(steps):
        first, last = step * size, (step + 1) * size - 1
        span = str(first) if size == 1 else f"{first}–{last}"
        word = "frame " if size == 1 else "frames "
        is_named = step % -(-steps // 8) == 0
        titles.append((word if steps <= 5 else "") + span if is_named else "")
    return titles


def _frames(clips: Tensor, config: VJEPAConfig) -> Tensor:
    return _tubelet_frames(clips, config)


def _heat(frames: Tensor, values: Tensor, *, low: float = 0.0, high: float, smooth: bool = True) -> Tensor:
    """
    Frames (time, height, width, 3) in grey under a map (time, rows, columns), dark at `low`, bright at `high`; blurred
    between the tokens, or each token a square.
    """
    from matplotlib import colormaps

    size = tuple(frames.shape[1:3])
    scaled = (values[:, None].float() - low) / max(high - low, 1e-12)
    enlarged = interpolate(scaled, size=size, mode="bilinear" if smooth else "nearest")[:, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps[_HEAT](enlarged.numpy())[..., :3]).float()
    return 0.42 * frames.mean(-1, keepdim=True) + 0.58 * colors


def draw_masks(clip: Tensor, masks: Masks, *, config: VJEPAConfig, title: str = "", row: int = 0) -> Figure:
    """
    What is context (as it is), target (blue) and neither (crossed out) in a clip, one row per mask generator.

    Args:
        clip: uint8 (frames, 3, height, width).
        masks: of a batch; the one of `row` is shown.
        title: over the figure.
    """
    frames = _frames(clip[None], config)[0]
    strips = []
    contexts = list(masks.context_mask) * (len(masks.target_mask) // len(masks.context_mask))
    for index, (context, target) in enumerate(zip(contexts, masks.target_mask, strict=True)):
        kinds = _token_kinds(context[row], target[row], config)
        shares = [
            f"{name} {percent(float((kinds == kind).float().mean()))}"
            for kind, name in enumerate(("context", "target"))
        ]
        dropped = float((kinds == 2).float().mean())
        shares += [f"dropped {percent(dropped)}"] if dropped else []
        strips.append(
            Strip("\n".join([f"mask {index + 1}", *shares]), _paint_tokens(frames, kinds, config.patch_size))
        )
    return draw_strips(strips, titles=frame_titles(config), title=title)


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


def draw_feature_colors(
    clips: Tensor, features: Sequence[tuple[str, Tensor]], *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    The first three principal components of features as red, green and blue, under the frames.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        features: label and float (clips, time, cells, width); components are over all these clips.
        shown: which clip to show.
        name: what it is, to stand beside it.
    """
    strips = [Strip(name, _frames(clips[shown, None], config)[0])]
    for label, values in features:
        _, colors = _principal_colors(values.flatten(1, 2), None)
        strips.append(Strip(label, colors[shown].unflatten(0, config.grid_size)))
    return draw_strips(strips, titles=frame_titles(config))


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


def draw_attention(
    clips: Tensor, weights: Sequence[tuple[str, Tensor]], *, shown: int, name: str, config: VJEPAConfig
) -> Figure:
    """
    Attention over frames: dark where there is none, brightest from three times the share of even attention on.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        weights: label and float (clips, tokens).
        shown: which clip to show.
        name: what it is, to stand beside it.
    """
    frames = _frames(clips[shown, None], config)[0]
    strips = [Strip(name, frames)]
    for label, values in weights:
        maps = values[shown].view(config.grid_size)
        strips.append(Strip(label, _heat(frames, maps, high=3 / maps.numel())))
    return draw_strips(strips, titles=frame_titles(config))


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


def draw_neighbours(
    clips: Tensor,
    nearest: Tensor,
    labels: dict[str, np.ndarray],
    *,
    query: int,
    class_names: dict[str, list[str]],
    config: VJEPAConfig,
) -> Figure:
    """
    A clip and its nearest ones, with a mark for every label that they share with it; the border is that of the first.

    Args:
        clips: uint8 (clips, frames, 3, height, width).
        nearest: int64 (number,), from the nearest on.
        labels: class of every clip by task.
        query: the clip.
        class_names: by task.
    """
    tasks = list(labels)
    frames = _frames(clips[[query, *nearest.tolist()]], config)
    names = [short_name(class_names[task][labels[task][query]]) for task in tasks]
    strips = [Strip("\n".join(["query", *names]), frames[0])]
    for place, index in enumerate(nearest.tolist()):
        same = [labels[task][index] == labels[task][query] for task in tasks]
        names = [short_name(class_names[task][labels[task][index]]) for task in tasks]
        lines = [f"{name} {'✓' if right else '✗'}" for name, right in zip(names, same, strict=True)]
        border = "right" if same[0] else "wrong"
        strips.append(Strip("\n".join(lines), frames[place + 1], border=border, is_first=place == 0))
    return draw_strips(strips, titles=frame_titles(config))


def short_name(name: str) -> str:
    """A class name that fits beside a strip or an axis."""
    name = name.replace("counterclockwise", "ccw").replace("clockwise", "cw").replace("_", " ")
    return name if len(name) <= 14 else name[:13] + "…"


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
    figure = Figure(figsize=(_WIDTH, 1.95), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low, high = float(maps.min()), float(maps.max())
    for axis, values, title in zip(axes, maps, frame_titles(config), strict=True):
        image = axis.imshow(values.numpy(), cmap=_HEAT, vmin=low, vmax=high, interpolation="nearest")
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
    frames = _frames(clips[shown, None], config)[0]
    low, high = np.nanpercentile(errors.tokens.numpy(), [5, 95])
    strips = [
        Strip(name, frames),
        Strip("error", _heat(frames, errors.tokens[shown].nan_to_num(0), low=low, high=high)),
    ]
    return draw_strips(strips, titles=frame_titles(config))


def draw_decoded_clip(
    decoded: DecodedClips, *, shown: int, processor: VJEPAVideoProcessor, config: VJEPAConfig
) -> Figure:
    """
    A clip as it is, what the context encoder sees of it (the hidden part is blue), and the rest decoded from
    features: those of the target encoder, and those that the predictor imagines.

    Args:
        decoded: what [`~feature_decoder.decode_predictions`] gives.
        shown: which clip to show.
        processor: has the mean and standard deviation that the pixels were normalised with.
    """
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (processor.image_mean, processor.image_std))
    rows = {
        "clip": decoded.original,
        "context": decoded.context,
        "from target\nfeatures": decoded.from_targets,
        "from\npredictions": decoded.from_predictions,
    }
    hidden = decoded.hidden[shown, :: config.tubelet_size, :, :, None]
    strips = []
    for label, clips in rows.items():
        frames = (clips[shown, :: config.tubelet_size].float() * std + mean).permute(0, 2, 3, 1)
        if label == "context":
            frames = torch.where(hidden, torch.tensor(_TARGET_COLOR), frames)
        strips.append(Strip(label, frames))
    return draw_strips(strips, titles=frame_titles(config))


__all__ = [
    "PredictionErrors",
    "Strip",
    "attended_tokens",
    "attention_weights",
    "draw_attention",
    "draw_decoded_clip",
    "draw_error_example",
    "draw_error_maps",
    "draw_feature_colors",
    "draw_masks",
    "draw_neighbours",
    "draw_strips",
    "frame_titles",
    "nearest_clips",
    "prediction_errors",
    "short_name",
    "standardised_directions",
    "strategy_masks",
]
