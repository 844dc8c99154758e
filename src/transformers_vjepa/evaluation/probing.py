"""Frozen evaluation: what can be read off the features of an encoder that is not trained further."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from ..data.clip_reading import BrokenVideoMonitor
from ..data.corpora import open_corpus
from ..data.evaluation_clips import EvaluationClips, collate_evaluation_clips
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import POOLERS, VJEPAForVideoClassification, VJEPAModel, VJEPAPreTrainedModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor


@torch.inference_mode()
def extract_time_means(
    model: VJEPAModel,
    source: str,
    *,
    sampling: ClipSampling,
    processor: VJEPAVideoProcessor | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    max_broken_share: float = 0.05,
    progress: bool = True,
) -> tuple[torch.Tensor, list[str]]:
    """
    Features of the centred clip of every video of a local corpus: the encoder tokens averaged over space at
    each time step, so that the order of events stays readable.

    Args:
        model: the frozen encoder; runs on its own device.
        source: a folder or index, as [`~data.corpora.open_corpus`] takes it.
        sampling: which frames make a clip.
        processor: gives mean and standard deviation of the pixels; ImageNet's by default.
        max_broken_share: see [`~data.streaming.clip_stream`]; broken videos are left out.

    Returns:
        float32 (videos, time steps * hidden_size) on the CPU, and the path of each video.

    Raises:
        FileNotFoundError, ValueError: see [`~data.corpora.open_corpus`]; no video can be read.
    """
    config = model.config
    processor = VJEPAVideoProcessor.for_config(config) if processor is None else processor
    clips = EvaluationClips(open_corpus(source), crop_size=config.crop_size, sampling=sampling)
    loader = DataLoader(clips, batch_size, num_workers=num_workers, collate_fn=collate_evaluation_clips)
    monitor = BrokenVideoMonitor(max_broken_share)
    features, paths = [], []
    model.eval()
    for batch in tqdm(loader, desc="features", unit="batch", disable=not progress):
        for _, path, error in batch["broken"]:
            monitor.failed(path, error)
        if batch["pixel_values_videos"] is None:
            continue
        pixels = batch["pixel_values_videos"].flatten(0, 2).to(model.device)
        pixels = normalize_clips(pixels, mean=processor.image_mean, std=processor.image_std)
        tokens = model.get_vision_features(pixels)
        steps = tokens.unflatten(1, (config.grid_size[0], -1)).mean(dim=2)
        features.append(steps.flatten(1).float().cpu())
        paths += batch["path"]
    if not features:
        raise ValueError(f"none of the {len(clips)} videos of {source} can be read: see the warnings for the reasons")
    return torch.cat(features), paths


def fit_read_out(kind: Literal["neighbours", "ridge"], features: torch.Tensor, labels: torch.Tensor) -> Any:
    """
    A classifier of frozen features that needs no training loop, so that no budget or learning rate can make an
    encoder look better or worse than it is. Features are standardised first.

    Args:
        kind: `"neighbours"`, a vote of the 10 nearest by cosine, weighted by their nearness; or `"ridge"`, linear
            regression on the classes with the penalty chosen by leave-one-out error.
        features: (clips, width).
        labels: (clips,) class indices.

    Returns:
        A fitted scikit-learn pipeline: `predict(features)` gives class indices.

    Raises:
        ValueError: another kind.
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("read-outs need scikit-learn: pip install transformers_vjepa[probe]") from error
    classifiers = {
        "neighbours": lambda: KNeighborsClassifier(n_neighbors=10, metric="cosine", weights="distance"),
        "ridge": lambda: RidgeClassifierCV(alphas=[10.0**power for power in range(-2, 6)]),
    }
    if kind not in classifiers:
        raise ValueError(f"kind={kind!r} is no read-out: choose one of {', '.join(classifiers)}")
    return make_pipeline(StandardScaler(), classifiers[kind]()).fit(features.numpy(), labels.numpy())


@dataclass(frozen=True)
class ProbeSettings:
    """What the optimizer of one probe of a grid differs in."""

    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0 and finite")

    @property
    def name(self) -> str:
        """For logs, such as `lr0.001_wd0.01`."""
        return f"lr{self.learning_rate:g}_wd{self.weight_decay:g}"


