"""Sanitise log output and saved arguments: escape control characters in untrusted names, mask secrets."""

import re
from typing import Any

# user:password@ of an address; its query (signatures, tokens) and fragment; tokens of the Hub anywhere.
_SECRETS = (
    (re.compile(r"(?<=://)[^/?#\s\"']*@"), "***@"),
    (re.compile(r"(://[^?#\s\"']*)[?#][^\s\"']+"), r"\1?***"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_***"),
)


def without_secrets(text: str) -> str:
    """`text` with `***` in place of passwords and queries of addresses, and of tokens of the Hub."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def log_line(text: str) -> str:
    """
    `text` as one printable line, without secrets. Escapes (`\\n`, `\\x1b`, `\\udcff`) replace characters that are not
    printable: line breaks, terminal control codes, marks that change the writing direction, undecodable bytes.
    """
    text = without_secrets(text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def decodable(name: str) -> str:
    """
    The name of a file or a class, with escapes for bytes that are not UTF-8 (`caf\\xe9`) and for other surrogates:
    HTML and Parquet refuse them.
    """
    try:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # surrogates that do not stand for bytes
        return name.encode(errors="backslashreplace").decode()


class RedactTokensOnPickle:
    """A mixin for training arguments: their pickle (`training_args.bin`, beside the weights) holds no tokens."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}
