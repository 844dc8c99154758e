"""From arguments to objects: configuration, masks, stream, model and trainer of a pretraining."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from safetensors import SafetensorError, safe_open
from transformers import TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..command_line.parsing import check_processes, names_given, user_errors
from ..data.clip_loader import WorkersLostError
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.corpora import FileCorpus
from ..data.lanes import StreamError
from ..data.streaming import CorpusSource, StreamPosition, clip_stream, open_source, parse_sources
from ..data.synthetic import build_corpus
from ..hub.loading import loading
from ..hub.model_card import INCIDENTAL, RunDetails, heritage_of
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.sanitizing import log_line, without_secrets
from ..training.checkpoints import (
    UnusableCheckpointError,
    checkpoint_errors,
    damaged_weights,
    resolve_checkpoint,
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

# Files that tell whether a corpus is one of pictures.
_PEEKED = 100
# What a run was asked for, in its output folder.
_ARGUMENTS = "arguments.json"
# How the clips of a step are shared out: `balanced` masks learn the same from any split of the same product.
_SPLIT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
# What ends a run with one line: no mistake of the command line, but something to mend all the same.
FAULTS = (
    UnusableCheckpointError,
    CollapseError,
    DivergedError,
    StreamError,
    TooManyBrokenVideosError,
    UnevenStreamError,
    WorkersLostError,
)
# The classes of the models by what they predict.
MODELS = {"features": VJEPAForPreTraining, "pixels": VJEPAForPixelPrediction}


def build_config(arguments: ModelArguments, *, token: str | None = None) -> VJEPAConfig:
    """The architecture: that of the preset or of `--init_from`, with the fields that are given."""
    fields_given = {
        item.name: getattr(arguments, item.name)
        for item in fields(arguments)
        if item.name not in ("preset", "init_from", "prediction_target") and getattr(arguments, item.name) is not None
    }
    if not arguments.init_from:
        if arguments.frames_per_clip == 1:
            fields_given = {"tubelet_size": 1} | fields_given
        return VJEPAConfig.from_preset(arguments.preset, **fields_given)
    with loading(arguments.init_from):
        config = VJEPAConfig.from_pretrained(arguments.init_from, token=token)
    for name, value in fields_given.items():
        # The weights hold at another size of the clip, and at no other architecture.
        if name not in ("crop_size", "frames_per_clip") and value != getattr(config, name):
            raise ValueError(
                f"{name}={value} differs from the {getattr(config, name)} of {arguments.init_from}: leave it out"
            )
    return VJEPAConfig(**(config.to_diff_dict() | fields_given))


def choose_masks(argv: list[str], config: VJEPAConfig, training: VJEPATrainingArguments) -> None:
    """Pictures cannot take the default masks, which recipes name, too: I-JEPA's, unless others are asked for."""
    if config.is_image_model and training.mask_strategy == "multiblock" and "mask_strategy" not in names_given(argv):
        training.mask_strategy = "image_multiblock"


def build_model(arguments: ModelArguments, training: VJEPATrainingArguments) -> VJEPAForPreTraining:
    """A new model, or the one of `--init_from`, with a mask token for each generator of the strategy."""
    config = build_config(arguments, token=training.hub_token)
    config.pred_num_mask_tokens = len(get_mask_strategy(training.mask_strategy, config=config))
    model_class = MODELS[arguments.prediction_target]
    if not arguments.init_from:
        return model_class(config)
    # Mask tokens of another number of generators start anew; all else has been checked to fit.
    return model_class.from_pretrained(
        arguments.init_from,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        token=training.hub_token,
    )


def clip_sampling(data: DataArguments, config: VJEPAConfig) -> ClipSampling:
    return ClipSampling(
        num_frames=config.frames_per_clip,
        frame_step=data.frame_step,
        target_fps=data.target_fps,
        duration=data.clip_duration,
        short_video=data.short_videos,
    )


def video_processor(data: DataArguments, config: VJEPAConfig) -> VJEPAVideoProcessor:
    """Samples and crops as the model is trained."""
    sampling = clip_sampling(data, config)
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
        "rank": training.process_index,
        "world_size": training.world_size,
        "num_workers": training.dataloader_num_workers,
        "batch_size": training.per_device_train_batch_size,
        "split": data.split,
        "video_column": data.video_column,
        "shuffle_buffer": data.shuffle_buffer,
        "crop_scale": tuple(data.crop_scale),
        "crop_ratio": tuple(data.crop_ratio),
        "flip_probability": data.flip_probability,
        "backend": data.decoder,
        "max_broken_share": data.max_broken_share,
        "decode_timeout": data.decode_timeout,
        "cache_bytes": data.cache_videos * 1_000_000,
    }
    return clip_stream(config=config, sampling=clip_sampling(data, config), **(settings | changes))


