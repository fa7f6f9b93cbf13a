"""Tiny pair sets drawn from seeded generators, and the order that the test files run in."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from n2n.data import PairSet
from n2n.data.format import Provenance
from n2n.data.writer import write_arrays

MakeSet = Callable[..., PairSet]
LONG = ("ray", "cluster", "browser", "slow")


def pytest_configure() -> None:
    """Ctrl-C is tested, also where a shell began the tests in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait long come first, so that none is left for one worker alone at the end."""
    long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For sums that are the same to the bit, and small networks that gain nothing from more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """make_set(name="set", rows=…, val=…, shape=…, …): a pair set under tmp_path, opened."""

    def make(name: str = "set", **settings) -> PairSet:
        return write_set(tmp_path / name, **settings)

    return make


@pytest.fixture(scope="session")
def write() -> MakeSet:
    """As make_set, with the folder as its first argument: for fixtures that live longer."""
    return write_set


def write_set(
    folder: Path,
    *,
    rows: int = 90,
    val: int = 20,
    shape: tuple[int, int, int] = (3, 8, 8),
    clean: bool = True,
    target: str = "noisy",
    sigma: float = 20.0,
    seed: int = 0,
) -> PairSet:
    folder.mkdir(parents=True)
    for split, count in (("train", rows), ("val", val)):
        if count:
            rng = np.random.default_rng([seed, len(split)])
            write_arrays(
                folder / split,
                draw_columns(rng, count, shape, clean=clean, target=target, sigma=sigma),
                Provenance("a test", f"gaussian:{sigma}", {"sigma": sigma}, seed, target, ()),
            )
    return PairSet.open(folder)


def draw_columns(
    rng: np.random.Generator,
    rows: int,
    shape: tuple[int, int, int],
    *,
    clean: bool,
    target: str,
    sigma: float,
) -> dict[str, np.ndarray]:
    """Blocks of 4x4 equal pixels, away from 0 and 255, and two views with Gaussian noise."""
    channels, height, width = shape
    blocks = rng.integers(100, 156, (rows, channels, -(-height // 4), -(-width // 4)))
    image = blocks.repeat(4, 2).repeat(4, 3)[:, :, :height, :width].astype(np.float64)
    views = [image + sigma * rng.standard_normal(image.shape) for _ in range(2)]
    if target == "clean":
        views[1] = image
    columns = dict(zip(("input", "target", "clean"), [*views, image], strict=True))
    if not clean:
        del columns["clean"]
    return {name: column.round().clip(0, 255).astype(np.uint8) for name, column in columns.items()}
