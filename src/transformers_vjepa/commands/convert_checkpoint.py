"""
Convert a published V-JEPA or I-JEPA checkpoint to a folder that `from_pretrained` loads, or back.

    vjepa convert_checkpoint vitl16.pth.tar --output_dir models/vitl16
    vjepa convert_checkpoint vitl16.pth.tar --probe k400-probe.pth.tar --output_dir models/vitl16-k400
    vjepa convert_checkpoint models/vitl16 --probe in1k-probe.pth.tar --output_dir models/vitl16-in1k
    vjepa convert_checkpoint models/vitl16 --to_original --output_dir published

The command finds the architecture from the weights. It loads the result and compares it with the file, bit by bit.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from transformers.hf_argparser import string_to_bool

from ..command_line.help_page import DefaultsFormatter
from ..command_line.parsing import names_given, user_errors
from ..conversion.conversion import (
    classifier_config,
    convert_encoder_and_probe,
    convert_weights,
    dropped_entries,
    read_folder,
)
from ..conversion.folders import check_folder, check_outputs, save_folder, write_published
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
from ..safety.safe_loading import CheckpointError, read_checkpoint

#: Arguments for what a published file may leave open.
ARCHITECTURE = ("preset", "num_attention_heads", "pred_num_attention_heads", "uniform_power")


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=DefaultsFormatter, allow_abbrev=False)
    parser.add_argument("source", metavar="SRC", type=Path, help="a published file, or a converted folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the result")
    parser.add_argument("--probe", type=Path, help="a published attentive probe: the result is a classifier")
    parser.add_argument("--labels", type=Path, help="class names: JSON, or one per line, instead of a public list")
    parser.add_argument("--preset", choices=list(PRESETS), help="architecture that the weights must have")
    parser.add_argument("--num_attention_heads", type=int, metavar="N", help="heads, if no preset gives them")
    parser.add_argument(
        "--pred_num_attention_heads", type=int, metavar="N", help="heads of the predictor, if not those of the encoder"
    )
    parser.add_argument(
        "--uniform_power",
        type=string_to_bool,
        metavar="true|false",
        help="true: time, height and width get a third of the position channels each, as in all released models; "
        "false: a half, a quarter and a quarter. Needed only for a file without position tables",
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
    parser.add_argument("--to_original", action="store_true", help="from a converted folder to published files")
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
    """The architecture of the result; prints how it was found, and what the conversion drops."""
    probe = read_checkpoint(arguments.probe) if arguments.probe else None
    if arguments.source.is_dir():
        if probe is None:
            raise CheckpointError(f"{arguments.source} is converted already: pass --probe or --to_original")
        if given := [f"--{name}" for name in ARCHITECTURE if getattr(arguments, name) is not None]:
            raise CheckpointError(f"{arguments.source} has a config.json: leave out {', '.join(given)}")
        checkpoint, (config, _) = {}, read_folder(arguments.source)
    else:
        checkpoint = read_checkpoint(arguments.source)
        recognition = recognise_config(checkpoint, **{name: getattr(arguments, name) for name in ARCHITECTURE})
        config = recognition.config
        print(f"found:   {recognition}")
    if probe is not None:
        config, source = classifier_config(config, probe, labels=arguments.labels)
        print(f"probe:   depth {config.num_pooler_layers + 1}, {config.num_labels} classes, names: {source}")
    print(f"dropped: {', '.join(dropped_entries(checkpoint, probe)) or 'nothing'}")
    return config


def read_weights(arguments: Namespace, config: VJEPAConfig) -> Weights:
    """The weights of the result, as views of the files."""
    probe = read_checkpoint(arguments.probe) if arguments.probe else None
    if arguments.source.is_dir():
        return convert_encoder_and_probe(read_folder(arguments.source)[1], probe, config)
    return convert_weights(read_checkpoint(arguments.source), config, probe)


def convert(arguments: Namespace) -> None:
    """Published files to a folder with a model card: that of the released model, if the result is one."""
    config = settle_config(arguments)
    # The check opens the files again, so that files and model are never in memory together while one is saved.
    save_folder(read_weights(arguments, config), config, arguments.output_dir)
    model = check_folder(arguments.output_dir, read_weights(arguments, config))
    print(f"checked: all {len(model.state_dict())} tensors, loaded again, are those of the file")
    if arguments.reference:
        differences = check_outputs(model, arguments.reference)
        print("outputs: " + ", ".join(f"{name} differ by {value:.1e}" for name, value in differences.items()))
    del model  # an upload does not need the memory
    card = released_card(config, is_classifier=arguments.probe is not None)
    if card is None:
        license_ = PUBLISHED_LICENSE if is_released(config) else None
        if arguments.source.is_dir():  # a probe for a converted encoder inherits the licence
            license_ = heritage_of(arguments.source).license
        (arguments.output_dir / CARD_NAME).unlink(missing_ok=True)  # of an earlier conversion
        card = card_of_folder(arguments.output_dir, license=license_)
    write_card(card, arguments.output_dir)
    print(f"card:    {CARD_NAME}, licence: {card.data.get('license') or 'none named'}")
    print(f"saved:   {arguments.output_dir}")
    if arguments.push_to_hub:
        message = f"Convert {arguments.source.name}"
        print(f"pushed:  {publish_folder(arguments.output_dir, arguments.push_to_hub, message=message).commit_url}")


@user_errors()
def run(argv: Sequence[str]) -> None:
    """One conversion from its command line; an error that the user can correct ends it with one line."""
    arguments = parse_arguments(argv)
    if not arguments.to_original:
        convert(arguments)
        return
    paths, number = write_published(arguments.source, arguments.output_dir)
    print(f"checked: all {number} tensors, read again, are those of {arguments.source}")
    print(f"saved:   {', '.join(map(str, paths.values()))}")


def main() -> None:
    run(sys.argv[1:])
