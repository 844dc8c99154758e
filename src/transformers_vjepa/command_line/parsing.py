"""What all scripts share of the command line: recipes under flags, and errors in one line."""

import json
import os
import pickle
import re
import signal
import sys
import traceback
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers.hf_argparser import string_to_bool
from transformers.utils import logging

from ..safety.safe_loading import refusal
from ..safety.sanitizing import log_line, without_secrets
from .help_page import HelpParser

#: Recipes that come with the package, known by their names.
RECIPES = Path(__file__).parents[1] / "recipes"
#: Configurations for `accelerate launch`, to copy with `vjepa recipes`.
LAUNCH_CONFIGS = Path(__file__).parents[1] / "accelerate_configs"


# What an argument takes, by what makes it of its text.
_KINDS = {int: "a whole number", float: "a number", string_to_bool: "true or false"}


def names_given(argv: Sequence[str]) -> set[str]:
    """Names of the arguments on a command line, with underscores: `--max-steps=3` gives `max_steps`."""
    return {part[2:].partition("=")[0].replace("-", "_") for part in argv if part.startswith("--")}


def recipe_path(name: str | Path) -> Path:
    """
    The file of a recipe: a path, or the name of one that comes with the package (`tiny_cpu`).

    Raises:
        FileNotFoundError: it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = RECIPES / f"{path.name}.yaml"
    if path.name == str(path) and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(f"{name} is no recipe: give a YAML file, or one of {names}")


def read_recipe(path: str | Path, dataclasses: Sequence[type]) -> dict[str, Any]:
    """
    The values of a recipe (YAML) by the names of arguments.

    Raises:
        ValueError: it is no YAML, no mapping of names to values, or sets what is no argument.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no recipe in YAML: {reason or type(error).__name__}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__} instead of names of arguments and their values")
    known = {item.name: item for part in dataclasses for item in fields(part)}
    if "activation_checkpointing" in values.keys() - known.keys() and "gradient_checkpointing" in known:
        # Its name before transformers 5.23.
        values["gradient_checkpointing"] = values.pop("activation_checkpointing")
    if unknown := sorted(str(name) for name in values if name not in known):
        close = get_close_matches(unknown[0], known, n=1)
        remedy = f": did you mean {close[0]}?" if close else ""
        remedy = ": it is a recipe of another command" if Path(path).parent == RECIPES else remedy
        raise ValueError(f"{path} sets what is no argument: {', '.join(unknown)}{remedy}")
    for name, value in values.items():
        kind = str(known[name].type)
        if isinstance(value, str) and "list" in kind:
            values[name] = [value]
        if isinstance(value, list) and "list" not in kind:
            raise ValueError(f"{path} sets {name} to a list, and it takes one value")
        if value is None and "None" not in kind:
            raise ValueError(f"{path} sets {name} to nothing: give a value, or leave it out")
    return values


def _as_arguments(values: Mapping[str, Any], path: str | Path) -> list[str]:
    """Values of a recipe as they stand on a command line, where they are checked and take their types."""
    arguments = []
    for name, value in values.items():
        if isinstance(value, list):
            for item in value:
                # What begins with a dash and is no number would be taken for the name of an argument.
                if isinstance(item, (list, dict, type(None))) or re.match(r"-(?![\d.])", str(item)):
                    raise ValueError(f"{path} sets {name} to a list with {item!r}: give numbers or names")
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={_as_text(value)}")
    return arguments


def _as_text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def _check_values(parser: ArgumentParser, values: Mapping[str, Any], path: str | Path) -> None:
    """Names recipe and key of a value that argparse would refuse as that of a flag which nobody has typed."""
    for name, value in values.items():
        action = parser._option_string_actions[f"--{name}"]
        if value == []:
            raise ValueError(f"{path} sets {name} to an empty list: give a value, or leave it out")
        for item in value if isinstance(value, list) else [value]:
            if item is None:
                continue
            try:
                parser._check_value(action, parser._get_value(action, _as_text(item)))
            except ArgumentError as error:
                kind = f"one of {', '.join(map(str, action.choices))}" if action.choices else _KINDS.get(action.type)
                raise ValueError(f"{path} sets {name} to {item!r}: {'give ' + kind if kind else error}") from error


