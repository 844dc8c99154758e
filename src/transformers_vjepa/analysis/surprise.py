"""
Does the predictor notice an impossible event? In the middle of a clip something impossible happens, and the prediction
error should rise.

The surprise of a time step is the error of its prediction from the preceding steps ([`VJEPAForPreTraining.surprise`]).
The surprise also depends on the content of the step: an empty step is always easy. So clips are compared in matched
sets, in which the same steps occur in disturbed and undisturbed clips (Riochet et al., "IntPhys", arXiv 1803.07616).
Two undisturbed clips

```
    a    a0 a1 | a2 a3        b    b0 b1 | b2 b3
```

exchange their ends: "a0 a1 | b2 b3" and "b0 b1 | a2 a3" are disturbed. Both clips show one scene; in `b` the shapes
are elsewhere (`"jump"`), missing (`"vanish"`; the exchange also makes shapes appear), or move backwards (`"reverse"`).
At the first step after the exchange, disturbed and undisturbed clips have the same targets, so only the prediction can
tell them apart. A set counts as right if the two disturbed clips together have the larger surprise at that step. By
chance 50 % are right. This also holds for untrained models on average over their seeds, but not for every single one,
because all sets of a kind are similar: report the figure of an untrained model beside that of the trained one.

A reversal is the hardest kind: the clip returns to where it has just been. A predictor that expects no motion is less
surprised by a reversal than by the normal continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from ..data.synthetic import APPEARANCES, MOTIONS, SPLITS, CorpusConfig, render_clip
from ..evaluation.statistics import accuracy_interval
from ..figures.charts import Curve, curves
from ..figures.images import draw_heat, heat_limits, middle_frames
from ..models.vjepa.clip_transforms import normalize_clips, resize_and_center_crop
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Disturbance = Literal["jump", "vanish", "reverse"]
DISTURBANCES: tuple[Disturbance, ...] = get_args(Disturbance)


@dataclass(frozen=True)
class DisturbedPairs:
    """
    Pairs of clips, and the same clips with exchanged ends.

    Attributes:
        kind: the impossible event in the disturbed clips.
        step: first time step of the token grid after the exchange.
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
        """Whether the disturbed clips of a pair together have the larger surprise: bool (pairs,)."""
        return self._at_the_step(self.disturbed).sum(dim=1) > self._at_the_step(self.undisturbed).sum(dim=1)

    @property
    def single_hits(self) -> torch.Tensor:
        """
        Whether the first disturbed clip of a pair has a larger surprise than the undisturbed clip with the same
        beginning: bool (pairs,). Here the compared steps have different targets.
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
) -> DisturbedPairs:
    """
    Renders scenes of the built-in corpus that are in neither of its splits, with every motion and appearance equally
    often, and cuts clips as the evaluation does, but without a video codec. The exchanged ends begin with a time step,
    so no token spans frames of both clips.

    Args:
        kind: see the docstring of this module.
        config: geometry of the clips.
        frame_step: frames of the video from one frame of the clip to the next.
        num_pairs: a multiple of 40 gives each combination of motion and appearance equally often.
        size: side of the rendered videos, in pixels.

    Raises:
        ValueError: an unknown kind, a number below 1, or clips of a single time step.
    """
    if kind not in DISTURBANCES:
        raise ValueError(f"unknown disturbance kind={kind!r}: choose one of {', '.join(DISTURBANCES)}")
    for name, value in {"frame_step": frame_step, "num_pairs": num_pairs}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    step = config.grid_size[0] // 2
    if step < 1:
        raise ValueError(
            f"clips of {config.frames_per_clip} frames have a single time step, so no step precedes another: use a "
            f"model of at least {2 * config.tubelet_size} frames"
        )
    cut = step * config.tubelet_size
    # Two clips of one scene; the last frame before the exchange, `cut` - 1, lies in the middle of the video, where the
    # reversed video shows the same image. The first frame, which a disturbance does not change, is left out.
    start = (config.frames_per_clip + 1 - 2 * cut) * frame_step
    length = 2 * (config.frames_per_clip - cut) * frame_step + 1
    sets = []
    for index in range(num_pairs):
        look = {"motion": MOTIONS[index % len(MOTIONS)], "appearance": APPEARANCES[index % len(APPEARANCES)]}
        seed = [0, len(SPLITS), index]  # the splits use the smaller numbers
        scene = partial(render_clip, **look, seed=seed, size=size, num_frames=length)
        video = scene()
        other = video[::-1] if kind == "reverse" else scene(disturb=kind, disturb_at=1)
        sets.append(np.stack([video[start::frame_step], other[start::frame_step]]))
    frames = torch.from_numpy(np.stack(sets)).permute(0, 1, 2, 5, 3, 4)
    cropped = resize_and_center_crop(frames.flatten(0, 2), size=config.crop_size)
    undisturbed = cropped.unflatten(0, frames.shape[:3])
    disturbed = torch.cat([undisturbed[:, :, :cut], undisturbed.flip(1)[:, :, cut:]], dim=2)
    return DisturbedPairs(kind, step, undisturbed, disturbed)


@torch.no_grad()
def measure_surprise(
    model: VJEPAForPreTraining,
    pairs: DisturbedPairs,
    *,
    processor: VJEPAVideoProcessor | None = None,
    batch_size: int = 64,
) -> Surprise:
    """
    The surprise of a frozen model over all clips of `pairs`. The model runs on its device, in evaluation mode.

    Args:
        processor: has the mean and the standard deviation of the pixels; ImageNet's by default.
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
    models: Mapping[str, VJEPAForPreTraining],
    *,
    frame_step: int,
    num_pairs: int,
    size: int = CorpusConfig.size,
    processor: VJEPAVideoProcessor | None = None,
) -> dict[str, dict[Disturbance, Surprise]]:
    """
    [`measure_surprise`] of several models with one geometry, on the same clips of every kind of disturbance. For the
    other arguments see [`disturbed_pairs`].
    """
    given = {"frame_step": frame_step, "num_pairs": num_pairs, "size": size}
    pairs = [disturbed_pairs(kind, config=next(iter(models.values())).config, **given) for kind in DISTURBANCES]
    return {
        name: {clips.kind: measure_surprise(model, clips, processor=processor) for clips in pairs}
        for name, model in models.items()
    }


