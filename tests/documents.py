"""
Runs the code blocks of the pages on small data and small models.

A comment right before a block, `<!-- not run: reason -->`, leaves the block out. A block in an unknown language, and a
line of bash that begins with an unknown word, are errors.
"""

import configparser
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from unittest import mock

import yaml
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt

from transformers_vjepa.__main__ import main
from transformers_vjepa.commands import COMMANDS
from transformers_vjepa.data.corpora import open_corpus

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
README = ROOT / "README.md"
#: Languages of blocks that nobody types: output of programs, drawings, trees of files.
SHOWN = ("", "text")
sys.path.append(str(DOCS))
options_of = import_module("package_reference").options_of
_LEFT_OUT = re.compile(r"<!-- not run: (.+?) -->\s*$", flags=re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    left_out: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} ({self.language or 'plain'})"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, without the directives of MyST: Sphinx runs these."""
    blocks, reason = [], None
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.strip()
            if not language.startswith("{"):
                if "../shared/" in token.content:
                    reason = reason or "it reads the folder ../shared, which most machines do not have"
                blocks.append(Block(page, token.map[0] + 1, language, token.content, reason))
        if token.type not in ("inline", "list_item_open", "bullet_list_open"):
            left_out = _LEFT_OUT.search(token.content) if token.type == "html_block" else None
            reason = " ".join(left_out[1].split()) if left_out else None
    return blocks


