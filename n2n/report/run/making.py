"""How a run was made: its settings, its set, its parts, the machine, the command to repeat it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from n2n.config import PRESETS
from n2n.report.blocks import Absent, Cell, Column, Columns, Command, Table
from n2n.report.page import Block, Section
from n2n.report.run.reading import Part, Run
from n2n.sweep.winner import options_of

__all__ = ["seconds", "section"]

GIB = 1 << 30


def section(run: Run) -> Section:
    """Everything that the result rests on."""
    blocks: list[Block] = [*_command(run)]
    if run.parts:
        blocks += [Columns([_settings(run), _ground(run.parts)]), _parts(run.parts)]
    else:
        blocks.append(_settings(run))
        blocks.append(Absent("No provenance:", "the run has no provenance.jsonl."))
    lead = "Every setting, the data by its digest, the code, the machine, and how to do it again."
    return Section("making", "How it was made", blocks, lead)


def _command(run: Run) -> Sequence[Block]:
    settings = dict(run.settings)
    if settings.get("preset") not in PRESETS:
        reason = f"this n2n has no preset {settings.get('preset')!r}."
        return [Absent("No command to repeat it:", reason)]
    words = ["n2n", "train", str(settings.get("set")), "--run", f"{run.path}-again"]
    text = shlex.join([*words, *options_of(settings)])
    return [Command("To train it again, to the same bits on the same kind of machine:", text)]


def _settings(run: Run) -> Table:
    rows = [(name, _text(value)) for name, value in run.settings.items()]
    return Table("Settings, as config.yaml has them", ["setting", "value"], rows)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "—"
    return json.dumps(value, default=str)


def _parts(parts: Sequence[Part]) -> Table:
    rows: list[Sequence[Cell]] = []
    for number, part in enumerate(parts, start=1):
        end = part.end or {}
        position = part.begin.get("position") or {}
        where = f"epoch {position.get('epoch', 0) + 1}, batch {position.get('batch', 0) + 1}"
        rows.append(
            (
                number,
                str(part.begin.get("time", ""))[:19].replace("T", " "),
                where,
                end.get("seconds"),
                part.outcome,
                str(end.get("reason") or "—"),
                part.begin.get("workers"),
            )
        )
    columns: list[Column | str] = [
        "part",
        "began (UTC)",
        "at",
        Column("seconds", "{:,.1f}"),
        "outcome",
        "reason",
        "workers",
    ]
    return Table("Parts: it begins anew whenever it is resumed", columns, rows)


def _ground(parts: Sequence[Part]) -> Table:
    """Data, code and machine of the last part."""
    begin = parts[-1].begin
    found: Mapping[str, Any] = begin.get("set") or {}
    code: Mapping[str, Any] = begin.get("code") or {}
    hardware: Mapping[str, Any] = begin.get("hardware") or {}
    rows = [(f"{name} pairs", count) for name, count in (found.get("rows") or {}).items()]
    facts: list[tuple[str, Cell]] = [
        ("pair set", str(found.get("path"))),
        ("digest of the set", str(found.get("digest"))),
        *rows,
        *_stream(found.get("stream")),
        ("seed", (begin.get("settings") or {}).get("seed")),
        ("n2n", str(code.get("version"))),
        ("commit", _commit(code)),
        ("digest of its sources", str(code.get("sources"))),
        *(
            (name, str(value))
            for name, value in (begin.get("versions") or {}).items()
            if name != "n2n"
        ),
        *_machine(hardware),
    ]
    return Table("What it rests on, of the last part", ["fact", "value"], facts)


def _stream(stream: Mapping[str, Any] | None) -> list[tuple[str, Cell]]:
    """Of training pairs that are drawn from photographs as they are needed."""
    if stream is None:
        return []
    return [
        ("photographs drawn from", str(stream.get("folder"))),
        ("their number", len(stream.get("photographs") or ())),
        ("noise drawn", str(stream.get("noise"))),
    ]


def _commit(code: Mapping[str, Any]) -> str:
    if not code.get("commit"):
        return "none: not a git checkout"
    return f"{code['commit']}{', with changes' if code.get('changed') else ''}"


def _machine(hardware: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    facts: list[tuple[str, Cell]] = [
        (name, hardware.get(key))
        for name, key in (
            ("host", "host"),
            ("system", "system"),
            ("processor", "cpu"),
            ("cores", "cores"),
        )
    ]
    for name, key in (("memory", "memory"), ("memory limit", "memory_limit")):
        if hardware.get(key):
            facts.append((name, f"{hardware[key] / GIB:.1f} GiB"))
    gpu = hardware.get("gpu")
    facts.append(("GPU", str(gpu["name"]) if gpu else "none"))
    return facts


def seconds(run: Run) -> float:
    """Spent on training and validation, over all epochs done."""
    return sum(
        float(line.get("seconds", 0)) + float(line.get("validation_seconds", 0))
        for line in run.metrics
    )
