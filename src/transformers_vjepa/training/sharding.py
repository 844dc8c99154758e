"""Parameters, gradients and optimizer state shared out over processes (FSDP2), with checkpoints that fit any run."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

_REMEDY = "shard with FSDP2 instead: vjepa recipes fsdp2, then accelerate launch --config_file fsdp2.yaml"


def refuse_deepspeed(args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: the arguments or the launcher ask for DeepSpeed, whose ZeRO-3 hides the parameters that the target
            encoder follows.
    """
    if args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError(f"DeepSpeed does not work with the moving average of the target encoder: {_REMEDY}")


def fsdp_version(args: TrainingArguments) -> int | None:
    """The FSDP that the arguments or the launcher ask for: 1, 2, or `None`."""
    if args.fsdp_plugin_args is not None:
        return args.fsdp_plugin_args["fsdp_version"]
    return int(os.environ.get("FSDP_VERSION", 1)) if parse_flag_from_env("ACCELERATE_USE_FSDP") else None


def refuse_fsdp1(args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: the arguments or the launcher ask for FSDP1, which loses what changes parameters outside of its own
            context, as the moving average of the target encoder does.
    """
    if fsdp_version(args) == 1:
        raise ValueError(f"fsdp_version=1 does not keep the moving average of the target encoder: {_REMEDY}")


def enable_sharding(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """
    Sets FSDP2 up where the launcher or the arguments ask for it, on processes without GPUs, too.

    Returns:
        Whether `accelerator.prepare` will shard.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        # accelerate would train unsharded here without a word: it shards on GPUs and their like only, though gloo can.
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
        # Of both: each new AcceleratorState takes that of the processes.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    plugin = getattr(state, "fsdp_plugin", None)
    if plugin is None:
        return False
    plugin.set_state_dict_type("FULL_STATE_DICT")  # with the other one the Trainer saves no model
    # Its policy would round losses, residuals and sums of gradients; autocast does what it does without sharding.
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = ["VJEPALayer"]
    # Outputs of a linear layer are views; nothing here writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    return True


def whole_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """
    The state that the optimizer would have without sharding, on the CPU. All processes must take part.

    Args:
        keep: whether this process wants it; the others let go of every tensor at once.
    """
    state = optimizer.state_dict()
    whole: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        gathered = {
            name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in values.items()
        }
        if keep:
            whole[number] = {
                name: value.cpu() if torch.is_tensor(value) else value for name, value in gathered.items()
            }
    return {"state": whole, "param_groups": state["param_groups"]}


def load_whole_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `whole_optimizer_state`, or an optimizer without sharding, gave; every process keeps its shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shards = {
        number: {name: _sharded_like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({"state": shards, "param_groups": state["param_groups"]})


def _sharded_like(parameter: torch.Tensor, value: Any) -> Any:
    if not (isinstance(parameter, DTensor) and torch.is_tensor(value) and value.shape == parameter.shape):
        return value
    # Every process has read the whole tensor: nothing need be sent.
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


class ShardingTrainer(Trainer):
    """
    A [`~transformers.Trainer`] that shards with FSDP2 where it is asked to (accelerate's `fsdp_version: 2`, or
    `--fsdp`), on CPUs, too. Checkpoints are those of an unsharded run, `model.safetensors` and `optimizer.pt`: each
    kind of run goes on from those of the other.
    """

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = enable_sharding(self.accelerator, self.args)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_optimizer_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, os.path.join(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        file = Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME
        weights = load_file(file) if self.accelerator.is_main_process else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model if model is None else model, weights, options=options)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not (checkpoint and self.is_fsdp_enabled):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", mmap=True, weights_only=True)
        load_whole_optimizer_state(self.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
