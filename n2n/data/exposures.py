"""Pair sets from two exposures of the same scenes: real noise, no clean image."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from n2n.data import photographs
from n2n.data.crops import channels_first, random_corner
from n2n.data.folder import require_free, require_outside
from n2n.data.format import Provenance
from n2n.data.make import Made, Recipe, Scene, inspect_all, make_set
from n2n.data.parallel import Progress
from n2n.data.photographs import Found, Photograph, Skipped
from n2n.errors import PairSetError

__all__ = ["Exposures", "pair_set"]


@dataclass(frozen=True)
class Exposures:
    """Crops at the same random place of two exposures; a `Sampler`."""

    columns: ClassVar[tuple[str, ...]] = ("input", "target")

    def sample(
        self,
        photographs: tuple[NDArray[np.uint8], ...],
        count: int,
        size: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], ...]:
        """From two exposures (H, W, C): input and target, each uint8 (N, C, S, S)."""
        first, second = photographs
        views = np.empty((2, count, size, size, first.shape[2]), np.uint8)
        for i in range(count):
            top, left = random_corner(first.shape, size, rng)
            views[0, i] = first[top : top + size, left : left + size]
            views[1, i] = second[top : top + size, left : left + size]
        return channels_first(views[0]), channels_first(views[1])


def pair_set(
    folder_a: Path,
    folder_b: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Make a pair set at `out`: input from `folder_a`, target from `folder_b`.

    Exposures belong together when their names relative to the folders agree but for the
    extension. A file without a partner, of another size than its partner, or unusable is skipped
    and listed in the result, its partner with it. Raises PairSetError when no scene is left.
    """
    if folder_a.resolve() == folder_b.resolve():
        raise PairSetError(f"{folder_b}: expected another folder than the first exposures'")
    require_outside(out, [folder_a, folder_b])
    require_free(out, overwrite=overwrite)
    found = [
        photographs.find(folder_a, [out, folder_b]),
        photographs.find(folder_b, [out, folder_a]),
    ]
    skipped = [skip for each in found for skip in _named(each.root, each.skipped)]
    names, unmatched = _match(found)
    skipped += unmatched
    usable: list[dict[str, Photograph]] = []
    for i, each in enumerate(found):
        chosen = [both[i] for both in names.values()]
        good, bad = inspect_all(each.root, chosen, recipe.size, workers=workers, progress=progress)
        usable.append({photograph.name: photograph for photograph in good})
        skipped += _named(each.root, bad)
    scenes, refused = _scenes(names, usable, found)
    skipped = sorted([*skipped, *refused], key=lambda skip: skip.name)
    if not scenes:
        why = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise PairSetError(
            f"expected photographs of the same names in {folder_a} and {folder_b}, found no pair "
            f"that can be used{why}"
        )
    made = make_set(
        out,
        scenes,
        Exposures(),
        recipe,
        Provenance("n2n data pair", None, {}, recipe.seed, "noisy", ()),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    ignored = sum(each.ignored for each in found)
    return replace(made, skipped=tuple(skipped), ignored=ignored)


def _match(found: list[Found]) -> tuple[dict[str, tuple[str, str]], list[Skipped]]:
    """Names without extension → the two files; and the files that have no one partner."""
    by_stem: list[dict[str, str]] = []
    skipped = []
    for each in found:
        stems = Counter(map(_stem, each.names))
        by_stem.append({_stem(name): name for name in each.names if stems[_stem(name)] == 1})
        skipped += _named(
            each.root,
            [
                Skipped(name, "another file has the same name but for the extension")
                for name in each.names
                if stems[_stem(name)] > 1
            ],
        )
    for here, there in ((0, 1), (1, 0)):
        skipped += _named(
            found[here].root,
            [
                Skipped(name, f"no one file of this name in {found[there].root}")
                for stem, name in by_stem[here].items()
                if stem not in by_stem[there]
            ],
        )
    first, second = by_stem
    return {stem: (first[stem], second[stem]) for stem in first if stem in second}, skipped


def _scenes(
    names: dict[str, tuple[str, str]], usable: list[dict[str, Photograph]], found: list[Found]
) -> tuple[list[Scene], list[Skipped]]:
    scenes, refused = [], []
    for name_a, name_b in names.values():
        shown = str(found[0].root / name_a)
        a, b = usable[0].get(name_a), usable[1].get(name_b)
        if a is None or b is None:
            if a is not None or b is not None:
                whole = found[0].root / name_a if a is not None else found[1].root / name_b
                refused.append(Skipped(str(whole), "its partner cannot be used"))
        elif (a.width, a.height) != (b.width, b.height):
            sizes = f"{a.width} × {a.height} against {b.width} × {b.height}"
            refused.append(Skipped(shown, f"another size than its partner: {sizes}"))
        elif a.sha256 == b.sha256:
            refused.append(Skipped(shown, "its partner is a copy of it, with the same noise"))
        else:
            scenes.append(Scene((a, b)))
    return scenes, refused


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _named(root: Path, skips: tuple[Skipped, ...] | list[Skipped]) -> list[Skipped]:
    """With two folders a name alone does not tell which file is meant."""
    return [Skipped(str(root / skip.name), skip.reason) for skip in skips]
