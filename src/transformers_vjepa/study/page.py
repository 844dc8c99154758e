"""The page of a report: its content as objects, and the HTML from `page.html.jinja` and `page.css`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from yaml import safe_load

from ..figures.style import COLORS, InlineFigure
from .kinds import StudyKind

_FOLDER = files(__package__)


@dataclass(frozen=True)
class Table:
    """Numbers below the figures. Cells from column `first_number` on are aligned to the right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    first_number: int = 1

    @property
    def is_long(self) -> bool:
        return len(self.rows) > 12


@dataclass(frozen=True)
class Section:
    """
    One subject of a report.

    Args:
        key: anchor of the section.
        title: its subject.
        reading: the result in one or two sentences, with numbers.
        figures, tables: shown below.
        how: how to read the figures.
        missing: the reason why there are no figures.
    """

    key: str
    title: str
    reading: str = ""
    figures: Sequence[InlineFigure] = ()
    tables: Sequence[Table] = ()
    how: str = ""
    missing: str = ""


def new_section(
    key: str, figures: Sequence[InlineFigure], tables: Sequence[Table], *, kind: StudyKind, **values: Any
) -> Section:
    """
    A section with its texts from `sections.yaml`, in which the words of `kind` and `values` are filled in. Empty
    tables are left out, and a section without figures gives the reason instead.
    """
    text = safe_load((_FOLDER / "sections.yaml").read_text(encoding="utf-8"))[key]
    text |= text.pop(kind.name, {})
    if not figures and "missing" in text:
        reason = text["missing"].format(**kind.words)
        return Section(key, text["title"].format(**kind.words), missing=f"Not shown: {reason}.")
    title, reading, how = (text[name].format(**kind.words, **values) for name in ("title", "reading", "how"))
    return Section(key, title, reading, figures, [table for table in tables if table.rows], how)


@dataclass(frozen=True)
class Card:
    """A main number at the top of the page."""

    title: str
    value: str
    details: Sequence[str]


@dataclass(frozen=True)
class Page:
    """The content of a page, from top to bottom; `legend` has the names of colours and their labels."""

    title: str
    lead: str
    cards: Sequence[Card]
    verdicts: Sequence[tuple[str, str]]
    legend: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]]


def render_page(page: Page) -> str:
    """The page as one HTML document that loads nothing else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["units"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    light, dark = ("".join(f"--{name}: {pair[tone]}; " for name, pair in COLORS.items()) for tone in (0, 1))
    template = environment.from_string((_FOLDER / "page.html.jinja").read_text(encoding="utf-8"))
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return template.render(page=page, style=style, light=light, dark=dark)
