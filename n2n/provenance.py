"""What a result rests on: code, versions and hardware; and the record that a run keeps of it.

RUN/provenance.jsonl is only ever added to: a line when a part of the run begins (it begins anew
whenever it is resumed), and a line when that part ends. A part without its second line was
killed. Times are UTC, in ISO 8601.

begin   part, time, workers, position (epochs done, batches of the next one), set (path, digest,
        rows of its splits), settings (all, the seed too), code, versions, hardware, process
end     part, time, seconds, position, outcome ("done", "stopped", "diverged" or "failed"), reason
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from n2n.data import SingleSet, StreamedSet, TrainingSet, default_workers
from n2n.device import cpu_name
from n2n.errors import Diverged, Interrupted
from n2n.memory import limit

__all__ = ["code", "describe_set", "hardware", "read_record", "recorded", "versions"]

PACKAGE = Path(__file__).parent
PACKAGES = ("n2n", "torch", "numpy", "pyarrow", "safetensors", "ray")
SECONDS_FOR_GIT = 5


def versions(*packages: str) -> dict[str, str]:
    """Of packages, by default of n2n and torch, and of Python; "unknown" for what has none."""
    found = {name: _version(name) for name in packages or ("n2n", "torch")}
    return {**found, "python": platform.python_version()}


def _version(package: str) -> str:
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # n2n: run from a folder that was not installed
        return "unknown"


@cache
def code() -> Mapping[str, Any]:
    """Which n2n this is, as this process found it first.

    sources: sha256 of what `find n2n -name '*.py' | LC_ALL=C sort | xargs sha256sum` prints in
    the folder that holds the package. commit: of the git checkout that the package belongs to,
    and changed: whether its files differ from it; both None elsewhere.
    """
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", __file__) else None
    changes = _git("status", "--porcelain", "--", str(PACKAGE)) if commit else None
    return {
        "version": _version("n2n"),
        "sources": _sources(),
        "commit": commit,
        "changed": None if changes is None else bool(changes),
    }


def _sources() -> str:
    lines = sorted(
        (os.fsencode(path.relative_to(PACKAGE.parent)), path) for path in PACKAGE.rglob("*.py")
    )
    sha256 = hashlib.sha256()
    for name, path in lines:
        sha256.update(hashlib.sha256(path.read_bytes()).hexdigest().encode() + b"  " + name + b"\n")
    return sha256.hexdigest()


def _git(*arguments: str) -> str | None:
    """What git says of the package's folder; None where it says nothing of it, or is not there."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=PACKAGE,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS_FOR_GIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine that computes: its processor, memory in bytes, and the GPU, if that is one.

    cores: those that this process may use; memory_limit: of its control group, None without one.
    """
    device = torch.device(device)
    gpu = None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        gpu = {"name": found.name, "memory": found.total_memory}
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": default_workers(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_limit": limit(),
        "gpu": gpu,
    }


def describe_set(pairs: TrainingSet) -> dict[str, Any]:
    """Which pairs: where they lay, the digest of their rows, how many there are.

    stream: where the training pairs are drawn from photographs, which ones.
    """
    halves = (pairs.train, pairs.val)
    rows = {half.name: half.rows for half in halves if half is not None}
    found: dict[str, Any] = {"path": str(pairs.path), "digest": pairs.digest, "rows": rows}
    if isinstance(pairs, StreamedSet | SingleSet):
        found["stream"] = pairs.describe()
    return found


@contextmanager
def recorded(
    path: Path,
    facts: Mapping[str, Any],
    position: Callable[[], Mapping[str, Any]],
    *,
    device: torch.device | str = "cpu",
) -> Iterator[None]:
    """Add a part to the record in the file `path`: it begins and ends with the block.

    facts: what else is to be said of it, in JSON values. position(): where the run stands. An
    exception goes on its way, and stands in the record as the part's outcome.
    """
    part = 1 + max((line["part"] for line in read_record(path)), default=0)
    begun = time.monotonic()
    _add(
        path,
        {
            "event": "begin",
            "part": part,
            "time": _now(),
            "position": position(),
            **facts,
            "code": code(),
            "versions": versions(*PACKAGES),
            "hardware": hardware(device),
            "process": {"id": os.getpid(), "command": sys.argv},
        },
    )

    def end(outcome: str, reason: str | None) -> None:
        seconds = round(time.monotonic() - begun, 3)
        line = {"event": "end", "part": part, "time": _now(), "seconds": seconds}
        _add(path, {**line, "position": position(), "outcome": outcome, "reason": reason})

    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the error itself is what matters
            end(_outcome(error), " ".join(str(error).split()) or type(error).__name__)
        raise
    end("done", None)


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines of a record in their order; none without a file. Those half written are left out:
    they were about a process that was killed."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("part"), int):
                lines.append(line)
    return lines


def _add(path: Path, line: Mapping[str, Any]) -> None:
    """One write to the end of the file, in a line of its own."""
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(line, allow_nan=False).encode() + b"\n")
        os.fsync(file.fileno())


def _outcome(error: BaseException) -> str:
    if isinstance(error, Interrupted | KeyboardInterrupt | GeneratorExit):
        return "stopped"
    return "diverged" if isinstance(error, Diverged) else "failed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
