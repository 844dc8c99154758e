"""
Features of a data set on disk: written in shards by a pass that can be stopped and continued, read at random without
loading a shard, so that memory does not grow with the number of clips.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.data import Dataset

from ..data.corpora import Corpus, PackedStrings, SequentialCorpus
from ..data.splits import manifest_hash
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.decoding import Backend
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.sanitizing import decodable
from .shards import (
    ShardContents,
    ShardError,
    ShardFolder,
    default_shard_size,
    fill_shards,
    read_safetensors,
    write_safetensors,
)

#: What is kept of a clip's tokens: all of them, their mean, or their mean over space at each time step.
FeatureKind = Literal["tokens", "mean", "time_means"]
FeatureFormat = Literal["safetensors", "parquet"]
FeatureDtype = Literal["float32", "bfloat16", "float16"]


class FeatureError(ValueError):
    """Settings that give no features, or that do not go together."""


def encode_clips(
    model: VJEPAModel,
    clips: torch.Tensor,
    *,
    clips_per_batch: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    processor: VJEPAVideoProcessor,
) -> torch.Tensor:
    """
    Encodes the clips of some videos a few at a time, so that memory does not depend on segments and views.

    Args:
        model: the encoder; runs on its own device and in its own type.
        clips: uint8 (videos, views, segments, frames, 3, height, width), on any device.
        clips_per_batch: clips of a forward pass.
        reduce: what to keep of the tokens (clips, tokens, hidden_size) of a pass; a row per clip.
        processor: gives mean and standard deviation of the pixels.

    Returns:
        (videos, views, segments, ...): the rows of `reduce`.
    """
    rows = []
    for batch in clips.flatten(0, 2).split(clips_per_batch):
        pixels = normalize_clips(
            batch.to(model.device), mean=processor.image_mean, std=processor.image_std, dtype=model.dtype
        )
        rows.append(reduce(model.get_vision_features(pixels)))
    return torch.cat(rows).unflatten(0, clips.shape[:3])


class _Features:
    """From pixels to the features of one kind; see [`write_features`]."""

    def __init__(
        self,
        model: VJEPAModel,
        *,
        kind: FeatureKind,
        num_steps: int,
        dtype: torch.dtype,
        batch_size: int,
        processor: VJEPAVideoProcessor,
    ) -> None:
        self._model, self._kind, self._num_steps, self._dtype = model, kind, num_steps, dtype
        self._batch_size, self._processor = batch_size, processor

    @torch.inference_mode()
    def __call__(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        features = encode_clips(
            self._model, clips, clips_per_batch=self._batch_size, reduce=self._reduce, processor=self._processor
        )
        # (videos, views, segments, ...): segments follow each other, or are averaged.
        features = features.mean(dim=2) if self._kind == "mean" else features.flatten(2, 3)
        features = features.to(self._dtype)
        if not features.isfinite().all():
            raise FeatureError(
                f"features are not finite in {self._dtype}: use float32, or check the weights of the model"
            )
        return {"features": features}

    def _reduce(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._kind == "tokens":
            return tokens.to("cpu", self._dtype)
        tokens = tokens.float()
        if self._kind == "time_means":
            return tokens.unflatten(1, (self._num_steps, -1)).mean(dim=2).cpu()
        return tokens.mean(dim=1).cpu()


def weights_hash(module: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names and values of all parameters and buffers that are saved."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_features(
    model: VJEPAModel,
    corpus: Corpus,
    folder: str | os.PathLike,
    *,
    kind: FeatureKind = "tokens",
    sampling: ClipSampling | None = None,
    num_segments: int = 1,
    num_views: int = 1,
    processor: VJEPAVideoProcessor | None = None,
    file_format: FeatureFormat = "safetensors",
    dtype: FeatureDtype = "float16",
    shard_size: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    backend: Backend = "pyav",
    max_broken_share: float = 0.05,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> None:
    """
    Writes the features of all videos and pictures of a corpus, in shards. Called again, with any number of processes,
    it writes what is missing; so every process calls it, and when all are through, [`FeatureStore`] reads the folder.

    Args:
        model: the frozen encoder; runs on its own device and in its own type, in evaluation mode.
        corpus: see [`open_corpus`]. One that can only be streamed is read in order, by one process.
        folder: made if it does not exist.
        kind: `"tokens"` (of several segments one after the other), `"mean"` over all of them, or `"time_means"`:
            averaged over space at each time step.
        sampling: which frames make a clip; by default as many as the model takes, as far apart as the processor says.
        num_segments, num_views: clips and crops of each video, see [`EvaluationClips`].
        processor: gives mean and standard deviation of the pixels; ImageNet's by default.
        file_format: `"safetensors"`, for [`FeatureStore`]; or, except for tokens, `"parquet"`: columns path, label,
            features and, of several views, view.
        dtype: type on disk; Parquet holds float32.
        shard_size: clips of a shard; see [`default_shard_size`].
        batch_size: clips of a forward pass.
        num_workers: processes that decode.
        backend: see [`read_clip`].
        max_broken_share: see [`BrokenVideoMonitor`].
        rank, world_size: this process among those that share the work.
        progress: show a bar.

    Raises:
        ShardError: the folder was made with other settings.
        FeatureError: a setting out of range, or features that `dtype` cannot hold.
        ValueError: an empty corpus.
        TooManyBrokenVideosError: see `max_broken_share`.
    """
    config = model.config
    processor = VJEPAVideoProcessor.for_config(config) if processor is None else processor
    sampling = processor.clip_sampling(num_frames=config.frames_per_clip) if sampling is None else sampling
    _check_choices(kind=kind, file_format=file_format, dtype=dtype)
    _check_numbers(batch_size=batch_size, num_segments=num_segments, num_views=num_views)
    geometry = {
        "crop_size": config.crop_size,
        "sampling": sampling,
        "num_segments": num_segments,
        "num_views": num_views,
        "backend": backend,
    }
    num_steps = _num_steps(sampling, config)
    shape = _shape(kind, config, num_steps=num_steps, num_segments=num_segments, num_views=num_views)
    item_bytes = math.prod(shape) * getattr(torch, dtype).itemsize
    num_items = None if isinstance(corpus, SequentialCorpus) else len(corpus)
    shards = ShardFolder(
        folder,
        stem="features",
        suffix=f".{file_format}",
        num_items=num_items,
        shard_size=default_shard_size(num_items, item_bytes=item_bytes) if shard_size is None else shard_size,
        settings={"kind": kind, "dtype": dtype, **pass_settings(model.encoder, corpus, geometry, processor=processor)},
        notes={"model": config.name_or_path},
    )
    was_training = model.training
    model.eval()
    try:
        fill_shards(
            shards,
            corpus,
            geometry=geometry,
            compute=_Features(
                model,
                kind=kind,
                num_steps=num_steps,
                dtype=getattr(torch, dtype),
                batch_size=batch_size,
                processor=processor,
            ),
            write=write_safetensors if file_format == "safetensors" else partial(_write_parquet, shape=shape),
            batch_size=max(1, batch_size // (num_segments * num_views)),
            num_workers=num_workers,
            max_broken_share=max_broken_share,
            rank=rank,
            world_size=world_size,
            description="features",
            progress=progress,
        )
    finally:
        model.train(was_training)


def pass_settings(
    module: nn.Module, corpus: Corpus, geometry: Mapping[str, Any], *, processor: VJEPAVideoProcessor
) -> dict[str, Any]:
    """
    What the results of a pass over a corpus depend on, for [`ShardFolder`].

    Args:
        module: the network that is run.
        corpus: the videos.
        geometry: the keyword arguments of [`EvaluationClips`].
        processor: gives mean and standard deviation of the pixels.
    """
    is_streamed = isinstance(corpus, SequentialCorpus)
    return {
        **geometry,
        "sampling": asdict(geometry["sampling"]),
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "weights": weights_hash(module),
        "weights_dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
        "source" if is_streamed else "manifest": corpus.name if is_streamed else manifest_hash(corpus),
        "class_names": list(corpus.class_names),
    }


def _num_steps(sampling: ClipSampling, config: VJEPAConfig) -> int:
    """Time steps of the tokens of a clip."""
    if sampling.num_frames % config.tubelet_size:
        raise FeatureError(
            f"sampling.num_frames={sampling.num_frames} is not a multiple of the model's tubelet_size="
            f"{config.tubelet_size}"
        )
    return sampling.num_frames // config.tubelet_size


def _shape(
    kind: FeatureKind, config: VJEPAConfig, *, num_steps: int, num_segments: int, num_views: int
) -> tuple[int, ...]:
    """Of the features of a video."""
    if kind == "mean":
        return num_views, config.hidden_size
    cells = config.grid_size[1] * config.grid_size[2] if kind == "tokens" else 1
    return num_views, num_segments * num_steps * cells, config.hidden_size


def _check_numbers(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise FeatureError(f"`{name}`={value} must be at least 1")


def _check_choices(*, kind: str, file_format: str, dtype: str) -> None:
    for name, value, choices in (
        ("kind", kind, FeatureKind),
        ("file_format", file_format, FeatureFormat),
        ("dtype", dtype, FeatureDtype),
    ):
        if value not in get_args(choices):
            raise FeatureError(f"`{name}`={value!r} must be one of {', '.join(get_args(choices))}")
    if file_format == "parquet" and (kind, dtype) not in (("mean", "float32"), ("time_means", "float32")):
        raise FeatureError(
            f"Parquet holds pooled features in float32, not kind={kind!r} in {dtype}: choose kind 'mean' or "
            "'time_means' and float32, or the format safetensors"
        )


def _write_parquet(path: Path, contents: ShardContents, *, shape: Sequence[int]) -> None:
    """
    A row per clip and view; the broken videos as JSON in the metadata of the schema.

    Args:
        shape: (views, ..., width) of the features of a clip.
    """
    views, *inner = shape
    kind = pa.float32()
    for size in reversed(inner):
        kind = pa.list_(kind, size)
    names = [("path", pa.string()), ("label", pa.int64()), ("view", pa.int64()), ("features", kind)]
    fields = [field for field in names if views > 1 or field[0] != "view"]
    schema = pa.schema(fields, metadata={"broken": json.dumps(contents.broken)})
    # Without a clip there is no row group: `datasets` refuses one that is empty.
    with pq.ParquetWriter(path, schema) as writer:
        if contents.paths:
            columns = {
                "path": np.repeat(np.array([*map(decodable, contents.paths)], dtype=object), views),
                "label": contents.tensors["labels"].repeat_interleave(views).numpy(),
                "view": np.tile(np.arange(views), len(contents.paths)),
                "features": _nested_lists(contents.tensors["features"].flatten(0, 1)),
            }
            writer.write_table(pa.table({name: columns[name] for name, _ in fields}, schema=schema))


def _nested_lists(features: torch.Tensor) -> pa.Array:
    """Rows of lists (of lists) of fixed size, without a copy."""
    values: pa.Array = pa.array(features.flatten().numpy())
    for size in reversed(features.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def summarise_features(folder: str | os.PathLike) -> dict[str, Any]:
    """
    What a finished pass of [`write_features`] has left: `num_videos`, `num_shards`, `num_broken`, `broken` (path and
    error of the videos that could not be read), and the settings.

    Raises:
        ShardError: shards are missing.
    """
    shards = ShardFolder.open(folder)
    count, broken = 0, []
    for path in shards.paths():
        if shards.suffix == ".parquet":
            try:
                metadata = pq.read_metadata(path)
                broken += json.loads(metadata.metadata[b"broken"])
                count += metadata.num_rows // shards.settings["num_views"]
            except (pa.ArrowException, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
                raise ShardError(f"{path} is damaged ({error}): delete it, and run the same command again") from error
        else:
            contents = read_safetensors(path, names=[])
            count += len(contents.paths)
            broken += contents.broken
    return {
        "num_videos": count,
        "num_shards": len(shards.paths()),
        "num_broken": len(broken),
        **shards.settings,
        "broken": [{"path": path, "error": error} for _, path, error in broken],
    }


class FeatureStore(Dataset):
    """
    The features that [`write_features`] left in a folder, as a map-style data set: an item has `features`, a tensor
    (views, tokens, width) of kind `"tokens"`, (views, steps, width) of `"time_means"` or (views, width) of `"mean"`,
    in the type it was written in, and `labels`, an int (-1 if unknown). Broken videos are left out.

    An item reads its own bytes and no others, so that memory does not grow with the store. It may be forked and
    pickled.

    Attributes:
        kind (`str`): see [`write_features`].
        labels (`np.ndarray`): int64 (clips,).
        paths (`Sequence[str]`): what names the clips.
        index (`np.ndarray`): int64 (clips,), their places in the corpus.
        class_names (`tuple[str, ...]`): names of the labels; may be empty.
        broken (`list`): (place in the corpus, path, error) of the videos that could not be read.
        settings (`dict`): what made the features.
        manifest (`str`, *optional*): hash of the clips and labels, see [`manifest_hash`]; not of streamed data.

    Raises:
        ShardError: no such folder, shards that are missing, Parquet, or not one clip.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        shards = ShardFolder.open(folder)
        if shards.suffix != ".safetensors":
            raise ShardError(f"{folder} holds {shards.suffix} files: read them with datasets.load_dataset('parquet')")
        self._files = shards.paths()
        self.settings = shards.settings
        for name, choices in (("kind", FeatureKind), ("dtype", FeatureDtype)):
            if self.settings.get(name) not in get_args(choices):
                raise ShardError(f"{folder} holds no features: {name} is {self.settings.get(name)!r} in its settings")
        self.kind, self.manifest = shards.settings["kind"], shards.settings.get("manifest")
        self.class_names = tuple(map(str, shards.settings.get("class_names") or ()))
        self.broken: list[tuple[int, str, str]] = []
        self._shape: list[int] = []
        labels, index, counts, paths, offsets = [], [], [0], [], []
        for file in self._files:
            contents = read_safetensors(file, names=["labels", "index"])
            columns = [contents.tensors.get(name, torch.empty(0)).tolist() for name in ("labels", "index")]
            if any(len(column) != len(contents.paths) for column in columns):
                raise ShardError(f"{file} is damaged: it names {len(contents.paths)} clips and has other rows")
            labels += columns[0]
            index += columns[1]
            counts.append(len(contents.paths))
            paths += contents.paths
            offset, shape = _features_in(file)
            offsets.append(offset)
            self._shape = shape or self._shape  # that of a shard without any clip is not known
            self.broken += contents.broken
        if not paths:
            example = f", such as {self.broken[0][1]} ({self.broken[0][2]})" if self.broken else ""
            raise ShardError(f"{folder} has features of not one clip; {len(self.broken)} are broken{example}")
        self.paths: Sequence[str] = PackedStrings(paths)
        self.labels, self.index = np.array(labels, dtype=np.int64), np.array(index, dtype=np.int64)
        self._starts, self._offsets = np.cumsum(counts), np.array(offsets)
        self._dtype = getattr(torch, shards.settings["dtype"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside of a store of {len(self)} clips")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        size = math.prod(self._shape) * self._dtype.itemsize
        offset = int(self._offsets[shard]) + (index - int(self._starts[shard])) * size
        # Read, not mapped: mapped pages count as memory of the process until something else needs it.
        data = np.fromfile(self._files[shard], dtype=np.uint8, count=size, offset=offset)
        if len(data) != size:
            raise OSError(f"{self._files[shard]} is cut short: delete it, and run the same command again")
        features = torch.from_numpy(data).view(self._dtype).view(self._shape)
        return {"features": features, "labels": int(self.labels[index])}


def _features_in(file: Path) -> tuple[int, list[int]]:
    """
    Where the features begin in a file of safetensors, in bytes, and the shape of a row; -1 and no shape where there
    are none. The format: 8 bytes with the length of the header, the header in JSON, and the data.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length)).get("features")
    if entry is None:
        return -1, []
    return 8 + length + entry["data_offsets"][0], entry["shape"][1:]


__all__ = [
    "FeatureDtype",
    "FeatureError",
    "FeatureFormat",
    "FeatureKind",
    "FeatureStore",
    "encode_clips",
    "pass_settings",
    "summarise_features",
    "weights_hash",
    "write_features",
]
