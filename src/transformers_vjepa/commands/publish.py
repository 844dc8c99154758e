"""
Upload a finished folder to the Hub: the model, its card, and the code that loads it without this package.

    vjepa publish outputs/mine user/my-vjepa --private --license apache-2.0
    vjepa publish outputs/mine user/my-vjepa --dry_run

The command loads the folder first, and uploads nothing if this fails. Checkpoints, optimizers, features, logs and
lists of clips are not uploaded. The same command again uploads only the changes.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoImageProcessor, AutoVideoProcessor, PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, VIDEO_PROCESSOR_NAME

from ..command_line.help_page import DefaultsFormatter
from ..command_line.parsing import user_errors
from ..conversion.ijepa import is_stock_folder, load_stock_folder
from ..hub.loading import load_whole
from ..hub.model_card import CARD_NAME, card_of_folder
from ..hub.transfer import model_files, size_of, upload
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import (
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
)

_MODELS = {each.__name__: each for each in (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification)}


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=DefaultsFormatter, allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a folder with a model")
    parser.add_argument("repository", metavar="USER/NAME", help="repository on the Hub; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--license", help="licence for the card, such as apache-2.0; by default the card's own")
    parser.add_argument("--revision", help="branch to upload to; created if it does not exist")
    parser.add_argument("--message", default="Upload with vjepa publish", help="commit message on the Hub")
    parser.add_argument("--dry_run", action="store_true", help="list the files, and upload nothing")
    return parser.parse_args(argv)


def check_loads(folder: Path) -> PreTrainedModel:
    """
    Loads the model of a folder, which may be a stock I-JEPA model, and its processors.

    Raises:
        ValueError: there is no model, weights are missing, or weights are damaged.
    """
    for name, pattern in ((CONFIG_NAME, CONFIG_NAME), (SAFE_WEIGHTS_NAME, "model*.safetensors")):
        if not any(folder.glob(pattern)):
            raise ValueError(f"{folder} has no {name}: give the folder of a finished run or conversion")
    if is_stock_folder(folder):
        model = load_stock_folder(folder)
    else:
        architecture = next(iter(VJEPAConfig.from_pretrained(folder).architectures or []), "VJEPAModel")
        model_class = _MODELS.get(architecture, VJEPAModel)
        model = load_whole(model_class, str(folder), remedy=f"the folder does not hold a complete {architecture}")
    for name, processor in ((VIDEO_PROCESSOR_NAME, AutoVideoProcessor), (IMAGE_PROCESSOR_NAME, AutoImageProcessor)):
        if (folder / name).is_file():
            processor.from_pretrained(folder)
    return model


@user_errors()
def run(argv: Sequence[str]) -> None:
    """One upload from its command line; an error that the user can correct ends it with one line."""
    arguments = parse_arguments(argv)
    print(f"checked: {arguments.folder} loads as {type(check_loads(arguments.folder)).__name__}")
    card = card_of_folder(arguments.folder, model_id=arguments.repository, license=arguments.license)
    uploads = model_files(arguments.folder, card=card)
    for name, content in uploads.items():
        print(f"{size_of(content) / 1e6:10.2f} MB  {name}")
    print(f"{sum(map(size_of, uploads.values())) / 1e6:10.2f} MB  in {len(uploads)} files")
    if arguments.folder.resolve().name.startswith(PREFIX_CHECKPOINT_DIR):
        finished = arguments.folder.resolve().parent.name
        print(f"note:    {arguments.folder} is a checkpoint: the finished model is in {finished}")
    if card.data.get("license") is None:
        print(f"note:    {CARD_NAME} names no licence: add one with --license")
    if arguments.dry_run:
        print("nothing is uploaded: --dry_run")
        return
    commit = upload(
        uploads,
        arguments.repository,
        message=arguments.message,
        private=arguments.private or None,
        revision=arguments.revision,
    )
    print(f"pushed:  {commit.commit_url}")


def main() -> None:
    run(sys.argv[1:])
