"""Bunches over workers on a real Ray: an outcome for every item, whatever becomes of workers."""

import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clusters import RayCluster
from pool_workers import Item, Make, Outcome, failed

from jobs.processes.pool import AHEAD, DEATHS, run_on_ray, threads_for
from n2n.errors import InvalidValue, JobFailed

pytestmark = pytest.mark.ray


class Pool:
    """run_on_ray on the session's cluster, with workers that write to a folder."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.warnings: list[str] = []

    def run(
        self, bunches: Iterable[Sequence[Item]], make: str = "", **settings: Any
    ) -> Iterator[Outcome]:
        settings = {"workers": 2, "address": self.cluster.address, **settings}
        make = Make(self.folder, make)
        return run_on_ray(make, bunches, fail=failed, warn=self.warnings.append, **settings)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def begun(self) -> Counter[int]:
        """How often each item was begun."""
        return Counter(int(line) for line in self.lines("begun"))


@pytest.fixture
def pool(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Pool]:
    """After the test no worker is left, and the cluster is."""
    pool = Pool(ray_cluster, tmp_path)
    yield pool
    assert ray_cluster.nodes[0].poll() is None
    assert not [pid for pid in pool.lines("started") if is_running(int(pid))]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def bunches(count: int, size: int, **does: str) -> list[list[Item]]:
    """Items 0, 1, … in bunches; n7="die" says what the seventh does."""
    items = [Item(number, does.get(f"n{number}", "")) for number in range(count)]
    return [items[start : start + size] for start in range(0, count, size)]


def states(outcomes: Iterable[Outcome]) -> dict[int, str]:
    """What each item ended with; each has one outcome."""
    said: dict[int, str] = {}
    for outcome in outcomes:
        assert outcome.item.number not in said
        said[outcome.item.number] = outcome.said
    return said


DONE = "done"
KILLER = "failed: its worker died 3 times at it"


def test_every_item_is_done_once(pool: Pool) -> None:
    outcomes = list(pool.run(bunches(103, 5, n0="meet 2", n5="meet 2")))
    assert states(outcomes) == dict.fromkeys(range(103), DONE)
    assert set(pool.begun.values()) == {1}
    # Two processes, each of which built its worker once.
    started = pool.lines("started")
    assert len(started) == len(set(started)) == 2
    assert {outcome.pid for outcome in outcomes} == {int(pid) for pid in started}


def test_outcomes_come_before_their_bunch_ends(pool: Pool) -> None:
    outcomes = pool.run([[Item(0), Item(1, "hang")]], workers=1)
    with closing(outcomes):
        assert next(outcomes).item == Item(0)


def test_bunches_are_taken_as_they_are_needed(pool: Pool) -> None:
    taken = 0

    def source() -> Iterator[list[Item]]:
        nonlocal taken
        for taken in range(1, 101):
            yield [Item(2 * taken), Item(2 * taken + 1)]

    most = 0
    for count, _ in enumerate(pool.run(source()), start=1):
        most = max(most, taken - count // 2)
    assert (taken, count) == (100, 200)
    assert most <= 2 * AHEAD + 1


def test_no_more_workers_than_bunches(pool: Pool) -> None:
    assert len(list(pool.run([[Item(0)], [], [Item(1)]], workers=4))) == 2
    assert 1 <= len(pool.lines("started")) <= 2  # the first may have done both


def test_a_killed_worker_costs_what_it_had_not_done(pool: Pool) -> None:
    does = {"n12": "die once", "n33": "die once"}
    assert states(pool.run(bunches(60, 10, **does))) == dict.fromkeys(range(60), DONE)
    twice = {number for number, times in pool.begun.items() if times > 1}
    assert {12, 33} <= twice
    # What had been reported of its bunch is not done again, nor any other bunch.
    assert max(pool.begun.values()) == 2
    assert all(number in range(10, 14) or number in range(30, 35) for number in twice)
    assert len(pool.lines("started")) >= 3


@pytest.mark.parametrize("does", ["die", "exit"])
def test_an_item_that_kills_its_worker_is_given_up(pool: Pool, does: str) -> None:
    said = states(pool.run(bunches(40, 8, n3=does, n20=does)))
    killers = {number: text for number, text in said.items() if text != DONE}
    assert killers.keys() == {3, 20}
    assert all(text.startswith(KILLER) for text in killers.values())
    assert len(said) == 40
    assert pool.begun[3] == pool.begun[20] == DEATHS


def test_items_of_which_each_kills_its_worker(pool: Pool) -> None:
    said = states(pool.run([[Item(0, "die"), Item(1, "die")], [Item(2, "die")]]))
    assert said.keys() == {0, 1, 2}
    assert all(text.startswith(KILLER) for text in said.values())
    # The second one is at fault alone, too; that the first had killed its bunch counts once.
    assert pool.begun[0] == pool.begun[2] == DEATHS
    assert pool.begun[1] == DEATHS - 1


def test_a_killer_never_costs_a_neighbour(pool: Pool) -> None:
    """A done item whose news died with the worker is done again, not given up."""
    does = {f"n{number}": "die" for number in (1, 2, 3)}
    said = states(pool.run(bunches(6, 6, **does), workers=1))
    assert {number for number, text in said.items() if text == DONE} == {0, 4, 5}


def test_an_item_without_an_outcome(pool: Pool) -> None:
    said = states(pool.run(bunches(9, 3, n4="forget")))
    assert said.pop(4) == "failed: its worker gave no outcome for it"
    assert said == dict.fromkeys({*range(9)} - {4}, DONE)


def test_what_a_worker_raises_ends_the_work(pool: Pool) -> None:
    with pytest.raises(OSError, match="No space left") as info:
        list(pool.run(bunches(40, 2, n6="full disk")))
    assert (info.value.errno, info.value.filename) == (errno.ENOSPC, "/out/a.png")
    assert "in _do" in info.value.__notes__[0]  # where it was raised, for --debug
    with pytest.raises(JobFailed) as stopped:
        list(pool.run(bunches(40, 2, n6="stop")))
    assert str(stopped.value) == "stopped in the middle"


def test_make_refuses(pool: Pool) -> None:
    with pytest.raises(InvalidValue) as info:
        list(pool.run(bunches(40, 2), make="refuse"))
    assert str(info.value) == "model.safetensors: a model expected, found a text"
    assert len(pool.lines("started")) <= 2


def test_make_raises_what_cannot_travel(pool: Pool) -> None:
    with pytest.raises(JobFailed) as info:
        list(pool.run(bunches(40, 2), make="raise"))
    assert str(info.value) == "Unsendable: 1 and 2"
    assert len(pool.lines("started")) <= 2


def test_workers_that_die_at_their_start(pool: Pool) -> None:
    with pytest.raises(JobFailed, match="3 workers died at their start"):
        list(pool.run(bunches(40, 2), make="die"))
    assert DEATHS <= len(pool.lines("started")) <= DEATHS + 1


def test_a_make_that_the_workers_cannot_find(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Make, "__module__", "elsewhere")
    monkeypatch.setitem(__import__("sys").modules, "elsewhere", __import__("pool_workers"))
    with pytest.raises(JobFailed, match=r"a worker could not work: .*elsewhere.*the same n2n"):
        list(pool.run([[Item(0)]]))


def test_a_closed_iterator_has_ended_its_workers(pool: Pool) -> None:
    outcomes = pool.run(bunches(40, 1, **{f"n{n}": "hang" for n in range(1, 40)}))
    next(outcomes)
    running = [int(pid) for pid in pool.lines("started")]
    assert any(is_running(pid) for pid in running)
    outcomes.close()
    assert not any(is_running(pid) for pid in running)


def test_parts_of_gpus(pool: Pool) -> None:
    does = {f"n{n}": "meet 4" for n in range(8)}
    outcomes = list(pool.run(bunches(8, 1, **does), workers=4, gpus_per_worker=0.5))
    assert len({outcome.pid for outcome in outcomes}) == 4
    # Two workers to each of the two, of which each worker sees its own alone.
    assert Counter(pool.lines("gpus")) == {"0 of 0": 2, "1 of 1": 2}


def test_a_place_that_is_not_there(pool: Pool) -> None:
    started = time.monotonic()
    with pytest.raises(
        InvalidValue,
        match=r"^2 workers with 1 CPU and 3 GPUs each expected a place within 1 s, "
        r"found 4 CPUs \(\d free\) and 2 GPUs \(\d free\); use fewer workers, or less for each$",
    ):
        list(pool.run(bunches(9, 1), gpus_per_worker=3, patience=1))
    assert time.monotonic() - started < 15
    assert pool.lines("started") == []


def test_fewer_places_than_workers(pool: Pool) -> None:
    does = {"n0": "meet 2", "n1": "meet 2"} | {f"n{n}": "wait" for n in range(2, 60)}
    said = states(pool.run(bunches(60, 1, **does), workers=3, gpus_per_worker=1, patience=5))
    assert said == dict.fromkeys(range(60), DONE)
    assert len(pool.lines("started")) == 2
    [line] = pool.warnings
    assert "3 workers with 1 CPU and 1 GPU each expected a place within 5 s" in line
    assert "1 of them still waiting; going on without" in line


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"workers": 0}, "workers must be 1 or more; found 0"),
        ({"cpus_per_worker": -1.0}, "cpus_per_worker must be"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker must be a whole number, or a fraction"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker must be"),
        ({"gpus_per_worker": float("inf")}, "gpus_per_worker must be"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, float], fault: str) -> None:
    with pytest.raises(InvalidValue, match=fault):
        run_on_ray(Make(tmp_path), [], fail=failed, **{"workers": 2, **settings})


def test_threads() -> None:
    assert [threads_for(cpus) for cpus in (0, 0.25, 1, 3.0)] == [1, 1, 1, 3]


def test_without_bunches_no_ray_is_sought(tmp_path: Path) -> None:
    nowhere = "127.0.0.1:1"
    assert not list(run_on_ray(Make(tmp_path), [], workers=2, address=nowhere, fail=failed))


def test_addresses_where_no_ray_is(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{silent.getsockname()[1]}"
        for address, fault in [
            (closed, f"none answered at {closed} .*refused"),
            ("127.0.0.1:port", "none answered at 127.0.0.1:port"),
            ("ray://127.0.0.1:10001", "HOST:PORT of a running Ray cluster, or auto, expected"),
        ]:
            with pytest.raises(InvalidValue, match=fault):
                list(run_on_ray(Make(tmp_path), [[1]], workers=2, address=address, fail=failed))


def test_a_machine_that_is_lost(pool: Pool) -> None:
    """In the middle of a bunch: what it had not done is done elsewhere, and no item is blamed."""
    machine = pool.cluster.add(cpus=4)
    does = {f"n{n}": "meet 6" if n < 30 else "wait" for n in range(90)}
    said: dict[int, str] = {}
    outcomes = pool.run(bunches(90, 5, **does), workers=6)
    for outcome in outcomes:
        said[outcome.item.number] = outcome.said
        if len(said) == 40:
            pool.cluster.lose(machine)
    assert said == dict.fromkeys(range(90), DONE)
    assert max(pool.begun.values()) == 2


def test_the_drivers_memory_is_flat(pool: Pool) -> None:
    count, size = 100_000, 100
    source = ([Item(start + n) for n in range(size)] for start in range(0, count, size))
    resident = {}
    for number, _ in enumerate(pool.run(source), start=1):
        if number % 10_000 == 0:
            resident[number] = resident_bytes()
    assert number == count
    assert resident[count] - resident[20_000] < 10 * 2**20, resident


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
