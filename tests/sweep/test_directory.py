"""A sweep's directory: what it holds and refuses, its table, its best run, the way to it."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.numpy import load_file

from jobs.train import main as train
from n2n.checkpoint import load_model
from n2n.data import PairSet
from n2n.errors import InvalidValue, RunConflict
from n2n.evaluation import evaluate
from n2n.sweep import Space, SweepConfig, SweepDirectory, Trial
from n2n.sweep.winner import choose
from n2n.trainer import Trainer

SPACE = Space.of(
    {
        "model": ["seed", "unet"],
        "width": {"int": [2, 4]},
        "depth": 1,
        "optimizer": "adamw",
        "lr": {"log": [0.001, 0.02]},
        "schedule": ["constant", "cosine"],
        "flips": [True, False],
    }
)
CONFIG = SweepConfig(trials=3, max_epochs=2, metric="psnr")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def run_all(pairs: PairSet, config: SweepConfig = CONFIG, space: Space = SPACE) -> SweepDirectory:
    """A sweep without Ray: one trial after another."""
    directory = SweepDirectory(Path("sweep"))
    with directory.locked():
        directory.begin(config, space, pairs)
        for number, sample in enumerate(config.samples(space)):
            directory.add(number, "begun", settings=sample)
            settings = config.settings_of(sample, pairs)
            Trainer(settings, pairs, directory.trial_path(number)).train()
            directory.add(number, "done")
    return directory


def refused(config: SweepConfig, space: Space, pairs: PairSet) -> str:
    with pytest.raises(RunConflict) as caught:
        SweepDirectory(Path("sweep")).check(config, space, pairs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_it_holds(make_set: Callable) -> None:
    pairs = make_set()
    directory = run_all(pairs)
    winner = directory.finish()
    names = {str(path.relative_to("sweep")) for path in Path("sweep").rglob("*")}
    tops = {"sweep.yaml", "trials", "trials.jsonl", "trials.parquet", "best"}
    assert {name.partition("/")[0] for name in names} == tops
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".tmp"))]
    assert {name for name in names if name.startswith("trials/") and name.count("/") == 1} == {
        "trials/0000",
        "trials/0001",
        "trials/0002",
    }
    saved = yaml.safe_load(Path("sweep/sweep.yaml").read_text())
    assert SweepConfig(**saved["config"]) == CONFIG
    assert Space.of(saved["space"]) == SPACE
    assert saved["digest"] == pairs.digest
    lines = [json.loads(line) for line in Path("sweep/trials.jsonl").read_text().splitlines()]
    assert [(line["trial"], line["state"]) for line in lines] == [
        (number, state) for number in range(3) for state in ("begun", "done")
    ]
    assert [line["settings"] for line in lines[::2]] == list(CONFIG.samples(SPACE))
    trials = directory.trials()
    assert [trial.epochs for trial in trials] == [2, 2, 2]
    assert all(trial.finished and not trial.inherits for trial in trials)
    assert winner is not None
    assert winner.trial.score == max(trial.score or 0 for trial in trials)


def test_the_best_run_is_what_its_score_says(make_set: Callable) -> None:
    """The scores of best/model.safetensors are those of the trial, and its files the trial's."""
    pairs = make_set()
    directory = run_all(pairs)
    winner = directory.finish()
    assert winner is not None
    network, metadata = load_model(winner.path / "model.safetensors")
    assert pairs.val is not None
    assert evaluate(network, pairs.val).psnr == pytest.approx(winner.trial.score, rel=1e-12)
    assert metadata["training"]["epochs_done"] == winner.trial.best_epoch
    source = directory.trial_path(winner.trial.number)
    for path in source.rglob("*"):
        if path.is_file():
            assert (winner.path / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert directory.finish() == winner  # again: replaced by an equal one
    assert not list(Path("sweep").glob(".n2n-*"))


def train_again(command: str) -> dict[str, Any]:
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("n2n", "train")
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, result.output
    run = Path(arguments[arguments.index("--run") + 1])
    return {name: value.tobytes() for name, value in load_file(run / "model.safetensors").items()}


@pytest.mark.parametrize("trial", range(3))
def test_its_command_trains_it_again(make_set: Callable, trial: int) -> None:
    """Every trial in turn as the only one: the same weights, bit by bit, and the same settings."""
    pairs = make_set("a set", target="clean" if trial == 1 else "noisy")
    config = replace(CONFIG, seed=trial, cpus_per_trial=1.0)
    directory = run_all(pairs, config)
    kept = Path("sweep/trials.jsonl").read_text().splitlines(keepends=True)
    Path("sweep/trials.jsonl").write_text("".join(kept[2 * trial : 2 * trial + 2]))
    winner = directory.finish()
    assert winner is not None
    assert winner.trial.number == trial
    assert winner.command is not None
    assert winner.note is None
    again = train_again(winner.command)
    best = load_file(winner.path / "model.safetensors")
    assert again == {name: value.tobytes() for name, value in best.items()}
    before, after = (
        yaml.safe_load(Path(run, "config.yaml").read_text())
        for run in (winner.path, "sweep-winner")
    )
    assert {**before, "checkpoint_seconds": 60.0} == after


def test_the_command_of_every_setting(make_set: Callable) -> None:
    """Options are named for all that differs from the preset, whatever the preset was."""
    pairs = make_set("set", rows=12, val=3)
    space = Space.of(
        {
            "preset": "published",
            "model": "n2n",
            "width": 2,
            "hidden": 2,
            "blocks": 1,
            "batch_size": 5,
            "lr": 0.5,
            "momentum": 0.25,
            "weight_decay": 0.125,
            "schedule": "step",
            "decay": 0.5,
            "decay_epochs": 1,
            "loss": "l1",
            "flips": True,
            "turns": True,
            "swap": True,
            "seed": 2**63 + 11,
        }
    )
    config = SweepConfig(trials=1, max_epochs=2, metric="loss", memory_limit=3 * 2**20 + 1)
    winner = run_all(pairs, config, space).finish()
    assert winner is not None
    assert winner.command is not None
    again = train_again(winner.command)
    best = load_file(winner.path / "model.safetensors")
    assert again == {name: value.tobytes() for name, value in best.items()}
    before, after = (
        yaml.safe_load(Path(run, "config.yaml").read_text())
        for run in (winner.path, "sweep-winner")
    )
    assert before == after


def test_the_command_of_a_trial_that_was_stopped(make_set: Callable) -> None:
    """A constant rate: the same epochs. A cosine has an end of its own: all of them, and said."""
    pairs = make_set()
    for schedule in ("constant", "cosine"):
        space = Space.of({"model": "seed", "width": 2, "lr": 2, "schedule": schedule})
        directory = run_all(pairs, SweepConfig(trials=1, max_epochs=3, metric="psnr"), space)
        metrics = directory.trial_path(0) / "metrics.jsonl"
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
        directory.add(0, "stopped")
        winner = directory.finish()
        assert winner is not None
        assert winner.command is not None
        assert winner.note is not None
        assert f"--epochs {3 if schedule == 'cosine' else 2} " in winner.command
        assert "stopped after 2 of 3 epochs" in winner.note
        assert ("trains them all" in winner.note) == (schedule == "cosine")
        Path("sweep").rename(f"sweep-{schedule}")


def test_the_table(make_set: Callable) -> None:
    pairs = make_set()
    directory = run_all(pairs)
    directory.add(1, "failed", reason="diverged")
    directory.finish()
    table = pq.read_table("sweep/trials.parquet")
    rows = table.to_pylist()
    assert [(row["trial"], row["epoch"]) for row in rows] == [
        (trial, epoch) for trial in range(3) for epoch in (1, 2)
    ]
    samples = list(CONFIG.samples(SPACE))
    for row in rows:
        trained = CONFIG.settings_of(samples[row["trial"]], pairs)
        expected = vars(trained) | {"depth": None, "hidden": None, "blocks": None}
        expected |= expected.pop("model_config")
        assert {name: row[name] for name in expected} == expected
        run = directory.trial_path(row["trial"]) / "metrics.jsonl"
        line = json.loads(run.read_text().splitlines()[row["epoch"] - 1])
        assert row["val_psnr"] == row["score"] == line["val"]["psnr"]
        assert row["train_loss"] == line["train_loss"]
        assert row["lr_last"] == line["lr"]
        assert row["kept"]
        assert row["origin"] == row["trial"]
        assert row["state"] == ("failed" if row["trial"] == 1 else "done")
        assert row["reason"] == ("diverged" if row["trial"] == 1 else None)
    assert json.loads(table.schema.metadata[b"n2n"])["digest"] == pairs.digest


def test_the_table_of_trials_that_take_over_others(make_set: Callable) -> None:
    """Each row has the settings that its epoch was trained with, in whichever trial.

    0 trains two epochs at lr 1. 1 trains one at lr 2, then takes over 0 as it was after two, at lr
    3, for a third. 2 trains one at lr 4, and takes over 1 after three, at lr 5, for a fourth.
    """
    directory = SweepDirectory(Path("sweep"))
    directory.begin(CONFIG, SPACE, make_set())

    def lines(*losses: float) -> list[dict[str, Any]]:
        return [
            {"epoch": epoch, "train_loss": loss, "val": {"loss": 3 - loss, "psnr": loss}}
            for epoch, loss in enumerate(losses, 1)
        ]

    def write(trial: int, *losses: float) -> None:
        run = directory.trial_path(trial)
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"lr": 99.0, "model": "seed"}))
        text = "".join(json.dumps(line) + "\n" for line in lines(*losses))
        (run / "metrics.jsonl").write_text(text)

    for trial, rate in ((0, 1.0), (1, 2.0), (2, 4.0)):
        directory.add(trial, "begun", settings={"lr": rate})
    write(0, 0.1, 0.2)
    change = {"since": 2, "donor": 0, "replaced": lines(1.1)}
    directory.add(1, "begun", settings={"lr": 3.0}, **change)
    write(1, 0.1, 0.2, 1.3)
    change = {"since": 3, "donor": 1, "replaced": lines(2.1)}
    directory.add(2, "begun", settings={"lr": 5.0}, **change)
    write(2, 0.1, 0.2, 1.3, 2.4)
    winner = directory.finish()
    assert winner is not None
    assert winner.trial.inherits
    assert winner.command is None
    assert winner.note is not None
    rows = pq.read_table("sweep/trials.parquet").to_pylist()
    found = [
        tuple(row[name] for name in ("trial", "epoch", "origin", "kept", "lr", "train_loss"))
        for row in rows
    ]
    assert found == [
        (0, 1, 0, True, 1.0, 0.1),
        (0, 2, 0, True, 1.0, 0.2),
        (1, 1, 1, False, 2.0, 1.1),
        (1, 1, 0, True, 1.0, 0.1),
        (1, 2, 0, True, 1.0, 0.2),
        (1, 3, 1, True, 3.0, 1.3),
        (2, 1, 2, False, 4.0, 2.1),
        (2, 1, 0, True, 1.0, 0.1),
        (2, 2, 0, True, 1.0, 0.2),
        (2, 3, 1, True, 3.0, 1.3),
        (2, 4, 2, True, 5.0, 2.4),
    ]


