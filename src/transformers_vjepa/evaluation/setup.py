"""
From arguments to objects: splits, features, model and trainer of a probe or of fine-tuning.

    run = build(ModelArguments(...), DataArguments(...), VJEPAClassificationArguments(...))
    run.train()
    print(run.finish())
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..command_line.parsing import check_processes
from ..data.class_numbers import are_numbers, as_number, check_distinct
from ..data.clip_reading import Decoding
from ..data.corpus import IndexedCorpus
from ..data.evaluation_clips import ClipGeometry, EvaluationClips
from ..data.fingerprints import DATA_RECORD, check_same_data
from ..data.labels import LabelError, generic_class_names, read_class_names
from ..data.splits import (
    SplitError,
    SplitPlan,
    class_names_of,
    labelled_splits,
    manifest_hash,
    with_classes,
    write_manifests,
)
from ..data.streaming import Augmentation, StreamPosition, StreamShare, clip_stream
from ..hub.loading import load_model, load_processor, read_config, refuse_other_sizes, without_load_report
from ..hub.model_card import RunDetails, heritage_of
from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..training.checkpoints import resolve_checkpoint
from ..training.progress import no_bars
from .arguments import SYNTHETIC, SYNTHETIC_CLASSES, Arguments, DataArguments, ModelArguments
from .features import FeatureSettings, FeatureStore, weights_hash, write_features
from .probing import ProbeGrid
from .reports import CLASSES_RECORD, check_classes, check_same_run, finish_run
from .shards import PassOptions
from .trainer import VJEPAClassificationArguments, VJEPAClassificationTrainer

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ClassifierRun:
    """
    A training run that is ready to start, see [`build`].

    Attributes:
        trainer: trains the probes or the whole network.
        model: the classifier that the output folder gets.
        corpora: the clips of each split.
        datasets: validation and test data, by split.
        record: arguments and hashes of the clips, as in `run.json`.
        checkpoint: the folder to resume from, if any.
    """

    trainer: VJEPAClassificationTrainer
    model: VJEPAForVideoClassification
    corpora: Mapping[str, IndexedCorpus]
    datasets: Mapping[str, Dataset]
    record: Mapping[str, Any]
    checkpoint: str | None

    def train(self) -> None:
        """Trains from the start or from the checkpoint, see [`VJEPAClassificationTrainer.train_or_restore`]."""
        self.trainer.train_or_restore(self.checkpoint)

    def finish(self) -> str:
        """Writes model, predictions and results to the output folder, and returns a summary; see [`finish_run`]."""
        return finish_run(
            self.trainer, model=self.model, corpora=self.corpora, datasets=self.datasets, run=self.record
        )


# Data ----------------------------------------------------------------------------------------------------


def place_synthetic_corpus(arguments: Arguments) -> tuple[Arguments, Sequence[str]]:
    """
    Renders the built-in corpus if `arguments` name it. Returns the arguments with its index files, and its classes; or
    the same arguments and no classes.
    """
    data, training = arguments.data, arguments.training
    if data.dataset not in SYNTHETIC:
        return arguments, ()
    label, root = SYNTHETIC[data.dataset], training.render_corpus()
    test = data.test_dataset
    if test is None and data.num_folds is None:
        test = str(root / f"test_{label}.csv")
    data = replace(data, dataset=str(root / f"train_{label}.csv"), test_dataset=test)
    return arguments._replace(data=data), SYNTHETIC_CLASSES[label]


def open_splits(data: DataArguments) -> dict[str, IndexedCorpus]:
    """The clips of each split: `"train"` and, if there are any, `"validation"` and `"test"`."""
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
        label_column=data.label_column,
    )


def class_names(data: DataArguments, corpora: Mapping[str, IndexedCorpus], synthetic: Sequence[str]) -> list[str]:
    """
    Names of the classes in the order of the model: from `--labels`, or from the data set. Numbers that occur as labels
    are the names of their classes, but if they are 0, 1, 2 ... without gaps, the names are LABEL_0, LABEL_1 ...
    """
    found = class_names_of(dict(corpora))
    if data.labels:
        number = max(map(as_number, found)) + 1 if are_numbers(found) else None
        try:
            names = read_class_names(data.labels, number, more_with_ids=True)
        except LabelError as error:
            hint = "" if number is None else f" ({data.dataset} has labels up to {number - 1})"
            raise SplitError(f"{error}{hint}") from error
        check_distinct(names, source=data.labels)
    elif synthetic:
        names = list(synthetic)
    elif corpora["train"].class_names or found != [str(label) for label in range(len(found))]:
        names = found
    else:
        names = generic_class_names(len(found))
    if len(names) < 2:
        raise SplitError(f"{data.dataset} has clips of one class only, {names[0]}: add clips of another class")
    return names


def store_features(
    encoder: VJEPAModel,
    corpora: Mapping[str, IndexedCorpus],
    arguments: Arguments,
    *,
    geometry: ClipGeometry,
    processor: VJEPAVideoProcessor,
) -> dict[str, FeatureStore]:
    """Features of each split. Features that the output folder has already are not computed again."""
    _, data, training = arguments
    if training.bf16:
        encoder = copy.deepcopy(encoder).to(torch.bfloat16)
    encoder.to(training.device)
    kind = "mean" if encoder.config.pooling == "mean" else "tokens"
    options = PassOptions(
        batch_size=training.per_device_eval_batch_size,
        num_workers=training.dataloader_num_workers,
        max_broken_share=data.max_broken_share,
        rank=training.process_index,
        world_size=training.world_size,
        progress=training.process_index == 0 and not training.disable_tqdm,
    )
    settings = FeatureSettings(kind=kind, dtype=data.feature_dtype, num_layers=encoder.config.num_pooled_layers)
    stores = {}
    for name, corpus in corpora.items():
        folder = Path(training.output_dir) / "features" / name
        write_features(
            encoder, corpus, folder, features=settings, geometry=geometry, processor=processor, options=options
        )
        PartialState().wait_for_everyone()
        stores[name] = FeatureStore(folder)
    return stores


def build_datasets(
    model: VJEPAForVideoClassification,
    corpora: Mapping[str, IndexedCorpus],
    arguments: Arguments,
    *,
    processor: VJEPAVideoProcessor,
    geometry: ClipGeometry,
    position: StreamPosition,
) -> dict[str, Any]:
    """Features of each split; or clips: a stream for training, and every clip once for evaluation."""
    choices, data, training = arguments
    augment = arguments.augments
    if choices.mode == "probe" and not augment:
        stores = store_features(model.vjepa, corpora, arguments, geometry=geometry, processor=processor)
        check_classes(stores["train"], model.config, corpora["train"].labels.tolist())
        return stores
    datasets: dict[str, Any] = {name: EvaluationClips(corpus, geometry) for name, corpus in corpora.items()}
    datasets["train"] = clip_stream(
        corpora["train"],
        config=model.config,
        sampling=geometry.sampling,
        position=position,
        seed=training.seed,
        share=StreamShare.from_training_arguments(training),
        augmentation=Augmentation(
            crop_scale=tuple(data.crop_scale) if augment else (1.0, 1.0),
            crop_ratio=tuple(data.crop_ratio),
            flip_probability=data.flip_probability if augment else 0.0,
            auto_augment=data.auto_augment if augment else "none",
            crop=data.train_crop,
        ),
        decoding=Decoding(backend=data.decoder, max_broken_share=data.max_broken_share),
        num_segments=data.num_segments,
    )
    return datasets


# Model ---------------------------------------------------------------------------------------------------


def load_config(arguments: Arguments) -> VJEPAConfig:
    """
    The architecture of `--model`. It is loaded before anything else, so that a wrong name fails at once.

    Raises:
        ValueError: no model of this name.
    """
    name = arguments.model.model
    if name is None:
        raise ValueError("no model: give a pretraining checkpoint, a model folder or a Hub id with --model")
    if arguments.model.random_encoder and name in PRESETS:
        return VJEPAConfig.from_preset(name)
    try:
        return read_config(name, token=arguments.training.hub_token)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--model {name} is not a model folder here (vjepa demo makes outputs/demo) and cannot be "
            f"loaded from the Hub: {reason}"
        ) from error


def classifier_config(arguments: ModelArguments, config: VJEPAConfig, names: Sequence[str]) -> VJEPAConfig:
    """The configuration of the encoder with pooler, classes and the fields that the arguments give."""
    fields = {
        "pooling": "mean" if arguments.mode == "knn" else arguments.pooling,
        "num_pooled_layers": arguments.num_pooled_layers,
        "pooled_batch_norm": arguments.pooled_batch_norm,
        "num_pooler_layers": arguments.num_pooler_layers,
        "drop_path_rate": arguments.drop_path_rate if arguments.mode == "finetune" else 0.0,
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }
    fields |= {name: getattr(arguments, name) for name in ("crop_size", "frames_per_clip") if getattr(arguments, name)}
    return VJEPAConfig(**(config.to_diff_dict() | fields))


def build_model(arguments: Arguments, config: VJEPAConfig, names: Sequence[str]) -> VJEPAForVideoClassification:
    """
    A classifier with the encoder of `--model` or an untrained encoder. Pooler and head are new, unless the model has
    them in the same sizes.

    Raises:
        ValueError: damaged weights, a model without a V-JEPA encoder, or an encoder of other sizes than its
            configuration.
    """
    config, name = classifier_config(arguments.model, config, names), arguments.model.model
    if arguments.model.random_encoder:
        return VJEPAForVideoClassification(config)
    try:
        with without_load_report():  # a long warning would say that pooler and head are new
            model, info = load_model(
                VJEPAForVideoClassification,
                name,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                token=arguments.training.hub_token,
            )
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged ({error}): copy or download them again") from error
    if lost := sorted(key for key in info["missing_keys"] if key.startswith("vjepa.")):
        raise ValueError(
            f"{name} has no weights for {lost[0]} ({len(lost)} missing), so it holds no V-JEPA encoder: give a V-JEPA "
            "model"
        )
    refuse_other_sizes(name, info, new=("pooler.", "classifier."))
    return model


def build_processor(arguments: Arguments, config: VJEPAConfig) -> tuple[VJEPAVideoProcessor, ClipGeometry]:
    """The processor of the new classifier, and the clips and crops of each video."""
    model, data, training = arguments
    if model.model in PRESETS:
        processor = VJEPAVideoProcessor.for_config(config)
    else:
        processor = load_processor(model.model, config, token=training.hub_token)
    geometry = data.geometry(config, processor, backend=data.decoder)
    processor = VJEPAVideoProcessor(
        crop_size=config.crop_size,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        num_frames=config.frames_per_clip,
        frame_step=geometry.sampling.frame_step or processor.frame_step,
        fps=geometry.sampling.clip_fps,
    )
    return processor, geometry


# The run -------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What every mode needs, see [`prepare`]."""

    #: With the index files of the built-in corpus in place of its name.
    arguments: Arguments
    classifier: VJEPAForVideoClassification
    #: The splits, with the classes of the classifier as labels.
    corpora: Mapping[str, IndexedCorpus]
    processor: VJEPAVideoProcessor
    geometry: ClipGeometry
    #: Arguments and hashes of the clips, as in `run.json`.
    record: Mapping[str, Any]


