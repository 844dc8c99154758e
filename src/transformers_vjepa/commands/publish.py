"""
Upload a finished folder to the Hub: the model, its card, and what loads it where this package is not installed.

    vjepa publish outputs/mine user/my-vjepa --private --license apache-2.0
    vjepa publish outputs/mine user/my-vjepa --dry_run

The folder is loaded first, so that nothing is uploaded that cannot be used. Checkpoints, optimizers, features, logs
and lists of clips stay here. The same command again sends only what has changed.
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, VIDEO_PROCESSOR_NAME

from ..command_line.parsing import user_errors
from ..hub.model_card import CARD_NAME, card_of_folder
from ..hub.transfer import Uploads, model_files, size_of, upload
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import (
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAPreTrainedModel,
)

_MODELS = {each.__name__: each for each in (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification)}


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    pass


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a folder with a model")
    parser.add_argument("repository", metavar="USER/NAME", help="where it goes; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made now")
    parser.add_argument("--license", help="licence to name in the card, such as apache-2.0; else that of the card")
    parser.add_argument("--revision", help="branch to upload to; made if it does not exist")
    parser.add_argument("--message", default="Upload with vjepa publish", help="message of the commit on the Hub")
    parser.add_argument("--dry_run", action="store_true", help="say what would be uploaded, and upload nothing")
    return parser.parse_args(argv)


def check_loads(folder: Path) -> VJEPAPreTrainedModel:
    """
    Loads the model of a folder, and its processors.

    Raises:
        ValueError: there is none, it lacks weights, or it is damaged.
    """
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} has no {CONFIG_NAME}: give the folder of a finished run or conversion")
    if not any(folder.glob("model*.safetensors")):
        raise ValueError(f"{folder} has no {SAFE_WEIGHTS_NAME}: give the folder of a finished run or conversion")
    config = VJEPAConfig.from_pretrained(folder)
    architecture = next(iter(config.architectures or []), "")
    model_class = _MODELS.get(architecture, VJEPAModel)
    try:
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights of {folder} are damaged ({error}): copy or make them again") from error
    if lost := sorted(info["missing_keys"]):
        raise ValueError(f"{folder} has no weights for {lost[0]} ({len(lost)} missing): it is no whole {architecture}")
    for name, processor in ((VIDEO_PROCESSOR_NAME, AutoVideoProcessor), (IMAGE_PROCESSOR_NAME, AutoImageProcessor)):
        if (folder / name).is_file():
            processor.from_pretrained(folder)
    return model


def describe(uploads: Uploads) -> str:
    """What is uploaded, and how large it is."""
    lines = [f"{size_of(content) / 1e6:10.2f} MB  {name}" for name, content in uploads.items()]
    return "\n".join([*lines, f"{sum(map(size_of, uploads.values())) / 1e6:10.2f} MB  in {len(uploads)} files"])


def publish(arguments: Namespace) -> None:
    """Checks, says what goes, and uploads it."""
    model = check_loads(arguments.folder)
    print(f"checked: {arguments.folder} loads as {type(model).__name__}")
    del model
    card = card_of_folder(arguments.folder, model_id=arguments.repository, license=arguments.license)
    uploads = model_files(arguments.folder, card=card)
    print(describe(uploads))
    if arguments.folder.resolve().name.startswith(PREFIX_CHECKPOINT_DIR):
        run = arguments.folder.resolve().parent.name
        print(f"note:    {arguments.folder} is a checkpoint: a finished model is in {run}")
    if card.data.get("license") is None:
        print(f"note:    {CARD_NAME} names no licence: --license does")
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


def run(argv: Sequence[str]) -> None:
    """One upload from its command line; what the user can mend ends it with one line."""
    arguments = parse_arguments(argv)
    with user_errors():
        publish(arguments)


def main() -> None:
    run(sys.argv[1:])
