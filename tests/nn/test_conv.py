"""Conv2d and ConvTranspose2d."""

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue, N2NError, ShapeError
from n2n.nn import Conv2d, ConvTranspose2d

from .check import assert_close, check_layer, random_tensor, seeded
from .strategies import Case, convolutions, pair, transposed_convolutions

BOTH = pytest.mark.parametrize("layer_class", [Conv2d, ConvTranspose2d])
SEED = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1}


def case(options: dict[str, Any], shape: tuple[int, int, int, int], **changes: Any) -> Case:
    """An example by hand: contiguous float64, unless told otherwise."""
    given = {"dtype": torch.float64, "layout": "contiguous", "cotangent_layout": "contiguous"}
    return Case(options, shape, **(given | {"seed": 1} | changes))


@given(convolutions())
@example(case(SEED, (2, 3, 8, 6)))
@example(case(SEED, (2, 3, 7, 5), dtype=torch.float32, layout="channels_last"))
@example(case({"in_channels": 3, "out_channels": 2, "kernel_size": 1}, (1, 3, 1, 1)))
@example(case({"in_channels": 3, "out_channels": 2, "kernel_size": 1, "stride": 3}, (2, 3, 8, 5)))
@example(case({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "groups": 4}, (2, 4, 5, 6)))
@example(case({"in_channels": 1, "out_channels": 1, "kernel_size": (1, 4)}, (1, 1, 1, 4)))
def test_conv_agrees_with_torch(case: Case) -> None:
    check_layer(
        Conv2d(**case.parametrised()), torch.nn.Conv2d(**case.options), case.input(), **case.how()
    )


@given(transposed_convolutions())
@example(case(SEED | {"output_padding": 1}, (2, 3, 4, 3)))
@example(case(SEED | {"output_padding": 1}, (2, 3, 4, 3), dtype=torch.float32, layout="offset"))
@example(case({"in_channels": 3, "out_channels": 2, "kernel_size": 1}, (1, 3, 1, 1)))
@example(case({"in_channels": 3, "out_channels": 2, "kernel_size": 2, "stride": 2}, (2, 3, 3, 5)))
@example(case({"in_channels": 2, "out_channels": 1, "kernel_size": 1, "stride": 3}, (1, 2, 3, 2)))
@example(case({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "groups": 4}, (2, 4, 5, 6)))
def test_transposed_conv_agrees_with_torch(case: Case) -> None:
    reference = torch.nn.ConvTranspose2d(**case.options)
    check_layer(ConvTranspose2d(**case.parametrised()), reference, case.input(), **case.how())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layers_of_the_seed_network_at_its_own_size(dtype: torch.dtype, layout: str) -> None:
    for i, o, side in ((3, 48, 32), (48, 48, 16)):
        x = random_tensor((4, i, side, side), side, dtype=dtype, layout=layout)
        layer = Conv2d(i, o, 3, 2, 1, generator=seeded(1), dtype=dtype)
        check_layer(layer, torch.nn.Conv2d(i, o, 3, 2, 1), x, passes=1)
    for i, o, side in ((48, 48, 8), (48, 3, 16)):
        x = random_tensor((4, i, side, side), side, dtype=dtype, layout=layout)
        layer = ConvTranspose2d(i, o, 3, 2, 1, 1, generator=seeded(1), dtype=dtype)
        check_layer(layer, torch.nn.ConvTranspose2d(i, o, 3, 2, 1, 1), x, passes=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 640, 300), (100, 4, 64, 48)], ids=["large", "many"])
