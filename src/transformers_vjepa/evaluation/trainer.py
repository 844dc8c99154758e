"""Training of classifiers: probes on a frozen encoder, several at once, or the whole network (fine-tuning)."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import TrainerCallback
from transformers.hf_argparser import HfArg
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalPrediction
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..data.corpus import NO_LABEL
from ..data.streaming import StreamPosition
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.sanitizing import log_line
from ..training.arguments import StreamTrainingArguments
from ..training.checkpoints import check_before_loading, damaged_weights, read_state, run_of, trained_steps
from ..training.sharding import fsdp_version
from ..training.stream_trainer import DivergedError, StreamTrainer, check_kind
from .metrics import classification_metrics
from .probing import (
    ProbeGrid,
    ProbeSettings,
    best_probe,
    cross_entropy,
    probe_optimizer,
    probe_settings,
    selection_score,
)

logger = logging.get_logger(__name__)

#: Label of clips whose video is broken. Losses and metrics ignore them.
IGNORED = -100

_BLOCK = re.compile(r"^vjepa\.encoder\.layer\.(\d+)\.")
# More evaluations and checkpoints than this would take longer than a small training itself.
_MAX_EVALUATIONS = 20


class UnusableSplitError(ValueError):
    """None of the videos of a split can be read."""


@dataclass
class VJEPAClassificationArguments(StreamTrainingArguments):
    """
    Arguments of [`VJEPAClassificationTrainer`]: those of [`~transformers.TrainingArguments`] with other defaults, and
    some more. Probes take `learning_rates` and `weight_decays`; fine-tuning takes `learning_rate`, `weight_decay`,
    `layer_decay`, `label_smoothing_factor`, `mixup` and `cutmix`.
    """

    # Changed defaults.
    output_dir: str | None = HfArg(default="outputs/classifier", help="Output folder of the run.")
    per_device_train_batch_size: int = HfArg(default=32, help="Clips of a step on each device.")
    learning_rate: float = HfArg(default=5e-4, help="Fine-tuning: peak learning rate of the head.")
    weight_decay: float = HfArg(default=0.05, help="Fine-tuning: weight decay of all weights but vectors.")
    num_train_epochs: float = HfArg(default=50.0, help="Least number of passes over the training clips.")
    lr_scheduler_type: str = HfArg(default="cosine", help="Schedule of all learning rates.")
    warmup_steps: float = HfArg(default=0.1, help="Steps of linear warm-up; below 1 a share of all steps.")
    max_grad_norm: float = HfArg(default=1.0, help="Clip gradients to this norm, for each probe separately.")
    label_smoothing_factor: float = HfArg(default=0.0, help="Fine-tuning: label smoothing.")
    load_best_model_at_end: bool = HfArg(
        default=False,
        help="End with the checkpoint that was best on the validation clips, instead of the last one. With few clips, "
        "the best one is a matter of luck.",
    )

    min_steps: int = HfArg(
        default=1000, help="Least number of optimizer steps, also with few clips; --max_steps overrides it."
    )
    learning_rates: list[float] = HfArg(
        default_factory=lambda: [1e-4, 3e-4, 1e-3, 3e-3],
        help="Probes: learning rates, all trained in one run; the best on the validation clips is kept.",
    )
    weight_decays: list[float] = HfArg(
        default_factory=lambda: [0.01], help="Probes: weight decays; each is combined with every learning rate."
    )
    probe_optimizer: Literal["adamw", "lars", "sgd"] = HfArg(
        default="adamw",
        help="Probes: AdamW, or with momentum 0.9 LARS (needs timm) or SGD with Nesterov's momentum.",
    )
    base_batch_size: int | None = HfArg(
        default=None,
        help="The learning rates are for steps of this number of clips: they are multiplied by the clips of a step "
        "and divided by this number. Default: the rates are taken as they are.",
    )
    lr_milestones: list[float] = HfArg(
        default_factory=list,
        help="Epochs after which all learning rates are divided by 10, such as 15 30 45; in place of "
        "--lr_scheduler_type.",
    )
    layer_decay: float = HfArg(
        default=0.75,
        help="Fine-tuning: factor of the learning rate from each block to the previous one. The final norm and the "
        "head have the full rate, the embeddings the lowest.",
    )
    mixup: float = HfArg(default=0.0, help="Fine-tuning: alpha of mixup (published: 0.8). 0: none.")
    cutmix: float = HfArg(
        default=0.0, help="Fine-tuning: alpha of CutMix; with mixup, each batch uses one of the two. 0: none."
    )

    def __post_init__(self) -> None:
        if self.load_best_model_at_end:  # the base class wants equal strategies, before `lay_out_steps` sets them
            self.eval_strategy, self.eval_steps = self.save_strategy, self.save_steps
        super().__post_init__()
        if fsdp_version(self) is not None:
            raise ValueError(
                f"fsdp_version={fsdp_version(self)}: classifiers cannot be sharded; run vjepa recipes multi_gpu, then "
                "accelerate launch --config_file multi_gpu.yaml"
            )
        self.check_ranges(
            layer_decay=(1e-6, 1.0),
            mixup=(0.0, math.inf),
            cutmix=(0.0, math.inf),
            label_smoothing_factor=(0.0, 1.0),
            min_steps=(0, math.inf),
        )
        if self.base_batch_size is not None:
            self.check_ranges(base_batch_size=(1, math.inf))
        milestones = list(self.lr_milestones)
        if milestones != sorted(set(milestones)) or any(not 0 < it < self.num_train_epochs for it in milestones):
            raise ValueError(
                f"lr_milestones={milestones} must be ascending epochs, above 0 and below num_train_epochs="
                f"{self.num_train_epochs:g}"
            )

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied by: the linear scaling rule (arXiv 1706.02677), or 1."""
        return 1.0 if self.base_batch_size is None else self.clips_per_step / self.base_batch_size

    def probe_settings(self) -> list[ProbeSettings]:
        """
        The probes of a run, see [`~evaluation.probing.probe_settings`], with the learning rates of its steps.

        Raises:
            ValueError: no rate, no decay, or a value out of range.
        """
        return probe_settings([rate * self.rate_factor for rate in self.learning_rates], self.weight_decays)

    def lay_out_steps(self, *, num_clips: int, has_validation: bool) -> int:
        """
        Sets `max_steps`, and when to evaluate and save, from the number of training clips; streams count steps and not
        epochs. With validation clips, the run evaluates after every epoch, but at most 20 times. The run ends with the
        last weights, at the end of the learning rate schedule, as in the published evaluations, because the best of
        many evaluations on few clips is a matter of luck. `load_best_model_at_end` takes the best weights instead.

        Returns:
            Steps of an epoch.

        Raises:
            ValueError: `load_best_model_at_end` without validation clips or without checkpoints.
        """
        if self.load_best_model_at_end and (not has_validation or self.save_strategy == "no"):
            lacking = "checkpoints: leave out --save_strategy" if has_validation else "validation clips: give some"
            raise ValueError(f"load_best_model_at_end=True needs {lacking}, or leave it at False")
        epoch = math.ceil(num_clips / self.clips_per_step)
        if self.max_steps <= 0:
            self.max_steps = max(math.ceil(self.num_train_epochs * epoch), self.min_steps)
        self.save_steps = min(max(epoch, math.ceil(self.max_steps / _MAX_EVALUATIONS)), self.max_steps)
        self.save_strategy = "steps" if self.save_strategy != "no" else "no"
        self.eval_strategy, self.eval_steps = "steps" if has_validation else "no", self.save_steps
        if has_validation:
            self.metric_for_best_model, self.greater_is_better = "selection_score", True
        return epoch


