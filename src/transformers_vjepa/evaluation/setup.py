"""From arguments to objects: splits, features, model and trainer of a probe or a fine-tuning."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..command_line.parsing import check_processes
from ..data.clip_reading import Decoding
from ..data.corpora import IndexedCorpus
from ..data.evaluation_clips import EvaluationClips
from ..data.labels import read_class_names
from ..data.splits import SplitError, SplitPlan, labelled_splits, manifest_hash, with_model_labels, write_manifests
from ..data.streaming import Augmentation, StreamPosition, StreamShare, clip_stream
from ..data.synthetic import build_corpus
from ..hub.loading import loading, without_load_report
from ..hub.model_card import RunDetails, heritage_of
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..training.checkpoints import resolve_checkpoint
from ..training.progress import no_bars
from .arguments import SYNTHETIC, SYNTHETIC_CLASSES, DataArguments, ModelArguments, parse_arguments
from .features import FeatureStore, write_features
from .probing import ProbeGrid, probe_settings
from .reports import check_classes, check_same_run
from .trainer import VJEPAClassificationArguments, VJEPAClassificationTrainer

logger = logging.get_logger(__name__)


def place_synthetic_corpus(data: DataArguments, training: VJEPAClassificationArguments) -> Sequence[str]:
    """Renders the built-in corpus where it is asked for, and names its index files instead; returns its classes."""
    if data.dataset not in SYNTHETIC:
        return ()
    label, root = SYNTHETIC[data.dataset], Path(training.output_dir).parent / "synthetic"
    if root == Path(training.output_dir):
        raise ValueError(f"--output_dir {root} is where the built-in corpus goes: choose another name")
    with training.main_process_first(desc="rendering the built-in corpus"):
        build_corpus(root)
    data.dataset = str(root / f"train_{label}.csv")
    if data.test_dataset is None and data.num_folds is None:
        data.test_dataset = str(root / f"test_{label}.csv")
    return SYNTHETIC_CLASSES[label]


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
        share=StreamShare.from_training_arguments(training),
        augmentation=Augmentation(
            crop_scale=tuple(data.crop_scale) if augment else (1.0, 1.0),
            crop_ratio=tuple(data.crop_ratio),
            flip_probability=data.flip_probability if augment else 0.0,
        ),
        decoding=Decoding(backend=data.decoder, max_broken_share=data.max_broken_share),
        num_segments=data.num_segments,
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
