"""What all commands share of the command line: recipes, the arguments that override them, and errors in one line."""

import json
import os
import pickle
import re
import signal
import sys
import traceback
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
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
# What an argument takes, by the function that converts its text.
_KINDS = {int: "a whole number", float: "a number", string_to_bool: "true or false"}


def names_given(argv: Sequence[str]) -> set[str]:
    """Names of the arguments on a command line, with underscores: `--max-steps=3` gives `max_steps`."""
    return {part[2:].partition("=")[0].replace("-", "_") for part in argv if part.startswith("--")}


def recipe_path(name: str | Path) -> Path:
    """
    The file of a recipe: a path, or the name of a recipe that comes with the package (`tiny_cpu`).

    Raises:
        FileNotFoundError: there is neither such a file nor such a recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = RECIPES / f"{path.name}.yaml"
    if path.name == str(path) and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(f"unknown recipe {name}: give a YAML file, or one of {names}")


def read_recipe(path: str | Path, dataclasses: Sequence[type]) -> dict[str, Any]:
    """
    The values of a recipe (YAML) by the names of arguments.

    Raises:
        ValueError: the file is not YAML, does not map names to values, or sets an unknown argument.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML: {reason or type(error).__name__}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}: a recipe has lines of the form 'argument: value'")
    known = {item.name: item for part in dataclasses for item in fields(part)}
    if "activation_checkpointing" in values.keys() - known.keys() and "gradient_checkpointing" in known:
        # The name of this argument before transformers 5.23.
        values["gradient_checkpointing"] = values.pop("activation_checkpointing")
    if unknown := sorted(str(name) for name in values if name not in known):
        close = get_close_matches(unknown[0], known, n=1)
        remedy = f": did you mean {close[0]}?" if close else ""
        remedy = ": this recipe is for another command" if Path(path).parent == RECIPES else remedy
        raise ValueError(f"{path} sets unknown arguments ({', '.join(unknown)}){remedy}")
    for name, value in values.items():
        kind = str(known[name].type)
        if isinstance(value, str) and "list" in kind:
            values[name] = [value]
        if isinstance(value, list) and "list" not in kind:
            raise ValueError(f"{path} sets {name} to a list, but this argument takes one value")
        if value is None and "None" not in kind:
            raise ValueError(f"{path} sets {name} to nothing: give a value, or remove the line")
    return values


def _as_text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def _takes(action: Action, text: str) -> bool:
    """Whether argparse accepts this text as a value of the argument."""
    try:
        value = action.type(text) if action.type else text
    except (ArgumentTypeError, TypeError, ValueError):
        return False
    return not action.choices or value in action.choices


def _as_arguments(values: Mapping[str, Any], path: str | Path, actions: Mapping[str, Action]) -> list[str]:
    """Values of a recipe as words of a command line; wrong values are refused with the name of the recipe."""
    arguments = []
    for name, value in values.items():
        if value == []:
            raise ValueError(f"{path} sets {name} to an empty list: give a value, or remove the line")
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not _takes(actions[name], _as_text(item)):
                choices, kind = actions[name].choices, actions[name].type
                wanted = f"one of {', '.join(map(str, choices))}" if choices else _KINDS.get(kind, "another value")
                raise ValueError(f"{path} sets {name} to {item!r}: give {wanted}")
            # A text that begins with a dash and is not a number would be read as the name of an argument.
            is_confusing = isinstance(item, (list, dict, type(None))) or re.match(r"-(?![\d.])", str(item))
            if isinstance(value, list) and is_confusing:
                raise ValueError(f"{path} sets {name} to a list with {item!r}: give numbers or names")
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={_as_text(value)}")
    return arguments


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
    Arguments of a command: the command line overrides the recipe (`--config`), which overrides the defaults.

    Args:
        argv: the arguments, without the name of the command.
        dataclasses: the result has one instance of each of these classes; each is a group of `--help`.
        description: first lines of `--help`.
        recipe_help: help of `--config`.
        dry_run_help: help of `--dry_run`; `None` for a command without this option. The command finds the option
            with [`names_given`].
        default_recipe: the recipe to use without `--config`, from the names on the command line.
        overridden: names that the recipe must not set, from the names on the command line.
        defaults: defaults that depend on the machine.

    Raises:
        ValueError: see [`read_recipe`]; a value in the recipe of the wrong type; or a value out of range.
        SystemExit: a value on the command line of the wrong type, after a line that says so.
    """
    parser = HelpParser(dataclasses, description=description)
    parser.general.add_argument("--config", metavar="RECIPE", help=recipe_help)
    if dry_run_help:
        parser.general.add_argument("--dry_run", action="store_true", help=dry_run_help)
    config = ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    recipe: Namespace = config.parse_known_args(argv)[0]
    given = names_given(argv)
    # The default recipe does not apply to --help: its values hold only for a command without arguments.
    path = recipe.config or (None if given & {"help", "help_all"} or "-h" in argv else default_recipe(given))
    path = recipe_path(path) if path else None
    parser.set_defaults(**defaults)
    if path:
        values = read_recipe(path, dataclasses)
        replaced = overridden(given)
        values = {name: value for name, value in values.items() if name not in replaced}
        from_recipe = _as_arguments(values, path, parser.actions)
        parser.set_defaults(**values)  # for --help, and for values of `null`
        # --config=... is last, because an argument that takes a list would also take the words that follow it.
        argv = [*from_recipe, f"--config={path}", *argv]
    *parsed, _, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    if unknown:
        options = [option for option in parser.spellings if option.startswith("--") and "-" not in option[2:]]
        name = unknown[0].partition("=")[0].replace("-", "_").replace("__", "--", 1)
        close = get_close_matches(name, options, n=1)
        remedy = f"did you mean {close[0]}?" if close else "--help lists all arguments"
        raise ValueError(f"unknown argument {unknown[0]}: {remedy}")
    return tuple(parsed)


def check_processes(world_size: int) -> None:
    """
    Refuses several processes that do not know of each other: each process would do, and save, all of the work.
    `world_size` is the number of processes that the command sees.

    Raises:
        ValueError: the launcher started another number of processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes != world_size:
        raise ValueError(
            f"the launcher started {processes} processes, but the script sees {world_size}: on machines without "
            "GPUs pass --use_cpu true"
        )


#: Errors that a command raises before it starts to work, because its user has to correct something.
MISTAKES = (ValueError, OSError, StrictDataclassError, pickle.UnpicklingError)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """
    Ends the command with one line, `error: ...`, on an error that its user can correct: one of `kinds`, by default of
    `MISTAKES`. With TRANSFORMERS_VERBOSITY=debug the traceback is shown before this line. While a model runs, name
    `kinds`: the default would hide errors of our own code. Ctrl-C also ends the command in one line.
    """
    kinds = kinds or MISTAKES
    try:
        yield
    except kinds as error:
        if logging.get_verbosity() <= logging.DEBUG:  # TRANSFORMERS_VERBOSITY=debug
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
        if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
            error = error.__cause__  # without the name of the validator
        is_refused = isinstance(error, pickle.UnpicklingError)
        message = refusal("a file of weights", error) if is_refused else str(error).strip()
        # From a DataLoader worker the message is a traceback; its last line is the error.
        message = message.splitlines()[-1] if message.startswith("Caught ") else re.sub(r"\s*\n\s*", " ", message)
        sys.exit(f"error: {log_line(message)}")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
