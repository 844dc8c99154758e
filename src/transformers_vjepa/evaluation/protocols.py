"""Evaluation of a classifier: published protocols, and predictions in shards."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import torch

from ..data.corpora import Corpus
from ..data.evaluation_clips import ClipGeometry
from ..data.labels import map_labels
from ..data.table_corpus import SequentialCorpus
from ..hub.loading import load_processor, load_whole
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from .features import encode_in_batches, pass_notes, pass_settings
from .reports import Predictions
from .shards import (
    PassOptions,
    ShardFolder,
    default_shard_size,
    describe_broken,
    fill_shards,
    read_safetensors,
    write_safetensors,
)


class PredictionError(ValueError):
    """A model whose probabilities are not finite."""


# Protocols ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationProtocol:
    """
    How many clips and crops of a video are classified, and which frames make a clip.

    Args:
        num_segments: clips of each video, spread evenly; the classifier pools the tokens of all of them together.
        num_views: crops of each clip; their probabilities are averaged.
        num_frames: frames of a clip; `None` takes the number of the model.
        frame_step: frames of the video from one frame of a clip to the next.
        target_fps: frames per second of a clip, in place of `frame_step`, which is then `None`.
        spacing: see [`ClipSampling`].
    """

    num_segments: int = 1
    num_views: int = 1
    num_frames: int | None = None
    frame_step: int | None = 4
    target_fps: float | None = None
    spacing: Literal["stride", "linspace"] = "stride"

    def geometry(self, config: VJEPAConfig, *, backend: Backend = "pyav") -> ClipGeometry:
        """
        The clips and crops that a model gets of each video.

        Raises:
            ValueError: a number of frames that differs from the model's, or a value out of range.
        """
        if self.num_frames not in (None, config.frames_per_clip):
            raise ValueError(
                f"the protocol takes {self.num_frames} frames, the model {config.frames_per_clip}: set num_frames="
                f"{config.frames_per_clip} to evaluate the model on clips of its own length"
            )
        sampling = ClipSampling(
            num_frames=config.frames_per_clip,
            frame_step=self.frame_step,
            target_fps=self.target_fps,
            spacing=self.spacing,
        )
        return ClipGeometry(
            crop_size=config.crop_size,
            sampling=sampling,
            num_segments=self.num_segments,
            num_views=self.num_views,
            backend=backend,
        )


#: Published protocols (V-JEPA, section 5 and appendix): frames x segments x views. An image is a still clip, whose
#: segments would all be equal, so `in1k` takes one.
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "k400_16x8x3": EvaluationProtocol(num_segments=8, num_views=3, num_frames=16, spacing="linspace"),
    "ssv2_16x2x3": EvaluationProtocol(num_segments=2, num_views=3, num_frames=16, spacing="linspace"),
    "in1k": EvaluationProtocol(),
}


def resolve_protocol(name: str | None, *, processor: VJEPAVideoProcessor, **changes: Any) -> EvaluationProtocol:
    """
    A protocol by name; or, without a name, a single centred clip that is sampled as the processor does. Fields of
    `changes` that are not `None` replace those of the protocol.

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


def check_protocol_fits(name: str | None, corpus: Corpus) -> None:
    """Raises `ValueError` if the protocol is for images and the first item is a video, or the reverse."""
    if name is None or isinstance(corpus, SequentialCorpus) or not len(corpus):
        return
    try:
        is_image = corpus.read(0).is_image
    except (OSError, pa.ArrowInvalid):
        return  # the pass counts and names it as broken
    kinds = ("videos", "images")
    if is_image != (name == "in1k"):
        fitting = " or ".join(each for each in PROTOCOLS if (each == "in1k") == is_image)
        raise ValueError(
            f"the protocol {name} is for {kinds[name == 'in1k']}, the data set holds {kinds[is_image]}, such as "
            f"{corpus.describe(0)}: choose {fitting}, or no protocol"
        )


# Model ---------------------------------------------------------------------------------------------------


