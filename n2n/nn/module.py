"""What every layer is: parameters with gradients, a forward, a backward, a named state."""

from __future__ import annotations

from collections.abc import Iterator
from threading import local
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, empty

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn.geometry import Span

if TYPE_CHECKING:
    from torch import device, dtype

__all__ = ["Module", "Parameter", "Workspace", "scratch"]


class Parameter:
    """A learned tensor and the gradient of the loss by it, of the same shape."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.grad = empty(value.shape, dtype=value.dtype, device=value.device).zero_()


class Workspace:
    """Buffers that are kept between calls: page faults cost more than the work in them.

    A buffer is found again by its name and grows to the largest size asked for. Nothing of it is
    ever handed to a caller.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A contiguous buffer of any content, with the dtype and device of `like`."""
        count = 1
        for size in shape:
            count *= size
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < count  # len() of a tensor is slow
            or buffer.dtype != like.dtype
            or buffer.device != like.device
        ):
            buffer = empty(count, dtype=like.dtype, device=like.device)
            self._buffers[name] = buffer
        return buffer[:count].view(shape)

    @property
    def nbytes(self) -> int:
        """What is kept, bytes."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def release(self) -> None:
        self._buffers.clear()


_threads = local()


def scratch() -> Workspace:
    """This thread's buffers for what no call leaves behind: shared by all layers, one block large.

    One that has just been used by the layer before is still in the cache.
    """
    if not hasattr(_threads, "scratch"):
        _threads.scratch = Workspace()
    workspace: Workspace = _threads.scratch
    return workspace