def lines_of(code: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of a block of bash, with continued lines joined: each command and its words."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield line, words


# Commands --------------------------------------------------------------------------------------------------

_TRAINING = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--bf16", "false"]
_TRAINING += ["--dataloader_num_workers", "0", "--disable_tqdm", "true"]
#: Arguments that make each command small. They come last, so they override those on the page.
SMALLER = {
    "demo": [*_TRAINING, "--max_steps", "2", "--save_steps", "2"],
    "pretrain": [*_TRAINING, "--max_steps", "1", "--save_steps", "1"],
    "train_classifier": [*_TRAINING, "--max_steps", "2"],
    "evaluate": ["--num_workers", "0", "--dtype", "float32", "--clips_per_batch", "24"],
    "extract_features": ["--num_workers", "0", "--model_dtype", "float32"],
    "convert_checkpoint": [],
    "index_clevr": [],
    "recipes": [],
}


def run_command(words: list[str]) -> None:
    """`vjepa` with these words, in this process. Of a study and of the app only the arguments are parsed."""
    command, *arguments = words or ["--help"]
    assert command in COMMANDS or command in ("--help", "--version"), f"unknown command vjepa {command}"
    if command == "study":
        import_module("transformers_vjepa.commands.study").parse_arguments(arguments)
        return
    if command == "app":  # would serve until it is stopped; tests/app/test_page.py starts it
        import_module("transformers_vjepa.commands.app").parse_arguments(arguments)
        return
    if "--help" not in arguments:
        # Nearest neighbours take no options of a training.
        arguments += ["--disable_tqdm", "true"] if "knn" in arguments else SMALLER.get(command, [])
    with mock.patch("sys.argv", ["vjepa", command, *arguments]):
        try:
            main()
        except SystemExit as end:
            assert end.code in (0, None), f"vjepa {shlex.join(words)}: {end.code}"


def run_launch(words: list[str]) -> None:
    """`accelerate launch`: its parser reads its options, and the command behind them runs in this process."""
    assert words[:1] == ["launch"], f"accelerate {words[0]}"
    parsed = launch_command_parser().parse_args(words[1:])
    assert parsed.config_file is None or Path(parsed.config_file).is_file(), f"no file {parsed.config_file}"
    if parsed.module:
        assert parsed.training_script == "transformers_vjepa"
        run_command(parsed.training_script_args)
    else:
        run_script(parsed.training_script, parsed.training_script_args)


def run_script(path: str, arguments: list[str]) -> None:
    """A file of the repository: a file of scripts/ runs its command; of other files only the options are compared."""
    file = ROOT / path
    assert file.is_file(), f"no file {path}"
    if file.parent.name == "scripts":
        imported = r"^from transformers_vjepa\.commands\.(\w+) import main$"
        (command,) = re.findall(imported, file.read_text(), flags=re.MULTILINE)
        run_command([command, *arguments])
        return
    known = set(re.findall(r"\"(--\w+)\"", file.read_text()))
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= known, f"{path} has no {', '.join(sorted(given - known))}"


def run_python(words: list[str]) -> None:
    if words[:2] == ["-m", "transformers_vjepa"]:
        run_command(words[2:])
    elif words[:2] == ["-m", "pip"]:
        check_pip(words[2:])
    elif words[0] == "-m":
        assert words[1] in ("venv", "pytest"), f"python -m {words[1]}"
    else:
        run_script(words[0], words[1:])


def check_pip(words: list[str]) -> None:
    """`pip install` of this package names extras that setup.cfg has."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    assert words[0] == "install"
    for word in words[1:]:
        match = re.fullmatch(r"(?:\.|transformers_vjepa)(?:\[([\w,]+)\])?", word)
        assert match or word in ("--editable", "--quiet", "-e", "-q"), f"pip install {word}"
        assert not (match and match[1]) or set(match[1].split(",")) <= set(setup["options.extras_require"])


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name} *{'[?]?=' if is_variable else ':'}", makefile, flags=re.MULTILINE), f"make {word}"


def check_git(words: list[str]) -> None:
    assert words[0] == "clone"


def check_tensorboard(words: list[str]) -> None:
    assert words[0] == "--logdir" and any(Path(words[1]).rglob("events.out.*")), f"no logs in {words[1]}"


WORDS: dict[str, Callable[[list[str]], None]] = {
    "vjepa": run_command,
    "accelerate": run_launch,
    "python": run_python,
    "python3": run_python,
    ".venv/bin/python": run_python,
    "pip": check_pip,
    "make": check_make,
    "git": check_git,
    "tensorboard": check_tensorboard,
}


def run_bash(code: str) -> None:
    variables: dict[str, list[str]] = {}
    for _, words in lines_of(code):
        if assigned := re.fullmatch(r"(\w+)=(.*)", words[0], flags=re.DOTALL):
            variables[f"${assigned[1]}"] = shlex.split(assigned[2])
            words = words[1:]
        words = [part for word in words for part in variables.get(word, [word])]
        for _, part in groupby(words, key="&&".__eq__):
            command, *arguments = part
            command = command.removeprefix(".venv/bin/")
            if command not in ("&&", "cd"):
                assert command in WORDS, f"unknown command {command!r}: add it to WORDS"
                WORDS[command](arguments)


# Blocks ----------------------------------------------------------------------------------------------------


def run_python_block(block: Block, names: dict) -> None:
    code = block.code
    for old, new in PYTHON_SMALLER.items():
        code = code.replace(old, new)
    # Line numbers of an error are those of the page.
    exec(compile("\n" * block.line + code, str(block.page), "exec"), names)


#: Sizes in the Python blocks of the pages, and the smaller sizes with which the tests run them.
PYTHON_SMALLER = {
    "max_steps=20000": "max_steps=1, disable_tqdm=True",
    "max_steps=1000": "max_steps=2, disable_tqdm=True",
    "per_device_train_batch_size=8": "per_device_train_batch_size=2",
}


def run_block(block: Block, names: dict) -> None:
    """
    Runs a block in the working directory.

    Args:
        names: what Python blocks of the page have defined, and define.
    """
    if block.language == "python":
        run_python_block(block, names)
    elif block.language == "bash":
        run_bash(block.code)
    elif block.language == "yaml":
        assert isinstance(yaml.safe_load(block.code), dict)
    elif block.language == "csv":
        Path("shown.csv").write_text(block.code)
        assert len(open_corpus("shown.csv")) == len(block.code.splitlines())
    else:
        assert block.language in SHOWN, f"{block}: no test knows how to run this language"