# Parameter groups of fine-tuning


def layer_depth(name: str, *, num_layers: int) -> int:
    """
    Depth of a parameter of [`VJEPAForVideoClassification`] for the layer-wise decay of the learning rate (BEiT,
    VideoMAE): 0 for the embeddings, i + 1 for block i, `num_layers + 1` for the final norm, pooler and classifier.
    """
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith("vjepa.encoder.embeddings.") else num_layers + 1


def layer_decay_groups(
    model: VJEPAForVideoClassification, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """
    Parameter groups by depth: the learning rate is `learning_rate * layer_decay ** (num_layers + 1 - depth)`, see
    [`layer_depth`]. Biases, norms and other vectors have no weight decay. The groups are ordered from the head down:
    the first group has the nominal rate. Frozen parameters are left out.
    """
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        height = num_layers + 1 - layer_depth(name, num_layers=num_layers)
        decays = parameter.ndim > 1
        group = {"lr": learning_rate * layer_decay**height, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((height, not decays), {"params": [], **group})["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


# Batches


def collate_examples(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    A batch of stored features, of the training stream, or of evaluation clips. A broken clip becomes zeros with the
    label `IGNORED`, so that all processes have equal numbers of clips.

    Returns:
        `features` or `pixel_values_videos`, stacked; `labels`, int64 (batch,); and from a stream `path`, `cursor` and
        `num_skipped`.
    """
    for example in examples:
        if "error" in example:
            logger.warning_once(log_line(f"skipped a broken video: {example['path']} ({example['error']})"))
    readable = [example for example in examples if "error" not in example]
    labels = [
        IGNORED if "error" in example else int(example.get("label", example.get("labels"))) for example in examples
    ]
    batch: dict[str, Any] = {"labels": torch.tensor(labels)}
    for name in ("features", "pixel_values_videos"):
        if readable and name in readable[0]:
            blank = torch.zeros_like(readable[0][name])
            batch[name] = torch.stack([example.get(name, blank) for example in examples])
    for name in ("path", "cursor"):
        if name in examples[0]:
            batch[name] = [example[name] for example in examples]
    if "num_skipped" in examples[0]:
        batch["num_skipped"] = torch.tensor([example["num_skipped"] for example in examples])
    return batch


class ClipMixing:
    """
    Mixup and CutMix of whole clips with others of the batch, equal in all frames. With both, each batch draws one of
    the two. The draws come from the global generator of torch, whose state is in the checkpoints.

    Args:
        num_classes: length of the mixed labels.
        mixup, cutmix: parameters of the Beta distributions; 0 switches a transform off.
    """

    def __init__(self, num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0):
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.transforms = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips (batch, ..., channels, height, width) and labels (batch,) -> mixed clips, (batch, num_classes)."""
        if not self.transforms:
            return clips, labels
        chosen = self.transforms[int(torch.randint(len(self.transforms), ()))]
        frames = tv_tensors.Video(clips.flatten(1, -4))
        mixed, shares = chosen(frames, labels)
        return mixed.as_subclass(torch.Tensor).view_as(clips), shares


class _StepDecay(torch.optim.lr_scheduler.LambdaLR):
    """Linear warm-up; the rates are divided by 10 at each milestone (in steps)."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, milestones: Sequence[int], num_warmup_steps: int):
        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (num_warmup_steps + 1)) * 0.1 ** bisect_right(milestones, step)

        super().__init__(optimizer, factor)


class _EvaluateAtTheEnd(TrainerCallback):
    """Evaluates after the last step, which may not be a multiple of the steps between evaluations."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True


class VJEPAClassificationTrainer(StreamTrainer):
    """
    Trains a classifier on labelled clips, in one of three ways:

    - `model` is a [`ProbeGrid`] and the data are stored features (any data set of dicts with `features` and `labels`);
    - `model` is a [`ProbeGrid`] and the data are clips: the frozen `encoder` makes the features;
    - `model` is a [`VJEPAForVideoClassification`], trained as a whole ("fine-tuning") on clips.

    Evaluation takes any number of segments and views, averages the probabilities of views, and leaves out broken
    videos. `eval_selection_score` (see [`selection_score`]) is the score of the best probe. The logs of a grid have
    the mean `loss` over its probes, the `learning_rate` of the first probe, and the largest `grad_norm`.

    Args:
        model: the network to train.
        args: training arguments; call their `lay_out_steps` first, or set `max_steps`.
        train_dataset: a stream of [`~data.streaming.clip_stream`] for this process, or a data set with a length.
        eval_dataset: validation clips, see [`~data.evaluation_clips.EvaluationClips`], or features.
        encoder: makes features of clips for a grid of probes.
        position: of the stream.
        processing_class: normalises the clips with its mean and standard deviation.

    Raises:
        TypeError: an unsuitable class of model or of training arguments.
        ValueError: an encoder for fine-tuning; several GPUs for one process.
        UnusableSplitError: in `evaluate` and `predict`: no video of the split can be read.

    Examples:

    ```python
    from transformers_vjepa import VJEPAClassificationArguments, VJEPAClassificationTrainer, VJEPAConfig, VJEPAModel
    from transformers_vjepa.data.corpora import open_corpus
    from transformers_vjepa.evaluation.features import FeatureStore, write_features
    from transformers_vjepa.evaluation.probing import ProbeGrid, probe_settings

    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = VJEPAConfig(crop_size=32, frames_per_clip=4, num_labels=2, **size)
    write_features(VJEPAModel(config), open_corpus("labelled"), "features")  # labelled/ has a folder for each class
    features = FeatureStore("features")

    probes = ProbeGrid(config, probe_settings([1e-3, 1e-2], [0.01]))
    arguments = VJEPAClassificationArguments("probe", max_steps=2, use_cpu=True, report_to="none")
    trainer = VJEPAClassificationTrainer(probes, arguments, features, features)
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    ```
    """

    def __init__(
        self,
        model: VJEPAForVideoClassification | ProbeGrid,
        args: VJEPAClassificationArguments,
        train_dataset: Any = None,
        eval_dataset: Dataset | None = None,
        *,
        encoder: VJEPAForVideoClassification | None = None,
        position: StreamPosition | None = None,
        processing_class: VJEPAVideoProcessor | None = None,
        **kwargs: Any,
    ):
        if isinstance(model, VJEPAModel | VJEPAForPreTraining):
            raise TypeError(
                f"a {type(model).__name__} has no classes: train a VJEPAForVideoClassification or a ProbeGrid"
            )
        check_kind(args, VJEPAClassificationArguments)
        if encoder is not None and not isinstance(model, ProbeGrid):
            raise ValueError("the model has its own encoder: pass `encoder` only with a ProbeGrid")
        if processing_class is None:
            processing_class = VJEPAVideoProcessor.for_config(model.config)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_examples,
            processing_class=processing_class,
            position=position,
            **{"compute_metrics": self._metrics_of} | kwargs,
        )
        # During training only checkpoints of a grid are pushed; at its end the best probe becomes a model.
        self.published_architecture = VJEPAForVideoClassification.__name__ if self.is_probing else None
        self.encoder = encoder
        if encoder is not None:
            encoder.requires_grad_(False)
            encoder.eval().to(args.device)
        self._mixing = ClipMixing(model.config.num_labels, mixup=args.mixup, cutmix=args.cutmix)
        self.add_callback(_EvaluateAtTheEnd())

    def train_or_restore(self, checkpoint: str | None) -> None:
        """
        Trains the remaining steps, from a checkpoint or from the start. At the end the model has the last weights, or
        with `load_best_model_at_end` those of the checkpoint with the highest `eval_selection_score`.
        """
        if checkpoint is None or trained_steps(checkpoint) < self.args.max_steps:
            self.train(resume_from_checkpoint=checkpoint)
        else:
            self.state = read_state(checkpoint)
            self.run_id = run_of(checkpoint) or self.run_id
            folder = Path(checkpoint)
            if self.final_step != self.state.global_step:
                folder = folder.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.final_step}")
            if folder != Path(checkpoint):
                check_before_loading(folder)  # the checkpoint itself was checked when it was selected
            with damaged_weights(folder):
                self.model.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))
        if self.state.global_step >= self.args.max_steps:
            self.stop_signal = 0  # the training is complete, so there is nothing to stop

    @property
    def is_probing(self) -> bool:
        return isinstance(self.model, ProbeGrid)

    @property
    def final_step(self) -> int:
        """Step of the weights that the model has after training."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return best or self.state.global_step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.is_probing:  # the loss is the sum over probes; log the mean
            number = len(self.model.probes)
            logs |= {name: logs[name] / number for name in ("loss", "train_loss") if name in logs}
        super().log(logs, start_time)

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """
        AdamW, or the optimizer of `optim` or `probe_optimizer`, with the groups of the probes or of the layer-wise
        decay.
        """
        if self.optimizer is None:
            network = self.model if model is None else model
            args = self.args
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(args, network)
            if isinstance(network, ProbeGrid):
                groups = network.parameter_groups()
                if args.probe_optimizer != "adamw":
                    optimizer_class, kwargs = probe_optimizer(args.probe_optimizer), {}
            else:
                rates = {"learning_rate": args.learning_rate * args.rate_factor, "weight_decay": args.weight_decay}
                groups = layer_decay_groups(network, **rates, layer_decay=args.layer_decay)
            self.optimizer = optimizer_class(groups, **kwargs)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of `lr_scheduler_type`, or that of `lr_milestones`."""
        if not self.args.lr_milestones:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None or isinstance(self.lr_scheduler, _StepDecay):  # of an earlier train()
            shares = [epoch / self.args.num_train_epochs for epoch in self.args.lr_milestones]
            self.lr_scheduler = _StepDecay(
                self.optimizer if optimizer is None else optimizer,
                milestones=[round(share * num_training_steps) for share in shares],
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
            )
        return self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clips each probe by its own norm, so that it learns as it would alone; returns the largest norm."""
        network = self.accelerator.unwrap_model(model)
        if not isinstance(network, ProbeGrid):
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        limit = self.args.max_grad_norm or math.inf
        norms = [nn.utils.clip_grad_norm_(probe.parameters(), limit) for probe in network.probes]
        return torch.stack(norms).max()  # NaN if one of them is

    # Steps

    def _shaped(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Normalised clips in the shape of the model; a stream has one view."""
        clips = inputs["pixel_values_videos"]
        return self.normalized(clips.unsqueeze(1) if clips.ndim == 6 else clips)

    @torch.no_grad()
    def _features(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Stored features, or those of clips; their means, if the probes pool by the mean."""
        if "features" in inputs:
            return inputs["features"]
        tokens = self.encoder.encode(self._shaped(inputs))
        return tokens.mean(dim=2) if self.model.config.pooling == "mean" else tokens

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"]
        self._check_labels(labels, inputs.get("path", []))
        if self.is_probing:
            outputs = model(features=self._features(inputs), labels=labels)
            loss = outputs.loss
            self._check_probes(outputs.probe_losses)
        else:
            clips, targets = self._mixing(self._shaped(inputs), labels)
            outputs = model(pixel_values_videos=clips)
            loss = nn.functional.cross_entropy(
                outputs.view_logits.flatten(0, 1).float(),
                targets.repeat_interleave(outputs.view_logits.shape[1], dim=0),
                label_smoothing=self.args.label_smoothing_factor,
            )
        self.check_loss(loss, inputs)
        self.count_clips(inputs, len(labels))
        return (loss, outputs) if return_outputs else loss

    def _check_labels(self, labels: torch.Tensor, paths: Sequence[str]) -> None:
        """Raises `ValueError` for a label that is not a class of the model."""
        number = self.model.config.num_labels
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= number))
        if wrong.any():
            index = int(wrong.nonzero()[0])
            name = paths[index] if index < len(paths) else "a clip"
            label = int(labels[index])
            what = "no label" if label == NO_LABEL else f"the label {label}"
            raise ValueError(
                f"{name} has {what}, and the classes of the model are 0 to {number - 1}: correct the labels, or use a "
                "model with more classes"
            )

    def _check_probes(self, losses: torch.Tensor) -> None:
        """Raises `DivergedError` if some losses are NaN or infinite; if all are, `check_loss` raises it."""
        finite = losses.isfinite().tolist()
        if any(finite) and not all(finite):
            names = [probe.name for probe, good in zip(self.model.settings, finite, strict=True) if not good]
            raise DivergedError(
                f"the loss of {', '.join(names)} is NaN or infinite at step {self.state.global_step}: leave out these "
                "learning rates"
            )

    # Evaluation

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """No loss; logits, (batch, num_labels) or of a grid (batch, probes, num_labels); and labels."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            if not (inputs.keys() & {"features", "pixel_values_videos"}):  # a batch of broken clips
                probes = [len(self.model.probes)] if self.is_probing else []
                logits = torch.zeros(len(labels), *probes, self.model.config.num_labels, device=labels.device)
            elif self.is_probing:
                logits = model(features=self._features(inputs)).logits
            else:
                logits = model(pixel_values_videos=self._shaped(inputs)).logits
        return None, logits.float().detach(), labels

    def _metrics_of(self, prediction: EvalPrediction) -> dict[str, float]:
        kept = prediction.label_ids != IGNORED
        if not kept.any():
            raise UnusableSplitError(
                f"none of the {len(kept)} clips to evaluate can be read: the warnings above have the reasons"
            )
        logits, labels = prediction.predictions[kept], prediction.label_ids[kept]
        skipped = {"videos_skipped": int((~kept).sum())} if not kept.all() else {}
        if not self.is_probing:
            return scores_of(logits, labels) | skipped
        scores = [selection_score(logits[:, probe], labels) for probe in range(logits.shape[1])]
        best = best_probe(scores, self.model.settings)
        metrics = scores_of(logits[:, best], labels) | skipped | {"best_probe": best}
        for probe, settings in enumerate(self.model.settings):
            metrics[f"accuracy_{settings.name}"] = float((logits[:, probe].argmax(-1) == labels).mean())
        return metrics


def scores_of(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """[`~evaluation.metrics.classification_metrics`], cross-entropy in nats, and [`selection_score`]."""
    return {
        **classification_metrics(logits, labels),
        "cross_entropy": cross_entropy(logits, labels),
        "selection_score": selection_score(logits, labels),
    }


def probe_scores(logits: np.ndarray, labels: np.ndarray, settings: Sequence[ProbeSettings]) -> list[dict[str, float]]:
    """Accuracy, cross-entropy and score of every probe of a grid; `logits` (clips, probes, classes)."""
    return [asdict(probe) | scores_of(logits[:, number], labels) for number, probe in enumerate(settings)]
