"""Convert published checkpoints to our models and back: the names and shapes of every weight."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..data.labels import find_class_names
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAPositions
from ..safety.safe_loading import CheckpointError, read_checkpoint
from . import layout
from .layout import Weights
from .recognition import check_positions, position_table, recognise_config

# From the published layout


def load_published_checkpoint(path: str | os.PathLike, config: VJEPAConfig) -> VJEPAForPreTraining:
    """
    Loads a published checkpoint (`encoder`, `target_encoder`, `predictor`) as a pretraining model.

    Args:
        path: a `.pth.tar` file in the published layout. Reading the file runs no code.
        config: the architecture; [`~conversion.recognition.recognise_config`] finds it.

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
    Loads the target encoder of a published checkpoint and a published attentive probe as a classifier.

    Args:
        path, probe_path: `.pth.tar` files in the published layout. Reading the files runs no code.
        labels: file of class names; by default the public names of the data set with this number of classes.
        recognition: arguments of [`~conversion.recognition.recognise_config`], for facts that the weights do not show.

    Raises:
        CheckpointError: a part is missing, does not fit, or the architecture cannot be recognised.
        LabelError: the class names do not fit.
    """
    checkpoint, probe = read_checkpoint(path), read_checkpoint(probe_path)
    config = recognise_config(checkpoint, **recognition).config
    config, _ = classifier_config(config, probe, labels=labels)
    return build_model(convert_weights(checkpoint, config, probe), config)


def convert_checkpoint(checkpoint: Mapping[str, Any], config: VJEPAConfig) -> VJEPAForPreTraining:
    """As [`load_published_checkpoint`], from the contents of the file."""
    return build_model(convert_weights(checkpoint, config), config)


def convert_weights(
    checkpoint: Mapping[str, Any], config: VJEPAConfig, probe: Mapping[str, Any] | None = None
) -> Weights:
    """
    A published file, and optionally a probe, as the state dict of our model. The tensors share the memory of the file.

    Args:
        checkpoint: contents of the file, from `read_checkpoint`.
        config: the architecture.
        probe: contents of a probe file. The result then belongs to a `VJEPAForVideoClassification` with the target
            encoder, otherwise to a `VJEPAForPreTraining`.

    Raises:
        CheckpointError: names, sizes or position tables do not fit.
    """
    parts = tuple(layout.NETWORKS) if probe is None else ("target_encoder",)
    layout.check_top_level(checkpoint, parts, "pretraining checkpoint")
    networks = {part: layout.published_network(checkpoint, part) for part in parts}
    layout.check_names(networks)
    for weights in networks.values():
        check_positions(weights, config)
    converted = {
        f"{layout.NETWORKS[part]}.{name}": value
        for part, weights in networks.items()
        for name, value in convert_network(weights).items()
    }
    if probe is not None:
        converted |= convert_network(_probe_network(probe, config))
    model_class = VJEPAForPreTraining if probe is None else VJEPAForVideoClassification
    check_shapes(converted, model_class, config)
    return converted


def convert_network(weights: Mapping[str, torch.Tensor]) -> Weights:
    """
    The state dict of one published network (encoder, predictor or probe) with our names. The tensors share memory.
    Position tables, which our models compute, and the unused projection of a probe are left out.

    Raises:
        CheckpointError: names are unknown or missing, or a weight does not split into equal parts.
    """
    weights = layout.published_network({"network": weights}, "network")
    layout.check_names({"network": weights})
    converted, kind = {}, layout.network_kind(weights)
    for name, ours in layout.network_layout(weights, kind).items():
        value = weights[name]
        if value.ndim == 0 or value.shape[0] % len(ours):
            raise CheckpointError(f"{name} of shape {tuple(value.shape)} does not split into {len(ours)} equal parts")
        if name == layout.PATCHES:
            value = value.flatten(1)  # a strided convolution is a linear map of flat patches
        converted |= dict(zip(ours, value.chunk(len(ours)), strict=True))
    if kind == "predictor":
        converted["mask_tokens"] = torch.stack([weights[name] for name in layout.mask_token_names(weights)])
    return converted


def _probe_network(probe: Mapping[str, Any], config: VJEPAConfig) -> Weights:
    """The weights of a published probe, after a check of their names and width."""
    layout.check_top_level(probe, ("classifier",), "probe")
    weights = layout.published_network(probe, "classifier")
    if "pooler.query_tokens" not in weights:
        raise CheckpointError("not a published attentive probe: `classifier` has no pooler.query_tokens")
    width = weights["pooler.query_tokens"].shape[-1]
    if width != config.hidden_size:
        raise CheckpointError(
            f"the probe has width {width}, the encoder {config.hidden_size}: the probe belongs to another model"
        )
    layout.check_names({"classifier": weights})
    return weights


def convert_encoder_and_probe(state: Weights, probe: Mapping[str, Any], config: VJEPAConfig) -> Weights:
    """
    The state dict of a `VJEPAForVideoClassification` from the encoder of a model of ours and a published probe.

    Raises:
        CheckpointError: the probe does not fit.
    """
    weights = {name: value for name, value in state.items() if name.startswith("vjepa.encoder.")}
    weights |= convert_network(_probe_network(probe, config))
    check_shapes(weights, VJEPAForVideoClassification, config)
    return weights


def classifier_config(
    config: VJEPAConfig, probe: Mapping[str, Any], *, labels: str | os.PathLike | None = None
) -> tuple[VJEPAConfig, str]:
    """
    The configuration of an encoder with a published probe, and a description of the source of the class names.

    Args:
        config: the architecture of the encoder.
        probe: contents of a probe file, which show the depth of the pooler and the number of classes.
        labels: file of class names; by default the public names of the data set with this number of classes.

    Raises:
        CheckpointError: the file is not a probe, or its width is not the encoder's.
        LabelError: the class names do not fit.
    """
    weights = _probe_network(probe, config)
    names, source = find_class_names(weights["linear.weight"].shape[0], labels)
    config = copy.deepcopy(config)
    config.update(
        {
            "pooling": "attentive",
            "num_pooler_layers": layout.count_blocks(weights, layout.BLOCKS["probe"][0]),
            "pooler_layer_norm_eps": 1e-5,
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }
    )
    return config, source


def check_shapes(weights: Weights, model_class: Callable[[VJEPAConfig], PreTrainedModel], config: VJEPAConfig) -> None:
    """
    Compares the names and shapes of weights with those of a model. The weights must also share one type, because
    loading would convert the others.

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
        raise CheckpointError(f"the weights are of several types, {examples}: save both files in the same type")


