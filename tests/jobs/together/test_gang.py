"""`n2n train --workers`: the same curve as one process, whatever becomes of a worker."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from click.testing import CliRunner, Result
from clusters import RayCluster, processes_of
from PIL import Image
from safetensors.torch import load_file

from jobs import train
from jobs.processes.seat import Placement
from jobs.together import crew, gang
from jobs.together.gang import Gang
from n2n.checkpoint import read_tensors
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import InvalidValue, JobFailed
from n2n.run import RunDirectory

SETTINGS: dict[str, Any] = {
    "model_config": {"width": 4},
    "epochs": 3,
    "batch_size": 7,
    "lr": 1.0,
    "swap": True,
    "checkpoint_seconds": 0.0,
}
OPTIONS = [
    *("--preset", "published", "--set", "width=4", "--epochs", "3", "--batch-size", "7"),
    *("--lr", "1", "--swap", "--checkpoint-seconds", "0", "--device", "cpu"),
]
STEPS = 143  # an epoch of 1000 pairs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(train.main, [*arguments])


def curve(path: str | Path) -> list[float]:
    numbers = []
    for text in Path(path, "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        numbers += [line["epoch"], line["lr"], line["train_loss"], *line["val"].values()]
    return numbers


def steps_done(path: str = "run") -> int:
    last = Path(path, "checkpoints", "last.safetensors")
    if not last.exists():
        return 0
    position = read_tensors(last)[1]["position"]
    return int(STEPS * position["epoch"] + position["batch"])


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Watched(Gang):
    """A gang on the session's cluster, that remembers what it was told."""

    def __init__(self, cluster: RayCluster, **settings: Any) -> None:
        self.epochs: list[int] = []
        self.warnings: list[str] = []
        super().__init__(
            TrainConfig.of("published", **SETTINGS),
            PairSet.open(Path("set")),
            Path("run"),
            on_epoch=lambda line: self.epochs.append(line["epoch"]),
            warn=self.warnings.append,
            **{"placement": Placement(2, 1, 0), "address": cluster.address, **settings},
        )


@contextmanager
def after(steps: int, act: Callable[[], Any]) -> Iterator[None]:
    """In a thread beside the block: act() once so many steps are saved, in which it must be."""
    acted = threading.Event()

    def watch() -> None:
        wait_until(lambda: steps_done() >= steps)
        act()
        acted.set()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert acted.is_set()


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Gives the processes of each attempt, by rank; afterwards none of them runs."""
    attempts: list[list[int]] = []
    meet = crew.Crew._meet

    def watched(self: crew.Crew) -> tuple[str, int]:
        meeting = meet(self)
        attempts.append([post.pid for post in self._posts])
        return meeting

    monkeypatch.setattr(crew.Crew, "_meet", watched)
    yield attempts
    wait_until(lambda: not any(is_running(pid) for pids in attempts for pid in pids))
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def trained(ray_cluster: RayCluster, tmp_path_factory, write) -> tuple[Path, Result]:
    """A folder with a set of 1000 pairs, and `run`, two workers' undisturbed training on it; and
    what the command said."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "set", rows=1000, val=1100)
    place = [str(folder / "set"), "--run", str(folder / "run")]
    return folder, run(*place, *OPTIONS, *on(ray_cluster))


@pytest.fixture
def pairs(trained: tuple[Path, Result], folder: Path) -> Path:
    """`set` in the current folder; gives that of the undisturbed run."""
    (folder / "set").symlink_to(trained[0] / "set")
    return trained[0]


