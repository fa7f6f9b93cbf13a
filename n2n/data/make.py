"""Making a set from photographs: choose, split, plan the rows, draw crops in parallel, write.

A scene is what belongs together: one photograph, or the exposures of one scene. Scenes of
validation and of training are never the same, and every random number is drawn from
(seed, what it is for, the scene's index), so the set does not depend on the number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from n2n.data import photographs
from n2n.data.folder import building
from n2n.data.format import Provenance
from n2n.data.parallel import Progress, run_all
from n2n.data.photographs import Photograph, Skipped
from n2n.data.writer import Scratch, write_split
from n2n.errors import InvalidValue, PairSetError

__all__ = ["Made", "Recipe", "Sampler", "Scene", "inspect_all", "make_set"]

MAX_SIZE = 512  # a row group is 1000 rows
VAL_SHARE = 0.1  # of the scenes
ROWS_AT_ONCE = 256  # of one scene, so that memory does not grow with the pairs
SPLIT, TRAIN, VAL, ORDER = range(4)  # what a random stream is for; of training: n2n.data.seeding


class Sampler(Protocol):
    """Draws pairs from a scene's pixels; a noise model is one."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def sample(
        self,
        photographs: tuple[NDArray[np.uint8], ...],
        count: int,
        size: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], ...]:
        """From photographs (H, W, C), the columns' images, each (count, C, size, size)."""


