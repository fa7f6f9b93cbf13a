"""Losses: how far a prediction is from its target, and the gradient of that distance."""

from torch import Tensor, empty

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn.arguments import require_not_negative, require_positive

__all__ = ["L0Loss", "L1Loss", "LogMSELoss", "Loss", "MSELoss", "RelativeMSELoss"]

REDUCTIONS = ("none", "mean", "sum")


class Loss:
    """A distance for each element, reduced: `none` keeps them, `mean` and `sum` give one number.

    Prediction and target have the same shape (nothing is broadcast: ShapeError). Call the loss,
    then `backward()` for the gradient by the prediction, of the prediction's shape; with `none`
    it takes the gradient by each element's loss, ones if it is not given. `anneal` tells a loss
    how far the training is; most do not change with it.
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
        self._difference = self._compare(prediction.detach(), target.detach())
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

    def anneal(self, progress: float) -> None:
        """Change with the training, of which the share `progress` is done, from 0 to 1."""
        if not 0 <= progress <= 1:
            raise InvalidValue(f"progress must be in [0, 1], got {progress}")

    def _require_same_shape(self, first: Tensor, second: Tensor) -> None:
        if first.shape != second.shape:
            raise ShapeError(
                f"{type(self).__name__} expects two tensors of one shape, "
                f"got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        for tensor in (first, second):
            if not tensor.is_floating_point():
                raise InvalidType(f"{type(self).__name__} expects floats, got {tensor.dtype}")

    def _compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """What `_distance` and `_derivative` are given: prediction - target."""
        return prediction - target

    def _distance(self, difference: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no distance")

    def _derivative(self, difference: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no derivative")


class MSELoss(Loss):
    """(prediction - target)², with derivative 2 · (prediction - target)."""

    def _distance(self, difference: Tensor) -> Tensor:
        return difference * difference

    def _derivative(self, difference: Tensor) -> Tensor:
        return difference * 2


class L1Loss(Loss):
    """|prediction - target|, with derivative ±1, and 0 where they are equal."""

    def _distance(self, difference: Tensor) -> Tensor:
        return difference.abs()

    def _derivative(self, difference: Tensor) -> Tensor:
        return difference.sign()


class L0Loss(Loss):
    """(|prediction - target| + epsilon)^gamma, gamma annealed from 2 to 0.

    Its minimum moves from the mean of the targets over their median (gamma = 1) to their mode, so
    that it finds what lies under random-valued impulses. derivative:
    gamma · (|d| + epsilon)^(gamma - 1) · sign(d). Lehtinen et al. 2018 (Noise2Noise), section 3.3.

    epsilon: a level of 255. The paper has 1e-8, with which the few values that fit best outweigh
    all others towards the end.
    """

    def __init__(
        self, reduction: str = "mean", gamma: float = 2.0, epsilon: float = 1 / 255
    ) -> None:
        super().__init__(reduction)
        self.gamma = require_not_negative(gamma, name="gamma")
        self.epsilon = require_positive(epsilon, name="epsilon")

    def anneal(self, progress: float) -> None:
        super().anneal(progress)
        self.gamma = 2 * (1 - progress)

    def _distance(self, difference: Tensor) -> Tensor:
        return (difference.abs() + self.epsilon).pow_(self.gamma)

    def _derivative(self, difference: Tensor) -> Tensor:
        slope = (difference.abs() + self.epsilon).pow_(self.gamma - 1)
        return slope.mul_(difference.sign()).mul_(self.gamma)


class LogMSELoss(Loss):
    """log(mean squared error of an image + epsilon), for images of very different noise.

    Of (N, …) every element has the loss of its image, the first index. derivative: 2 · (prediction
    - target) / (mean squared error + epsilon). Against noisy targets the error of an image is the
    variance of its noise, and more; so each weighs by about the inverse of its targets' variance,
    as the best linear unbiased estimate has it (Gauss-Markov theorem, Aitken 1935), and the mean
    PSNR of the targets is what is maximised. epsilon: 1e-4, of 2.5 levels in 255.
    """

    def __init__(self, reduction: str = "mean", epsilon: float = 1e-4) -> None:
        super().__init__(reduction)
        self.epsilon = require_positive(epsilon, name="epsilon")
        self._errors = empty(0)

    def _compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - target
        errors = difference * difference
        if errors.dim() > 1:
            errors = errors.mean(tuple(range(1, errors.dim())), keepdim=True)
        self._errors = errors.add_(self.epsilon)
        return difference

    def _distance(self, difference: Tensor) -> Tensor:
        return self._errors.log().expand_as(difference)

    def _derivative(self, difference: Tensor) -> Tensor:
        return (difference / self._errors).mul_(2)


class RelativeMSELoss(Loss):
    """((prediction - target) / (prediction + epsilon))², for images of high dynamic range.

    Its derivative takes the divisor for a constant, 2 · (prediction - target) / (prediction +
    epsilon)², so that the expectation stays the mean of the targets, where a divisor made of the
    target would be biased. epsilon: 0.01. The prediction's size counts, whatever its sign.
    Lehtinen et al. 2018 (Noise2Noise), section 3.4.
    """

    def __init__(self, reduction: str = "mean", epsilon: float = 0.01) -> None:
        super().__init__(reduction)
        self.epsilon = require_positive(epsilon, name="epsilon")
        self._divisor = empty(0)

    def _compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        self._divisor = prediction.abs().add_(self.epsilon)
        return (prediction - target).div_(self._divisor)

    def _distance(self, difference: Tensor) -> Tensor:
        return difference * difference

    def _derivative(self, difference: Tensor) -> Tensor:
        return (difference / self._divisor).mul_(2)
