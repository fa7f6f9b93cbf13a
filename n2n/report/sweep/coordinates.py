"""Parallel coordinates: a line for each trial, from its score down through its settings.

An axis a setting lies across the page, so that a phone has room for its values. Drawn as plain
lines of SVG: plotly's own kind draws by WebGL, which not every browser has.
"""

import math
from collections.abc import Sequence
from typing import Any

from n2n.report.blocks import Table
from n2n.report.charts import INK, QUIET, RULE, Chart, label
from n2n.report.sweep.account import Account, text_of
from n2n.sweep import Trial

__all__ = ["BAND_COLOURS", "coordinates"]

BAND_COLOURS = tuple(f"var(--s{number})" for number in range(1, 6))
ROW = 62  # pixels between two axes
WIDE = 30.0  # largest over smallest, from where on an axis is logarithmic
NONE = -0.06  # where trials stand that do not have a setting
NAMED = 10  # trials in the table
FEW = 12  # different values
MANY = 100  # trials
SPREAD = 0.05  # of the axis, around a value that many trials share


class Axis:
    """Where the values of a setting lie, from 0 to 1."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        known = [value for value in values if value is not None]
        self._numbers = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in known
        )
        self._missing = len(known) < len(values)
        self._known = sorted(set(known), key=lambda value: (isinstance(value, str), value))
        self._log = (
            self._numbers and self._known[0] > 0 and (self._known[-1] > WIDE * self._known[0])
        )
        self._discrete = not self._numbers or len(self._known) <= FEW
        self._low, self._high = (
            (self._on(self._known[0]), self._on(self._known[-1])) if self._numbers else (0.0, 1.0)
        )

    def around(self, value: Any, trial: int) -> float:
        """The place of a trial's value: beside those of others with the same, where there are few
        different ones."""
        golden = (trial * 0.618034) % 1 - 0.5
        return self.place(value) + (SPREAD * golden if self._discrete or value is None else 0.0)

    def place(self, value: Any) -> float:
        """Of a value itself."""
        if value is None:
            return NONE
        if self._numbers:
            span = self._high - self._low
            return (self._on(value) - self._low) / span if span else 0.5
        return self._known.index(value) / max(1, len(self._known) - 1)

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of some values."""
        known = self._known
        if self._numbers and len(known) > 5:
            middle = (self._low + self._high) / 2
            between = math.exp(middle) if self._log else middle
            integer = all(isinstance(value, int) for value in known)
            ticks = [(self.place(value), f"{value:.3g}") for value in (known[0], known[-1])]
            ticks.append((0.5, f"{round(between) if integer else between:.3g}"))
        else:
            ticks = [(self.place(value), text_of(value)) for value in known]
        return ticks + ([(NONE, "none")] if self._missing else [])

    def _on(self, value: float) -> float:
        return math.log(value) if self._log else float(value)


def coordinates(account: Account) -> Chart:
    """Of a sweep of which at least two trials have a score."""
    scores = Axis(account.metric_name, [account.shown(trial.score) for trial in account.scored])
    names = account.varying
    axes = [Axis(name, [trial.settings.get(name) for trial in account.scored]) for name in names]
    rows = [scores, *axes]
    return Chart(
        "Every trial, from its score down through its settings",
        [
            _trace(account, band, trials, rows, BAND_COLOURS[number])
            for number, (band, trials) in enumerate(account.bands)
        ][::-1],
        Table(
            f"The best {min(NAMED, len(account.scored))} trials",
            ["trial", account.metric_name, *names],
            [
                [
                    trial.number,
                    account.number(trial.score),
                    *(text_of(trial.settings.get(name)) for name in names),
                ]
                for trial in account.scored[:NAMED]
            ],
        ),
        _layout(rows),
        "Each line is a trial; settings that matter more stand higher.",
        height=80 + ROW * len(rows),
    )


def _trace(
    account: Account, band: str, trials: Sequence[Trial], rows: Sequence[Axis], colour: str
) -> dict[str, Any]:
    """The lines of a band of trials, with a gap after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    leads: list[str | None] = []
    for trial in trials:
        values = [account.shown(trial.score), *(trial.settings.get(row.name) for row in rows[1:])]
        x += [
            *(row.around(value, trial.number) for row, value in zip(rows, values, strict=True)),
            None,
        ]
        y += [*range(len(rows)), None]
        said = f"trial {trial.number}, {account.number(trial.score)}"
        text += [
            label(f"{said}: {row.name} {'none' if value is None else text_of(value)}")
            for row, value in zip(rows, values, strict=True)
        ] + [""]
        leads += [f"trial-{trial.number}"] * len(rows) + [None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(band),
        "x": x,
        "y": y,
        "text": text,
        "customdata": leads,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 1.2},
        "opacity": 0.8 if len(account.scored) <= MANY else 0.35,
    }


def _layout(rows: Sequence[Axis]) -> dict[str, Any]:
    lines = [
        {
            "type": "line",
            "x0": 0,
            "x1": 1,
            "y0": number,
            "y1": number,
            "layer": "below",
            "line": {"color": RULE, "width": 1},
        }
        for number in range(len(rows))
    ]
    ticks = [
        {
            "x": place,
            "y": number,
            "text": label(text),
            "showarrow": False,
            "yshift": -11,
            "font": {"size": 11, "color": QUIET},
        }
        for number, row in enumerate(rows)
        for place, text in row.ticks()
    ]
    return {
        "xaxis": {"visible": False, "range": [NONE - 0.05, 1.05]},
        "yaxis": {
            "range": [len(rows) - 0.5, -0.4],
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [label(row.name) for row in rows],
            "tickfont": {"color": INK},
            "showgrid": False,
            "showline": False,
        },
        "shapes": lines,
        "annotations": ticks,
        "hovermode": "closest",
    }
