"""How much memory there is, and how much a network needs for a pixel.

The need follows from one forward of a small image in which every module's output is watched: what
is alive at once, at most, a pixel. Layers make more beside their outputs, and libraries too;
the constants below are what that came to in fresh processes, from above (tests/test_memory.py
holds every architecture against them).
"""

import resource
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from n2n.data.split import MEMORY_LIMIT
from n2n.models import Network
from n2n.nn.module import Module, scratch

__all__ = ["Need", "available", "fair_part", "limit", "pairs_to_hold"]

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
FAIR = {"cpu": 0.5, "cuda": 0.7}  # of what is free; the rest is for others, and for fragments
UNKNOWN = 2 << 30  # free, where the system does not say
NO_LIMIT = 1 << 60  # what old control groups say for none
COPIES = 6  # of a tile outside of the network: as read, in [0, 1], kept, clamped, as written
OVERHEAD = 2.0  # bytes that a forward takes, over those alive at once: freed holes, seen up to 1.6
FIXED = 12 << 20  # whatever the network and the size of the image
BUFFERS = 10  # times what the layers keep after the probe: their blocks grow, libraries pack them
WEIGHTS = 3  # times their size: transformed for the products, and packed
FORWARDS = ("forward", "forward_", "forward_into")  # the last of those that take activations
PROBE = 64  # height and width, at least


def available(device: torch.device | str = "cpu") -> int:
    """Bytes that can be had now: of the GPU; or of the host, its control groups and this process.

    On a GPU also what torch holds there without using it. Not yet run on one.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    told = (_free_of_host(), *_free_of_groups(), _free_of_process())
    known = [count for count in told if count is not None]
    return max(0, min(known)) if known else UNKNOWN


def limit() -> int | None:
    """The most bytes that this process's control groups, and its own limit, let it have; None
    where nothing does."""
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [most for _, most, _ in _groups()]
    limits += [space] if space != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def fair_part(device: torch.device | str = "cpu") -> int:
    """Bytes that a job may take where nobody has said: half of the host's, 0.7 of a GPU's."""
    return int(FAIR[torch.device(device).type] * available(device))


def pairs_to_hold(nbytes: int) -> int:
    """Bytes of pairs that training may hold where nobody has said, of a set of so many.

    2 GiB, unless neither the set nor that fits into half of a fair part; the other half is for
    the network's activations. Then the set streams, in an order that follows from this number: so
    it is a power of two, which does not change with every program that comes and goes.
    """
    most = max(1, fair_part() // 2)
    if min(nbytes, MEMORY_LIMIT) <= most:
        return MEMORY_LIMIT
    return 1 << (most.bit_length() - 1)


@dataclass(frozen=True)
class Need:
    """Bytes that a network takes to denoise: whatever the size, and for each pixel of a tile."""

    fixed: float
    pixel: float

    @classmethod
    def of(cls, network: Network, *, tta: bool = False) -> "Need":
        side = -(-PROBE // network.multiple) * network.multiple
        values = [value for value, _ in network.param()]
        device = values[0].device if values else None
        x = torch.zeros((1, network.channels, side, side), device=device)
        with _watched(network) as watch:
            watch.add(x)
            network.release()
            network(x)
            buffers = scratch().nbytes
        network.release()
        copies = COPIES * (2 if tta else 1) * network.channels
        return cls(
            fixed=FIXED + BUFFERS * buffers + WEIGHTS * sum(value.nbytes for value in values),
            pixel=4 * copies + OVERHEAD * watch.most / side**2,
        )

    def pixels(self, memory: float) -> int:
        """How many fit; 1, for the smallest tile, where none do."""
        return max(1, int((memory - self.fixed) / self.pixel))


class _Watch:
    """Bytes of the tensors that modules have returned and somebody still holds."""

    def __init__(self) -> None:
        self._storages: dict[int, tuple[int, int]] = {}  # address: holders, bytes
        self.alive = self.most = 0

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        holders, _ = self._storages.get(place, (0, 0))
        if not holders:
            self.alive += size
            self.most = max(self.most, self.alive)
        self._storages[place] = (holders + 1, size)
        weakref.finalize(tensor, self._drop, place)

    def _drop(self, place: int) -> None:
        holders, size = self._storages.pop(place)
        if holders > 1:
            self._storages[place] = (holders - 1, size)
        else:
            self.alive -= size


@contextmanager
def _watched(network: Network) -> Iterator[_Watch]:
    """Every module's forward tells the watch of its result, in inference mode."""
    watch, training = _Watch(), network.training
    modules = list(network.modules())

    def telling(forward: Callable[[Tensor], Tensor]) -> Any:
        def forward_and_tell(x: Tensor, *activation: Module) -> Tensor:
            y = forward(x, *activation)
            watch.add(y)
            return y

        return forward_and_tell

    network.eval()
    try:
        for module in modules:
            for name in FORWARDS[: 2 + module.takes_activations]:
                setattr(module, name, telling(getattr(module, name)))
        yield watch
    finally:
        for module in modules:
            for name in FORWARDS:
                vars(module).pop(name, None)
        network.train(training)


def _free_of_host() -> int | None:
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _free_of_process() -> int | None:
    """Under a limit of its address space (ulimit -v)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    words = " ".join(_lines(PROC / "self" / "statm")).split()
    if limit == resource.RLIM_INFINITY or not words:
        return None
    return limit - int(words[0]) * resource.getpagesize()


def _free_of_groups() -> Iterator[int]:
    for group, most, (used, cached) in _groups():
        yield most - used + _cached(group, cached)


def _groups() -> Iterator[tuple[Path, int, tuple[int, str]]]:
    """Of each control group with a limit that this process is in, version 2 or 1: its folder, the
    limit, the bytes used, and the name of those of files that the system would give up first."""
    for line in _lines(PROC / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "memory"):
            continue
        root = CGROUPS / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        folder = root / path.strip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            most, used = (_number(group / name) for name in names[:2])
            if most is not None and used is not None and most < NO_LIMIT:
                yield group, most, (used, names[2])


def _cached(group: Path, name: str) -> int:
    for line in _lines(group / "memory.stat"):
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    words = "".join(_lines(path)).strip()
    return int(words) if words.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
