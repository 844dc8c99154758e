"""
Train a classifier on labelled videos or pictures: a probe on the frozen encoder, or the whole network.

    vjepa train_classifier --model outputs/demo --dataset videos/ --output_dir outputs/probe
    vjepa train_classifier --mode finetune --model outputs/demo --dataset videos/ --output_dir outputs/fine
    accelerate launch -m transformers_vjepa train_classifier --config probe_k400_vitl16 \\
        --model CONVERTED --dataset k400_train.csv --validation_dataset k400_val.csv

Probes of several learning rates and weight decays are trained in one pass over the features. At the end the one with
the best accuracy on the validation clips is kept; test clips are looked at once, after that. The output folder is a
model that AutoModelForVideoClassification and pipeline("video-classification") load, or those for images, with
results.json, the predictions for each split, and pictures.

A recipe (--config, a YAML file) gives defaults for any of the arguments below; the command line overrides it.
"""

import copy
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.utils import logging

from .. import (
    PRESETS,
    ClipSampling,
    StreamPosition,
    VJEPAConfig,
    VJEPAForVideoClassification,
    VJEPAVideoProcessor,
    clip_stream,
)
from ..checkpoints import UnusableCheckpointError, resolve_checkpoint
from ..classification_report import check_classes, check_same_run, finish_run
from ..classification_trainer import (
    UnusableSplitError,
    VJEPAClassificationArguments,
    VJEPAClassificationTrainer,
)
from ..clip_loader import WorkersLostError
from ..clip_reading import TooManyBrokenVideosError
from ..command_line import MISTAKES, check_processes, names_given, parse_with_recipe, user_errors
from ..corpora import IndexedCorpus
from ..dry_run import bytes_text, check_writable, classifier_rows, corpus_rows, table
from ..evaluation import without_load_report
from ..evaluation_clips import EvaluationClips
from ..features import FeatureStore, write_features
from ..hub import loading
from ..label_sets import read_class_names
from ..labelled_splits import SplitPlan, labelled_splits, with_model_labels, write_manifests
from ..model_card import RunDetails
from ..model_heritage import heritage_of
from ..probing import ProbeGrid, probe_settings
from ..splits import SplitError, manifest_hash
from ..stream_trainer import DivergedError
from ..streaming import StreamError
from ..synthetic import APPEARANCES, MOTIONS, build_corpus
from ..training_progress import no_bars

logger = logging.get_logger(__name__)


@dataclass
class ModelArguments:
    """What is trained."""

    _argument_group_name = "model"

    mode: Literal["probe", "finetune"] = field(
        default="probe", metadata={"help": "Train a probe on the frozen encoder, or the whole network."}
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id: a pretraining checkpoint (its target encoder is used), a base model or a "
            "classifier. With --random_encoder also an architecture by name."
        },
    )
    random_encoder: bool = field(
        default=False, metadata={"help": "Do not load the weights: an untrained encoder of the same architecture."}
    )
    pooling: Literal["attentive", "mean"] = field(
        default="attentive", metadata={"help": "How the classifier pools the tokens."}
    )
    num_pooler_layers: int = field(
        default=0, metadata={"help": "Self-attention blocks after the cross-attention of the pooler."}
    )
    drop_path_rate: float = field(default=0.0, metadata={"help": "Fine-tuning: stochastic depth at the last block."})
    crop_size: int | None = field(default=None, metadata={"help": "Side of a clip in pixels, if not the model's."})
    frames_per_clip: int | None = field(default=None, metadata={"help": "Frames of a clip, if not the model's."})


