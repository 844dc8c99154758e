"""
Extensions of Sphinx for these pages: the options of the commands, taken from their parsers, and docstrings, converted
from Markdown to the reStructuredText that autodoc reads.
"""

import re
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType, MethodType, ModuleType
from typing import Any
from unittest import mock

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from transformers import TrainingArguments

from transformers_vjepa.command_line.help_page import HelpParser
from transformers_vjepa.commands import COMMANDS
from transformers_vjepa.models.vjepa.configuration_vjepa import VJEPAConfig

# Commands --------------------------------------------------------------------------------------------------

#: Arguments for every parser. Without arguments a command reads its default recipe and shows those values as defaults.
_WITHOUT_RECIPE = ["--dataset", "videos/", "--model", "model/"]


class _Found(BaseException):
    """Carries the parser of a command to the caller."""


@contextmanager
def _parsers_are_raised() -> Iterator[None]:
    original = ArgumentParser.parse_known_args

    def raise_parser(parser: ArgumentParser, *arguments: Any, **settings: Any) -> Any:
        # The parser that only reads `--config` has no help.
        if parser.add_help or isinstance(parser, HelpParser):
            raise _Found(parser)
        return original(parser, *arguments, **settings)

    with mock.patch.object(ArgumentParser, "parse_known_args", raise_parser):
        yield


def parser_of(command: str) -> ArgumentParser:
    """The parser of `vjepa COMMAND`; `demo` uses the parser of `pretrain`."""
    module = import_module(f"transformers_vjepa.commands.{command}")
    with _parsers_are_raised(), mock.patch("sys.argv", [f"vjepa {command}", *_WITHOUT_RECIPE]):
        try:
            if hasattr(module, "parse_arguments"):  # before anything asks for optional packages
                module.parse_arguments(_WITHOUT_RECIPE)
            else:
                module.main()
        except _Found as found:
            return found.args[0]
    raise RuntimeError(f"vjepa {command} ended without parsing its arguments")


def options_of(command: str) -> set[str]:
    """The names of all options of a command, with their dashes."""
    return {name for action in parser_of(command)._actions for name in action.option_strings}


def _describe(action: Action) -> tuple[str, str]:
    """How an option is written, and its explanation."""
    # "--max-steps" is another spelling of "--max_steps": show one of them.
    spellings = {name.replace("-", "_"): name for name in reversed(action.option_strings)}
    names = ", ".join(reversed(spellings.values())) or (action.metavar or action.dest)
    value = ""
    if action.option_strings and action.nargs != 0:
        value = " " + (action.metavar if isinstance(action.metavar, str) else action.dest.upper())
        if action.choices is not None:
            choices = [str(choice) for choice in action.choices]
            value = f" {'|'.join(choices)}" if len(choices) <= 8 else value
        value += " ..." if action.nargs in ("*", "+") else ""
    help_text = " ".join(str(action.help or "").replace("%%", "%").split())
    if help_text in ("", SUPPRESS):
        help_text = "See the documentation of transformers.TrainingArguments."
    default = action.default
    if default not in (None, SUPPRESS, False, []) and not action.required and action.dest != "use_cpu":
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        help_text += f" Default: {shown}."
    return names + value, help_text + (" Required." if action.required else "")


