"""`n2n sweep`: what it refuses and plans, a sweep on a real Ray, what came out of it."""

import json
import shlex
import signal
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import load_file

import jobs.sweep
from jobs.denoise import main as denoise
from jobs.evaluate import main as evaluate
from jobs.sweep import main
from jobs.train import main as train
from n2n.errors import Diverged, Interrupted
from n2n.sweep import Event, Space
from n2n.trainer import Trainer

TINY = ["--set", "model=seed", "--set", "width=2,3", "--set", "batch_size=30"]
SOUND = [option.replace("2,3", "2") for option in TINY]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["set", "--run", "sweep", *arguments])


def assert_refused(result: Result, *parts: str) -> None:
    """Exit code 2, one line, and nothing at --run."""
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line
    assert not Path("sweep").exists()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("the sweep was started")

    monkeypatch.setattr(jobs.sweep, "run_trials", fail)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials one after another in this process, without Ray; returns those that were run.

    A trial with width 3 diverges; before one with batch_size 31 somebody presses Ctrl-C.
    """
    done: list[int] = []

    def run_trials(config, space, pairs, directory, address, board, onlookers) -> None:
        finished = {trial.number for trial in directory.trials() if trial.finished}
        for number, sample in enumerate(config.samples(space)):
            if number in finished:
                continue
            if sample.get("batch_size") == 31 and not finished and done:
                raise Interrupted("stopped; run the same command again to go on")
            done.append(number)
            directory.add(number, "begun", settings=sample)
            board.hear(Event("begun", number, settings=sample))
            trainer = Trainer(
                config.settings_of(sample, pairs),
                pairs,
                directory.trial_path(number),
                on_epoch=lambda line, number=number: board.hear(Event("epoch", number, line=line)),
            )
            try:
                if sample.get("width") == 3:
                    raise Diverged("the loss is nan")
                trainer.train()
            except Diverged as error:
                directory.add(number, "failed", reason=str(error))
                board.hear(Event("failed", number, reason=str(error)))
                continue
            directory.add(number, "done")
            board.hear(Event("done", number))

    monkeypatch.setattr(jobs.sweep, "run_trials", run_trials)
    return done


# ---- what is refused -----------------------------------------------------------------------------

BAD: list[tuple[list[str], str]] = [
    (["--set", "wdith=3"], "there is no setting 'wdith'; did you mean width?"),
    (["--set", "lr=5..1"], "--set lr=5..1: uniform: the range from 5 to 1 is empty"),
    (["--set", "lr"], "NAME=DOMAIN such as lr=log:1e-4..5 expected"),
    (["--set", "depth=1,2", "--set", "model=seed"], "depth: applies where model is unet"),
    (["--set", "model=unet", "--set", "depth=5"], "multiples of 32, the set has images of 8x8"),
    (["--space", "nothing.yaml"], "nothing.yaml: expected a YAML file"),
    (["--space", "empty-range.yaml"], "empty-range.yaml: lr: log: the range from 5 to 1 is empty"),
    (["--space", "unknown.yaml"], "unknown.yaml: there is no setting 'rate'"),
    (["--preset", "slow"], "preset must be one of standard, fast, published"),
    (["--trials", "0"], "trials must be at least 1"),
    (["--max-epochs", "0"], "max_epochs must be at least 1"),
    (["--scheduler", "hyperband"], "scheduler must be one of asha, pbt, none"),
    (["--search", "tpe"], "search must be one of random, grid, optuna"),
    (["--search", "grid"], "lr: a grid needs a choice or int"),
    (["--metric", "ssim"], "metric must be one of psnr, estimated-psnr, loss"),
    (["--cpus-per-trial", "0"], "cpus_per_trial must be above 0"),
    (["--gpus-per-trial", "-1"], "gpus_per_trial must be a whole number, or a fraction"),
    (["--device", "cuda:1"], "device must be auto, cpu or cuda"),
    (["--time-budget", "soon"], "expected a time such as 90s, 30m or 8h, got 'soon'"),
    (["--time-budget", "0s"], "time_budget must be above 0"),
    (["--precision", "fp16"], "fp16"),
    (["--memory", "0"], "expected GiB above 0"),
    (["--seed", "-1"], "seed must be from 0"),
]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("options", "part"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_bad_input(make_set: Callable, options: list[str], part: str) -> None:
    make_set(rows=9, val=3)
    Path("empty-range.yaml").write_text("lr: {log: [5, 1]}\n")
    Path("unknown.yaml").write_text("rate: 1\n")
    assert_refused(run(*options), part)


@pytest.mark.usefixtures("no_ray")
def test_sets_that_cannot_be_swept(make_set: Callable) -> None:
    assert_refused(run(), "set: expected the folder of a pair set")
    make_set(val=0)
    assert_refused(run(), "set: expected validation pairs")
    make_set("other", clean=False, target="clean")
    for metric, reason in (("psnr", "no clean images"), ("estimated-psnr", "clean targets")):
        result = CliRunner().invoke(main, ["other", "--run", "sweep", "--metric", metric])
        assert_refused(result, f"metric {metric}: the set other has {reason}", "use loss")
    result = CliRunner().invoke(main, ["other", "--run", "sweep", "--set", "swap=true"])
    assert_refused(result, "swap needs two noisy views")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("options", [["--device", "cuda"], ["--gpus-per-trial", "0.5"]], ids=str)
def test_a_gpu_that_is_not_there(make_set: Callable, options: list[str]) -> None:
    make_set(rows=9, val=3)
    assert_refused(run(*options), "expected the GPU cuda, found 0 GPUs")


def test_an_address_where_nobody_answers(make_set: Callable) -> None:
    make_set(rows=9, val=3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refused(run("--address", address), f"none answered at {address}")


@pytest.mark.usefixtures("one_by_one")
def test_a_resumed_sweep_with_something_else(make_set: Callable) -> None:
    make_set()
    make_set("other", seed=1)
    assert run(*SOUND, "--trials", "1", "--max-epochs", "1").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("sweep").rglob("*")}
    for options, part in (
        ([*TINY, "--set", "lr=1..2"], "holds a sweep with a space with lr"),
        (["--max-epochs", "2"], "holds a sweep with max_epochs 1, asked for 2"),
        (["--metric", "loss"], "holds a sweep with metric psnr, asked for loss"),
        (["--seed", "3"], "holds a sweep with seed 0, asked for 3"),
    ):
        result = run(*options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert part in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = CliRunner().invoke(main, ["other", "--run", "sweep"])
    assert result.exit_code == 2
    assert "belongs to the pair set set, asked to sweep on other" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in Path("sweep").rglob("*")} == before


# ---- the plan ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
def test_the_plan(make_set: Callable) -> None:
    make_set(rows=9, val=3)
    result = run(
        *TINY, "--trials", "3", "--dry-run", "--max-epochs", "7", "--cpus-per-trial", "0.5"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    space, trials, place = result.stdout.split("\n\n")
    assert yaml.safe_load(space)["width"] == [{"choice": [2, 3]}]
    assert [line.split()[:2] for line in trials.splitlines()] == [
        ["trial", str(number)] for number in range(3)
    ]
    assert "3 trials of up to 7 epochs on 9 pairs; random search, scheduler asha" in place
    assert "each trial 0.5 CPU, 1 threads, cpu, fp32" in place
    assert not Path("sweep").exists()
    Path("space.yaml").write_text(space)  # is a space
    plan = json.loads(run("--space", "space.yaml", "--trials", "3", "--dry-run", "--json").stdout)
    assert plan["count"] == 3 == len(plan["trials"])
    assert plan["space"] == yaml.safe_load(space)
    grid = ["--set", "model=seed", "--set", "lr=1,2", "--set", "width=4", "--search", "grid"]
    Path("grid.yaml").write_text("model: seed\nlr: [1, 2, 3]\nwidth: [4, 5]\n")
    assert run(*grid, "--dry-run").exit_code == 0
    found = json.loads(
        run("--space", "grid.yaml", "--search", "grid", "--dry-run", "--json").stdout
    )
    assert found["count"] == 6 == len({repr(trial) for trial in found["trials"]})
    assert "each proposed by optuna" in run("--search", "optuna", "--dry-run").stdout
    address = run("--address", "nobody:1", "--dry-run")
    assert "on the Ray cluster at nobody:1" in address.stdout


def test_the_space_that_help_shows_is_one() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    lines = text[text.index("    model: [seed") :].split("\n\n")[0]
    space = Space.of(yaml.safe_load(textwrap.dedent(lines)))
    assert {"model", "optimizer", "lr", "momentum", "width", "depth", "loss"} == set(space.names)
    assert space.preset == "published"


# ---- without Ray ---------------------------------------------------------------------------------


def test_a_trial_that_fails_and_all_that_fail(make_set: Callable, one_by_one: list[int]) -> None:
    make_set()
    result = run(*TINY, "--trials", "6", "--max-epochs", "1")
    assert result.exit_code == 0
    assert len(one_by_one) == 6
    failed = sum("failed: the loss is nan" in line for line in result.stderr.splitlines())
    assert 0 < failed < 6
    assert result.stdout.splitlines()[0] == f"{6 - failed} done, {failed} failed"
    trials = json.loads(run("--json").stdout)["trials"]
    assert {trial["settings"]["width"] for trial in trials if trial["state"] == "failed"} == {3}
    Path("sweep").rename("before")
    options = [option.replace("2,3", "3") for option in TINY]
    result = run(*options, "--trials", "2", "--max-epochs", "1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == (
        "n2n: no trial has a score, of 2 that were begun; the first that failed: the loss is nan"
    )
    assert not Path("sweep/best").exists()
    assert pq.read_table("sweep/trials.parquet").num_rows == 0


def test_a_stopped_sweep_goes_on(make_set: Callable, one_by_one: list[int]) -> None:
    """The table and the best are there when it stops; the same command does the rest."""
    make_set()
    options = [*TINY[:-1], "batch_size=30,31", "--trials", "8", "--max-epochs", "1"]
    result = run(*options)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == "n2n: stopped; run the same command again to go on"
    before = list(one_by_one)
    assert 0 < len(before) < 8
    rows = pq.read_table("sweep/trials.parquet")
    assert set(rows["trial"].to_pylist()) <= set(before)
    result = run("--trials", "9")  # and the rest as it was
    assert result.exit_code == 0
    assert sorted(one_by_one) == list(range(9))
    assert "resuming the sweep: 9 trials" in result.stderr.splitlines()[0]
    plan = json.loads(run("--dry-run", "--json").stdout)["trials"]
    assert [trial["settings"] for trial in json.loads(run("--json").stdout)["trials"]] == plan


def test_a_complete_sweep_prints_its_result_again(
    make_set: Callable, one_by_one: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(clean=False)
    options = [*SOUND, "--trials", "2", "--max-epochs", "2"]
    result = run(*options)
    assert result.exit_code == 0
    assert "estimated PSNR" in result.stdout
    again = run(*options)
    assert again.stdout == result.stdout
    assert one_by_one == [0, 1]
    assert run().stdout == result.stdout


# ---- on Ray --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(write: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A sweep of six trials, two at a time; one of them cannot but diverge."""
    place = tmp_path_factory.mktemp("sweep")
    write(place / "set", rows=120)
    Path(place, "space.yaml").write_text(
        "model: seed\nwidth: {int: [2, 4]}\noptimizer: [sgd, adamw]\nflips: [true, false]\n"
        "lr: [{value: 3.0e+38, when: {optimizer: sgd}}, {log: [1e-3, 1e-2]}]\nbatch_size: 10\n"
    )
    arguments = [str(place / "set"), "--run", str(place / "sweep"), "--space"]
    arguments += [str(place / "space.yaml"), "--trials", "6", "--max-epochs", "3", "--json"]
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(main, [*arguments, "--cpus-per-trial", "0.5", "--device", "cpu"])
    assert signal.getsignal(signal.SIGTERM) == before
    return place, result