@dataclass
class DataArguments:
    """Labelled clips, how they are divided, and how they are cut."""

    _argument_group_name = "data"

    dataset: str = field(
        default="synthetic:motion",
        metadata={
            "help": "A folder with a folder of videos or pictures for each class, a text or CSV index ('path label' "
            "or 'path,class name' in each line), a tar, Parquet, or a pattern. 'synthetic:motion' and "
            "'synthetic:appearance' are the built-in corpus, rendered beside the output folder, with its test clips."
        },
    )
    validation_dataset: str | None = field(default=None, metadata={"help": "Clips to choose by, if given apart."})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Else this share of each class (or of the groups) chooses; 0: nothing does."}
    )
    test_dataset: str | None = field(default=None, metadata={"help": "Clips to test on, if given apart."})
    num_folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: divide the groups (--group_pattern) into so many folds; --fold is tested on."
        },
    )
    fold: int | None = field(
        default=None,
        metadata={"help": "The fold that this run tests on, from 0 to num_folds - 1; the others train it."},
    )
    group_pattern: str | None = field(
        default=None,
        metadata={"help": "Regular expression whose bracket finds the group of a clip in its path; never divided."},
    )
    train_fraction: float = field(default=1.0, metadata={"help": "Share of the training clips of each class to use."})
    split_seed: int = field(default=0, metadata={"help": "Draws these shares."})
    labels: str | None = field(
        default=None,
        metadata={"help": "File with names of numbered classes: one in a line, from 0 on."},
    )
    video_column: str | None = field(default=None, metadata={"help": "Column of a Parquet data set."})
    augment: bool | None = field(
        default=None,
        metadata={
            "help": "Random clips and crops anew in each epoch. Without, probes are trained on features that are "
            "computed once. Default: for fine-tuning."
        },
    )
    num_segments: int = field(default=1, metadata={"help": "Clips of each video, pooled together."})
    num_views: int = field(default=1, metadata={"help": "Crops of each clip in evaluation, averaged."})
    frame_step: int | None = field(
        default=None,
        metadata={"help": "Frames from one frame of a clip to the next. Default: as the model was trained, or 4."},
    )
    target_fps: float | None = field(default=None, metadata={"help": "Frames per second of a clip, instead."})
    clip_duration: float | None = field(default=None, metadata={"help": "Seconds that a clip lasts, instead."})
    spacing: Literal["stride", "linspace"] = field(
        default="stride", metadata={"help": "Place frames at the exact step, or as the published evaluation does."}
    )
    short_videos: Literal["repeat_last", "refuse"] = field(
        default="repeat_last",
        metadata={"help": "Videos that end before a clip does: repeat their last frame, or leave them out as broken."},
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.3, 1.0], metadata={"help": "Least and largest area of a random crop."}
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [0.75, 1.35], metadata={"help": "Least and largest width/height of a random crop."}
    )
    flip_probability: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    decoder: Literal["pyav", "decord", "torchcodec"] = field(default="pyav", metadata={"help": "Video decoder."})
    max_broken_share: float = field(
        default=0.05,
        metadata={"help": "Stop above this share of broken videos among the last 1,000, from 20 of them on."},
    )
    feature_dtype: Literal["float16", "bfloat16", "float32"] = field(
        default="float16", metadata={"help": "Type of stored features."}
    )


Arguments = tuple[ModelArguments, DataArguments, VJEPAClassificationArguments]

