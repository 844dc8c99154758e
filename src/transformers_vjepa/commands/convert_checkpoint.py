"""
Convert a published V-JEPA or I-JEPA checkpoint to a folder that `from_pretrained` loads, or back.

    vjepa convert_checkpoint vitl16.pth.tar --output_dir models/vitl16
    vjepa convert_checkpoint vitl16.pth.tar --probe k400-probe.pth.tar --output_dir models/vitl16-k400
    vjepa convert_checkpoint models/vitl16 --probe in1k-probe.pth.tar --output_dir models/vitl16-in1k
    vjepa convert_checkpoint models/vitl16 --to_original --output_dir published

The architecture is read off the weights. The result is loaded again and compared with the file, bit by bit.
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.hf_argparser import string_to_bool

from ..command_line.parsing import names_given, user_errors
from ..conversion.checks import differing_tensors, reference_differences
from ..conversion.conversion import (
    build_model,
    classifier_config,
    convert_encoder_and_probe,
    convert_weights,
    dropped_entries,
    published_checkpoint,
    published_probe,
    read_folder,
)
from ..conversion.layout import Weights
from ..conversion.recognition import recognise_config
from ..hub.model_card import (
    CARD_NAME,
    PUBLISHED_LICENSE,
    card_of_folder,
    heritage_of,
    is_released,
    released_card,
    write_card,
)
from ..hub.transfer import publish_folder
from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.image_processing_vjepa import VJEPAImageProcessor
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.safe_loading import CheckpointError, read_checkpoint, save_checkpoint

#: Largest difference of an output from the published one that `--reference` accepts.
REFERENCE_TOLERANCE = 1e-4
#: Arguments that say what a published file does not show.
ARCHITECTURE = ("preset", "num_attention_heads", "pred_num_attention_heads", "uniform_power")


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument("source", metavar="SRC", type=Path, help="a published file, or a folder of ours")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the result goes")
    parser.add_argument("--probe", type=Path, help="a published attentive probe: the result is a classifier")
    parser.add_argument("--labels", type=Path, help="class names: JSON, or one per line, instead of a public list")
    parser.add_argument("--preset", choices=list(PRESETS), help="architecture that the weights must agree with")
    parser.add_argument("--num_attention_heads", type=int, metavar="N", help="heads, where no preset settles them")
    parser.add_argument(
        "--pred_num_attention_heads", type=int, metavar="N", help="heads of the predictor, if not as many as above"
    )
    parser.add_argument(
        "--uniform_power",
        type=string_to_bool,
        metavar="true|false",
        help="true: time, height and width get a third of the position channels each, as in all released models; "
        "false: a half, a quarter and a quarter. Needed only where the file stores no position table",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="safetensors with inputs and outputs of the published code, to compare with",
    )
    parser.add_argument("--push_to_hub", metavar="ORG/NAME", help="also upload the result")
    parser.add_argument("--to_original", action="store_true", help="from a folder of ours to published files")
    arguments = parser.parse_args(argv)
    useless = names_given(argv) - {"output_dir", "to_original"}
    if arguments.to_original and useless:
        parser.error(f"--to_original takes no {', '.join(f'--{name}' for name in sorted(useless))}")
    if arguments.output_dir.resolve() == arguments.source.resolve():
        parser.error("--output_dir is SRC: choose another folder")
    if arguments.labels and not arguments.probe:
        parser.error("--labels names the classes of a probe: pass --probe too")
    return arguments


def settle_config(arguments: Namespace) -> VJEPAConfig:
    """The architecture of the result, and what is to be said of it."""
    dropped: list[str] = []
    probe = read_checkpoint(arguments.probe) if arguments.probe else None
    if arguments.source.is_dir():
        if probe is None:
            raise CheckpointError(f"{arguments.source} is converted already: pass --probe or --to_original")
        if given := [f"--{name}" for name in ARCHITECTURE if getattr(arguments, name) is not None]:
            raise CheckpointError(
                f"{arguments.source} has a config.json, which settles {', '.join(given)}: leave it out"
            )
        config, _ = read_folder(arguments.source)
        dropped += dropped_entries({}, probe)
    else:
        checkpoint = read_checkpoint(arguments.source)
        recognition = recognise_config(
            checkpoint,
            **{name: getattr(arguments, name) for name in ARCHITECTURE},
        )
        config = recognition.config
        print(f"found:   {recognition}")
        dropped += dropped_entries(checkpoint, probe)
    if probe is not None:
        config, source = classifier_config(config, probe, labels=arguments.labels)
        print(f"probe:   depth {config.num_pooler_layers + 1}, {config.num_labels} classes, names: {source}")
    print(f"dropped: {', '.join(dropped) or 'nothing'}")
    return config


def read_weights(arguments: Namespace, config: VJEPAConfig) -> Weights:
    """The weights of the result, as views of the files."""
    probe = read_checkpoint(arguments.probe) if arguments.probe else None
    if arguments.source.is_dir():
        return convert_encoder_and_probe(read_folder(arguments.source)[1], probe, config)
    return convert_weights(read_checkpoint(arguments.source), config, probe)


def save_model(arguments: Namespace, config: VJEPAConfig) -> None:
    """Writes the folder: the model, and the processors with which the pipelines work."""
    build_model(read_weights(arguments, config), config).save_pretrained(arguments.output_dir)
    VJEPAVideoProcessor.for_config(config).save_pretrained(arguments.output_dir)
    VJEPAImageProcessor(crop_size=config.crop_size).save_pretrained(arguments.output_dir)


def check_model(arguments: Namespace, config: VJEPAConfig) -> None:
    """
    Loads the folder and compares it with the files, which are opened again only now: never are both and the model's
    own copy in memory at once.
    """
    model_class = VJEPAForVideoClassification if arguments.probe else VJEPAForPreTraining
    model = model_class.from_pretrained(arguments.output_dir)
    state = model.state_dict()
    if different := differing_tensors(state, read_weights(arguments, config)):
        raise CheckpointError(f"{arguments.output_dir} differs from the file in {', '.join(different)}: do not use it")
    print(f"checked: all {len(state)} tensors, loaded again, are those of the file")
    if not arguments.reference:
        return
    reference = {}
    for file in arguments.reference:
        try:
            reference |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is no safetensors file: {error}") from error
    differences = reference_differences(model, reference)
    if not differences:
        raise CheckpointError(
            f"--reference has no input and output of this model, only {', '.join(sorted(reference))}: "
            "see conversion.checks.reference_differences"
        )
    print("outputs: " + ", ".join(f"{name} differ by {value:.1e}" for name, value in differences.items()))
    if not max(differences.values()) <= REFERENCE_TOLERANCE:
        raise CheckpointError(
            f"{arguments.output_dir} computes something else than the published code (allowed "
            f"{REFERENCE_TOLERANCE:.0e}): is the number of heads right? Do not use it"
        )


def convert(arguments: Namespace) -> None:
    """Published files to a folder of ours."""
    config = settle_config(arguments)
    save_model(arguments, config)
    check_model(arguments, config)
    describe_model(arguments, config)
    print(f"saved:   {arguments.output_dir}")
    if arguments.push_to_hub:
        print(f"pushed:  {push(arguments)}")


def describe_model(arguments: Namespace, config: VJEPAConfig) -> None:
    """Writes the model card: that of the published model, where it is one."""
    is_classifier = arguments.probe is not None
    card = released_card(config, is_classifier=is_classifier)
    if card is None:
        license_ = PUBLISHED_LICENSE if is_released(config) else None
        if arguments.source.is_dir():  # what it holds was converted before
            license_ = heritage_of(arguments.source).license
        (arguments.output_dir / CARD_NAME).unlink(missing_ok=True)  # of an earlier conversion
        card = card_of_folder(arguments.output_dir, license=license_)
    write_card(card, arguments.output_dir)
    print(f"card:    {CARD_NAME}, licence: {card.data.get('license') or 'none named'}")


def push(arguments: Namespace) -> str:
    """Uploads the folder as it was checked, and nothing else that may lie in it, in one commit; gives its URL."""
    message = f"Convert {arguments.source.name}"
    return publish_folder(arguments.output_dir, arguments.push_to_hub, message=message).commit_url


def write_published(state: Weights, config: VJEPAConfig, output_dir: Path) -> dict[str, Path]:
    """The published files of a model: the checkpoint and, of a classifier, the probe."""
    published = {"checkpoint": published_checkpoint(state, config)}
    if "classifier.weight" in state:
        published["probe"] = published_probe(state, config)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = {name: output_dir / f"{name}.pth.tar" for name in published}
    for name, path in paths.items():
        save_checkpoint(published[name], path)
    return paths


def export(arguments: Namespace) -> None:
    """A folder of ours to published files."""
    config, state = read_folder(arguments.source)
    if not any(name.startswith(("vjepa.predictor.", "classifier.")) for name in state):
        raise CheckpointError(
            f"{arguments.source} is an encoder without predictor or classifier, for which there is no published layout"
        )
    if not any(name.startswith(("context_encoder.", "classifier.")) for name in state):
        # As where pretraining goes on from a base model: it begins with the target encoder.
        target = "vjepa.encoder."
        state |= {
            f"context_encoder.{name[len(target) :]}": value.clone()
            for name, value in state.items()
            if name.startswith(target)
        }
    paths = write_published(state, config, arguments.output_dir)
    written = {name: read_checkpoint(path) for name, path in paths.items()}
    again = convert_weights(written["checkpoint"], config, written.get("probe"))
    if different := differing_tensors(state, again):
        raise CheckpointError(f"{paths['checkpoint']} differs from {arguments.source} in {', '.join(different)}")
    print(f"checked: all {len(state)} tensors, read again, are those of {arguments.source}")
    print(f"saved:   {', '.join(map(str, paths.values()))}")


def run(argv: Sequence[str]) -> None:
    """One conversion from its command line; what the user can mend ends it with one line."""
    arguments = parse_arguments(argv)
    with user_errors():
        export(arguments) if arguments.to_original else convert(arguments)


def main() -> None:
    run(sys.argv[1:])
