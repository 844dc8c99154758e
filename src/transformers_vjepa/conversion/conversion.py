"""Published checkpoints and ours: the names and shapes of every weight, both ways."""

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..data.labels import find_class_names
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAPositions
from ..safety.safe_loading import CheckpointError, read_checkpoint
from .layout import (
    BLOCKS,
    BOOKKEEPING,
    NETWORKS,
    PATCHES,
    TABLES,
    UNUSED,
    Weights,
    check_names,
    check_top_level,
    count_blocks,
    mask_token_names,
    network_kind,
    network_layout,
    published_network,
)
from .recognition import check_positions, position_table, recognise_config


def convert_network(weights: Mapping[str, torch.Tensor]) -> Weights:
    """
    The state dict of one published network (encoder, predictor or probe) under our names: views of the same memory.
    Position tables, which ours computes, and the unused projection of a probe are left out.

    Raises:
        CheckpointError: names that are not of the published layout, missing ones, or weights that do not split.
    """
    weights = published_network({"network": weights}, "network")
    check_names({"network": weights})
    converted, kind = {}, network_kind(weights)
    for name, ours in network_layout(weights, kind).items():
        value = weights[name]
        if value.ndim == 0 or value.shape[0] % len(ours):
            raise CheckpointError(f"{name} of shape {tuple(value.shape)} does not split into {len(ours)} equal parts")
        if name == PATCHES:
            value = value.flatten(1)  # a strided convolution is a linear map of flat patches
        converted |= dict(zip(ours, value.chunk(len(ours)), strict=True))
    if kind == "predictor":
        converted["mask_tokens"] = torch.stack([weights[name] for name in mask_token_names(weights)])
    return converted


def convert_weights(
    checkpoint: Mapping[str, Any], config: VJEPAConfig, probe: Mapping[str, Any] | None = None
) -> Weights:
    """
    A published file, and a probe if given, as the state dict of our model: views of the same memory.

    Args:
        checkpoint: what `read_checkpoint` gives.
        config: the architecture.
        probe: what `read_checkpoint` gives for a probe: the result is then a `VJEPAForVideoClassification`'s, with
            the target encoder, otherwise a `VJEPAForPreTraining`'s.

    Raises:
        CheckpointError: names, sizes or position tables do not fit.
    """
    parts = tuple(NETWORKS) if probe is None else ("target_encoder",)
    check_top_level(checkpoint, parts, "pretraining checkpoint")
    networks = {part: published_network(checkpoint, part) for part in parts}
    check_names(networks)
    for weights in networks.values():
        check_positions(weights, config)
    converted = {
        f"{NETWORKS[part]}.{name}": value
        for part, weights in networks.items()
        for name, value in convert_network(weights).items()
    }
    if probe is not None:
        converted |= convert_probe(probe, config)
    model_class = VJEPAForPreTraining if probe is None else VJEPAForVideoClassification
    check_shapes(converted, model_class, config)
    return converted


def _probe_network(probe: Mapping[str, Any], config: VJEPAConfig) -> Weights:
    """The weights of a published probe, whose names and width are checked."""
    check_top_level(probe, ("classifier",), "probe")
    weights = published_network(probe, "classifier")
    if "pooler.query_tokens" not in weights:
        raise CheckpointError("not a published attentive probe: `classifier` has no pooler.query_tokens")
    width = weights["pooler.query_tokens"].shape[-1]
    if width != config.hidden_size:
        raise CheckpointError(
            f"the probe has width {width}, the encoder {config.hidden_size}: it belongs to another model"
        )
    check_names({"classifier": weights})
    return weights


def convert_probe(probe: Mapping[str, Any], config: VJEPAConfig) -> Weights:
    """
    A published probe as the `pooler.*` and `classifier.*` of our classifier.

    Raises:
        CheckpointError: it is no probe, or one of another width than the encoder's.
    """
    return convert_network(_probe_network(probe, config))


