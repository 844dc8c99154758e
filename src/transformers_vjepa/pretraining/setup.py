"""
From arguments to objects: configuration, masks, stream, model and trainer of a pretraining.

In Python a pretraining is three lines; from a command line it is `run(argv)`:

    training = VJEPATrainingArguments(output_dir="outputs/mine", max_steps=100)
    trainer, checkpoint = build(ModelArguments(preset="vitt16"), DataArguments(dataset=["videos/"]), training)
    train(trainer, checkpoint)
"""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from transformers import set_seed
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..command_line.parsing import check_processes, names_given, user_errors
from ..data.clip_loader import WorkersLostError
from ..data.clip_reading import Decoding, TooManyBrokenVideosError
from ..data.file_corpus import FileCorpus
from ..data.fingerprints import DATA_RECORD, check_same_data
from ..data.lanes import StreamError
from ..data.streaming import (
    Augmentation,
    CorpusSource,
    StreamPosition,
    StreamShare,
    clip_stream,
    open_source,
    parse_sources,
)
from ..hub.loading import is_stock_model, load_model, read_config, refuse_other_sizes
from ..hub.model_card import INCIDENTAL, RunDetails, heritage_of
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.agreement import agreed
from ..safety.atomic_files import write_text_atomically
from ..safety.output_lock import output_lock
from ..safety.sanitizing import address_without_secrets, json_text, log_line
from ..training.checkpoints import (
    UnusableCheckpointError,
    checkpoint_errors,
    damaged_weights,
    is_finished,
    read_state,
    resolve_checkpoint,
    run_of,
    trained_steps,
)
from ..training.progress import duration_text, no_bars
from ..training.stream_trainer import DivergedError
from .arguments import ARCHITECTURE, DataArguments, ModelArguments, parse_arguments
from .images import TrainingImages
from .masking import get_mask_strategy
from .pixel_prediction import VJEPAForPixelPrediction
from .trainer import CollapseError, UnevenStreamError, VJEPATrainer, VJEPATrainingArguments

logger = logging.get_logger(__name__)

# Number of files that are read to find out whether a corpus has only images.
_PEEKED = 100
# The arguments of a run, in its output folder.
_ARGUMENTS = "arguments.json"
# How the clips of a step are split: `balanced` masks learn the same from any split of the same product.
_SPLIT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
#: Errors during training that the user can solve: they end a command with one line.
FAULTS = (
    UnusableCheckpointError,
    CollapseError,
    DivergedError,
    StreamError,
    TooManyBrokenVideosError,
    UnevenStreamError,
    WorkersLostError,
)
#: Classes of models by `prediction_target`.
MODELS = {"features": VJEPAForPreTraining, "pixels": VJEPAForPixelPrediction}

# Model


def build_config(arguments: ModelArguments, *, token: str | None = None) -> VJEPAConfig:
    """The configuration of the preset or of `init_from`, changed by the fields that are given."""
    fields_given = {
        item.name: getattr(arguments, item.name)
        for item in fields(arguments)
        if item.name not in ("preset", "init_from", "prediction_target") and getattr(arguments, item.name) is not None
    }
    if not arguments.init_from:
        if arguments.frames_per_clip == 1:
            fields_given = {"tubelet_size": 1, "pred_loss": "smooth_l1"} | fields_given  # I-JEPA
        return VJEPAConfig.from_preset(arguments.preset, **fields_given)
    config = read_config(arguments.init_from, token=token)
    is_stock = is_stock_model(arguments.init_from, token=token)
    for name, value in fields_given.items():
        # The weights fit clips of other sizes and another loss, but no other architecture. The predictor of a stock
        # model is new.
        is_free = name in ("crop_size", "frames_per_clip", "pred_loss") or (is_stock and name.startswith("pred_"))
        if not is_free and value != getattr(config, name):
            raise ValueError(
                f"{name}={value} differs from the {getattr(config, name)} of {arguments.init_from}: leave it out"
            )
    return VJEPAConfig(**(config.to_diff_dict() | fields_given))


def choose_masks(config: VJEPAConfig, training: VJEPATrainingArguments, given: Collection[str]) -> None:
    """
    Sets the masks of I-JEPA for a model of images, which cannot take the default masks. Recipes name the default masks
    too, so only a `mask_strategy` among the names that the user has `given` stays.
    """
    if config.is_image_model and training.mask_strategy == "multiblock" and "mask_strategy" not in given:
        training.mask_strategy = "image_multiblock"


