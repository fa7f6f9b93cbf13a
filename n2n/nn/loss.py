"""Losses: how far a prediction is from its target, and the gradient of that distance."""

from torch import Tensor

from n2n.errors import InvalidType, InvalidValue, ShapeError

__all__ = ["L1Loss", "MSELoss"]

REDUCTIONS = ("none", "mean", "sum")


class _Loss:
    """A distance for each element, reduced: `none` keeps them, `mean` and `sum` give one number.

    Prediction and target have the same shape (nothing is broadcast: ShapeError). Call the loss,
    then `backward()` for the gradient by the prediction, of the prediction's shape; with `none`
    it takes the gradient by each element's loss, ones if it is not given.
    """

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise InvalidValue(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction
        self._difference: Tensor | None = None

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
            raise InvalidType(
                f"{type(self).__name__} expects two Tensors, "
                f"got {type(prediction).__name__} and {type(target).__name__}"
            )
        self._require_same_shape(prediction, target)
        self._difference = prediction.detach() - target.detach()
        values = self._distance(self._difference)
        if self.reduction == "none":
            return values
        return values.mean() if self.reduction == "mean" else values.sum()

    def backward(self, grad_output: Tensor | None = None) -> Tensor:
        difference = self._difference
        if difference is None:
            raise InvalidValue(f"{type(self).__name__}.backward needs a call of the loss before it")
        if grad_output is not None and self.reduction == "none":
            self._require_same_shape(grad_output, difference)
        elif grad_output is not None and grad_output.numel() != 1:
            raise ShapeError(
                f"{type(self).__name__} expects one number as the gradient of its result, "
                f"got {tuple(grad_output.shape)}"
            )
        gradient = self._derivative(difference)
        if self.reduction == "mean":
            gradient.div_(difference.numel())
        return gradient if grad_output is None else gradient.mul_(grad_output)

    def _require_same_shape(self, first: Tensor, second: Tensor) -> None:
        if first.shape != second.shape:
            raise ShapeError(
                f"{type(self).__name__} expects two tensors of one shape, "
                f"got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        for tensor in (first, second):
            if not tensor.is_floating_point():
                raise InvalidType(f"{type(self).__name__} expects floats, got {tensor.dtype}")

    def _distance(self, difference: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no distance")

    def _derivative(self, difference: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no derivative")


class MSELoss(_Loss):
    """(prediction - target)², with derivative 2 · (prediction - target)."""

    def _distance(self, difference: Tensor) -> Tensor:
        return difference * difference

    def _derivative(self, difference: Tensor) -> Tensor:
        return difference * 2


class L1Loss(_Loss):
    """|prediction - target|, with derivative ±1, and 0 where they are equal."""

    def _distance(self, difference: Tensor) -> Tensor:
        return difference.abs()

    def _derivative(self, difference: Tensor) -> Tensor:
        return difference.sign()
