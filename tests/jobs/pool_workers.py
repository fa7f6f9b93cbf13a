"""Workers for the tests of the pool: their items say what happens, files tell what did."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from n2n.errors import InvalidValue, JobFailed


@dataclass(frozen=True)
class Item:
    number: int
    does: str = ""


@dataclass(frozen=True)
class Outcome:
    item: Item
    said: str
    pid: int = 0


def failed(item: Item, reason: str) -> Outcome:
    return Outcome(item, f"failed: {reason}")


def note(folder: Path, name: str, text: object) -> None:
    """Append a line, in one write."""
    with (folder / name).open("ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


@dataclass(frozen=True)
class Make:
    """make(): writes its process's id to `started`, then does what its name says."""

    folder: Path
    does: str = ""

    def __call__(self) -> "Recorder":
        note(self.folder, "started", os.getpid())
        if self.does == "refuse":
            raise InvalidValue("model.safetensors: a model expected, found a text")
        if self.does == "raise":
            raise Unsendable(1, 2)
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Recorder(self.folder)


class Unsendable(Exception):
    """An exception that pickle cannot bring back."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


class Recorder:
    """Writes each item's number to `begun` before it does what the item says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
        note(folder, "gpus", f"{gpus} of {os.environ.get('CUDA_VISIBLE_DEVICES')}")

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        for item in items:
            note(self._folder, "begun", item.number)
            if item.does == "forget":
                continue
            self._do(item)
            yield Outcome(item, "done", os.getpid())

    def _do(self, item: Item) -> None:
        if item.does == "die" or (item.does == "die once" and self._is_first(item)):
            os.kill(os.getpid(), signal.SIGKILL)
        elif item.does == "exit":
            raise SystemExit(1)
        elif item.does == "full disk":
            raise OSError(28, "No space left on device", "/out/a.png")
        elif item.does == "stop":
            raise JobFailed("stopped in the middle")
        elif item.does == "wait":
            time.sleep(0.2)
        elif item.does.startswith("meet "):
            self._meet(int(item.does.split()[1]))
        elif item.does == "hang":
            time.sleep(600)
        elif item.does == "talk":
            print("a worker's own words", flush=True)

    def _is_first(self, item: Item) -> bool:
        return (self._folder / "begun").read_text().split().count(str(item.number)) == 1

    def _meet(self, count: int) -> None:
        """Wait for so many workers to have started."""
        deadline = time.monotonic() + 60
        while len((self._folder / "started").read_text().split()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
