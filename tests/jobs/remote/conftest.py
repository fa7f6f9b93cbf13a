"""One Ray head and one sshd for all tests of submitting."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from heads import Head, Sshd, why_no_sshd


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="n2n-", dir="/tmp") as folder:  # short: sockets
        head = Head(Path(folder))
        try:
            yield head
        finally:
            head.stop()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := why_no_sshd():
        pytest.skip(reason)
    sshd = Sshd(tmp_path_factory.mktemp("sshd"))
    try:
        yield sshd
    finally:
        sshd.stop()
