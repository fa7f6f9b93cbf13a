"""A real Ray, started once for all tests that only join it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RayCluster
from ray._raylet import Config

from jobs.processes import session


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A head with four CPUs and two GPUs, all of them only in Ray's books."""
    with pytest.MonkeyPatch.context() as patch:
        # Its ports are open to the network. Ray reads the token once in a process, perhaps before.
        patch.setenv("RAY_AUTH_TOKEN", session.own_token())
        patch.setenv("RAY_AUTH_MODE", "token")
        Config.initialize("")  # reads the mode again: Ray has done so on its import
        with tempfile.TemporaryDirectory(prefix="n2n-", dir="/tmp") as folder:  # short: sockets
            cluster = RayCluster(Path(folder))
            try:
                cluster.add(cpus=4, gpus=2)
                yield cluster
            finally:
                cluster.stop()
