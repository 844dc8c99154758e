"""The look of figures: number formats, and figures as files and inside a page."""

import re
import sys

import pytest

pytest.importorskip("matplotlib")

from PIL import Image  # noqa: E402

from transformers_vjepa.figures.style import (  # noqa: E402
    COLORS,
    color,
    inline_figure,
    new_figure,
    percent,
    report_figure,
    signed,
    theme,
)


def small_figure():
    figure = new_figure(3, 2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "o-", color=color("vjepa"))
    for left in (0, 0.5):  # the same image twice
        axis.imshow([[0, 1]], cmap="Blues", interpolation="none", extent=(left, left + 0.4, 0, 1), aspect="auto")
    axis.set_xlim(0, 1)
    axis.set_xlabel("a < b")
    return figure


def test_numbers_as_text():
    assert percent(0.254) == "25 %" and signed(-3.14) == "−3.1" and signed(2) == "+2.0"


def test_a_figure_becomes_a_png_on_white_and_an_svg_in_the_colours_of_the_page(tmp_path):
    with theme():
        figure = report_figure(small_figure(), name="one", alt="a line", folder=tmp_path / "pictures")
    image = Image.open(tmp_path / "pictures" / "one.png").convert("RGB")
    assert image.size == (390, 260) and image.getpixel((0, 0)) == (255, 255, 255)
    assert figure.width == pytest.approx(288)  # 3 inches of 96 CSS pixels
    assert figure.alt == "a line" and not figure.is_wide
    assert figure.svg.startswith("<svg ") and figure.svg.endswith("</svg>") and "viewBox=" in figure.svg
    assert "stroke: var(--vjepa)" in figure.svg and "var(--ink)" in figure.svg
    assert not re.search("|".join(light for light, _ in COLORS.values()), figure.svg)
    assert "<style" not in figure.svg and "<metadata" not in figure.svg
    assert "a &lt; b</text>" in figure.svg and "var(--sans)" in figure.svg


def test_the_width_in_the_page_is_limited(tmp_path):
    assert inline_figure(small_figure(), name="one", alt="", max_width=200).width == 200


def test_ids_are_unique_in_a_page_and_found():
    with theme():
        parts = [inline_figure(small_figure(), name=name, alt="").svg for name in ("one", "two")]
    ids = re.findall(r'\bid="([^"]+)"', "".join(parts))
    assert ids and len(set(ids)) == len(ids)
    for svg in parts:
        references = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        assert references and references <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[viz\]"):
        new_figure(1, 1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install transformers_vjepa\[viz\]"), theme():
        pass


def test_the_modules_are_imported_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transformers_vjepa.figures")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    from transformers_vjepa.figures import charts, images, style

    # Nothing in these modules has replaced the entry that makes imports of matplotlib fail.
    assert sys.modules["matplotlib"] is None
    assert all("matplotlib" not in vars(module) for module in (charts, images, style))
