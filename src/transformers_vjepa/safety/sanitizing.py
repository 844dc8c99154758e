"""What is written about a run: names of strangers forge no lines in it, and what is secret is left out."""

import os
import re
from typing import Any

# user:password@ of an address, its query (signatures, tokens) and fragment, and tokens of the Hub wherever they stand.
_SECRETS = (
    (re.compile(r"(?<=://)[^/?#\s\"']*@"), "***@"),
    (re.compile(r"(://[^?#\s\"']*)[?#][^\s\"']+"), r"\1?***"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_***"),
)


def without_secrets(text: str) -> str:
    """`text` with `***` for passwords and queries of the addresses in it, and for tokens of the Hub."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def log_line(text: str) -> str:
    """
    `text` as one line that can be shown: without secrets, and with escapes (`\\n`, `\\x1b`, `\\udcff`) for what is not
    printable: line breaks, codes that steer terminals, marks that turn the direction of writing, undecodable bytes.
    """
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in without_secrets(text))
    return "".join(shown)


def decodable(name: str) -> str:
    """The name of a file with escapes for bytes that are no UTF-8, which Parquet refuses."""
    return os.fsencode(name).decode(errors="backslashreplace")


class RedactTokensOnPickle:
    """For arguments of a training: what is pickled of them (`training_args.bin`, beside the weights) has no tokens."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}


__all__ = ["RedactTokensOnPickle", "decodable", "log_line", "without_secrets"]