_SPACINGS = {"frame_step", "target_fps", "clip_duration"}
_SYNTHETIC = {"synthetic": "motion", "synthetic:motion": "motion", "synthetic:appearance": "appearance"}
# What a mode does not use, and what is laid out by epochs: asking for it is a mistake.
_IDLE = {
    "probe": {"learning_rate", "weight_decay", "layer_decay", "mixup", "cutmix", "label_smoothing_factor"}
    | {"drop_path_rate"},
    "finetune": {"learning_rates", "weight_decays", "feature_dtype"},
}
_LAID_OUT = {"eval_strategy", "eval_steps", "save_steps", "metric_for_best_model", "greater_is_better"}
_SYNTHETIC_CLASSES = {"motion": MOTIONS, "appearance": APPEARANCES}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Command line over recipe over defaults."""
    parsed = parse_with_recipe(
        argv,
        (ModelArguments, DataArguments, VJEPAClassificationArguments),
        description=__doc__,
        recipe_help="recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments; "
        "probe_tiny where neither this nor --model or --dataset is given",
        default_recipe=lambda given: None if given & {"model", "dataset"} else "probe_tiny",
        overridden=lambda given: _SPACINGS if given & _SPACINGS else set(),
        use_cpu=not torch.accelerator.is_available(),
        dry_run_help="Say what would be done: sizes, memory, splits, steps, first videos; then exit.",
    )
    mode = parsed[0].mode
    if fixed := sorted(names_given(argv) & _LAID_OUT):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in fixed)}: when a run evaluates and saves follows from its length: "
            "leave it out"
        )
    if idle := sorted(names_given(argv) & _IDLE[mode]):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in idle)} would do nothing with --mode {mode}: leave it out"
            + (" (probes take --learning_rates and --weight_decays)" if mode == "probe" else "")
        )
    return parsed


# Data


def place_synthetic_corpus(data: DataArguments, training: VJEPAClassificationArguments) -> Sequence[str]:
    """Renders the built-in corpus where it is asked for, and names its index files instead; returns its classes."""
    if data.dataset not in _SYNTHETIC:
        return ()
    label, root = _SYNTHETIC[data.dataset], Path(training.output_dir).parent / "synthetic"
    if root == Path(training.output_dir):
        raise ValueError(f"--output_dir {root} is where the built-in corpus goes: choose another name")
    with training.main_process_first(desc="rendering the built-in corpus"):
        build_corpus(root)
    data.dataset = str(root / f"train_{label}.csv")
    if data.test_dataset is None and data.num_folds is None:
        data.test_dataset = str(root / f"test_{label}.csv")
    return _SYNTHETIC_CLASSES[label]


def open_splits(data: DataArguments) -> dict[str, IndexedCorpus]:
    plan = SplitPlan(
        validation_fraction=data.validation_fraction,
        num_folds=data.num_folds,
        fold=data.fold,
        group_pattern=data.group_pattern,
        train_fraction=data.train_fraction,
        seed=data.split_seed,
    )
    return labelled_splits(
        data.dataset,
        plan,
        validation_dataset=data.validation_dataset,
        test_dataset=data.test_dataset,
        video_column=data.video_column,
    )


def class_names(data: DataArguments, train: IndexedCorpus, synthetic: Sequence[str]) -> list[str]:
    """Names of the classes in the order of the model's: given, of the folders, or made up."""
    highest = int(train.labels.max())
    if data.labels:
        names = read_class_names(data.labels)
        if highest >= len(names) and not train.class_names:
            raise SplitError(
                f"{data.labels} names {len(names)} classes, and {data.dataset} has labels up to {highest}: give a "
                "name for each, one in a line, from 0 on"
            )
        return names
    names = list(synthetic or train.class_names)
    names = names or [f"LABEL_{label}" for label in range(highest + 1)]
    if len(names) < 2:
        raise SplitError(f"{data.dataset} has clips of one class only, {names[0]}: add those of another one")
    if empty := len(names) - len(set(train.labels.tolist())):
        logger.warning(f"{empty} of the {len(names)} classes have no training clip: number them without gaps")
    return names


def clip_sampling(data: DataArguments, config: VJEPAConfig, processor: VJEPAVideoProcessor) -> ClipSampling:
    """As the processor takes its frames, and so as the model was trained, where the command line says nothing."""
    return processor.clip_sampling(
        num_frames=config.frames_per_clip,
        frame_step=data.frame_step,
        target_fps=data.target_fps,
        duration=data.clip_duration,
        short_video=data.short_videos,
        spacing=data.spacing,
    )