@pytest.mark.ray
def test_a_sweep_on_ray(swept: tuple[Path, Result]) -> None:
    place, result = swept
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    by_optimizer = {"sgd": {"failed"}, "adamw": {"done", "stopped"}}
    states = {trial["trial"]: trial["state"] for trial in found["trials"]}
    assert sorted(states) == list(range(6))
    for trial in found["trials"]:
        assert trial["state"] in by_optimizer[trial["settings"]["optimizer"]]
        assert (trial["reason"] is not None) == (trial["state"] == "failed")
    assert set(states.values()) >= {"failed", "done"}
    assert found["best"]["score"] == max(
        trial["score"] for trial in found["trials"] if trial["score"] is not None
    )
    rows = pq.read_table(place / "sweep" / "trials.parquet").to_pylist()
    assert {(row["trial"], row["epoch"]) for row in rows} == {
        (trial["trial"], epoch)
        for trial in found["trials"]
        for epoch in range(1, trial["epochs"] + 1)
    }
    lines = result.stderr.splitlines()
    assert lines[0].startswith("sweep: 6 trials, 6 to do, of up to 3 epochs on 120 pairs")
    for number, state in states.items():
        assert any(line.startswith(f"trial {number}  {state}") for line in lines), (number, lines)
    assert not [path for path in place.rglob("*") if path.suffix in (".pkl", ".tmp")]


