"""The page: what becomes of a figure, and that text stays text."""

import re

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from transformers_vjepa.figures import style as report_page  # noqa: E402
from transformers_vjepa.figures.style import COLORS, color, save_picture, theme
from transformers_vjepa.study.page import Card, Page, Section, Table, render_page


def small_figure():
    figure = Figure(figsize=(3, 2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=color("vjepa"))
    axis.set_xlabel("a < b")
    return figure


def test_a_figure_becomes_a_png_on_white_and_a_picture_in_the_colours_of_the_page(tmp_path):
    with theme():
        picture = save_picture(small_figure(), name="one", alt="a line", folder=tmp_path / "pictures")
    image = Image.open(tmp_path / "pictures" / "one.png").convert("RGB")
    assert image.size == (390, 260) and image.getpixel((0, 0)) == (255, 255, 255)
    assert picture.width == pytest.approx(288)  # 3 inches of 96 CSS pixels
    assert picture.svg.startswith("<svg viewBox=") and picture.svg.endswith("</svg>")
    assert "stroke: var(--vjepa)" in picture.svg and "var(--ink)" in picture.svg
    assert not re.search("|".join(light for light, _ in COLORS.values()), picture.svg)
    assert "<style" not in picture.svg and "<metadata" not in picture.svg
    assert "a &lt; b</text>" in picture.svg and "var(--sans)" in picture.svg


def test_names_inside_two_pictures_do_not_meet(tmp_path):
    with theme():
        pictures = [save_picture(small_figure(), name=name, alt="", folder=tmp_path) for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', picture.svg)) for picture in pictures]
    assert ids[0] and not ids[0] & ids[1]
    for picture, own in zip(pictures, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', picture.svg)) <= own


def test_a_function_that_writes_a_file_is_drawn_twice(tmp_path):
    written = []

    def draw(path):
        written.append(path.suffix)
        return small_figure().savefig(path)

    with theme():
        picture = save_picture(draw, name="one", alt="", folder=tmp_path)
    assert written == [".png", ".svg"] and (tmp_path / "one.png").is_file() and picture.svg.startswith("<svg")


def test_all_colours_differ_so_that_each_finds_its_variable():
    light = [pair[0] for pair in COLORS.values()]
    assert len(set(light)) == len(light) and not set(light) & set(report_page._FIXED)


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


def test_long_tables_are_closed():
    tables = [Table("short", ["a"], [["1"]] * 12), Table("long", ["a"], [["1"]] * 13)]
    html = render_page(Page("t", "l", [], [], [], [Section("s", "S", tables=tables)], []))
    assert html.count("<details open>") == 1 and html.count("<details>") == 1
