"""A sweep's trials on a real Ray: each equal to a run of its own, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from clusters import RayCluster, processes_of

from jobs.trials.tuning import run_sweep
from n2n.checkpoint import read_tensors
from n2n.data import PairSet
from n2n.errors import Interrupted, InvalidValue
from n2n.sweep import Event, Space, SweepConfig, SweepDirectory
from n2n.trainer import Trainer

pytestmark = pytest.mark.ray

SPACE = {"model": "seed", "width": [2, 3], "lr": {"log": [0.5, 4]}, "batch_size": 10}
CLOCKS = {"seconds", "compute_seconds", "validation_seconds", "images_per_second"}

DRIVER = """
import sys
from pathlib import Path
from test_tuning import Sweep
from n2n.data import PairSet

sweep = Sweep(PairSet.open(sys.argv[1]), Path(sys.argv[2]), trials=4, max_epochs=6)
sweep.run(lambda event: print(event.kind, event.trial, flush=True))
"""


class Sweep:
    """A sweep of a small space, where and as the settings say."""

    def __init__(
        self, pairs: PairSet, path: Path, space: dict[str, Any] = SPACE, **settings: Any
    ) -> None:
        self.pairs, self.space = pairs, Space.of(space)
        self.config = SweepConfig(**{"scheduler": "none", **settings}).for_set(pairs)
        self.directory = SweepDirectory(path)
        self.events: list[Event] = []

    def run(self, listen: Callable[[Event], None] = lambda event: None, **settings: Any) -> None:
        def on_event(event: Event) -> None:
            self.events.append(event)
            listen(event)

        with self.directory.locked():
            self.directory.begin(self.config, self.space, self.pairs)
            run_sweep(
                self.config,
                self.space,
                self.pairs,
                self.directory,
                on_event=on_event,
                **settings,
            )

    @property
    def states(self) -> dict[int, str]:
        return {trial.number: trial.state for trial in self.directory.trials()}

    def require_undisturbed(self, alone: Path) -> None:
        """Every trial that is done has the epochs and the weights of a run of its own."""
        samples = dict(enumerate(self.config.samples(self.space)))
        for trial in self.directory.trials():
            if trial.state != "done":
                continue
            assert trial.settings == samples[trial.number]
            config = self.config.settings_of(trial.settings, self.pairs)
            run = alone / str(trial.number)
            assert timeless(Trainer(config, self.pairs, run).train()) == timeless(trial.lines)
            own = self.directory.trial_path(trial.number)
            for name in ("model.safetensors", "checkpoints/last.safetensors"):
                expected, found = (read_tensors(path / name)[0] for path in (run, own))
                assert expected.keys() == found.keys()
                assert all(expected[key].equal(found[key]) for key in found)

    def files(self) -> set[str]:
        return {str(p.relative_to(self.directory.path)) for p in self.directory.path.rglob("*.*")}


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line.keys() - CLOCKS} for line in lines]


def trial_processes(session: int) -> list[int]:
    return [pid for pid, name in processes_of(session).items() if "TrialProcess" in name]


@pytest.fixture
def make(make_set: Callable[..., PairSet], tmp_path: Path) -> Callable[..., Sweep]:
    def begin(*space: Any, rows: int = 60, **settings: Any) -> Sweep:
        return Sweep(make_set(rows=rows), tmp_path / "sweep", *space, **settings)

    return begin


def test_trials_one_of_which_loses_its_process(
    make: Callable[..., Sweep], ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """Some are done as if alone; one diverges, which is recorded; and nothing else is left."""
    space = {**SPACE, "lr": [0.5, 1.0, 2.0, 1e30]}
    sweep = make({**space, "width": 2}, search="grid", max_epochs=4)
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event.kind == "epoch" and event.trial == 1 and not killed:
            killed.extend(trial_processes(ray_cluster.nodes[0].pid))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    environment = dict(os.environ)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]
    sweep.run(kill, address=ray_cluster.address)
    assert killed
    assert sweep.states == {0: "done", 1: "done", 2: "done", 3: "failed"}
    sweep.require_undisturbed(tmp_path / "alone")
    [failed] = [trial for trial in sweep.directory.trials() if trial.state == "failed"]
    assert "loss is" in str(failed.reason)
    assert "in epoch 1" in str(failed.reason)
    kinds = Counter((event.kind, event.trial) for event in sweep.events)
    assert kinds["lost", 1] == 1
    assert [kinds["epoch", n] for n in range(4)] == [4, 4, 4, 0], "each epoch is told once"
    assert [kinds["begun", n] for n in range(4)] == [1] * 4
    own = {"config.yaml", "metrics.jsonl", "model.safetensors"}
    own |= {f"checkpoints/{name}.safetensors" for name in ("best", "last")}
    expected = {f"trials/{n:04d}/{name}" for n in range(3) for name in own}
    found = {name for name in sweep.files() if "0003" not in name and "provenance" not in name}
    assert found == expected | {"sweep.yaml", "trials.jsonl"}
    assert (dict(os.environ), handlers) == (
        environment,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)],
    )
    # Once more: there is nothing to do, and no Ray is sought.
    sweep.run(address="127.0.0.1:1")


def test_a_trial_that_kills_its_process(
    make: Callable[..., Sweep], ray_cluster: RayCluster
) -> None:
    sweep = make(trials=1, max_epochs=500)

    def kill(event: Event) -> None:
        if event.kind == "epoch":
            for pid in trial_processes(ray_cluster.nodes[0].pid):
                os.kill(pid, signal.SIGKILL)

    sweep.run(kill, address=ray_cluster.address)
    [trial] = sweep.directory.trials()
    assert trial.state == "failed"
    assert trial.reason == "its process died, perhaps for lack of memory, 3 times"
    assert 1 <= trial.epochs < 500


def test_parts_of_gpus_and_a_signal(
    make: Callable[..., Sweep], ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """Two GPUs, half of one for each trial: four at a time. Stopped, and gone on with."""
    sweep = make(trials=5, max_epochs=8, gpus_per_trial=0.5, cpus_per_trial=0.5)
    placed: list[int] = []

    def stop(event: Event) -> None:
        if event.kind == "begun" and not placed:
            wait_until(lambda: free() == {"CPU": 4 - 4 * 0.5, "GPU": 2 - 4 * 0.5})
            wait_until(lambda: len(trial_processes(ray_cluster.nodes[0].pid)) >= 4)
            placed.append(len(trial_processes(ray_cluster.nodes[0].pid)))
        if event.kind == "epoch":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="the trials are saved, run the same command again"):
        sweep.run(stop, address=ray_cluster.address)
    assert placed == [4]
    assert set(sweep.states.values()) == {"begun"}
    wait_until(lambda: trial_processes(ray_cluster.nodes[0].pid) == [])
    sweep.config = SweepConfig(**{**sweep.config.as_dict(), "gpus_per_trial": 0.0})
    sweep.run(address=ray_cluster.address)
    assert sweep.states == dict.fromkeys(range(5), "done")
    sweep.require_undisturbed(tmp_path / "alone")


def wait_until(condition: Callable[[], bool]) -> None:
    """What Ray's books say, and when a process ends, is a matter of moments."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free() -> dict[str, float]:
    """What Ray has not given to trials."""
    return {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}


