"""Processes that train one network together: how they meet, and what they tell each other.

Over torch.distributed: gloo between CPUs, NCCL between GPUs (not yet run on one). Nothing that is
received is unpickled. As with Ray, whoever reaches the ports can disturb the work: keep them
behind a firewall. Between processes of one machine, only its loopback is used.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from n2n.data.batches import Share
from n2n.errors import PeerLost, is_out_of_memory

__all__ = ["LOOPBACK", "Meeting", "Peers"]

LOOPBACK = "127.0.0.1"
SECONDS_TO_MEET = 60.0
SECONDS_TO_ANSWER = 600.0  # the longest that one process may keep the others waiting
INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR of Linux's ioctl(2)


class Meeting:
    """Where the processes find each other: a table of addresses that rank 0 keeps and serves."""

    def __init__(self, store: Any, host: str, port: int) -> None:
        self.store, self.host, self.port = store, host, port

    @classmethod
    def open(cls, host: str = LOOPBACK) -> "Meeting":
        """In rank 0's process: at any free port of its address `host`. PeerLost if it cannot."""
        with _answering(f"listening at {host}"):
            listener = socket.create_server((host, 0))
            port = listener.getsockname()[1]
            # With a socket of ours: its own would listen at every address.
            store = _store(host, port, SECONDS_TO_MEET, listener.detach())
        return cls(store, host, port)

    @classmethod
    def find(cls, host: str, port: int, *, seconds: float = SECONDS_TO_MEET) -> "Meeting":
        """In the others': at rank 0's address. PeerLost if it does not answer in time."""
        with _answering(f"rank 0 at {host}:{port}"):
            store = _store(host, port, seconds)
        return cls(store, host, port)


def _store(host: str, port: int, seconds: float, listener: int | None = None) -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it, but not by name
        host,
        port,
        is_master=listener is not None,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
        master_listen_fd=listener,
    )


class Peers:
    """This process's place among those that train one network, from the meeting to the end.

    rank, size: which of how many; rank 0 leads: it alone reads and writes the run. Every process
    makes the same calls in the same order. All of them raise PeerLost when another process is
    gone, or does not answer for `seconds`. One in a process at a time; a context manager.

    address: of this machine, where the others reach it; by default torch chooses an interface.
    """

    def __init__(
        self,
        meeting: Meeting,
        rank: int,
        size: int,
        *,
        device: torch.device | str = "cpu",
        address: str | None = None,
        seconds: float = SECONDS_TO_ANSWER,
    ) -> None:
        self.share = Share(rank, size)
        self.rank, self.size = rank, size
        self.device = torch.device(device)
        self.seconds = 0.0  # spent in add_up, the wait for slower processes included
        interface = interface_of(address) if address is not None else None
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        with _answering(f"{size} processes"):
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                store=meeting.store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=seconds),
            )

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *error: object) -> None:
        dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def add_up(self, block: Tensor) -> None:
        """Replace a tensor by its sum over all processes, the same bits in each."""
        if self.size == 1:
            return
        before = time.monotonic()
        with _answering("all processes"):
            dist.all_reduce(block)
        self.seconds += time.monotonic() - before

    def add_up_numbers(self, numbers: list[float]) -> list[float]:
        """The sum of such lists of numbers over all processes, in float64."""
        block = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with _answering("all processes"):
            dist.all_reduce(block)
        found: list[float] = block.tolist()
        return found

    def broadcast(self, content: bytes) -> bytes:
        """What rank 0 has given, in every process; the others' content is not looked at."""
        size = torch.tensor([len(content)], device=self.device)
        with _answering("rank 0"):
            dist.broadcast(size, 0)
            if self.leads:
                block = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
            else:
                block = torch.empty(int(size), dtype=torch.uint8, device=self.device)
            dist.broadcast(block, 0)
        return block.cpu().numpy().tobytes()


@contextmanager
def _answering(who: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise PeerLost(f"an answer expected of {who}, found none ({reason})") from error


def interface_of(address: str) -> str | None:
    """The name of the network interface that has an IPv4 address; None where it is not known."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(asking.fileno(), INTERFACE_ADDRESS, request)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