def test_the_winner() -> None:
    def trial(number: int, score: float | None, state: str = "done") -> Trial:
        return Trial(number, state, {}, score=score)

    assert choose([]) is None
    assert choose([trial(0, None, "failed")]) is None
    assert choose([trial(0, 1.0), trial(1, 3.0, "stopped"), trial(2, 3.0)]) == trial(
        1, 3.0, "stopped"
    )
    assert choose([trial(0, 9.0, "failed"), trial(1, 1.0)]) == trial(1, 1.0)
    assert choose([trial(0, 9.0, "failed"), trial(1, None)]) == trial(0, 9.0, "failed")


def test_what_is_refused_on_a_second_time(make_set: Callable) -> None:
    pairs, other = make_set(), make_set("other", seed=1)
    directory = SweepDirectory(Path("sweep"))
    with directory.locked():
        assert not directory.begin(CONFIG, SPACE, pairs)
        directory.add(0, "begun", settings={})
    assert directory.check(CONFIG, SPACE, pairs)
    for change in ({"trials": 9}, {"time_budget": 5.0}, {"cpus_per_trial": 2.0}):
        assert directory.check(replace(CONFIG, **change), SPACE, pairs)
    assert "belongs to the pair set" in refused(CONFIG, SPACE, other)
    for change, text in (
        ({"max_epochs": 3}, "holds a sweep with max_epochs 2, asked for 3; choose another --run"),
        ({"seed": 1}, "with seed 0, asked for 1"),
        ({"scheduler": "none"}, "with scheduler asha, asked for none"),
        ({"metric": "loss"}, "with metric psnr, asked for loss"),
    ):
        assert text in refused(replace(CONFIG, **change), SPACE, pairs)
    for text, space in (
        ("a space with depth [{choice: [1]}], asked for none", {"model": "seed"}),
        ("width [{int: [2, 4]}], asked for [{int: [2, 5]}]", {"width": {"int": [2, 5]}}),
    ):
        content = SPACE.as_dict() | space
        if space.get("model"):
            del content["depth"]
        assert text in refused(CONFIG, Space.of(content), pairs)


