"""Evaluation of a classifier: published protocols, its labels beside those of the data, and predictions in shards."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging

from .clip_sampling import ClipSampling
from .configuration_vjepa import VJEPAConfig
from .corpora import Corpus, SequentialCorpus
from .decoding import Backend
from .features import encode_clips, pass_settings
from .hub import loading
from .modeling_vjepa import VJEPAForVideoClassification, VJEPAPreTrainedModel
from .prediction_report import Predictions
from .shards import ShardFolder, default_shard_size, fill_shards, read_safetensors, write_safetensors
from .video_processing_vjepa import VJEPAVideoProcessor

logger = logging.get_logger(__name__)

_GENERIC_NAME = re.compile(r"LABEL_\d+")

Model = TypeVar("Model", bound=VJEPAPreTrainedModel)


class LabelMismatchError(ValueError):
    """A data set with classes that the model does not have."""


class PredictionError(ValueError):
    """A model that gives no probabilities."""


# Protocols ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationProtocol:
    """
    How many clips and crops of a video are classified, and which frames they have.

    Args:
        num_segments: clips of each video, spread evenly; the probe sees the tokens of all of them at once.
        num_views: crops of each clip; their probabilities are averaged.
        num_frames: frames of a clip; `None` for as many as the model takes.
        frame_step: frames of the video from one frame of a clip to the next.
        target_fps: frames per second of a clip, instead; `frame_step` is then `None`.
        spacing: see [`ClipSampling`].

    Raises:
        ValueError: less than one segment or view.
    """

    num_segments: int = 1
    num_views: int = 1
    num_frames: int | None = None
    frame_step: int | None = 4
    target_fps: float | None = None
    spacing: Literal["stride", "linspace"] = "stride"

    def __post_init__(self) -> None:
        for name in ("num_segments", "num_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)} must be at least 1")

    def sampling(self, config: VJEPAConfig) -> ClipSampling:
        """
        Raises:
            ValueError: another number of frames than the model takes, or a value out of range.
        """
        if self.num_frames not in (None, config.frames_per_clip):
            raise ValueError(
                f"the protocol takes {self.num_frames} frames, the model {config.frames_per_clip}: set num_frames="
                f"{config.frames_per_clip} to evaluate it on clips of its own length"
            )
        return ClipSampling(
            num_frames=config.frames_per_clip,
            frame_step=self.frame_step,
            target_fps=self.target_fps,
            spacing=self.spacing,
        )


#: Published protocols (V-JEPA, section 5 and appendix): frames x segments x views. Pictures are still clips, of which
#: more than one segment would be the same.
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "k400_16x8x3": EvaluationProtocol(num_segments=8, num_views=3, num_frames=16, spacing="linspace"),
    "ssv2_16x2x3": EvaluationProtocol(num_segments=2, num_views=3, num_frames=16, spacing="linspace"),
    "in1k": EvaluationProtocol(),
}


def resolve_protocol(name: str | None, *, processor: VJEPAVideoProcessor, **changes: Any) -> EvaluationProtocol:
    """
    A protocol by name, or without one a single centred clip whose frames are as far apart as the processor's; with
    the fields of `changes` that are not `None` in the place of its own.

    Raises:
        ValueError: an unknown name.
    """
    if name is not None and name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    changes = {field: value for field, value in changes.items() if value is not None}
    if "frame_step" in changes:
        changes["target_fps"] = None
    if name is not None:
        return replace(PROTOCOLS[name], **changes)
    sampling = processor.clip_sampling()
    protocol = EvaluationProtocol(frame_step=sampling.frame_step, target_fps=sampling.target_fps)
    return replace(protocol, **changes)


def check_kind(name: str | None, corpus: Corpus) -> None:
    """
    Raises:
        ValueError: the protocol is for pictures and the first item of the corpus is a video, or the other way round.
    """
    if name is None or isinstance(corpus, SequentialCorpus) or not len(corpus):
        return
    try:
        is_picture = corpus.read(0).is_picture
    except (OSError, pa.ArrowInvalid):
        return  # counted and named among the broken ones
    kinds = ("videos", "pictures")
    if is_picture != (name == "in1k"):
        fitting = " or ".join(each for each in PROTOCOLS if (each == "in1k") == is_picture)
        raise ValueError(
            f"the protocol {name} is for {kinds[name == 'in1k']}, the data set holds {kinds[is_picture]}, such as "
            f"{corpus.describe(0)}: choose {fitting}, or none"
        )


# Model and labels ---------------------------------------------------------------------------------------


def load_classifier(
    name: str, *, dtype: torch.dtype = torch.float32
) -> tuple[VJEPAForVideoClassification, VJEPAVideoProcessor]:
    """
    A saved or converted classifier in evaluation mode, and the processor beside it (or the default one).

    Args:
        name: folder or Hub id.
        dtype: type of the weights and of the computation.

    Raises:
        ValueError: a checkpoint without a classifier, or of another model.
        OSError: nothing is there.
        HubError: it cannot be had from the Hub.
    """
    remedy = "it is no trained classifier. Train one with vjepa train_classifier, or convert a published probe"
    model = load_whole(VJEPAForVideoClassification, name, remedy=remedy, dtype=dtype)
    return model.eval(), load_processor(name, model.config)


@contextmanager
def without_load_report() -> Iterator[None]:
    """Loads without the table of missing and new weights that `from_pretrained` logs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_whole(model_class: type[Model], name: str, *, remedy: str, **settings: Any) -> Model:
    """
    A model of which a checkpoint holds every weight.

    Args:
        model_class: what to load.
        name: folder or Hub id.
        remedy: what an error says of a checkpoint that lacks some.
        settings: of `from_pretrained`.

    Raises:
        ValueError: weights that are missing or damaged.
        OSError: nothing is there.
        HubError: it cannot be had from the Hub.
    """
    try:
        with loading(name), without_load_report():  # what is missing is said below, in a line
            model, info = model_class.from_pretrained(name, output_loading_info=True, **settings)
    except SafetensorError as error:
        raise ValueError(f"the weights of {name} are damaged ({error}): copy or download them again") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name} has no weights for {missing[0]} ({len(missing)} missing): {remedy}")
    return model


