"""Batches on their way to the device, prepared while the steps before them run.

On a CPU it is not worth it for pairs that are read: by measurement, a core prepares a batch of 64
or 100 pairs of 3x32x32 in 0.2 to 0.7 ms, a hundredth of what it takes for the step of a small
network, and a thread of its own would take that from the same cores. Pairs that are drawn come a
window at a time, which a step would wait for. So would a GPU. What is said of GPUs has not
been run on one yet.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from n2n.data.batches import Pair
from n2n.evaluation import to_float

__all__ = ["feed", "prefetch"]

Item = TypeVar("Item")

AHEAD = 2


def feed(
    batches: Iterable[Pair], device: torch.device | str, *, threaded: bool
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Batches (N, C, H, W) in 0 to 255 as float32 in [0, 1] on the device, in their order.

    threaded: `batches` runs in a thread of its own, two batches ahead; close the generator to end
    it. To a GPU it also copies, from pinned memory and on a stream beside the network's.
    """
    device = torch.device(device)
    if device.type == "cuda":
        yield from _feed_gpu(batches, device, threaded=threaded)
        return
    for inputs, targets in prefetch(batches, AHEAD) if threaded else batches:
        yield to_float(inputs, device), to_float(targets, device)


def _feed_gpu(
    batches: Iterable[Pair], device: torch.device, *, threaded: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    stream = torch.cuda.Stream(device)

    def send() -> Iterator[tuple[Tensor, Tensor, torch.cuda.Event]]:
        for pair in batches:
            with torch.cuda.stream(stream):
                x, y = (
                    torch.from_numpy(pixels).pin_memory().to(device, non_blocking=True)
                    for pixels in pair
                )
                copied = stream.record_event()
            yield x, y, copied

    for x, y, copied in prefetch(send(), AHEAD) if threaded else send():
        network = torch.cuda.current_stream(device)
        network.wait_event(copied)
        for pixels in (x, y):
            pixels.record_stream(network)  # keep the memory until the network has read it
        yield x.to(torch.float32).div_(255), y.to(torch.float32).div_(255)


def prefetch(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """The same items in the same order, each made by one thread, up to `ahead` before its turn.

    An error in making an item is raised in its turn. The thread ends with this generator: with
    the last item, with an error, or when it is closed.
    """
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as executor:
        waiting = deque(executor.submit(next, iterator, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(executor.submit(next, iterator, end))
                yield item  # type: ignore[misc]  # mypy does not see that `end` is left out
        finally:
            for future in waiting:
                future.cancel()
