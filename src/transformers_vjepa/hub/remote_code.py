"""
The code that `trust_remote_code=True` runs: the folder `models/vjepa`, uploaded beside each model.

Only uploads get the code. Folders on this machine stay free of code: the package is installed here, and a checkpoint
to resume from must not hold code. `register_for_auto_class` of transformers would write code into local folders, too.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, PushToHubMixin

from ..models import vjepa
from ..safety.private_names import check_private_names

check_private_names("transformers.utils.hub")
#: The class behind each Auto class, for each settings file; `AutoX.register` knows the same classes on this machine.
AUTO_MAPS: dict[str, dict[str, str]] = {
    CONFIG_NAME: {
        "AutoConfig": "configuration_vjepa.VJEPAConfig",
        "AutoModel": "modeling_vjepa.VJEPAModel",
        "AutoModelForPreTraining": "modeling_vjepa.VJEPAForPreTraining",
        "AutoModelForVideoClassification": "modeling_vjepa.VJEPAForVideoClassification",
        "AutoModelForImageClassification": "modeling_vjepa.VJEPAForVideoClassification",
    },
    VIDEO_PROCESSOR_NAME: {"AutoVideoProcessor": "video_processing_vjepa.VJEPAVideoProcessor"},
    IMAGE_PROCESSOR_NAME: {"AutoImageProcessor": "image_processing_vjepa.VJEPAImageProcessor"},
}


def settings_with_code(file: Path) -> str:
    """The text of a settings file, a JSON file named in `AUTO_MAPS`, with the names of its classes added."""
    settings = json.loads(file.read_text(encoding="utf-8")) | {"auto_map": AUTO_MAPS[file.name]}
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def code_files() -> list[Path]:
    """The files of code in a repository: `models/vjepa`, without its `__init__.py`."""
    return [file for file in sorted(Path(vjepa.__path__[0]).glob("*.py")) if file.name != "__init__.py"]


def add_code(folder: str | Path) -> None:
    """Adds to a folder with settings files everything that `trust_remote_code=True` needs to load them."""
    named = [file for name in AUTO_MAPS if (file := Path(folder) / name).is_file()]
    for file in named:
        file.write_text(settings_with_code(file), encoding="utf-8")
    for file in code_files() if named else []:
        shutil.copyfile(file, Path(folder) / file.name)


def _upload_with_code(
    self: PushToHubMixin, working_dir: str, repo_id: str, files_timestamps: Mapping[str, float], **kwargs: Any
) -> Any:
    """The last step of `push_to_hub`, and of `save_pretrained(push_to_hub=True)`, with the code and our model card."""
    from .model_card import replace_placeholder_card  # not needed to load a model

    with tempfile.TemporaryDirectory() as staged:  # the working folder may belong to the user
        for file in Path(working_dir).iterdir():
            if file.is_file() and not file.stat().st_mtime <= files_timestamps.get(file.name, -1):
                _stage(file, Path(staged))
        add_code(staged)
        replace_placeholder_card(staged, repo_id=repo_id)
        return PushToHubMixin._upload_modified_files(self, staged, repo_id, {}, **kwargs)


def _stage(file: Path, folder: Path) -> None:
    """Copies a file into a folder; large weights, which are not changed there, are linked where links are allowed."""
    if file.suffix == ".safetensors":
        with suppress(OSError):  # some file systems have no links
            (folder / file.name).symlink_to(file.resolve())
            return
    shutil.copyfile(file, folder / file.name)


def ship_code(*classes: type[PushToHubMixin]) -> None:
    """
    Makes `push_to_hub` of these classes upload the code and a model card. The method is set from here because the
    files of the classes are uploaded themselves, and cannot import this module there. transformers has no public hook
    that both `push_to_hub` and `save_pretrained(push_to_hub=True)` call.
    """
    for each in classes:
        each._upload_modified_files = _upload_with_code
