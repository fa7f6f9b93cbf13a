"""The report of a folder that `n2n denoise` made: what it did to the images, and what failed."""

from pathlib import Path
from typing import Any

from n2n.batch import MANIFEST
from n2n.batch.account import Account, Entry, Run, read_account
from n2n.batch.walk import kind_of
from n2n.report import Options, Report
from n2n.report.batch.drift import FLAGGED, drift_section
from n2n.report.batch.images import image_section
from n2n.report.batch.parts import part_section
from n2n.report.blocks import Absent, Cell, Facts, Table
from n2n.report.page import Block, Page, Section

__all__ = ["make"]

NAMED = 1000  # failures


def make(path: Path, options: Options) -> Report:
    """The report of the output folder at `path`. Nothing in it is changed."""
    account = read_account(path / MANIFEST)
    done = [entry for entry in account.entries if entry.state == "done"]
    images = [entry for entry in done if kind_of(entry.output) == "image"]
    parts = [entry for entry in done if kind_of(entry.output) == "part"]
    rest = [entry for entry in account.entries if entry.state != "done"]
    sections = [
        *([image_section(path, account, images, options)] if images or not parts else []),
        *([part_section(path, parts)] if parts else []),
        *([_failures(rest)] if rest else []),
        *([drift_section(done)] if any(entry.drift is not None for entry in done) else []),
        _origin(account, done),
    ]
    return Report(
        Page(
            "Denoised folder",
            path.resolve().name,
            sections,
            _summary(account, rest),
            _highlights(done, rest),
        )
    )


def _summary(account: Account, rest: list[Entry]) -> str:
    inputs = sorted({account.runs[entry.run].input for entry in account.entries if account.runs})
    words = f"Made from {', '.join(inputs)}." if inputs else ""
    if account.runs and account.runs[-1].end is None:
        words += " The last run was stopped, or still goes on: the same command does the rest."
    elif not rest:
        words += " Nothing failed."
    return words.strip()


def _highlights(done: list[Entry], rest: list[Entry]) -> list[tuple[str, str]]:
    failed = sum(entry.state == "failed" for entry in rest)
    found = [(f"{len(done):,}", "files done"), (f"{failed:,}", "failed")]
    if len(rest) > failed:
        found.append((f"{len(rest) - failed:,}", "begun, not finished"))
    drifts = [entry.drift for entry in done if entry.drift is not None]
    if drifts:
        found.append((f"{100 * max(drifts, key=abs):+.2f} %", "largest drift of a mean"))
        flagged = sum(abs(drift) >= FLAGGED for drift in drifts)
        found.append((f"{flagged:,}", f"drifted by {100 * FLAGGED:g} % of the range or more"))
    return found


def _failures(rest: list[Entry]) -> Section:
    rows = [(entry.input, entry.reason or "begun, and not finished") for entry in rest[:NAMED]]
    blocks: list[Block] = [Table("What was not done, and why", ["input", "reason"], rows)]
    if len(rest) > NAMED:
        blocks.append(Absent(f"{len(rest) - NAMED:,} more", f"are named in {MANIFEST}."))
    return Section("failures", "Failures", blocks)


def _origin(account: Account, done: list[Entry]) -> Section:
    """How the outputs were made."""
    megapixels = sum(entry.pixels for entry in done) / 1e6
    seconds = sum(entry.seconds for entry in done)
    facts: list[tuple[str, Cell]] = [
        ("megapixels", round(megapixels, 2)),
        ("seconds of work, of all workers", round(seconds, 1)),
        ("megapixels a second and worker", round(megapixels / seconds, 3) if seconds else None),
        ("megabytes in", round(sum(entry.size or 0 for entry in done) / 1e6, 2)),
        ("megabytes out", round(sum(entry.output_size or 0 for entry in done) / 1e6, 2)),
    ]
    blocks: list[Block] = [Facts(facts)]
    if account.runs:
        blocks.append(Facts(_settings(account.runs[-1])))
        names = ["started", "version", "input", "files", "done", "skipped", "failed", "seconds"]
        rows = [_run_row(run) for run in account.runs]
        blocks.append(Table("Every run into this folder", names, rows))
    return Section("made", "How it was made", blocks)


def _settings(run: Run) -> list[tuple[str, Cell]]:
    """Of the last run."""
    shown: dict[str, Any] = {"model (sha256)": None, **run.header.get("settings", {})}
    shown["model (sha256)"] = shown.pop("model", None)
    return [(name.replace("_", " "), _cell(value)) for name, value in shown.items()]


def _cell(value: Any) -> Cell:
    if isinstance(value, list | tuple):
        return " to ".join(str(one) for one in value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _run_row(run: Run) -> list[Cell]:
    header, end = run.header, run.end or {}
    names = ("started", "version", "input", "files")
    counts = ("done", "skipped", "failed", "seconds")
    return [_cell(header.get(name)) for name in names] + [_cell(end.get(name)) for name in counts]
