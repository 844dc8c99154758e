"""Log lines and saved arguments without control characters and secrets; tests/faults/test_security.py attacks both."""

import pickle
from dataclasses import dataclass

import pytest

from transformers_vjepa.safety.sanitizing import RedactTokensOnPickle, decodable, log_line, without_secrets

TOKEN = "hf_" + "secretsecret"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a plain line", "a plain line"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff.mp4", r"\udcff.mp4"),
        (f"é {TOKEN}\n", r"é hf_***\n"),
    ],
)
def test_log_lines_are_printable_and_have_no_secrets(text, expected):
    assert log_line(text) == expected


def test_secrets_in_addresses_are_masked():
    assert without_secrets(f"https://me:{TOKEN}@host/a.tar?key=1#b and c?d") == "https://***@host/a.tar?*** and c?d"
    assert without_secrets("hf_short and hf://datasets/me/name") == "hf_short and hf://datasets/me/name"


def test_names_with_other_bytes_than_utf_8_are_escaped():
    assert decodable("é.mp4") == "é.mp4"
    assert decodable("\udcff.mp4") == r"\xff.mp4"


@dataclass
class Arguments(RedactTokensOnPickle):
    hub_token: str = TOKEN
    push_to_hub_token: str = TOKEN
    tokens_per_step: int = 3


def test_tokens_are_not_pickled():
    arguments = Arguments()
    pickled = pickle.dumps(arguments)
    assert TOKEN.encode() not in pickled and arguments.hub_token == TOKEN
    assert pickle.loads(pickled) == Arguments(hub_token=None, push_to_hub_token=None)
