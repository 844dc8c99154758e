"""The page of a report: figures that follow the reader's light or dark theme, and the HTML around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..figures.style import COLORS, Picture

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Table:
    """Numbers under a picture. From column `first_number` on, cells are aligned to the right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    first_number: int = 1

    @property
    def is_long(self) -> bool:
        return len(self.rows) > 12


@dataclass
class Section:
    """
    One subject of a report.

    Args:
        key: anchor of the section.
        title: what it is about.
        reading: the one sentence that says what the pictures show, with the numbers.
        pictures, tables: what stands beneath.
        how: how to read the pictures.
        missing: instead of pictures, why there are none.
    """

    key: str
    title: str
    reading: str = ""
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    how: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Card:
    """A main number of the headline."""

    title: str
    value: str
    details: Sequence[str]


@dataclass
class Page:
    """Everything that [`render_page`] sets."""

    title: str
    lead: str
    cards: Sequence[Card]
    verdicts: Sequence[tuple[str, str]]
    legend: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]]


def render_page(page: Page) -> str:
    """
    The whole page as one HTML document that asks for nothing else.

    Raises:
        ImportError: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError("a report needs matplotlib and jinja2: pip install transformers_vjepa[viz]") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["units"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    variables = ["".join(f"--{name}: {pair[tone]}; " for name, pair in COLORS.items()) for tone in (0, 1)]
    style = _STYLE.replace("/*LIGHT*/", variables[0]).replace("/*DARK*/", variables[1])
    return environment.from_string(_TEMPLATE).render(page=page, style=Markup(style), svg=Markup)


_STYLE = """
:root { color-scheme: light dark; --sans: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  /*LIGHT*/ --raised: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { /*DARK*/ --raised: #1e2329; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans); }
main, header { max-width: 1060px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; }
h1 { font-size: clamp(26px, 4.6vw, 38px); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 14px;
  text-wrap: balance; }
h2 { font-size: 23px; line-height: 1.25; letter-spacing: -0.01em; margin: 0 0 8px; }
h2 .number { color: var(--muted); font-weight: 400; margin-right: 0.35em; }
.lead { font-size: 18px; max-width: 46em; margin: 0 0 24px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: 12px; margin: 0 0 24px; }
.card { background: var(--raised); border-radius: 10px; padding: 14px 16px 15px; }
.card h3 { font-size: 14px; font-weight: 600; margin: 0; color: var(--muted); }
.card .value { font-size: 36px; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; color: var(--vjepa);
  font-variant-numeric: tabular-nums; }
.card p { margin: 2px 0 0; font-size: 14px; line-height: 1.45; }
.verdicts { list-style: none; margin: 0 0 24px; padding: 0; display: flex; flex-wrap: wrap; gap: 6px 26px; }
.verdicts b { font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 18px; padding: 0; list-style: none;
  font-size: 14px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; }
nav { border-block: 1px solid var(--line); padding: 11px 0; font-size: 14px; }
nav ol { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0; padding: 0; list-style: none; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 3px; }
section { padding: 42px 0 6px; }
.reading { max-width: 50em; margin: 0 0 18px; }
.how { color: var(--muted); font-size: 14px; max-width: 58em; margin: 14px 0 0; }
.missing { color: var(--muted); border-left: 3px solid var(--line); padding: 4px 0 4px 14px; margin: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 18px 26px; align-items: flex-start; }
figure { margin: 0; flex: 0 1 var(--width); min-width: 0; max-width: 100%; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure.wide { overflow-x: auto; } figure.wide svg { min-width: var(--least); }
figure image { image-rendering: pixelated; }
details { margin-top: 14px; font-size: 14px; }
summary { cursor: pointer; color: var(--muted); padding: 3px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 4px 0 6px; font-variant-numeric: tabular-nums; line-height: 1.35; }
th, td { text-align: left; padding: 4px 20px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; color: var(--muted); }
.n { text-align: right; }
footer { margin: 52px 0 40px; border-top: 1px solid var(--line); padding-top: 16px; font-size: 14px;
  color: var(--muted); }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
footer dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { body { font-size: 15px; } main, header { padding: 0 14px; } header { padding-top: 26px; }
  .lead { font-size: 16px; } section { padding-top: 34px; } figure { flex-basis: 100%; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; } .card { padding: 11px 12px; } .card .value { font-size: 29px; }
  .card p { font-size: 13px; } }
@media print { :root { color-scheme: light; /*LIGHT*/ --raised: #f3f5f7; } nav { display: none; }
  body { font-size: 10.5pt; } section { padding-top: 22px; } .scroll, figure.wide { overflow: visible; }
  figure { flex: 0 1 47%; } figure.wide { flex-basis: 100%; } figure.wide svg { min-width: 0; }
  details { font-size: 8.5pt; } th, td { padding-right: 10px; }
  figure, .card, tr { break-inside: avoid; } h2, .reading { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ page.title }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="lead">{{ page.lead|units }}</p>
{% if page.cards %}
<div class="cards">
{% for card in page.cards %}
<div class="card"><h3>{{ card.title }}</h3><div class="value">{{ card.value|units }}</div>
{% for detail in card.details %}<p>{{ detail|units }}</p>{% endfor %}</div>
{% endfor %}
</div>
{% endif %}
{% if page.verdicts %}
<ul class="verdicts">
{% for number, what in page.verdicts %}<li><b>{{ number }}</b> {{ what }}</li>
{% endfor %}
</ul>
{% endif %}
<ul class="legend" aria-label="colours">
{% for name, label in page.legend %}<li><i style="background: var(--{{ name }})"></i>{{ label }}</li>
{% endfor %}
</ul>
<nav aria-label="sections"><ol>
{% for section in page.sections %}<li><a href="#{{ section.key }}">{{ loop.index }} {{ section.title }}</a></li>
{% endfor %}
</ol></nav>
</header>
<main>
{% for section in page.sections %}
<section id="{{ section.key }}">
<h2><span class="number">{{ loop.index }}</span>{{ section.title }}</h2>
{% if section.reading %}<p class="reading">{{ section.reading|units }}</p>{% endif %}
{% if section.missing %}<p class="missing">{{ section.missing }}</p>{% endif %}
{% if section.pictures %}
<div class="pictures">
{% for picture in section.pictures %}
<figure{% if picture.is_wide %} class="wide"{% endif %} role="img" aria-label="{{ picture.alt }}"
 style="--width: {{ picture.width|round|int }}px; --least: {{ picture.least_width|round|int }}px">
{{ svg(picture.svg) }}
</figure>
{% endfor %}
</div>
{% endif %}
{% if section.how %}<p class="how">{{ section.how }}</p>{% endif %}
{% for table in section.tables %}
<details{% if not table.is_long %} open{% endif %}>
<summary>{{ table.title }}</summary>
<div class="scroll"><table>
<thead><tr>
{% for cell in table.header %}
<th scope="col"{% if loop.index0 >= table.first_number %} class="n"{% endif %}>{{ cell }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
<td{% if loop.index0 >= table.first_number %} class="n"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
</details>
{% endfor %}
</section>
{% endfor %}
<footer><dl>
{% for name, value in page.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl></footer>
</main>
</body>
</html>
"""


__all__ = [
    "Card",
    "Page",
    "Section",
    "Table",
    "render_page",
]