def convert_encoder_and_probe(state: Weights, probe: Mapping[str, Any], config: VJEPAConfig) -> Weights:
    """
    The encoder of a model of ours and a published probe as the state dict of a `VJEPAForVideoClassification`.

    Raises:
        CheckpointError: the probe does not fit.
    """
    weights = {name: value for name, value in state.items() if name.startswith("vjepa.encoder.")}
    weights |= convert_probe(probe, config)
    check_shapes(weights, VJEPAForVideoClassification, config)
    return weights


def classifier_config(
    config: VJEPAConfig, probe: Mapping[str, Any], *, labels: str | os.PathLike | None = None
) -> tuple[VJEPAConfig, str]:
    """
    The configuration of an encoder with a published probe, and where the names of its classes come from, in words.

    Args:
        config: the architecture of the encoder.
        probe: what `read_checkpoint` gives; it settles the depth of the pooler and the number of classes.
        labels: a file of class names, instead of the public list of so many classes; see `label_sets`.

    Raises:
        CheckpointError: it is no probe, or one of another width.
        LabelError: the file does not fit.
    """
    weights = _probe_network(probe, config)
    names, source = find_class_names(weights["linear.weight"].shape[0], labels)
    config = copy.deepcopy(config)
    config.update(
        {
            "pooling": "attentive",
            "num_pooler_layers": count_blocks(weights, BLOCKS["probe"][0]),
            "pooler_layer_norm_eps": 1e-5,
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }
    )
    return config, source


def check_shapes(weights: Weights, model_class: type[PreTrainedModel], config: VJEPAConfig) -> None:
    """
    Refuses weights that are not those of the model, by name and shape, and such as are not all of one type, which
    loading would change.

    Raises:
        CheckpointError: with every difference.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    differences = [
        f"{name} has shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise CheckpointError(f"the checkpoint does not fit the configuration: {'; '.join(differences)}")
    if len(types := {value.dtype: name for name, value in weights.items()}) > 1:
        examples = " and ".join(f"{dtype} ({name})" for dtype, name in types.items())
        raise CheckpointError(f"the weights are of several types, {examples}: save both files in the same one")


def build_model(weights: Weights, config: VJEPAConfig) -> PreTrainedModel:
    """The pretraining model or the classifier with these weights, which are not copied."""
    is_classifier = "classifier.weight" in weights
    model_class = VJEPAForVideoClassification if is_classifier else VJEPAForPreTraining
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, VJEPAPositions):
            module.table = module.compute_table()
    if not is_classifier:
        model.vjepa.encoder.requires_grad_(False)
    return model.eval()


def convert_checkpoint(checkpoint: Mapping[str, Any], config: VJEPAConfig) -> VJEPAForPreTraining:
    """As `load_published_checkpoint`, from the loaded dict."""
    return build_model(convert_weights(checkpoint, config), config)


def load_published_checkpoint(path: str | os.PathLike, config: VJEPAConfig) -> VJEPAForPreTraining:
    """
    A pretraining model with the weights of a published checkpoint (`encoder`, `target_encoder`, `predictor`).

    Args:
        path: a `.pth.tar` file in the published layout; read without unpickling code.
        config: the architecture of its networks; `recognition.recognise_config` finds it.

    Raises:
        CheckpointError: a part is missing, or names, shapes or position tables do not fit `config`.
    """
    return convert_checkpoint(read_checkpoint(path), config)


def load_published_classifier(
    path: str | os.PathLike,
    probe_path: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    **recognition: Any,
) -> VJEPAForVideoClassification:
    """
    A classifier of the target encoder of a published checkpoint and a published probe.

    Args:
        path, probe_path: `.pth.tar` files in the published layout; read without unpickling code.
        labels: a file of class names, instead of the public list of so many classes.
        recognition: what `recognise_config` cannot read off the weights.

    Raises:
        CheckpointError: what is missing, does not fit, or cannot be read off.
        LabelError: the class names do not fit.
    """
    checkpoint, probe = read_checkpoint(path), read_checkpoint(probe_path)
    config = recognise_config(checkpoint, **recognition).config
    config, _ = classifier_config(config, probe, labels=labels)
    return build_model(convert_weights(checkpoint, config, probe), config)


def dropped_entries(checkpoint: Mapping[str, Any], probe: Mapping[str, Any] | None = None) -> list[str]:
    """What a conversion leaves behind, in words."""
    dropped = [name for name in BOOKKEEPING if name in checkpoint]
    if any(name.endswith("pos_embed") for part in NETWORKS for name in checkpoint.get(part, ())):
        dropped.append("position tables (computed)")
    if probe is not None:
        dropped += [name for name in ("encoder", "predictor") if name in checkpoint]
        kept_back = [name for name in BOOKKEEPING if name in probe] + ["xattn.proj (never applied)"]
        dropped.append(f"of the probe {', '.join(kept_back)}")
    return dropped


def _published_state(state: Weights, config: VJEPAConfig, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Published names and weights of one of our networks, fused and in the shape of convolutions."""
    if kind in TABLES:
        yield TABLES[kind], position_table(config, kind).unsqueeze(0)
    published, ours = BLOCKS[kind]
    blocks = [f"{published}.{index}." for index in range(count_blocks(state, ours))]
    bias = ["attn.qkv.bias"] if config.qkv_bias else []
    for name, parts in network_layout(dict.fromkeys([*blocks, *bias]), kind).items():
        value = state[parts[0]] if len(parts) == 1 else torch.cat([state[part] for part in parts])
        if name == PATCHES:
            time = () if config.is_image_model else (config.tubelet_size,)
            value = value.unflatten(1, (config.in_chans, *time, config.patch_size, config.patch_size))
        yield name, value
    if kind == "predictor":
        tokens = state["mask_tokens"]
        if config.is_image_model and len(tokens) > 1:
            raise CheckpointError(f"{len(tokens)} mask tokens: a published I-JEPA predictor has one")
        names = ["mask_token"] if config.is_image_model else [f"mask_tokens.{index}" for index in range(len(tokens))]
        yield from zip(names, tokens.unbind(), strict=True)