def probe_settings(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[ProbeSettings]:
    """
    Every pair of a learning rate and a weight decay, each once, from the lowest learning rate up.

    Raises:
        ValueError: no rate, no decay, or a value out of range.
    """
    if not learning_rates or not weight_decays:
        raise ValueError(
            f"a grid of {len(learning_rates)} learning rates and {len(weight_decays)} weight decays has no probe: "
            "give at least one of each"
        )
    return [ProbeSettings(rate, decay) for rate in sorted(set(learning_rates)) for decay in sorted(set(weight_decays))]


@dataclass
class ProbeGridOutput(ModelOutput):
    """
    Output of [`ProbeGrid`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): where labels are given; the sum over probes of the mean
            cross-entropy over clips and views. Probes share no parameter, so each learns as it would alone.
        logits (`torch.Tensor` of shape `(batch, probes, num_labels)`): for one view the classifier's; for several,
            the logarithm of the mean of their probabilities.
        probe_losses (`torch.Tensor` of shape `(probes,)`, *optional*): the terms of `loss`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    probe_losses: torch.Tensor | None = None


class Probe(nn.Module):
    """A pooler and a linear classifier, under the names they have in [`VJEPAForVideoClassification`]."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.pooler = POOLERS[config.pooling](config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` (batch, views, tokens, hidden_size): logits of every view, (batch, views, num_labels)."""
        return self.classifier(self.pooler(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2])


class ProbeGrid(VJEPAPreTrainedModel):
    """
    Probes with equal initial weights, trained in one pass over the same features with a learning rate and weight
    decay each: reading or computing the features is what a probe costs, so several cost little more than one.

    Args:
        config: geometry, `pooling`, `num_pooler_layers` and `num_labels` of every probe.
        settings: one entry per probe.

    Raises:
        ValueError: no settings.
    """

    main_input_name = "features"

    def __init__(self, config: VJEPAConfig, settings: Sequence[ProbeSettings]):
        super().__init__(config)
        if not settings:
            raise ValueError("a grid of 0 probes has nothing to train: give at least one ProbeSettings")
        self.settings = tuple(settings)
        self.probes = nn.ModuleList([Probe(config)])
        self.post_init()
        # Copies, so that a probe starts as it would alone, whatever the size of the grid.
        self.probes.extend(copy.deepcopy(self.probes[0]) for _ in self.settings[1:])

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> ProbeGridOutput:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, views, tokens, hidden_size)`): encoder tokens; a mean over
                tokens, `(batch, views, hidden_size)`, counts as one token.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): class indices; -100 is left out of the loss.
        """
        tokens = features.unsqueeze(2) if features.ndim == 3 else features
        tokens = tokens.to(self.probes[0].classifier.weight.dtype)
        view_logits = [probe(tokens).float() for probe in self.probes]
        logits = torch.stack([average_views(logits) for logits in view_logits], dim=1)
        if labels is None:
            return ProbeGridOutput(logits=logits)
        targets = labels.repeat_interleave(tokens.shape[1])
        losses = [nn.functional.cross_entropy(logits.flatten(0, 1), targets) for logits in view_logits]
        return ProbeGridOutput(loss=sum(losses), logits=logits, probe_losses=torch.stack(losses).detach())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """
        For one optimizer: two groups per probe, with and without weight decay. Biases and other vectors do not
        decay; the query of the attentive pooler, which has three axes, does, as published.
        """
        groups = []
        for probe, settings in zip(self.probes, self.settings, strict=True):
            for decays in (True, False):
                chosen = [value for value in probe.parameters() if (value.ndim > 1) is decays]
                weight_decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": settings.learning_rate, "weight_decay": weight_decay})
        return groups

    @torch.no_grad()
    def write_into(self, model: VJEPAForVideoClassification, probe: int) -> None:
        """Puts the pooler and classifier of a probe in the place of those of `model`."""
        model.pooler.load_state_dict(self.probes[probe].pooler.state_dict())
        model.classifier.load_state_dict(self.probes[probe].classifier.state_dict())


def average_views(view_logits: torch.Tensor) -> torch.Tensor:
    """(batch, views, classes) -> (batch, classes): logarithm of the mean probability; a single view as it is."""
    if view_logits.shape[1] == 1:
        return view_logits.squeeze(1)
    return view_logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(view_logits.shape[1])


def selection_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """
    What probes, and on request checkpoints, are chosen by: accuracy, and among equal accuracies the lower
    cross-entropy. It is `(correct + exp(-cross_entropy) / 2) / clips`, where the second term never outweighs one more
    correct clip.

    Args:
        logits: (clips, classes).
        labels: (clips,).
    """
    right, loss = _correct_and_loss(logits, labels)
    return (right + math.exp(-loss) / 2) / len(labels)


def _correct_and_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    scores, targets = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    loss = nn.functional.cross_entropy(scores, targets).item()
    return int((scores.argmax(dim=-1) == targets).sum()), loss


def best_probe(scores: Sequence[float], settings: Sequence[ProbeSettings]) -> int:
    """The probe of the highest score; among equal ones that of the lowest learning rate, then weight decay."""
    ranks = [(-score, probe.learning_rate, probe.weight_decay) for score, probe in zip(scores, settings, strict=True)]
    return ranks.index(min(ranks))


__all__ = [
    "Probe",
    "ProbeGrid",
    "ProbeGridOutput",
    "ProbeSettings",
    "average_views",
    "best_probe",
    "extract_time_means",
    "fit_read_out",
    "probe_settings",
    "selection_score",
]
