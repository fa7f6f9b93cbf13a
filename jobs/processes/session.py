"""A Ray to work on: one of our own on this machine, or a running cluster that is only joined."""

import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from n2n.data.parallel import default_workers
from n2n.errors import InvalidValue, JobFailed

__all__ = ["joined"]

SECONDS_TO_ANSWER = 10
OBJECT_STORE = 80 * 2**20  # bytes; Ray's least is 75 MiB, and only bunches of names pass through it
PREFIX = "n2n-ray-"
LONGEST_FOLDER = 24  # characters; the names of Ray's sockets below it must stay within 107


@contextmanager
def joined(address: str | None, *, object_store: int = OBJECT_STORE) -> Iterator[bool]:
    """Be a driver of Ray inside of the block; gives whether that Ray is our own.

    address: of a running cluster, HOST:PORT or "auto"; it is left running. None: a Ray of our own
    on this machine's cores and GPUs, ended with the block, its processes and files too, also when
    this process is killed (but the files). A Ray that this process has already joined is used as
    it is, and not left. object_store: bytes of memory for what processes share, of a Ray of our
    own. Raises InvalidValue where no cluster answers.
    """
    if ray.is_initialized():
        yield False
        return
    with _environment_kept(), _muted():
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address is None:
            with _started(object_store):
                yield True
        else:
            _join(address)
            try:
                yield False
            finally:
                ray.shutdown()


@contextmanager
def _started(object_store: int) -> Iterator[None]:
    """A Ray of our own: nobody else's, and nothing of it is left."""
    # A token for this process alone; else Ray writes one into the user's home.
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_TOKEN"] = own_token()
    folder = _folder()
    try:
        _start(folder, object_store)
        yield
    finally:  # also of one that was stopped while it started
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, object_store: int) -> None:
    try:
        _init(
            address="local",
            num_cpus=default_workers(),
            include_dashboard=False,
            object_store_memory=max(object_store, OBJECT_STORE),
            _temp_dir=str(folder),
        )
    except (RuntimeError, OSError) as error:
        raise JobFailed(
            f"Ray did not start on this machine: {_first_line(error)}; use one worker"
        ) from error


def _join(address: str) -> None:
    if "://" in address:
        raise InvalidValue(
            f"address: HOST:PORT of a running Ray cluster, or auto, expected; found {address!r}; "
            "run the command on one of the cluster's machines"
        )
    host, colon, port = address.rpartition(":")
    try:
        if colon:
            socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
        _init(address=address)
    except (ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise InvalidValue(
            f"address: a running Ray cluster expected, none answered at {address} "
            f"({_first_line(error)}); check it, and whether RAY_AUTH_MODE=token and the cluster's "
            "RAY_AUTH_TOKEN are needed"
        ) from error


def _init(**settings: Any) -> None:
    """ray.init, which says nothing, and leaves SIGTERM to whom it belonged."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@functools.cache
def own_token() -> str:
    """For a Ray of this process's own; always the same, since Ray reads it once in a process."""
    return secrets.token_hex(32)


def _folder() -> Path:
    """For Ray's sockets, whose names must be short, and its logs. Named after this process."""
    parent = tempfile.gettempdir()
    if len(parent) > LONGEST_FOLDER:
        parent = "/tmp"
    for left in Path(parent).glob(f"{PREFIX}*"):  # by a process that was killed
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Give the environment back as it was: Ray changes it, and is told things through it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _muted() -> Iterator[None]:
    """Ray prints about dead workers on standard output, where a command's result belongs.

    It has no switch for that; the function that prints is exchanged, if this Ray has it.
    """
    from ray._private import worker

    name = "print_to_stdstream"
    if not hasattr(worker, name):
        yield
        return
    before = getattr(worker, name)
    setattr(worker, name, lambda *data, **settings: None)
    try:
        yield
    finally:
        setattr(worker, name, before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
