"""MaxPool2d, NearestUpsample, PixelShuffle, PixelUnshuffle."""

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn import MaxPool2d, NearestUpsample, PixelShuffle, PixelUnshuffle

from .check import check_layer, random_tensor
from .strategies import Case, cases, poolings, shuffles, sizes, unshuffles


def reference_pool(case: Case) -> torch.nn.Module:
    return torch.nn.MaxPool2d(**case.options)


@given(poolings())
@example(Case({"kernel_size": 2}, (2, 3, 5, 7), torch.float32, "channels_last", "contiguous", 1))
@example(Case({"kernel_size": 1}, (1, 1, 1, 1), torch.float64, "contiguous", "contiguous", 1))
def test_max_pool_agrees_with_torch(case: Case) -> None:
    check_layer(MaxPool2d(**case.options), reference_pool(case), case.input(), **case.how())


@given(poolings(), st.integers(1, 3))
def test_max_pool_gives_ties_to_the_first_maximum(case: Case, levels: int) -> None:
    layer = MaxPool2d(**case.options)
    check_layer(layer, reference_pool(case), case.input(levels), **case.how())


def test_max_pool_by_hand() -> None:
    x = torch.tensor([[[[1.0, 5.0, 5.0], [5.0, 2.0, 0.0], [3.0, -1.0, 4.0]]]])
    layer = MaxPool2d(2, stride=1)
    assert layer(x).tolist() == [[[[5.0, 5.0], [5.0, 4.0]]]]
    grad = layer.backward(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
    assert grad.tolist() == [[[[0.0, 11.0, 0.0], [100.0, 0.0, 0.0], [0.0, 0.0, 1000.0]]]]


def test_max_pool_never_takes_its_padding() -> None:
    """All values are negative: zeros around them would be larger."""
    layer = MaxPool2d(3, stride=2, padding=1)
    x = -1 - torch.arange(9.0).view(1, 1, 3, 3)
    assert layer(x).tolist() == [[[[-1.0, -2.0], [-4.0, -5.0]]]]
    x = torch.full((1, 1, 3, 3), -torch.inf)
    assert torch.equal(layer(x), torch.full((1, 1, 2, 2), -torch.inf))


@given(cases({"scale_factor": 2}), sizes(1, 3))
def test_upsample_agrees_with_torch(case: Case, scale: int | tuple[int, int]) -> None:
    reference = torch.nn.Upsample(scale_factor=scale, mode="nearest")
    check_layer(NearestUpsample(scale), reference, case.input(), **case.how())


def test_upsample_by_hand() -> None:
    layer = NearestUpsample((1, 2))
    assert layer(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1.0, 1.0, 2.0, 2.0]]]]
    assert layer.backward(torch.tensor([[[[1.0, 10.0, 2.0, 20.0]]]])).tolist() == [[[[11.0, 22.0]]]]


@given(shuffles())
def test_pixel_shuffle_agrees_with_torch(case: Case) -> None:
    (r,) = case.options.values()
    check_layer(PixelShuffle(r), torch.nn.PixelShuffle(r), case.input(), **case.how())


@given(unshuffles())
def test_pixel_unshuffle_agrees_with_torch(case: Case) -> None:
    (r,) = case.options.values()
    check_layer(PixelUnshuffle(r), torch.nn.PixelUnshuffle(r), case.input(), **case.how())


def test_pixel_shuffle_by_hand() -> None:
    """Four channels of one pixel are the pixels of one channel, in reading order."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    shuffle, unshuffle = PixelShuffle(2), PixelUnshuffle(2)
    assert torch.equal(shuffle(x), image)
    assert torch.equal(unshuffle(image), x)
    assert torch.equal(shuffle.backward(image), x)
    assert torch.equal(unshuffle.backward(x), image)


@given(cases(channels=8), st.sampled_from([1, 2]))
def test_unshuffle_undoes_shuffle(case: Case, r: int) -> None:
    x = case.input() if r == 2 else case.input()[:, :3]
    assert torch.equal(PixelUnshuffle(r)(PixelShuffle(r)(x)), x)


@given(
    st.sampled_from(
        [
            (lambda: MaxPool2d(3, stride=2, padding=1), 2),
            (lambda: MaxPool2d((2, 3), stride=(3, 1)), 2),
            (lambda: NearestUpsample((2, 3)), 2),
            (lambda: PixelShuffle(2), 4),
            (lambda: PixelUnshuffle(2), 2),
        ]
    ),
    st.integers(0, 10),
    st.integers(0, 10),
    st.sampled_from([0, 1]),
)
def test_input_span_is_what_outputs_depend_on(
    layer_and_channels: tuple[Any, int], first: int, more: int, axis: int
) -> None:
    """By brute force, one output at a time, through the gradients."""
    make, channels = layer_and_channels
    layer = make()
    x = random_tensor((1, channels, 8, 6), 5)
    outputs = layer(x)
    first = min(first, outputs.shape[2 + axis] - 1)
    last = min(first + more, outputs.shape[2 + axis] - 1)
    low, high = layer.input_span((first, last), axis)
    assert type(low) is type(high) is int

    seen = torch.zeros(x.shape[2 + axis], dtype=torch.bool)
    for seed in range(8):  # other maxima in every draw
        values = random_tensor(tuple(x.shape), seed)
        cotangent = torch.zeros_like(layer(values))
        cotangent.narrow(2 + axis, first, last - first + 1).fill_(1.0)
        seen |= layer.backward(cotangent).abs().sum((0, 1, 3 - axis)) > 0
    rows = seen.nonzero().flatten().tolist()
    assert low <= min(rows)
    assert max(rows) <= high
    size = x.shape[2 + axis]
    assert (max(low, 0), min(high, size - 1)) == (min(rows), max(rows)), "the span is tight"


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MaxPool2d(0), "kernel_size"),
        (lambda: MaxPool2d(2.0), "kernel_size"),
        (lambda: MaxPool2d(2, stride=0), "stride"),
        (lambda: MaxPool2d(2, padding=-1), "padding"),
        (lambda: MaxPool2d(2, padding=2), "padding"),
        (lambda: MaxPool2d((4, 2), padding=(1, 2)), "padding"),
        (lambda: NearestUpsample(0), "scale_factor"),
        (lambda: NearestUpsample(1.5), "scale_factor"),
        (lambda: NearestUpsample((2, -1)), "scale_factor"),
        (lambda: PixelShuffle(0), "factor|r "),
        (lambda: PixelShuffle(2.0), "factor|r "),
        (lambda: PixelUnshuffle(-1), "factor|r "),
    ],
)
def test_refuses_an_argument_by_name(make: Any, argument: str) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=argument):
        make()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (MaxPool2d(3), (1, 2, 2, 9)),
        (MaxPool2d(3), (2, 9, 9)),
        (NearestUpsample(2), (2, 9, 9)),
        (PixelShuffle(2), (1, 6, 3, 3)),
        (PixelShuffle(2), (4, 3, 3)),
        (PixelUnshuffle(2), (1, 1, 3, 4)),
        (PixelUnshuffle(2), (1, 1, 4, 3)),
        (PixelUnshuffle(2), (1, 4, 4)),
    ],
)
def test_refuses_shapes_that_do_not_fit(layer: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        layer(torch.zeros(shape))
