"""A report as one HTML file that needs nothing else: no network, no file beside it.

A page is made of sections, a section of blocks (`n2n.report.blocks`, `charts`, `pictures`). A
block is data; the Jinja template that it names makes HTML of it, in which all text is escaped,
also inside the JSON of charts. A content security policy in the page allows its own scripts, by
their digest, and nothing from anywhere else: text that slipped through would be shown, not run.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from markupsafe import Markup

from n2n.files import replacing

__all__ = ["Block", "Page", "Section"]

TEMPLATES = "templates"


class Block:
    """What stands in a section: a dataclass whose template shows it.

    template: shows it as HTML; it is given `block`, an `id` that the page has once, and
    `render`, which shows a block inside of this one. scripts: what it needs, by name: "plotly",
    or a file of the templates' folder; styles: such files, too.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]] = ()
    styles: ClassVar[tuple[str, ...]] = ()

    def inner(self) -> Iterator["Block"]:
        """The blocks inside of this one."""
        yield from ()


@dataclass(frozen=True)
class Section:
    """A part of a page. key: its address in the page (#key); lead: what it shows, in a sentence."""

    key: str
    title: str
    blocks: Sequence[Block]
    lead: str | None = None


@dataclass(frozen=True)
class Page:
    """A whole report. kind: of what, such as "Run"; title: its name.

    highlights: (number, what it is) pairs, the first thing to be read; summary: one sentence.
    refresh: seconds after which the page loads itself anew, for work that still goes on.
    """

    kind: str
    title: str
    sections: Sequence[Section]
    summary: str = ""
    highlights: Sequence[tuple[str, str]] = ()
    refresh: int | None = None

    def render(self) -> str:
        """The HTML."""
        numbers = count(1)

        def render(block: Block) -> Markup:
            template = _environment().get_template(block.template)
            return Markup(template.render(block=block, id=f"b{next(numbers)}", render=render))

        blocks = list(_all_blocks(block for part in self.sections for block in part.blocks))
        own = ["page.js", "live.js"] if self.refresh else ["page.js"]
        names = dict.fromkeys([*(name for block in blocks for name in block.scripts), *own])
        styles = dict.fromkeys(["style.css", *(name for block in blocks for name in block.styles)])
        scripts = [_script(name) for name in names]
        page = _environment().get_template("page.html.jinja")
        return page.render(
            page=self,
            style=Markup("".join(map(_text, styles))),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            render=render,
        )

    def write(self, path: Path) -> None:
        """Write the file; one that is there is replaced only when the new one is complete."""
        content = self.render().encode("utf-8", errors="replace")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)


def _all_blocks(blocks: Iterator[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        yield from _all_blocks(block.inner())


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("n2n.report", TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return (files("n2n.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    if name != "plotly":
        return _text(name)
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _policy(scripts: Sequence[str]) -> str:
    """Nothing from elsewhere, and no script but these."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    parts: dict[str, Any] = {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data: blob:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(allowed),
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())