def test_images_too_large_or_too_many_to_unfold_at_once(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Layers work through these part by part; then a small batch, with the parts still around."""
    options = {"kernel_size": (3, 4), "padding": 1, "groups": 2}
    conv = Conv2d(4, 4, **options, generator=seeded(1), dtype=dtype)
    transposed = ConvTranspose2d(4, 4, **options, generator=seeded(1), dtype=dtype)
    for size in (shape, (1, 4, 6, 5), shape):
        x = random_tensor(size, 1, dtype=dtype)
        check_layer(conv, torch.nn.Conv2d(4, 4, **options), x, passes=1)
        check_layer(transposed, torch.nn.ConvTranspose2d(4, 4, **options), x, passes=1)


@given(convolutions() | transposed_convolutions())
def test_backward_is_the_adjoint_of_forward(case: Case) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for the linear map A, that is, without the bias."""
    layer_class = ConvTranspose2d if "output_padding" in case.options else Conv2d
    options = case.parametrised() | {"bias": False, "dtype": torch.float64}
    layer = layer_class(**options)
    x = case.input().double()
    image = layer(x)
    y = random_tensor(tuple(image.shape), case.seed + 3)
    back = layer.backward(y)
    size = (image.abs() * y.abs()).sum() + (x.abs() * back.abs()).sum()
    assert abs((image * y).sum() - (x * back).sum()) <= 1e-12 * (size + 1)


@given(convolutions())
def test_transposed_conv_is_the_transpose_of_conv(case: Case) -> None:
    """The same weight in both: ConvTranspose2d's forward is Conv2d's backward."""
    options = case.parametrised() | {"bias": False, "dtype": torch.float64}
    conv = Conv2d(**options)
    x = case.input().double()
    y = random_tensor(tuple(conv(x).shape), case.seed)
    expected = conv.backward(y)
    kernel, stride, padding, dilation = (
        pair(options[name]) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    without = [
        (y.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (kernel[a] - 1) + 1
        for a in (0, 1)
    ]
    missing = (x.shape[2] - without[0], x.shape[3] - without[1])
    if any(missing[a] >= max(stride[a], dilation[a]) for a in (0, 1)):
        return  # no output padding is that large
    options |= {"in_channels": options["out_channels"], "out_channels": options["in_channels"]}
    transposed = ConvTranspose2d(**options, output_padding=missing)
    transposed.load_state_dict(conv.state_dict())
    assert_close("output", transposed(y), expected, torch.float64)


def test_conv_by_hand() -> None:
    """x = [1 2 3; 4 5 6], w = [1 10], b = 0.5:   y = [21.5 32.5; 54.5 65.5]."""
    layer = Conv2d(1, 1, (1, 2))
    layer.load_state_dict({"weight": torch.tensor([[[[1.0, 10.0]]]]), "bias": torch.tensor([0.5])})
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    assert layer(x).tolist() == [[[[21.5, 32.5], [54.5, 65.5]]]]
    grad = layer.backward(torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]]))
    assert grad.tolist() == [[[[1.0, 10.0, 0.0], [0.0, 2.0, 20.0]]]]
    assert layer.weight.grad.tolist() == [[[[1 + 2 * 5.0, 2 + 2 * 6.0]]]]
    assert layer.bias.grad.tolist() == [3.0]


def test_transposed_conv_by_hand() -> None:
    """x = [1 2], w = [1 10 100], stride 2:   y = [1 10 100+2 20 200] + 0.5."""
    layer = ConvTranspose2d(1, 1, (1, 3), stride=(1, 2))
    layer.load_state_dict(
        {"weight": torch.tensor([[[[1.0, 10.0, 100.0]]]]), "bias": torch.tensor([0.5])}
    )
    assert layer(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1.5, 10.5, 102.5, 20.5, 200.5]]]]
    grad = layer.backward(torch.tensor([[[[1.0, 0.0, 1.0, 0.0, 3.0]]]]))
    assert grad.tolist() == [[[[101.0, 301.0]]]]
    assert layer.weight.grad.tolist() == [[[[1.0 + 2.0, 0.0, 1.0 + 6.0]]]]
    assert layer.bias.grad.tolist() == [5.0]


# Initialisation


@BOTH
@pytest.mark.parametrize("groups", [1, 4])
def test_initialised_as_torch_does(layer_class: Any, groups: int) -> None:
    """Uniform on ±1/√fan_in, where fan_in is weight.shape[1] · kh · kw for both classes."""
    layer = layer_class(32, 64, (3, 5), groups=groups, generator=seeded(0))
    reference = getattr(torch.nn, layer_class.__name__)(32, 64, (3, 5), groups=groups)
    bound = (reference.weight.shape[1] * 15) ** -0.5
    for name, parameter in layer.named_parameters().items():
        values = parameter.value.flatten().double()
        assert parameter.value.shape == reference.get_parameter(name).shape
        assert reference.get_parameter(name).abs().max() <= bound, "the bound of this test"
        assert values.abs().max() <= bound * (1 + 1e-6)
        ranks = values.sort().values / (2 * bound) + 0.5
        expected = torch.linspace(0, 1, len(values), dtype=torch.float64)
        # Kolmogorov-Smirnov: beyond 1.63 / √n for one uniform sample in a hundred.
        assert (ranks - expected).abs().max() < 1.63 / len(values) ** 0.5, name


@BOTH
def test_initialisation_repeats_from_its_generator(layer_class: Any) -> None:
    generator = seeded(3)
    first, second = (layer_class(2, 3, 3, generator=generator) for _ in range(2))
    again = layer_class(2, 3, 3, generator=seeded(3))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, second.state_dict()[name])