def open_sources(data: DataArguments) -> list[CorpusSource]:
    """The mix with its corpora found."""
    return [
        replace(item, source=open_source(item, split=data.split, video_column=data.video_column))
        for item in parse_sources(data.dataset)
    ]


def note_stills(sources: Sequence[CorpusSource], arguments: ModelArguments, config: VJEPAConfig) -> None:
    """Says what a new model of videos makes of files that are all pictures, as far as the first of them tell."""
    corpora = [item.source for item in sources]
    if config.is_image_model or arguments.init_from or not all(isinstance(corpus, FileCorpus) for corpus in corpora):
        return
    if all(corpus.read(index).is_image for corpus in corpora for index in range(min(len(corpus), _PEEKED))):
        logger.warning(
            f"the data are pictures: every clip is a still of {config.frames_per_clip} equal frames. "
            "--frames_per_clip 1 (I-JEPA) costs less"
        )


def synthetic_root(output_dir: str) -> Path:
    """Where the built-in corpus is kept: beside the runs that use it."""
    root = Path(output_dir).parent / "synthetic"
    if root == Path(output_dir):
        raise ValueError(f"--output_dir {output_dir} is where the built-in corpus goes: choose another name")
    return root


def place_synthetic_corpus(data: DataArguments, training: VJEPATrainingArguments) -> None:
    """Renders the built-in corpus where it is asked for, and names its folder instead."""
    for index, source in enumerate(data.dataset):
        name, *weight = source.split("=", 1)
        if name == "synthetic":
            root = synthetic_root(training.output_dir)
            with training.main_process_first(desc="rendering the built-in corpus"):
                build_corpus(root)
            data.dataset[index] = "=".join([str(root / "train"), *weight])


def learning_arguments(
    model: ModelArguments, data: DataArguments, training: VJEPATrainingArguments
) -> dict[str, dict[str, Any]]:
    """What decides what a run learns, by group, as it can be written to JSON: runs that agree in it are the same."""
    sources = [without_secrets(source) if "://" in source else os.path.abspath(source) for source in data.dataset]
    data = replace(data, dataset=sources)
    groups = {"model": asdict(model), "data": asdict(data), "training": training.to_dict()}
    return {
        group: {name: value for name, value in values.items() if not INCIDENTAL.fullmatch(name)}
        for group, values in groups.items()
    }


def global_batch(training: VJEPATrainingArguments) -> dict[str, dict[str, int]]:
    """A group for `arguments.json`: what an optimizer step sees, which depends on the launch, too."""
    clips = training.per_device_train_batch_size * training.world_size * training.gradient_accumulation_steps
    return {"global_batch": {"clips_per_step": clips}}


