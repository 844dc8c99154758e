"""What a run would be, found out without running it (`--dry_run`): sizes, memory, data, the first clips."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import TrainingArguments
from transformers.initialization import no_init_weights

from ..data.corpora import Corpus, SequentialCorpus
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..pretraining.masking import VJEPAMaskCollator
from ..pretraining.trainer import VJEPATrainingArguments
from ..safety.sanitizing import log_line

# AdamW keeps two moments of each weight in float32.
_ADAMW_BYTES = 8
_FLOAT_BYTES = 4


def count_text(number: int | float) -> str:
    """`22_100_000` as `22.1 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:g}"


def bytes_text(number: int | float) -> str:
    """`35_700_000_000` as `35.7 GB`."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def parameters_text(parts: Mapping[str, nn.Module]) -> str:
    """Parameters of the parts of a model: `65.4 M parameters (encoder 21.9 M, ...)`."""
    numbers = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    shown = ", ".join(f"{name} {count_text(number)}" for name, number in numbers.items() if number)
    return f"{count_text(sum(numbers.values()))} parameters ({shown})"


def training_memory(
    build: Callable[[], nn.Module],
    forward: Callable[[nn.Module, FakeTensorMode], Any],
    *,
    checkpointing: bool = False,
    bf16: bool = False,
) -> dict[str, int]:
    """
    Bytes that a process needs to train, without computing or allocating anything: the forward pass is run on fake
    tensors, and what autograd would keep for the backward pass is added up.

    Args:
        build: makes the model; its weights are never filled.
        forward: runs a batch of fake tensors through it.
        checkpointing: keep the inputs of blocks only.
        bf16: under autocast.

    Returns:
        Bytes of `weights` (moving averages among them), `gradients`, `optimizer` (AdamW) and `activations`. Workspaces
        of kernels, fragmentation and what blocks compute again come on top.
    """
    activations: dict[int, int] = {}
    kept = []  # must stay alive, or others get their addresses

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in activations:
            activations[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with no_init_weights():
            model = build().train()
        if checkpointing:
            # Its name since transformers 5.23.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            forward(model, mode)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "weights": _FLOAT_BYTES * total,
        "gradients": _FLOAT_BYTES * trained,
        "optimizer": _ADAMW_BYTES * trained,
        "activations": sum(activations.values()),
    }


def memory_text(memory: Mapping[str, int]) -> str:
    """What [`training_memory`] found, in a line."""
    parts = ", ".join(f"{name} {bytes_text(number)}" for name, number in memory.items())
    return f"about {bytes_text(sum(memory.values()))} for each process ({parts})"


def memory_note(needed: int, device: torch.device) -> list[str]:
    """A line where a device has less memory than is needed, and what to do; else none."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    elif device.type == "cpu" and hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return []
    if needed <= total:
        return []
    return [
        f"more than the {bytes_text(total)} there are: lower --per_device_train_batch_size and raise "
        "--gradient_accumulation_steps, or recompute activations (--activation_checkpointing true)"
    ]


def check_writable(output_dir: str | os.PathLike) -> None:
    """
    Looks whether a run could write, without writing.

    Raises:
        OSError: the output folder could not be made, or not be written.
    """
    path = Path(output_dir).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"--output_dir {output_dir}: {there} is no folder; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--output_dir {output_dir}: {there} cannot be written; choose another")


def corpus_text(corpus: Corpus) -> str:
    """How much a corpus holds."""
    if isinstance(corpus, SequentialCorpus):
        return "streamed, of unknown size"
    classes = f" of {len(corpus.class_names)} classes" if corpus.class_names else ""
    return f"{len(corpus):,} videos or pictures{classes}"


def first_paths(corpus: Corpus, *, number: int = 3) -> list[str]:
    """Names of the first videos of a corpus that can be read in any order."""
    if isinstance(corpus, SequentialCorpus):
        return []
    return [log_line(corpus.describe(index)) for index in range(min(number, len(corpus)))]


#: A name and a line, or several, of a [`table`].
Row = tuple[str, str | Sequence[str]]


def clip_text(config: VJEPAConfig) -> str:
    """What the model sees at once."""
    grid = " x ".join(map(str, config.grid_size))
    frames = f"{config.frames_per_clip} frames of " if config.frames_per_clip > 1 else ""
    return f"{frames}{config.crop_size} px: {config.num_patches:,} tokens ({grid})"


def corpus_rows(corpora: Mapping[str, Corpus]) -> list[Row]:
    """How many videos there are in corpora, by their names, and the first ones."""
    found = [f"{name}: {corpus_text(corpus)}" for name, corpus in corpora.items()]
    return [("data", found), ("first videos", first_paths(next(iter(corpora.values()))) or ["not looked at"])]


def classifier_rows(model: VJEPAForVideoClassification, *, batch_size: int, finetune: bool, bf16: bool) -> list[Row]:
    """Model, clip, classes and, where all of it is trained, memory; `model` may be on the meta device."""
    config = model.config
    names = list(config.id2label.values())
    parts = {"encoder": model.vjepa, "pooler": model.pooler, "head": model.classifier}
    rows: list[Row] = [
        ("model", parameters_text({name: part for name, part in parts.items() if part is not None})),
        ("clip", clip_text(config)),
        ("classes", f"{config.num_labels}: {log_line(', '.join(names[:8]))}{', ...' if len(names) > 8 else ''}"),
    ]
    if finetune:
        shape = (batch_size, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
        memory = training_memory(
            lambda: type(model)(config), lambda network, mode: network(torch.empty(shape)), bf16=bf16
        )
        rows.append(("memory", memory_text(memory)))
    return rows


def pretraining_sizes(
    model_class: type[nn.Module], config: VJEPAConfig, args: VJEPATrainingArguments, *, example: dict[str, Any]
) -> list[Row]:
    """Model, clip, masks and memory of a pretraining run; `example` is a clip of its stream."""
    collator = VJEPAMaskCollator(config, args.mask_strategy, truncation=args.mask_truncation, seed=args.seed)
    batch = collator([example | {"clip_seed": seed} for seed in range(args.per_device_train_batch_size)])

    def forward(network: nn.Module, mode: FakeTensorMode) -> None:
        masks = [[mode.from_tensor(mask) for mask in batch[name]] for name in ("context_mask", "target_mask")]
        network(torch.empty(batch["pixel_values_videos"].shape), *masks)

    checkpointing = getattr(args, "activation_checkpointing", False) or args.gradient_checkpointing
    memory = training_memory(lambda: model_class(config), forward, checkpointing=checkpointing, bf16=args.bf16)
    with torch.device("meta"):
        network = model_class(config)
    parts = {"context encoder": network.context_encoder, "target encoder": network.vjepa.encoder}
    parts["predictor"] = network.vjepa.predictor
    context, target = (
        " and ".join(f"{mask.shape[1]:,}" for mask in batch[name]) for name in ("context_mask", "target_mask")
    )
    return [
        ("model", parameters_text(parts)),
        ("clip", clip_text(config)),
        ("masks", f"{args.mask_strategy}: {context} tokens of context, {target} targets"),
        ("memory", [memory_text(memory), *memory_note(sum(memory.values()), args.device)]),
    ]


def pretraining_steps(args: VJEPATrainingArguments, *, num_videos: int | None) -> list[Row]:
    """Steps and schedules of a pretraining run, and where it runs."""
    batch, steps, accumulated = args.per_device_train_batch_size, args.max_steps, args.gradient_accumulation_steps
    clips = batch * accumulated * args.world_size
    passes = f", {steps * clips / num_videos:,.1f} of each video" if num_videos else ""
    warmup = args.get_warmup_steps(steps)
    return [
        (
            "steps",
            f"{steps:,} of {clips:,} clips (batches of {batch}, {accumulated} accumulated, {args.world_size} "
            f"process{'es' if args.world_size > 1 else ''} on {args.device.type}): {steps * clips:,} clips{passes}",
        ),
        (
            "schedule",
            [
                f"learning rate {args.start_learning_rate:g}, {args.learning_rate:g} from step {warmup:,}, down to "
                f"{args.final_learning_rate:g}; EMA momentum {args.ema_momentum:g} to {args.final_ema_momentum:g};",
                f"weight decay {args.weight_decay:g} to {args.final_weight_decay:g}; all laid out over "
                f"{args.schedule_scale:g} x the steps",
            ],
        ),
    ]


def hub_text(args: TrainingArguments) -> str:
    """What would be pushed, and where to; nothing is asked of the Hub."""
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    access = "private" if args.hub_private_repo else "public, unless it exists or --hub_private_repo true"
    return f"{name} ({access}), strategy {args.hub_strategy.value}; token and name are not checked here"


def table(rows: Iterable[Row]) -> str:
    """Lines with a name in front; further lines of a row are indented under its first."""
    rows = [(name, [text] if isinstance(text, str) else list(text)) for name, text in rows]
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, texts in rows:
        for index, text in enumerate(texts):
            lines.append(f"{name + ':' if index == 0 else '':{width}}{text}")
    return "\n".join(lines)


__all__ = [
    "bytes_text",
    "check_writable",
    "classifier_rows",
    "clip_text",
    "corpus_rows",
    "corpus_text",
    "count_text",
    "first_paths",
    "hub_text",
    "memory_text",
    "parameters_text",
    "pretraining_sizes",
    "pretraining_steps",
    "table",
    "training_memory",
]
