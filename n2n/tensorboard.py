"""Event files for TensorBoard: every epoch's numbers, through tensorboardX.

RUN/tensorboard/events.out.tfevents.…         train_loss, lr, val/psnr, … by epoch
SWEEP/tensorboard/0003/events.out.tfevents.…  the same of each trial, and its settings (HParams)

metrics.jsonl is the truth: when a run or a trial goes on, its file is written anew from it.
tensorboardX's EventsWriter writes here and now; its SummaryWriter does so in a thread that dies
when the disk is full, after which whoever adds a number waits for ever.
"""

import time
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from n2n.sweep import Event, Sample, SweepDirectory
from n2n.sweep.trials import read_metrics

__all__ = ["EventFile", "RunEvents", "TrialEvents"]

FILES = "events.out.tfevents.*"


class EventFile:
    """The one event file of a folder; what earlier ones there hold is replaced. OSError passes."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(FILES):
            left.unlink()
        self._writer = EventsWriter(str(folder / "events"))
        # A TensorBoard that watches forgets what it has read of the earlier file.
        self._write(0, session_log=SessionLog(status=SessionLog.START))

    def add_epochs(self, *lines: dict[str, Any]) -> None:
        """Add lines of metrics.jsonl; they are in the file when this returns."""
        from tensorboardX.summary import scalar

        for line in lines:
            for name, value in scalars(line):
                self._write(line["epoch"], summary=scalar(name, value))
        self._writer.flush()

    def add_settings(self, settings: Sample, name: str) -> None:
        """Add a trial's settings for the tab HParams, beside the scores of that name."""
        from tensorboardX.summary import hparams

        experiment, start, _ = hparams(settings, {name: 0.0})
        for summary in (experiment, start):
            self._write(0, summary=summary)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event as Entry

        self._writer.write_event(Entry(wall_time=time.time(), step=step, **content))


class RunEvents:
    """Hears of a run's epochs (`hear`), and keeps its event file, with those before it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._file: EventFile | None = None

    def hear(self, line: dict[str, Any]) -> None:
        """Take in an epoch's line of metrics. OSError passes."""
        if self._file is None:
            self._file = EventFile(self._run / "tensorboard")
            before = (one for one in read_metrics(self._run) if one["epoch"] < line["epoch"])
            self._file.add_epochs(*before)
        self._file.add_epochs(line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class TrialEvents:
    """Hears of a sweep's news (`hear`), and keeps an event file for each trial."""

    def __init__(self, directory: SweepDirectory) -> None:
        self._directory = directory
        metric = directory.read_settings()["config"]["metric"]
        self._score = f"val/{metric.replace('-', '_')}"
        self._open: dict[int, EventFile] = {}
        for trial in directory.trials():
            if trial.finished:
                self._begin(trial.number, trial.settings, trial.lines).close()

    def hear(self, event: Event) -> None:
        """Take in what happened. OSError passes."""
        number = event.trial
        if number is None:
            return
        if event.kind == "begun":  # also with the weights and the history of another trial
            lines = read_metrics(self._directory.trial_path(number))
            self._end(number)
            self._open[number] = self._begin(number, event.settings or {}, lines)
        elif event.kind == "epoch" and event.line is not None and number in self._open:
            self._open[number].add_epochs(event.line)
        elif event.kind in ("done", "stopped", "failed"):
            self._end(number)

    def close(self) -> None:
        """Close all files."""
        for number in list(self._open):
            self._end(number)

    def _begin(self, number: int, settings: Sample, lines: list[dict[str, Any]]) -> EventFile:
        file = EventFile(self._directory.path / "tensorboard" / f"{number:04d}")
        file.add_settings(settings, self._score)
        file.add_epochs(*lines)
        return file

    def _end(self, number: int) -> None:
        file = self._open.pop(number, None)
        if file is not None:
            file.close()


def scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a line of metrics.jsonl, but for the epoch; those of `val` as val/…"""
    for name, value in line.items():
        inner: Iterable[tuple[str, Any]] = value.items() if isinstance(value, dict) else ()
        yield from ((f"{name}/{key}", float(number)) for key, number in inner if _is_number(number))
        if _is_number(value) and name != "epoch":
            yield name, float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
