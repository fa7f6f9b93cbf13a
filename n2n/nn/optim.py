"""Optimisers: from gradients to new values. Muon is in `muon`, schedules of lr in `schedule`."""

from collections.abc import Iterable

from torch import Tensor, arange, empty

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn.arguments import require_finite, require_not_negative, require_positive

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_gradients"]


class Optimizer:
    """Changes parameters in place by their gradients.

    `params` is a network's `param()`: (value, gradient) pairs. `lr` may be set between steps.
    A subclass names its buffers in `slots`; `state_dict()` holds them, one a parameter and slot,
    and the number of steps, so that a restored optimiser goes on bit for bit.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: Iterable[tuple[Tensor, Tensor]], lr: float) -> None:
        self.params = list(params)
        if not self.params:
            raise InvalidValue("an optimiser needs at least one parameter, got none")
        self.lr = lr
        self.steps = 0
        self.buffers: dict[str, list[Tensor]] = {}

    @property
    def lr(self) -> float:
        """Learning rate, finite and not negative."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = require_not_negative(lr, name="lr")

    def step(self) -> None:
        """Change every parameter by its gradient."""
        if not self.buffers:
            self.buffers = {
                slot: [self._new_buffer(slot, value) for value, _ in self.params]
                for slot in self.slots
            }
        self.steps += 1
        for index, (value, grad) in enumerate(self.params):
            self._update(value, grad, *(self.buffers[slot][index] for slot in self.slots))

    def zero_grad(self) -> None:
        for _, grad in self.params:
            grad.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all buffers by "slot.index", and "steps", an integer."""
        state = {"steps": arange(self.steps, self.steps + 1)}
        for slot, tensors in self.buffers.items():
            for index, tensor in enumerate(tensors):
                state[f"{slot}.{index}"] = tensor.clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; InvalidValue or ShapeError if it does not fit."""
        steps = int(state["steps"]) if "steps" in state else None
        slots = self.slots if steps else ()
        buffers = {
            slot: [self._new_buffer(slot, value) for value, _ in self.params] for slot in slots
        }
        places = {
            f"{slot}.{index}": buffer
            for slot, tensors in buffers.items()
            for index, buffer in enumerate(tensors)
        }
        if steps is None or places.keys() != state.keys() - {"steps"}:
            raise InvalidValue(
                f"expected the state of {type(self).__name__} for {len(self.params)} parameters, "
                f"got {', '.join(sorted(state)) or 'nothing'}"
            )
        for name, buffer in places.items():
            if state[name].shape != buffer.shape:
                raise ShapeError(
                    f"expected {name} of shape {tuple(buffer.shape)}, "
                    f"got {tuple(state[name].shape)}"
                )
            buffer.copy_(state[name])
        self.steps = steps
        self.buffers = buffers

    def _new_buffer(self, slot: str, value: Tensor) -> Tensor:
        """Zeros of a slot for a parameter."""
        return empty(value.shape, dtype=value.dtype, device=value.device).zero_()

    def _update(self, value: Tensor, grad: Tensor, *buffers: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no update")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    g ← grad + weight_decay · value
    m ← momentum · m + (1 - dampening) · g   (m ← g at the first step)
    value ← value - lr · (g + momentum · m if nesterov else m)

    `maximize` ascends. Sutskever et al. 2013; torch's convention, where lr stands outside of m.
    """

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        self.momentum = require_not_negative(momentum, name="momentum")
        self.dampening = require_finite(dampening, name="dampening")
        self.weight_decay = require_not_negative(weight_decay, name="weight_decay")
        if nesterov and (not momentum or dampening):
            raise InvalidValue(
                "nesterov needs a momentum above 0 and no dampening, "
                f"got momentum={momentum} and dampening={dampening}"
            )
        self.nesterov = nesterov
        self.sign = 1.0 if maximize else -1.0
        self.slots = ("momentum",) if momentum else ()
        super().__init__(params, lr)

    def _update(self, value: Tensor, grad: Tensor, *buffers: Tensor) -> None:
        if self.sign > 0 and self.weight_decay:
            grad = grad.sub(value, alpha=self.weight_decay)
        elif self.weight_decay:
            grad = grad.add(value, alpha=self.weight_decay)
        for average in buffers:
            if self.steps == 1:
                average.copy_(grad)
            else:
                average.mul_(self.momentum).add_(grad, alpha=1 - self.dampening)
            grad = grad.add(average, alpha=self.momentum) if self.nesterov else average
        value.add_(grad, alpha=self.sign * self.lr)


class Adam(Optimizer):
    """Steps scaled by running averages of the gradient and of its square.

    m ← β₁ m + (1 - β₁) g;   v ← β₂ v + (1 - β₂) g²
    value ← value - lr · m̂ / (√v̂ + eps),   m̂ = m / (1 - β₁ᵗ),   v̂ = v / (1 - β₂ᵗ)

    `weight_decay` is added to the gradient: g ← grad + weight_decay · value. Kingma & Ba 2015,
    algorithm 1.
    """

    slots = ("mean", "square")

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise InvalidType(f"betas must be two numbers, got {betas!r}")
        if not all(0 <= require_finite(beta, name="betas") < 1 for beta in betas):
            raise InvalidValue(f"betas must be two numbers in [0, 1), got {betas}")
        self.betas = betas
        self.eps = require_not_negative(eps, name="eps")
        self.weight_decay = require_not_negative(weight_decay, name="weight_decay")
        super().__init__(params, lr)

    def _update(self, value: Tensor, grad: Tensor, *buffers: Tensor) -> None:
        mean, square = buffers
        grad = self._decay(value, grad)
        first, second = self.betas
        mean.mul_(first).add_(grad, alpha=1 - first)
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        scale = (square / (1 - second**self.steps)).sqrt_().add_(self.eps)
        value.addcdiv_(mean, scale, value=-self.lr / (1 - first**self.steps))

    def _decay(self, value: Tensor, grad: Tensor) -> Tensor:
        return grad.add(value, alpha=self.weight_decay) if self.weight_decay else grad


class AdamW(Adam):
    """Adam whose weight decay shrinks the values themselves: value ← (1 - lr · decay) · value.

    Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _decay(self, value: Tensor, grad: Tensor) -> Tensor:
        value.mul_(1 - self.lr * self.weight_decay)
        return grad


def clip_gradients(params: Iterable[tuple[Tensor, Tensor]], max_norm: float) -> Tensor:
    """Scale all gradients together so that their Euclidean norm is at most max_norm.

    params: a network's `param()`. Returns the norm before, a tensor of one number; where it is
    not finite, the gradients are left as they are or are not finite either. No host waits for a
    device. Pascanu et al. 2013, algorithm 1.
    """
    limit = require_positive(max_norm, name="max_norm")
    gradients = [grad for _, grad in params]
    if not gradients:
        raise InvalidValue("gradients to clip expected, got none")
    squares = [grad.square().sum() for grad in gradients]
    norm = sum(squares[1:], squares[0]).sqrt()
    scale = (limit / (norm + 1e-6)).clamp_(max=1.0)
    for grad in gradients:
        grad.mul_(scale)
    return norm
