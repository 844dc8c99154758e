"""What `--dry_run` prints: sizes, memory, steps and data of a run, and its first clips, without the run itself."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import TrainingArguments

from ..command_line.parsing import check_processes, names_given
from ..data.corpora import Corpus
from ..data.streaming import StreamShare, parse_sources
from ..data.table_corpus import SequentialCorpus
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..pretraining.arguments import parse_arguments
from ..pretraining.masking import VJEPAMaskCollator, get_mask_strategy
from ..pretraining.setup import (
    MODELS,
    build_config,
    build_stream,
    choose_masks,
    note_stills,
    open_sources,
    place_synthetic_corpus,
)
from ..pretraining.trainer import VJEPATrainingArguments
from ..safety.sanitizing import log_line
from ..training.checkpoints import resolve_checkpoint
from ..training.memory import training_memory

#: A name and its line or lines in a [`table`].
Row = tuple[str, str | Sequence[str]]


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


def memory_text(memory: Mapping[str, int]) -> str:
    """The result of [`training_memory`] in one line."""
    parts = ", ".join(f"{name} {bytes_text(number)}" for name, number in memory.items())
    return f"about {bytes_text(sum(memory.values()))} for each process ({parts})"


def memory_note(needed: int, device: torch.device) -> list[str]:
    """A line with the remedy if a device has less memory than `needed` bytes; else nothing."""
    total = math.inf
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    elif device.type == "cpu" and hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    note = (
        f"more than the {bytes_text(total)} of this machine: lower --per_device_train_batch_size and raise "
        "--gradient_accumulation_steps, or recompute activations (--activation_checkpointing true)"
    )
    return [note] if needed > total else []


def check_writable(output_dir: str | os.PathLike) -> None:
    """
    Checks whether a run could write to its output folder, without writing.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path = Path(output_dir).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"--output_dir {output_dir}: {there} is not a folder; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--output_dir {output_dir}: no permission to write to {there}; choose another folder")


def corpus_text(corpus: Corpus, *, config: VJEPAConfig) -> str:
    """The size of a corpus, for a model of this configuration."""
    if isinstance(corpus, SequentialCorpus):
        return "streamed, of unknown size"
    classes = f" of {len(corpus.class_names)} classes" if corpus.class_names else ""
    kinds = "images or videos (one frame of each)" if config.is_image_model else "videos or images"
    return f"{len(corpus):,} {kinds}{classes}"


def corpus_rows(corpora: Mapping[str, Corpus], *, config: VJEPAConfig) -> list[Row]:
    """The sizes of corpora, by their names, and the first videos or images of the first corpus."""
    first = next(iter(corpora.values()))
    number = 0 if isinstance(first, SequentialCorpus) else min(3, len(first))
    return [
        ("data", [f"{name}: {corpus_text(corpus, config=config)}" for name, corpus in corpora.items()]),
        (f"first {config.medium}s", [log_line(first.describe(index)) for index in range(number)] or ["not read"]),
    ]


def clip_row(config: VJEPAConfig) -> Row:
    """The size of a clip or image in frames, pixels and tokens."""
    side, tokens = f"{config.crop_size} px", f"{config.num_patches:,} tokens"
    steps, rows, columns = config.grid_size
    if config.is_image_model:
        return config.noun, f"{side}: {tokens} ({rows} x {columns})"
    return config.noun, f"{config.frames_per_clip} frames of {side}: {tokens} ({steps} x {rows} x {columns})"


def classifier_rows(model: VJEPAForVideoClassification) -> list[Row]:
    """Model, clip and classes. `model` may be on the meta device."""
    config = model.config
    names = list(config.id2label.values())
    parts = {"encoder": model.vjepa, "pooler": model.pooler, "head": model.classifier}
    return [
        ("model", parameters_text({name: part for name, part in parts.items() if part is not None})),
        clip_row(config),
        ("classes", f"{config.num_labels}: {log_line(', '.join(names[:8]))}{', ...' if len(names) > 8 else ''}"),
    ]