def store_features(
    model: VJEPAForVideoClassification,
    corpora: dict[str, IndexedCorpus],
    data: DataArguments,
    training: VJEPAClassificationArguments,
    **settings: Any,
) -> dict[str, Dataset]:
    """Features of every split, computed where the output folder does not have them yet."""
    encoder = model.vjepa
    if training.bf16:
        encoder = copy.deepcopy(encoder).to(torch.bfloat16)
    encoder.to(training.device)
    stores = {}
    for name, corpus in corpora.items():
        folder = Path(training.output_dir) / "features" / name
        write_features(
            encoder,
            corpus,
            folder,
            kind="mean" if model.config.pooling == "mean" else "tokens",
            dtype=data.feature_dtype,
            batch_size=training.per_device_eval_batch_size,
            num_workers=training.dataloader_num_workers,
            max_broken_share=data.max_broken_share,
            rank=training.process_index,
            world_size=training.world_size,
            progress=training.process_index == 0 and not training.disable_tqdm,
            **settings,
        )
        PartialState().wait_for_everyone()
        stores[name] = FeatureStore(folder)
    return stores


def training_stream(
    corpus: IndexedCorpus,
    data: DataArguments,
    training: VJEPAClassificationArguments,
    *,
    augment: bool,
    **settings: Any,
) -> Any:
    """Training clips of this process; without augmentation, the whole picture is all that is cropped."""
    return clip_stream(
        corpus,
        seed=training.seed,
        rank=training.process_index,
        world_size=training.world_size,
        num_workers=training.dataloader_num_workers,
        batch_size=training.per_device_train_batch_size,
        num_segments=data.num_segments,
        crop_scale=tuple(data.crop_scale) if augment else (1.0, 1.0),
        crop_ratio=tuple(data.crop_ratio),
        flip_probability=data.flip_probability if augment else 0.0,
        backend=data.decoder,
        max_broken_share=data.max_broken_share,
        **settings,
    )


def build_datasets(
    model: VJEPAForVideoClassification,
    corpora: dict[str, IndexedCorpus],
    arguments: ModelArguments,
    data: DataArguments,
    training: VJEPAClassificationArguments,
    *,
    sampling: ClipSampling,
    processor: VJEPAVideoProcessor,
    position: StreamPosition,
) -> dict[str, Any]:
    """For every split features, or clips: a stream to train on, and each clip once to evaluate."""
    views = {"num_segments": data.num_segments, "num_views": data.num_views, "backend": data.decoder}
    augment = arguments.mode == "finetune" if data.augment is None else data.augment
    if arguments.mode == "probe" and not augment:
        stores = store_features(model, corpora, data, training, sampling=sampling, processor=processor, **views)
        check_classes(stores["train"], model.config, corpora["train"].labels.tolist())
        return stores
    config = model.config
    datasets: dict[str, Any] = {
        name: EvaluationClips(corpus, crop_size=config.crop_size, sampling=sampling, **views)
        for name, corpus in corpora.items()
    }
    datasets["train"] = training_stream(
        corpora["train"], data, training, config=config, sampling=sampling, position=position, augment=augment
    )
    return datasets


# Model


def load_config(arguments: ModelArguments, *, token: str | None = None) -> VJEPAConfig:
    """The architecture of `--model`; the first thing to fail where there is no such model."""
    if arguments.model is None:
        raise ValueError("no model: give a pretraining checkpoint, a model folder or a Hub id with --model")
    if arguments.random_encoder and arguments.model in PRESETS:
        return VJEPAConfig.from_preset(arguments.model)
    try:
        with loading(arguments.model):
            return VJEPAConfig.from_pretrained(arguments.model, token=token)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--model {arguments.model} is no model folder here (vjepa demo makes outputs/demo), and cannot be "
            f"loaded from the Hub either: {reason}"
        ) from error


def classifier_config(arguments: ModelArguments, config: VJEPAConfig, names: Sequence[str]) -> VJEPAConfig:
    """That of the encoder, with pooler, classes and the fields that are given."""
    fields = {
        "pooling": arguments.pooling,
        "num_pooler_layers": arguments.num_pooler_layers,
        "drop_path_rate": arguments.drop_path_rate if arguments.mode == "finetune" else 0.0,
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }
    fields |= {name: getattr(arguments, name) for name in ("crop_size", "frames_per_clip") if getattr(arguments, name)}
    return VJEPAConfig(**(config.to_diff_dict() | fields))


