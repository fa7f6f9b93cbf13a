"""Pair sets from a folder of photographs, under a noise model."""

from dataclasses import replace
from pathlib import Path

from n2n.data import photographs
from n2n.data.folder import require_free, require_outside
from n2n.data.format import Provenance
from n2n.data.make import Made, Recipe, Scene, inspect_all, make_set
from n2n.data.noise import NoiseModel
from n2n.data.parallel import Progress
from n2n.errors import PairSetError

__all__ = ["build_set"]


def build_set(
    source: Path,
    out: Path,
    noise: NoiseModel,
    recipe: Recipe,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    clean_targets: bool = False,
) -> Made:
    """Make a pair set at `out` from the photographs in `source` and below.

    clean_targets: training pairs are a noisy view and the clean image, else two noisy views; to
    see what clean images would give. The noisy views and the validation pairs are the same.

    Files that cannot be used are skipped and listed in the result. The set is the same to the
    byte for the same photographs, noise, recipe and versions of Pillow, numpy and pyarrow,
    whatever `workers` is. Raises PairSetError when nothing can be made of the folder.
    """
    require_outside(out, [source])
    require_free(out, overwrite=overwrite)
    found = photographs.find(source, leave_out=[out])
    usable, skipped = inspect_all(
        source,
        found.names,
        noise.least_side(recipe.size),
        workers=workers,
        progress=progress,
    )
    skipped = sorted([*found.skipped, *skipped], key=lambda skip: skip.name)
    if not usable:
        raise PairSetError(f"{source}: expected photographs, found {_nothing(found, skipped)}")
    made = make_set(
        out,
        [Scene((photograph,)) for photograph in usable],
        noise,
        recipe,
        Provenance("n2n data build", noise.spec, noise.parameters, recipe.seed, "noisy", ()),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
        clean_targets=clean_targets,
    )
    return replace(made, skipped=tuple(skipped), ignored=found.ignored)


def _nothing(found: photographs.Found, skipped: list[photographs.Skipped]) -> str:
    if skipped:
        first = skipped[0]
        more = f" and {len(skipped) - 1} more like it" if len(skipped) > 1 else ""
        return f"none that can be used: {first.name} ({first.reason}){more}"
    kinds = ", ".join(sorted(photographs.EXTENSIONS))
    return f"{found.ignored} files, none of them {kinds}" if found.ignored else "an empty folder"