def pairwise_accuracy(hits: torch.Tensor) -> dict[str, float]:
    """
    How often the disturbed clips were recognised.

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
    The accuracies by kind of disturbance, for JSON: [`pairwise_accuracy`] of matched pairs, and under `single` that of
    single clips. If `untrained` results of the same pairs are given, their accuracies are under `untrained`.
    """
    summary = {}
    for kind, result in results.items():
        summary[kind] = {**pairwise_accuracy(result.hits), "single": pairwise_accuracy(result.single_hits)}
    if untrained is not None:
        for kind, entry in summarise(untrained).items():
            summary[kind]["untrained"] = entry
    return summary


def draw_surprise_curves(result: Surprise, *, config: VJEPAConfig) -> Figure:
    """
    The mean surprise of undisturbed and disturbed clips over time, with the 95 % interval of their difference within
    pairs; a dashed line marks the exchange. An ImportError if matplotlib is missing.
    """
    # One value for the two clips of a pair, which are not independent.
    clips, disturbed = (errors[:, :, 1:].mean(dim=(1, 3, 4)) for errors in (result.undisturbed, result.disturbed))
    # Clips differ more from each other than the two of a pair: an interval of the means would hide the difference.
    half = 1.96 * (disturbed - clips).std(dim=0, correction=0) / len(clips) ** 0.5
    mean, steps = disturbed.mean(dim=0), middle_frames(config)[1:]
    lines = [
        Curve("undisturbed", "vjepa", steps, clips.mean(dim=0).numpy()),
        Curve("disturbed", "pixels", steps, mean.numpy(), ((mean - half).numpy(), (mean + half).numpy())),
    ]
    accuracy = pairwise_accuracy(result.hits)
    title = f"{result.pairs.kind}: {accuracy['correct'] / accuracy['pairs']:.0%} of {accuracy['pairs']} pairs"
    exchange = result.pairs.step * config.tubelet_size - 0.5
    return curves(lines, title=title, xlabel="frame of the clip", ylabel="mean L1 error", vertical=exchange)


def draw_surprise_example(result: Surprise, *, config: VJEPAConfig) -> Figure:
    """The first undisturbed clip and the disturbed clip with the same beginning, with their surprise."""
    shown = {name: getattr(result, name)[0, 0] for name in ("undisturbed", "disturbed")}
    clips = [(name, getattr(result.pairs, name)[0, 0], {"surprise": errors}) for name, errors in shown.items()]
    limits = heat_limits(torch.stack(list(shown.values())))
    return draw_heat(clips, limits=limits, config=config)