class Module:
    """A differentiable function of one tensor with parameters of its own.

    A subclass writes `forward`, which keeps what `backward` will need by `_save`, and `backward`,
    which takes the gradient of the loss by the output, **adds** to the gradients of the
    parameters and returns the gradient by the input. What either returns belongs to the caller,
    and their arguments are left as they are; a caller who changes x or y in place before
    `backward` changes its result. In inference mode (`eval()`) nothing is saved.
    """

    training = True
    compute_dtype: dtype | None = None
    keeps_output = False  # whether backward reads what forward returned
    takes_activations = False  # whether it has `forward_into` and `backward_through`
    _saved: tuple[Any, tuple[int, ...]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, grad_output: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def forward_(self, x: Tensor) -> Tensor:
        """As `forward`, for a caller who needs x no more: it may be overwritten."""
        return self.forward(x)

    def backward_(self, grad_output: Tensor) -> Tensor:
        """As `backward`, for a caller who needs grad_output no more: it may be overwritten."""
        return self.backward(grad_output)

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise InvalidType(f"{type(self).__name__} expects a Tensor, got {type(x).__name__}")
        return self.forward(x.detach())

    def input_span(self, span: Span, axis: int) -> Span:
        """Rows (axis 0) or columns (axis 1) of the input that those of the output depend on."""
        return span

    def skip_input_gradient(self, skip: bool = True) -> None:
        """Say that nobody will use what `backward` returns: it may then be an empty tensor.

        A trainer says it of its network, whose first layer has no layer before it, and takes it
        back when it has done.
        """

    # Parameters and state

    def children(self) -> dict[str, Module]:
        """The modules that this one is made of, by the name of their attribute."""
        return {name: child for name, child in vars(self).items() if isinstance(child, Module)}

    def modules(self) -> Iterator[Module]:
        """This module, and all that it is made of."""
        yield self
        for child in self.children().values():
            yield from child.modules()

    def named_parameters(self) -> dict[str, Parameter]:
        """All parameters by their path, such as "2.weight"."""
        named = {name: item for name, item in vars(self).items() if isinstance(item, Parameter)}
        for prefix, child in self.children().items():
            for name, parameter in child.named_parameters().items():
                named[f"{prefix}.{name}"] = parameter
        return named

    def param(self) -> list[tuple[Tensor, Tensor]]:
        """(value, gradient) of every parameter; an optimiser changes the values in place."""
        return [(item.value, item.grad) for item in self.named_parameters().values()]

    def zero_grad(self) -> None:
        for _, grad in self.param():
            grad.zero_()

    def flatten_gradients(self, spare: int = 0) -> Tensor:
        """Put all gradients, set to zero, into one block, in the order of `param()`.

        Returns the block (P + spare,), for what is done to all of them at once; each gradient is
        a view of it, and `spare` numbers follow them. Make the optimiser after this: it holds the
        tensors. ShapeError unless all parameters have one dtype and device.
        """
        parameters = list(self.named_parameters().values())
        kinds = {(item.value.dtype, item.value.device) for item in parameters}
        if len(kinds) != 1:
            raise ShapeError(
                f"one dtype and device of all parameters expected, got {len(kinds)}; use to()"
            )
        sizes = [item.value.numel() for item in parameters]
        ((dtype, device),) = kinds
        block = empty(sum(sizes) + spare, dtype=dtype, device=device).zero_()
        views = block[: sum(sizes)].split(sizes)
        for item, view in zip(parameters, views, strict=True):
            item.grad = view.view(item.value.shape)
        return block

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {name: item.value.clone() for name, item in self.named_parameters().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy `state` into the parameters.

        Names and shapes must be exactly those of `state_dict()`; otherwise InvalidValue or
        ShapeError says which are not, and nothing is changed.
        """
        if not isinstance(state, dict):
            raise InvalidType(f"expected a dict of Tensors, got {type(state).__name__}")
        own = self.named_parameters()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unexpected:
            raise InvalidValue(
                f"expected the parameters of this network; missing: {', '.join(missing) or 'none'}"
                f"; unexpected: {', '.join(unexpected) or 'none'}"
            )
        for name, item in own.items():
            if not isinstance(state[name], Tensor):
                raise InvalidType(f"expected {name} as a Tensor, got {type(state[name]).__name__}")
            if state[name].shape != item.value.shape:
                raise ShapeError(
                    f"expected {name} of shape {tuple(item.value.shape)}, "
                    f"got {tuple(state[name].shape)}"
                )
        for name, item in own.items():
            item.value.copy_(state[name])

    # Mode, place, memory

    def train(self, mode: bool = True) -> Self:
        """Training mode: `forward` keeps what `backward` needs."""
        for module in self.modules():
            module.training = mode
            if not mode:
                module._saved = None
        return self

    def eval(self) -> Self:
        """Inference mode: `forward` keeps nothing."""
        return self.train(False)

    def compute_in(self, dtype: dtype | None) -> Self:
        """Choose the dtype of the operands of matrix products, such as torch.bfloat16.

        Parameters and their gradients keep theirs, and products are summed in it; None, the
        default, computes in the dtype of the parameters.
        """
        for module in self.modules():
            module.compute_dtype = dtype
            module._saved = None
        return self

    def to(self, device: device | str | None = None, dtype: dtype | None = None) -> Self:
        """Move values and gradients. Make the optimiser after this: it holds the tensors."""
        for item in self.named_parameters().values():
            item.value = item.value.to(device=device, dtype=dtype)
            item.grad = item.grad.to(device=device, dtype=dtype)
        self.release()
        return self

    def release(self) -> None:
        """Let go of kept buffers, this thread's too, and of what was saved for `backward`."""
        scratch().release()
        for module in self.modules():
            module._saved = None

    # For subclasses

    def _save(self, value: Any, output: Tensor) -> Tensor:
        """Keep `value` for backward, in training mode, and return `output`."""
        self._saved = (value, output.shape) if self.training else None
        return output

    def _take(self, grad_output: Tensor) -> Any:
        """What forward kept; InvalidValue if nothing, ShapeError unless dy has the shape of y."""
        if self._saved is None:
            raise InvalidValue(
                f"{type(self).__name__}.backward needs a forward in training mode before it"
            )
        value, shape = self._saved
        if grad_output.shape != shape:
            raise ShapeError(
                f"{type(self).__name__}.backward expects a gradient of the output's shape "
                f"{tuple(shape)}, got {tuple(grad_output.shape)}"
            )
        return value