def test_folders_of_something_else(make_set: Callable) -> None:
    pairs = make_set()
    Path("sweep").write_text("")
    assert "found a file" in refused(CONFIG, SPACE, pairs)
    Path("sweep").unlink()
    Path("sweep").mkdir()
    Path("sweep/other").write_text("")
    assert "found other files" in refused(CONFIG, SPACE, pairs)
    for text in (
        b"a: [",
        b"\xff",
        b"3",
        b"a: 3",
        b"format: 9\nconfig: {}",
        b"format: 1\nconfig: {}",
    ):
        Path("sweep/sweep.yaml").write_bytes(text)
        assert "sweep.yaml: expected" in refused(CONFIG, SPACE, pairs)


def test_nothing_is_left_where_no_trial_was_begun(make_set: Callable) -> None:
    pairs = make_set()
    place = Path("new/deep/sweep")
    with pytest.raises(InvalidValue), SweepDirectory(place).locked():  # noqa: PT012  # the block is it
        SweepDirectory(place).begin(CONFIG, SPACE, pairs)
        raise InvalidValue("no place")
    assert not Path("new").exists()
    Path("new").mkdir()
    with pytest.raises(InvalidValue), SweepDirectory(place).locked():
        raise InvalidValue("no place")
    assert list(Path("new").iterdir()) == []
    with SweepDirectory(place).locked():
        SweepDirectory(place).begin(CONFIG, SPACE, pairs)
        SweepDirectory(place).add(0, "begun", settings={})
    with pytest.raises(InvalidValue), SweepDirectory(place).locked():
        raise InvalidValue("no place")
    assert SweepDirectory(place).check(CONFIG, SPACE, pairs)


