"""What was learned over the epochs: PSNR (Figure 2 of the paper), MSE (Figure 3), learning rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from n2n.metrics import psnr_of_mse
from n2n.report.blocks import Absent, Column, Columns, Table
from n2n.report.charts import COLOURS, QUIET, Chart, axis, finite, line
from n2n.report.figures import COLOURS as INKS
from n2n.report.figures import Figure, drawing
from n2n.report.page import Block, Section
from n2n.report.run.reading import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["figures", "section"]

Line = Mapping[str, Any]
TRAINING, AGAINST_TARGET = "training, against its target", "validation, against its target"


@dataclass(frozen=True)
class Series:
    """A number of every epoch; ink: of its colour, by number."""

    name: str
    values: Sequence[float | None]
    ink: int
    is_dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """Series over the epochs, as the page and the paper show them."""

    title: str
    unit: str
    epochs: Sequence[int]
    series: Sequence[Series]
    form: str  # of a value, as str.format has it
    resumed: Sequence[float]
    is_logarithmic: bool = False
    note: str = ""

    def block(self) -> Block:
        """A chart, or of one epoch a table."""
        columns: list[Column | str] = [
            "epoch",
            *(Column(item.name, f"{{:{self.form}}}") for item in self.series),
        ]
        values = [finite(item.values) for item in self.series]
        table = Table(self.title, columns, list(zip(self.epochs, *values, strict=True)))
        if len(self.epochs) < 2:
            return table
        traces = [
            line(item.name, self.epochs, item.values, COLOURS[item.ink], form=self.form, **dashes)
            for item in self.series
            for dashes in [{"mode": "lines", "line": {"dash": "dot"}} if item.is_dashed else {}]
        ]
        y = axis(self.unit, type="log", tickformat="~g") if self.is_logarithmic else axis(self.unit)
        x = axis("epoch", tickformat="d", **({"dtick": 1} if len(self.epochs) <= 12 else {}))
        layout = {"xaxis": x, "yaxis": y, "shapes": [_mark(at) for at in self.resumed]}
        return Chart(self.title, traces, table, layout, self.note, height=360)

    def draw(self) -> "Drawing":
        """For a paper."""
        figure = drawing(5.2, 3.4)
        axes = figure.add_subplot()
        for item in self.series:
            style = ":" if item.is_dashed else "-"
            marker = "o" if len(self.epochs) <= 12 and not item.is_dashed else ""
            values = [float("nan") if value is None else value for value in finite(item.values)]
            axes.plot(
                self.epochs,
                values,
                style,
                color=INKS[item.ink],
                marker=marker,
                markersize=3,
                label=item.name,
            )
        for at in self.resumed:
            axes.axvline(at, color=INKS[5], linewidth=0.8, linestyle=":")
        if self.is_logarithmic:
            axes.set_yscale("log")
        axes.set(xlabel="epoch", ylabel=self.unit)
        axes.legend(fontsize=7.5)
        return figure


def plots(run: Run) -> dict[str, Plot]:
    """By the name of their figure's file; those without any value are left out."""
    resumed = [0.5 + part.epoch for part in run.parts if part.epoch]
    note = "Dotted upright lines: where the run was resumed." if resumed else ""
    epochs = [int(item["epoch"]) for item in run.metrics]
    found = {
        "figure-2-psnr": Plot(
            "PSNR over epochs", "PSNR [dB]", epochs, _psnr(run), ".2f", resumed, note=note
        ),
        "figure-3-mse": Plot(
            "Mean squared error over epochs",
            "mean squared error, black 0, white 1",
            epochs,
            _errors(run),
            ".6f",
            resumed,
            is_logarithmic=True,
            note=note,
        ),
        "learning-rate": Plot(
            "Learning rate", "at the end of the epoch", epochs, _rates(run), ".3g", resumed
        ),
        "speed": Plot("Speed", "training images a second", epochs, _speeds(run), ".0f", resumed),
    }
    return {name: plot for name, plot in found.items() if plot.series}


