"""The run directory: what it holds, what it refuses, what it survives."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from n2n import models
from n2n.checkpoint import Learner, read_tensors, write_tensors
from n2n.config import TrainConfig
from n2n.errors import InvalidValue, ModelFileError, RunConflict
from n2n.nn import SGD
from n2n.position import Position
from n2n.run import RunDirectory
from n2n.trainer import Trainer

CONFIG = TrainConfig.of("published", model_config={"width": 2}, epochs=2, batch_size=45)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trained(make_set, tmp_path: Path) -> tuple:
    pairs = make_set()
    Trainer(CONFIG, pairs, tmp_path / "run").train()
    return pairs, tmp_path / "run"


def assert_refused(trained: tuple, error: type[InvalidValue], *parts: str) -> None:
    pairs, run = trained
    with pytest.raises(error) as caught:
        Trainer(CONFIG, pairs, run)
    message = str(caught.value)
    assert type(caught.value) is error
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_what_a_run_holds(trained: tuple) -> None:
    _, run = trained
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*")) == [
        "checkpoints",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "provenance.jsonl",
    ]


def test_config_holds_every_setting(trained: tuple) -> None:
    pairs, run = trained
    found = yaml.safe_load((run / "config.yaml").read_text())
    assert found == {"set": str(pairs.path), "digest": pairs.digest, **asdict(CONFIG)}


def test_a_line_an_epoch(trained: tuple) -> None:
    _, run = trained
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]) == {
        "epoch",
        "lr",
        "train_loss",
        "seconds",
        "compute_seconds",
        "validation_seconds",
        "images_per_second",
        "val",
    }
    assert 0 < lines[0]["compute_seconds"] <= lines[0]["seconds"]


def test_a_file_as_run(make_set, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert_refused((make_set(), tmp_path / "run"), RunConflict, "expected a run directory", "file")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_directory_with_other_files(make_set, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").touch()
    assert_refused((make_set(), run), RunConflict, f"{run}: ", "other files", "another --run")
    assert [path.name for path in run.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_will_do(make_set, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert not Trainer(CONFIG, make_set(), tmp_path / "run").resumed


@pytest.mark.parametrize("left", [[], [".config.yaml.77.tmp"], ["checkpoints/"]])
def test_killed_while_it_was_made(make_set, tmp_path: Path, left: list[str]) -> None:
    """What `begin` may leave behind when it is killed, or the disk is full, is no other file."""
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        if name.endswith("/"):
            (run / name).mkdir()
        else:
            (run / name).write_text("hal")
    assert len(Trainer(CONFIG, make_set(), run).train()) == 2


def test_a_full_disk_while_it_is_made(make_set, tmp_path: Path, monkeypatch) -> None:
    pairs, run = make_set(), tmp_path / "run"

    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            Trainer(CONFIG, pairs, run)
    assert len(Trainer(CONFIG, pairs, run).train()) == 2


def test_killed_before_the_first_checkpoint(make_set, tmp_path: Path) -> None:
    """config.yaml and a line of metrics, but no checkpoint: from the start, and one line."""
    pairs, run = make_set(), tmp_path / "run"
    mine = Trainer(CONFIG, pairs, run)
    mine.run.add_metrics({"epoch": 1})
    again = Trainer(CONFIG, pairs, run)
    assert not again.resumed
    assert len(again.train()) == 2
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_leftovers_of_a_killed_save_do_not_matter(trained: tuple) -> None:
    pairs, run = trained
    for place in (run, run / "checkpoints"):
        (place / ".last.safetensors.4711.tmp").write_bytes(b"half")
    assert Trainer(CONFIG, pairs, run).position.epoch == 2


@pytest.mark.parametrize("text", ["", "- a list", "just text", "{", "\x00", "a: [1"])
def test_a_config_that_is_none(trained: tuple, text: str) -> None:
    _, run = trained
    (run / "config.yaml").write_text(text)
    assert_refused(trained, RunConflict, "config.yaml")


def test_a_config_that_is_no_text(trained: tuple) -> None:
    (trained[1] / "config.yaml").write_bytes(b"\xff\xfe\xfa")
    assert_refused(trained, RunConflict, "config.yaml", "expected YAML")


@pytest.mark.parametrize(
    "text", ['{"epoch": 1}\n{"epoch": 2, "lo', '{"epoch": 1}\n', "", "[]\n[]\n", "\x00\n\x00\n"]
)
def test_metrics_that_are_damaged(trained: tuple, text: str) -> None:
    path = trained[1] / "metrics.jsonl"
    path.write_text(text)
    assert_refused(trained, RunConflict, str(path), "2 ")
    assert path.read_text() == text


def test_metrics_that_are_gone(trained: tuple) -> None:
    (trained[1] / "metrics.jsonl").unlink()
    assert_refused(trained, RunConflict, "metrics.jsonl")


def test_metrics_with_a_half_line_too_many(trained: tuple) -> None:
    pairs, run = trained
    path = run / "metrics.jsonl"
    good = path.read_text()
    path.write_text(good + '{"epoch": 3, "trai')
    Trainer(CONFIG, pairs, run)
    assert path.read_text() == good


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_checkpoint(trained: tuple, length: int) -> None:
    path = trained[1] / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert_refused(trained, ModelFileError, str(path))


def test_a_model_file_as_checkpoint(trained: tuple) -> None:
    last = trained[1] / "checkpoints" / "last.safetensors"
    last.write_bytes((trained[1] / "model.safetensors").read_bytes())
    assert_refused(trained, ModelFileError, str(last), "position")


@pytest.mark.parametrize("width", [2, 3])
def test_a_checkpoint_of_another_network_or_optimizer(trained: tuple, width: int) -> None:
    _, run = trained
    network = models.create("seed", width=width, generator=torch.Generator())
    optimizer = SGD(network.param(), 1.0, momentum=0.9)
    for value, _ in network.param():
        value.zero_()
    optimizer.step()
    directory = RunDirectory(run)
    position = {"position": Position(epoch=1).as_dict()}
    directory.save(directory.last_path, Learner(network, optimizer), position)
    assert_refused(trained, ModelFileError, str(directory.last_path))


def test_a_run_of_an_earlier_version_does_not_go_on_as_another_network(
    make_set, tmp_path: Path
) -> None:
    pairs, run = make_set(), tmp_path / "run"
    config = TrainConfig(model_config={"width": 2, "hidden": 3, "blocks": 1}, epochs=1)
    Trainer(config, pairs, run).train()
    last = run / "checkpoints" / "last.safetensors"
    tensors, metadata = read_tensors(last)
    del metadata["architecture"]["config"]["leak"]
    write_tensors(last, tensors, metadata)
    before = last.read_bytes()
    with pytest.raises(RunConflict, match=r"expected a network with leak 10, found .* with 0"):
        Trainer(config, pairs, run)
    assert last.read_bytes() == before


def test_a_checkpoint_restores_all_of_it(trained: tuple, tmp_path: Path) -> None:
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(1))
    optimizer = SGD(network.param(), 1.0, momentum=0.9)
    for _, grad in network.param():
        grad.fill_(0.5)
    optimizer.step()
    directory = RunDirectory(tmp_path / "other")
    assert directory.begin({"lr": 1.0}, may_change=frozenset()) is False
    position = Position(0, 3, 0.1 + 0.2, 60, 1 / 3, 7, 1.5, 0.25)
    learner = Learner(network, optimizer)
    directory.save(directory.last_path, learner, {"position": position.as_dict()})
    assert directory.begin({"lr": 1.0}, may_change=frozenset()) is True

    other = models.create("seed", width=2, generator=torch.Generator().manual_seed(2))
    restored = SGD(other.param(), 1.0, momentum=0.9)
    assert directory.restore(Learner(other, restored)) == position
    for mine, found in ((network, other), (optimizer, restored)):
        expected, state = mine.state_dict(), found.state_dict()
        assert expected.keys() == state.keys()
        assert all(torch.equal(expected[name], state[name]) for name in expected)
    tensors = read_tensors(directory.last_path)[0]
    assert {name for name in tensors if name.startswith("optimizer.")} == {
        "optimizer.steps",
        *(f"optimizer.momentum.{index}" for index in range(8)),
    }


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.begin({"lr": 1.0, "epochs": 3, "old": 1}, may_change=frozenset())
    config = (tmp_path / "run" / "config.yaml").read_bytes()
    for settings, message in (
        ({"lr": 2.0, "epochs": 3, "old": 1}, "lr 1.0, asked for 2.0"),
        ({"lr": 1.0, "epochs": 4, "old": 1}, "epochs 3, asked for 4"),
        ({"lr": 1.0, "epochs": 3}, "old 1, asked for None"),
        ({"lr": 1.0, "epochs": 3, "old": 1, "new": 5}, "new None, asked for 5"),
    ):
        with pytest.raises(RunConflict, match=re.escape(message)):
            directory.begin(settings, may_change=frozenset())
    assert (tmp_path / "run" / "config.yaml").read_bytes() == config
    directory.begin({"lr": 1.0, "epochs": 9, "old": 1}, may_change=frozenset({"epochs"}))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["epochs"] == 9


def test_a_run_that_another_process_trains_is_refused_and_free_after_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.begin({"lr": 1.0}, may_change=frozenset())
    hold = (
        "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(d, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunConflict, match="another process trains here"), run.locked():
            pass
        other.kill()
    left = run.path / "checkpoints" / ".n2n-0123.tmp"
    left.touch()
    with run.locked():
        assert not left.exists()


def test_results_without_a_checkpoint_are_not_overwritten(make_set, tmp_path: Path) -> None:
    pairs, run = make_set(), tmp_path / "run"
    Trainer(CONFIG, pairs, run).train()
    (run / "checkpoints" / "last.safetensors").unlink()
    model = (run / "model.safetensors").read_bytes()
    with pytest.raises(RunConflict, match=r"expected last\.safetensors to go on from"):
        Trainer(CONFIG, pairs, run)
    assert (run / "model.safetensors").read_bytes() == model


def test_a_refused_second_process_changes_nothing(make_set, tmp_path: Path) -> None:
    pairs, run = make_set(), tmp_path / "run"
    Trainer(CONFIG, pairs, run).train()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with RunDirectory(run).locked(), pytest.raises(RunConflict, match="another process"):
        Trainer(replace(CONFIG, epochs=7), pairs, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
