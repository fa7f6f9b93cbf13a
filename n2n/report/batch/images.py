"""The gallery: every image before and after, as many as a page can hold."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from n2n.batch.account import Account, Entry
from n2n.data.parallel import run_all
from n2n.report import Options
from n2n.report.batch.crops import Job, Look, look
from n2n.report.batch.drift import FLAGGED
from n2n.report.blocks import Absent
from n2n.report.page import Block, Section
from n2n.report.pictures import Picture, Slider
from n2n.storage import LocalFolder, is_uri, open_storage

__all__ = ["Card", "Gallery", "image_section"]

MOST = 2000  # images
PAGE_BYTES = 16_000_000  # of all pictures, as text
SIDES = (96, 256)  # of a crop, in pixels
BYTES_A_PIXEL = 0.7  # of both pictures of a crop
ALONE = 64  # images, up to which other processes are not worth their start


@dataclass(frozen=True)
class Card:
    """What is shown of an image. link: to the output, from the page; facts: in a line.

    slider: of the crop; picture: in its place where only the output can be shown. whole: the
    image in small. order: numbers to sort by, the largest first.
    """

    name: str
    link: str
    facts: str
    slider: Slider | None
    picture: Picture | None
    whole: Picture | None
    problem: str | None
    flagged: bool
    drift: float
    removed: float
    seconds: float
    pixels: int


@dataclass(frozen=True)
class Gallery(Block):
    """Cards, to be filtered by name and state, and sorted."""

    cards: Sequence[Card]
    flag: str
    template: ClassVar[str] = "gallery.html.jinja"
    styles: ClassVar[tuple[str, ...]] = ("controls.css", "gallery.css")
    scripts: ClassVar[tuple[str, ...]] = ("gallery.js",)


def image_section(
    path: Path, account: Account, images: Sequence[Entry], options: Options
) -> Section:
    """The gallery of the images of a folder at `path`."""
    if not images:
        return Section("images", "Images", [Absent("No image", "was denoised yet.")])
    shown = _chosen(images)
    most = PAGE_BYTES * 3 // 4 // len(shown)  # bytes of an image's pictures, as files
    side = min(max(isqrt(int(most / BYTES_A_PIXEL)), SIDES[0]), SIDES[1])
    sources, missing = _sources(account)
    jobs = [_job(path, account, entry, sources, side, most) for entry in shown]
    workers = options.threads if len(jobs) > ALONE else 1
    looks = run_all(look, jobs, workers=workers, label="looking at images")
    folder = options.folder or path / "report"
    cards = [_card(path, folder, *pair) for pair in zip(shown, looks, strict=True)]
    blocks: list[Block] = [Gallery(cards, f"drift of {100 * FLAGGED:g} % or more")]
    if len(shown) < len(images):
        blocks.insert(
            0,
            Absent(
                f"{len(shown):,} of {len(images):,} images are shown:",
                "those with the largest drift, and others at equal distances.",
            ),
        )
    blocks[:0] = missing
    lead = (
        f"The middle of each image, pixel for pixel, at most {side} pixels a side: move the line "
        "to see the input left of it and the output right of it. Removed σ: the standard deviation "
        "of what was taken from it, in 8-bit levels."
    )
    return Section("images", "Images", blocks, lead)


def _chosen(images: Sequence[Entry]) -> list[Entry]:
    """All, or as many as fit: half of them those with the largest drift."""
    if len(images) <= MOST:
        return list(images)
    order = sorted(range(len(images)), key=lambda number: -abs(images[number].drift or 0))
    chosen = set(order[: MOST // 2])
    rest = [number for number in range(len(images)) if number not in chosen]
    step = len(rest) / (MOST - len(chosen))
    chosen.update(rest[int(place * step)] for place in range(MOST - len(chosen)))
    return [images[number] for number in sorted(chosen)]


def _sources(account: Account) -> tuple[list[Path | None], list[Block]]:
    """Where each run's inputs lie on this machine, and what to say of those that do not."""
    sources: list[Path | None] = []
    missing: dict[str, str] = {}
    for run in account.runs:
        source = None if is_uri(run.input) else open_storage(run.input)
        if isinstance(source, LocalFolder) and source.path.is_dir():
            sources.append(source.path)
            continue
        sources.append(None)
        missing[run.input] = (
            "are not fetched from there: the outputs are shown alone."
            if source is None
            else "are not there, so the outputs are shown alone; if they were named from another "
            "folder, make the report there."
        )
    return sources, [Absent(f"The inputs in {root}", why) for root, why in missing.items()]


def _job(
    path: Path,
    account: Account,
    entry: Entry,
    sources: Sequence[Path | None],
    side: int,
    most: int,
) -> Job:
    source, given = None, None
    if account.runs:
        source = sources[entry.run]
        given = account.runs[entry.run].header.get("settings", {}).get("value_range")
    return Job(
        path / entry.output,
        source / entry.input if source else None,
        entry.size,
        entry.mtime_ns,
        entry.digest,
        side,
        most,
        (float(given[0]), float(given[1])) if given else None,
    )


def _card(path: Path, folder: Path, entry: Entry, seen: Look) -> Card:
    shown = entry.output.encode(errors="backslashreplace").decode()
    height, width, _ = seen.shape
    facts = [f"{width:,} × {height:,}", *seen.notes] if width else []
    if entry.drift is not None:
        facts.append(f"drift {100 * entry.drift:+.2f} %")
    if seen.removed is not None:
        facts.append(f"removed σ {seen.removed:.1f}")
    facts.append(f"{entry.seconds:.2f} s")
    crop = [
        _picture(content, seen.crop, f"{shown}, {word}")
        for content, word in ((seen.before, "input"), (seen.after, "output"))
    ]
    before, after = crop
    both = before is not None and after is not None
    return Card(
        name=shown,
        link=quote(os.fsencode(os.path.relpath(path / entry.output, folder))),
        facts=", ".join(facts),
        slider=Slider(shown, before, after, ("input", "output")) if before and after else None,
        picture=None if both else after,
        whole=_picture(seen.whole, seen.small, f"{shown}, all of the output"),
        problem=seen.problem,
        flagged=abs(entry.drift or 0) >= FLAGGED,
        drift=abs(entry.drift or 0),
        removed=seen.removed or 0,
        seconds=entry.seconds,
        pixels=entry.pixels,
    )


def _picture(content: bytes | None, size: tuple[int, int], alt: str) -> Picture | None:
    if content is None:
        return None
    data = base64.b64encode(content).decode()
    return Picture(f"data:image/webp;base64,{data}", *size, alt)