def load_processor(name: str, config: VJEPAConfig) -> VJEPAVideoProcessor:
    """The video processor beside a model, or the default one where it has none."""
    try:
        return VJEPAVideoProcessor.from_pretrained(name)
    except OSError:
        logger.warning(f"{name} has no video processor: pixels are normalised with ImageNet's mean and deviation")
        return VJEPAVideoProcessor.for_config(config)


def _plain(name: str) -> str:
    """A class name for comparison: `Air_drumming` equals `air drumming`."""
    return " ".join(re.findall(r"\w+", name.replace("_", " ").casefold()))


def _names(config: PreTrainedConfig) -> list[str]:
    return [config.id2label[index] for index in range(config.num_labels)]


def have_names(corpus: Corpus, config: PreTrainedConfig) -> bool:
    """Whether both a corpus and a model name their classes (LABEL_0, LABEL_1 ... are no names)."""
    return bool(corpus.class_names) and not all(_GENERIC_NAME.fullmatch(name) for name in _names(config))


def align_labels(corpus: Corpus, config: PreTrainedConfig, *, by: Literal["name", "number"] = "name") -> np.ndarray:
    """
    Which class of the model each label of a corpus is: by name where both have names (LABEL_0, LABEL_1 ... are none;
    case, underscores and punctuation do not count), by number where not.

    Args:
        corpus: with `class_names`, or without.
        config: of the model: `id2label`.
        by: `"number"` ignores the names: label 0 is class 0.

    Returns:
        int64 (labels of the corpus,): class of the model, or -1 for a label that no clip has and the model does not
        know.

    Raises:
        LabelMismatchError: classes that the model does not have, or has twice; the message lists them.
    """
    used = None if isinstance(corpus, SequentialCorpus) else np.unique(corpus.labels[corpus.labels >= 0])
    if by == "name" and have_names(corpus, config):
        return _align_names(corpus.class_names, _names(config), used)
    if by == "name" and corpus.class_names and len(corpus.class_names) != config.num_labels:
        # Folders of some of the classes are numbered among themselves: their numbers would mean other classes.
        raise LabelMismatchError(
            f"the data set has {len(corpus.class_names)} named classes, the model {config.num_labels} without names: "
            "which is which is not known. Name the classes of the model (id2label in its config.json), or match "
            "labels by number if both have the same order"
        )
    number = max(len(corpus.class_names), 0 if used is None or not len(used) else int(used.max()) + 1)
    if number > config.num_labels:
        raise LabelMismatchError(
            f"the data set has labels up to {number - 1}, the model {config.num_labels} classes (0 to "
            f"{config.num_labels - 1}): evaluate a model that was trained on these classes"
        )
    return np.arange(config.num_labels)


