"""What is told of a trial while it trains; a directory that notes what it is given stands in."""

from types import SimpleNamespace
from typing import Any

from jobs.trials.recorder import Recorder
from n2n.sweep import Event


def test_how_far_an_epoch_is_and_each_epoch_once() -> None:
    added: list[tuple[int, str]] = []
    events: list[Event] = []
    directory: Any = SimpleNamespace(
        add=lambda number, state, **more: added.append((number, state))
    )
    recorder = Recorder(directory, {3: {"lr": 1.0}}, set(), events.append)
    recorder.begun(3)
    recorder.heard({"number": 3, "epoch": 0, "progress": 0.25})
    line = {"epoch": 1, "val": {}}
    for _ in range(2):  # replayed, for a scheduler that is new
        recorder.heard({"number": 3, "epoch": 1, "line": line})
    recorder.heard({"number": 3, "epoch": 1, "outcome": "done"})
    assert events == [
        Event("begun", 3, settings={"lr": 1.0}),
        Event("progress", 3, progress=0.25),
        Event("epoch", 3, line=line),
        Event("done", 3),
    ]
    assert added == [(3, "begun"), (3, "done")]