def pretraining_sizes(
    model_class: type[nn.Module], config: VJEPAConfig, args: VJEPATrainingArguments, *, example: dict[str, Any]
) -> list[Row]:
    """Model, clip, masks and memory of a pretraining run; `example` is a clip of its stream."""
    collator = VJEPAMaskCollator(config, args.mask_generators(), truncation=args.mask_truncation, seed=args.seed)
    batch = collator([example | {"clip_seed": seed} for seed in range(args.per_device_train_batch_size)])
    masks = [batch["context_mask"], batch["target_mask"]]

    def forward(network: nn.Module, mode: FakeTensorMode) -> None:
        fake = [[mode.from_tensor(mask) for mask in part] for part in masks]
        network(torch.empty(batch["pixel_values_videos"].shape), *fake)

    checkpointing = getattr(args, "activation_checkpointing", False) or args.gradient_checkpointing
    memory = training_memory(lambda: model_class(config), forward, checkpointing=checkpointing, bf16=args.bf16)
    with torch.device("meta"):
        network = model_class(config)
    parts = {"context encoder": network.context_encoder, "target encoder": network.vjepa.encoder}
    context, target = (" and ".join(f"{mask.shape[1]:,}" for mask in part) for part in masks)
    return [
        ("model", parameters_text(parts | {"predictor": network.vjepa.predictor})),
        clip_row(config),
        ("masks", f"{args.mask_strategy}: {context} tokens of context, {target} targets"),
        ("memory", [memory_text(memory), *memory_note(sum(memory.values()), args.device)]),
    ]


def pretraining_steps(args: VJEPATrainingArguments, *, config: VJEPAConfig, num_videos: int | None) -> list[Row]:
    """Steps and schedules of a pretraining run, and its device. `num_videos`: videos or images of the data."""
    batch, steps, accumulated = args.per_device_train_batch_size, args.max_steps, args.gradient_accumulation_steps
    clips = batch * accumulated * args.world_size
    kind, passes = f"{config.noun}s", ""
    if num_videos:
        passes = f", {steps * clips / num_videos:,.1f} of each {config.medium}"
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    return [
        (
            "steps",
            f"{steps:,} of {clips:,} {kind} (batches of {batch}, {accumulated} accumulated, {processes} on "
            f"{args.device.type}): {steps * clips:,} {kind}{passes}",
        ),
        (
            "schedule",
            [
                f"learning rate {args.start_learning_rate:g}, {args.learning_rate:g} from step "
                f"{args.get_warmup_steps(steps):,}, down to {args.final_learning_rate:g}; EMA momentum "
                f"{args.ema_momentum:g} to {args.final_ema_momentum:g};",
                f"weight decay {args.weight_decay:g} to {args.final_weight_decay:g}; schedules end at "
                f"{args.schedule_scale:g} x the steps",
            ],
        ),
    ]


def hub_text(args: TrainingArguments) -> str:
    """What the run would upload to which repository. The Hub is not asked."""
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    access = "private" if args.hub_private_repo else "public, unless it exists or --hub_private_repo true"
    return f"{name} ({access}), strategy {args.hub_strategy.value}; a dry run does not check token and name"


def table(rows: Iterable[Row]) -> str:
    """Lines with a name in front; further lines of a row are indented under its first line."""
    rows = [(name, [text] if isinstance(text, str) else text) for name, text in rows]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(
        f"{'' if index else f'{name}:':{width}}{text}" for name, texts in rows for index, text in enumerate(texts)
    )


def describe_pretraining(argv: list[str]) -> str:
    """What a command line of `vjepa pretrain` would do. Nothing is trained, but a built-in corpus is rendered."""
    model, data, training = parse_arguments(argv)
    check_processes(training.world_size)
    check_writable(training.output_dir)
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    place_synthetic_corpus(data, training)
    config = build_config(model, token=training.hub_token)
    choose_masks(config, training, names_given(argv))
    config.pred_num_mask_tokens = len(get_mask_strategy(training.mask_generators(), config=config))
    sources, opened = parse_sources(data.dataset), open_sources(data)
    note_stills(opened, model, config)
    corpora = [item.source for item in opened]
    indexed = all(not isinstance(corpus, SequentialCorpus) for corpus in corpora)
    num_videos = sum(map(len, corpora)) if indexed else None
    stream = build_stream(data, config, training, share=StreamShare(), shuffle_buffer=4)
    clips = list(islice(stream, 3))
    found = []
    for item, corpus in zip(sources, corpora, strict=True):
        weight = f" (weight {item.weight:g})" if item.weight is not None else ""
        found.append(f"{log_line(str(item.source))}: {corpus_text(corpus, config=config)}{weight}")
    return table(
        [
            *pretraining_sizes(MODELS[model.prediction_target], config, training, example=clips[0]),
            *pretraining_steps(training, config=config, num_videos=num_videos),
            ("data", found),
            (f"first {config.noun}s", [log_line(clip["path"]) for clip in clips]),
            ("output", f"{training.output_dir}" + (f", resuming from {checkpoint}" if checkpoint else "")),
            *([("Hub", hub_text(training))] if training.push_to_hub else []),
        ]
    )
