"""Pictures: the same crops at every epoch kept (Table I of the paper), the worst and the best."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from n2n.errors import InvalidValue
from n2n.models import Network
from n2n.report.blocks import Absent, Columns
from n2n.report.figures import Figure, drawing
from n2n.report.page import Block, Section
from n2n.report.pictures import Picture, PictureRow, PictureTable, embed
from n2n.report.run.examination import Examination, reference_of
from n2n.report.run.reading import Pixels, Run, rows_of
from n2n.report.run.viewing import GAIN, crop, difference, predict, viewable

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["Examples", "extremes", "section"]

SHOWN = 6
FULL = 10  # pictures beside each other in the paper's table, at most


class Examples:
    """Some images of the split, through the network of every epoch that the run kept.

    columns: names and uint8 (n, C, H, W) each; the clean image, where it is known, is the last
    but for what was removed.
    """

    def __init__(self, run: Run) -> None:
        split = run.split
        if split is None or run.network is None:
            raise InvalidValue(f"a network and its pairs expected: {run.missing()}")
        self.rows = np.linspace(0, split.rows - 1, min(SHOWN, split.rows)).astype(int).tolist()
        found = rows_of(split, self.rows)
        reference = reference_of(split)
        self.reference = found[reference] if reference else None
        self.columns = {"noisy input": found["input"]}
        for snapshot in run.snapshots:
            self.columns[f"epoch {snapshot.epoch}"] = predict(snapshot.network, found["input"])
        best = predict(run.network, found["input"])
        self.columns[name_of_best(run)] = best
        self.columns["target"] = found["target"]
        if reference == "clean":
            self.columns["clean"] = found["clean"]
        self.removed = difference(found["input"], best)

    def table(self) -> PictureTable:
        names = [*self.columns, f"removed ×{GAIN}"]
        rows = []
        for number, row in enumerate(self.rows):
            name = f"image {row + 1}"
            pictures = [
                picture(pixels[number], f"{name}, {column}", self._note(pixels, number))
                for column, pixels in self.columns.items()
            ]
            pictures.append(picture(self.removed[number], f"{name}, input less prediction"))
            rows.append(PictureRow(name, pictures))
        return PictureTable("Input, prediction and target", names, rows, self._legend())

    def draw(self) -> "Drawing":
        """Table I of the paper."""
        columns = [*self.columns.items()][:FULL]
        figure = drawing(1.05 * len(columns), 1.15 * len(self.rows))
        axes = figure.subplots(len(self.rows), len(columns), squeeze=False)
        for row, places in enumerate(axes):
            for (name, pixels), place in zip(columns, places, strict=True):
                place.imshow(viewable(crop(pixels[row])), cmap="gray", vmin=0, vmax=255)
                place.axis("off")
                note = self._note(pixels, row)
                place.set_title(f"{name}\n{note}" if row == 0 else note, fontsize=6.5)
        return figure

    def _note(self, pixels: Pixels, number: int) -> str:
        """PSNR of an image, where the clean one is known."""
        if self.reference is None or pixels is self.reference:
            return ""
        return decibels(pixels[number], self.reference[number])

    def _legend(self) -> str:
        legend = f"The same crops throughout. Removed: input less prediction, ×{GAIN}, around grey."
        return legend + (" Numbers: PSNR in dB." if self.reference is not None else "")


def name_of_best(run: Run) -> str:
    return f"best, epoch {run.best_epoch}" if run.best_epoch is not None else "prediction"


def section(run: Run, examples: Examples | None, examined: Examination | None) -> Section:
    """All pictures of the pairs."""
    blocks: list[Block] = []
    if examples is None or examined is None or run.network is None:
        blocks.append(Absent("No pictures:", f"{run.missing()}; --set names another place of it."))
    else:
        blocks.append(examples.table())
        if not run.snapshots:
            blocks.append(
                Absent(
                    "Only the best epoch:",
                    "the run kept no others; n2n train --snapshots 1,10,25,50 keeps those.",
                )
            )
        blocks += extremes(run.network, examined)
        if run.stream is not None:
            why = (
                "whether these pairs are those that epochs were scored on: the digest of a run "
                "that draws its pairs is of its photographs, too."
            )
            blocks.append(Absent("Not checked:", why))
        if run.pairs is not None and run.pairs.val is None:
            blocks.append(
                Absent("Seen in training:", "the set has no validation pairs; these are its own.")
            )
    blocks += [Absent("A snapshot cannot be read:", reason) for reason in run.damaged]
    lead = "What the network makes of images, from the first epoch kept to the best."
    return Section("pictures", "What it does to images", blocks, lead)


def extremes(network: Network, examined: Examination) -> list[Block]:
    """The images that came out worst, and best."""
    order = examined.ranking()
    count = min(SHOWN, len(order) // 2)
    if not count:
        return []
    how = (
        "estimated from both views, since no clean image is known"
        if examined.is_estimated
        else ("against the clean image")
    )
    part = "all" if examined.is_whole else f"{len(order):,} of {examined.split.rows:,}"
    note = f"Of {part} images of {examined.split.name}, by the squared error {how}."
    tables = [
        _extreme(network, examined, "The worst", order[:count], note),
        _extreme(network, examined, "The best", order[: -count - 1 : -1], note),
    ]
    return [Columns(tables)]


def _extreme(
    network: Network, examined: Examination, caption: str, chosen: Sequence[int], note: str
) -> PictureTable:
    rows = [examined.rows[number] for number in chosen]
    found = rows_of(examined.split, rows)
    predicted = predict(network, found["input"])
    reference = reference_of(examined.split)
    wanted = found[reference or "target"]
    columns = {
        "noisy input": found["input"],
        "prediction": predicted,
        reference or "target": wanted,
        f"error ×{GAIN}" if reference else f"removed ×{GAIN}": difference(
            *((predicted, wanted) if reference else (found["input"], predicted))
        ),
    }
    psnr = examined.psnr
    lines = []
    for place, number in enumerate(chosen):
        name = f"image {rows[place] + 1}"
        value = psnr[number]
        notes = ["", f"{value:.2f} dB" if math.isfinite(value) else "", "", ""]
        pictures = [
            picture(pixels[place], f"{name}, {column}", text)
            for (column, pixels), text in zip(columns.items(), notes, strict=True)
        ]
        lines.append(PictureRow(name, pictures))
    return PictureTable(caption, list(columns), lines, note)


def picture(image: Pixels, alt: str, note: str = "") -> Picture:
    """(C, H, W) in the page, its middle."""
    return embed(viewable(crop(image)), alt, note=note)


def decibels(image: Pixels, reference: Pixels) -> str:
    """PSNR of 8-bit pixels, as text."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return f"{10 * math.log10(255**2 / error):.2f}" if error else "∞"


def figures(examples: Examples | None) -> list[Figure]:
    return [] if examples is None else [Figure("table-1-epochs", examples.draw)]
