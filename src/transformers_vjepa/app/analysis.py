"""What a model makes of one clip, as numbers and figures: masks and prediction errors, surprise, features, classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.corpora import IndexedCorpus
from ..data.evaluation_clips import EvaluationClips
from ..data.synthetic import encode_frames
from ..figures.charts import Curve, curves
from ..figures.images import (
    Strip,
    draw_feature_colors,
    draw_strips,
    frame_titles,
    heat_colors,
    heat_limits,
    middle_frames,
    tubelet_frames,
)
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, prediction_error
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..pretraining.masking import MASK_STRATEGIES, Masks, get_mask_strategy, sample_clip_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Frames per second that clips are played with: slow enough to see what the model sees.
_FPS = 8


class ClipError(ValueError):
    """A video or picture that gives no clip; the message is for the person who chose it."""


@dataclass(frozen=True)
class MaskErrors:
    """
    How wrong the predictor is about the targets of masks: L1 distance to the normalised target features, mean over
    their width.

    Attributes:
        tokens: float (masks, time, rows, columns), NaN where a token is no target.
        guess: of each mask, the error of guessing zeros, which are the mean of normalised features: float (masks,).
    """

    tokens: Tensor
    guess: Tensor

    @property
    def means(self) -> Tensor:
        """Over the targets of each mask: (masks,)."""
        return self.tokens.flatten(1).nanmean(dim=1)


def read_clip_of(corpus: IndexedCorpus, index: int, *, crop_size: int, sampling: ClipSampling) -> Tensor:
    """
    A clip as models see it, before its pixels are normalised: the middle one of the video, its centre.

    Returns:
        uint8 (frames, 3, crop, crop)

    Raises:
        ClipError: the video is broken, too short, or none.
    """
    item = EvaluationClips(corpus, crop_size=crop_size, sampling=sampling)[index]
    if "error" in item:
        raise ClipError(item["error"].partition(": ")[2] or item["error"])
    return item["pixel_values_videos"][0, 0]


def strategies(config: VJEPAConfig) -> list[str]:
    """Mask strategies that fit the geometry of a model; the first one is V-JEPA's, or for pictures I-JEPA's."""
    found = []
    for name in MASK_STRATEGIES:
        try:
            get_mask_strategy(name, config=config)
        except ValueError:
            continue
        found.append(name)
    return found


@dataclass(frozen=True)
class Looker:
    """
    A model that looks at clips.

    Attributes:
        model: encoders and predictor, in evaluation mode.
        processor: gives mean and standard deviation of the pixels.
        sampling: which frames make a clip.
    """

    model: VJEPAForPreTraining
    processor: VJEPAVideoProcessor
    sampling: ClipSampling

    @property
    def config(self) -> VJEPAConfig:
        return self.model.config

    def pixels(self, clip: Tensor) -> Tensor:
        """Normalised (1, frames, 3, crop, crop) on the device of the model."""
        clips = clip[None].to(self.model.device)
        return normalize_clips(clips, mean=self.processor.image_mean, std=self.processor.image_std)

    def masks(self, strategy: str, *, seed: int) -> Masks:
        """
        Raises:
            ValueError: a strategy that does not fit.
        """
        return sample_clip_masks(self.config, strategy, clip_seeds=[0], seed=seed)

    @torch.inference_mode()
    def mask_errors(self, clip: Tensor, masks: Masks) -> MaskErrors:
        """Where the predictor errs that sees the context of `masks`."""
        context, target = ([mask.to(self.model.device) for mask in part] for part in (masks[0], masks[1]))
        outputs = self.model(self.pixels(clip), context, target)
        tokens = torch.full((len(masks.target_mask), self.config.num_patches), torch.nan)
        guess = []
        rows = zip(tokens, outputs.predictions, outputs.targets, masks.target_mask, strict=True)
        for row, prediction, wanted, places in rows:
            row[places[0]] = prediction_error(prediction, wanted)[0].mean(dim=-1).cpu()
            guess.append(wanted.float().abs().mean().cpu())
        return MaskErrors(tokens.unflatten(1, self.config.grid_size), torch.stack(guess))

    @torch.inference_mode()
    def surprise(self, clip: Tensor) -> Tensor | None:
        """(time, rows, columns), NaN at the first step; nothing where there is but one."""
        return self.model.surprise(self.pixels(clip))[0].cpu() if self.config.grid_size[0] > 1 else None

    @torch.inference_mode()
    def tokens(self, clip: Tensor) -> Tensor:
        """Features of the target encoder: (1, time, cells, width)."""
        features = self.model.vjepa.get_vision_features(self.pixels(clip)).float().cpu()
        return features.unflatten(1, (self.config.grid_size[0], -1))


@torch.inference_mode()
def top_classes(
    model: VJEPAForVideoClassification, clip: Tensor, *, processor: VJEPAVideoProcessor, number: int = 5
) -> list[tuple[str, float]]:
    """
    The most probable classes of a clip and their probabilities, the first first.

    Args:
        clip: uint8 (frames, 3, crop, crop), as the classifier sees it.
        number: of classes, at most.
    """
    clips = clip[None].to(model.device)
    logits = model(normalize_clips(clips, mean=processor.image_mean, std=processor.image_std)).logits[0].float()
    is_multi_label = model.config.problem_type == "multi_label_classification"
    shares = logits.sigmoid() if is_multi_label else logits.softmax(dim=-1)
    found = shares.topk(min(number, len(shares)))
    names = model.config.id2label
    return [(names[place], share) for place, share in zip(found.indices.tolist(), found.values.tolist(), strict=True)]


def explained_variance(tokens: Tensor) -> float:
    """Share of the variance of tokens (1, time, cells, width) that lies in their first three components."""
    values = tokens.flatten(0, 2)
    variances = torch.linalg.svdvals(values - values.mean(dim=0)).square()
    return float(variances[:3].sum() / variances.sum().clamp_min(1e-12))


def draw_mask_errors(clip: Tensor, errors: MaskErrors, *, config: VJEPAConfig) -> Figure:
    """
    The frames with, in the place of each target token, the error of its prediction; one row per mask.

    Args:
        clip: uint8 (frames, 3, height, width).
    """
    frames = tubelet_frames(clip[None], config)[0]
    limits = heat_limits(errors.tokens)
    strips = []
    for number, (values, mean) in enumerate(zip(errors.tokens, errors.means.tolist(), strict=True), start=1):
        heat = heat_colors(frames, values.nan_to_num(limits[0]), limits=limits)
        target = values.isfinite()[:, None].float()
        is_target = interpolate(target, size=tuple(frames.shape[1:3]), mode="nearest")[:, 0, :, :, None] > 0
        strips.append(Strip(f"mask {number}\nerror {mean:.2f}", torch.where(is_target, heat, frames)))
    return draw_strips(strips, titles=frame_titles(config))


def draw_surprise_curve(surprise: Tensor, *, config: VJEPAConfig) -> Figure:
    """Mean surprise of every time step from the second on, over the frames in its middle."""
    steps = middle_frames(config)[1:]
    line = Curve("surprise", "vjepa", steps, surprise[1:].mean(dim=(1, 2)).numpy())
    figure = curves([line], title="Mean of each time step", xlabel="frame of the clip", ylabel="mean L1 error")
    figure.set_size_inches(4.6, 2.4)
    figure.axes[0].set_xticks(steps)
    return figure


def draw_features(clip: Tensor, tokens: Tensor, *, config: VJEPAConfig) -> Figure:
    """
    Features as colours under the frames: their first three principal components over the tokens of this clip.

    Args:
        clip: uint8 (frames, 3, height, width).
        tokens: (1, time, cells, width), at least three wide.
    """
    return draw_feature_colors(clip[None], [("features", tokens)], shown=0, name="clip", config=config)


def encode_video(clip: Tensor, *, side: int = 224) -> bytes:
    """
    An MP4 file (H.264) of a clip, its pixels enlarged by a whole number.

    Args:
        clip: uint8 (frames, 3, crop, crop).
        side: of the picture, about.
    """
    factor = max(1, round(side / clip.shape[-1]))
    factor += factor * clip.shape[-1] % 2  # H.264 wants even sides
    frames = clip.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3).permute(0, 2, 3, 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode_frames(frames.contiguous().numpy(), path, fps=_FPS)
        return path.read_bytes()


__all__ = [
    "ClipError",
    "Looker",
    "MaskErrors",
    "draw_features",
    "draw_mask_errors",
    "draw_surprise_curve",
    "encode_video",
    "explained_variance",
    "read_clip_of",
    "strategies",
    "top_classes",
]
