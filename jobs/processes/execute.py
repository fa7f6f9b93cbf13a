"""Items that workers score, in this process or on Ray."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.processes.workers import Workers

if TYPE_CHECKING:
    from n2n.protocol import ContestConfig
    from n2n.scoring import ScorerConfig

__all__ = ["execute"]


def execute(
    make: Callable[[Any], Any],
    fail: Callable[[Any, str], Any],
    config: "ScorerConfig | ContestConfig",
    bunches: Iterable[Sequence[Any]],
    workers: Workers,
    stack: ExitStack,
    say: Callable[[str], None],
) -> Generator[Any, None, None]:
    """The outcomes of all items. What cannot be used here is refused before anything starts.

    make: a worker of the config; fail: the outcome of an item that the pool gives up.
    """
    from n2n.device import use_precision

    if not workers.on_ray:
        yield from make(config).execute(bunches)
        return
    from jobs.processes.pool import run_on_ray, threads_for

    cpus, gpus = workers.share(config.device, config.threads, stack)
    if not gpus:
        use_precision(config.precision, "cpu")
    threads = config.threads or threads_for(cpus)
    each = f"{gpus:.3g} GPU" if gpus else f"cpu ({threads} threads)"
    say(f"device: {workers.count} workers on Ray, each {each}, {config.precision}")
    config = replace(config, device="cuda" if gpus else "cpu", threads=threads)
    yield from run_on_ray(
        partial(make, config),
        bunches,
        workers=workers.count,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        address=workers.address,
        fail=fail,
        warn=say,
    )
