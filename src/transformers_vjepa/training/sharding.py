"""
FSDP2: parameters, gradients and optimizer state are sharded over processes. Checkpoints hold whole tensors, so that
sharded and unsharded runs can resume from each other.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from ..safety.private_names import check_private_names

check_private_names("accelerate.state")
_REMEDY = "shard with FSDP2 instead: vjepa recipes fsdp2, then accelerate launch --config_file fsdp2.yaml"


def refuse_deepspeed(args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: the arguments or the launcher ask for DeepSpeed. Its ZeRO-3 hides the parameters that the moving
            average of the target encoder reads.
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
        ValueError: the arguments or the launcher ask for FSDP1. It loses changes of parameters that are made outside
            of its own context, as by the moving average of the target encoder.
    """
    if fsdp_version(args) == 1:
        raise ValueError(f"fsdp_version=1 does not keep the moving average of the target encoder: {_REMEDY}")


def enable_sharding(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """
    Sets up FSDP2 if the launcher or the arguments ask for it, also for processes without GPUs.

    Returns:
        Whether `accelerator.prepare` will shard.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        # accelerate shards on accelerators only and would silently train unsharded here, although gloo can shard.
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
        # Set both: each new AcceleratorState copies the type of PartialState.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    plugin = getattr(state, "fsdp_plugin", None)
    if plugin is None:
        return False
    plugin.set_state_dict_type("FULL_STATE_DICT")  # with sharded state dicts the Trainer saves no model
    # The policy of FSDP would round losses, residuals and sums of gradients. Autocast is used, as without sharding.
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = ["VJEPALayer"]
    return True


@contextmanager
def ignoring_view_warnings() -> Iterator[None]:
    """Hides the warning of FSDP2 about outputs that are views: linear layers make them, and no code writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        yield


def whole_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """
    The state that the optimizer would have without sharding, on the CPU. All processes must call this function.

    Args:
        keep: whether this process keeps the state; if false, each gathered tensor is discarded immediately.
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
    """Loads a state of `whole_optimizer_state` or of an unsharded optimizer; each process keeps its own shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shards = {
        number: {name: _sharded_like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({"state": shards, "param_groups": state["param_groups"]})


def _sharded_like(parameter: torch.Tensor, value: Any) -> Any:
    if not (isinstance(parameter, DTensor) and torch.is_tensor(value) and value.shape == parameter.shape):
        return value
    # Every process has read the whole tensor: nothing has to be sent.
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def save_sharded_optimizer(
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    folder: str | Path,
    *,
    keep: bool,
) -> None:
    """Writes `optimizer.pt` and `scheduler.pt` as an unsharded run does. All processes call it, one has `keep`."""
    state = whole_optimizer_state(optimizer, keep=keep)
    if keep:
        torch.save(state, Path(folder) / OPTIMIZER_NAME)
        torch.save(scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)


def load_sharded_optimizer(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, folder: str | Path) -> None:
    """Loads `optimizer.pt` and `scheduler.pt` of any run into a sharded optimizer and its scheduler."""
    state = torch.load(Path(folder) / OPTIMIZER_NAME, map_location="cpu", mmap=True, weights_only=True)
    load_whole_optimizer_state(optimizer, state)
    scheduler.load_state_dict(torch.load(Path(folder) / SCHEDULER_NAME, weights_only=True))


def load_sharded_model(model: torch.nn.Module, folder: str | Path, *, is_main_process: bool) -> None:
    """Loads `model.safetensors` of any run into a sharded model: the main process reads and broadcasts the weights."""
    weights = load_file(Path(folder) / SAFE_WEIGHTS_NAME) if is_main_process else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=options)