@pytest.mark.ray
def test_two_workers_and_one(trained: tuple[Path, Result], pairs: Path) -> None:
    _, result = trained
    assert result.exit_code == 0, result.output
    first, *lines = result.stderr.splitlines()
    assert first == (
        "training seed (519 parameters) on 1,000 pairs, cpu, fp32, 2 workers of 1 threads, "
        "from epoch 1, batch 1"
    )
    pattern = r"epoch {}/3  loss 0\.\d{{6}}  PSNR .* img/s  all-reduce \d+%  00:00:\d\d left"
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(pattern.format(number), line)
    assert len(lines) == 3
    assert re.fullmatch(r"3 epochs done; best: epoch \d, .*/model\.safetensors\n", result.stdout)
    assert run("set", "--run", "one", *OPTIONS, "--threads", "1").exit_code == 0
    assert curve("one") == pytest.approx(curve(pairs / "run"), rel=1e-4)
    for name, value in load_file("one/model.safetensors").items():
        found = load_file(pairs / "run/model.safetensors")[name]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-4)
    # It is complete, also for one process, and needs no Ray.
    nowhere = ["--workers", "2", "--address", "127.0.0.1:1"]
    again = run("set", "--run", str(pairs / "run"), *OPTIONS, *nowhere)
    assert again.exit_code == 0
    assert "the run is complete: 3 epochs done" in again.stderr


@pytest.mark.ray
def test_two_workers_draw_and_begin_as_one_does(
    ray_cluster: RayCluster, pairs: Path, folder: Path
) -> None:
    """--from, --stream-from and --ema: a model file and photographs that the workers must find."""
    (folder / "photographs").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photographs" / f"{seed}.png")
    options = ["set", "--from", str(pairs / "run" / "model.safetensors"), "--preset", "published"]
    options += ["--stream-from", "photographs", "--images", "50", "--epochs", "2"]
    options += ["--batch-size", "7", "--ema", "0.9", "--device", "cpu"]
    two = run(*options, "--run", "two", *on(ray_cluster))
    assert two.exit_code == 0, two.output
    one = run(*options, "--run", "one", "--threads", "1")
    assert one.exit_code == 0, one.output
    assert "50 pairs an epoch from 3 photographs; left out: 0 that" in one.stderr
    assert curve("two") == pytest.approx(curve("one"), rel=1e-4)
    for name, value in load_file("one/checkpoints/last.safetensors").items():
        found = load_file("two/checkpoints/last.safetensors")[name]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-4)


@pytest.mark.ray
def test_a_killed_worker_costs_what_was_not_saved(
    ray_cluster: RayCluster, pairs: Path, no_worker_is_left: list[list[int]]
) -> None:
    """kill -9 of one of two in the middle of the second epoch; the end is the same, bit for bit."""
    attempts = no_worker_is_left
    mine = Watched(ray_cluster)
    with after(STEPS + 50, lambda: os.kill(attempts[-1][1], signal.SIGKILL)):
        metrics = mine.train()
    assert [len(pids) for pids in attempts] == [2, 2]
    assert len({pid for pids in attempts for pid in pids}) == 4
    assert [line["epoch"] for line in metrics] == mine.epochs == [1, 2, 3]
    assert curve("run") == curve(pairs / "run")
    for file in ("model.safetensors", "checkpoints/last.safetensors"):
        for name, value in load_file(pairs / "run" / file).items():
            assert torch.equal(load_file(Path("run", file))[name], value)
    assert mine.warnings == [
        "worker 2 of 2 died; all begin again at the last checkpoint (failure 1 of at most 3)"
    ]


@pytest.mark.ray
def test_too_many_deaths(
    ray_cluster: RayCluster, pairs: Path, no_worker_is_left: list[list[int]]
) -> None:
    """With max_failures 0 the death of rank 0 is the end, and the checkpoint is kept."""
    mine = Watched(ray_cluster, max_failures=0)
    with (
        pytest.raises(
            JobFailed,
            match=r"^worker 1 of 2 died, the 1\. of at most 0 failures, .*"
            r"the last checkpoint stays in run; run the same command again",
        ),
        after(20, lambda: os.kill(no_worker_is_left[-1][0], signal.SIGKILL)),
    ):
        mine.train()
    assert 20 <= steps_done() < 3 * STEPS