def build_model(
    arguments: ModelArguments, config: VJEPAConfig, names: Sequence[str], *, token: str | None = None
) -> VJEPAForVideoClassification:
    """A classifier with the encoder of `--model`, or an untrained one, and a new pooler and head."""
    config = classifier_config(arguments, config, names)
    if arguments.random_encoder:
        return VJEPAForVideoClassification(config)
    return load_encoder(arguments.model, config, token=token)


def load_encoder(name: str, config: VJEPAConfig, *, token: str | None = None) -> VJEPAForVideoClassification:
    """A classifier with the encoder of a model; its pooler and head, too, if it has them in the same sizes."""
    try:
        with without_load_report():  # that pooler and head are new would be a long warning
            model, info = VJEPAForVideoClassification.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                token=token,
            )
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged ({error}): copy or download them again") from error
    if lost := sorted(key for key in info["missing_keys"] if key.startswith("vjepa.")):
        raise ValueError(f"{name} has no weights for {lost[0]} ({len(lost)} missing): it holds no V-JEPA encoder")
    return model


def load_processor(
    arguments: ModelArguments, data: DataArguments, config: VJEPAConfig, *, token: str | None = None
) -> tuple[VJEPAVideoProcessor, ClipSampling]:
    """The processor of the model with the settings of this run, and the sampling of its clips."""
    processor = VJEPAVideoProcessor.for_config(config)
    if arguments.model not in PRESETS:
        with suppress(OSError):  # a folder without one
            processor = VJEPAVideoProcessor.from_pretrained(arguments.model, crop_size=config.crop_size, token=token)
    sampling = clip_sampling(data, config, processor)
    processor = VJEPAVideoProcessor(
        crop_size=config.crop_size,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        num_frames=config.frames_per_clip,
        frame_step=sampling.frame_step or processor.frame_step,
        fps=sampling.clip_fps,
    )
    return processor, sampling


# The run


def run_details(arguments: ModelArguments, data: DataArguments, training: VJEPAClassificationArguments) -> RunDetails:
    """What the model card tells of the command line."""
    start = None if arguments.random_encoder else arguments.model
    return RunDetails(
        command="vjepa train_classifier",
        sources=[source for source in (data.dataset, data.validation_dataset, data.test_dataset) if source],
        arguments=(arguments, data, training),
        heritage=heritage_of(start, token=training.hub_token),
        start=start,
        license=training.hub_license,
    )


def build(argv: Sequence[str]) -> tuple[VJEPAClassificationTrainer, dict[str, Any], str | None]:
    """The trainer of a command line, what `finish_run` needs besides, and the checkpoint to resume from."""
    arguments, data, training = parse_arguments(argv)
    check_processes(training.world_size)
    if missing := [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]:
        raise ValueError(f"no {' and no '.join(missing)}: pip install transformers_vjepa[probe,viz]")
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    named, asked = replace(data), copy.copy(training)  # as the user did
    settings = [] if arguments.mode == "finetune" else probe_settings(training.learning_rates, training.weight_decays)
    config = load_config(arguments, token=training.hub_token)
    synthetic = place_synthetic_corpus(data, training)
    corpora = open_splits(data)
    if len(settings) > 1 and "validation" not in corpora:
        raise SplitError(
            f"{len(settings)} probes and no validation clips to choose by: give one of --learning_rates and of "
            "--weight_decays, or validation clips"
        )
    set_seed(training.seed)
    names = class_names(data, corpora["train"], synthetic)
    with no_bars(wanted=training.disable_tqdm):
        model = build_model(arguments, config, names, token=training.hub_token)
    corpora = with_model_labels(corpora, model.config)
    processor, sampling = load_processor(arguments, data, model.config, token=training.hub_token)
    manifests = {name: manifest_hash(corpus) for name, corpus in corpora.items()}
    with training.main_process_first(desc="run.json"):
        run = check_same_run(training, {**vars(arguments), **vars(data)}, manifests, resumes=checkpoint is not None)
    if training.process_index == 0:
        write_manifests(corpora, Path(training.output_dir))

    position = StreamPosition()
    datasets = build_datasets(
        model, corpora, arguments, data, training, sampling=sampling, processor=processor, position=position
    )
    training.lay_out_steps(num_clips=len(corpora["train"]), has_validation="validation" in datasets)
    trainer = VJEPAClassificationTrainer(
        ProbeGrid(model.config, settings) if settings else model,
        training,
        datasets["train"],
        datasets.get("validation"),
        encoder=model if settings else None,
        position=position,
        processing_class=processor,
    )
    trainer.run_details = run_details(arguments, named, asked)
    evaluated = {name: datasets[name] for name in ("validation", "test") if name in datasets}
    return trainer, {"model": model, "corpora": corpora, "datasets": evaluated, "run": run}, checkpoint