def record_arguments(output_dir: str, arguments: dict[str, dict[str, Any]]) -> None:
    """Leaves `arguments.json` in the output folder of a run that starts anew."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ARGUMENTS).write_text(json.dumps(arguments, indent=2, sort_keys=True) + "\n")


def check_architecture(checkpoint: str, config: VJEPAConfig) -> None:
    """
    Raises:
        ValueError: the checkpoint is of another architecture or geometry than is asked for.
    """
    theirs = VJEPAConfig.from_pretrained(checkpoint)
    for name in sorted(ARCHITECTURE - {"preset", "initializer_range"} | {"crop_size", "frames_per_clip"}):
        if getattr(theirs, name) != getattr(config, name):
            raise ValueError(
                f"{checkpoint} has {name}={getattr(theirs, name)}, and this command asks for {getattr(config, name)}: "
                "give the arguments with which the run began, or choose another --output_dir"
            )


def warn_of_other_arguments(output_dir: str, arguments: dict[str, dict[str, Any]]) -> None:
    """Says what a resumed run does otherwise than it began: it is not the run that was never stopped."""
    file = Path(output_dir, _ARGUMENTS)
    if not file.is_file():
        return
    began, goes_on = json.loads(file.read_text()), json.loads(json.dumps(arguments))
    # Published masks are cut per process, so there the split is part of the task.
    passed_over = _SPLIT if "global_batch" in began and arguments["training"]["mask_truncation"] == "balanced" else ()
    changes = [
        f"{name} was {began[group].get(name)!r} and is {value!r}"
        for group, values in goes_on.items()
        for name, value in values.items()
        if name not in passed_over and began.get(group, {}).get(name, value) != value
    ]
    if changes:
        logger.warning(f"the run goes on with other arguments than it began with: {log_line('; '.join(changes))}")


def run_details(model: ModelArguments, data: DataArguments, training: VJEPATrainingArguments) -> RunDetails:
    """What the model card tells of the command line."""
    return RunDetails(
        command="vjepa pretrain",
        sources=data.dataset,
        arguments=(model, data, training),
        heritage=heritage_of(model.init_from, token=training.hub_token),
        start=model.init_from,
        license=training.hub_license,
    )


def report(trainer: VJEPATrainer) -> None:
    """Says what happened and how to go on."""
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
        if (output_dir / "pictures").is_dir():  # they need the extra viz
            print(f"pictures: {output_dir / 'pictures'}")


def build(argv: list[str]) -> tuple[VJEPATrainer, str | None]:
    """The trainer of a command line, and the checkpoint it resumes from."""
    model_arguments, data, training = parse_arguments(argv)
    check_processes(training.world_size)
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    named = replace(data, dataset=list(data.dataset))  # as the user did
    set_seed(training.seed)
    place_synthetic_corpus(data, training)
    choose_masks(argv, build_config(model_arguments, token=training.hub_token), training)
    with no_bars(wanted=training.disable_tqdm):
        model = build_model(model_arguments, training)
    chosen = learning_arguments(model_arguments, data, training) | global_batch(training)
    if checkpoint:
        check_architecture(checkpoint, model.config)
        if training.process_index == 0:
            warn_of_other_arguments(training.output_dir, chosen)
    position = StreamPosition()
    sources = open_sources(data)
    if training.process_index == 0:
        note_stills(sources, model_arguments, model.config)
    stream = build_stream(data, model.config, training, sources=sources, position=position)
    processor = video_processor(data, model.config)
    trainer = VJEPATrainer(model, training, stream, position=position, processing_class=processor)
    trainer.run_details = run_details(model_arguments, named, training)
    preview = build_stream(data, model.config, training, num_workers=0, rank=0, world_size=1, shuffle_buffer=4)
    trainer.add_callback(TrainingImages(preview, collator=trainer.data_collator, processor=processor))
    if training.process_index == 0 and not (checkpoint and Path(training.output_dir, _ARGUMENTS).is_file()):
        record_arguments(training.output_dir, chosen)  # last: a command that fails leaves nothing
    return trainer, checkpoint


def _is_whole(file: Path) -> bool:
    """Whether a run was not stopped before, or while, it saved its model."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def train(trainer: VJEPATrainer, checkpoint: str | None) -> None:
    """Trains what is left to train, and saves the model once all steps are done."""
    if checkpoint and trained_steps(checkpoint) >= trainer.args.max_steps:
        print(f"{checkpoint} has all {trainer.args.max_steps} steps: nothing left to train")
        if _is_whole(Path(trainer.args.output_dir) / SAFE_WEIGHTS_NAME):  # nor to save
            trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            return
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        trainer.restore_position(checkpoint)
        trainer.seek_stream()  # the card tells how many clips were seen
        with damaged_weights(checkpoint):
            trainer.model = type(trainer.model).from_pretrained(checkpoint)
    else:
        if checkpoint and trainer.is_world_process_zero():
            print(f"going on from {checkpoint}, at step {trained_steps(checkpoint):,} of {trainer.args.max_steps:,}")
        trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step >= trainer.args.max_steps:
        trainer.stop_signal = 0  # too late to stop anything
        output_dir = Path(trainer.args.output_dir)
        with checkpoint_errors(output_dir / SAFE_WEIGHTS_NAME):
            trainer.save_state()
            trainer.save_model()  # last: it writes the card, and pushes


def run_pretraining(argv: list[str]) -> VJEPATrainer:
    """One pretraining run from its command line; a mistake or a fault that the user can mend ends it with one line."""
    with user_errors():
        trainer, checkpoint = build(argv)
    with user_errors(*FAULTS):
        train(trainer, checkpoint)
    if trainer.is_world_process_zero():
        report(trainer)
    return trainer
