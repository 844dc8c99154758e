"""Four classifiers on frozen features that fit into memory: what do the features contain?"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from ..data.splits import stratified_fraction, stratified_split
from ..evaluation.probing import ProbeGrid, ProbeSettings, best_probe, fit_read_out, probe_settings, selection_score
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

ReadOut = Literal["ridge", "neighbours", "attentive", "mean"]

#: Closed-form read-outs use features averaged over space at each time step; probes use all tokens.
CLOSED_FORM = ("ridge", "neighbours")
PROBES = ("attentive", "mean")

# One of these rates is selected on held-out labelled clips.
_LEARNING_RATES = (3e-4, 1e-3, 3e-3)
_WEIGHT_DECAY = 0.01
_HELD_OUT = 0.25
_BATCH = 128
_WARMUP_STEPS = 20
# A probe that stops too early makes good features look bad.
_LEAST_EPOCHS = 40


@torch.no_grad()  # not inference mode: probes train on these tensors
def encode_clips(
    model: VJEPAModel, clips: torch.Tensor, *, processor: VJEPAVideoProcessor | None = None, batch_size: int = 100
) -> torch.Tensor:
    """
    Encoder tokens of clips.

    Args:
        model: the frozen encoder; it runs on its own device.
        clips: uint8 (clips, frames, height, width, 3), from [`~data.evaluation_clips.read_evaluation_clips`].
        processor: has the mean and the standard deviation of the pixels; ImageNet's by default.
        batch_size: clips at a time.

    Returns:
        float32 (clips, time, cells, hidden_size) on the CPU: the cells of a time step in the order height, width.
    """
    processor = VJEPAVideoProcessor.for_config(model.config) if processor is None else processor
    model.eval()
    time_steps = clips.shape[1] // model.config.tubelet_size
    features = []
    for part in clips.split(batch_size):
        pixels = part.permute(0, 1, 4, 2, 3).to(model.device)
        pixels = normalize_clips(pixels, mean=processor.image_mean, std=processor.image_std)
        features.append(model.get_vision_features(pixels).float().cpu().unflatten(1, (time_steps, -1)))
    return torch.cat(features)


def time_means(features: torch.Tensor) -> torch.Tensor:
    """(clips, time, cells, width) -> (clips, time * width): means over space keep the order of events, not places."""
    return features.mean(dim=2).flatten(1)


def labelled_subset(labels: Sequence[int], *, count: int, seed: int) -> np.ndarray:
    """
    Indices of about `count` clips, ascending: the same share of every class, rounded half up. With one seed, a smaller
    subset is part of every larger one.

    Args:
        labels: class of every clip.
        count: from 1 to the number of clips.

    Raises:
        ValueError: `count` is out of range, or a class gets no clip.
    """
    if not 1 <= count <= len(labels):
        raise ValueError(f"count={count} labelled clips must lie in [1, {len(labels)}], the number of clips")
    return stratified_fraction(labels, fraction=count / len(labels), seed=seed)


def read_out(
    kind: ReadOut,
    train_features: torch.Tensor,
    train_labels: np.ndarray,
    test_features: torch.Tensor,
    test_labels: np.ndarray,
    *,
    seed: int,
    probe_steps: int = 400,
) -> np.ndarray:
    """
    The test clips that a classifier of frozen features gets right: bool (test clips,).

    Args:
        kind: `"ridge"` or `"neighbours"` of [`~evaluation.probing.fit_read_out`], on means over space at
            each time step; or an `"attentive"` or `"mean"` pooling probe on all tokens (see [`fit_probe`]).
        train_features, test_features: (clips, time, cells, width) from [`encode_clips`]; for the closed forms also
            (clips, values).
        train_labels, test_labels: int64 (clips,).
        seed: of the first weights, batches and held-out clips of a probe; the closed forms are deterministic.
        probe_steps: least number of steps of a probe.

    Raises:
        ValueError: an unknown kind.
        ImportError: scikit-learn, which the closed forms need, is missing.
    """
    if kind in PROBES:
        tokens, test_tokens = train_features.flatten(1, 2), test_features.flatten(1, 2)
        probe = fit_probe(kind, tokens, train_labels, seed=seed, steps=probe_steps)
        return _logits(probe, test_tokens)[:, 0].argmax(axis=1) == test_labels
    if kind not in CLOSED_FORM:
        raise ValueError(f"unknown read-out kind={kind!r}: choose one of {', '.join((*CLOSED_FORM, *PROBES))}")
    means = [time_means(part) if part.ndim == 4 else part for part in (train_features, test_features)]
    fitted = fit_read_out(kind, means[0], torch.from_numpy(train_labels))
    return fitted.predict(means[1].numpy()) == test_labels


def fit_probe(
    kind: Literal["attentive", "mean"], tokens: torch.Tensor, labels: np.ndarray, *, seed: int, steps: int = 400
) -> ProbeGrid:
    """
    A grid of one probe, at the best of several learning rates. Probes of all rates are trained on three quarters of
    the clips; the last quarter selects the rate; then a new probe is trained on all clips. AdamW, a cosine schedule,
    and 40 passes over the clips, but at least `steps` steps.

    Args:
        kind: pooling of the tokens.
        tokens: float32 (clips, tokens, width).
        labels: int64 (clips,), at least two clips of every class.
        seed: of the first weights, the batches and the held-out quarter.
        steps: least number of steps.

    Raises:
        ValueError: a class has one clip only.
    """
    kept, held_out = stratified_split(labels, fraction=_HELD_OUT, seed=seed)
    settings = probe_settings(_LEARNING_RATES, [_WEIGHT_DECAY])
    grid = _train(kind, tokens[kept], labels[kept], settings, seed=seed, steps=steps)
    logits = _logits(grid, tokens[held_out])
    scores = [selection_score(logits[:, index], labels[held_out]) for index in range(len(settings))]
    chosen = settings[best_probe(scores, settings)]
    return _train(kind, tokens, labels, [chosen], seed=seed, steps=steps)


def _train(
    kind: Literal["attentive", "mean"],
    tokens: torch.Tensor,
    labels: np.ndarray,
    settings: Sequence[ProbeSettings],
    *,
    seed: int,
    steps: int,
) -> ProbeGrid:
    """Trains all probes of `settings` together; with one seed, each is trained as it would be alone."""
    heads = next(heads for heads in (4, 3, 2, 1) if tokens.shape[-1] % heads == 0)  # of the attentive pooler
    sizes = {"hidden_size": tokens.shape[-1], "num_attention_heads": heads, "num_labels": int(labels.max()) + 1}
    config = VJEPAConfig(pooling=kind, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grid = ProbeGrid(config, settings).train()
    targets = torch.from_numpy(labels)
    batch = min(len(tokens), _BATCH)
    steps = max(steps, math.ceil(_LEAST_EPOCHS * len(tokens) / batch))
    generator = torch.Generator().manual_seed(seed)

    def loss_of_step(_: int) -> torch.Tensor:
        rows = torch.randperm(len(tokens), generator=generator)[:batch]
        return grid(tokens[rows][:, None], targets[rows]).loss

    optimizer = torch.optim.AdamW(grid.parameter_groups(), fused=True)
    minimise(loss_of_step, optimizer, steps=steps, warmup=_WARMUP_STEPS)
    return grid.eval()


def minimise(
    loss_of_step: Callable[[int], torch.Tensor], optimizer: torch.optim.Optimizer, *, steps: int, warmup: int
) -> None:
    """Takes `steps` optimizer steps; the learning rate rises for `warmup` steps, and falls to 0 like a cosine."""
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for step in range(steps):
        loss = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def _logits(grid: ProbeGrid, tokens: torch.Tensor) -> np.ndarray:
    """(clips, probes, classes)."""
    return torch.cat([grid(part[:, None]).logits for part in tokens.split(400)]).numpy()
