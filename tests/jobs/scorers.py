"""Scorers whose processes die, for the tests of `n2n evaluate --workers`."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from n2n.scoring import Outcome, Piece, Scorer, ScorerConfig


class Dying(Scorer):
    """Is killed at a batch of the second model: once, or, where the set is named "deadly", always.

    Each death leaves a line in the file `deaths` beside the set.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__(config)
        pairs = Path(config.pairs)
        self._deaths = pairs.with_name("deaths")
        self._always = pairs.name == "deadly"

    def run(self, items: Sequence[Piece]) -> Iterator[Outcome]:
        for piece, outcome in zip(items, super().run(items), strict=True):
            if (piece.model, piece.first) == (1, 250) and (
                self._always or not self._deaths.exists()
            ):
                with self._deaths.open("a") as file:
                    file.write("died\n")
                os.kill(os.getpid(), signal.SIGKILL)
            yield outcome
