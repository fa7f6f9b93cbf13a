"""Event files, read back by TensorBoard's own reader."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from n2n.sweep import Event, Space, SweepConfig, SweepDirectory
from n2n.tensorboard import EventFile, TrialEvents

LINES = [
    {
        "epoch": epoch,
        "lr": 0.5 / epoch,
        "train_loss": 1.0 / epoch,
        "val": {"loss": 2.0 / epoch, "psnr": 20.0 + epoch, "ssim": None, "images": 7},
        "resumed": True,
        "device": "cpu",
        "never": float("inf"),
    }
    for epoch in (1, 2, 3)
]


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, number) pairs of every name."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, round(event.value, 5)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_numbers_by_epoch(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "a")
    file.add_epochs(*LINES[:2])
    assert read(tmp_path / "a")["lr"] == [(1, 0.5), (2, 0.25)]  # while it is written
    file.add_epochs(LINES[2])
    file.close()
    assert read(tmp_path / "a") == {
        "lr": [(1, 0.5), (2, 0.25), (3, 0.16667)],
        "train_loss": [(1, 1.0), (2, 0.5), (3, 0.33333)],
        "val/loss": [(1, 2.0), (2, 1.0), (3, 0.66667)],
        "val/psnr": [(1, 21.0), (2, 22.0), (3, 23.0)],
        "val/images": [(1, 7.0), (2, 7.0), (3, 7.0)],
    }


def test_a_file_that_is_begun_again_says_each_epoch_once(tmp_path: Path) -> None:
    for lines in (LINES[:2], [*LINES[:1], {"epoch": 2, "lr": 9.0}]):
        file = EventFile(tmp_path)
        file.add_epochs(*lines)
        file.close()
    assert read(tmp_path)["lr"] == [(1, 0.5), (2, 9.0)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def sweep(make_set: Callable[..., Any], tmp_path: Path) -> SweepDirectory:
    directory = SweepDirectory(tmp_path / "sweep")
    space = Space.of({"model": "seed", "lr": {"uniform": [0, 1]}})
    directory.begin(SweepConfig(trials=2, metric="psnr"), space, make_set())
    return directory


def record(directory: SweepDirectory, trial: int, lines: list[dict[str, Any]]) -> None:
    """As the trial's process does."""
    path = directory.trial_path(trial) / "metrics.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_file_for_each_trial(sweep: SweepDirectory) -> None:
    sweep.add(0, "begun", settings={"lr": 0.5})
    record(sweep, 0, LINES[:2])
    sweep.add(0, "done")
    folder = sweep.path / "tensorboard"
    events = TrialEvents(sweep)
    assert read(folder / "0000")["val/psnr"] == [(1, 21.0), (2, 22.0)]
    events.hear(Event("note", reason="the set is large"))
    events.hear(Event("begun", 1, settings={"lr": 0.25, "flips": True, "model": "seed"}))
    events.hear(Event("progress", 1, progress=0.5))
    events.hear(Event("epoch", 1, line=LINES[0]))
    assert read(folder / "0001")["val/psnr"] == [(1, 21.0)]
    record(sweep, 1, LINES[:2])  # of another trial, which it takes over
    events.hear(Event("begun", 1, settings={"lr": 0.125, "flips": True, "model": "seed"}))
    events.hear(Event("epoch", 1, line=LINES[2]))
    events.hear(Event("failed", 1, reason="the loss is nan"))
    events.close()
    assert read(folder / "0001")["val/psnr"] == [(1, 21.0), (2, 22.0), (3, 23.0)]


def test_the_settings_of_a_trial(sweep: SweepDirectory) -> None:
    """As TensorBoard's plugin for them reads them."""
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    events = TrialEvents(sweep)
    events.hear(Event("begun", 0, settings={"lr": 0.25, "flips": True, "model": "seed"}))
    events.close()
    (path,) = (sweep.path / "tensorboard" / "0000").iterdir()
    found = {
        value.tag: value.metadata.plugin_data.content
        for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["lr"].number_value == 0.25
    assert start.hparams["flips"].bool_value is True
    assert start.hparams["model"].string_value == "seed"
    experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG])
    assert [info.name.tag for info in experiment.metric_infos] == ["val/psnr"]
