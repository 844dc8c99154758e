"""What a model computes for one clip, as numbers and figures: prediction errors, surprise, features and classes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.corpus import IndexedCorpus
from ..data.evaluation_clips import ClipGeometry, EvaluationClips
from ..data.synthetic import encode_frames
from ..figures.charts import Curve, curves
from ..figures.images import Strip, draw_strips, frame_titles, heat_colors, heat_limits, middle_frames, tubelet_frames
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, prediction_error
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..pretraining.masking import MASK_STRATEGIES, Masks, get_mask_strategy, sample_clip_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Frames per second of the clips on the page: slow enough to see every frame that the model sees.
_FPS = 8


class ClipError(ValueError):
    """A video or image that gives no clip. The page shows the message to the user who chose the file."""


@dataclass(frozen=True)
class MaskErrors:
    """
    Errors of the predictor at the targets of masks: L1 distance to the normalised target features, mean over the
    feature width.

    Attributes:
        tokens: float (masks, time, rows, columns), NaN at tokens that are not targets.
        guess: for each mask the error of predicting zeros, the mean of normalised features: float (masks,).
    """

    tokens: Tensor
    guess: Tensor

    @property
    def means(self) -> Tensor:
        """Mean over the targets of each mask: (masks,)."""
        return self.tokens.flatten(1).nanmean(dim=1)


def strategies(config: VJEPAConfig) -> list[str]:
    """Mask strategies that fit the geometry of a model. The first one is V-JEPA's, or I-JEPA's for image models."""
    found = []
    for name in MASK_STRATEGIES:
        with suppress(ValueError):
            get_mask_strategy(name, config=config)
            found.append(name)
    return found


@dataclass(frozen=True)
class _ClipModel:
    """A model in evaluation mode; the processor has the sampling of frames, and mean and deviation of the pixels."""

    model: VJEPAForPreTraining | VJEPAForVideoClassification
    processor: VJEPAVideoProcessor

    @property
    def config(self) -> VJEPAConfig:
        return self.model.config

    @property
    def sampling(self) -> ClipSampling:
        """Which frames of a video make a clip."""
        return self.processor.clip_sampling(num_frames=self.config.frames_per_clip)

    def read(self, corpus: IndexedCorpus, index: int) -> Tensor:
        """
        The centre crop of the clip in the middle of a video: uint8 (frames, 3, crop, crop).

        Raises:
            ClipError: the file is broken, too short or not a video.
        """
        item = EvaluationClips(corpus, ClipGeometry(crop_size=self.config.crop_size, sampling=self.sampling))[index]
        if "error" in item:
            raise ClipError(item["error"].partition(": ")[2] or item["error"])
        return item["pixel_values_videos"][0, 0]

    def pixels(self, clip: Tensor) -> Tensor:
        """Normalised (1, frames, 3, crop, crop) on the device of the model."""
        clips = clip[None].to(self.model.device)
        return normalize_clips(clips, mean=self.processor.image_mean, std=self.processor.image_std)


@dataclass(frozen=True)
class ClipAnalyzer(_ClipModel):
    """What a pretrained model, with its predictor, computes for a clip: uint8 (frames, 3, crop, crop)."""

    model: VJEPAForPreTraining

    def masks(self, strategy: str, *, seed: int) -> Masks:
        """Masks of one clip; a ValueError if the strategy does not fit the geometry of the model."""
        return sample_clip_masks(self.config, strategy, clip_seeds=[0], seed=seed)

    @torch.inference_mode()
    def mask_errors(self, clip: Tensor, masks: Masks) -> MaskErrors:
        """Errors at the targets of `masks`, predicted from the context of `masks`."""
        context, target = ([mask.to(self.model.device) for mask in part] for part in masks[:2])
        outputs = self.model(self.pixels(clip), context, target)
        tokens = torch.full((len(masks.target_mask), self.config.num_patches), torch.nan)
        rows = zip(tokens, outputs.predictions, outputs.targets, masks.target_mask, strict=True)
        for row, prediction, wanted, places in rows:
            row[places[0]] = prediction_error(prediction, wanted)[0].mean(dim=-1).cpu()
        guess = torch.stack([wanted.float().abs().mean() for wanted in outputs.targets]).cpu()
        return MaskErrors(tokens.unflatten(1, self.config.grid_size), guess)

    @torch.inference_mode()
    def surprise(self, clip: Tensor) -> Tensor | None:
        """(time, rows, columns), NaN at the first step; `None` for a model with a single time step."""
        return self.model.surprise(self.pixels(clip))[0].cpu() if self.config.grid_size[0] > 1 else None

    @torch.inference_mode()
    def tokens(self, clip: Tensor) -> Tensor:
        """Features of the target encoder: (1, time, cells, width)."""
        features = self.model.vjepa.get_vision_features(self.pixels(clip)).float().cpu()
        return features.unflatten(1, (self.config.grid_size[0], -1))


@dataclass(frozen=True)
class Classifier(_ClipModel):
    """A classifier, with its name as users read it."""

    model: VJEPAForVideoClassification
    name: str

    @torch.inference_mode()
    def top_classes(self, clip: Tensor, *, number: int = 5) -> list[tuple[str, float]]:
        """
        At most `number` classes of a clip, uint8 (frames, 3, crop, crop), and their probabilities, the most probable
        class first.
        """
        logits = self.model(self.pixels(clip)).logits[0].float()
        is_multi_label = self.config.problem_type == "multi_label_classification"
        shares = logits.sigmoid() if is_multi_label else logits.softmax(dim=-1)
        found = shares.topk(min(number, len(shares)))
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [(self.config.id2label[label], share) for label, share in pairs]


def explained_variance(tokens: Tensor) -> float:
    """Share of the variance of tokens (1, time, cells, width) that lies in their first three components."""
    values = tokens.flatten(0, 2)
    variances = torch.linalg.svdvals(values - values.mean(dim=0)).square()
    return float(variances[:3].sum() / variances.sum().clamp_min(1e-12))


def draw_mask_errors(clip: Tensor, errors: MaskErrors, *, config: VJEPAConfig) -> Figure:
    """
    The frames of a clip, uint8 (frames, 3, height, width), with the error of the prediction in the place of each
    target token; one row per mask.
    """
    (frames,) = tubelet_frames(clip[None], config)
    limits = heat_limits(errors.tokens)
    strips = []
    for number, (values, mean) in enumerate(zip(errors.tokens, errors.means.tolist(), strict=True), start=1):
        heat = heat_colors(frames, values.nan_to_num(limits[0]), limits=limits)
        known = interpolate(values.isfinite()[:, None].float(), size=tuple(frames.shape[1:3]), mode="nearest")
        heat = torch.where(known[:, 0, :, :, None] > 0, heat, frames)
        strips.append(Strip(f"mask {number}\nerror {mean:.2f}", heat))
    return draw_strips(strips, titles=frame_titles(config))


def draw_surprise_curve(surprise: Tensor, *, config: VJEPAConfig) -> Figure:
    """Mean surprise of each time step from the second on, at the middle frame of the step."""
    steps = middle_frames(config)[1:]
    line = Curve("surprise", "vjepa", steps, surprise[1:].mean(dim=(1, 2)).numpy())
    figure = curves([line], title="Mean of each time step", xlabel="frame of the clip", ylabel="mean L1 error")
    figure.set_size_inches(4.6, 2.4)
    figure.axes[0].set_xticks(steps)
    return figure


def encode_image(image: Tensor, *, side: int = 224) -> bytes:
    """A PNG file of an image, uint8 (3, crop, crop), enlarged like [`encode_video`]."""
    factor = max(1, round(side / image.shape[-1]))
    pixels = image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2).permute(1, 2, 0)
    file = BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="png")
    return file.getvalue()


def encode_video(clip: Tensor, *, side: int = 224) -> bytes:
    """
    An MP4 file (H.264) of a clip, uint8 (frames, 3, crop, crop), with pixels enlarged by a whole number to a side of
    about `side` pixels.
    """
    factor = max(1, round(side / clip.shape[-1]))
    factor += factor * clip.shape[-1] % 2  # H.264 needs even sides
    frames = clip.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3).permute(0, 2, 3, 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode_frames(frames.contiguous().numpy(), path, fps=_FPS)
        return path.read_bytes()