def prepare(arguments: Arguments, *, needs: Mapping[str, str] = MappingProxyType({}), checkpoint: str | None) -> Parts:
    """
    Opens the splits, builds the model, and writes the splits and `run.json` to the output folder.

    Args:
        needs: splits that there must be, and the error if one is missing.
        checkpoint: the folder to resume from, if any.

    Raises:
        ValueError, OSError: see [`build`].
    """
    config = load_config(arguments)
    arguments, synthetic = place_synthetic_corpus(arguments)
    corpora = open_splits(arguments.data)
    for name, reason in needs.items():
        if name not in corpora:
            raise SplitError(reason)
    set_seed(arguments.training.seed)
    names = class_names(arguments.data, corpora, synthetic)
    with no_bars(wanted=arguments.training.disable_tqdm):
        classifier = build_model(arguments, config, names)
    corpora = with_classes(corpora, names)
    if empty := len(names) - len(set(corpora["train"].labels.tolist())):
        logger.warning(f"{empty} of the {len(names)} classes have no training clip")
    processor, geometry = build_processor(arguments, classifier.config)
    record = _record(arguments, classifier, corpora, names, checkpoint=checkpoint)
    return Parts(arguments, classifier, corpora, processor, geometry, record)


def check_packages(*names: str) -> None:
    """
    Raises:
        ValueError: a package of the extras `probe` and `viz` is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ValueError(f"no {' and no '.join(missing)}: pip install transformers_vjepa[probe,viz]")


def build(model: ModelArguments, data: DataArguments, training: VJEPAClassificationArguments) -> ClassifierRun:
    """
    Builds a training run: model, splits, features or streams, and the trainer. Stores features and writes the splits
    and `run.json` to the output folder. Sets when `training` evaluates and saves.

    Raises:
        ValueError: arguments that are out of range or do not go together, no model, no usable split, a missing
            package, or a checkpoint of another run.
        OSError: no such data set.
    """
    if model.mode == "knn":
        raise ValueError("mode='knn' trains nothing: use evaluation.neighbours.evaluate_neighbours")
    check_processes(training.world_size)
    check_packages("sklearn", "matplotlib", *(["timm"] if training.probe_optimizer == "lars" else []))
    checkpoint = resolve_checkpoint(training.output_dir, training.resume_from_checkpoint, token=training.hub_token)
    asked = (model, data, copy.copy(training))  # the model card shows the arguments as they were given
    settings = [] if model.mode == "finetune" else training.probe_settings()
    needs = {}
    if len(settings) > 1:
        needs["validation"] = (
            f"{len(settings)} probes and no validation clips to choose by: give one of --learning_rates and of "
            "--weight_decays, or validation clips"
        )
    parts = prepare(Arguments(model, data, training), needs=needs, checkpoint=checkpoint)
    classifier, corpora = parts.classifier, parts.corpora
    position = StreamPosition()
    datasets = build_datasets(
        classifier,
        corpora,
        parts.arguments,
        processor=parts.processor,
        geometry=parts.geometry,
        position=position,
    )
    training.lay_out_steps(num_clips=len(corpora["train"]), has_validation="validation" in datasets)
    trainer = VJEPAClassificationTrainer(
        ProbeGrid(classifier.config, settings) if settings else classifier,
        training,
        datasets["train"],
        datasets.get("validation"),
        encoder=classifier if settings else None,
        position=position,
        processing_class=parts.processor,
    )
    start = None if model.random_encoder else model.model
    trainer.run_details = RunDetails(
        command="vjepa train_classifier",
        sources=[source for source in (data.dataset, data.validation_dataset, data.test_dataset) if source],
        arguments=asked,
        heritage=heritage_of(start, token=training.hub_token),
        start=start,
        license=training.hub_license,
    )
    if training.process_index == 0:
        records = ("run.json", DATA_RECORD, *(f"{split}.csv" for split in corpora))
        files = [Path(training.output_dir, record_name) for record_name in records]
        trainer.records = {file.name: file.read_bytes() for file in files if file.is_file()}
    evaluated = {name: datasets[name] for name in ("validation", "test") if name in datasets}
    return ClassifierRun(trainer, classifier, corpora, evaluated, parts.record, checkpoint)


def _record(
    arguments: Arguments,
    classifier: VJEPAForVideoClassification,
    corpora: Mapping[str, IndexedCorpus],
    names: Sequence[str],
    *,
    checkpoint: str | None,
) -> dict[str, Any]:
    """Writes `run.json`, `data.parquet` and the splits, or compares the run with the one to resume."""
    model, data, training = arguments
    settings = {**vars(model), **vars(data), CLASSES_RECORD: hashlib.sha256(json.dumps(names).encode()).hexdigest()}
    if model.mode != "finetune":  # the checkpoints of a probe do not hold its encoder
        settings["encoder_weights"] = weights_hash(classifier.vjepa.encoder)
    manifests = {name: manifest_hash(corpus) for name, corpus in corpora.items()}
    with training.main_process_first(desc="run.json"):
        record = check_same_run(training, settings, manifests, resumes=checkpoint is not None)
    if training.process_index == 0:
        file = Path(training.output_dir, DATA_RECORD)
        check_same_data(file, corpora, began=Path(checkpoint).with_name(DATA_RECORD) if checkpoint else None)
        write_manifests(corpora, Path(training.output_dir))
    return record