def _align_names(ours: Sequence[str], theirs: Sequence[str], used: np.ndarray | None) -> np.ndarray:
    exact = {name: [index] for index, name in enumerate(theirs)} if len(set(theirs)) == len(theirs) else {}
    plain: dict[str, list[int]] = {}
    for index, name in enumerate(theirs):
        plain.setdefault(_plain(name), []).append(index)
    found = [exact.get(name) or plain.get(_plain(name), []) for name in ours]
    wanted = range(len(ours)) if used is None else used.tolist()
    if unknown := [ours[index] for index in wanted if not found[index]]:
        raise LabelMismatchError(
            f"{len(unknown)} of {len(wanted)} classes are none of the model's: {_some(unknown)}. The model knows "
            f"{_some(theirs)}. Rename them, or match labels by number if both have the same order"
        )
    if twice := [ours[index] for index in wanted if len(found[index]) > 1]:
        raise LabelMismatchError(
            f"the model has more than one class of these names: {_some(twice)}. Match labels by number"
        )
    classes = [places[0] if len(places) == 1 else -1 for places in found]
    if len(set(used_classes := [classes[index] for index in wanted])) < len(used_classes):
        raise LabelMismatchError("several classes of the data set are one class of the model: match labels by number")
    return np.array(classes, dtype=np.int64)


def _some(names: Sequence[str], *, number: int = 5) -> str:
    rest = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(repr(name) for name in names[:number]) + rest


# Predictions --------------------------------------------------------------------------------------------


