"""Charts of a page, drawn in the browser by plotly, with a table of what they show.

Colours are names of the page's style, `var(--c1)` to `var(--c6)`, which the page resolves for a
light or a dark screen. Text from users goes through `label`, since plotly reads tags in it.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from n2n.report.blocks import Table
from n2n.report.page import Block

__all__ = ["COLOURS", "INK", "QUIET", "RULE", "Chart", "axis", "finite", "label", "line"]

COLOURS = tuple(f"var(--c{number})" for number in range(1, 7))
INK, QUIET, RULE, PAPER = "var(--ink)", "var(--quiet)", "var(--rule)", "var(--paper)"


@dataclass(frozen=True)
class Chart(Block):
    """A chart. traces, layout: plotly's, as JSON values; layout is added to the page's own.

    A trace's customdata, where it is text, is the key of what a click on its points leads to.
    table: the same values for those who cannot see or point; height: pixels. Traces
    that draw by WebGL are no good: plotly makes code of strings for them, which a page forbids.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    table: Table
    layout: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    height: int = 320
    template: ClassVar[str] = "chart.html.jinja"
    scripts: ClassVar[tuple[str, ...]] = ("plotly", "charts.js")

    def figure(self) -> dict[str, Any]:
        """What plotly draws."""
        return {"data": list(self.traces), "layout": _merge(_LAYOUT, self.layout)}


def label(text: str) -> str:
    """Text that plotly shows as it is, tags and all."""
    return html.escape(text, quote=False)


def finite(values: Sequence[float | None]) -> list[float | None]:
    """Values for JSON: None, a gap in a line, for those that are none or not finite."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with its name."""
    return {"title": {"text": label(title)}, **settings}


def line(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    colour: str,
    *,
    form: str = ".2f",
    **settings: Any,
) -> dict[str, Any]:
    """A line with dots where there are few points. form: of a value under the pointer (d3's)."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 30 else "lines",
        "name": label(name),
        "x": list(x),
        "y": finite(y),
        "line": {"color": colour, "width": 2, **settings.pop("line", {})},
        "marker": {"size": 5},
        "hovertemplate": f"%{{y:{form}}}",
        **settings,
    }


_AXIS: dict[str, Any] = {
    "gridcolor": RULE,
    "linecolor": RULE,
    "zeroline": False,
    "automargin": True,
    "fixedrange": True,
    "tickfont": {"color": QUIET},
    "title": {"font": {"color": QUIET, "size": 13}, "standoff": 8},
}
_LAYOUT: dict[str, Any] = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
    "xaxis": _AXIS,
    "yaxis": _AXIS,
    "hovermode": "x unified",
    "hoverlabel": {"bgcolor": PAPER, "bordercolor": RULE, "font": {"color": INK}},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    "dragmode": False,
}


def _merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; the other's values where both have some."""
    merged = dict(base)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
