"""
The code of the model that goes along to the Hub, so that `trust_remote_code=True` loads a repository where this
package is not installed.

Only uploads have it. Folders on this machine stay free of code: here the package is installed, and a checkpoint that
training goes on from must hold none.
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
_MODELING = "modeling_vjepa"
#: The classes behind the Auto classes, by the file of settings that names them, as `AutoX.register` knows them here.
AUTO_MAPS: dict[str, dict[str, str]] = {
    CONFIG_NAME: {
        "AutoConfig": "configuration_vjepa.VJEPAConfig",
        "AutoModel": f"{_MODELING}.VJEPAModel",
        "AutoModelForPreTraining": f"{_MODELING}.VJEPAForPreTraining",
        "AutoModelForVideoClassification": f"{_MODELING}.VJEPAForVideoClassification",
        "AutoModelForImageClassification": f"{_MODELING}.VJEPAForVideoClassification",
    },
    VIDEO_PROCESSOR_NAME: {"AutoVideoProcessor": "video_processing_vjepa.VJEPAVideoProcessor"},
    IMAGE_PROCESSOR_NAME: {"AutoImageProcessor": "image_processing_vjepa.VJEPAImageProcessor"},
}


def settings_with_code(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a file of settings, a key of `AUTO_MAPS`, with the names of its classes."""
    return {**settings, "auto_map": AUTO_MAPS[name]}


def code_of(names: set[str]) -> dict[str, Path]:
    """
    The files of code that `trust_remote_code=True` needs, by their name in a repository: the folder `models/vjepa`.

    Args:
        names: settings files that the repository has; without one of `AUTO_MAPS` it needs no code.
    """
    if not names & AUTO_MAPS.keys():
        return {}
    return {file.name: file for file in sorted(Path(vjepa.__path__[0]).glob("*.py")) if file.name != "__init__.py"}


def add_code(folder: str | Path) -> list[Path]:
    """
    Adds to a folder what `trust_remote_code=True` needs to load what is in it.

    Returns:
        The files of code.
    """
    folder = Path(folder)
    names = {name for name in AUTO_MAPS if (folder / name).is_file()}
    for name in names:
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        text = json.dumps(settings_with_code(name, settings), indent=2, sort_keys=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    for name, file in code_of(names).items():
        (folder / name).write_bytes(file.read_bytes())
    return [folder / name for name in code_of(names)]


def _upload_with_code(
    self: PushToHubMixin, working_dir: str, repo_id: str, files_timestamps: Mapping[str, float], **kwargs: Any
) -> Any:
    """What `push_to_hub` of a model, configuration or processor ends in, and `save_pretrained(push_to_hub=True)`."""
    from .model_card import replace_placeholder_card  # no need of it to load a model

    with tempfile.TemporaryDirectory() as staged:  # the folder may be the user's
        for file in Path(working_dir).iterdir():
            if file.is_file() and not file.stat().st_mtime <= files_timestamps.get(file.name, -1):
                _stage(file, Path(staged))
        add_code(staged)
        replace_placeholder_card(staged, repo_id=repo_id)
        return PushToHubMixin._upload_modified_files(self, staged, repo_id, {}, **kwargs)


def _stage(file: Path, folder: Path) -> None:
    """Puts a file into a folder where it may be changed; weights, which are not, by a link where that is possible."""
    if file.suffix == ".safetensors":
        with suppress(OSError):  # not every system allows links
            (folder / file.name).symlink_to(file.resolve())
            return
    shutil.copyfile(file, folder / file.name)


def ship_code(*classes: type[PushToHubMixin]) -> None:
    """
    Has `push_to_hub` of these classes upload their code, and a model card that says what they are. They cannot do so
    themselves: their files travel to where this one is not.
    """
    for each in classes:
        each._upload_modified_files = _upload_with_code


__all__ = ["AUTO_MAPS", "add_code", "code_of", "settings_with_code", "ship_code"]