def published_checkpoint(state: Weights, config: VJEPAConfig) -> dict[str, Any]:
    """
    A model of ours as the dict that the published code loads: the networks that it has, so of a classifier the target
    encoder alone. Without the optimizer's state, with which no evaluation begins.

    Args:
        state: the state dict of a pretraining model or a classifier.
        config: its architecture.

    Raises:
        CheckpointError: an image model with more than one mask token.
    """
    prefix = "module." if config.is_image_model else "module.backbone."
    checkpoint: dict[str, Any] = {}
    for part, ours in NETWORKS.items():
        network = {name[len(ours) + 1 :]: value for name, value in state.items() if name.startswith(f"{ours}.")}
        if network:
            kind = "predictor" if part == "predictor" else "encoder"
            checkpoint[part] = {f"{prefix}{name}": value for name, value in _published_state(network, config, kind)}
    return checkpoint | {"epoch": 0}


def published_probe(state: Weights, config: VJEPAConfig) -> dict[str, Any]:
    """
    The pooler and classifier of a model of ours as the dict that the published code loads, with zeros for the
    projection that it carries and never applies.

    Raises:
        CheckpointError: the model pools by the mean, for which there is no published layout.
    """
    if config.pooling != "attentive":
        raise CheckpointError(f"pooling={config.pooling!r} has no published layout: only attentive probes have")
    weights = dict(_published_state(state, config, "probe"))
    width = config.hidden_size
    for name, shape in zip(UNUSED, ((width, width), (width,)), strict=True):
        weights[name] = torch.zeros(shape, dtype=weights["linear.weight"].dtype)
    return {"classifier": {f"module.{name}": value for name, value in weights.items()}, "epoch": 0}