def test_a_place_that_is_not_there(make: Callable[..., Sweep], ray_cluster: RayCluster) -> None:
    sweep = make(trials=2, gpus_per_trial=3.0)
    with pytest.raises(
        InvalidValue,
        match=r"^a trial with 1 CPU and 3 GPUs expected a place within 1 s, found 4 CPUs "
        r"\(\d free\) and 2 GPUs \(\d free\); use less for each, or wait for others$",
    ):
        sweep.run(address=ray_cluster.address, patience=1)
    assert sweep.states == {}


def test_a_machine_that_is_lost(
    make: Callable[..., Sweep], ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """The trials fit only there, and then on another one."""
    machines = [ray_cluster.add(cpus=2, gpus=6)]
    sweep = make(trials=3, max_epochs=4, gpus_per_trial=3.0)

    def lose(event: Event) -> None:
        if event.kind == "epoch" and len(machines) == 1:
            machines.append(ray_cluster.add(cpus=2, gpus=6))
            ray_cluster.lose(machines[0])

    try:
        sweep.run(lose, address=ray_cluster.address)
    finally:
        for machine in machines:
            ray_cluster.lose(machine)
    assert any(event.kind == "lost" for event in sweep.events)
    assert sweep.states == dict.fromkeys(range(3), "done")
    sweep.require_undisturbed(tmp_path / "alone")


def test_a_killed_driver(
    make: Callable[..., Sweep], ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """With a Ray of its own; its trials go with it, and another driver ends what it had begun."""
    sweep = make(trials=4, max_epochs=6)
    folder = Path(tempfile_folder())
    driver = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER, sweep.pairs.path, sweep.directory.path],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
            "TMPDIR": str(folder),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stderr is not None
        said = []
        for line in driver.stdout:
            said.append(line.split())
            if said[-1][0] == "done" and len(said) >= 8:
                break
        assert said, driver.stderr.read()
        workers = trial_processes(driver.pid)
        driver.kill()
        driver.wait()
        deadline = time.monotonic() + 30
        while any(Path("/proc", str(pid)).exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert driver.stderr.read() == ""
    finally:
        for pid in processes_of(driver.pid):
            os.kill(pid, signal.SIGKILL)
        driver.stdout.close()
        driver.stderr.close()
        driver.wait()
        subprocess.run(["rm", "-r", folder], check=True)
    done = {number for number, state in sweep.states.items() if state == "done"}
    assert done
    times = {n: sweep.directory.trial_path(n).joinpath("metrics.jsonl").stat() for n in done}
    sweep.run(address=ray_cluster.address)
    assert sweep.states == dict.fromkeys(range(4), "done")
    for number, stat in times.items():  # not run again
        path = sweep.directory.trial_path(number) / "metrics.jsonl"
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
    sweep.require_undisturbed(tmp_path / "alone")


def tempfile_folder() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="n2n-", dir="/tmp")  # short: sockets
