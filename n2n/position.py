"""Where a run stands, and how processes that train together come to stand there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from n2n.checkpoint import Learner, decode, encode

if TYPE_CHECKING:
    from n2n.peers import Peers

__all__ = ["Position", "share_state"]


@dataclass(frozen=True)
class Position:
    """Where a run stands: `epoch` epochs done, `batch` batches of the next one.

    loss_sum: of those batches, each loss times its images; images: how many those were. seconds,
    compute_seconds: spent on them, in all and in forward, backward and step (on a GPU: on asking
    for these); reduce_seconds: of the latter, on adding up gradients over several processes.
    best: the best selection score so far, and best_epoch the epoch that reached it.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    best: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    compute_seconds: float = 0.0
    reduce_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def is_end(self, *, epochs: int, patience: int) -> bool:
        """Whether so many epochs are done, or the last `patience` ones were no better (0: any)."""
        since_best = self.epoch - (self.best_epoch or 0)
        return self.epoch >= epochs or 0 < patience <= since_best

    def metrics(self, *, lr: float, validation_seconds: float) -> dict[str, Any]:
        """Of an epoch that stands at its end: its line of metrics.jsonl but for the scores."""
        return {
            "epoch": self.epoch + 1,
            "lr": lr,
            "train_loss": self.loss_sum / self.images,
            "seconds": round(self.seconds, 3),
            "compute_seconds": round(self.compute_seconds, 3),
            "validation_seconds": round(validation_seconds, 3),
            "images_per_second": round(self.images / self.seconds, 1),
        }


def share_state(peers: "Peers", learner: Learner, position: Position) -> Position:
    """Give rank 0's weights, optimiser and position to all processes; returns that position."""
    content = b""
    if peers.leads:
        place = {"position": position.as_dict()}
        content = encode(learner.tensors(), place)
    tensors, metadata = decode(peers.broadcast(content), "what rank 0 sent")
    if peers.leads:
        return position
    learner.load(tensors)
    return Position(**metadata["position"])
