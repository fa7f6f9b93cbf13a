"""Processes that train together: what they tell each other, and when another one is gone."""

import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import exchange, shares, together, vanish

from n2n import models
from n2n.data.batches import WHOLE, Share
from n2n.errors import InvalidValue, PeerLost, ShapeError
from n2n.nn import MSELoss
from n2n.peers import LOOPBACK, Meeting, Peers, interface_of


@pytest.mark.parametrize("size", [2, 3])
def test_all_have_the_same_sum_and_what_rank_0_says(size: int) -> None:
    found = together(size, exchange)
    whole = np.sum([one["own"] for one in found], axis=0, dtype=np.float64)
    for one in found:
        np.testing.assert_array_equal(one["sum"], found[0]["sum"])
        np.testing.assert_allclose(one["sum"], whole, rtol=1e-6)
        assert one["numbers"] == [size * 2.0**-40, sum(range(size)), float("inf")]
        assert one["told"] == [b"", b"\0", bytes(100_000)]
        assert one["seconds"] > 0


@pytest.mark.parametrize(("how", "seconds"), [("dies", 60.0), ("is silent", 4.0)])
def test_a_process_that_is_gone(how: str, seconds: float) -> None:
    """The others hear of it, at once or when it has been silent so long; none waits on."""
    for error in together(3, partial(vanish, how=how), seconds=seconds, heard=2):
        assert isinstance(error, PeerLost)
        assert str(error).startswith("an answer expected of all processes, found none (")
        assert "\n" not in str(error)


def test_a_process_that_does_not_come() -> None:
    with (
        pytest.raises(PeerLost, match="an answer expected of 2 processes, found none"),
        Peers(Meeting.open(), 0, 2, seconds=0.5),
    ):
        pytest.fail("it is alone")
    assert not torch.distributed.is_initialized()


def test_a_meeting_that_is_not_there() -> None:
    with socket.socket() as silent:
        silent.bind((LOOPBACK, 0))
        port = silent.getsockname()[1]
        with pytest.raises(PeerLost, match=f"expected of rank 0 at {LOOPBACK}:{port}, found none"):
            Meeting.find(LOOPBACK, port, seconds=0.5)
    with pytest.raises(PeerLost, match=r"listening at 192\.0\.2\.77"):  # of no machine
        Meeting.open("192.0.2.77")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's list of sockets")
def test_a_meeting_is_at_one_address() -> None:
    meeting = Meeting.open()
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    lines += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    port = f"{meeting.port:04X}"
    at = {line[1] for line in lines if line[1].endswith(f":{port}") and line[3] == "0A"}
    assert at == {f"0100007F:{port}"}


def test_interfaces() -> None:
    assert interface_of(LOOPBACK) == "lo"
    assert interface_of("192.0.2.77") is None


def test_one_process_is_a_group_too() -> None:
    block = torch.tensor([1.0, 2.0])
    with Peers(Meeting.open(), 0, 1, address=LOOPBACK) as peers:
        peers.add_up(block)
        assert peers.add_up_numbers([3.0]) == [3.0]
        assert peers.broadcast(b"abc") == b"abc"
    assert block.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


def test_shares() -> None:
    assert WHOLE.of(7) == range(7)
    assert [Share(rank, 3).of(7) for rank in range(3)] == [range(2), range(2, 4), range(4, 7)]
    assert [len(Share(rank, 4).of(2)) for rank in range(4)] == [0, 1, 0, 1]
    with pytest.raises(InvalidValue, match="rank must be from 0 to below the 2 parts, got 2"):
        Share(2, 2)


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 7])
def test_gradients_of_shares_add_up_to_those_of_the_batch(make_set, tmp_path, size: int) -> None:
    """Of five rows: shares of 2 and 3, and seven of which two are empty; three times over."""
    found = together(size, shares, make_set().path, tmp_path)
    assert sum(one["rows"] for one in found) == 5
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(5, 3, 8, 8, generator=generator) for _ in range(2))
    network = models.create("seed", width=4, generator=torch.Generator().manual_seed(0))
    loss = MSELoss()
    value = float(loss(network(x), y))
    network.backward(loss.backward())
    for one in found:
        assert one["losses"] == pytest.approx([value] * 3, rel=1e-6)
        assert one["losses"] == found[0]["losses"]
        assert one["wishes"] == [False, True, True]
        for grad, first, (_, expected) in zip(
            one["gradients"], found[0]["gradients"], network.param(), strict=True
        ):
            np.testing.assert_array_equal(grad, first)
            np.testing.assert_allclose(grad, expected.numpy(), rtol=1e-4, atol=1e-7)


def test_flattened_gradients_are_views_of_one_block() -> None:
    network = models.create("unet", width=2, depth=1, generator=torch.Generator().manual_seed(0))
    plain = models.create("unet", width=2, depth=1, generator=torch.Generator().manual_seed(0))
    count = sum(value.numel() for value, _ in network.param())
    network.param()[0][1].add_(1)
    block = network.flatten_gradients(spare=3)
    assert block.shape == (count + 3,)
    assert not block.any()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for either in (network, plain):
        either.backward(torch.ones_like(either(x)))
    expected = torch.cat([grad.flatten() for _, grad in plain.param()])
    assert torch.equal(block[:count], expected)
    assert not block[count:].any()
    network.zero_grad()
    assert not block.any()
    network.param()[-1][1].add_(1)
    assert block.any()


def test_gradients_of_several_dtypes_are_not_flattened() -> None:
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))
    first = next(iter(network.named_parameters().values()))
    first.value = first.value.double()
    with pytest.raises(ShapeError, match="one dtype and device of all parameters expected, got 2"):
        network.flatten_gradients()
