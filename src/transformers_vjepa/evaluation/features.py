"""
Features of a data set on disk. A pass that can be stopped and continued writes them in shards. They are read one by
one, so that memory does not grow with the number of clips.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from ..data.corpora import Corpus
from ..data.corpus import PackedStrings
from ..data.evaluation_clips import ClipGeometry
from ..data.fingerprints import clips_digest
from ..data.table_corpus import SequentialCorpus
from ..models.vjepa.clip_transforms import normalize_clips
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.sanitizing import decodable
from .shards import (
    PassOptions,
    ShardContents,
    ShardError,
    ShardFolder,
    default_shard_size,
    describe_broken,
    fill_shards,
    read_safetensors,
    write_safetensors,
)

#: All tokens of a clip, their mean, or their mean over space at each time step.
FeatureKind = Literal["tokens", "mean", "time_means"]
FeatureFormat = Literal["safetensors", "parquet"]
FeatureDtype = Literal["float32", "bfloat16", "float16"]


#: Fields of a configuration on which the tokens depend beside the weights, whose shapes tell the other fields.
COMPUTED = ("num_attention_heads", "layer_norm_eps", "hidden_act", "uniform_power")
# Packages that decide which pixels a model gets from a file.
_READERS = ("transformers_vjepa", "av")


class FeatureError(ValueError):
    """Settings that are out of range, do not go together, or give features that are not finite."""


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """
    Which features of a clip are stored, and in which form.

    Args:
        kind: `"tokens"` (of several segments one after the other), `"mean"` over all of them, or `"time_means"`:
            averaged over space at each time step.
        dtype: type on disk. Parquet holds float32.
        num_layers: of `"mean"` features: last blocks whose means are concatenated.
        file_format: `"safetensors"`, for [`FeatureStore`]; or, for pooled features, `"parquet"`: columns path, label,
            features and, of several views, view.
        shard_size: clips of a shard; by default see [`default_shard_size`].

    Raises:
        FeatureError: a value out of range, or settings that do not go together.
    """

    kind: FeatureKind = "tokens"
    dtype: FeatureDtype = "float16"
    num_layers: int = 1
    file_format: FeatureFormat = "safetensors"
    shard_size: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", FeatureKind), ("file_format", FeatureFormat), ("dtype", FeatureDtype)):
            if getattr(self, name) not in get_args(choices):
                raise FeatureError(f"`{name}`={getattr(self, name)!r} must be one of {', '.join(get_args(choices))}")
        if self.file_format == "parquet" and (self.kind == "tokens" or self.dtype != "float32"):
            raise FeatureError(
                f"Parquet holds pooled features in float32, not kind={self.kind!r} in {self.dtype}: choose kind "
                "'mean' or 'time_means' and float32, or the format safetensors"
            )
        if self.num_layers != 1 and self.kind != "mean":
            raise FeatureError(f"`num_layers`={self.num_layers} is for kind='mean', not for kind={self.kind!r}")

    def shape(self, config: VJEPAConfig, geometry: ClipGeometry) -> tuple[int, ...]:
        """
        Shape of the features of a video.

        Raises:
            FeatureError: clips that do not fit the model.
        """
        if geometry.crop_size != config.crop_size:
            raise FeatureError(
                f"crop_size={geometry.crop_size} of the clips differs from the model's {config.crop_size}"
            )
        num_steps, rest = divmod(geometry.sampling.num_frames, config.tubelet_size)
        if rest:
            raise FeatureError(
                f"sampling.num_frames={geometry.sampling.num_frames} is not a multiple of the model's tubelet_size="
                f"{config.tubelet_size}"
            )
        if self.kind == "mean":
            return geometry.num_views, config.hidden_size * self.num_layers
        cells = config.grid_size[1] * config.grid_size[2] if self.kind == "tokens" else 1
        return geometry.num_views, geometry.num_segments * num_steps * cells, config.hidden_size


def encode_in_batches(
    model: VJEPAModel,
    clips: torch.Tensor,
    *,
    clips_per_batch: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    processor: VJEPAVideoProcessor,
    num_layers: int = 1,
) -> torch.Tensor:
    """
    Encodes the clips of some videos in batches, so that memory does not depend on segments and views.

    Args:
        model: the encoder; runs on its own device and in its own type.
        clips: uint8 (videos, views, segments, frames, 3, height, width), on any device.
        reduce: from the tokens (clips, tokens, hidden_size) of a batch to the values to keep, a row per clip.
        processor: gives mean and standard deviation of the pixels.
        num_layers: last blocks whose tokens are side by side, see [`VJEPAModel.get_vision_features`].

    Returns:
        (videos, views, segments, ...): the rows of `reduce`.
    """
    rows = []
    for batch in clips.flatten(0, 2).split(clips_per_batch):
        pixels = normalize_clips(
            batch.to(model.device), mean=processor.image_mean, std=processor.image_std, dtype=model.dtype
        )
        rows.append(reduce(model.get_vision_features(pixels, num_layers)))
    return torch.cat(rows).unflatten(0, clips.shape[:3])


@torch.inference_mode()
def _features(
    model: VJEPAModel,
    clips: torch.Tensor,
    *,
    features: FeatureSettings,
    clips_per_batch: int,
    processor: VJEPAVideoProcessor,
) -> dict[str, torch.Tensor]:
    """From uint8 pixels (videos, views, segments, ...) to features of one kind, see [`write_features`]."""
    dtype = getattr(torch, features.dtype)
    num_steps = clips.shape[3] // model.config.tubelet_size

    def reduce(tokens: torch.Tensor) -> torch.Tensor:
        if features.kind == "tokens":
            return tokens.to("cpu", dtype)
        if features.kind == "time_means":
            return tokens.float().unflatten(1, (num_steps, -1)).mean(dim=2).cpu()
        return tokens.float().mean(dim=1).cpu()

    values = encode_in_batches(
        model,
        clips,
        clips_per_batch=clips_per_batch,
        reduce=reduce,
        processor=processor,
        num_layers=features.num_layers,
    )
    # (videos, views, segments, ...): average the segments, or put them one after the other.
    values = (values.mean(dim=2) if features.kind == "mean" else values.flatten(2, 3)).to(dtype)
    if not values.isfinite().all():
        raise FeatureError(f"features are not finite in {dtype}: use float32, or check the weights of the model")
    return {"features": values}


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
    features: FeatureSettings | None = None,
    geometry: ClipGeometry | None = None,
    processor: VJEPAVideoProcessor | None = None,
    options: PassOptions | None = None,
) -> None:
    """
    Writes the features of all videos and images of a corpus, in shards. A second call, with any number of processes,
    writes the missing shards. Every process calls this function; when all have returned, [`FeatureStore`] reads the
    folder.

    Args:
        model: the frozen encoder; runs on its own device and in its own type, in evaluation mode.
        corpus: see [`open_corpus`]. A corpus that can only be streamed is read in order, by one process.
        folder: created if it does not exist.
        features: which features are stored; by default all tokens in float16.
        geometry: clips and crops of each video; by default one clip in the middle, sampled as the processor does.
        processor: gives mean and standard deviation of the pixels; by default ImageNet's.
        options: how the work is divided.

    Raises:
        ShardError: the folder was made with other settings.
        FeatureError: clips that do not fit the model, or features that the type on disk cannot hold.
        ValueError: an empty corpus.
        TooManyBrokenVideosError: see [`PassOptions`].
    """
    config = model.config
    features = FeatureSettings() if features is None else features
    options = PassOptions() if options is None else options
    processor = VJEPAVideoProcessor.for_config(config) if processor is None else processor
    geometry = ClipGeometry.for_model(config, processor, sampling={}) if geometry is None else geometry
    shape = features.shape(config, geometry)
    num_items = None if isinstance(corpus, SequentialCorpus) else len(corpus)
    shard_size = features.shard_size
    if shard_size is None:
        item_bytes = math.prod(shape) * getattr(torch, features.dtype).itemsize
        shard_size = default_shard_size(num_items, item_bytes=item_bytes)
    settings = pass_settings(model.encoder, corpus, geometry, config=config, processor=processor)
    if features.num_layers > 1:  # earlier versions wrote no number for one layer
        settings["num_layers"] = features.num_layers
    shards = ShardFolder(
        folder,
        stem="features",
        suffix=f".{features.file_format}",
        num_items=num_items,
        shard_size=shard_size,
        settings={"kind": features.kind, "dtype": features.dtype, **settings},
        notes=pass_notes(model),
    )
    compute = partial(_features, model, features=features, clips_per_batch=options.batch_size, processor=processor)
    write = write_safetensors if features.file_format == "safetensors" else partial(_write_parquet, shape=shape)
    was_training = model.training
    model.eval()
    try:
        fill_shards(shards, corpus, geometry, options, compute=compute, write=write, description="features")
    finally:
        model.train(was_training)


def pass_settings(
    module: nn.Module,
    corpus: Corpus,
    geometry: ClipGeometry,
    *,
    config: VJEPAConfig,
    processor: VJEPAVideoProcessor,
) -> dict[str, Any]:
    """
    Everything that the results of a pass of `module` over a corpus depend on, for [`ShardFolder`], but for the sizes
    and times of files: these belong to each shard.
    """
    is_streamed = isinstance(corpus, SequentialCorpus)
    return {
        **asdict(geometry),
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "weights": weights_hash(module),
        "weights_dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
        "config": {name: getattr(config, name) for name in COMPUTED},
        "source" if is_streamed else "manifest": corpus.name if is_streamed else clips_digest(corpus),
        "class_names": list(corpus.class_names),
    }


def pass_notes(model: PreTrainedModel) -> dict[str, Any]:
    """What to know about a pass beside [`pass_settings`]: the model by name, and the versions of what reads clips."""
    return {"model": model.config.name_or_path, "versions": {name: version(name) for name in _READERS}}


def _write_parquet(path: Path, contents: ShardContents, *, shape: Sequence[int]) -> None:
    """Writes a row per video and view, and the broken videos as JSON in the metadata of the schema."""
    views, *inner = shape  # the last one is the width
    kind = pa.float32()
    for size in reversed(inner):
        kind = pa.list_(kind, size)
    names = [("path", pa.string()), ("label", pa.int64()), ("view", pa.int64()), ("features", kind)]
    fields = [field for field in names if views > 1 or field[0] != "view"]
    schema = pa.schema(fields, metadata={"broken": json.dumps(contents.broken)})
    # Without a clip write no row group, since `datasets` refuses an empty one.
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
    Counts the results of a finished pass of [`write_features`]: `num_videos`, `num_shards`, `num_broken`, `broken`
    (path and error of the videos that could not be read), and the settings.

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
        "broken": describe_broken(broken),
    }


class FeatureStore(Dataset):
    """
    The features that [`write_features`] wrote to a folder, as a map-style data set. An item has `features`, in the
    type on disk, and `labels`, an int (-1 if unknown). The shape of `features` is (views, tokens, width) for the kind
    `"tokens"`, (views, steps, width) for `"time_means"` and (views, width) for `"mean"`. Broken videos are left out.

    An item reads only its own bytes, so that memory does not grow with the store. A store may be forked and pickled.

    Attributes:
        kind (`str`): see [`FeatureSettings`].
        labels (`np.ndarray`): int64 (clips,).
        paths (`Sequence[str]`): names of the clips.
        index (`np.ndarray`): int64 (clips,), their places in the corpus.
        class_names (`tuple[str, ...]`): names of the labels; may be empty.
        stamps (`np.ndarray`): int64 (clips, 2), sizes and times of the files when they were read, see
            [`~data.fingerprints.file_stamps`]; -1 if unknown.
        broken (`list`): (place in the corpus, path, error) of the videos that could not be read.
        settings (`dict`): everything that the features depend on.
        manifest (`str`, *optional*): hash of the clips and labels, see
            [`~data.fingerprints.clips_digest`]; not of streamed data.

    Raises:
        ShardError: a folder without shards, missing shards, Parquet files, or no readable clip.
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
        labels, index, counts, paths, offsets, stamps = [], [], [0], [], [], []
        for number, file in enumerate(self._files):
            contents = read_safetensors(file, names=["labels", "index"])
            columns = [contents.tensors.get(name, torch.empty(0)).tolist() for name in ("labels", "index")]
            if any(len(column) != len(contents.paths) for column in columns):
                raise ShardError(
                    f"{file} is damaged: it names {len(contents.paths)} clips, but its tensors have other lengths"
                )
            labels += columns[0]
            index += columns[1]
            stamps.append(shards.stamps(number, columns[1]))
            counts.append(len(contents.paths))
            paths += contents.paths
            offset, shape = _features_in(file)
            offsets.append(offset)
            self._shape = shape or self._shape  # a shard without a clip has no shape
            self.broken += contents.broken
        if not paths:
            example = f", such as {self.broken[0][1]} ({self.broken[0][2]})" if self.broken else ""
            raise ShardError(f"{folder} has no features of any clip; {len(self.broken)} are broken{example}")
        self.paths: Sequence[str] = PackedStrings(paths)
        self.labels, self.index = np.array(labels, dtype=np.int64), np.array(index, dtype=np.int64)
        self.stamps = np.concatenate(stamps)
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
        try:  # Read instead of mapping the file: mapped pages count as memory of the process.
            data = np.fromfile(self._files[shard], dtype=np.uint8, count=size, offset=offset)
        except OSError as error:
            raise ShardError(
                f"{self._files[shard]} cannot be read any more ({error.strerror}): run the same command again"
            ) from error
        if len(data) != size:
            raise ShardError(f"{self._files[shard]} is truncated: delete it, and run the same command again")
        features = torch.from_numpy(data).view(self._dtype).view(self._shape)
        return {"features": features, "labels": int(self.labels[index])}


def _features_in(file: Path) -> tuple[int, list[int]]:
    """Offset of the features in a file, in bytes, and the shape of a row; -1 and no shape if the file has none."""
    # The format of safetensors: 8 bytes with the length of the header, the header in JSON, and the data.
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length)).get("features")
    if entry is None:
        return -1, []
    return 8 + length + entry["data_offsets"][0], entry["shape"][1:]
