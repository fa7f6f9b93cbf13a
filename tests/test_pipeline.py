"""Batches prepared ahead: the same ones, and no thread that outlives its use."""

import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from n2n.evaluation import to_float
from n2n.pipeline import feed, prefetch


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def count_to(number: int, seen: list[int]) -> Iterator[int]:
    for item in range(number):
        seen.append(item)
        yield item


@pytest.mark.parametrize("ahead", [1, 2, 5, 40])
@pytest.mark.parametrize("number", [0, 1, 2, 30])
def test_the_same_items_in_order(number: int, ahead: int) -> None:
    assert list(prefetch(count_to(number, []), ahead)) == list(range(number))


def test_another_thread_makes_them() -> None:
    def names() -> Iterator[str]:
        for _ in range(3):
            yield threading.current_thread().name

    (name,) = set(prefetch(names(), 2))
    assert name.startswith("prefetch")
    assert name != threading.current_thread().name


def test_no_more_than_so_many_ahead() -> None:
    seen: list[int] = []
    with closing(prefetch(count_to(100, seen), 3)) as items:
        assert seen == []  # nothing before the first is asked for
        for item in items:
            assert len(seen) <= item + 4
            if item == 20:
                break
    assert len(seen) <= 24


def test_an_error_comes_in_its_turn() -> None:
    def failing() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("the third")

    items = prefetch(failing(), 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(items)
    assert list(items) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_user_ends_the_thread(error: type[BaseException]) -> None:
    def use() -> None:
        with closing(prefetch(count_to(1000, []), 2)) as items:
            for item in items:
                if item == 5:
                    raise error

    with pytest.raises(error):
        use()


def pairs(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        tuple(rng.integers(0, 256, (2, 4, 3, 8, 8), dtype=np.uint8))  # two views of four images
        for _ in range(count)
    ]


@pytest.mark.parametrize("threaded", [False, True])
def test_feed_converts(threaded: bool) -> None:
    batches = pairs(7)
    found = list(feed(iter(batches), "cpu", threaded=threaded))
    assert len(found) == 7
    for (x, y), (inputs, targets) in zip(found, batches, strict=True):
        assert x.dtype == y.dtype == torch.float32
        assert torch.equal(x, to_float(inputs))
        assert torch.equal(y, to_float(targets))


def test_a_feed_that_is_closed_ends_its_thread() -> None:
    with closing(feed(iter(pairs(50)), "cpu", threaded=True)) as batches:
        next(batches)
        assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("threaded", [False, True])
def test_feed_copies_to_a_gpu(threaded: bool) -> None:
    batches = pairs(20)
    for (x, y), (inputs, targets) in zip(
        feed(iter(batches), "cuda", threaded=threaded), batches, strict=True
    ):
        assert x.is_cuda
        assert torch.equal(x.cpu(), to_float(inputs))
        assert torch.equal(y.cpu(), to_float(targets))