class CommandReference(SphinxDirective):
    """`{command-reference} pretrain`: a section for each group of options of `vjepa pretrain`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = self.arguments[0]
        if command not in COMMANDS:
            raise self.error(f"unknown command {command}: choose from {', '.join(COMMANDS)}")
        parser = parser_of(command)
        if isinstance(parser, HelpParser):  # as --help_all shows them
            parser.shows_all = True
            sections = parser.sections()
        else:
            sections = {str(group.title): group._group_actions for group in parser._action_groups}
        found: list[nodes.Node] = []
        for title, actions in sections.items():
            if shown := [action for action in actions if not action.dest.startswith("help")]:
                found += self._options(command, title, shown)
        return found

    def _options(self, command: str, title: str, actions: Iterable[Action]) -> list[nodes.Node]:
        entries = nodes.definition_list()
        for action in actions:
            written, explained = _describe(action)
            term = nodes.term("", "", nodes.literal(text=written), ids=[f"{command}-{action.dest}".replace("_", "-")])
            entries += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph(text=explained)))
        return [nodes.rubric(text=title), entries]


class CommandList(SphinxDirective):
    """`{command-list}`: the commands and their purposes."""

    def run(self) -> list[nodes.Node]:
        entries = nodes.definition_list()
        for name, purpose in COMMANDS.items():
            entries += nodes.definition_list_item(
                "",
                nodes.term("", "", nodes.literal(text=f"vjepa {name}")),
                nodes.definition("", nodes.paragraph(text=f"{purpose[0].upper()}{purpose[1:]}.")),
            )
        return [entries]


_FUNCTIONS = (FunctionType, MethodType, ModuleType)

# Docstrings ------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_INLINE = re.compile(r"\[`([^`]+)`\]|(?<!`)`([^`]+)`(?!`)")


def _inline(text: str) -> str:
    """One line of Markdown as reStructuredText: converts code, and escapes characters that are markup there."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts.append(_escaped(text[end : match.start()]))
        code = match[2] or match[1].removeprefix("~").rpartition(".")[2]
        before = text[match.start() - 1 : match.start()]
        after = text[match.end() : match.end() + 1]
        left = "" if not before or before in " (['\"-/" else "\\ "
        right = "" if not after or after in " )]'\".,:;!?-/" else "\\ "
        parts.append(f"{left}``{code}``{right}")
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    text = re.sub(r"([|*])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)


def _begins_list(above: list[str], indent: int) -> bool:
    """Whether a list item after these lines begins a list and lacks the blank line that reStructuredText needs."""
    for line in reversed(above):
        depth = len(line) - len(line.lstrip())
        if not line.strip() or depth < indent:
            return bool(line.strip())
        if depth == indent:
            return not line.lstrip().startswith("- ")
    return False


def as_restructured_text(lines: list[str]) -> list[str]:
    """A docstring in Markdown with Google sections, as reStructuredText for napoleon."""
    lines = [line.replace("*optional*", "optional") for line in lines]
    result: list[str] = []
    literal: int | None = None  # indentation of the drawing that the current lines belong to
    fenced = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if fence := _FENCE.match(line):
            fenced = not fenced
            if fenced:
                result += ["", f"{fence[1]}.. code-block:: {fence[2] or 'text'}", ""]
            else:
                result.append("")
            continue
        if fenced:
            result.append(f"    {line}" if line.strip() else "")
            continue
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and line.strip() and number > 1 and not lines[number - 1].strip():
            above = next((text for text in reversed(lines[:number]) if text.strip()), "")
            deeper = indent - (len(above) - len(above.lstrip()))
            if deeper >= 4 and not re.fullmatch(r"[A-Z]\w+:", above.strip()):
                literal = len(above) - len(above.lstrip())
                result += [f"{above[:literal]}::", ""]
        if literal is None and line.lstrip().startswith("- ") and _begins_list(lines[:number], indent):
            result.append("")
        result.append(line if literal is not None or not line.strip() else _inline(line))
    return result


def _convert_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured_text(lines)
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", "; ")  # napoleon would read the words before a colon as a type


def _skip_aliases(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skips type aliases, whose docstring is that of `typing`."""
    return True if type(obj).__module__ in ("typing", "types") and not isinstance(obj, _FUNCTIONS) else None


def _shorten_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Shortens signatures with hundreds of arguments: docstrings and the command-line reference list them."""
    if isinstance(obj, type) and issubclass(obj, (TrainingArguments, VJEPAConfig)):
        return "(...)", None
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-reference", CommandReference)
    app.add_directive("command-list", CommandList)
    app.connect("autodoc-process-docstring", _convert_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip_aliases)
    app.add_lexer("csv", TextLexer)  # the language of such blocks on GitHub
    app.connect("autodoc-process-signature", _shorten_signature)
    return {"parallel_read_safe": True}
