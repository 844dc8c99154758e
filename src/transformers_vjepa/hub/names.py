"""Names on the Hub."""

import os
import re

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repository, `user/name`, and none of a file or folder here."""
    return _HUB_ID.fullmatch(name) is not None and not os.path.exists(name)


__all__ = [
    "is_hub_id",
]
