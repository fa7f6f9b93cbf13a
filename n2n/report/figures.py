"""Figures for papers: what matplotlib draws, as PNG and SVG, in one style."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from n2n.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["COLOURS", "Figure", "drawing"]

COLOURS = ("#0b6e99", "#b5410f", "#3b7d23", "#7b4ea3", "#8a6a00", "#6b7280")
INKS = tuple(f"var(--c{number})" for number in range(1, 7))  # the same, in a page
PIXELS_PER_INCH = 160
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "n2n",  # the same figure, the same file
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Figure:
    """A figure by its file's name, and what draws it."""

    name: str
    draw: Callable[[], "Drawing"]

    def markup(self) -> Markup:
        """The figure for a page, as SVG: black and white become the page's ink and paper."""
        buffer = io.StringIO()
        with _styled():
            drawn = self.draw()
            drawn.patch.set_visible(False)
            drawn.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        for colour, name in (*zip(COLOURS, INKS, strict=True), ("#000000", "var(--ink)")):
            svg = svg.replace(colour, name)
        return Markup(svg)

    def write(self, folder: Path) -> None:
        """Write NAME.png and NAME.svg."""
        folder.mkdir(parents=True, exist_ok=True)
        with _styled():
            drawn = self.draw()
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                with replacing(folder / f"{self.name}.{kind}") as temporary:
                    drawn.savefig(temporary, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata)


def drawing(width: float, height: float) -> "Drawing":
    """An empty figure of so many inches, outside of pyplot's list of open ones."""
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height))


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield
