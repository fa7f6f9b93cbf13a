"""Bunches of items over worker processes on Ray, each item to exactly one outcome.

A worker is one actor that holds what `make()` built, once. It gets a bunch or two ahead, and its
outcomes stream back as they come, so that what it had done is known when it dies. Its unfinished
items are then done again, each alone, so that one which kills its worker is known for certain; at
the third death it is given up, and the rest goes on.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, Protocol, TypeVar

import ray

from jobs.processes.seat import Bunch, Died, Placement, Seat, capacity, dismiss, resources
from jobs.processes.session import joined
from n2n.errors import InvalidValue, JobFailed

__all__ = ["Worker", "run_on_ray", "threads_for"]

DEATHS = 3  # of workers at the same item, or of workers at their start in a row
AHEAD = 2  # bunches that a worker has, the one at work included
PATIENCE = 60.0  # seconds for a worker to find its place in the cluster
SECONDS_BETWEEN_LOOKS = 1.0


class HasItem(Protocol):
    """An outcome names its item."""

    @property
    def item(self) -> Any: ...


Item = TypeVar("Item", bound=Hashable)
Outcome = TypeVar("Outcome", bound=HasItem)
ItemIn = TypeVar("ItemIn", bound=Hashable, contravariant=True)
OutcomeOut = TypeVar("OutcomeOut", bound=HasItem, covariant=True)


class Worker(Protocol[ItemIn, OutcomeOut]):
    """What `make()` builds, once in each process."""

    def run(self, items: Sequence[ItemIn]) -> Iterator[OutcomeOut]:
        """Yield an outcome for each item, in any order, as soon as the item is done."""


def run_on_ray(
    make: Callable[[], Worker[Item, Outcome]],
    bunches: Iterable[Sequence[Item]],
    *,
    workers: int,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    fail: Callable[[Item, str], Outcome],
    warn: Callable[[str], None] = lambda line: None,
    patience: float = PATIENCE,
) -> Iterator[Outcome]:
    """Yield the outcome of each item, in no order, from workers on Ray.

    make, items and outcomes travel between processes (pickle); items are distinct and hashable.
    make() should give its process `threads_for(cpus_per_worker)` threads. Bunches are taken as
    they are needed, a few ahead; without any, Ray is not started. fail(item, reason) makes the
    outcome of an item that killed its worker three times, or that its worker left out.

    address: see `jobs.processes.session.joined`. Close the iterator (contextlib.closing) to stop
    early: its workers are ended, and waited for, when it is closed, also by an exception or Ctrl-C.

    What make() or a worker's run raises comes out here and ends the work. Raises InvalidValue when
    the workers find no place within `patience` seconds, and JobFailed when they die at their start.
    """
    placement = Placement(workers, cpus_per_worker, gpus_per_worker)
    pool = Pool(make, placement, fail=fail, warn=warn, patience=patience)
    return pool.outcomes(bunches, address)


def threads_for(cpus_per_worker: float) -> int:
    """The threads of one worker, so that all together do not ask for more than the cores."""
    return max(1, int(cpus_per_worker))


class Pool(Generic[Item, Outcome]):
    """The driver's side: seats, the bunches not yet given to one, and the deaths of each item."""

    def __init__(
        self,
        make: Callable[[], Worker[Item, Outcome]],
        placement: Placement,
        *,
        fail: Callable[[Item, str], Outcome],
        warn: Callable[[str], None],
        patience: float,
    ) -> None:
        self._make, self._placement, self._patience = make, placement, patience
        self._fail, self._warn = fail, warn
        self._seats: list[Seat] = []
        self._source: Iterator[Sequence[Item]] = iter(())
        self._again: deque[Bunch] = deque()
        self._exhausted = False  # the source, not what is to be done again
        self._deaths: Counter[Item] = Counter()
        self._deaths_at_start = 0
        self._begun = False
        self._warned = False
        self._look_at = 0.0  # when to look around next, for late seats and lost machines

    def outcomes(self, bunches: Iterable[Sequence[Item]], address: str | None) -> Iterator[Outcome]:
        source = (bunch for bunch in bunches if bunch)
        first = list(islice(source, self._placement.workers))
        if not first:
            return
        self._source = chain(first, source)
        with joined(address) as own:
            if own and capacity(self._placement) < self._placement.workers:
                raise InvalidValue(self._no_place("to fit this machine"))
            try:
                for _ in first:
                    self._hire()
                while self._work_left or any(seat.bunches for seat in self._seats):
                    seat = self._wait()
                    if seat is not None:
                        yield from self._advance(seat)
            finally:
                dismiss(self._seats)

    @property
    def _work_left(self) -> bool:
        return bool(self._again) or not self._exhausted

    def _hire(self) -> None:
        self._seats.append(Seat(self._placement, self._make, self._patience))

    def _wait(self) -> Seat | None:
        """A seat with news, in turn; None when there was none for a while."""
        if time.monotonic() > self._look_at:
            self._look_around()
            self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        waiting = [seat for seat in self._seats if seat.awaited is not None]
        ready, _ = ray.wait(
            [seat.awaited for seat in waiting], timeout=SECONDS_BETWEEN_LOOKS, fetch_local=False
        )
        for seat in waiting:
            if ready and seat.awaited is ready[0]:
                self._seats.remove(seat)
                self._seats.append(seat)
                return seat
        return None

    def _advance(self, seat: Seat) -> Iterator[Outcome]:
        """Take a seat's news."""
        try:
            if seat.working:
                yield from self._take(seat)
            else:
                seat.step_in()
                self._deaths_at_start *= not seat.working
                self._feed(seat)
        except Died:
            yield from self._bury(seat)

    def _take(self, seat: Seat) -> Iterator[Outcome]:
        news = seat.next_outcomes()
        if news is not None:
            self._begun = True
            for item, outcome in news:
                self._deaths.pop(item, None)
                yield outcome
            return
        forgotten = seat.bunches.popleft().left.values()
        self._feed(seat)
        for item in forgotten:
            self._deaths.pop(item, None)
            yield self._fail(item, "its worker gave no outcome for it")

    def _feed(self, seat: Seat) -> None:
        """Give a working seat its bunch or two; but to one that is alone, nothing is added."""
        while seat.working and len(seat.bunches) < AHEAD and self._work_left:
            alone = self._again and self._again[0].alone
            if seat.bunches and (alone or seat.bunches[-1].alone):
                return
            bunch = self._next_bunch()
            if bunch is not None:
                seat.give(bunch)

    def _next_bunch(self) -> Bunch | None:
        if self._again:
            return self._again.popleft()
        items = next(self._source, None)
        self._exhausted = items is None
        return None if items is None else Bunch(items)

    def _bury(self, seat: Seat) -> Iterator[Outcome]:
        """Share out what a dead worker had to do, and take on another."""
        self._seats.remove(seat)
        dismiss([seat])
        blameless = seat.lost_with_its_machine()
        require_ray()
        if not seat.working and not blameless:
            self._deaths_at_start += 1
            if self._deaths_at_start == DEATHS:
                raise JobFailed(
                    f"{DEATHS} workers died at their start, one after the other, perhaps for lack "
                    "of memory; use fewer workers or a smaller model"
                )
        given_up: list[Item] = []
        if seat.bunches:
            left = list(seat.bunches.popleft().left.values())
            if blameless and left:
                self._again.append(Bunch(left))
            elif left:
                given_up = self._suspect(left)
        self._again.extend(Bunch(bunch.items, bunch.alone) for bunch in seat.bunches)
        for other in self._seats:
            self._feed(other)
        if self._work_left:
            self._hire()
        for item in given_up:
            yield self._fail(
                item,
                f"its worker died {DEATHS} times at it, perhaps for lack of memory; "
                "try it with one worker, or allow less memory",
            )

    def _suspect(self, items: Iterable[Item]) -> list[Item]:
        """Do items again, each alone; gives those that have had their chances."""
        given_up = []
        for item in items:
            self._deaths[item] += 1
            if self._deaths[item] < DEATHS:
                self._again.append(Bunch([item], alone=True))
            else:
                del self._deaths[item]
                given_up.append(item)
        return given_up

    def _look_around(self) -> None:
        require_ray()
        late = [seat for seat in self._seats if seat.late]
        if not late:
            return
        if len(late) == len(self._seats):
            error = JobFailed if self._begun else InvalidValue
            raise error(self._no_place(f"a place within {self._patience:g} s"))
        if not self._warned:
            self._warned = True
            waiting = f"{len(late)} of them still waiting; going on without"
            self._warn(f"{self._no_place(f'a place within {self._patience:g} s')} ({waiting})")

    def _no_place(self, expected: str) -> str:
        return (
            f"{self._placement} expected {expected}, found {resources()}; "
            "use fewer workers, or less for each"
        )


def require_ray() -> None:
    if not any(node["Alive"] for node in ray.nodes()):
        raise JobFailed(
            "Ray itself died, perhaps for lack of memory; "
            "run the same command again, with fewer workers"
        )
