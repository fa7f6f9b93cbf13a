"""Many image files through a network: what becomes which file, one after the other, a report.

A plan is made first and refuses what would go wrong as a whole; then each input ends in exactly
one state, and a bad one does not keep the others from being done.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from n2n.denoiser import Denoiser, denoise_file
from n2n.errors import ImageError, InvalidValue, N2NError, is_out_of_memory
from n2n.images import SUFFIXES, format_of
from n2n.models import Network

__all__ = ["Outcome", "Plan", "Report", "denoise_files", "plan_file", "plan_folder"]

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
KNOWN = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Outcome:
    """What became of one input: each ends in exactly one state."""

    source: Path
    destination: Path
    state: Literal["done", "skipped", "failed"]
    reason: str | None = None  # of a failure; one line, without the name of the source


@dataclass
class Report:
    """Counts of what was done, and what was not, each with its reason."""

    done: int = 0
    skipped: int = 0
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self.failed.append(outcome)
        elif outcome.state == "skipped":
            self.skipped += 1
        else:
            self.done += 1

    @property
    def return_code(self) -> int:
        """0 if all went well, 1 if some inputs failed."""
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Plan:
    """Which file becomes which."""

    source: Path
    destination: Path
    files: tuple[tuple[Path, Path], ...]  # (input, output)
    refused: tuple[Outcome, ...] = ()  # unreadable folders, links that lead out
    ignored: int = 0  # files of other kinds


def plan_file(source: Path, destination: Path) -> Plan:
    """One file into another, or under its own name into a folder that exists.

    `InvalidValue` for a source that is no image by its name, for a destination with another
    ending, and for a destination that is the source.
    """
    if format_of(source) is None:
        raise InvalidValue(f"{source}: a file that ends in {KNOWN} expected; convert it first")
    if destination.is_dir():
        destination = destination / source.name
    if format_of(destination) is None:
        raise InvalidValue(
            f"{destination}: an output that ends in {KNOWN} expected; rename it, or end the name "
            "of a folder with /"
        )
    if os.path.realpath(source) == os.path.realpath(destination) or (
        destination.exists() and source.samefile(destination)
    ):
        raise InvalidValue(f"{destination}: is the input itself, which is kept; choose another")
    return Plan(source, destination, ((source, destination),))


def plan_folder(source: Path, destination: Path) -> Plan:
    """All PNG and JPEG files in a folder and its subfolders, in order; the tree is mirrored.

    Files of other kinds are counted and ignored. Links to folders are not followed: one to a
    folder in the tree is ignored, since its files are done where they are; one that leads out of
    the tree is refused, as are links to files outside and subfolders that cannot be read.

    `InvalidValue` for a destination that is a file, the source, or in it, and for a source
    without images.
    """
    inside, target = os.path.realpath(source), os.path.realpath(destination)
    if destination.exists() and not destination.is_dir():
        raise InvalidValue(
            f"{destination}: a folder expected for the folder {source}, found a file"
        )
    if _lies_in(target, inside):
        raise InvalidValue(
            f"{destination}: a folder outside of the input folder {source} expected; choose another"
        )
    files: list[tuple[Path, Path]] = []
    refused: list[Outcome] = []
    ignored = 0
    for path in _walk(source, destination, refused):
        output = destination / path.relative_to(source)
        link, image = path.is_symlink(), format_of(path) is not None
        folder = link and path.is_dir()
        if (image or folder) and link and not _lies_in(os.path.realpath(path), inside):
            reason = "a link that leads out of the input folder is not followed"
            refused.append(Outcome(path, output, "failed", reason))
        elif image and not folder:
            files.append((path, output))
        else:
            ignored += 1
    if not files and not refused:
        raise InvalidValue(f"{source}: a folder with images ({KNOWN}) expected, found none")
    return Plan(source, destination, tuple(files), tuple(refused), ignored)


def denoise_files(
    network: Network,
    plan: Plan,
    *,
    overwrite: bool = False,
    device: torch.device | str | None = None,
) -> Iterator[Outcome]:
    """Denoise what is planned, one file after the other; an outcome for each as it is reached.

    An output that exists is left alone and its input skipped, unless `overwrite`. A file that
    fails is an outcome too. OSError of a full disk passes: no further file could be written.
    """
    yield from plan.refused
    denoiser = Denoiser(network, device=device)
    for source, destination in plan.files:
        if destination.is_file() and not overwrite:
            yield Outcome(source, destination, "skipped")
            continue
        try:
            _make_room(plan, destination)
            denoise_file(denoiser, source, destination)
        except N2NError as error:
            reason = str(error).removeprefix(f"{source}: ")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = "not enough memory for an image of this size"
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            reason = f"{destination}: cannot be written: {error.strerror or error}"
        else:
            yield Outcome(source, destination, "done")
            continue
        yield Outcome(source, destination, "failed", reason)


def _walk(source: Path, destination: Path, refused: list[Outcome]) -> Iterator[Path]:
    """Files, and links to folders, in order."""

    def report(error: OSError) -> None:
        folder = Path(error.filename)
        output = destination / folder.relative_to(source)
        reason = f"the folder cannot be read: {error.strerror}"
        refused.append(Outcome(folder, output, "failed", reason))

    for name, folders, files in os.walk(source, onerror=report):
        folders.sort()
        folder = Path(name)
        links = [link for link in folders if (folder / link).is_symlink()]
        yield from (folder / file for file in sorted(files + links))


def _make_room(plan: Plan, destination: Path) -> None:
    """Make the output's folder, unless a link in the output tree would lead it astray."""
    if destination != plan.destination:  # of a folder
        folder = os.path.realpath(destination.parent)
        output, inputs = os.path.realpath(plan.destination), os.path.realpath(plan.source)
        if not _lies_in(folder, output) or _lies_in(folder, inputs):
            raise ImageError(
                f"{destination}: an output in {plan.destination} and not in {plan.source} "
                "expected; choose another output folder"
            )
    destination.parent.mkdir(parents=True, exist_ok=True)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
