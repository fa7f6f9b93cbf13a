"""The steps of a training: one a batch, alone or together; their losses, read at once or late."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from n2n.config import TrainConfig
from n2n.errors import Diverged
from n2n.models import Network
from n2n.step import SharedGradients, late_step, shared_step, train_step

if TYPE_CHECKING:
    from n2n.peers import Peers

__all__ = ["Descent"]

LATE = 25  # steps between reading losses, where they are read late


class Descent:
    """Takes a network down its loss, with the optimiser and all else that a config names.

    late: read losses every 25 steps alone, so that a step waits for nothing; one that is not
    finite is then found at most 24 steps later, and names its own batch. peers: take each step
    together with other processes. explain(what, batch): the Diverged to raise for a batch, which
    is counted from 1 in its epoch.

    loss_sum: of the losses read in this epoch, each times its images.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: Network,
        *,
        late: bool,
        peers: "Peers | None",
        explain: Callable[[str, int], Diverged],
    ) -> None:
        self.network = network
        self.shared = SharedGradients(network, peers) if peers is not None else None
        self.learner = config.make_learner(network)
        self.loss = config.make_loss()
        self.loss_sum = 0.0
        self.is_stop_wished = False  # by another process, as of the last look
        self._late, self._clip = late, config.clip
        self._explain = explain
        self._unread: list[tuple[Tensor, int]] = []  # losses of the last batches, and their images

    def begin_epoch(self, loss_sum: float) -> None:
        """Forget what a part of the run before has left; loss_sum: of the batches done."""
        self.loss_sum = loss_sum
        self._unread.clear()

    def step(
        self,
        x: Tensor,
        y: Tensor,
        *,
        images: int,
        batch: int,
        lr: float,
        progress: float,
        stop: bool,
    ) -> None:
        """One step on the batch of this number, from 0, of so many images over all processes.

        x, y: this process's share of it, (n, C, H, W) in [0, 1]. progress: the part of the run
        that is done. stop: whether this process wishes to stop. Diverged before the step for a
        loss that is not finite, or later.
        """
        self.learner.optimizer.lr = lr
        self.loss.anneal(progress)
        try:
            value = self._descend(x, y, images, stop)
        except Diverged as error:
            raise self._explain(str(error), batch + 1) from error
        if self.learner.average is not None:
            self.learner.average.update()
        if isinstance(value, Tensor):
            self._unread.append((value, images))
        else:
            self.loss_sum += value * images
        # By the batch's number: in all processes at the same one.
        if not self._late or (batch + 1) % LATE == 0:
            self.look(batch + 1)

    def _descend(self, x: Tensor, y: Tensor, images: int, stop: bool) -> Tensor | float:
        """The step itself; its loss, a Tensor where it has not been looked at."""
        optimizer = self.learner.optimizer
        if self.shared is None:
            step = late_step if self._late else train_step
            return step(self.network, self.loss, optimizer, x, y, clip=self._clip)
        value = shared_step(
            self.shared,
            self.loss,
            optimizer,
            *(x, y),
            images=images,
            stop=stop,
            late=self._late,
            clip=self._clip,
        )
        return value if self._late else float(value)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside of the block the network is the model: the average of its weights, if any."""
        average = self.learner.average
        return nullcontext() if average is None else average.applied()

    def look(self, batches: int) -> None:
        """Read losses, and whether another process wishes to stop, after so many batches."""
        self.read_losses(batches)
        self.is_stop_wished = self.shared is not None and self.shared.is_stop_wished()

    def read_losses(self, batches: int) -> None:
        """Wait for the losses not read yet, of the last of so many batches. Diverged names one."""
        if not self._unread:
            return
        values = torch.stack([value for value, _ in self._unread]).tolist()
        first = batches - len(values) + 1
        for batch, (value, (_, images)) in enumerate(zip(values, self._unread, strict=True), first):
            if not math.isfinite(value):
                raise self._explain(f"the loss is {value}", batch)
            self.loss_sum += value * images
        self._unread.clear()

    def require_finite(self, batches: int) -> None:
        """Diverged, after so many batches, for a loss not read yet or a parameter."""
        self.read_losses(batches)
        for name, parameter in self.network.named_parameters().items():
            if not bool(parameter.value.isfinite().all()):
                raise self._explain(f"{name} is not finite after a step", batches)
