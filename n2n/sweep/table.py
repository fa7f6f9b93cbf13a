"""trials.parquet: a row for every epoch of every trial, with all its settings and scores.

trial, epoch; state and reason, of the trial; score, by the sweep's metric. A column for every
setting of `n2n train`, width, depth, hidden and blocks among them (null where the architecture has
none). lr_last: the learning rate of the epoch's last step; train_loss, seconds and what else
metrics.jsonl says; val_psnr, val_loss, …: its scores on the validation pairs.

Where trials take over each other's weights: origin, the trial in which the epoch was trained, whose
settings the row has; kept, false for an epoch whose weights another trial's took the place of.
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from n2n.config import TrainConfig
from n2n.files import replacing
from n2n.run import RunDirectory
from n2n.sweep.names import ARCHITECTURE, train_settings
from n2n.sweep.settings import score
from n2n.sweep.space import Sample
from n2n.sweep.trials import Trial

__all__ = ["epoch_rows", "write_table"]

TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
SETTINGS = {
    item.name: TYPES[type(getattr(TrainConfig(), item.name))]
    for item in fields(TrainConfig)
    if item.name != "model_config"
} | {"seed": pa.uint64(), **{name: pa.int64() for name in ARCHITECTURE}}
FIRST = {
    "trial": pa.int32(),
    "epoch": pa.int32(),
    "origin": pa.int32(),
    "kept": pa.bool_(),
    "state": pa.string(),
    "reason": pa.string(),
    "score": pa.float64(),
}


def write_table(path: Path, rows: list[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Write rows as one Parquet file; `metadata` goes into the schema's as JSON, under `n2n`."""
    names = list(dict.fromkeys([*FIRST, *SETTINGS, *(name for row in rows for name in row)]))
    kinds = {name: pa.float64() for name in names} | FIRST | SETTINGS | {"val_images": pa.int64()}
    schema = pa.schema(
        [(name, kinds[name]) for name in names], metadata={"n2n": json.dumps(metadata)}
    )
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def epoch_rows(
    trials: list[Trial], log: list[dict[str, Any]], runs: dict[int, Path], metric: str
) -> Iterator[dict[str, Any]]:
    """The rows of the table. runs: where each trial's run directory is."""
    history = History(log)
    for trial in trials:
        run = RunDirectory(runs[trial.number]).read_settings()
        for line, before, kept in history.lines(trial):
            origin, sample = history.origin(trial.number, line["epoch"], before)
            if kept or origin == trial.number:  # else it is a row of that trial
                yield {
                    "trial": trial.number,
                    "epoch": line["epoch"],
                    "origin": origin,
                    "kept": kept,
                    "state": trial.state,
                    "reason": trial.reason,
                    "score": score(line, metric),
                    **settings_columns(run, sample),
                    **metric_columns(line),
                }


class History:
    """Which trial, with which settings, an epoch was trained in."""

    def __init__(self, log: list[dict[str, Any]]) -> None:
        self._changes: dict[int, list[tuple[int, dict[str, Any]]]] = {}  # place in the log, record
        for place, record in enumerate(log):
            if "settings" in record:
                self._changes.setdefault(record["trial"], []).append((place, record))
        self._end = len(log)

    def lines(self, trial: Trial) -> Iterator[tuple[dict[str, Any], int, bool]]:
        """All lines of metrics that a trial ever had: each with the place in the log up to which
        it holds, and whether it is one of those that the model comes from."""
        for place, record in self._changes.get(trial.number, ()):
            for line in record.get("replaced", ()):
                yield line, place, False
        for line in trial.lines:
            yield line, self._end, True

    def origin(self, trial: int, epoch: int, before: int) -> tuple[int, Sample]:
        """The trial that trained an epoch (from 1) of a trial's history as it was at a place of
        the log, and its settings then."""
        for place, record in reversed(self._changes.get(trial, [])):
            if place >= before:
                continue
            if epoch > record.get("since", 0):
                return trial, record["settings"]
            if "donor" in record:
                return self.origin(record["donor"], epoch, place)
        return trial, {}


def settings_columns(run: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """Of a run's config.yaml, with the sample that held then."""
    now = train_settings(sample)
    settings = {**run, **{name: now[name] for name in now if name != "model_config"}}
    architecture = {**run.get("model_config", {}), **now.get("model_config", {})}
    return {name: settings.get(name, architecture.get(name)) for name in SETTINGS}


def metric_columns(line: dict[str, Any]) -> dict[str, Any]:
    """Of a line of metrics.jsonl."""
    found = {"lr_last": line.get("lr")}
    for name, value in line.items():
        if isinstance(value, dict):
            found |= {f"{name}_{key}": number for key, number in value.items()}
        elif name not in ("epoch", "lr"):
            found[name] = value
    return {name: value for name, value in found.items() if not isinstance(value, str)}
