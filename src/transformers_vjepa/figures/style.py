"""Colours, number formats and SVG files that follow the colour scheme of the page."""

import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure


def percent(share: float) -> str:
    """A share in [0, 1] as whole percent."""
    return f"{100 * share:.0f} %"


def signed(points: float) -> str:
    """Points with their sign and one digit."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


#: Name: (colour on white, colour on the dark page). Figures are drawn in the first; in the page every one of them
#: is a CSS variable. The arms are told apart with any kind of colour vision (after Okabe and Ito, "Color Universal
#: Design").
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
    "right": ("#0b6cb6", "#50b1f3"),
    "wrong": ("#d2570d", "#ff8c48"),
}
# Colours of other drawing functions, and what takes their place in the page.
_FIXED = {"#555555": "muted", "#bbbbbb": "line", "#eeeeee": "line", "#1f5fa8": "vjepa", "#d9772b": "pixels"}
_PIXELS_PER_INCH = 96  # of CSS
_PNG_DPI = 130


def color(name: str) -> str:
    """What to draw with in a figure, by a name of `COLORS`."""
    return COLORS[name][0]


@dataclass(frozen=True)
class Picture:
    """
    A figure as inline SVG.

    Attributes:
        svg: the element.
        width: CSS pixels that it takes where there is room.
        least_width: CSS pixels below which its text is too small: it scrolls where there is less room.
        alt: what it shows.
        name: unique on the page.
    """

    svg: str
    width: float
    least_width: float
    alt: str
    name: str

    @property
    def is_wide(self) -> bool:
        """Whether it has to scroll on a telephone."""
        return self.least_width > 390


@contextmanager
def theme() -> Iterator[None]:
    """
    The look of all figures, those of [`~visualization`] included.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("a report needs matplotlib and jinja2: pip install transformers_vjepa[viz]") from error
    ink, muted, line = color("ink"), color("muted"), color("line")
    look = {
        "svg.fonttype": "none",  # text stays text: it can be searched, and follows the fonts of the page
        "svg.hashsalt": "report",  # the same figure gives the same file
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
        "grid.color": line,
        "grid.alpha": 1.0,
        "legend.labelcolor": ink,
    }
    with matplotlib.rc_context(look):
        yield


def save_picture(
    drawn: Figure | Callable[[Path], Any], *, name: str, alt: str, folder: Path, max_width: float = math.inf
) -> Picture:
    """
    Writes a figure as PNG into a folder, on white, and gives it as SVG for the page. Call it inside [`theme`].

    Args:
        drawn: a figure, or a function that writes one into the file it is given, as those of [`~visualization`] do.
        name: of the file, without suffix, and of the picture in the page; unique in a report.
        alt: what the picture shows, for those who do not see it.
        folder: where the PNG goes.
        max_width: CSS pixels in the page.
    """

    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    if callable(drawn):
        with TemporaryDirectory() as temporary:
            with rc_context({"savefig.facecolor": "white"}):
                drawn(png)
            with rc_context({"savefig.facecolor": "none"}):
                drawn(Path(temporary) / "picture.svg")
            svg = (Path(temporary) / "picture.svg").read_text(encoding="utf-8")
    else:
        drawn.savefig(png, dpi=_PNG_DPI, facecolor="white")
        drawn.set_layout_engine("none")  # laid out already: the same places, and half the time
        return inline_picture(drawn, name=name, alt=alt, max_width=max_width)
    body, width = _themed_svg(svg, name=name)
    return Picture(body, width=min(width, max_width), least_width=0.8 * width, alt=alt, name=name)


def inline_picture(figure: Figure, *, name: str, alt: str, max_width: float = math.inf) -> Picture:
    """A figure as SVG for a page, without a file; the arguments are those of [`save_picture`]."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=_PNG_DPI, facecolor="none")
    body, width = _themed_svg(buffer.getvalue(), name=name)
    return Picture(body, width=min(width, max_width), least_width=0.8 * width, alt=alt, name=name)


def _themed_svg(svg: str, *, name: str) -> tuple[str, float]:
    """An SVG of matplotlib for use inside a page, and its natural width in CSS pixels."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # A style element inside an inline picture would hold for the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    width = float(re.search(r'\bwidth="([\d.]+)pt"', head)[1]) * _PIXELS_PER_INCH / 72
    view = re.search(r'\bviewBox="[^"]+"', head)[0]
    head = (
        f'<svg {view} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true"'
    )
    # Names are unique in a file only, and not even there where nothing refers to them.
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', rest))
    rest = re.sub(r'\s\bid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", rest)
    rest = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", rest)
    # The fonts that the figure was laid out with are as wide as any: those of the page fit in their place.
    rest = re.sub(r"(px |font-family: )'[^;\"]*", r"\1var(--sans)", rest)
    for grey, variable in _FIXED.items():
        rest = rest.replace(grey, f"var(--{variable})")
    for variable, (light, _) in COLORS.items():
        rest = rest.replace(light, f"var(--{variable})")
    return f"{head}>{rest}".strip(), width


__all__ = [
    "COLORS",
    "Picture",
    "color",
    "inline_picture",
    "percent",
    "save_picture",
    "signed",
    "theme",
]