@pytest.mark.ray
def test_stopped_by_a_signal(ray_cluster: RayCluster, pairs: Path) -> None:
    """All stop at one step, and rank 0 has saved it; one process goes on."""
    with after(20, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        result = run("set", "--run", "run", *OPTIONS, *on(ray_cluster))
    assert (result.exit_code, result.stdout) == (3, "")
    found = re.fullmatch(
        r"n2n: stopped after batch (\d+) of epoch (\d), which is saved in .*/run; "
        r"run the same command again to go on",
        result.stderr.splitlines()[-1],
    )
    assert found, result.stderr
    batch, epoch = map(int, found.groups())
    assert STEPS * (epoch - 1) + batch == steps_done() < 3 * STEPS
    again = run("set", "--run", "run", *OPTIONS, "--threads", "1")
    assert again.exit_code == 0
    assert again.stderr.startswith("resuming seed (")
    assert curve("run") == pytest.approx(curve(pairs / "run"), rel=1e-4)


def on(cluster: RayCluster) -> list[str]:
    return ["--workers", "2", "--address", cluster.address]


@pytest.mark.ray
def test_a_lost_machine(
    ray_cluster: RayCluster, pairs: Path, no_worker_is_left: list[list[int]]
) -> None:
    """Two workers of three CPUs each, of which one is on the head, with four; it goes on alone."""
    machine = ray_cluster.add(cpus=3)

    def lose() -> None:
        """It takes a while, in which the training stands still."""
        for pid in no_worker_is_left[-1]:
            os.kill(pid, signal.SIGSTOP)
        ray_cluster.lose(machine)
        for pid in filter(is_running, no_worker_is_left[-1]):
            os.kill(pid, signal.SIGCONT)

    mine = Watched(ray_cluster, placement=Placement(2, 3, 0), patience=8.0)
    with after(30, lose):
        mine.train()
    assert [len(pids) for pids in no_worker_is_left] == [2, 1]
    assert curve("run") == pytest.approx(curve(pairs / "run"), rel=1e-4)
    died, fewer = mine.warnings
    assert re.match(r"worker \d of 2 died; ", died)
    assert fewer == "2 workers with 3 CPUs and 0 GPUs each found no place; trying 1"


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_only_in_the_books(ray_cluster: RayCluster, pairs: Path) -> None:
    result = run("set", "--run", "run", *OPTIONS, *on(ray_cluster), "--device", "auto")
    assert result.exit_code == 2, result.output
    assert "expected the GPU cuda:0, found 0 GPUs; use --device cpu" in result.stderr


@pytest.mark.ray
def test_a_place_that_is_not_there(ray_cluster: RayCluster, pairs: Path) -> None:
    mine = Watched(ray_cluster, placement=Placement(2, 1, 2), patience=1.0)
    with pytest.raises(
        InvalidValue,
        match=r"^2 workers with 1 CPU and 2 GPUs each expected a place within 1 s, "
        r"found 4 CPUs \(\d free\) and 2 GPUs \(\d free\); use fewer workers, or less for each$",
    ):
        mine.train()


@pytest.mark.ray
def test_a_killed_driver(ray_cluster: RayCluster, pairs: Path) -> None:
    """Its workers on a cluster end with it; the command again goes on."""
    process = command("set", "--run", "run", *OPTIONS, *on(ray_cluster))
    wait_until(lambda: steps_done() >= 20, process)
    found = processes_of(ray_cluster.nodes[0].pid).items()
    workers = [pid for pid, title in found if title.startswith("ray::Actor")]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    assert steps_done() < 3 * STEPS
    result = run("set", "--run", "run", *OPTIONS, "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert curve("run") == pytest.approx(curve(pairs / "run"), rel=1e-4)


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        start_new_session=True,
    )


@pytest.mark.ray
def test_a_ray_of_its_own(make_set) -> None:
    """The command starts it, and ends it."""
    make_set(rows=60)
    short = ["--preset", "published", "--set", "width=2", "--epochs", "1", "--json"]
    process = command("set", "--run", "run", *short, "--workers", "2", "--device", "cpu")
    output, lines = process.communicate(timeout=120)
    assert process.returncode == 0, lines
    line = json.loads(output)
    assert (line["workers"], line["epoch"]) == (2, 1)
    assert line["reduce_seconds"] > 0
    wait_until(lambda: not processes_of(process.pid))


# ---- refused, without Ray ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--workers", "x"], "'--workers'"),
        (["--cpus-per-worker", "1"], "--cpus-per-worker needs more than one of --workers"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker needs more than one of --workers"),
        (["--max-failures", "1"], "--max-failures needs more than one of --workers, or --address"),
        (["--workers", "2", "--max-failures", "-1"], "max-failures must be 0 or more, got -1"),
        (["--workers", "2", "--cpus-per-worker", "0"], "cpus-per-worker must be above 0"),
        (["--workers", "2", "--cpus-per-worker", "nan"], "cpus-per-worker must be above 0"),
        (["--workers", "2", "--cpus-per-worker", "1.5"], "cpus_per_worker must be a whole number"),
        (["--workers", "2", "--gpus-per-worker", "0.5"], "gpus-per-worker must be 0 or 1"),
        (["--workers", "2", "--device", "cuda:1"], "device cuda:1: cuda expected"),
        (
            ["--workers", "2", "--device", "cpu", "--gpus-per-worker", "1"],
            "--gpus-per-worker 1 needs --device cuda",
        ),
        (["--workers", "2", "--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["--workers", "2", "--lr", "-1"], "lr must be a finite number"),
        (["--workers", "2", "--turns"], "turns needs square images"),
        (["--workers", "2", "--set", "width=0"], "width must be at least 1, got 0"),
        (["--workers", "2", "--precision", "fp16"], "fp16 is for inference only"),
        (["--workers", "2", "--address", "127.0.0.1:1"], "none answered at 127.0.0.1:1"),
        (["--workers", "2", "--address", "ray://a:1"], "HOST:PORT of a running Ray cluster"),
    ],
    ids=" ".join,
)
def test_bad_values(make_set, monkeypatch, options: list[str], part: str) -> None:
    """One line, exit 2, and Ray is not started."""
    make_set(rows=5, val=2, shape=(3, 4, 8))
    monkeypatch.setattr("jobs.processes.session._start", lambda *arguments: pytest.fail("started"))
    result = run("set", "--run", "run", "--set", "width=2", *options)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("n2n: ")
    assert part in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(make_set) -> None:
    make_set(rows=5, val=2)
    result = run("set", "--run", "run", "--workers", "2", "--device", "cuda")
    assert result.exit_code == 2
    assert "found 0 GPUs" in result.stderr
    assert not Path("run").exists()


def test_a_run_of_other_settings_is_refused_before_ray(make_set, monkeypatch) -> None:
    make_set()
    monkeypatch.setattr("jobs.processes.session._start", lambda *arguments: pytest.fail("started"))
    short = ["--preset", "published", "--set", "width=2", "--epochs", "1", "--threads", "1"]
    assert run("set", "--run", "run", *short).exit_code == 0
    result = run("set", "--run", "run", *short, "--lr", "1", "--workers", "2")
    assert result.exit_code == 2
    assert "holds a run with lr 5.0, asked for 1.0" in result.stderr
    monkeypatch.setattr(gang, "SECONDS_TO_END", 0.1)
    with RunDirectory(Path("busy")).locked():
        result = run("set", "--run", "busy", *short, "--workers", "2")
    assert result.exit_code == 2
    assert "another process trains here" in result.stderr


@pytest.mark.parametrize(
    ("threads", "cpus", "workers", "expected"),
    [
        (None, None, 2, (2.0, 2)),
        (None, None, 8, (0.5, 1)),
        (3, None, 2, (3.0, 3)),
        (None, 0.5, 2, (0.5, 1)),
        (2, 1.0, 2, (1.0, 2)),
    ],
)
def test_shares(monkeypatch, threads, cpus, workers, expected) -> None:
    """Of four cores, where nobody says otherwise."""
    from contextlib import ExitStack

    from jobs.together.team import Team

    monkeypatch.setattr("n2n.data.default_workers", lambda: 4)
    with ExitStack() as stack:
        team, device, count = Team(workers, cpus).machine_of_each("cpu", threads, stack)
    assert (team.cpus, count) == expected
    assert (team.gpus, device) == (0.0, "cpu")
    assert not torch.cuda.is_available() or device == "cpu"