def build_model(arguments: ModelArguments, training: VJEPATrainingArguments) -> VJEPAForPreTraining:
    """
    A new model, or the model of `init_from`, with one mask token for each generator of the mask strategy.

    Raises:
        ValueError: `init_from` has weights of other sizes than its configuration.
    """
    config = build_config(arguments, token=training.hub_token)
    config.pred_num_mask_tokens = len(get_mask_strategy(training.mask_generators(), config=config))
    model_class = MODELS[arguments.prediction_target]
    if not arguments.init_from:
        return model_class(config)
    model, info = load_model(
        model_class,
        arguments.init_from,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        token=training.hub_token,
    )
    # With another number of generators the mask tokens are new.
    refuse_other_sizes(arguments.init_from, info, new=("vjepa.predictor.mask_tokens",))
    return model


# Data


def video_processor(data: DataArguments, config: VJEPAConfig) -> VJEPAVideoProcessor:
    """A processor that samples and crops as in training."""
    sampling = data.clip_sampling(config.frames_per_clip)
    return VJEPAVideoProcessor(
        crop_size=config.crop_size,
        num_frames=sampling.num_frames,
        frame_step=sampling.frame_step or 4,
        fps=sampling.clip_fps,
    )


def build_stream(
    data: DataArguments, config: VJEPAConfig, training: VJEPATrainingArguments, **changes: Any
) -> IterableDataset:
    """The clips of this process; `changes` replace arguments of `clip_stream`."""
    settings = {
        "sources": parse_sources(data.dataset),
        "seed": training.seed,
        "share": StreamShare.from_training_arguments(training),
        "split": data.split,
        "video_column": data.video_column,
        "shuffle_buffer": data.shuffle_buffer,
        "augmentation": Augmentation(tuple(data.crop_scale), tuple(data.crop_ratio), data.flip_probability),
        "decoding": Decoding(
            backend=data.decoder,
            max_broken_share=data.max_broken_share,
            timeout=data.decode_timeout,
            cache_bytes=data.cache_videos * 1_000_000,
        ),
    }
    return clip_stream(config=config, sampling=data.clip_sampling(config.frames_per_clip), **(settings | changes))


def open_sources(data: DataArguments) -> list[CorpusSource]:
    """The corpora of the mix, opened."""
    return [
        replace(item, source=open_source(item, split=data.split, video_column=data.video_column))
        for item in parse_sources(data.dataset)
    ]


def note_stills(sources: Sequence[CorpusSource], arguments: ModelArguments, config: VJEPAConfig) -> None:
    """Warns if a new video model would be trained on images alone, judged by the first files of each corpus."""
    corpora = [item.source for item in sources]
    if config.is_image_model or arguments.init_from or not all(isinstance(corpus, FileCorpus) for corpus in corpora):
        return
    if all(corpus.read(index).is_image for corpus in corpora for index in range(min(len(corpus), _PEEKED))):
        logger.warning(
            f"the data are images: every clip is a still of {config.frames_per_clip} equal frames. "
            "--frames_per_clip 1 (I-JEPA) costs less"
        )


def place_synthetic_corpus(data: DataArguments, training: VJEPATrainingArguments) -> None:
    """Renders the built-in corpus if `data` names it, and replaces the name by the folder."""
    for index, source in enumerate(data.dataset):
        name, *weight = source.split("=", 1)
        if name == "synthetic":
            data.dataset[index] = "=".join([str(training.render_corpus() / "train"), *weight])


# The record of a run


def learning_arguments(
    model: ModelArguments, data: DataArguments, training: VJEPATrainingArguments
) -> dict[str, dict[str, Any]]:
    """The arguments that decide what a run learns, by group, ready for JSON. Runs with equal ones learn the same."""
    sources = [
        address_without_secrets(source) if "://" in source else os.path.abspath(source) for source in data.dataset
    ]
    data = replace(data, dataset=sources)
    groups = {"model": asdict(model), "data": asdict(data), "training": training.to_dict()}
    return {
        group: {name: value for name, value in values.items() if not INCIDENTAL.fullmatch(name)}
        for group, values in groups.items()
    }


