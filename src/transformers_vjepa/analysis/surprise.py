"""
What does the predictor know? Clips in which something impossible happens half-way should surprise it.

The surprise of a time step is the error of its prediction from the steps before it
([`VJEPAForPreTraining.surprise`]). It also grows with what there is to predict: an empty step is always easy. So
clips are compared in matched sets, in which the same steps occur in disturbed and undisturbed clips (Riochet et al.,
"IntPhys", arXiv 1803.07616). Two clips that are both as they should be,

```
    a    a0 a1 | a2 a3        b    b0 b1 | b2 b3
```

exchange their ends: "a0 a1 | b2 b3" and "b0 b1 | a2 a3" are disturbed. Of one scene, `b` is the clip whose shapes
are elsewhere (`"jump"`), that has none (`"vanish"`; the exchange also makes them appear), or that runs backwards
(`"reverse"`). At the first step after the exchange the disturbed clips have the same targets as the undisturbed ones,
so that nothing but the prediction can tell them apart; a set counts as right where the two disturbed clips together
surprise more there than the two undisturbed ones. By chance that is 50 %: also for untrained models, on average over
their seeds, while a single one may lean to a side (all sets that a shape vanishes in are alike to it), so that its
figure belongs beside that of the trained model.

A reversal is the hardest of the three: the clip goes back to where it has just been, which surprises a predictor that
takes everything to stay in place less than going on would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from ..data.synthetic import APPEARANCES, MOTIONS, SPLITS, CorpusConfig, render_clip
from ..evaluation.statistics import accuracy_interval
from ..figures.charts import new_figure
from ..figures.images import draw_frames, tubelet_frames
from ..models.vjepa.clip_transforms import normalize_clips, resize_and_center_crop
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Disturbance = Literal["jump", "vanish", "reverse"]
DISTURBANCES: tuple[Disturbance, ...] = get_args(Disturbance)

# Blue and orange can be told apart with any kind of colour vision.
_COLORS = {"undisturbed": "#1f5fa8", "disturbed": "#d9772b"}


@dataclass(frozen=True)
class DisturbedPairs:
    """
    Pairs of clips and what becomes of them when they exchange their ends.

    Attributes:
        kind: what is impossible about the disturbed clips.
        step: time step of the token grid, the first after the exchange.
        undisturbed: uint8 (pairs, 2, frames, 3, crop, crop).
        disturbed: likewise; clip i of a pair begins as undisturbed clip i and ends as the other one.
    """

    kind: Disturbance
    step: int
    undisturbed: torch.Tensor
    disturbed: torch.Tensor


@dataclass(frozen=True)
class Surprise:
    """
    The surprise over the clips of [`DisturbedPairs`].

    Attributes:
        pairs: the clips.
        undisturbed, disturbed: float32 (pairs, 2, time, height, width), see [`VJEPAForPreTraining.surprise`].
    """

    pairs: DisturbedPairs
    undisturbed: torch.Tensor
    disturbed: torch.Tensor

    @property
    def hits(self) -> torch.Tensor:
        """Whether the disturbed clips of a pair together surprise more than the undisturbed: bool (pairs,)."""
        return self._at_the_step(self.disturbed).sum(dim=1) > self._at_the_step(self.undisturbed).sum(dim=1)

    @property
    def single_hits(self) -> torch.Tensor:
        """
        Whether the first disturbed clip of a pair surprises more than the undisturbed clip that begins as it does:
        bool (pairs,). Here the steps that are compared differ in what there is to predict.
        """
        return self._at_the_step(self.disturbed)[:, 0] > self._at_the_step(self.undisturbed)[:, 0]

    def _at_the_step(self, errors: torch.Tensor) -> torch.Tensor:
        """(pairs, 2)"""
        return errors[:, :, self.pairs.step].mean(dim=(-2, -1))


def disturbed_pairs(
    kind: Disturbance,
    *,
    config: VJEPAConfig,
    frame_step: int,
    num_pairs: int = 200,
    size: int = CorpusConfig.size,
    seed: int = 0,
) -> DisturbedPairs:
    """
    Renders scenes of the built-in corpus that are in neither of its splits, every motion and appearance as often as
    any other, and cuts clips out of them as the evaluation does (but for the video codec). The ends that are exchanged
    begin with a time step, so that no token spans frames of both clips.

    Args:
        kind: see the head of this module.
        config: geometry of the clips.
        frame_step: frames of the video from one frame of the clip to the next.
        num_pairs: a multiple of 40 has each pair of motion and appearance equally often.
        size: side of the rendered videos, in pixels.
        seed: of the corpus.

    Raises:
        ValueError: an unknown kind, numbers below 1, or clips of a single time step.
    """
    if kind not in DISTURBANCES:
        raise ValueError(f"kind={kind!r} is no disturbance: choose one of {', '.join(DISTURBANCES)}")
    for name, value in (("frame_step", frame_step), ("num_pairs", num_pairs)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    step = config.grid_size[0] // 2
    if step < 1:
        raise ValueError(
            f"clips of {config.frames_per_clip} frames have a single time step, which nothing precedes: use a model "
            f"of at least {2 * config.tubelet_size} frames"
        )
    cut = step * config.tubelet_size
    sets = [_natural_clips(kind, index, config, cut, frame_step, size=size, seed=seed) for index in range(num_pairs)]
    frames = torch.from_numpy(np.stack(sets)).permute(0, 1, 2, 5, 3, 4)
    cropped = resize_and_center_crop(frames.flatten(0, 2), size=config.crop_size)
    undisturbed = cropped.unflatten(0, frames.shape[:3])
    disturbed = torch.cat([undisturbed[:, :, :cut], undisturbed.flip(1)[:, :, cut:]], dim=2)
    return DisturbedPairs(kind, step, undisturbed, disturbed)


def _natural_clips(
    kind: Disturbance, index: int, config: VJEPAConfig, cut: int, frame_step: int, *, size: int, seed: int
) -> np.ndarray:
    """
    Two clips of one scene, uint8 (2, frames, size, size, 3). The last frame before the exchange, `cut` - 1, lies in
    the middle of the video: there a video that runs backwards shows the same picture.
    """
    frames = config.frames_per_clip
    start = (frames + 1 - 2 * cut) * frame_step  # never the first frame, which a disturbance leaves as it is
    scene = {
        "motion": MOTIONS[index % len(MOTIONS)],
        "appearance": APPEARANCES[index % len(APPEARANCES)],
        "seed": [seed, len(SPLITS), index],  # the splits have the numbers before
        "size": size,
        "num_frames": 2 * (frames - cut) * frame_step + 1,
    }
    video = render_clip(**scene)
    other = video[::-1] if kind == "reverse" else render_clip(**scene, disturb=kind, disturb_at=1)
    return np.stack([video[start::frame_step], other[start::frame_step]])


@torch.no_grad()
def measure_surprise(
    model: VJEPAForPreTraining,
    pairs: DisturbedPairs,
    *,
    processor: VJEPAVideoProcessor | None = None,
    batch_size: int = 64,
) -> Surprise:
    """
    The surprise of a frozen model over all clips of `pairs`. Runs on the model's device, in evaluation mode.

    Args:
        processor: gives mean and standard deviation of the pixels; ImageNet's by default.
        batch_size: clips at a time.
    """
    processor = VJEPAVideoProcessor.for_config(model.config) if processor is None else processor
    was_training = model.training
    model.eval()
    errors = []
    for clips in (pairs.undisturbed, pairs.disturbed):
        parts = [
            model.surprise(normalize_clips(part.to(model.device), mean=processor.image_mean, std=processor.image_std))
            for part in clips.flatten(0, 1).split(batch_size)
        ]
        errors.append(torch.cat(parts).cpu().unflatten(0, clips.shape[:2]))
    model.train(was_training)
    return Surprise(pairs, *errors)


def measure_disturbances(
    model: VJEPAForPreTraining,
    *,
    frame_step: int,
    processor: VJEPAVideoProcessor | None = None,
    num_pairs: int = 200,
    size: int = CorpusConfig.size,
    seed: int = 0,
) -> dict[Disturbance, Surprise]:
    """[`measure_surprise`] for every kind of disturbance; the arguments are those of [`disturbed_pairs`]."""
    geometry = {"config": model.config, "frame_step": frame_step, "num_pairs": num_pairs, "size": size, "seed": seed}
    return {
        kind: measure_surprise(model, disturbed_pairs(kind, **geometry), processor=processor) for kind in DISTURBANCES
    }


def pairwise_accuracy(hits: torch.Tensor) -> dict[str, float]:
    """
    How often the disturbed clips were found out.

    Args:
        hits: bool (pairs,): `hits` or `single_hits` of [`Surprise`].

    Returns:
        `pairs` and `correct`, counts, and the 95 % interval of their share from `low` to `high`, in percent (Wilson).
    """
    correct, total = int(hits.sum()), len(hits)
    low, high = accuracy_interval(correct, total)
    return {"pairs": total, "correct": correct, "low": 100 * low, "high": 100 * high}


def summarise(
    results: Mapping[str, Surprise], *, untrained: Mapping[str, Surprise] | None = None
) -> dict[str, dict[str, Any]]:
    """
    The accuracies by kind of disturbance, as JSON takes them: [`pairwise_accuracy`] of matched pairs, and under
    `single` that of single clips; with `untrained` results of the same pairs, under `untrained` the same of those.
    """
    summary = {}
    for kind, result in results.items():
        summary[kind] = {**pairwise_accuracy(result.hits), "single": pairwise_accuracy(result.single_hits)}
    if untrained is not None:
        for kind, entry in summarise(untrained).items():
            summary[kind]["untrained"] = entry
    return summary


def draw_surprise(results: Mapping[str, Surprise], *, config: VJEPAConfig, example: int = 0) -> Figure:
    """
    One row per kind of disturbance: the mean surprise of disturbed and undisturbed clips over time, with the 95 %
    interval of their difference within pairs; and beside it an undisturbed clip and the disturbed one that begins as
    it does, with their surprise over space and time.

    Args:
        results: by kind, as [`measure_disturbances`] gives them.
        config: geometry of the clips.
        example: number of the pair to show.

    Raises:
        ImportError: matplotlib is missing.
    """
    steps = config.grid_size[0]
    figure = new_figure(4.0 + 0.95 * steps + 0.9, 4.1 * len(results))
    rows = figure.subfigures(len(results), 1, squeeze=False)[:, 0]
    for row, (kind, result) in zip(rows, results.items(), strict=True):
        left, right = row.subfigures(1, 2, width_ratios=(4.0, 0.95 * steps + 0.9))
        accuracy = pairwise_accuracy(result.hits)
        share = accuracy["correct"] / accuracy["pairs"]
        left.suptitle(f"{kind}: {share:.0%} of {accuracy['pairs']} pairs", fontsize=11, fontweight="bold")
        _draw_curves(left.subplots(), result)
        axes = right.subplots(4, steps, squeeze=False)
        _draw_example(axes, result, config=config, example=example)
    return figure


def _draw_curves(axis: Axes, result: Surprise) -> None:
    # The two clips of a pair belong together: one value for both.
    curves = {name: getattr(result, name)[:, :, 1:].mean(dim=(1, 3, 4)) for name in _COLORS}
    steps = np.arange(1, result.disturbed.shape[2])
    for name, color in _COLORS.items():
        axis.plot(steps, curves[name].mean(dim=0), color=color, label=name, linewidth=1.6, marker="o", markersize=4)
    # Clips differ far more from each other than the two of a pair: an interval of the means would show nothing.
    difference = curves["disturbed"] - curves["undisturbed"]
    half = 1.96 * difference.std(dim=0, correction=0) / len(difference) ** 0.5
    mean, color = curves["disturbed"].mean(dim=0), _COLORS["disturbed"]
    label = "difference, 95 % interval"
    axis.fill_between(steps, mean - half, mean + half, color=color, alpha=0.25, linewidth=0, label=label)
    axis.axvline(result.pairs.step - 0.5, color="#555555", linewidth=1, linestyle="--")
    axis.set_xticks(steps)
    axis.set_xlabel("time step", fontsize=9)
    axis.set_ylabel("surprise (L1 error of the features)", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.25)
    axis.legend(fontsize=8, frameon=False, loc="upper right")


def _draw_example(axes: np.ndarray, result: Surprise, *, config: VJEPAConfig, example: int) -> None:
    """Frames and surprise of an undisturbed and a disturbed clip with the same beginning, (4, steps) axes."""
    shown = torch.cat([getattr(result, name)[example, 0, 1:].flatten() for name in _COLORS])
    limits = {"vmin": float(shown.min()), "vmax": float(shown.max())}
    for name, (frames, maps) in zip(_COLORS, (axes[:2], axes[2:]), strict=True):
        clip = getattr(result.pairs, name)[example, :1]
        draw_frames(frames, tubelet_frames(clip, config)[0], name)
        for axis, errors in zip(maps, getattr(result, name)[example, 0], strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if errors.isnan().all():
                axis.set_facecolor("#eeeeee")
                axis.set_aspect("equal")
                axis.text(0.5, 0.5, "nothing\nbefore", ha="center", va="center", fontsize=7, transform=axis.transAxes)
            else:
                axis.imshow(errors.numpy(), cmap="inferno", interpolation="nearest", **limits)
        maps[0].set_ylabel("surprise", rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for step, axis in enumerate(axes[0]):
        axis.set_title(f"step {step}", fontsize=8)


__all__ = [
    "DISTURBANCES",
    "Disturbance",
    "DisturbedPairs",
    "Surprise",
    "disturbed_pairs",
    "draw_surprise",
    "measure_disturbances",
    "measure_surprise",
    "pairwise_accuracy",
    "summarise",
]