@pytest.mark.ray
def test_every_trial_is_what_training_alone_gives(swept: tuple[Path, Result]) -> None:
    """The weights of the winner, trained again by its command line, bit for bit."""
    place, result = swept
    best = json.loads(result.stdout)["best"]
    program, name, *arguments = shlex.split(best["command"])
    assert (program, name) == ("n2n", "train")
    again = CliRunner().invoke(train, arguments)
    assert again.exit_code == 0, again.output
    models = (Path(best["run"]), place / "sweep-winner")
    first, second = (load_file(path / "model.safetensors") for path in models)
    assert first.keys() == second.keys()
    for tensor in first:
        np.testing.assert_array_equal(first[tensor], second[tensor])


@pytest.mark.ray
def test_the_best_is_taken_by_the_other_commands(swept: tuple[Path, Result]) -> None:
    place, result = swept
    best = json.loads(result.stdout)["best"]
    model = f"{best['run']}/model.safetensors"
    options = ["--device", "cpu", "--threads", "1"]
    scores = CliRunner().invoke(evaluate, [model, str(place / "set"), "--json", *options])
    assert scores.exit_code == 0, scores.output
    assert json.loads(scores.stdout)["psnr"] == pytest.approx(best["score"], rel=1e-12)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save("in.png")
    for number, name in enumerate((model, best["run"])):
        arguments = ["in.png", f"out{number}.png", "--model", name, *options]
        done = CliRunner().invoke(denoise, arguments)
        assert done.exit_code == 0, done.output
    assert Path("out0.png").read_bytes() == Path("out1.png").read_bytes()
    assert np.asarray(Image.open("out0.png")).shape == (9, 7, 3)


@pytest.mark.ray
def test_a_request_that_does_not_fit_this_machine(make_set: Callable) -> None:
    make_set(rows=9, val=3)
    result = run("--cpus-per-trial", "4096", "--device", "cpu")
    assert_refused(result, "4096 CPUs", "expected to fit this machine, found")
