"""Through a tree of files in order, one folder in memory at a time.

What must not be followed or cannot be read is refused, each with its reason.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from n2n.batch.scratch import WORK
from n2n.images import SUFFIXES
from n2n.storage import Entry, LocalFolder, Storage

__all__ = ["Folder", "kind_of", "lies_in", "walk"]

PART = re.compile(r"part-\d{5,}\.parquet")  # of a pair set


@dataclass
class Folder:
    """One folder of the tree: its path below the root, and what is in it, in order."""

    path: str  # "" is the root
    files: list[Entry] = field(default_factory=list)  # images and parts of pair sets
    folders: list[str] = field(default_factory=list)  # their names; entered after this one
    refused: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)
    ignored: int = 0  # files of other kinds, links to folders of the tree
    excluded: int = 0

    def join(self, name: str) -> str:
        """The path below the root of what has that name here."""
        return f"{self.path}/{name}" if self.path and name else self.path or name


def kind_of(name: str) -> Literal["image", "part"] | None:
    """What a file is by its name: an image, a part of a pair set, or neither."""
    if os.path.splitext(name)[1].lower() in SUFFIXES:
        return "image"
    return "part" if PART.fullmatch(name.rpartition("/")[2]) else None


def lies_in(path: str, folder: str) -> bool:
    """Whether a real path is that folder or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def walk(storage: Storage, excludes: Callable[[str], bool]) -> Iterator[Folder]:
    """Each folder of the tree, without the files and folders whose path `excludes` names.

    Links to folders are not followed: one to a folder in the tree is ignored, since its files are
    done where they are; one that leads out of the tree is refused, as are links to files outside,
    what is no regular file, and folders that cannot be read.
    """
    inside = os.path.realpath(storage.path) if isinstance(storage, LocalFolder) else ""
    waiting = [""]
    while waiting:
        folder = Folder(waiting.pop())
        try:
            entries = sorted(storage.list(folder.path), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read: {error.strerror or error}"
            folder.refused.append(("", reason))
            entries = []
        for entry in entries:
            _place(folder, entry, excludes, lambda name: _leads_out(storage, inside, name))
        waiting += [folder.join(name) for name in reversed(folder.folders)]
        yield folder


def _place(
    folder: Folder, entry: Entry, excludes: Callable[[str], bool], leads_out: Callable[[str], bool]
) -> None:
    """Put an entry where it belongs."""
    path = folder.join(entry.name)
    image = kind_of(entry.name) is not None
    if entry.kind == "folder" and entry.name == WORK:
        return
    if not image and entry.kind != "folder":
        folder.ignored += 1
    elif excludes(path):
        folder.excluded += entry.kind != "folder"
    elif entry.name in ("", ".", ".."):
        folder.refused.append((entry.name, "a name expected, found an empty part in the path"))
    elif entry.link and leads_out(path):
        reason = "a link that leads out of the input folder is not followed"
        folder.refused.append((entry.name, reason))
    elif entry.kind == "folder":
        if entry.link:
            folder.ignored += 1
        else:
            folder.folders.append(entry.name)
    elif entry.kind == "file":
        folder.files.append(entry)
    else:
        folder.refused.append((entry.name, _why_no_file(entry)))


def _why_no_file(entry: Entry) -> str:
    if entry.kind == "other":
        return "a regular file expected, found a device, pipe or socket"
    if entry.link:
        return "a link to an image expected, found one to nothing, or in a circle"
    return "cannot be looked at; check the permissions of its folder"


def _leads_out(storage: Storage, inside: str, path: str) -> bool:
    return isinstance(storage, LocalFolder) and not lies_in(
        os.path.realpath(storage.path / path), inside
    )
