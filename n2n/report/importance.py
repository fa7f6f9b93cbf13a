"""How much of the difference between trials goes with one setting alone.

Trials are ranked by score, and grouped by a setting: by its values, or by ranges of them that hold
equally many trials. The share of the ranks' variance that lies between the groups, corrected for
what groups by chance would show, is

η²_H = (H - k + 1)/(n - k),   H = (n - 1) · between / total

of n trials in k groups, H being the statistic of Kruskal and Wallis (1952; the effect size: Tomczak
and Tomczak 2014). Ranks, since one trial that diverged would outweigh all others.

What it does not see: settings that matter only together, and those that follow another one. Where
a scheduler stopped trials early, it compares what they had reached by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Importance", "importance", "ranks"]

GROUPS = 4  # of numbers, where there are more different ones
LEAST = 2  # trials for each group
NORMAL_95 = 1.645  # the standard normal's 95 % quantile


@dataclass(frozen=True)
class Importance:
    """share: η²_H, from 0 to 1. chance: what it stays below in 19 of 20 cases by chance alone.
    trials: how many have the setting and a score. groups: the mean rank of each, 1 for the best
    trial of all and 0 for the worst, by its label, in the order of the values.
    """

    name: str
    share: float
    chance: float
    trials: int
    groups: tuple[tuple[str, float], ...]


def importance(samples: Sequence[dict[str, Any]], scores: Sequence[float]) -> list[Importance]:
    """Of every setting that differs between trials, the most important first.

    samples: each trial's settings; scores: the higher the better. A setting is judged by the trials
    that have it; one that too few have is left out.
    """
    names = dict.fromkeys(name for sample in samples for name in sample)
    found = []
    for name in names:
        having = [number for number, sample in enumerate(samples) if name in sample]
        values = [samples[number][name] for number in having]
        one = _judge(name, values, np.array([scores[number] for number in having], float))
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: -one.share)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return middle[places]


def _judge(name: str, values: list[Any], scores: NDArray[np.float64]) -> Importance | None:
    labels, group = _groups(values)
    n, k = len(values), len(labels)
    if k < 2 or n < LEAST * k:
        return None
    rank = ranks(scores)
    total = float(((rank - rank.mean()) ** 2).sum())
    if not total:
        return None
    counts = np.bincount(group, minlength=k)
    means = np.bincount(group, rank, minlength=k) / counts
    h = (n - 1) * float((counts * (means - rank.mean()) ** 2).sum()) / total
    return Importance(
        name,
        share=_share(h, n, k),
        chance=_share(_chi_squared_95(k - 1), n, k),
        trials=n,
        groups=tuple(zip(labels, ((means - 1) / (n - 1)).tolist(), strict=True)),
    )


def _share(h: float, n: int, k: int) -> float:
    return min(1.0, max(0.0, (h - k + 1) / (n - k)))


def _chi_squared_95(freedom: int) -> float:
    """The 95 % quantile, to 1 % (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + NORMAL_95 * spread**0.5) ** 3)


def _groups(values: list[Any]) -> tuple[list[str], NDArray[np.intp]]:
    """Labels of the groups, and the group of each value."""
    different = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool)
                  for value in different)  # fmt: skip
    if not numbers or len(different) <= GROUPS:
        places = {value: place for place, value in enumerate(different)}
        return [_label(value) for value in different], np.array([places[v] for v in values])
    array = np.array(values, float)
    edges = np.unique(np.quantile(array, np.linspace(0, 1, GROUPS + 1)))
    group = np.clip(np.searchsorted(edges, array, "right") - 1, 0, len(edges) - 2)
    used, group = np.unique(group, return_inverse=True)
    return [f"{_label(edges[one])} to {_label(edges[one + 1])}" for one in used], group


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
