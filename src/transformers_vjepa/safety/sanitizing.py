"""
Sanitise log output and files: escape control characters in untrusted names, mask secrets.

No file, log or error that the package writes holds a password, a token or the signature of an address. Text that may
name an address goes through one of these functions: `log_line` into logs and errors, `json_text` into JSON files,
`without_secrets` into other files.
"""

import json
import re
from typing import Any

# Names of parameters whose value is a secret.
_SECRET_NAME = (
    r"(?:x-[a-z0-9]+-[\w-]+|[\w-]*(?:token|secret|passw(?:or)?d|signature|credentials?|access-?key(?:-?id)?)|sig|pwd|"
    r"api[_-]?key|key-pair-id|policy|hmac|auth|jwt)"
)
_HEADER = r"authorization[\"']?\s*[:=]\s*[\"']?"
# In this order: user:password@ of an address; its query (signatures, tokens) and fragment, up to a blank or to a quote
# that ends it; both in an address that is percent-encoded; parameters behind a blank in an address; headers; tokens of
# the Hub anywhere.
_SECRETS = (
    (re.compile(r"(?<=://)[^/?#\s]*@"), "***@"),
    (re.compile(r"(://[^?#\s\"']*)[?#](?:(?![\"'](?:[\s,;:)\]}]|$))\S)+"), r"\1?***"),
    (re.compile(r"(%3a%2f%2f)(?:(?!%2f|%3f)[^\s\"'])*%40", re.IGNORECASE), r"\1***%40"),
    (re.compile(r"(%3a%2f%2f(?:(?!%3f)[^\s\"'])*)%3f[^\s\"']+", re.IGNORECASE), r"\1%3F***"),
    (re.compile(rf"(?<=[?&;#])({_SECRET_NAME}=)(?!\*\*\*)[^\s\"'&]+", re.IGNORECASE), r"\1***"),
    (re.compile(rf"({_HEADER}(?:(?:basic|bearer|token)\s+)?)[^\s\"',]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_***"),
)


def without_secrets(text: str) -> str:
    """
    `text` with `***` in place of passwords and queries of addresses, of headers with passwords, and of tokens of the
    Hub.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def address_without_secrets(address: str) -> str:
    """[`without_secrets`] of one address, which may have blanks and quotes in it."""
    return without_secrets(re.sub(r"(?s)(://[^?#]*)[?#].+", r"\1?***", address))


def _recordable(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {_recordable(name): _recordable(each) for name, each in value.items()}
    return [_recordable(each) for each in value] if isinstance(value, list | tuple) else value


def json_text(value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> str:
    """`value` as JSON with a line break at the end, for a file: without secrets in any text."""
    return json.dumps(_recordable(value), indent=indent, sort_keys=sort_keys) + "\n"


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