def test_one_sweep_at_a_time(make_set: Callable) -> None:
    directory = SweepDirectory(Path("sweep"))
    with directory.locked():
        directory.begin(CONFIG, SPACE, make_set())
        with (
            pytest.raises(RunConflict, match="another process sweeps here"),
            SweepDirectory(Path("sweep")).locked(),
        ):
            pass
        assert directory.settings_path.exists()
    with directory.locked():
        pass


def test_a_log_that_a_kill_tore(make_set: Callable) -> None:
    directory = SweepDirectory(Path("sweep"))
    directory.begin(CONFIG, SPACE, make_set())
    directory.add(0, "begun", settings={"lr": 1.0})
    with directory.log_path.open("ab") as file:
        file.write(b'{"trial": 0, "sta')
    assert [trial.state for trial in directory.trials()] == ["begun"]
    directory.add(0, "failed", reason="why")
    directory.add(1, "begun", settings={})
    found = directory.trials()
    assert [(trial.number, trial.state, trial.reason) for trial in found] == [
        (0, "failed", "why"),
        (1, "begun", None),
    ]
    assert found[0].settings == {"lr": 1.0}
    assert found[0].score is None
    with pytest.raises(InvalidValue, match="state must be one of"):
        directory.add(1, "lost")
    assert directory.finish() is None
    assert pq.read_table("sweep/trials.parquet").num_rows == 0
