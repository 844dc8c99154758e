"""
Convert a published V-JEPA or I-JEPA checkpoint to a folder that `from_pretrained` loads, or back.

    vjepa convert_checkpoint vitl16.pth.tar --output_dir models/vitl16
    vjepa convert_checkpoint vitl16.pth.tar --probe k400-probe.pth.tar --output_dir models/vitl16-k400
    vjepa convert_checkpoint models/vitl16 --probe in1k-probe.pth.tar --output_dir models/vitl16-in1k
    vjepa convert_checkpoint models/vitl16 --to_original --output_dir published

Models of images (I-JEPA) also become stock models of transformers, which load without this package, and come back:

    vjepa convert_checkpoint models/ijepa --save_as ijepa --output_dir models/ijepa-stock
    vjepa convert_checkpoint facebook/ijepa_vith14_1k --output_dir models/ijepa-vith14

The command finds the architecture from the weights. It loads the result and compares it with the source, bit by bit.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from ..conversion.ijepa import (
    MODEL_TYPE,
    OUTPUT_TOLERANCE,
    check_stock_folder,
    encoder_and_head,
    is_stock_folder,
    read_stock_folder,
    save_stock_folder,
)
from ..conversion.layout import Weights
from ..conversion.recognition import recognise_config
from ..hub.loading import is_stock_model, load_processor, loading, stock_folder
from ..hub.model_card import (
    CARD_NAME,
    PUBLISHED_LICENSE,
    Heritage,
    card_of_folder,
    heritage_of,
    is_released,
    released_card,
    write_card,
)
from ..hub.names import is_hub_id
from ..hub.transfer import publish_folder
from ..models.vjepa.configuration_vjepa import PRESETS, VJEPAConfig
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..safety.safe_loading import CheckpointError, read_checkpoint

#: Arguments for what a published file may leave open.
ARCHITECTURE = ("preset", "num_attention_heads", "pred_num_attention_heads", "uniform_power")


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=DefaultsFormatter, allow_abbrev=False)
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a published file, a folder of ours, or a folder or Hub id of a stock I-JEPA model",
    )
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
    parser.add_argument(
        "--save_as",
        choices=["vjepa", MODEL_TYPE],
        default="vjepa",
        help="model type of the result. vjepa: a model of this package; ijepa: a stock IJepaModel of transformers "
        "with the target encoder or, from a classifier with mean pooling, an IJepaForImageClassification",
    )
    arguments = parser.parse_args(argv)
    useless = names_given(argv) - {"output_dir", "to_original"}
    if arguments.to_original and useless:
        parser.error(f"--to_original takes no {', '.join(f'--{name}' for name in sorted(useless))}")
    if arguments.output_dir.resolve() == Path(arguments.source).resolve():
        parser.error("--output_dir is SRC: choose another folder")
    if arguments.save_as == MODEL_TYPE and arguments.reference:
        parser.error("--reference compares models of this package: convert without --save_as first")
    if arguments.labels and not arguments.probe:
        parser.error("--labels names the classes of a probe: pass --probe too")
    return arguments


@dataclass(frozen=True)
class Source:
    """
    What is converted.

    Args:
        config: architecture of the result.
        read: reads the weights of the result, as views of the files.
        normalisation: `image_mean` and `image_std` of the pixels, where they are not those of ImageNet.
        heritage: base models and licence that the result inherits.
        name: name of the published file, if the source is one.
    """

    config: VJEPAConfig
    read: Callable[[], Weights]
    normalisation: dict[str, list[float]] = field(default_factory=dict)
    heritage: Heritage = field(default_factory=Heritage)
    name: str = ""


def _given_architecture(arguments: Namespace) -> list[str]:
    """The options that name an architecture, which a configuration file states already."""
    return [f"--{name}" for name in ARCHITECTURE if getattr(arguments, name) is not None]


def open_file(arguments: Namespace) -> Source:
    """A published file, and optionally a probe; prints how the architecture was found, and what is dropped."""
    path = Path(arguments.source)
    checkpoint, probe = read_checkpoint(path), read_checkpoint(arguments.probe) if arguments.probe else None
    recognition = recognise_config(checkpoint, **{name: getattr(arguments, name) for name in ARCHITECTURE})
    config = recognition.config
    print(f"found:   {recognition}")
    if probe is not None:
        config = _with_classes(config, probe, arguments)
    print(f"dropped: {', '.join(dropped_entries(checkpoint, probe)) or 'nothing'}")

    def read() -> Weights:
        return convert_weights(
            read_checkpoint(path), config, read_checkpoint(arguments.probe) if arguments.probe else None
        )

    heritage = Heritage(license=PUBLISHED_LICENSE if is_released(config) else None)
    return Source(config, read, heritage=heritage, name=path.name)


def open_folder(arguments: Namespace) -> Source:
    """A folder of ours, with a probe or to be saved as another type."""
    folder = Path(arguments.source)
    if arguments.probe is None and arguments.save_as == "vjepa":
        raise CheckpointError(f"{folder} is converted already: pass --probe, --save_as ijepa or --to_original")
    config, weights = read_folder(folder)
    heritage = heritage_of(folder)
    if arguments.probe is None:
        processor = load_processor(str(folder), config)
        normalisation = {"image_mean": list(processor.image_mean), "image_std": list(processor.image_std)}
        print(f"found:   {folder}: {config.architectures[0] if config.architectures else 'a model of ours'}")
        return Source(config, lambda: read_folder(folder)[1], normalisation, heritage)
    probe = read_checkpoint(arguments.probe)
    config = _with_classes(config, probe, arguments)
    print(f"dropped: {', '.join(dropped_entries({}, probe)) or 'nothing'}")
    return Source(config, lambda: convert_encoder_and_probe(weights, probe, config), heritage=heritage)


def _with_classes(config: VJEPAConfig, probe: Mapping[str, Any], arguments: Namespace) -> VJEPAConfig:
    """The configuration with the pooler and the classes of a probe."""
    config, source = classifier_config(config, probe, labels=arguments.labels)
    print(f"probe:   depth {config.num_pooler_layers + 1}, {config.num_labels} classes, names: {source}")
    return config


def open_stock(arguments: Namespace) -> Source:
    """A stock I-JEPA model, in a folder or on the Hub."""
    name = str(arguments.source)
    if arguments.save_as == MODEL_TYPE:
        raise CheckpointError(f"{name} is a stock I-JEPA model already: leave --save_as out")
    if arguments.probe:
        raise CheckpointError(f"{name} is a stock I-JEPA model: convert it first, and then add --probe to the result")
    with loading(name):
        stock = read_stock_folder(stock_folder(name))
    kind = "IJepaForImageClassification" if "classifier.weight" in stock.weights else "IJepaModel"
    print(f"found:   stock {kind}: {stock.config.num_hidden_layers} blocks of width {stock.config.hidden_size}")
    print(f"dropped: {', '.join(stock.dropped)}")
    if kind == "IJepaModel":
        print("note:    a stock model has no predictor: vjepa pretrain --init_from starts with a new one")
    return Source(stock.config, lambda: stock.weights, stock.normalisation, heritage_of(name))


def open_source(arguments: Namespace) -> Source:
    """The source of a conversion, whatever its kind."""
    name = str(arguments.source)
    if Path(name).is_file():
        return open_file(arguments)
    is_stock = is_stock_folder(name)
    if not Path(name).exists() and is_hub_id(name):
        with loading(name):
            is_stock = is_stock_model(name)
        if not is_stock:
            raise CheckpointError(
                f"{name} is not a stock I-JEPA model of the Hub, and there is no such file or folder"
            )
    if not is_stock and not Path(name).is_dir():
        return open_file(arguments)  # whose error names the missing file
    if given := _given_architecture(arguments):
        raise CheckpointError(f"{name} has a config.json: leave out {', '.join(given)}")
    return open_stock(arguments) if is_stock else open_folder(arguments)


def convert(arguments: Namespace) -> None:
    """From any source to a folder with a model card: that of the released model, if the result is one."""
    source = open_source(arguments)
    folder = arguments.output_dir
    if arguments.save_as == MODEL_TYPE:
        save_as_stock(source, folder)
    else:
        save_as_ours(source, folder, references=arguments.reference)
    card = None
    if arguments.save_as == "vjepa":
        card = released_card(source.config, is_classifier=arguments.probe is not None, source=source.name)
    if card is None:
        (folder / CARD_NAME).unlink(missing_ok=True)  # of an earlier conversion
        card = card_of_folder(folder, license=source.heritage.license, base_models=source.heritage.base_models)
    write_card(card, folder)
    print(f"card:    {CARD_NAME}, licence: {card.data.get('license') or 'none named'}")
    print(f"saved:   {folder}")
    if arguments.push_to_hub:
        message = f"Convert {Path(arguments.source).name}"
        print(f"pushed:  {publish_folder(folder, arguments.push_to_hub, message=message).commit_url}")


def save_as_ours(source: Source, folder: Path, *, references: Sequence[Path]) -> None:
    """Writes a folder of ours, checks it, and prints the result of the check."""
    # The check opens the files again, so that files and model are never in memory together while one is saved.
    save_folder(source.read(), source.config, folder, **source.normalisation)
    model = check_folder(folder, source.read())
    print(f"checked: all {len(model.state_dict())} tensors, loaded again, are those of the source")
    if references:
        differences = check_outputs(model, references)
        print("outputs: " + ", ".join(f"{name} differ by {value:.1e}" for name, value in differences.items()))


def save_as_stock(source: Source, folder: Path) -> None:
    """Writes a folder of a stock I-JEPA model, checks it, and prints the result of the check."""
    weights, dropped = encoder_and_head(source.read())
    processor = VJEPAVideoProcessor(
        crop_size=source.config.crop_size, num_frames=source.config.frames_per_clip, **source.normalisation
    )
    save_stock_folder(weights, source.config, folder, processor=processor)
    differences = check_stock_folder(folder, weights, source.config)
    print(f"without: {', '.join(dropped) or 'nothing'}")
    print(f"checked: all {len(weights)} tensors, read again, are those of the source")
    shown = ", ".join(f"{name} differ by {value:.1e}" for name, value in differences.items())
    print(f"outputs: {shown} of the largest value (allowed {OUTPUT_TOLERANCE:.0e}), computed by transformers")


@user_errors()
def run(argv: Sequence[str]) -> None:
    """One conversion from its command line; an error that the user can correct ends it with one line."""
    arguments = parse_arguments(argv)
    if not arguments.to_original:
        convert(arguments)
        return
    if is_stock_folder(arguments.source):
        raise CheckpointError(f"{arguments.source} is a stock I-JEPA model: convert it to a folder of ours first")
    paths, number = write_published(Path(arguments.source), arguments.output_dir)
    print(f"checked: all {number} tensors, read again, are those of {arguments.source}")
    print(f"saved:   {', '.join(map(str, paths.values()))}")


def main() -> None:
    run(sys.argv[1:])
