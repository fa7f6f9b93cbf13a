"""A Ray of our own: started for one command, and nothing left of it, however that ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import RayCluster, processes_of

from jobs.processes import session

pytestmark = pytest.mark.ray

SCRIPT = """
import os, signal, sys
from pathlib import Path

from jobs.processes.pool import run_on_ray
from n2n.errors import N2NError
from pool_workers import Item, Make, failed

def run(*does, **settings):
    bunches = ([Item(number, one)] for number, one in enumerate(does))
    try:
        for outcome in run_on_ray(Make(Path.cwd()), bunches, workers=2, fail=failed, **settings):
            print(outcome.item.number, outcome.said.partition(",")[0], flush=True)
    except N2NError as error:
        print(f"{type(error).__name__}: {error}")
"""


class Driver:
    """A process of its own session that runs SCRIPT, its Ray's files in a folder of its own."""

    def __init__(self, script: str, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.temporary = Path(tempfile.mkdtemp(prefix="n2n-", dir="/tmp"))  # short: sockets
        places = {"TMPDIR": str(self.temporary), "HOME": str(folder / "home")}
        places["PYTHONPATH"] = str(Path(__file__).parents[1])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT + script],
            cwd=folder,
            env={**kept, **places, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self) -> tuple[int, list[str], str]:
        """Exit code, lines of standard output, standard error."""
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, out.splitlines(), err

    def wait_for(self, name: str) -> None:
        """Until the workers have written a file."""
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.result()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @property
    def left(self) -> dict[int, str]:
        return processes_of(self.process.pid)

    def clean(self) -> None:
        for pid in self.left:
            os.kill(pid, signal.SIGKILL)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait()
        subprocess.run(["rm", "-r", self.temporary], check=True)


Start = Callable[..., Driver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(script, **environment): a Driver; whatever it leaves is ended after the test."""
    drivers = []

    def begin(script: str, **environment: str) -> Driver:
        drivers.append(Driver(script, tmp_path, **environment))
        return drivers[-1]

    (tmp_path / "home").mkdir()
    yield begin
    for driver in drivers:
        driver.clean()


def test_nothing_is_left(start: Start) -> None:
    """Nor said, nor changed; and it can be started again."""
    driver = start("""
before = dict(os.environ), signal.getsignal(signal.SIGTERM)
run("wait", gpus_per_worker=1)
run("talk", "talk", "die", "talk", cpus_per_worker=0.5)
print((dict(os.environ), signal.getsignal(signal.SIGTERM)) == before)
print(os.listdir(os.environ["TMPDIR"]))
""")
    code, lines, err = driver.result()
    assert (code, err) == (0, "")
    assert driver.left == {}
    assert lines[0].startswith(
        "InvalidValue: 2 workers with 1 CPU and 1 GPU each expected to fit this machine, found "
    )
    dead = "failed: its worker died 3 times at it"
    assert sorted(lines[1:5]) == ["0 done", "1 done", f"2 {dead}", "3 done"]
    assert lines[5:] == ["True", "[]"]
    assert list(driver.temporary.iterdir()) == []
    assert list((driver.folder / "home").iterdir()) == []


@pytest.mark.parametrize("does", [pytest.param("wait", marks=pytest.mark.slow), "hang"])
def test_ctrl_c(start: Start, does: str) -> None:
    driver = start(f"run(*[{does!r}] * 100)")
    driver.wait_for("begun")
    os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does
    stopped = time.monotonic()
    code, _, err = driver.result()
    assert time.monotonic() - stopped < 30
    assert driver.left == {}
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    assert list(driver.temporary.iterdir()) == []


def test_a_killed_driver_takes_its_workers_along(start: Start) -> None:
    """At once: the next run must not meet them."""
    driver = start("run(*['wait'] * 100)")
    driver.wait_for("begun")
    workers = [int(line) for line in (driver.folder / "started").read_text().split()]
    assert set(workers) <= driver.left.keys()
    driver.process.kill()
    driver.process.wait()
    time.sleep(1)
    assert not driver.left.keys() & set(workers)
    [left] = driver.temporary.iterdir()
    assert left.name.startswith(f"{session.PREFIX}{driver.process.pid}-")


def test_what_a_killed_driver_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, alive, other = (
        tmp_path / name
        for name in (f"{session.PREFIX}{ended.pid}-abc", f"{session.PREFIX}1-abc", "n2n-other")
    )
    for folder in (dead, alive, other):
        (folder / "logs").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(session, "LONGEST_FOLDER", 1000)
    made = session._folder()
    assert set(tmp_path.iterdir()) == {alive, other, made}
    monkeypatch.setattr(session, "LONGEST_FOLDER", 1)  # too long for sockets
    short = session._folder()
    short.rmdir()
    assert short.parent == Path("/tmp")


@pytest.mark.slow
def test_a_killed_raylet(start: Start) -> None:
    quick = {"initial_delay_ms": 0, "period_ms": 300, "timeout_ms": 1000, "failure_threshold": 3}
    settings = {f"RAY_health_check_{name}": str(value) for name, value in quick.items()}
    driver = start("run(*['wait'] * 100)", **settings)
    driver.wait_for("begun")
    for pid, command in driver.left.items():
        if "--raylet_socket_name" in command:
            os.kill(pid, signal.SIGKILL)
    code, lines, _ = driver.result()
    assert code == 0
    assert "JobFailed: Ray itself died" in lines[-1]


def test_a_driver_of_a_cluster_that_is_killed(start: Start, ray_cluster: RayCluster) -> None:
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    driver = start(f"run('hang', 'hang', address={ray_cluster.address!r})", **token)
    driver.wait_for("begun")
    driver.process.kill()
    deadline = time.monotonic() + 30
    workers = [int(line) for line in (driver.folder / "started").read_text().split()]
    while any(Path("/proc", str(pid)).exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ray_cluster.nodes[0].poll() is None
