"""Many models scored on one split, in pieces that any number of processes share out.

A piece is one model on one batch of pairs. The sums of a model's pieces are merged in the order
of the batches, whatever order they come in, so that the scores are those of `evaluate` to the
bit, if each process has as many threads.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from n2n.checkpoint import load_model
from n2n.data import PairSet, Split
from n2n.device import choose_device, set_threads, use_precision
from n2n.errors import InvalidValue, ModelFileError, ShapeError, is_out_of_memory
from n2n.evaluation import (
    Scores,
    Tally,
    batches_of,
    read_group,
    require_fit,
    tally_batch,
)
from n2n.files import digest_of
from n2n.models import Network
from n2n.shipped import locate, shipped

__all__ = [
    "Candidate",
    "Outcome",
    "Piece",
    "Result",
    "Scoreboard",
    "Scorer",
    "ScorerConfig",
    "choose_split",
    "look_at",
]

MOST_TOGETHER = 4  # pieces of a bunch
BUNCHES = 4  # for each worker, at least, as far as there are pieces


@dataclass(frozen=True)
class Candidate:
    """A model to be scored: what it is called, its file, and the sha256 of that.

    path: of a shipped model its name, since it lies elsewhere on every machine.
    """

    name: str
    path: str
    digest: str

    @classmethod
    def of(cls, name: str, path: Path) -> "Candidate":
        """The model called `name`, whose file was found at `path`."""
        place = name if name in shipped() else str(path.resolve())
        return cls(name, place, digest_of(path))


@dataclass(frozen=True)
class Piece:
    """One model on one batch: the model's number, the row group, the batch's first row in it."""

    model: int
    group: int
    first: int


@dataclass(frozen=True)
class Outcome:
    """The sums over a piece, or why there are none."""

    item: Piece
    tally: Tally | None = None
    reason: str = ""


@dataclass(frozen=True)
class ScorerConfig:
    """All that a worker needs to know; small, and can be pickled. digest: of the pair set."""

    models: tuple[Candidate, ...]
    pairs: str
    digest: str
    split: str
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None


@dataclass(frozen=True)
class Result:
    """What became of a model: its scores, or the reason why it has none."""

    name: str
    digest: str | None
    scores: Scores | None
    reason: str | None = None

    @property
    def rank(self) -> float:
        """Higher is better; nan, of a model that gives no numbers, is the last."""
        selection = self.scores.selection if self.scores is not None else math.nan
        return -math.inf if math.isnan(selection) else selection


def look_at(name: str, split: Split) -> Candidate:
    """Find a model and see that it can be read and fits. ModelFileError or ShapeError if not."""
    path = locate(name)
    network, _ = load_model(path)
    try:
        require_fit(network, split)
    except ShapeError as error:
        raise ShapeError(f"{name}: {error}") from None
    return Candidate.of(name, path)


def choose_split(pairs: PairSet, name: str | None) -> Split:
    """By name; None: val, if there is one, else train. InvalidValue where it is not there."""
    if name is None:
        return pairs.val or pairs.train
    found = {split.name: split for split in pairs.splits}
    if name not in found:
        raise InvalidValue(
            f"{pairs.path}: expected a {name} split, found only {', '.join(found)}; use --split "
            f"{pairs.train.name}"
        )
    return found[name]


class Scorer:
    """Built once in each process: opens the set, then takes any number of bunches of pieces.

    PairSetError and InvalidValue for a set, device or precision that cannot be used here. A model
    that cannot be is the outcome of its pieces.
    """

    def __init__(self, config: ScorerConfig) -> None:
        self._models = config.models
        set_threads(config.threads)
        self._device = choose_device(config.device)
        self._dtype = use_precision(config.precision, self._device)
        pairs = PairSet.open(config.pairs)
        if pairs.digest != config.digest:
            raise InvalidValue(
                f"{config.pairs}: expected the set of digest {config.digest[:12]}…, found "
                f"{pairs.digest[:12]}… on a worker's machine; copy the set there again"
            )
        self._split = choose_split(pairs, config.split)
        self._network: tuple[int, Network | str] | None = None  # or why there is none
        self._columns: tuple[int, dict[str, NDArray[np.uint8]]] | None = None

    def run(self, items: Sequence[Piece]) -> Iterator[Outcome]:
        """Each piece's outcome, in their order."""
        for piece in items:
            yield self._score(piece)

    def execute(self, bunches: Iterable[Sequence[Piece]]) -> Iterator[Outcome]:
        """All bunches, one after the other."""
        for bunch in bunches:
            yield from self.run(bunch)

    def _score(self, piece: Piece) -> Outcome:
        network = self._load(piece.model)
        if isinstance(network, str):
            return Outcome(piece, reason=network)
        columns = self._read(piece.group)
        try:
            tally = tally_batch(network, self._split, columns, piece.first, device=self._device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Outcome(piece, reason="not enough memory; use fewer workers")
        return Outcome(piece, tally)

    def _load(self, number: int) -> Network | str:
        """The model of that number, kept until another is asked for; or what is wrong with it."""
        if self._network is None or self._network[0] != number:
            self._network = None  # its memory is free before the next one is there
            self._network = number, self._open(self._models[number])
        return self._network[1]

    def _open(self, model: Candidate) -> Network | str:
        try:
            path = locate(model.path)
            network, _ = load_model(path)
            if digest_of(path) != model.digest:
                return "another model took its place meanwhile; run the same command again"
            require_fit(network, self._split)
        except (ModelFileError, ShapeError, OSError) as error:
            return str(error)
        return network.to(self._device).compute_in(self._dtype)

    def _read(self, group: int) -> dict[str, NDArray[np.uint8]]:
        """The row group, kept until another is asked for."""
        if self._columns is None or self._columns[0] != group:
            self._columns = group, read_group(self._split, group)
        return self._columns[1]


@dataclass
class Scoreboard:
    """Hands out the pieces of some models on a split, and merges what comes of them."""

    models: Sequence[Candidate]
    split: Split
    failed: dict[int, str] = field(default_factory=dict)  # why, by the model's number
    images: int = 0  # scored so far, over all models

    def __post_init__(self) -> None:
        self._tallies = [Tally.of(self.split) for _ in self.models]
        self._merged = [0] * len(self.models)  # batches, in their order
        self._early: list[dict[int, Tally]] = [{} for _ in self.models]

    @cached_property
    def _batches(self) -> list[tuple[int, int]]:
        return batches_of(self.split)

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        return {batch: number for number, batch in enumerate(self._batches)}

    def bunches(self, workers: int) -> Iterator[list[Piece]]:
        """All pieces, model after model, a few at a time; without models that have failed."""
        pieces = len(self.models) * len(self._batches)
        size = min(MOST_TOGETHER, max(1, pieces // (BUNCHES * workers)))
        for model in range(len(self.models)):
            for start in range(0, len(self._batches), size):
                if model in self.failed:
                    break
                yield [Piece(model, *batch) for batch in self._batches[start : start + size]]

    def settle(self, outcome: Outcome) -> None:
        """Take a piece's outcome."""
        piece = outcome.item
        if outcome.tally is None:
            self.failed.setdefault(piece.model, outcome.reason)
            return
        self.images += outcome.tally.images
        early = self._early[piece.model]
        early[self._numbers[piece.group, piece.first]] = outcome.tally
        while (next_one := early.pop(self._merged[piece.model], None)) is not None:
            self._tallies[piece.model].merge(next_one)
            self._merged[piece.model] += 1

    @property
    def complete(self) -> int:
        """How many models are scored, or have failed."""
        return sum(self._is_complete(number) for number in range(len(self.models)))

    def results(self) -> list[Result]:
        """Of the models in their order, when all pieces are settled."""
        return [self._result(number) for number in range(len(self.models))]

    def _is_complete(self, number: int) -> bool:
        return number in self.failed or self._merged[number] == len(self._batches)

    def _result(self, number: int) -> Result:
        model = self.models[number]
        if number in self.failed:
            return Result(model.name, model.digest, None, self.failed[number])
        return Result(model.name, model.digest, self._tallies[number].scores())
