"""What becomes which file: found, and refused, before any work begins.

The plan lies in a temporary file, and the walk holds one folder at a time, so that a hundred
thousand inputs cost no more memory than the largest folder among them.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

from n2n.batch.choice import KNOWN, Choice
from n2n.batch.items import Item, Outcome
from n2n.batch.walk import Folder, kind_of, lies_in, walk
from n2n.errors import InvalidValue
from n2n.images import SUFFIXES
from n2n.storage import LocalFolder, Storage, is_uri, open_storage

__all__ = ["Plan", "make_plan"]

NAMED_CLASHES = 3
IN_MEMORY = 1 << 22  # bytes of a plan
PARQUET = ".parquet"


def _temporary() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(IN_MEMORY)


@dataclass
class Plan:
    """Which file becomes which.

    Iterating yields an Item for each input, in order, or the failed Outcome of what is refused;
    it can be done again and again.
    """

    inputs: Storage  # the roots of the items' names
    outputs: Storage
    choice: Choice
    single: bool = False  # one file, for which no manifest is kept
    files: int = 0
    size: int = 0  # bytes of all files
    refused: int = 0  # unreadable folders, links that lead out, devices
    ignored: int = 0  # files of other kinds
    excluded: int = 0  # files, by patterns; those in excluded folders are not counted
    _lines: IO[bytes] = field(default_factory=_temporary)

    def __del__(self) -> None:
        self._lines.close()

    def __len__(self) -> int:
        return self.files + self.refused

    def __iter__(self) -> Iterator[Item | Outcome]:
        place = 0
        for number in range(len(self)):
            self._lines.seek(place)
            line = self._lines.readline()
            place = self._lines.tell()
            source, destination, size, mtime_ns, kind, reason = json.loads(line)
            item = Item(number, source, destination, size, mtime_ns, kind)
            yield item if reason is None else Outcome(item, "failed", reason)

    def add(self, item: Item, reason: str | None = None) -> None:
        """Append an input, or what is refused and why."""
        if reason is None:
            self.files += 1
            self.size += item.size
        else:
            self.refused += 1
        fields = item.source, item.destination, item.size, item.mtime_ns, item.kind, reason
        self._lines.seek(0, os.SEEK_END)
        self._lines.write(json.dumps(fields).encode() + b"\n")  # ASCII, whatever bytes a name has


def make_plan(
    source: str,
    destination: str,
    choice: Choice | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """A file into a file or folder, or a folder (a pair set) into a folder; paths or URIs.

    progress(files found so far) is called for each folder. InvalidValue, with nothing done, for
    what cannot be meant: a source that is not there or holds nothing to denoise, a destination in
    the source, two inputs with one output.
    """
    choice = choice or Choice()
    try:
        found = open_storage(source).find("")
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise InvalidValue(
            f"{source}: cannot be looked at: {reason}; check permissions and credentials"
        ) from error
    if found is None:
        raise InvalidValue(
            f"{source}: an image, a folder or a pair set expected, found nothing; check the name"
        )
    if found.kind == "folder":
        return _plan_folder(source, destination, choice, progress)
    if found.kind == "other":
        raise InvalidValue(
            f"{source}: an image or a folder expected, found a device or pipe; check the name"
        )
    return _plan_file(source, destination, choice)


# ---- one file ----------------------------------------------------------------------------------


def _plan_file(source: str, destination: str, choice: Choice) -> Plan:
    folder, name = _split(source)
    part = name.lower().endswith(PARQUET)
    if not part and kind_of(name) is None:
        raise InvalidValue(
            f"{source}: a file that ends in {KNOWN} or {PARQUET} expected; convert it first"
        )
    there = open_storage(destination).find("")
    if destination.endswith(("/", os.sep)) or (there is not None and there.kind == "folder"):
        target = name if part else choice.output(name)
    else:
        destination, target = _split(destination)
        _require_ending(open_storage(destination).shown(target), part, choice)
    plan = Plan(open_storage(folder), open_storage(destination), choice, single=True)
    _require_other(plan, name, target)
    entry = plan.inputs.find(name)
    if entry is None:
        raise InvalidValue(f"{source}: vanished while it was looked at; check the name")
    plan.add(Item(0, name, target, entry.size, entry.mtime_ns, "part" if part else "image"))
    return plan


def _split(path: str) -> tuple[str, str]:
    """The folder and the name of a file, of a path or of a URI with its query."""
    base, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    folder, slash, name = base.rpartition("/")
    return (folder or slash or ".") + mark + query, name


def _require_ending(shown: str, part: bool, choice: Choice) -> None:
    """The name of an output that the user chose."""
    ending = os.path.splitext(shown.partition("?")[0])[1].lower()
    if part and ending != PARQUET:
        raise InvalidValue(f"{shown}: an output that ends in {PARQUET} expected; rename it")
    if not part and ending not in SUFFIXES:
        raise InvalidValue(
            f"{shown}: an output that ends in {KNOWN} expected; rename it, or end the name "
            "of a folder with /"
        )
    if not part and choice.format not in (None, SUFFIXES[ending]):
        raise InvalidValue(
            f"{shown}: its name says {SUFFIXES[ending]}, --format says {choice.format}; "
            "leave out one of them"
        )
    if choice.suffix:
        raise InvalidValue(
            f"{shown}: a folder expected with --suffix; leave it out, and name the output in full"
        )


def _require_other(plan: Plan, name: str, target: str) -> None:
    """The output must not be the input."""
    same = plan.inputs.shown(name) == plan.outputs.shown(target)
    if isinstance(plan.inputs, LocalFolder) and isinstance(plan.outputs, LocalFolder):
        source, output = plan.inputs.path / name, plan.outputs.path / target
        same = os.path.realpath(source) == os.path.realpath(output) or (
            output.exists() and source.samefile(output)
        )
        if output.is_dir():
            raise InvalidValue(f"{output}: a file expected, found a folder; choose another name")
    if same:
        raise InvalidValue(
            f"{plan.outputs.shown(target)}: is the input itself, which is kept; choose another"
        )


# ---- a folder ----------------------------------------------------------------------------------


def _plan_folder(
    source: str, destination: str, choice: Choice, progress: Callable[[int], None] | None
) -> Plan:
    plan = Plan(open_storage(source), open_storage(destination), choice)
    _require_outside(plan)
    clashes: list[str] = []
    for folder in walk(plan.inputs, choice.excludes):
        plan.ignored += folder.ignored
        plan.excluded += folder.excluded
        _add_folder(plan, folder, clashes)
        if progress is not None:
            progress(plan.files)
    if clashes:
        more = len(clashes) - NAMED_CLASHES
        raise InvalidValue(
            f"{source}: an output of its own for each input expected, found "
            + "; ".join(clashes[:NAMED_CLASHES])
            + (f"; and {more} more" if more > 0 else "")
            + "; rename them, or leave some out by --exclude"
        )
    if not len(plan):
        hint = f"; {plan.excluded} are excluded by patterns" if plan.excluded else ""
        raise InvalidValue(f"{source}: a folder with images ({KNOWN}) expected, found none{hint}")
    return plan


def _add_folder(plan: Plan, folder: Folder, clashes: list[str]) -> None:
    taken = dict.fromkeys(folder.folders, "a folder")
    for entry in folder.files:
        source = folder.join(entry.name)
        if not plan.choice.includes(source):
            plan.excluded += 1
            continue
        kind = kind_of(entry.name) or "image"
        _require_plain(plan, source, kind)
        target = plan.choice.output(entry.name) if kind == "image" else entry.name
        if target in taken:
            clashes.append(f"{taken[target]} and {source} → {folder.join(target)}")
        taken[target] = source
        plan.add(Item(len(plan), source, folder.join(target), entry.size, entry.mtime_ns, kind))
    for name, reason in folder.refused:
        path = folder.join(name)
        if plan.choice.includes(path) or not name:
            plan.add(Item(len(plan), path, path), reason)


def _require_plain(plan: Plan, source: str, kind: str) -> None:
    if kind == "part" and (plan.choice.suffix or plan.choice.format):
        raise InvalidValue(
            f"{plan.inputs.shown(source)}: the parts of a pair set keep names and format; leave "
            "out --suffix and --format, or the part by --exclude '*.parquet'"
        )


def _require_outside(plan: Plan) -> None:
    """The output folder is a folder, and neither the input folder nor in it."""
    source, destination = plan.inputs.root, plan.outputs.root
    there = plan.outputs.find("")
    if there is not None and there.kind != "folder":
        raise InvalidValue(
            f"{destination}: a folder expected for the folder {source}, found a file"
        )
    if lies_in(plan.outputs.real(""), plan.inputs.real("")):
        raise InvalidValue(
            f"{destination}: a folder outside of the input folder {source} expected; choose another"
        )
