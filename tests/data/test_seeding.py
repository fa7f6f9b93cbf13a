"""Random streams that are shared with no other."""

import itertools
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from n2n.data import Gaussian, PairSet, Recipe, build_set
from n2n.data.seeding import Purpose, generator


def test_streams_are_shared_with_no_other() -> None:
    """Nor with lists of numbers, of which numpy takes [0, 3, 1] and [0, 3, 1, 0] for the same."""
    small = range(4)
    places = [place for length in range(4) for place in itertools.product(small, repeat=length)]
    drawn = [
        generator(seed, purpose, *place).integers(1 << 62)
        for seed in small
        for purpose in Purpose
        for place in places
    ]
    lists = {
        np.random.default_rng([seed, *place]).integers(1 << 62)
        for seed in small
        for place in places
    }
    assert len(lists) < len(small) * len(places)  # zeros at the end
    assert len(set(drawn) | lists) == len(drawn) + len(lists)
    assert generator(1, Purpose.ROWS, 2, 3).integers(1 << 62) in drawn  # and again the same


@pytest.mark.parametrize("seed", [0, 3])
def test_an_epoch_does_not_undo_how_a_set_was_scattered(tmp_path: Path, seed: int) -> None:
    """A set built and trained on with one seed; in the fourth epoch batches once were of one or
    two photographs each. Photographs of one level tell what a batch is made of."""
    (tmp_path / "photos").mkdir()
    levels = np.linspace(0, 255, 20).astype(np.uint8)
    for number, level in enumerate(levels):
        image = PIL.Image.fromarray(np.full((9, 9, 3), level, np.uint8))
        image.save(tmp_path / "photos" / f"{number}.png")
    recipe = Recipe(pairs=1600, val_pairs=0, size=8, seed=seed)
    build_set(tmp_path / "photos", tmp_path / "set", Gaussian(1, 1), recipe)
    train = PairSet.open(tmp_path / "set").train
    for epoch in range(8):
        for inputs, _ in train.batches(batch_size=80, seed=seed, epoch=epoch):
            assert len(np.unique(inputs.mean((1, 2, 3)).round(-1))) > 12, epoch
