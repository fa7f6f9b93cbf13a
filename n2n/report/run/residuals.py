"""What was taken out of the images: is it the noise, or is structure removed with it?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from n2n.data import parse_noise
from n2n.data.noise import Gaussian
from n2n.errors import InvalidValue
from n2n.report.blocks import Absent, Cell, Column, Columns, Table
from n2n.report.charts import COLOURS, Chart, axis, line
from n2n.report.figures import COLOURS as INKS
from n2n.report.figures import Figure, drawing
from n2n.report.page import Block, Section
from n2n.report.run.examination import LAGS, WIDEST, Examination, Floats, Spread
from n2n.report.run.reading import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["figures", "section"]

LEVELS = np.arange(-WIDEST + 0.5, WIDEST)  # of 8 bits
SHOWN = 5.0  # of the histogram, standard deviations of the wider one


def section(run: Run, examined: Examination | None) -> Section:
    """Histogram and autocorrelation of residual and noise."""
    lead = (
        "The residual is the input less the prediction. Of an ideal denoiser it is the noise: as "
        "wide, as white, and unrelated to the image."
    )
    if examined is None:
        absent = Absent("No residuals:", f"{run.missing()}; --set names another place of it.")
        return Section("residuals", "What it removes", [absent], lead)
    blocks: list[Block] = [_numbers(examined), _histogram(run, examined)]
    spreads = [("residual", examined.residual), (noise_name(examined), examined.noise)]
    maps = [_map(name, spread) for name, spread in spreads if spread.sigma > 0]
    if maps:
        blocks.append(Columns(maps))
    else:
        blocks.append(Absent("No autocorrelation:", "nothing was removed."))
    return Section("residuals", "What it removes", blocks, lead)


def figures(run: Run, examined: Examination | None) -> list[Figure]:
    if examined is None:
        return []
    return [Figure("residuals", lambda: _draw(run, examined))]


def noise_name(examined: Examination) -> str:
    if examined.is_estimated:
        return "noise, from the difference of the views"
    return "noise, input less clean image"


def _numbers(examined: Examination) -> Table:
    rows: list[Sequence[Cell]] = []
    for name, spread in (("residual", examined.residual), (noise_name(examined), examined.noise)):
        beside = spread.autocorrelation[LAGS, LAGS + 1]
        below = spread.autocorrelation[LAGS + 1, LAGS]
        numbers = (255 * spread.sigma, 255 * spread.mean, beside, below, spread.follows_image)
        rows.append((name, *(float(number) for number in numbers)))
    columns: list[Column | str] = [
        "of",
        Column("σ, 8-bit levels", "{:.2f}"),
        Column("mean, 8-bit levels", "{:+.3f}"),
        Column("correlation, pixel beside", "{:+.3f}"),
        Column("correlation, pixel below", "{:+.3f}"),
        Column("correlation with the prediction", "{:+.3f}"),
    ]
    return Table("Residual and noise in numbers", columns, rows)


def _densities(run: Run, examined: Examination) -> tuple[Floats, list[tuple[str, Floats]]]:
    """Levels, and by name how often each occurs: of residual, noise and, if normal, its model."""
    spreads = (examined.residual, examined.noise)
    reach = max(2.0, SHOWN * 255 * max(spread.sigma for spread in spreads))
    inside = np.abs(LEVELS) <= reach
    found = [
        (name, spread.histogram[inside] / max(1, spread.histogram.sum()))
        for name, spread in zip(("residual", noise_name(examined)), spreads, strict=True)
    ]
    sigma = _sigma(run)
    if sigma is not None:
        levels = LEVELS[inside]
        normal = np.exp(-0.5 * (levels / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        found.append((f"noise model, normal with σ = {sigma:g}", normal))
    return LEVELS[inside], found


def _sigma(run: Run) -> float | None:
    """Of a noise model that is normal with one σ, in 8-bit levels."""
    try:
        model = parse_noise(str(run.split.noise)) if run.split is not None else None
    except InvalidValue:
        return None
    if isinstance(model, Gaussian) and model.low == model.high:
        return model.low
    return None


def _histogram(run: Run, examined: Examination) -> Chart:
    levels, densities = _densities(run, examined)
    traces = [
        line(name, levels.tolist(), values.tolist(), COLOURS[number], form=".4f", mode="lines")
        for number, (name, values) in enumerate(densities)
    ]
    columns: list[Column | str] = ["level", *(Column(name, "{:.5f}") for name, _ in densities)]
    values = [values.tolist() for _, values in densities]
    table = Table(
        "Histogram", columns, list(zip(levels.astype(int).tolist(), *values, strict=True))
    )
    layout = {"xaxis": axis("8-bit levels"), "yaxis": axis("share of all values")}
    note = f"Over {examined.residual.count:,} values of {len(examined.rows):,} images."
    return Chart("Histogram of what was removed", traces, table, layout, note)


def _map(name: str, spread: Spread) -> Chart:
    """Autocorrelation over rows and columns, without the 1 in the middle."""
    values = spread.autocorrelation.copy()
    values[LAGS, LAGS] = np.nan
    lags = list(range(-LAGS, LAGS + 1))
    cells = [[None if np.isnan(cell) else float(cell) for cell in row] for row in values]
    most = float(np.nanmax(np.abs(values), initial=0.0))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": lags,
        "y": lags,
        "z": cells,
        "zmid": 0,
        "zmin": -max(most, 0.05),
        "zmax": max(most, 0.05),
        "colorscale": [[0, COLOURS[1]], [0.5, "var(--tint)"], [1, COLOURS[0]]],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9},
        "hovertemplate": "%{y} rows, %{x} columns: %{z:.3f}<extra></extra>",
    }
    layout = {
        "hovermode": "closest",
        "xaxis": axis("columns apart", constrain="domain", showgrid=False),
        "yaxis": axis("rows apart", scaleanchor="x", constrain="domain", showgrid=False),
    }
    columns: list[Column | str] = ["rows \\ columns", *(Column(str(lag), "{:.3f}") for lag in lags)]
    rows = [(str(lag), *row) for lag, row in zip(lags, cells, strict=True)]
    title = f"Autocorrelation of the {name.partition(',')[0]}"
    return Chart(title, [trace], Table(title, columns, rows), layout, height=340)


def _draw(run: Run, examined: Examination) -> "Drawing":
    figure = drawing(7.2, 2.9)
    left, right = figure.subplots(1, 2)
    levels, densities = _densities(run, examined)
    for number, (name, values) in enumerate(densities):
        left.plot(levels, values, color=INKS[number], linewidth=1.2, label=name)
    left.set(xlabel="8-bit levels", ylabel="share of all values")
    left.legend(fontsize=6.5)
    for number, spread in enumerate((examined.residual, examined.noise)):
        if spread.sigma > 0:
            beside = spread.autocorrelation[LAGS, LAGS:]
            right.plot(range(LAGS + 1), beside, "o-", color=INKS[number], markersize=3)
    right.axhline(0, color="black", linewidth=0.6)
    right.set(xlabel="columns apart", ylabel="autocorrelation")
    return figure