def build_model(weights: Weights, config: VJEPAConfig) -> PreTrainedModel:
    """
    The pretraining model, the classifier, or the base model without a predictor with these weights (names with
    `vjepa.`), without a copy of them.
    """
    is_encoder = all(name.startswith("vjepa.encoder.") for name in weights)
    if is_encoder:
        weights = {name.removeprefix("vjepa."): value for name, value in weights.items()}
    model_class = VJEPAForVideoClassification if "classifier.weight" in weights else VJEPAForPreTraining
    with torch.device("meta"):
        model = VJEPAModel(config, add_predictor=False) if is_encoder else model_class(config)
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, VJEPAPositions):
            module.table = module.compute_table()
    if isinstance(model, VJEPAForPreTraining):
        model.vjepa.encoder.requires_grad_(False)
    return model.eval()


def dropped_entries(checkpoint: Mapping[str, Any], probe: Mapping[str, Any] | None = None) -> list[str]:
    """Descriptions of the entries that a conversion drops."""
    dropped = [name for name in layout.BOOKKEEPING if name in checkpoint]
    if any(name.endswith("pos_embed") for part in layout.NETWORKS for name in checkpoint.get(part, ())):
        dropped.append("position tables (computed)")
    if probe is not None:
        dropped += [name for name in ("encoder", "predictor") if name in checkpoint]
        of_probe = [name for name in layout.BOOKKEEPING if name in probe] + ["xattn.proj (never applied)"]
        dropped.append(f"of the probe {', '.join(of_probe)}")
    return dropped


