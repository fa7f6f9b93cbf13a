"""Random numbers from one seed: a stream of its own for each purpose and place.

An epoch can be entered anywhere, since what is drawn there follows from where it is alone.
"""

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "generator"]


class Purpose(IntEnum):
    """What training draws random numbers for; in brackets, what tells its places apart."""

    GROUPS = 0  # the order of a set's row groups (epoch)
    ROWS = 1  # the order of rows in memory (epoch, window)
    AUGMENTATION = 2  # flips, turns, swaps (epoch, batch)
    PHOTOGRAPHS = 3  # the order in which photographs are visited (epoch)
    CROPS = 4  # crops and their noise (epoch, photograph, first crop)
    HELD_OUT = 5  # the noisy images that are held out
    HELD_OUT_CROPS = 6  # crops of these
    CELLS = 7  # sub-samples of neighbouring pixels (epoch, batch)


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """Random numbers for a purpose at a place: the same whenever they are asked for, and shared
    with no other purpose or place, nor with what [seed, …] gives.

    Those of numpy.random.default_rng([seed, …]) are not: it takes zeros at the end for nothing,
    and lists of one length for alike, so that `n2n data build`, whose sets stay what they are, and
    training could draw the same permutation. Then an epoch puts a set's rows back into the order
    that they were scattered from, photograph after photograph.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), *place)))
