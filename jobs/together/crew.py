"""Workers that train one network together, from their places on Ray to the end of one of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from jobs.processes.host import Raised
from jobs.processes.seat import Died, Placement, dismiss, fetch
from jobs.together.member import Member, Place, Task
from n2n.errors import Interrupted, JobFailed, PeerLost
from n2n.peers import LOOPBACK
from n2n.position import Position

__all__ = ["Crew", "News", "NoPlace", "assembled"]

SECONDS_TO_START = 180.0  # for the workers' processes
SECONDS_BETWEEN_NEWS = 0.5
SECONDS_TO_EXPLAIN = 15.0  # from a worker's lost touch with another to what has become of that

News = Callable[[Position, list[dict[str, Any]]], None]


class NoPlace(Exception):
    """So many workers find no place in time."""


class Post:
    """One worker as its driver sees it."""

    def __init__(self, rank: int, actor: Any) -> None:
        self.rank, self.actor = rank, actor
        self.node, self.address, self.pid = "", "", 0

    def take(self, place: Place) -> None:
        self.node, self.address, self.pid = place.node, place.address, place.pid


@contextmanager
def assembled(
    placement: Placement, patience: float, is_stopped: Callable[[], bool]
) -> "Iterator[Crew]":
    """Workers in places of their own, near each other; they are gone after the block.

    NoPlace after `patience` seconds; Interrupted once `is_stopped`.
    """
    bundle = {"CPU": placement.cpus, "GPU": placement.gpus}
    bundle = {name: share for name, share in bundle.items() if share}
    group = placement_group([bundle] * placement.workers, strategy="PACK")
    posts: list[Post] = []
    try:
        if not wait([group.ready()], patience, is_stopped):
            raise NoPlace
        for rank in range(placement.workers):
            posts.append(Post(rank, _hire(placement, group, rank)))
        yield Crew(posts, is_stopped)
    finally:
        dismiss(posts)
        remove_placement_group(group)


def _hire(placement: Placement, group: PlacementGroup, rank: int) -> Any:
    return Member.options(
        num_cpus=placement.cpus,
        num_gpus=placement.gpus,
        max_concurrency=2,  # train, beside news or stop
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
    ).remote()


def wait(references: Sequence[Any], seconds: float, is_stopped: Callable[[], bool]) -> bool:
    """Until all are there; False when they are not in time, Interrupted once `is_stopped`."""
    deadline = time.monotonic() + seconds
    waiting = list(references)
    while waiting:
        if is_stopped():
            raise Interrupted("stopped before a batch was done; run the same command again")
        if time.monotonic() > deadline:
            return False
        _, waiting = ray.wait(
            waiting, num_returns=len(waiting), timeout=SECONDS_BETWEEN_NEWS, fetch_local=False
        )
    return True


class Crew:
    """The workers of one attempt."""

    def __init__(self, posts: list[Post], is_stopped: Callable[[], bool]) -> None:
        self._posts, self._is_stopped = posts, is_stopped
        self._running: dict[Any, Post] = {}  # by the reference to what its training ends with
        self._asked: Any = None  # for news
        self._ask_at = 0.0
        self._known = 0  # epochs that we have heard of
        self._done = False
        self._lost_touch: PeerLost | None = None

    def train(self, task: Task, on_news: News) -> None:
        """Train to the end, hearing news of it. Died when a worker is gone."""
        meeting = self._meet()
        for post in self._posts:
            address = LOOPBACK if meeting[0] == LOOPBACK else post.address
            reference = post.actor.train.remote(task, post.rank, len(self._posts), meeting, address)
            self._running[reference] = post
        self._lead(on_news)

    def _meet(self) -> tuple[str, int]:
        """Start the processes; gives rank 0's host and port."""
        places = self._all([post.actor.place.remote() for post in self._posts])
        for post, place in zip(self._posts, places, strict=True):
            post.take(place)
        one_machine = len({post.node for post in self._posts}) == 1
        host = LOOPBACK if one_machine else self._posts[0].address
        (port,) = self._all([self._posts[0].actor.meet.remote(host)])
        if isinstance(port, Raised):
            port.throw()
        return host, port

    def _all(self, references: list[Any]) -> list[Any]:
        if not wait(references, SECONDS_TO_START, self._is_stopped):
            raise JobFailed(
                f"workers expected to start within {SECONDS_TO_START:g} s, but they have not, "
                "perhaps for lack of memory; use fewer"
            )
        return [fetch(reference) for reference in references]

    def _lead(self, on_news: News) -> None:
        """Until rank 0 is done, or another has a reason to end the attempt."""
        leader = self._posts[0]
        stopping, patience = False, None
        while not self._done:
            if self._is_stopped() and not stopping:
                leader.actor.stop.remote()
                stopping = True
            self._hear(leader, on_news)
            ready, _ = ray.wait(list(self._running), timeout=SECONDS_BETWEEN_NEWS)
            for reference in ready:
                post = self._running.pop(reference)
                self._end(post, self._result(post, reference), on_news)
            if self._lost_touch is not None:
                patience = patience or time.monotonic() + SECONDS_TO_EXPLAIN
                if time.monotonic() > patience or not self._running:
                    raise Died(str(self._lost_touch))

    def _result(self, post: Post, reference: Any) -> Any:
        try:
            return fetch(reference)
        except Died as death:
            raise Died(f"worker {post.rank + 1} of {len(self._posts)} died") from death

    def _end(self, post: Post, raised: Raised | None, on_news: News) -> None:
        """What has become of a worker: it is done, or has raised something."""
        if raised is not None and isinstance(raised.error, PeerLost):
            # By a death, or another's error, of which we will hear.
            self._lost_touch = raised.error
            return
        if post.rank == 0:
            self._done = raised is None
            self._take(self._result(post, post.actor.news.remote(self._known)), on_news)
        elif raised is not None and isinstance(raised.error, Interrupted):
            return  # rank 0 will say so when it has saved
        if raised is not None:
            raised.throw()

    def _hear(self, leader: Post, on_news: News) -> None:
        """Take rank 0's news, if they are there, and ask for more now and then."""
        if self._asked is None:
            if time.monotonic() > self._ask_at:
                self._asked = leader.actor.news.remote(self._known)
            return
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return
        asked, self._asked = self._asked, None
        self._ask_at = time.monotonic() + SECONDS_BETWEEN_NEWS
        self._take(self._result(leader, asked), on_news)

    def _take(self, news: tuple[Position, list[dict[str, Any]]] | None, on_news: News) -> None:
        if news is not None:
            position, lines = news
            self._known += len(lines)
            on_news(position, lines)
