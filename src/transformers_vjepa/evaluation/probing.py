"""Frozen evaluation: grids of probes, and closed-form classifiers, on the features of an encoder."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import (
    POOLERS,
    VJEPAForVideoClassification,
    VJEPAPreTrainedModel,
    average_views,
)


def fit_read_out(kind: Literal["neighbours", "ridge"], features: torch.Tensor, labels: torch.Tensor) -> Any:
    """
    Fits a classifier of frozen features without a training loop, so that the accuracy does not depend on a budget or a
    learning rate. Features are standardised first.

    Args:
        kind: `"neighbours"`, a vote of the 10 nearest by cosine, weighted by the inverse distance; or `"ridge"`,
            linear regression on the classes with the penalty chosen by leave-one-out error.
        features: (clips, width).
        labels: (clips,) class indices.

    Returns:
        A fitted scikit-learn pipeline: `predict(features)` gives class indices.

    Raises:
        ValueError: an unknown kind.
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
        raise ValueError(f"unknown read-out kind={kind!r}: choose one of {', '.join(classifiers)}")
    return make_pipeline(StandardScaler(), classifiers[kind]()).fit(features.numpy(), labels.numpy())


@dataclass(frozen=True)
class ProbeSettings:
    """
    Settings of the optimizer that differ between the probes of a grid.

    Raises:
        ValueError: a value out of range.
    """

    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0 and finite")

    @property
    def name(self) -> str:
        """Name in logs, such as `lr0.001_wd0.01`."""
        return f"lr{self.learning_rate:g}_wd{self.weight_decay:g}"


def probe_settings(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[ProbeSettings]:
    """
    All pairs of a learning rate and a weight decay, without repetition, in ascending order of the learning rate.

    Raises:
        ValueError: no rate, no decay, or a value out of range.
    """
    if not learning_rates or not weight_decays:
        raise ValueError(
            f"a grid of {len(learning_rates)} learning rates and {len(weight_decays)} weight decays has no probe: "
            "give at least one of each"
        )
    return [ProbeSettings(rate, decay) for rate in sorted(set(learning_rates)) for decay in sorted(set(weight_decays))]


def probe_optimizer(name: Literal["lars", "sgd"]) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    """
    The optimizers of published linear probes: `"lars"` (arXiv 1708.03888; I-JEPA, appendix A.2, on ImageNet) and
    `"sgd"` with Nesterov's momentum (the VISSL recipes of the same appendix), both with momentum 0.9. LARS adapts the
    rate of weights, and not that of biases, as in MAE (arXiv 2111.06377, appendix A.1).

    Returns:
        From the groups of [`ProbeGrid.parameter_groups`] to an optimizer.

    Raises:
        ImportError: timm is missing, for `"lars"`.
    """
    if name == "sgd":
        return partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    try:
        from timm.optim import Lars
    except ImportError as error:
        raise ImportError("LARS needs timm: pip install transformers_vjepa[probe]") from error

    def lars(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        adapted = [{**group, "always_adapt": all(it.ndim > 1 for it in group["params"])} for group in groups]
        return Lars(adapted, momentum=0.9)

    return lars


@dataclass
class ProbeGridOutput(ModelOutput):
    """
    Output of [`ProbeGrid`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): with labels, the sum over probes of the mean cross-entropy
            over clips and views. Probes share no parameter, so each learns as it would alone.
        logits (`torch.Tensor` of shape `(batch, probes, num_labels)`): of one view the classifier's; of several views
            the logarithm of the mean of their probabilities.
        probe_losses (`torch.Tensor` of shape `(probes,)`, *optional*): the terms of `loss`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    probe_losses: torch.Tensor | None = None


class Probe(nn.Module):
    """A pooler and a linear classifier, named as in [`VJEPAForVideoClassification`]."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.pooler = POOLERS[config.pooling](config)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From tokens (batch, views, tokens, pooled_size) to logits of every view, (batch, views, num_labels)."""
        return self.classifier(self.pooler(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2])


class ProbeGrid(VJEPAPreTrainedModel):
    """
    Probes with equal initial weights and different learning rates or weight decays, trained in one pass over the same
    features. Most of the cost of a probe is to read or compute the features, so several cost little more than one.

    Args:
        config: geometry, `pooling`, `num_pooled_layers`, `num_pooler_layers` and `num_labels` of every probe.
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
        # Copies, so that the initial weights of a probe do not depend on the size of the grid.
        self.probes.extend(copy.deepcopy(self.probes[0]) for _ in self.settings[1:])

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> ProbeGridOutput:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, views, tokens, pooled_size)`): encoder tokens; a mean over
                tokens, `(batch, views, pooled_size)`, counts as one token.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): class indices; the loss ignores -100.
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
        Parameter groups for one optimizer: two per probe, with and without weight decay. Biases and other vectors do
        not decay; the query of the attentive pooler, which has three axes, decays as published.
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
        """Copies the pooler and classifier of a probe into `model`."""
        model.pooler.load_state_dict(self.probes[probe].pooler.state_dict())
        model.classifier.load_state_dict(self.probes[probe].classifier.state_dict())


def selection_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """
    The score that probes, and on request checkpoints, are chosen by: accuracy, and among equal accuracies the lower
    cross-entropy. The score is `(correct + exp(-cross_entropy) / 2) / clips`; the second term never outweighs one more
    correct clip.

    Args:
        logits: (clips, classes).
        labels: (clips,).
    """
    correct = int((torch.from_numpy(logits).double().argmax(dim=-1) == torch.from_numpy(labels)).sum())
    return (correct + math.exp(-cross_entropy(logits, labels)) / 2) / len(labels)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats, in double precision, of logits (clips, classes) and labels (clips,)."""
    return nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels)).item()


def best_probe(scores: Sequence[float], settings: Sequence[ProbeSettings]) -> int:
    """Index of the probe with the highest score; among equal scores the lowest learning rate, then weight decay."""
    ranks = [(-score, probe.learning_rate, probe.weight_decay) for score, probe in zip(scores, settings, strict=True)]
    return ranks.index(min(ranks))
