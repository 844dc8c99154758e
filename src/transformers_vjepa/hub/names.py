"""Names of repositories on the Hub."""

import os
import re

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `user/name` and no file or folder on this machine has this name."""
    return _HUB_ID.fullmatch(name) is not None and not os.path.exists(name)