@BOTH
def test_initialisation_without_a_generator_draws_from_torchs_own(layer_class: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first, second = layer_class(2, 3, 3), layer_class(2, 3, 3)
        torch.manual_seed(4)
        again = layer_class(2, 3, 3)
    assert torch.equal(first.weight.value, again.weight.value)
    assert not torch.equal(first.weight.value, second.weight.value)


@BOTH
def test_dtype_layout_and_absent_bias(layer_class: Any) -> None:
    layer = layer_class(4, 6, (3, 2), groups=2, bias=False, dtype=torch.float64, device="cpu")
    shape = (6, 2, 3, 2) if layer_class is Conv2d else (4, 3, 3, 2)
    assert {name: p.value.shape for name, p in layer.named_parameters().items()} == {
        "weight": shape
    }
    assert layer.weight.value.dtype == layer.weight.grad.dtype == torch.float64
    assert layer_class(1, 1, 1).weight.value.dtype == torch.float32


# What is refused


@BOTH
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("in_channels", 0),
        ("in_channels", 2.0),
        ("out_channels", -1),
        ("out_channels", "4"),
        ("kernel_size", 0),
        ("kernel_size", (3, 0)),
        ("kernel_size", (3, 3, 3)),
        ("kernel_size", 2.5),
        ("kernel_size", None),
        ("stride", 0),
        ("stride", (1, -2)),
        ("padding", -1),
        ("padding", (1, -3)),
        ("padding", 0.5),
        ("dilation", 0),
        ("dilation", [1]),
        ("groups", 0),
        ("groups", 3),
        ("groups", 1.0),
    ],
)
def test_refuses_an_argument_by_name_and_value(
    layer_class: Any, argument: str, value: object
) -> None:
    options: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        layer_class(**(options | {argument: value}))
    message = str(caught.value)
    culprit = value[-1] if isinstance(value, tuple | list) else value
    assert argument in message
    assert str(culprit) in message
    assert "\n" not in message


@BOTH
def test_refuses_padding_by_name_and_says_so(layer_class: Any) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=r"padding.*same"):
        layer_class(1, 1, 3, padding="same")


@BOTH
def test_groups_must_divide_both_channel_counts(layer_class: Any) -> None:
    for channels in ((4, 3), (3, 4)):
        with pytest.raises(InvalidValue, match="groups"):
            layer_class(*channels, 1, groups=2)


@pytest.mark.parametrize("value", [2, (0, 2), -1])
def test_output_padding_is_below_stride_or_dilation(value: Any) -> None:
    with pytest.raises(InvalidValue, match="output_padding"):
        ConvTranspose2d(1, 1, 3, stride=2, output_padding=value)


@BOTH
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 3, 8, 8), (8,), (1, 2, 8, 8), (1, 4, 8, 8)])
def test_refuses_inputs_of_another_rank_or_other_channels(
    layer_class: Any, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError) as caught:
        layer_class(3, 2, 3)(torch.zeros(shape))
    assert layer_class.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"kernel_size": 3}, (1, 1, 2, 8)),
        ({"kernel_size": 3}, (1, 1, 8, 2)),
        ({"kernel_size": 2, "dilation": 5, "padding": 1}, (1, 1, 3, 8)),
        ({"kernel_size": 3}, (1, 1, 0, 8)),
    ],
)
def test_conv_refuses_inputs_smaller_than_its_kernel(
    options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError):
        Conv2d(1, 1, **options)(torch.zeros(shape))


def test_transposed_conv_refuses_inputs_that_give_no_output() -> None:
    with pytest.raises(ShapeError):
        ConvTranspose2d(1, 1, 1, padding=1)(torch.zeros(1, 1, 2, 8))


def test_an_error_is_an_n2n_error_and_changes_nothing(generator: torch.Generator) -> None:
    layer = Conv2d(2, 2, 3, padding=1, generator=generator)
    x = torch.randn(1, 2, 4, 4, generator=generator)
    expected = layer(x)
    with pytest.raises(N2NError):
        layer(torch.zeros(1, 5, 4, 4))
    assert torch.equal(layer(x), expected)


# Which rows and columns an output depends on


@given(
    convolutions() | transposed_convolutions(), st.integers(0, 10), st.integers(0, 10), st.data()
)
def test_input_span_is_what_outputs_depend_on(
    case: Case, first: int, more: int, data: st.DataObject
) -> None:
    axis = data.draw(st.sampled_from([0, 1]), label="axis")
    transposed = "output_padding" in case.options
    layer = (ConvTranspose2d if transposed else Conv2d)(
        **(case.parametrised() | {"dtype": torch.float64, "groups": 1})
    )
    x = random_tensor(case.shape, case.seed)
    outputs = layer(x).shape[2 + axis]
    first = min(first, outputs - 1)
    last = min(first + more, outputs - 1)
    low, high = layer.input_span((first, last), axis)

    depends = depends_on(layer, x, (first, last), axis)
    size = x.shape[2 + axis]
    assert all(low <= row <= high for row in depends)
    # Tight, where every tap of the kernel falls into the image. A dilated transposed kernel
    # leaves holes, which the span may take in; of padding alone nothing depends on any row.
    if (
        depends
        and 0 <= low <= high < size
        and not (transposed and pair(case.options["dilation"])[axis] > 1)
    ):
        assert (min(depends), max(depends)) == (low, high)


def depends_on(layer: Any, x: torch.Tensor, span: tuple[int, int], axis: int) -> list[int]:
    """By brute force: the rows (columns) of x whose change is seen in that span of the output."""
    layer.eval()
    length = span[1] - span[0] + 1
    before = layer(x).narrow(2 + axis, span[0], length)
    rows = []
    for row in range(x.shape[2 + axis]):
        changed = x.clone()
        changed.select(2 + axis, row).add_(1 + changed.select(2 + axis, row).abs())
        if not torch.equal(layer(changed).narrow(2 + axis, span[0], length), before):
            rows.append(row)
    return rows
