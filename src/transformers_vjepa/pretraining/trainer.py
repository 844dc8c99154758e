"""
Pretraining: one optimizer step of masked feature prediction, on top of `transformers.Trainer`.

docs/code.md names the files that a step runs through. Of this file the Trainer calls, in this order:

1. `compute_loss`: loss, terms of VICReg and measures of collapse (`pretraining/collapse.py`).
2. After the backward pass, `_clip_grad_norm` and `_get_grad_norm`, which stop at a gradient that is not finite.
3. Around the update of the optimizer, `_before_update` (weight decay) and `_after_update`: the target encoder follows
   with the momentum of the step. All schedules are in `pretraining/schedules.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from datasets import IterableDataset
from transformers import TrainerCallback, TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.utils import logging

from ..data.streaming import StreamPosition
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForPreTrainingOutput
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..training.arguments import StreamTrainingArguments
from ..training.sharding import refuse_fsdp1
from ..training.stream_trainer import StreamTrainer, check_kind
from .collapse import covariance_penalty, feature_health, variance_hinge
from .image_masking import ImageMultiBlock
from .masking import MaskStrategy, VJEPAMaskCollator, mask_ratios
from .schedules import learning_rate_at, momentum_at, weight_decay_at

logger = logging.get_logger(__name__)

# Positions of a clip from which the diagnostics are computed: enough for stable figures, cheap at any model size.
_DIAGNOSED_POSITIONS = 64
_NO_EVALUATION = (
    "pretraining does not evaluate, because its loss does not show how good the features are: save checkpoints "
    "(save_steps) and probe them with vjepa train_classifier"
)


class CollapseError(RuntimeError):
    """The target features are (almost) the same for all clips."""


class UnevenStreamError(ValueError):
    """The data set of one process ended before those of the others."""


@dataclass
class VJEPATrainingArguments(StreamTrainingArguments):
    """
    Arguments of [`VJEPATrainer`]: those of [`~transformers.TrainingArguments`], with the defaults of the published
    V-JEPA recipe, and the arguments that this recipe adds.
    """

    # Changed defaults.
    output_dir: str | None = HfArg(default="outputs/pretrain", help="Where everything is written.")
    learning_rate: float = HfArg(default=6.25e-4, help="Peak learning rate, after warm-up.")
    weight_decay: float = HfArg(default=0.04, help="Weight decay at the first step.")
    max_grad_norm: float = HfArg(
        default=10.0, help="Clip the gradients of encoder and predictor, separately, to this norm. 0: never."
    )
    max_steps: int = HfArg(default=1000, help="Optimizer steps to run; epochs are not counted.")
    warmup_steps: float = HfArg(
        default=0.13, help="Steps of linear warm-up; below 1 a share of max_steps (published: 40/300)."
    )
    ignore_data_skip: bool = HfArg(
        default=True, help="Must be on: the stream seeks to its position instead of reading up to it."
    )
    ddp_broadcast_buffers: bool | None = HfArg(default=False, help="Buffers are constants.")
    ddp_timeout: int = HfArg(default=600, help="Seconds that a process waits for the other processes before it fails.")

    # The V-JEPA recipe.
    start_learning_rate: float = HfArg(default=2e-4, help="Learning rate before warm-up.")
    final_learning_rate: float = HfArg(default=1e-6, help="Learning rate at the end of the schedule.")
    final_weight_decay: float = HfArg(default=0.4, help="Weight decay at the end of the schedule.")
    ema_momentum: float = HfArg(default=0.998, help="Momentum of the target encoder at the first step.")
    final_ema_momentum: float = HfArg(default=1.0, help="Momentum at the end of the schedule.")
    schedule_scale: float = HfArg(
        default=1.25,
        help="Length of the schedules in units of max_steps. At 1.25 the run ends after four fifths of the schedules "
        "(published); at 1 they end with the run.",
    )
    clip_grad_from_step: int | None = HfArg(
        default=None, help="First step (from 0) that clips gradients. Default: the step after warm-up."
    )
    variance_weight: float = HfArg(
        default=0.0, help="Weight of the variance regulariser on the predictions (published: 0)."
    )
    context_variance_weight: float = HfArg(
        default=0.0, help="Weight of VICReg's variance term on the context tokens (published: 0)."
    )
    context_covariance_weight: float = HfArg(
        default=0.0, help="Weight of VICReg's covariance term on the context tokens (published: 0)."
    )
    mask_strategy: str = HfArg(
        default="multiblock",
        help="Name of a mask strategy (see transformers_vjepa.pretraining.masking). For models of one frame the "
        "default of vjepa pretrain is image_multiblock.",
    )
    mask_truncation: Literal["balanced", "published"] = HfArg(
        default="balanced",
        help="How masks get equal lengths: fixed counts per clip, or cut to the shortest of the batch.",
    )
    mask_target_scale: list[float] | None = HfArg(
        default=None,
        help="Range of the area of a target block over the area of the image, for image_multiblock. Default: 0.15 "
        "0.2, as published.",
    )
    mask_context_scale: list[float] | None = HfArg(
        default=None, help="Range of the area of the context block, for image_multiblock. Default: 0.85 1.0."
    )
    mask_num_targets: int | None = HfArg(
        default=None, help="Number of target blocks, for image_multiblock. Default: 4."
    )
    mask_targets_at: Literal["output", "input"] = HfArg(
        default="output",
        help="The target encoder sees all tokens and its output is masked (published), or it sees only the targets.",
    )

    # Images. The name begins as those of the arguments do that change nothing of what is learnt.
    save_images_minutes: float = HfArg(
        default=10.0,
        help="Draw the images in pictures/ after a checkpoint only if the last drawing was so many minutes ago. 0: "
        "after every checkpoint. They are always drawn at the end.",
    )

    # Alarms.
    collapse_action: Literal["warn", "stop"] = HfArg(
        default="warn", help="If the target features collapse: warn, or stop with a checkpoint."
    )
    collapse_std: float = HfArg(
        default=0.05,
        help="Collapse alarm below this std of target features over clips at one position (healthy: 0.1-1).",
    )
    collapse_rank: float = HfArg(
        default=1.5, help="Collapse alarm below this effective rank of the target features over clips."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_fsdp1(self)
        if self.num_train_epochs != TrainingArguments.num_train_epochs:
            raise ValueError(
                f"num_train_epochs={self.num_train_epochs:g} has no meaning: a stream has no end. Set max_steps"
            )
        if self.eval_strategy != "no":
            raise ValueError(f"eval_strategy={self.eval_strategy.value!r}: {_NO_EVALUATION}")
        for name, choices in (
            ("collapse_action", ("warn", "stop")),
            ("mask_truncation", ("balanced", "published")),
            ("mask_targets_at", ("output", "input")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        self.check_ranges(
            learning_rate=(0.0, math.inf),
            ema_momentum=(0.0, 1.0),
            final_ema_momentum=(0.0, 1.0),
            schedule_scale=(1.0, math.inf),
            variance_weight=(0.0, math.inf),
            context_variance_weight=(0.0, math.inf),
            context_covariance_weight=(0.0, math.inf),
            max_steps=(1, math.inf),
            save_images_minutes=(0.0, math.inf),
        )
        for name in ("mask_target_scale", "mask_context_scale"):
            value = getattr(self, name)
            if value is not None and len(value) != 2:
                raise ValueError(f"{name}={value} must be two numbers, the least and the largest share of the area")
        self.check_needed(ignore_data_skip=True)

    def mask_generators(self) -> str | tuple[MaskStrategy, ...]:
        """
        The mask strategy for [`VJEPAMaskCollator`]: `mask_strategy`, or the generator of I-JEPA with the changes of
        the other arguments.

        Raises:
            ValueError: an argument of `image_multiblock` is given with another strategy.
        """
        given = {
            "mask_target_scale": self.mask_target_scale,
            "mask_context_scale": self.mask_context_scale,
            "mask_num_targets": self.mask_num_targets,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return self.mask_strategy
        if self.mask_strategy != "image_multiblock":
            name, value = next(iter(given.items()))
            raise ValueError(
                f"{name}={value} is for image_multiblock only, and mask_strategy is {self.mask_strategy}: leave "
                f"{name} out, or choose --mask_strategy image_multiblock"
            )
        values = (tuple(value) if isinstance(value, list) else value for value in given.values())
        return (ImageMultiBlock(**dict(zip((name.removeprefix("mask_") for name in given), values, strict=True))),)


class _RatesOfGroups(torch.optim.lr_scheduler.LambdaLR):
    """A scheduler whose last rates are those of the optimizer, also if they change after a checkpoint is loaded."""

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class VJEPATrainer(StreamTrainer):
    """
    Pretrains a [`VJEPAForPreTraining`] on a stream of clips.

    One step: schedules, forward, backward, clipping of encoder and predictor separately, optimizer, then the target
    encoder with the momentum of the step (V-JEPA, section 3 and appendix; published order).

    Args:
        model: in float32; use `bf16=True` or `fp16=True` for mixed precision.
        args: training arguments.
        train_dataset: the stream of [`~data.streaming.clip_stream`] for this process, or any iterable data set of
            dicts with `pixel_values_videos` (uint8) and `clip_seed` that is already split over processes.
        position: the position of that stream, so that resuming can seek in it.
        processing_class: normalises the clips with its mean and standard deviation; saved with every checkpoint.

    Raises:
        TypeError: model or arguments have another class. Adapters, for example, are refused, because both encoders
            need the same parameters.
        ValueError: parameters are not float32, the numbers of mask generators and mask tokens differ, or one process
            has several GPUs.

    Examples:

    ```python
    from transformers_vjepa import StreamPosition, VJEPAConfig, VJEPAForPreTraining
    from transformers_vjepa import VJEPATrainer, VJEPATrainingArguments
    from transformers_vjepa.pretraining.arguments import DataArguments
    from transformers_vjepa.pretraining.setup import build_stream

    sizes = {"crop_size": 32, "patch_size": 8, "frames_per_clip": 8}
    encoder = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    predictor = {"pred_hidden_size": 12, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    config = VJEPAConfig(**sizes, **encoder, **predictor)
    args = VJEPATrainingArguments(
        "outputs/tiny", max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to="none"
    )
    position = StreamPosition()  # shared by stream and trainer, so that a resumed run can seek
    stream = build_stream(DataArguments(dataset=["videos/"], frame_step=2), config, args, position=position)
    trainer = VJEPATrainer(VJEPAForPreTraining(config), args, stream, position=position)
    trainer.train()
    trainer.save_model()
    ```
    """

    #: The callback that draws into the output folder, if there is one: it also draws when a killed run is finished.
    images: TrainerCallback | None = None

    def __init__(
        self,
        model: VJEPAForPreTraining,
        args: VJEPATrainingArguments,
        train_dataset: IterableDataset,
        position: StreamPosition | None = None,
        processing_class: VJEPAVideoProcessor | None = None,
        **kwargs: Any,
    ):
        check_kind(model, VJEPAForPreTraining)
        check_kind(args, VJEPATrainingArguments)
        wrong = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
        if wrong:
            raise ValueError(
                f"the model has {wrong.pop()} parameters, in which a momentum near 1 is rounded away: load the model "
                "with dtype=torch.float32 and train with bf16=True"
            )
        collator = kwargs.pop("data_collator", None) or VJEPAMaskCollator(
            model.config, args.mask_generators(), truncation=args.mask_truncation, seed=args.seed
        )
        if isinstance(collator, VJEPAMaskCollator):
            generators, tokens = len(collator.generators), model.config.pred_num_mask_tokens
            if generators != tokens:
                raise ValueError(
                    f"the mask strategy has {generators} generators, and the model has pred_num_mask_tokens={tokens}: "
                    f"create the model with pred_num_mask_tokens={generators}"
                )
        if processing_class is None:
            processing_class = VJEPAVideoProcessor.for_config(model.config)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collator,
            processing_class=processing_class,
            position=position,
            **kwargs,
        )
        self._scheduled_optimizer: torch.optim.Optimizer | None = None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:
            # The checkpoint holds the rate of its own arguments; this run may have others.
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr_scheduler.lr_lambdas[0](self.schedule_step)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """
        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_EVALUATION)

    predict = evaluate

    # Data

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.world_size > 1:
            # If one process has no batch left, the others would wait for its gradients until ddp_timeout.
            counts = self.accelerator.gather(torch.tensor([len(batches)], device=device)).tolist()
            if len(set(counts)) > 1:
                raise UnevenStreamError(
                    f"at step {self.state.global_step} the {len(counts)} processes have {counts} batches: the data "
                    "set of one process ended first. Give all processes the same number of batches, use an endless "
                    "stream such as clip_stream, or a data set with a length, which is split evenly"
                )
        return batches, num_items

    # Schedules, optimizer, target encoder

    @property
    def schedule_step(self) -> int:
        """Updates made so far, without those that mixed precision skipped."""
        return self.lr_scheduler.last_epoch

    def _schedule_length(self) -> float:
        return self.args.schedule_scale * self.args.max_steps

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All but biases, norms and other vectors."""
        return [name for name, value in model.named_parameters() if value.ndim > 1 and not name.endswith("bias")]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        created = super().create_optimizer(model)
        optimizer = getattr(created, "optimizer", created)  # accelerate wraps an optimizer that has trained before
        if self._scheduled_optimizer is not optimizer:
            self._scheduled_optimizer = optimizer
            network = self.model if model is None else model
            names = set(self.get_decay_parameter_names(network))
            decaying = {id(value) for name, value in network.named_parameters() if name in names}
            for group in optimizer.param_groups:
                group["decays"] = any(id(parameter) in decaying for parameter in group["params"])
            # A step that fp16 skips calls neither hook, so schedules and target stay. A fused optimizer would skip the
            # step inside of its own code, between the hooks, unless the scaler is told to check the gradients itself.
            optimizer._step_supports_amp_scaling = False
            optimizer.register_step_pre_hook(self._before_update)
            optimizer.register_step_post_hook(self._after_update)
        return created

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        value = weight_decay_at(
            self.schedule_step,
            start=self.args.weight_decay,
            final=self.args.final_weight_decay,
            total_steps=self._schedule_length(),
        )
        for group in optimizer.param_groups:
            if group["decays"]:
                group["weight_decay"] = value
        self._metrics["weight_decay"] = [value]

    def _after_update(self, *_: Any) -> None:
        value = momentum_at(
            self.schedule_step,
            start=self.args.ema_momentum,
            final=self.args.final_ema_momentum,
            total_steps=self._schedule_length(),
        )
        self.accelerator.unwrap_model(self.model).update_target(value)
        self._metrics["ema_momentum"] = [value]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None or isinstance(self.lr_scheduler, _RatesOfGroups):  # of an earlier train()
            args = self.args
            optimizer = self.optimizer if optimizer is None else optimizer
            for group in optimizer.param_groups:
                # The schedule gives rates, not factors, so that a resumed run follows its own arguments.
                group["initial_lr"] = 1.0
            self.lr_scheduler = _RatesOfGroups(
                optimizer,
                partial(
                    learning_rate_at,
                    start=args.start_learning_rate,
                    peak=args.learning_rate,
                    final=args.final_learning_rate,
                    warmup_steps=args.get_warmup_steps(num_training_steps),
                    total_steps=self._schedule_length(),
                ),
            )
        return self.lr_scheduler

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Clips encoder and predictor separately, after warm-up only; returns the norm of all gradients."""
        first = self.args.clip_grad_from_step
        if first is None:
            first = self.args.get_warmup_steps(self.args.max_steps) + 1
        clips = self.args.max_grad_norm > 0 and self.schedule_step >= first
        limit = self.args.max_grad_norm if clips else float("inf")
        network = self.accelerator.unwrap_model(model)
        self.accelerator.unscale_gradients()
        norms = []
        for name, part in (("encoder", network.context_encoder), ("predictor", network.vjepa.predictor)):
            norm = torch.nn.utils.clip_grad_norm_(part.parameters(), limit)
            norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
            self._metrics[f"{name}_grad_norm"].append(norms[-1].item())
        return torch.linalg.vector_norm(torch.stack(norms))

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        # Without clipping the Trainer has called only this hook; the norms are logged in any case.
        grad_norm = self._clip_grad_norm(model) if grad_norm is None else grad_norm
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    # Loss and figures for the logs

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, VJEPAForPreTrainingOutput]:
        pixels = self.normalized(inputs["pixel_values_videos"])
        with self.accelerator.autocast():  # accelerate does not wrap sharded models in autocast
            outputs = model(
                pixel_values_videos=pixels,
                context_mask=inputs["context_mask"],
                target_mask=inputs["target_mask"],
                variance_weight=self.args.variance_weight,
                mask_targets_at=self.args.mask_targets_at,
            )
        self._regularize(outputs)
        self.check_loss(outputs.loss, inputs)
        self._record(inputs, outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _regularize(self, outputs: VJEPAForPreTrainingOutput) -> None:
        """Adds VICReg's terms on the context tokens of each mask to the loss, and logs them without their weights."""
        for name, weight, term in (
            ("context_variance_loss", self.args.context_variance_weight, variance_hinge),
            ("context_covariance_loss", self.args.context_covariance_weight, covariance_penalty),
        ):
            if weight:
                terms = [term(tokens.flatten(0, 1)) for tokens in outputs.context_hidden_states]
                value = sum(terms) / len(terms)
                outputs.loss = outputs.loss + weight * value
                self._metrics[name].append(value.item())

    @torch.no_grad()
    def _record(self, inputs: dict[str, Any], outputs: VJEPAForPreTrainingOutput) -> None:
        """Collects figures for the next log; expensive figures only if that log follows this step."""
        metrics = self._metrics
        self.count_clips(inputs, len(inputs["pixel_values_videos"]))
        num_patches = self.accelerator.unwrap_model(self.model).config.num_patches
        ratios = mask_ratios(inputs["context_mask"], inputs["target_mask"], num_patches=num_patches)
        for name, ratio in ratios.items():
            metrics[name].append(ratio)
        if (self.state.global_step + 1) % self.state.logging_steps:
            return
        if outputs.variance_loss is not None:
            metrics["variance_loss"].append(outputs.variance_loss.item())
        stds = [prediction.float().std(dim=1).mean().item() for prediction in outputs.predictions]
        metrics["predictor_std"].append(sum(stds) / len(stds))
        stride = -(-num_patches // _DIAGNOSED_POSITIONS)
        tokens = outputs.target_hidden_state
        if tokens is None:  # the objective needs no target features
            network = self.accelerator.unwrap_model(self.model)
            tokens = network.vjepa.get_vision_features(self.normalized(inputs["pixel_values_videos"]))
        features = self.accelerator.gather(tokens[:, ::stride].float().contiguous())
        normalised = torch.nn.functional.layer_norm(features, features.shape[-1:])
        health = feature_health(normalised)
        for name, value in health.items():
            metrics[name].append(value)
        self._sound_alarm(health)

    def _sound_alarm(self, health: dict[str, float]) -> None:
        for name, bound in (
            ("target_std_over_clips", self.args.collapse_std),
            ("target_rank_over_clips", self.args.collapse_rank),
        ):
            if name in health and health[name] < bound:
                message = (
                    f"collapse at step {self.state.global_step}: {name}={health[name]:.4g} is below {bound}; "
                    "the target encoder gives all clips the same features. Lower the learning rate, raise "
                    "ema_momentum, or check the masks"
                )
                if self.args.collapse_action == "warn":
                    logger.warning(message)
                elif self.stop_error is None:  # the same on all processes: features are gathered
                    self.stop_error = CollapseError(message)
