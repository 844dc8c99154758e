"""The HTML of a report: escaped text, aligned numbers, figures and colours."""

import re

from transformers_vjepa.figures.style import InlineFigure
from transformers_vjepa.study.page import Card, Page, Section, Table, render_page


def test_page_escapes_text_and_aligns_numbers():
    section = Section("one", "A & B", reading="up to 5 %", tables=[Table("T", ["name", "value"], [["<b>", "1"]])])
    gone = Section("two", "Gone", missing="Not shown: nothing there.")
    card = Card("Motion", "60.0 %", ["chance 12.5"])
    page = Page(
        "Title <i>", "lead", [card], [("1 of 2", "met")], [("vjepa", "V-JEPA")], [section, gone], [("cpu", "<x>")]
    )
    html = render_page(page)
    assert "Title &lt;i&gt;" in html and "<td>&lt;b&gt;</td>" in html and '<td class="n">1</td>' in html
    assert "A &amp; B" in html and "<dd>&lt;x&gt;</dd>" in html and "up to 5\N{NO-BREAK SPACE}%" in html
    assert '<p class="missing">Not shown: nothing there.</p>' in html
    assert "--vjepa: #0b6bb5" in html and "--vjepa: #4fb0f2" in html and "/*" not in html


def test_every_colour_variable_of_the_style_is_defined():
    html = render_page(Page("t", "l", [], [], [], [], []))
    used = set(re.findall(r"var\(--([\w-]+)\)", html)) - {"width", "least"}  # those are set on each figure
    assert used and used <= set(re.findall(r"--([\w-]+):", html))


def test_wide_figures_scroll_and_markup_of_figures_is_kept():
    figures = [InlineFigure("<svg>1</svg>", 300, 240, "a <line>"), InlineFigure("<svg>2</svg>", 900, 720, "wide")]
    html = render_page(Page("t", "l", [], [], [], [Section("s", "S", figures=figures)], []))
    assert "<svg>1</svg>" in html and "<svg>2</svg>" in html and 'aria-label="a &lt;line&gt;"' in html
    assert html.count('<figure class="wide"') == 1 and "--width: 900px; --least: 720px" in html


def test_long_tables_are_closed():
    tables = [Table("short", ["a"], [["1"]] * 12), Table("long", ["a"], [["1"]] * 13)]
    html = render_page(Page("t", "l", [], [], [], [Section("s", "S", tables=tables)], []))
    assert html.count("<details open>") == 1 and html.count("<details>") == 1