def describe(argv: Sequence[str]) -> str:
    """What a command line would do (`--dry_run`): nothing is trained or written."""
    arguments, data, training = parse_arguments(argv)
    check_writable(training.output_dir)
    config = load_config(arguments, token=training.hub_token)
    synthetic = place_synthetic_corpus(data, training)
    corpora = open_splits(data)
    names = class_names(data, corpora["train"], synthetic)
    with torch.device("meta"):
        model = VJEPAForVideoClassification(classifier_config(arguments, config, names))
    epoch = training.lay_out_steps(num_clips=len(corpora["train"]), has_validation="validation" in corpora)
    finetune = arguments.mode == "finetune"
    rows = classifier_rows(
        model, batch_size=training.per_device_train_batch_size, finetune=finetune, bf16=training.bf16
    )
    clips = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    rows.append(
        (
            "steps",
            f"{training.max_steps:,} of {clips} clips, {epoch:,} an epoch; evaluation every {training.save_steps:,}",
        )
    )
    if not finetune:
        rates, decays = (" ".join(map(str, values)) for values in (training.learning_rates, training.weight_decays))
        rows.append(("probes", f"learning rates {rates}, each with weight decays {decays}"))
        if not data.augment:
            tokens = 1 if model.config.pooling == "mean" else model.config.num_patches
            size = getattr(torch, data.feature_dtype).itemsize * tokens * data.num_segments * model.config.hidden_size
            total = sum(map(len, corpora.values())) * size * data.num_views
            rows.append(("features", f"{bytes_text(total)} on disk, in {training.output_dir}/features"))
    return table([*rows, *corpus_rows(corpora), ("output", str(training.output_dir))])


def run(argv: Sequence[str]) -> VJEPAClassificationTrainer | None:
    """One training run from its command line, `None` of a dry one; what the user can mend ends it with one line."""
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, TooManyBrokenVideosError):
            print(describe(argv))
        return None
    with user_errors(*MISTAKES, TooManyBrokenVideosError):
        trainer, rest, checkpoint = build(argv)
    with user_errors(
        UnusableCheckpointError,
        DivergedError,
        StreamError,
        TooManyBrokenVideosError,
        UnusableSplitError,
        WorkersLostError,
    ):
        trainer.train_or_restore(checkpoint)
        if not trainer.stop_signal:
            with no_bars(wanted=trainer.args.disable_tqdm):
                summary = finish_run(trainer, **rest)
    if trainer.is_world_process_zero():
        if trainer.stop_signal:
            print("stopped by a signal; continue with the same command and --resume_from_checkpoint auto")
        else:
            trainer.finish()
            print(summary)
    return trainer


def main() -> None:
    trainer = run(sys.argv[1:])
    if trainer and trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)  # the shell's convention for an end by signal