def check_architecture(checkpoint: str, config: VJEPAConfig) -> None:
    """
    Raises:
        ValueError, OSError: the configuration of the checkpoint is absent or damaged, or has another architecture or
            geometry than `config`.
    """
    if not (Path(checkpoint) / CONFIG_NAME).is_file():
        raise ValueError(f"{checkpoint} has no {CONFIG_NAME}: copy it from another checkpoint of the same run")
    try:
        theirs = VJEPAConfig.from_pretrained(checkpoint)
    except (RecursionError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error!s:.80}"
        raise ValueError(f"{Path(checkpoint, CONFIG_NAME)} is damaged ({reason}): copy it again") from error
    for name in sorted(ARCHITECTURE - {"preset", "initializer_range"} | {"crop_size", "frames_per_clip", "pred_loss"}):
        if getattr(theirs, name) != getattr(config, name):
            raise ValueError(
                f"{checkpoint} has {name}={getattr(theirs, name)}, and this command asks for {getattr(config, name)}: "
                "give the arguments with which the run began, or choose another --output_dir"
            )


def _warn_of_changes(file: Path, arguments: dict[str, dict[str, Any]]) -> None:
    """Warns if a resumed run has other arguments than `arguments.json`: its result is not that of one long run."""
    began, resumed = _read_arguments(file), json.loads(json_text(arguments))
    # Published masks are cut per process, so there the split is part of the task.
    ignored = _SPLIT if "global_batch" in began and arguments["training"]["mask_truncation"] == "balanced" else ()
    changes = [
        f"{name} was {began[group].get(name)!r} and is {value!r}"
        for group, values in resumed.items()
        for name, value in values.items()
        if name not in ignored and began.get(group, {}).get(name, value) != value
    ]
    if changes:
        logger.warning(f"the run continues with other arguments than it began with: {log_line('; '.join(changes))}")


def _read_arguments(file: Path) -> dict[str, dict[str, Any]]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record, dict) and all(isinstance(group, dict) for group in record.values()):
            return record
        raise ValueError("it is not a record of arguments")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}): restore it, or delete it to resume without a comparison of the arguments"
        ) from error


# The run


def build(
    model_arguments: ModelArguments,
    data: DataArguments,
    training: VJEPATrainingArguments,
    *,
    given: Collection[str] = (),
) -> tuple[VJEPATrainer, str | None]:
    """
    The trainer of a pretraining, and the checkpoint from which it resumes (`None`: it starts). Writes
    `arguments.json` and `data.parquet` (see [`check_same_data`]) into the output folder of a new run.

    Args:
        given: names of arguments that were set on purpose, see [`choose_masks`].

    Raises:
        ValueError, OSError: arguments, data or checkpoint do not fit.
    """
    check_processes(training.world_size)
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    set_seed(training.seed)
    named, data = data, replace(data, dataset=list(data.dataset))
    place_synthetic_corpus(data, training)
    choose_masks(build_config(model_arguments, token=training.hub_token), training, given)
    with no_bars(wanted=training.disable_tqdm):
        model = build_model(model_arguments, training)
    sources, position = open_sources(data), StreamPosition()
    record, arguments = Path(training.output_dir, _ARGUMENTS), learning_arguments(model_arguments, data, training)
    arguments["global_batch"] = {"clips_per_step": training.clips_per_step}  # depends on the launch
    is_recorded = checkpoint is not None and record.is_file()
    corpora = {str(number): item.source for number, item in enumerate(sources)}
    if checkpoint:
        check_architecture(checkpoint, model.config)
    if training.process_index == 0:
        if checkpoint:
            check_same_data(record.with_name(DATA_RECORD), corpora, began=Path(checkpoint).with_name(DATA_RECORD))
        if is_recorded:
            _warn_of_changes(record, arguments)
        note_stills(sources, model_arguments, model.config)
    stream = build_stream(data, model.config, training, sources=sources, position=position)
    processor = video_processor(data, model.config)
    trainer = VJEPATrainer(model, training, stream, position=position, processing_class=processor)
    trainer.run_details = RunDetails(
        command="vjepa pretrain",
        sources=named.dataset,
        arguments=(model_arguments, named, training),
        heritage=heritage_of(model_arguments.init_from, token=training.hub_token),
        start=model_arguments.init_from,
        license=training.hub_license,
    )
    if training.process_index == 0 and checkpoint is None:
        check_same_data(record.with_name(DATA_RECORD), corpora, began=None)
    preview = build_stream(data, model.config, training, share=StreamShare(), shuffle_buffer=4)
    minutes = training.save_images_minutes
    trainer.images = TrainingImages(preview, collator=trainer.data_collator, processor=processor, minutes=minutes)
    trainer.add_callback(trainer.images)
    if training.process_index == 0 and not is_recorded:  # last: a command that fails leaves no file
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(record, json_text(arguments, sort_keys=True))
    if training.process_index == 0:
        files = (record, record.with_name(DATA_RECORD))
        trainer.records = {file.name: file.read_bytes() for file in files if file.is_file()}
    return trainer, checkpoint


