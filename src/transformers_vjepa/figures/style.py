"""The look of all figures: colours, number formats, figures as files and figures inside a page."""

from __future__ import annotations

import io
import math
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches. A figure of this width fills a phone, and two of them stand side by side on a desktop.
SHEET_WIDTH = 4.6
#: Name: (colour on white, colour on the dark page). Figures are drawn with the first colour; inside a page each colour
#: is a CSS variable. The arms can be told apart with every kind of colour vision (after Okabe and Ito, "Color
#: Universal Design").
COLORS: dict[str, tuple[str, str]] = {
    "ink": ("#1c2127", "#e8ebee"),
    "muted": ("#5a6470", "#a3adb8"),
    "line": ("#d5dae0", "#3a424c"),
    "paper": ("#fefefe", "#15181c"),
    "vjepa": ("#0b6bb5", "#4fb0f2"),
    "untrained": ("#868e97", "#929ba6"),
    "pixels": ("#d1560c", "#ff8b47"),
    "random_tube": ("#009271", "#2fcaa3"),
    "causal": ("#b8569a", "#e994cb"),
    "published_truncation": ("#b98a00", "#edbb36"),
    "baseline": ("#6b5848", "#bfa690"),
}
COLORS |= {"right": COLORS["vjepa"], "wrong": COLORS["pixels"]}
_FILE_DPI, _REPORT_DPI = 110, 130
_PIXELS_PER_INCH = 96  # of CSS
_MISSING = "figures need matplotlib, which is not installed: pip install transformers_vjepa[viz]"


def percent(share: float) -> str:
    """A share in [0, 1] as whole percent."""
    return f"{100 * share:.0f} %"


def signed(points: float) -> str:
    """Points with their sign and one digit."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def color(name: str) -> str:
    """The colour on white of a name of `COLORS`, to draw with."""
    return COLORS[name][0]


def new_figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """
    An empty figure, with a size in inches.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(_MISSING) from error
    # Without pyplot: no display, no global state, nothing to close.
    return Figure(figsize=(width, height), layout=layout)


def write_figure(figure: Figure, path: str | Path) -> Path:
    """
    Writes a figure, makes its folder if needed, and returns the path. The suffix sets the format. All text is shown as
    it is: a class called `$x$` is not a formula.
    """
    from matplotlib.text import Text

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(path, dpi=_FILE_DPI)
    return path


def theme() -> AbstractContextManager[None]:
    """
    Draws all figures within this context in the colours and fonts of a page.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ImportError(_MISSING) from error
    ink, muted = color("ink"), color("muted")
    look = {
        "svg.fonttype": "none",  # keep text as text: it can be searched, and uses the fonts of the page
        "text.parse_math": False,  # a class called "$x$" is not a formula
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.edgecolor": muted,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": color("line"),
        "grid.alpha": 1.0,
        "legend.labelcolor": ink,
    }
    return rc_context(look)


@dataclass(frozen=True)
class InlineFigure:
    """
    A figure as an SVG element inside a page.

    Attributes:
        svg: the element; its colours are the CSS variables of `COLORS`.
        width: largest width in CSS pixels.
        least_width: CSS pixels below which the text is too small; on a narrower screen the figure scrolls.
        alt: description for readers who do not see the figure.
    """

    svg: str
    width: float
    least_width: float
    alt: str

    @property
    def is_wide(self) -> bool:
        """Whether the figure scrolls on a phone."""
        return self.least_width > 390


def report_figure(figure: Figure, *, name: str, alt: str, folder: Path, max_width: float = math.inf) -> InlineFigure:
    """
    Writes a figure as a PNG on white into a folder, and returns the figure for a page. Call it inside [`theme`].

    Args:
        name: file name without suffix; unique in a page.
        alt: see [`InlineFigure`].
        folder: folder of the PNG.
        max_width: largest width in the page, in CSS pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=_REPORT_DPI, facecolor="white")
    figure.set_layout_engine("none")  # saving has set the layout; a second pass would double the time
    return inline_figure(figure, name=name, alt=alt, max_width=max_width)


def inline_figure(figure: Figure, *, name: str, alt: str, max_width: float = math.inf) -> InlineFigure:
    """A figure for a page, without a file. Arguments: see [`report_figure`]."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Ids that the SVG refers to are hashes of the content and of this salt, so they are unique in the page.
    with rc_context({"svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", dpi=_REPORT_DPI, facecolor="none", metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip().replace("<svg ", '<svg aria-hidden="true" ', 1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
    # Ids such as "axes_1" and "image3b9f" repeat, and nothing refers to them.
    svg = re.sub(r' id="([^"_]+_\d+|image\w+)"', "", svg)
    svg = re.sub(r"(px |font-family: )'[^;\"]*", r"\1var(--sans)", svg)  # matplotlib's font is as wide as any
    variables = {light: f"var(--{variable})" for variable, (light, _) in reversed(COLORS.items())}
    svg = re.sub("#[0-9a-f]{6}", lambda found: variables.get(found[0], found[0]), svg)
    width = float(figure.get_figwidth()) * _PIXELS_PER_INCH
    return InlineFigure(svg, width=min(width, max_width), least_width=0.8 * width, alt=alt)