def parse_with_recipe(
    argv: Sequence[str],
    dataclasses: Sequence[type],
    *,
    description: str | None,
    recipe_help: str = "recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments",
    dry_run_help: str | None = None,
    default_recipe: Callable[[set[str]], str | None] = lambda given: None,
    overridden: Callable[[set[str]], set[str]] = lambda given: set(),
    **defaults: Any,
) -> tuple[Any, ...]:
    """
    Command line over recipe (`--config`) over defaults.

    Args:
        argv: the arguments, without the name of the script.
        dataclasses: what to fill in; each is a group of `--help`.
        description: first lines of `--help`.
        recipe_help: help of `--config`.
        dry_run_help: help of `--dry_run`, which the command finds in [`names_given`]; `None`: it takes none.
        default_recipe: the recipe where no `--config` is given, from the names that are.
        overridden: names that the recipe must not set, from the names on the command line.
        defaults: defaults that depend on the machine.

    Returns:
        One instance of each of `dataclasses`.

    Raises:
        ValueError: see [`read_recipe`]; a value of the recipe that is none of its argument's; or one out of range.
        SystemExit: such a value on the command line, after a line that says so.
    """
    parser = HelpParser(dataclasses, description=description)
    parser.general.add_argument("--config", metavar="RECIPE", help=recipe_help)
    if dry_run_help:
        parser.general.add_argument("--dry_run", action="store_true", help=dry_run_help)
    config = ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    recipe: Namespace = config.parse_known_args(argv)[0]
    given = names_given(argv)
    # A recipe that holds only where nothing is given would be misleading as the defaults of --help.
    path = recipe.config or (None if given & {"help", "help_all"} or "-h" in argv else default_recipe(given))
    path = recipe_path(path) if path else None
    parser.set_defaults(**defaults)
    if path:
        values = read_recipe(path, dataclasses)
        replaced = overridden(given)
        values = {name: value for name, value in values.items() if name not in replaced}
        _check_values(parser, values, path)
        parser.set_defaults(**values)  # for --help, and for what is set to nothing
        # Ends with an argument of one value, so that no list takes in what follows.
        argv = [*_as_arguments(values, path), f"--config={path}", *argv]
    *parsed, _, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    if unknown:
        options = [
            option for option in parser._option_string_actions if option.startswith("--") and "-" not in option[2:]
        ]
        raise ValueError(_unknown_argument(unknown[0], options))
    return tuple(parsed)


def _unknown_argument(given: str, options: Sequence[str]) -> str:
    close = get_close_matches(given.partition("=")[0].replace("-", "_").replace("__", "--", 1), options, n=1)
    remedy = f"did you mean {close[0]}?" if close else "--help lists them"
    return f"{given} is no argument: {remedy}"


def check_processes(world_size: int) -> None:
    """
    Refuses several processes that know nothing of each other: each would do, and save, all of the work.

    Args:
        world_size: processes that the script sees.

    Raises:
        ValueError: the launcher started another number.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes != world_size:
        raise ValueError(
            f"the launcher started {processes} processes, but the script sees {world_size}: on machines without "
            "GPUs pass --use_cpu true"
        )


#: What a script raises before it starts to work because its user has to mend something.
MISTAKES = (ValueError, OSError, StrictDataclassError, pickle.UnpicklingError)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """
    Ends the script with one line, `error: ...`, on what its user can mend: `kinds`, by default `MISTAKES`. With
    TRANSFORMERS_VERBOSITY=debug the traceback is shown before it. While a model runs name `kinds`, or mistakes of ours
    are hidden. Ctrl-C ends it in one line, too.
    """
    kinds = kinds or MISTAKES
    try:
        yield
    except kinds as error:
        if logging.get_verbosity() <= logging.DEBUG:  # TRANSFORMERS_VERBOSITY=debug
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
        if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
            error = error.__cause__  # without the name of the function that noticed
        is_refused = isinstance(error, pickle.UnpicklingError)
        message = refusal("a file of weights", error) if is_refused else str(error).strip()
        # From a DataLoader worker the message is a traceback, whose last line is the error.
        message = message.splitlines()[-1] if message.startswith("Caught ") else re.sub(r"\s*\n\s*", " ", message)
        sys.exit(f"error: {log_line(message)}")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


__all__ = [
    "LAUNCH_CONFIGS",
    "MISTAKES",
    "RECIPES",
    "check_processes",
    "names_given",
    "parse_with_recipe",
    "read_recipe",
    "recipe_path",
    "user_errors",
]