def build_from_argv(argv: Sequence[str]) -> tuple[VJEPATrainer, str | None]:
    """[`build`] for a command line."""
    return build(*parse_arguments(argv), given=names_given(argv))


def train(trainer: VJEPATrainer, checkpoint: str | None = None) -> None:
    """
    Trains the steps that are left after `checkpoint`, and finishes the output folder once all steps are done: model,
    processors, state, images, model card. A run that was killed in between is finished by the same command.
    """
    args = trainer.args
    if checkpoint and trained_steps(checkpoint) >= args.max_steps:
        if trainer.is_world_process_zero():
            print(f"{checkpoint} has all {args.max_steps} steps: nothing left to train")
        trainer.state = read_state(checkpoint)
        if agreed(partial(is_finished, args.output_dir, steps=trainer.state.global_step)):
            return
        _restore(trainer, checkpoint)
    else:
        if checkpoint and trainer.is_world_process_zero():
            print(f"resuming from {checkpoint}, at step {trained_steps(checkpoint):,} of {args.max_steps:,}")
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step >= args.max_steps:
        trainer.stop_signal = 0  # too late to stop anything
        with checkpoint_errors(Path(args.output_dir) / SAFE_WEIGHTS_NAME):
            trainer.save_state()
            trainer.save_model()  # last, because it writes the model card and the manifest, and pushes


def _restore(trainer: VJEPATrainer, checkpoint: str) -> None:
    """The trainer as it was after its last step, to finish the output folder of a run that was killed then."""
    if trainer.is_world_process_zero():
        print(f"{trainer.args.output_dir} was not finished: the model is written from {checkpoint}")
    trainer.run_id = run_of(checkpoint) or trainer.run_id
    trainer.restore_position(checkpoint)
    trainer.seek_stream()  # for the number of clips on the model card
    with damaged_weights(checkpoint):
        trainer.model = type(trainer.model).from_pretrained(checkpoint)
    if trainer.images is not None:
        trainer.images.on_train_end(trainer.args, trainer.state, trainer.control)


def report(trainer: VJEPATrainer) -> None:
    """Prints what the run has done, and how to continue."""
    output_dir, state = Path(trainer.args.output_dir), trainer.state
    if trainer.commit_url:
        print(f"pushed:   {trainer.commit_url}")
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    change = f"; loss {losses[0]:.4f} -> {losses[-1]:.4f}" if losses else ""
    runtimes = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    resumed = f", {trainer.session_steps:,} of them" if trainer.session_steps < state.global_step else ""
    took = f"{resumed} in {duration_text(runtimes[-1])}" if runtimes and trainer.session_steps else ""
    print(f"\n{state.global_step:,} of {state.max_steps:,} steps{took}{change}")
    if trainer.stop_signal:
        print("stopped by a signal; continue with the same command and --resume_from_checkpoint auto")
    else:
        print(f"model:    {output_dir}   (AutoModel.from_pretrained loads the target encoder)")
        if (output_dir / "pictures").is_dir():  # absent without the extra viz
            print(f"pictures: {output_dir / 'pictures'}")


def run(argv: Sequence[str]) -> VJEPATrainer:
    """One pretraining from its command line. Mistakes and faults that the user can solve end it with one line."""
    with ExitStack() as stack:
        with user_errors():
            parsed = parse_arguments(argv)
            stack.enter_context(output_lock(parsed[2].output_dir))
            trainer, checkpoint = build(*parsed, given=names_given(argv))
        with user_errors(*FAULTS):
            train(trainer, checkpoint)
    if trainer.is_world_process_zero():
        report(trainer)
    return trainer