# To the published layout


def read_folder(folder: str | os.PathLike) -> tuple[VJEPAConfig, Weights]:
    """
    Configuration and weights of a folder that `save_pretrained` wrote. The names are those of the pretraining model
    and the classifier; names of a base model get the prefix `vjepa.`. Tensors are memory-mapped.

    Raises:
        CheckpointError: the folder holds no model of ours, or a damaged file.
    """
    weights = read_weights(folder)
    config, parts = VJEPAConfig.from_pretrained(folder), ("encoder.", "predictor.")
    return config, {f"vjepa.{name}" if name.startswith(parts) else name: value for name, value in weights.items()}


def read_weights(folder: str | os.PathLike) -> Weights:
    """
    The weights of a folder that `save_pretrained` wrote, by their names in the files. Tensors are memory-mapped.

    Raises:
        CheckpointError: the folder holds no model in safetensors files, or a damaged file.
    """
    folder = Path(folder)
    # A model in one file has no shards: shards beside it belong to an earlier model.
    whole = folder / SAFE_WEIGHTS_NAME
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files or not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} is not a saved model: it has no {CONFIG_NAME} or no {SAFE_WEIGHTS_NAME}")
    weights: Weights = {}
    for file in files:
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
    return weights


def _published_state(state: Weights, config: VJEPAConfig, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Published names and weights of one of our networks: fused, and patches in the shape of a convolution."""
    if kind in layout.TABLES:
        yield layout.TABLES[kind], position_table(config, kind).unsqueeze(0)
    published, ours = layout.BLOCKS[kind]
    blocks = [f"{published}.{index}." for index in range(layout.count_blocks(state, ours))]
    bias = ["attn.qkv.bias"] if config.qkv_bias else []
    for name, parts in layout.network_layout(dict.fromkeys([*blocks, *bias]), kind).items():
        value = state[parts[0]] if len(parts) == 1 else torch.cat([state[part] for part in parts])
        if name == layout.PATCHES:
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
    A model of ours, from the state dict and architecture of a pretraining model or a classifier, as the dict that the
    published code loads: all its networks, which for a classifier is the target encoder. The state of the optimizer is
    left out, because evaluations do not need it.

    Raises:
        CheckpointError: an image model has more than one mask token.
    """
    prefix = "module." if config.is_image_model else "module.backbone."
    checkpoint: dict[str, Any] = {}
    for part, ours in layout.NETWORKS.items():
        network = {name[len(ours) + 1 :]: value for name, value in state.items() if name.startswith(f"{ours}.")}
        if network:
            kind = "predictor" if part == "predictor" else "encoder"
            checkpoint[part] = {f"{prefix}{name}": value for name, value in _published_state(network, config, kind)}
    return checkpoint | {"epoch": 0}


def published_probe(state: Weights, config: VJEPAConfig) -> dict[str, Any]:
    """
    The pooler and classifier of a model of ours as the dict that the published code loads. The projection that
    published probes never apply is zero.

    Raises:
        CheckpointError: the model pools by the mean, which has no published layout.
    """
    if config.pooling != "attentive":
        raise CheckpointError(f"pooling={config.pooling!r} has no published layout: only attentive probes have one")
    weights = dict(_published_state(state, config, "probe"))
    width = config.hidden_size
    for name, shape in zip(layout.UNUSED, ((width, width), (width,)), strict=True):
        weights[name] = torch.zeros(shape, dtype=weights["linear.weight"].dtype)
    return {"classifier": {f"module.{name}": value for name, value in weights.items()}, "epoch": 0}