def predict(
    model: VJEPAForVideoClassification,
    corpus: Corpus,
    folder: str | os.PathLike,
    *,
    protocol: EvaluationProtocol,
    processor: VJEPAVideoProcessor | None = None,
    clips_per_batch: int = 8,
    num_workers: int = 0,
    backend: Backend = "pyav",
    max_broken_share: float = 0.05,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> ShardFolder:
    """
    Class probabilities of all videos and pictures of a corpus, in shards. Called again, with any number of processes,
    it computes what is missing.

    Args:
        model: in evaluation mode; runs on its own device and in its own type.
        corpus: see [`open_corpus`].
        folder: of the shards; made if it does not exist.
        protocol: clips and views of each video.
        processor: gives mean and standard deviation of the pixels; ImageNet's by default.
        clips_per_batch: clips that are encoded at once; of one view, the tokens of all segments are held.
        num_workers: processes that decode.
        backend: see [`read_clip`].
        max_broken_share: see [`BrokenVideoMonitor`].
        rank, world_size: this process among those that share the work.
        progress: show a bar.

    Returns:
        The shards, for [`read_predictions`] when all processes are through.

    Raises:
        ShardError: the folder was made with other settings.
        ValueError: an empty corpus, a protocol that does not fit the model, or a number out of range.
        PredictionError: probabilities that are not finite.
        TooManyBrokenVideosError: see `max_broken_share`.
    """
    if clips_per_batch < 1:
        raise ValueError(f"`clips_per_batch`={clips_per_batch} must be at least 1")
    processor = VJEPAVideoProcessor.for_config(model.config) if processor is None else processor
    geometry = {
        "crop_size": model.config.crop_size,
        "sampling": protocol.sampling(model.config),
        "num_segments": protocol.num_segments,
        "num_views": protocol.num_views,
        "backend": backend,
    }
    num_items = None if isinstance(corpus, SequentialCorpus) else len(corpus)
    shards = ShardFolder(
        folder,
        stem="predictions",
        suffix=".safetensors",
        num_items=num_items,
        shard_size=default_shard_size(num_items, item_bytes=4 * model.config.num_labels),
        settings=pass_settings(model, corpus, geometry, processor=processor),
        notes={"model": model.config.name_or_path},
    )
    fill_shards(
        shards,
        corpus,
        geometry=geometry,
        compute=partial(_probabilities, model, clips_per_batch=clips_per_batch, processor=processor),
        write=write_safetensors,
        batch_size=max(1, clips_per_batch // (protocol.num_segments * protocol.num_views)),
        num_workers=num_workers,
        max_broken_share=max_broken_share,
        rank=rank,
        world_size=world_size,
        description="evaluation",
        progress=progress,
    )
    return shards


@torch.inference_mode()
def _probabilities(
    model: VJEPAForVideoClassification,
    clips: torch.Tensor,
    *,
    clips_per_batch: int,
    processor: VJEPAVideoProcessor,
) -> dict[str, torch.Tensor]:
    """uint8 (videos, views, segments, ...) to probabilities (videos, classes), view after view."""
    total = torch.zeros(())
    for view in range(clips.shape[1]):
        tokens = encode_clips(
            model.vjepa,
            clips[:, view : view + 1],
            clips_per_batch=clips_per_batch,
            reduce=lambda tokens: tokens,
            processor=processor,
        )
        logits = model.classify(tokens.flatten(2, 3)).logits
        total = total + logits.float().softmax(dim=-1).cpu()
    if not total.isfinite().all():
        raise PredictionError(
            f"the model gives probabilities that are not finite in {model.dtype}: use float32 or bfloat16, or check "
            "its weights"
        )
    return {"probabilities": total / clips.shape[1]}


def read_predictions(shards: ShardFolder, label_map: np.ndarray) -> Iterator[Predictions]:
    """
    The predictions of a finished pass, shard after shard, with the labels of the model.

    Args:
        label_map: what [`align_labels`] gives.

    Raises:
        ShardError: shards are missing.
        LabelMismatchError: a label that the map does not have, which of streamed data shows only now.
    """
    for path in shards.paths():
        contents = read_safetensors(path)
        if contents.paths:
            labels = contents.tensors["labels"].numpy()
            if labels.max() >= len(label_map):
                raise LabelMismatchError(
                    f"{contents.paths[labels.argmax()]} has label {labels.max()}, the model knows labels up to "
                    f"{len(label_map) - 1}: evaluate a model that was trained on these classes"
                )
            # Labels below 0 are unknown, and stay it.
            aligned = np.append(label_map, -1)[np.maximum(labels, -1)]
            yield Predictions(contents.paths, aligned, contents.tensors["probabilities"].numpy())


def broken_videos(shards: ShardFolder) -> list[dict[str, str]]:
    """Path and error of the videos that a finished pass could not read."""
    contents = (read_safetensors(path, names=[]) for path in shards.paths())
    return [{"path": path, "error": error} for content in contents for _, path, error in content.broken]


__all__ = [
    "PROTOCOLS",
    "EvaluationProtocol",
    "LabelMismatchError",
    "PredictionError",
    "align_labels",
    "broken_videos",
    "check_kind",
    "have_names",
    "load_classifier",
    "load_processor",
    "load_whole",
    "predict",
    "read_predictions",
    "resolve_protocol",
    "without_load_report",
]
