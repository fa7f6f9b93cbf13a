"""What a batch would do, from names, headers and the manifest alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from n2n.batch.items import Item, Outcome
from n2n.batch.manifest import open_history
from n2n.batch.plan import Plan
from n2n.batch.resume import Resume, key_of
from n2n.batch.scratch import local_scratch
from n2n.batch.work import notes_of
from n2n.errors import N2NError
from n2n.images import format_of, open_image, refusal
from n2n.storage import LocalFolder

__all__ = ["decisions", "preview"]


def decisions(
    plan: Plan, settings: dict[str, Any], *, overwrite: bool = False
) -> Iterator[Item | Outcome]:
    """Of each input, what a run would begin with: an Item to do, or its outcome already."""
    with local_scratch() as scratch, open_history(plan.outputs, scratch) as history:
        resume = Resume(
            plan, None if plan.single else history, key_of(settings), overwrite=overwrite
        )
        for planned in plan:
            yield resume.decide(planned) if isinstance(planned, Item) else planned


def preview(
    plan: Plan, settings: dict[str, Any], channels: int, *, overwrite: bool = False
) -> Iterator[Outcome]:
    """Of each input, how it would end: done, skipped, or failed as far as its header tells.

    channels: those of the model, for the notes. Objects of a store are not fetched.
    """
    for decided in decisions(plan, settings, overwrite=overwrite):
        if isinstance(decided, Outcome):
            yield decided
        elif decided.kind == "image" and isinstance(plan.inputs, LocalFolder):
            yield _look(plan.inputs.path / decided.source, decided, channels)
        else:
            yield Outcome(decided, "done")


def _look(path: Path, item: Item, channels: int) -> Outcome:
    outcome = Outcome(item, "done")
    try:
        with open_image(path) as file:
            reason = refusal(file, format_of(item.destination))
            notes = notes_of({file.pages[0].shape[2]}, channels)
    except N2NError as error:
        reason, notes = str(error).removeprefix(f"{path}: "), ()
    if reason is not None:
        return replace(outcome, state="failed", reason=" ".join(reason.split()))
    return replace(outcome, notes=notes)
