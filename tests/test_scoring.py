"""Models scored in pieces: the scores of `evaluate`, in whatever order the pieces come."""

import math
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from n2n import evaluation, models, scoring
from n2n.checkpoint import load_model, save_model
from n2n.data import PairSet
from n2n.errors import InvalidValue, ShapeError
from n2n.evaluation import Scores, evaluate
from n2n.scoring import (
    Candidate,
    Outcome,
    Piece,
    Result,
    Scoreboard,
    Scorer,
    ScorerConfig,
    choose_split,
    look_at,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pairs(make_set) -> PairSet:
    """1100 pairs for validation lie in two row groups, and make five batches."""
    return make_set(rows=5, val=1100)


@pytest.fixture
def candidates(tmp_path: Path, pairs: PairSet) -> tuple[Candidate, ...]:
    for seed in range(3):
        save(tmp_path / f"{seed}.safetensors", seed)
    return tuple(look_at(str(tmp_path / f"{seed}.safetensors"), pairs.val) for seed in range(3))


def save(path: Path, seed: int, **config: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    save_model(path, models.create("unet", width=2, depth=1, generator=generator, **config), {})


def scorer(pairs: PairSet, candidates: tuple[Candidate, ...], **changes: str) -> Scorer:
    settings = {"pairs": str(pairs.path), "digest": pairs.digest, "split": "val", **changes}
    return Scorer(ScorerConfig(candidates, threads=1, **settings))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_pieces_does_not_matter(pairs, candidates, seed: int) -> None:
    """To the bit: each piece from a process of its own, in an order of its own."""
    board = Scoreboard(candidates, pairs.val)
    pieces = list(chain(*board.bunches(2)))
    mine = scorer(pairs, candidates)
    outcomes = [pickle.loads(pickle.dumps(outcome)) for outcome in mine.run(pieces)]
    assert [outcome.item for outcome in outcomes] == pieces
    for number in np.random.default_rng(seed).permutation(len(outcomes)):
        board.settle(outcomes[number])
    assert (board.complete, board.images) == (3, 3300)
    for result, candidate in zip(board.results(), candidates, strict=True):
        assert (result.name, result.digest) == (candidate.name, candidate.digest)
        assert result.scores == evaluate(load_model(candidate.path)[0], pairs.val)


@pytest.mark.parametrize("workers", [1, 2, 5, 1000])
def test_bunches_hold_every_piece_once(pairs, candidates, workers: int) -> None:
    bunches = list(Scoreboard(candidates, pairs.val).bunches(workers))
    batches = [(0, 0), (0, 250), (0, 500), (0, 750), (1, 0)]
    expected = [Piece(model, *batch) for model in range(3) for batch in batches]
    assert list(chain(*bunches)) == expected
    assert all(1 <= len(bunch) <= 4 for bunch in bunches)
    assert len(bunches) >= min(15, 2 * workers)


def test_a_model_that_failed_is_not_gone_on_with(pairs, candidates) -> None:
    board = Scoreboard(candidates, pairs.val)
    bunches = board.bunches(4)
    piece = next(bunches)[0]
    board.settle(Outcome(piece, reason="first"))
    board.settle(Outcome(piece, reason="second"))
    assert {piece.model for piece in chain(*bunches)} == {1, 2}
    assert board.complete == 1
    assert board.failed == {0: "first"}


def test_a_model_that_was_replaced_meanwhile(tmp_path: Path, pairs, candidates) -> None:
    """A run goes on: no scores of two models under one name."""
    save(tmp_path / "1.safetensors", 7)
    (tmp_path / "2.safetensors").unlink()
    mine = scorer(pairs, candidates)
    kept, replaced, gone = mine.run([Piece(model, 0, 0) for model in range(3)])
    assert kept.tally is not None
    assert replaced.tally is gone.tally is None
    assert "another model took its place" in replaced.reason
    assert "nothing there" in gone.reason


def test_a_set_that_differs_on_another_machine(pairs, candidates) -> None:
    with pytest.raises(InvalidValue, match="expected the set of digest 0000"):
        scorer(pairs, candidates, digest="0" * 64)


def test_out_of_memory(pairs, candidates, monkeypatch) -> None:
    def fail(text: str) -> list[Outcome]:
        def raising(*arguments: object, **settings: object) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr(scoring, "tally_batch", raising)
        return list(scorer(pairs, candidates).run([Piece(0, 0, 0)]))

    (outcome,) = fail("DefaultCPUAllocator: can't allocate memory: you tried …")
    assert outcome.reason.startswith("not enough memory")
    with pytest.raises(RuntimeError, match="a fault"):
        fail("a fault")


def test_ranks() -> None:
    """The better first; nan, and no scores at all, last."""
    good, bad, nan = (Scores(1, loss=loss) for loss in (0.1, 0.2, math.nan))
    results = [Result(str(of), "", of) for of in (nan, bad, good, None)]
    ranked = sorted(results, key=lambda result: result.rank, reverse=True)
    assert [result.scores for result in ranked] == [good, bad, nan, None]


def test_what_does_not_fit_is_named(tmp_path: Path, pairs) -> None:
    save(tmp_path / "grey.safetensors", 0, channels=1)
    with pytest.raises(ShapeError, match=r"grey\.safetensors: the network unet takes 1 channels"):
        look_at(str(tmp_path / "grey.safetensors"), pairs.val)


def test_choose_split(make_set, pairs) -> None:
    bare = make_set("bare", val=0)
    assert choose_split(pairs, None) is pairs.val
    assert choose_split(pairs, "train") is pairs.train
    assert choose_split(bare, None) is bare.train
    with pytest.raises(InvalidValue, match="expected a val split, found only train; use"):
        choose_split(bare, "val")


def test_large_images_come_in_smaller_batches(make_set, monkeypatch) -> None:
    """Their activations are in memory together; the scores are those of one batch, rounded."""
    split = make_set(rows=5, val=60, shape=(3, 16, 16)).val
    network = models.create("unet", width=2, depth=1, generator=torch.Generator().manual_seed(1))
    whole = evaluate(network, split)
    sizes = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(x)

    forward = network.forward
    monkeypatch.setattr(network, "forward", watched)
    monkeypatch.setattr(evaluation, "PIXELS", 25 * 16 * 16)
    found = evaluate(network, split)
    assert set(sizes) == {25, 10}
    for name, value in whole.as_dict().items():
        assert found.as_dict()[name] == pytest.approx(value, rel=1e-6), name