@dataclass(frozen=True)
class Recipe:
    """What to make: pairs of crops of `size` pixels, RGB or grey."""

    size: int = 32
    pairs: int = 50_000
    val_pairs: int = 1_000
    seed: int = 0
    grey: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 1, MAX_SIZE),
            ("pairs", 1, 10**9),
            ("val_pairs", 0, 10**9),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidValue(f"{name} must be from {low} to {high}; found {value}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a crop."""
        return (1 if self.grey else 3, self.size, self.size)


@dataclass(frozen=True)
class Scene:
    """Photographs whose crops belong together."""

    photographs: tuple[Photograph, ...]


@dataclass(frozen=True)
class Made:
    """A set that was made, and what was left out."""

    path: Path
    shape: tuple[int, int, int]
    train_pairs: int
    val_pairs: int
    train_scenes: int
    val_scenes: int
    skipped: tuple[Skipped, ...] = ()
    repeated: int = 0  # byte-identical copies, counted once
    ignored: int = 0  # files of other kinds


@dataclass(frozen=True)
class _SceneJob:
    scene: Scene
    rows: NDArray[np.int64]  # where its pairs go
    stream: tuple[int, ...]
    sampler: Sampler
    recipe: Recipe
    scratch: Scratch
    clean_targets: bool


def inspect_all(
    folder: Path, names: Sequence[str], least_side: int, *, workers: int, progress: Progress | None
) -> tuple[list[Photograph], list[Skipped]]:
    """Digest and decode every candidate; the usable ones, and the others with their reasons."""
    jobs = [(str(folder / name), name, least_side) for name in names]
    results = list(
        run_all(_inspect, jobs, workers=workers, label="looking at photographs", progress=progress)
    )
    return (
        [result for result in results if isinstance(result, Photograph)],
        [result for result in results if isinstance(result, Skipped)],
    )


def make_set(
    out: Path,
    scenes: Sequence[Scene],
    sampler: Sampler,
    recipe: Recipe,
    provenance: Provenance,
    *,
    workers: int,
    overwrite: bool,
    progress: Progress | None = None,
    clean_targets: bool = False,
) -> Made:
    """Make the set at `out` from usable scenes; byte-identical scenes count once.

    clean_targets: of the training pairs, from a sampler that knows the clean image.
    `provenance.sources` is filled in for each split. Raises PairSetError when there are too few
    scenes, JobFailed and OSError when the work cannot go on; then nothing is left at `out`.
    """
    different = _without_copies(scenes)
    train, val = _split(different, recipe)
    with building(out, overwrite=overwrite) as hidden:
        for name, stream, chosen, pairs in (
            ("train", TRAIN, train, recipe.pairs),
            ("val", VAL, val, recipe.val_pairs),
        ):
            if not pairs:
                continue
            scratch = Scratch(hidden / f"{name}.scratch", sampler.columns, recipe.shape, pairs)
            scratch.create()
            clean = clean_targets and name == "train"
            jobs = _plan(chosen, stream, sampler, recipe, scratch, clean_targets=clean)
            label = f"drawing {name} pairs"
            for _ in run_all(_draw, jobs, workers=workers, label=label, progress=progress):
                pass
            sources = tuple((p.name, p.sha256) for scene in chosen for p in scene.photographs)
            target = "clean" if clean else provenance.target
            made_of = replace(provenance, sources=sources, target=target)
            write_split(hidden / name, scratch, made_of, workers=workers, progress=progress)
    return Made(
        path=out,
        shape=recipe.shape,
        train_pairs=recipe.pairs,
        val_pairs=recipe.val_pairs,
        train_scenes=len(train),
        val_scenes=len(val),
        repeated=len(scenes) - len(different),
    )


def _inspect(job: tuple[str, str, int]) -> Photograph | Skipped:
    return photographs.inspect(*job)


def _without_copies(scenes: Sequence[Scene]) -> list[Scene]:
    seen: set[str] = set()
    different = []
    for scene in scenes:
        digests = {photograph.sha256 for photograph in scene.photographs}
        if not digests & seen:
            different.append(scene)
        seen |= digests
    return different


def _split(scenes: list[Scene], recipe: Recipe) -> tuple[list[Scene], list[Scene]]:
    """A seeded tenth of the scenes, at least one, for validation; each split in its old order."""
    needed = 2 if recipe.val_pairs else 1
    if len(scenes) < needed:
        raise PairSetError(
            f"expected at least {needed} different usable photographs or scenes (validation has "
            f"its own), found {len(scenes)}; add photographs or choose a smaller --size"
        )
    held_out = max(1, round(VAL_SHARE * len(scenes))) if recipe.val_pairs else 0
    shuffled = np.random.default_rng([recipe.seed, SPLIT]).permutation(len(scenes))
    val = set(shuffled[:held_out].tolist())
    return (
        [scene for i, scene in enumerate(scenes) if i not in val],
        [scene for i, scene in enumerate(scenes) if i in val],
    )


def _plan(
    scenes: Sequence[Scene],
    stream: int,
    sampler: Sampler,
    recipe: Recipe,
    scratch: Scratch,
    *,
    clean_targets: bool,
) -> list[_SceneJob]:
    """Share the rows evenly among the scenes and scatter each scene's over the whole split."""
    rng = np.random.default_rng([recipe.seed, ORDER, stream])
    rows = rng.permutation(scratch.rows)
    counts = np.full(len(scenes), scratch.rows // len(scenes))
    extra = rng.permutation(len(scenes))[: scratch.rows % len(scenes)]
    counts[extra] += 1
    stops = counts.cumsum()
    return [
        _SceneJob(
            scene, rows[stop - count : stop], (stream, i), sampler, recipe, scratch, clean_targets
        )
        for i, (scene, count, stop) in enumerate(zip(scenes, counts, stops, strict=True))
        if count
    ]


def _draw(job: _SceneJob) -> None:
    rng = np.random.default_rng([job.recipe.seed, *job.stream])
    pixels = tuple(
        photographs.read_pixels(photograph, grey=job.recipe.grey)
        for photograph in job.scene.photographs
    )
    for start in range(0, len(job.rows), ROWS_AT_ONCE):
        rows = job.rows[start : start + ROWS_AT_ONCE]
        columns = job.sampler.sample(pixels, len(rows), job.recipe.size, rng)
        if job.clean_targets:
            view, _, clean = columns
            columns = (view, clean, clean)
        job.scratch.write(rows, columns)
