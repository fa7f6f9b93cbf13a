"""How far the outputs' brightness lies from the inputs'."""

import numpy as np

from n2n.batch.account import Entry
from n2n.report.bars import Bar, Bars
from n2n.report.blocks import Table
from n2n.report.page import Section

__all__ = ["FLAGGED", "drift_section"]

FLAGGED = 0.01  # of the range of values, from where on it is seen
BINS = 15
LARGEST = 10


def drift_section(done: list[Entry]) -> Section:
    """Of outputs of which at least one has a drift."""
    known = [(entry.drift, entry) for entry in done if entry.drift is not None]
    drifts = 100 * np.array([drift for drift, _ in known])
    lead = (
        "The mean of an output less that of its input, in percent of the range of values; of "
        "several pages, the one that drifted furthest. Noise of zero mean has none: a drift is the "
        "model's, or comes of noise that was cut off at black or white. --keep-mean corrects it."
    )
    largest = sorted(known, key=lambda one: -abs(one[0]))[:LARGEST]
    rows = [(entry.output, f"{100 * drift:+.3f} %") for drift, entry in largest]
    bars = [] if drifts.min() == drifts.max() else [_histogram(drifts)]
    blocks = [*bars, Table("The largest", ["output", "drift"], rows)]
    return Section("drift", "Drift of brightness", blocks, lead)


def _histogram(drifts: np.ndarray) -> Bars:
    counts, edges = np.histogram(drifts, BINS)
    most = counts.max()
    digits = max(0, 2 - int(np.floor(np.log10(edges[1] - edges[0]))) - 1)
    bars = [
        Bar(f"{low:+.{digits}f} to {high:+.{digits}f} %", count / most, f"{count:,}")
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
    middle, spread = float(np.median(drifts)), float(drifts.std())
    note = f"Median {middle:+.3f} %, standard deviation {spread:.3f} %."
    return Bars("Files by their drift", ("drift", "files"), bars, note)
