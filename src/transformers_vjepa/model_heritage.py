"""What a model inherits from the one it was trained from: its name on the Hub, and a licence that binds."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

#: Licence of the published V-JEPA and I-JEPA weights.
PUBLISHED_LICENSE = "cc-by-nc-4.0"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Heritage:
    """
    Args:
        base_models: ids on the Hub of what a model was trained from.
        license: licence of what it was trained from; None where none is named.
    """

    base_models: tuple[str, ...] = ()
    license: str | None = None

    def license_of(self, wanted: str | None) -> str | None:
        """
        The licence of a model with this heritage.

        Args:
            wanted: what its maker chooses; None: nothing.

        Raises:
            ValueError: another one than that of non-commercial weights it was trained from.
        """
        if not (self.license or "").startswith("cc-by-nc"):
            return wanted
        if wanted not in (None, self.license):
            raise ValueError(
                f"licence {wanted!r} for weights that come from others under {self.license}, which holds for what is "
                "made of them: leave it out"
            )
        return self.license


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repository, `user/name`, and none of a file or folder here."""
    return _HUB_ID.fullmatch(name) is not None and not os.path.exists(name)


def heritage_of(model: str | os.PathLike | None, *, token: str | None = None) -> Heritage:
    """
    What is inherited from a model.

    Args:
        model: a folder with its card (`README.md`), an id on the Hub, or None: nothing.
        token: for private repositories.
    """
    if model is None:
        return Heritage()
    try:
        if is_hub_id(str(model)):
            data = ModelCard.load(str(model), token=token, ignore_metadata_errors=True).data.to_dict()
            bases = [str(model)]
        else:
            # A folder has no id; what it comes from may have one.
            data = metadata_load(Path(model) / "README.md") or {}
            bases = data.get("base_model") or []
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read
        return Heritage((str(model),) if is_hub_id(str(model)) else ())
    license_ = data.get("license")
    bases = [bases] if isinstance(bases, str) else bases
    return Heritage(tuple(map(str, bases)), license_ if isinstance(license_, str) else None)


__all__ = ["PUBLISHED_LICENSE", "Heritage", "heritage_of", "is_hub_id"]