def differing_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one side has, or whose type, shape or bits differ."""

    def same(first: torch.Tensor, second: torch.Tensor) -> bool:
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        as_bytes = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (first, second))
        return torch.equal(*as_bytes)  # unlike on floats, NaN equals itself

    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or not same(ours[name], theirs[name])
    )


def _clips(clips: torch.Tensor) -> torch.Tensor:
    """Published order (batch, channels, frames, height, width) to ours; pictures stay."""
    return clips.transpose(1, 2) if clips.ndim == 5 else clips


def _views(reference: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """All clips of a reference with several segments and views: (batch, views, segments, frames, 3, height, width)."""
    prefix = "views.clip.segment"
    places = [name[len(prefix) :].split(".view") for name in reference if name.startswith(prefix)]
    if not places:
        return None
    segments, views = (sorted({int(place[axis]) for place in places}) for axis in (0, 1))
    clips = [
        torch.stack([_clips(reference[f"{prefix}{segment}.view{view}"]) for segment in segments], dim=1)
        for view in views
    ]
    return torch.stack(clips, dim=1)


@torch.no_grad()
def reference_differences(
    model: VJEPAForPreTraining | VJEPAForVideoClassification, reference: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """
    Largest differences of a model's outputs from those that the published code gave.

    Args:
        model: a converted model.
        reference: inputs and outputs of the published code, those that are there of
            - `clip` (batch, 3, frames, height, width) or `image` (batch, 3, height, width) with `target.tokens`, the
              tokens of the unmasked target encoder, and for a classifier `logits_single_clip`;
            - for a classifier `views.clip.segment{i}.view{j}` with `views.probabilities`, which are averaged over
              the views.

    Returns:
        The largest absolute difference of each of these outputs that the reference has and the model gives.

    Raises:
        ValueError: an output of another shape.
    """
    model.eval()
    is_classifier = isinstance(model, VJEPAForVideoClassification)
    differences = {}

    def compare(name: str, output: torch.Tensor) -> None:
        if output.shape != reference[name].shape:
            raise ValueError(
                f"{name} of the reference has shape {tuple(reference[name].shape)}, the model gives "
                f"{tuple(output.shape)}: it belongs to another model"
            )
        differences[name] = (output - reference[name]).abs().max().item()

    clips = reference.get("clip", reference.get("image"))
    if clips is not None and "target.tokens" in reference:
        compare("target.tokens", model.vjepa.get_vision_features(_clips(clips)))
    if clips is not None and is_classifier and "logits_single_clip" in reference:
        compare("logits_single_clip", model(_clips(clips)).logits)
    views = _views(reference)
    if views is not None and is_classifier and "views.probabilities" in reference:
        compare("views.probabilities", model(views).logits.softmax(dim=-1))
    return differences


def read_folder(folder: str | os.PathLike) -> tuple[VJEPAConfig, Weights]:
    """
    Configuration and weights of a folder that `save_pretrained` wrote, under the names of the pretraining model and
    the classifier (a base model's get their `vjepa.`). Tensors stay in their files until they are used.

    Raises:
        CheckpointError: no model of ours, or a damaged file.
    """
    folder = Path(folder)
    files = sorted(folder.glob("model*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no saved model: it has no config.json or no model.safetensors")
    config, weights = VJEPAConfig.from_pretrained(folder), {}
    for file in files:
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
    parts = ("encoder.", "predictor.")
    return config, {f"vjepa.{name}" if name.startswith(parts) else name: value for name, value in weights.items()}


__all__ = [
    "build_model",
    "classifier_config",
    "convert_checkpoint",
    "convert_encoder_and_probe",
    "convert_network",
    "convert_probe",
    "convert_weights",
    "differing_tensors",
    "dropped_entries",
    "load_published_checkpoint",
    "load_published_classifier",
    "published_checkpoint",
    "published_probe",
    "read_folder",
    "reference_differences",
]
