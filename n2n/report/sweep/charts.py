"""Charts of a sweep's trials: score against cost, learning curves, importance of settings."""

from statistics import median
from typing import Any

from n2n.report.bars import Bar, Bars
from n2n.report.blocks import Cell, Table
from n2n.report.charts import INK, Chart, axis, finite, label
from n2n.report.sweep.account import Account
from n2n.report.sweep.coordinates import BAND_COLOURS
from n2n.sweep import Trial

__all__ = ["cost", "curves", "front", "importance_bars"]

MANY = 100  # trials


def cost(account: Account) -> Chart:
    """The best score of each trial against the seconds that it trained."""
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(band),
            "x": [account.seconds(trial) for trial in trials],
            "y": finite([account.shown(trial.score) for trial in trials]),
            "text": [label(f"trial {trial.number}, {trial.epochs} epochs") for trial in trials],
            "customdata": [f"trial-{trial.number}" for trial in trials],
            "hovertemplate": f"%{{text}}: {_form(account)}, %{{x:.1f}} s<extra></extra>",
            "marker": {"color": BAND_COLOURS[number], "size": 8},
        }
        for number, (band, trials) in enumerate(account.bands)
    ]
    best = front(account)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "none is better in less time",
            "x": [account.seconds(trial) for trial in best],
            "y": finite([account.shown(trial.score) for trial in best]),
            "line": {"color": INK, "width": 1, "shape": "hv"},
            "hoverinfo": "skip",
        }
    )
    rows: list[list[Cell]] = [
        [trial.number, round(account.seconds(trial), 1), account.number(trial.score)]
        for trial in best
    ]
    return Chart(
        f"{account.metric_name} against seconds of training",
        traces,
        Table("Trials to which none is better in less time", ["trial", "seconds", "score"], rows),
        {
            "xaxis": axis("seconds of training and validation"),
            "yaxis": axis(account.metric_axis),
            "hovermode": "closest",
        },
        "Trials that ran beside others took longer than they would have alone.",
        height=380,
    )


def front(account: Account) -> list[Trial]:
    """Trials to which no other is better in less time, the quickest first."""
    found: list[Trial] = []
    for trial in sorted(account.scored, key=account.seconds):
        if not found or (trial.score or 0.0) > (found[-1].score or 0.0):
            found.append(trial)
    return found


def curves(account: Account) -> Chart:
    """The score of every epoch of every trial."""
    traces = [
        _curves(account, band, trials, BAND_COLOURS[number])
        for number, (band, trials) in enumerate(account.bands)
    ]
    reached: dict[int, list[float]] = {}
    for trial in account.scored:
        for epoch, value in account.curve(trial):
            reached.setdefault(epoch, []).append(value or 0.0)
    best = min if account.metric == "loss" else max
    rows = [
        [epoch, len(values), best(values), median(values)]
        for epoch, values in sorted(reached.items())
    ]
    return Chart(
        f"{account.metric_name} over epochs",
        traces[::-1],
        Table(
            "Of all trials that got so far",
            ["epoch", "trials", "best", "median"],
            [[e, n, f"{b:.4f}", f"{m:.4f}"] for e, n, b, m in rows],
        ),
        {
            "xaxis": axis("epoch"),
            "yaxis": axis(account.metric_axis),
            "hovermode": "closest",
        },
        height=380,
    )


def _curves(account: Account, band: str, trials: list[Trial], colour: str) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    leads: list[str | None] = []
    for trial in trials:
        points = list(account.curve(trial))
        x += [*(epoch for epoch, _ in points), None]
        y += [*finite([value for _, value in points]), None]
        text += [f"trial {trial.number}"] * len(points) + [""]
        leads += [f"trial-{trial.number}"] * len(points) + [None]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(account.scored) <= MANY else "lines",
        "name": label(band),
        "x": x,
        "y": y,
        "text": text,
        "customdata": leads,
        "hovertemplate": f"%{{text}}, epoch %{{x}}: {_form(account)}<extra></extra>",
        "line": {"color": colour, "width": 1.2},
        "marker": {"size": 3},
        "opacity": 0.8,
    }


def _form(account: Account) -> str:
    return "%{y:.6f}" if account.metric == "loss" else "%{y:.2f} dB"


def importance_bars(account: Account) -> Bars:
    """The share of each setting, with what chance alone reaches as a line."""
    bars = [
        Bar(one.name, one.share, f"{one.share:.0%} of {one.trials} trials", one.chance)
        for one in account.importance
    ]
    return Bars("Importance of settings", ("setting", "share of the ranks' variance"), bars)
