"""Folders of converted models: write and check them, and write their models as published files again."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.safe_loading import CheckpointError, read_checkpoint, save_checkpoint
from .checks import differing_tensors, reference_differences
from .conversion import build_model, convert_weights, published_checkpoint, published_probe, read_folder
from .layout import Weights

#: Largest difference of an output from the published one that [`check_outputs`] accepts.
REFERENCE_TOLERANCE = 1e-4


def save_folder(weights: Weights, config: VJEPAConfig, folder: Path, **normalisation: Sequence[float]) -> None:
    """
    Writes the model, and the processors that the pipelines need.

    Args:
        normalisation: `image_mean` and `image_std` of the processors, where they are not those of ImageNet.
    """
    build_model(weights, config).save_pretrained(folder)
    VJEPAVideoProcessor(
        crop_size=config.crop_size, num_frames=config.frames_per_clip, **normalisation
    ).save_pretrained(folder)
    VJEPAImageProcessor(crop_size=config.crop_size, **normalisation).save_pretrained(folder)


def check_folder(folder: Path, weights: Weights) -> PreTrainedModel:
    """
    The model of a folder, loaded and compared with the weights that it was made from.

    Raises:
        CheckpointError: a tensor differs in a bit.
    """
    if all(name.startswith("vjepa.encoder.") for name in weights):
        model = VJEPAModel.from_pretrained(folder, add_predictor=False)
        weights = {name.removeprefix("vjepa."): value for name, value in weights.items()}
    elif "classifier.weight" in weights:
        model = VJEPAForVideoClassification.from_pretrained(folder)
    else:
        model = VJEPAForPreTraining.from_pretrained(folder)
    if different := differing_tensors(model.state_dict(), weights):
        raise CheckpointError(f"{folder} differs from the file in {', '.join(different)}: do not use it")
    return model


def check_outputs(model: PreTrainedModel, files: Sequence[Path]) -> dict[str, float]:
    """
    Largest differences of the outputs of a converted model from those of the published code; safetensors `files` hold
    its inputs and outputs. See [`reference_differences`].

    Raises:
        CheckpointError: the files do not fit the model, or an output differs by more than `REFERENCE_TOLERANCE`.
    """
    reference = {}
    for file in files:
        try:
            reference |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is not a safetensors file: {error}") from error
    differences = reference_differences(model, reference)
    if not differences:
        raise CheckpointError(
            f"the reference has no input and output of this model, only {', '.join(sorted(reference))}: see "
            "transformers_vjepa.conversion.checks.reference_differences"
        )
    if not max(differences.values()) <= REFERENCE_TOLERANCE:
        raise CheckpointError(
            f"the converted model computes other outputs than the published code (allowed {REFERENCE_TOLERANCE:.0e}, "
            f"found {max(differences.values()):.1e}): check the number of heads, and do not use it"
        )
    return differences


def write_published(folder: Path, output_dir: Path) -> tuple[dict[str, Path], int]:
    """
    Writes the model of a folder (see [`read_folder`]) as published files, `checkpoint.pth.tar` and, of a classifier,
    `probe.pth.tar` in `output_dir`, and compares them with the folder bit by bit. Returns the files by name, and the
    number of tensors.

    Raises:
        CheckpointError: the published layout has no place for the model, or a tensor differs in a bit.
    """
    config, state = read_folder(folder)
    if not any(name.startswith(("vjepa.predictor.", "classifier.")) for name in state):
        raise CheckpointError(
            f"{folder} is an encoder without predictor or classifier: the published layout needs one of them"
        )
    if not any(name.startswith(("context_encoder.", "classifier.")) for name in state):
        # A base model has no context encoder: pretraining would start with a copy of the target encoder.
        copies = {name: value.clone() for name, value in state.items() if name.startswith("vjepa.encoder.")}
        state |= {name.replace("vjepa.encoder.", "context_encoder."): value for name, value in copies.items()}
    published = {"checkpoint": published_checkpoint(state, config)}
    if "classifier.weight" in state:
        published["probe"] = published_probe(state, config)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = {name: output_dir / f"{name}.pth.tar" for name in published}
    for name, path in paths.items():
        save_checkpoint(published[name], path)
    written = {name: read_checkpoint(path) for name, path in paths.items()}
    again = convert_weights(written["checkpoint"], config, written.get("probe"))
    if different := differing_tensors(state, again):
        raise CheckpointError(f"{paths['checkpoint']} differs from {folder} in {', '.join(different)}: do not use it")
    return paths, len(state)