def section(run: Run) -> Section:
    """Learning curves, or, of a run of one epoch, tables."""
    lead = (
        "Scores after every epoch. The estimated PSNR is the one against clean images, worked out "
        "from the two noisy views alone; it needs no clean image."
    )
    found = plots(run)
    blocks: list[Block] = []
    if not run.metrics:
        blocks.append(Absent("No curves:", "no epoch was finished when this page was made."))
    elif len(run.metrics) == 1:
        blocks.append(Absent("No curves:", "one epoch was finished; these are its numbers."))
    blocks += [plot.block() for name, plot in found.items() if name.startswith("figure")]
    small = [plot.block() for name, plot in found.items() if not name.startswith("figure")]
    blocks += [Columns(small)] if small else []
    if run.metrics and not any(item.get("val") for item in run.metrics):
        blocks.append(
            Absent("No validation scores:", "the set has no validation pairs to score epochs on.")
        )
    elif run.metrics and not _column(run, lambda item: _val(item, "psnr")):
        blocks.append(
            Absent(
                "No PSNR against clean images:",
                "the set has none. The estimate from noisy pairs stands in for it.",
            )
        )
    return Section("learning", "What it learned", blocks, lead)


def figures(run: Run) -> list[Figure]:
    """Figures 2 and 3; none of a run of one epoch, which has no curves."""
    if len(run.metrics) < 2:
        return []
    return [
        Figure(name, plot.draw) for name, plot in plots(run).items() if name.startswith("figure")
    ]


def _psnr(run: Run) -> list[Series]:
    def of_loss(item: Line) -> float | None:
        return _db(item.get("train_loss")) if _is_squared(run) else None

    return _present(
        run,
        ("validation, mean against the clean images", lambda item: _val(item, "psnr"), 0, False),
        (
            "validation, pooled, estimated from noisy pairs",
            lambda item: _val(item, "estimated_psnr"),
            1,
            False,
        ),
        (
            "validation, pooled, against the clean images",
            lambda item: _val(item, "psnr_pooled"),
            0,
            True,
        ),
        ("noisy input, against the clean images", lambda item: _val(item, "input_psnr"), 5, True),
        (AGAINST_TARGET, lambda item: _db(_val(item, "loss")), 2, False),
        (TRAINING, of_loss, 3, False),
    )


def _errors(run: Run) -> list[Series]:
    name = TRAINING if _is_squared(run) else f"training loss ({run.settings.get('loss')})"
    return _present(
        run,
        ("validation, against the clean images", lambda item: _val(item, "mse"), 0, False),
        (
            "validation, estimated from noisy pairs",
            lambda item: _positive(_val(item, "estimated_mse")),
            1,
            False,
        ),
        (AGAINST_TARGET, lambda item: _val(item, "loss"), 2, False),
        (name, lambda item: _positive(item.get("train_loss")), 3, False),
    )


def _rates(run: Run) -> list[Series]:
    return _present(run, ("learning rate", lambda item: item.get("lr"), 4, False))


def _speeds(run: Run) -> list[Series]:
    return _present(run, ("images a second", lambda item: item.get("images_per_second"), 5, False))


def _present(
    run: Run, *wanted: tuple[str, Callable[[Line], float | None], int, bool]
) -> list[Series]:
    """Those that have a value at all."""
    found = [(name, _column(run, read), ink, dash) for name, read, ink, dash in wanted]
    return [Series(name, values, ink, dash) for name, values, ink, dash in found if values]


def _column(run: Run, read: Callable[[Line], float | None]) -> list[float | None]:
    """A number of every epoch; an empty list where no epoch has it."""
    values = [read(item) for item in run.metrics]
    return values if any(value is not None for value in values) else []


def _val(item: Line, name: str) -> float | None:
    value = (item.get("val") or {}).get(name)
    return None if value is None else float(value)


def _db(error: float | None) -> float | None:
    return None if error is None or error <= 0 else psnr_of_mse(error)


def _positive(value: float | None) -> float | None:
    """For a logarithmic axis."""
    return value if value is not None and value > 0 else None


def _is_squared(run: Run) -> bool:
    return bool(run.settings.get("loss", "mse") == "mse")


def _mark(epoch: float) -> dict[str, Any]:
    """An upright line."""
    return {
        "type": "line",
        "x0": epoch,
        "x1": epoch,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": QUIET, "width": 1, "dash": "dot"},
    }
