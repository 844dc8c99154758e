"""Evaluation of a classifier: published protocols, its labels beside those of the data, and predictions in shards."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import logging

from ..data.corpora import Corpus, SequentialCorpus
from ..data.labels import LabelMismatchError
from ..hub.loading import load_processor, load_whole
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .features import encode_clips, pass_settings
from .reports import Predictions
from .shards import ShardFolder, default_shard_size, fill_shards, read_safetensors, write_safetensors

logger = logging.get_logger(__name__)


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
        is_image = corpus.read(0).is_image
    except (OSError, pa.ArrowInvalid):
        return  # counted and named among the broken ones
    kinds = ("videos", "pictures")
    if is_image != (name == "in1k"):
        fitting = " or ".join(each for each in PROTOCOLS if (each == "in1k") == is_image)
        raise ValueError(
            f"the protocol {name} is for {kinds[name == 'in1k']}, the data set holds {kinds[is_image]}, such as "
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
    "PredictionError",
    "broken_videos",
    "check_kind",
    "load_classifier",
    "predict",
    "read_predictions",
    "resolve_protocol",
]
