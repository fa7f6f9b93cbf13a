"""What of a plan is still to do, by the manifest and by what lies in the output folder."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

from n2n.batch.items import Item, Outcome
from n2n.batch.manifest import History
from n2n.batch.plan import Plan
from n2n.batch.walk import lies_in
from n2n.storage import Entry, LocalFolder

__all__ = ["Resume", "key_of"]

EXISTS = "its output {} exists and is not n2n's own; move it, or pass --overwrite"
TAKEN = "its output {} exists; choose another name, or pass --overwrite"
ASTRAY = "its output {} would lie {} of {}; choose another output folder"


def key_of(settings: dict[str, Any]) -> str:
    """A short name of the settings, which the lines of a manifest carry."""
    return sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16]


class Resume:
    """Decides on each item, in the order of the plan.

    key: of the settings. history: None where there is no manifest.
    """

    def __init__(self, plan: Plan, history: History | None, key: str, *, overwrite: bool) -> None:
        self._plan, self._history, self._key, self._overwrite = plan, history, key, overwrite
        self._folder: str | None = None  # the outputs' that was looked at last
        self._astray: tuple[str, str] | None = None
        self._listed: dict[str, Entry] = {}

    def decide(self, item: Item) -> Item | Outcome:
        """The item if it is to be done, else its outcome: skipped, or failed with the reason.

        A done one is skipped if input, settings and the output's size are those recorded; where
        only the time of the input differs, the item comes with the recorded digest. An output of
        other settings or of a changed input is replaced, one that the manifest does not know is
        not, unless `overwrite`.
        """
        folder, _, name = item.destination.rpartition("/")
        if folder != self._folder:
            self._enter(folder)
        if self._astray is not None:
            return Outcome(item, "failed", ASTRAY.format(self._shown(item), *self._astray))
        there = self._find(item, name)
        if there is None:
            return item
        if there.kind == "folder":
            return Outcome(item, "failed", f"its output {self._shown(item)} is a folder")
        known = self._history.find(item.destination) if self._history else None
        if self._overwrite and not self._was_overwritten(known):
            return item
        if known is None:
            reason = TAKEN if self._plan.single else EXISTS
            return Outcome(item, "failed", reason.format(self._shown(item)))
        return self._compare(item, there, known[0])

    def _compare(self, item: Item, there: Entry, record: dict[str, Any]) -> Item | Outcome:
        if record["state"] == "begun":  # and stopped, before or after it was in place
            return item
        if record.get("output_size") != there.size:
            if self._overwrite:
                return item
            return Outcome(item, "failed", EXISTS.format(self._shown(item)))
        if record.get("key") != self._key or record.get("input") != item.source:
            return item
        if record.get("size") != item.size:
            return item
        if record.get("mtime_ns") != item.mtime_ns or item.mtime_ns is None:
            return replace(item, digest=record.get("digest"))
        return Outcome(item, "skipped")

    def _was_overwritten(self, known: tuple[dict[str, Any], int] | None) -> bool:
        """By an earlier run with `overwrite` that was stopped: this one goes on with it."""
        since = self._history.unfinished_overwrite if self._history else None
        return known is not None and since is not None and known[1] > since

    def _enter(self, folder: str) -> None:
        self._folder = folder
        outputs, inputs = self._plan.outputs, self._plan.inputs
        self._astray = None
        if isinstance(outputs, LocalFolder):
            real = outputs.real(folder)
            if not lies_in(real, outputs.real("")):
                self._astray = "outside", outputs.root
            elif not self._plan.single and lies_in(real, inputs.real("")):
                self._astray = "inside", inputs.root
        else:  # one answer for all in place of one for each
            self._listed = {entry.name: entry for entry in outputs.list(folder)}

    def _find(self, item: Item, name: str) -> Entry | None:
        if isinstance(self._plan.outputs, LocalFolder):
            return self._plan.outputs.find(item.destination)
        return self._listed.get(name)

    def _shown(self, item: Item) -> str:
        return self._plan.outputs.shown(item.destination)