def load_classifier(
    name: str, *, dtype: torch.dtype = torch.float32
) -> tuple[VJEPAForVideoClassification, VJEPAVideoProcessor]:
    """
    A saved or converted classifier (folder or Hub id) in evaluation mode, with weights of type `dtype`, and the
    processor in its folder, or the default one.

    Raises:
        ValueError: a checkpoint without a classifier, or of another model.
        OSError: no such folder or model.
        HubError: the model cannot be downloaded.
    """
    remedy = "this is not a trained classifier. Train one with vjepa train_classifier, or convert a published probe"
    model = load_whole(VJEPAForVideoClassification, name, remedy=remedy, dtype=dtype)
    return model.eval(), load_processor(name, model.config)


# Predictions --------------------------------------------------------------------------------------------


def predict(
    model: VJEPAForVideoClassification,
    corpus: Corpus,
    folder: str | os.PathLike,
    geometry: ClipGeometry,
    *,
    processor: VJEPAVideoProcessor | None = None,
    options: PassOptions | None = None,
) -> ShardFolder:
    """
    Computes the class probabilities of all videos and images of a corpus, in shards, as [`write_features`] computes
    features; `model` is in evaluation mode. Of one view, the tokens of all segments are in memory.

    Returns:
        The shards, for [`read_predictions`] when all processes have finished.

    Raises:
        ShardError: the folder was made with other settings.
        ValueError: an empty corpus.
        PredictionError: probabilities that are not finite.
        TooManyBrokenVideosError: see [`PassOptions`].
    """
    options = PassOptions() if options is None else options
    processor = VJEPAVideoProcessor.for_config(model.config) if processor is None else processor
    num_items = None if isinstance(corpus, SequentialCorpus) else len(corpus)
    pooler = {name: getattr(model.config, name) for name in ("pooling", "pooler_layer_norm_eps")}
    shards = ShardFolder(
        folder,
        stem="predictions",
        suffix=".safetensors",
        num_items=num_items,
        shard_size=default_shard_size(num_items, item_bytes=4 * model.config.num_labels),
        settings=pass_settings(model, corpus, geometry, config=model.config, processor=processor) | pooler,
        notes=pass_notes(model),
    )
    compute = partial(_probabilities, model, clips_per_batch=options.batch_size, processor=processor)
    fill_shards(shards, corpus, geometry, options, compute=compute, write=write_safetensors, description="evaluation")
    return shards


@torch.inference_mode()
def _probabilities(
    model: VJEPAForVideoClassification,
    clips: torch.Tensor,
    *,
    clips_per_batch: int,
    processor: VJEPAVideoProcessor,
) -> dict[str, torch.Tensor]:
    """From uint8 clips (videos, views, segments, ...) to probabilities (videos, classes), one view after the other."""
    total = torch.zeros(())
    for view in range(clips.shape[1]):
        tokens = encode_in_batches(
            model.vjepa,
            clips[:, view : view + 1],
            clips_per_batch=clips_per_batch,
            reduce=lambda tokens: tokens,
            processor=processor,
            num_layers=model.config.num_pooled_layers,
        )
        logits = model.classify(tokens.flatten(2, 3)).logits
        total = total + logits.float().softmax(dim=-1).cpu()
    if not total.isfinite().all():
        raise PredictionError(
            f"the probabilities of the model are not finite in {model.dtype}: use float32 or bfloat16, or check the "
            "weights of the model"
        )
    return {"probabilities": total / clips.shape[1]}


def read_predictions(shards: ShardFolder, classes: Mapping[int, int]) -> Iterator[Predictions]:
    """
    Reads the predictions of a finished pass, shard after shard, with the labels of the model.

    Args:
        classes: see [`align_labels`].

    Raises:
        ShardError: shards are missing.
        LabelMismatchError: see [`map_labels`].
    """
    for path in shards.paths():
        contents = read_safetensors(path)
        if contents.paths:
            labels = map_labels(contents.tensors["labels"].numpy(), classes, paths=contents.paths)
            yield Predictions(contents.paths, labels, contents.tensors["probabilities"].numpy())


def broken_videos(shards: ShardFolder) -> list[dict[str, str]]:
    """Path and error of the videos that a finished pass could not read."""
    return [entry for path in shards.paths() for entry in describe_broken(read_safetensors(path, names=[]).broken)]
