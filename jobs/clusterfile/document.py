"""A YAML text as values, and the line of every key: PyYAML reads, nothing is guessed from lines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TOKEN", "TOKEN_WRITTEN", "Document", "Fault", "Key", "nearest", "read", "shown"]

LARGEST_FILE = 2**20  # bytes
MOST_NODES = 20_000  # aliases count each time: a few lines of them can stand for billions

PROBLEMS = {  # PyYAML's words for them: ours
    "mapping values are not allowed": "a colon where no key can stand",
    "expected <block end>": "a line that does not belong here",
    "unexpected end of stream": "a quote or bracket that is never closed",
    "could not find expected ':'": "a key without a colon",
}

TOKEN = "RAY_AUTH_TOKEN"
TOKEN_WRITTEN = re.compile(  # the token itself, and not the name of a variable or file
    rf"""{TOKEN}["']?\s*[=:](?![\s"']*(?:\$|$))\s*["']?[^\s"'\\]+"""
)

Key = tuple[str | int, ...]  # ("provider", "worker_ips", 0)


@dataclass(frozen=True)
class Fault:
    """What is wrong at one place of a file, and what to write instead.

    insecure: it is valid, but lets strangers in.
    """

    file: str
    line: int
    key: str
    expected: str
    found: str
    remedy: str
    insecure: bool = False

    def __str__(self) -> str:
        text = (
            f"{self.file}:{self.line}: {self.key}: expected {self.expected}, "
            f"found {self.found}; {self.remedy}"
        )
        return " ".join(text.split())


@dataclass
class Document:
    """One YAML document. Checks collect `faults`, and `notes` on what is no fault."""

    file: str
    value: Any
    lines: dict[Key, int]  # of every key and list item, from 1
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def line(self, key: Key) -> int:
        """The line of a key, or of what it would stand in."""
        while key not in self.lines and key:
            key = key[:-1]
        return self.lines.get(key, 1)

    def at(self, *key: str | int) -> Any:
        """The value there; None if there is none."""
        value = self.value
        for part in key:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def mapping(self, *key: str | int) -> dict[str, Any]:
        """The mapping there; an empty one if there is none."""
        value = self.at(*key)
        return value if isinstance(value, dict) else {}

    def items(self, *key: str | int) -> list[Any]:
        """The list there; an empty one if there is none."""
        value = self.at(*key)
        return value if isinstance(value, list) else []

    def text(self, *key: str | int) -> str | None:
        """The text there; None if there is none."""
        value = self.at(*key)
        return value if isinstance(value, str) else None

    def number(self, *key: str | int) -> int | None:
        """The whole number there; None if there is none."""
        value = self.at(*key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def scalars(self) -> Iterator[tuple[Key, Any]]:
        """Every text, number and the like in it."""
        yield from _scalars((), self.value)

    def texts(self) -> Iterator[tuple[Key, str]]:
        """Every text in it."""
        return ((key, value) for key, value in self.scalars() if isinstance(value, str))

    def fault(
        self, key: Key, expected: str, found: str, remedy: str, *, insecure: bool = False
    ) -> None:
        """Add a fault. A token is not repeated in it."""
        if key[-1:] == ("value",) and self.at(*key[:-1], "name") == TOKEN:
            found, remedy = "a token", remedy.replace(str(self.at(*key)), "…")
        found, remedy = (TOKEN_WRITTEN.sub(rf"{TOKEN}=…", text) for text in (found, remedy))
        self.faults.append(
            Fault(self.file, self.line(key), spelled(key), expected, found, remedy, insecure)
        )


def read(path: Path) -> list[Document]:
    """The documents of a file, at least one. What cannot be read has faults and the value None."""
    file = str(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            return [_refused(file, 1, "a cluster file of at most 1 MiB", "more", "see the file")]
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return [_refused(file, line, "text in UTF-8", "other bytes", "save the file as UTF-8")]
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
        return [_refused(file, 1, "a YAML file", found, "check the name and its permissions")]
    except ValueError:  # a name with a null byte
        return [_refused(file, 1, "a YAML file", "an impossible name", "check the name")]
    try:
        return _documents(file, text)
    except yaml.YAMLError as error:
        return [_malformed(file, error)]
    except RecursionError:
        return [_refused(file, 1, "keys in a few levels", "too many levels", "flatten the file")]
    except (ValueError, TypeError, KeyError, OverflowError) as error:  # of PyYAML's constructors
        found = f"a value that YAML cannot read ({type(error).__name__})"
        return [_refused(file, 1, "plain values", found, "put dates and such in quotes")]


def spelled(key: Key) -> str:
    """provider.worker_ips[0]; a token that somebody wrote into a key is left out."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return TOKEN_WRITTEN.sub(f"{TOKEN}=…", text.removeprefix(".")) or "file"


def shown(value: object) -> str:
    """A value in a message: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = TOKEN_WRITTEN.sub(f"{TOKEN}=…", repr(value))
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def nearest(word: object, known: list[str]) -> str | None:
    """The known word that is probably meant."""
    close = get_close_matches(str(word), known, 1, 0.6)
    if not close:  # headNodeType for head_node_type
        plain = {name.replace("_", "").lower(): name for name in known}
        close = [plain[name]] if (name := str(word).replace("_", "").lower()) in plain else []
    return close[0] if close else None


def _refused(file: str, line: int, expected: str, found: str, remedy: str) -> Document:
    document = Document(file, None, {(): line})
    document.fault((), expected, found, remedy)
    return document


def _malformed(file: str, error: yaml.YAMLError) -> Document:
    if isinstance(error, yaml.reader.ReaderError):
        found = f"the character {error.character!r}"
        return _refused(file, 1, "text that can be printed", found, "remove it")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    problem = getattr(error, "problem", None) or type(error).__name__
    if "'\\t'" in problem:
        return _refused(file, line, "spaces before a key", "a tab", "indent with spaces alone")
    found = next((words for part, words in PROBLEMS.items() if part in problem), problem)
    remedy = "check the indentation, quotes and colons of this line and the one before"
    return _refused(file, line, "valid YAML", found, remedy)


def _documents(file: str, text: str) -> list[Document]:
    loader = yaml.SafeLoader(text)
    documents = []
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # check_node() has seen it
            document = Document(file, None, {(): node.start_mark.line + 1})
            walk = _Walk(document)
            walk.visit((), node)
            if not document.faults:
                document.value = loader.construct_document(node)
            documents.append(document)
    finally:
        loader.dispose()
    filled = [found for found in documents if found.value is not None or found.faults]
    return filled or [
        _refused(file, 1, "a mapping of keys", "nothing", "copy one of cluster/*.yaml")
    ]


class _Walk:
    """Notes the line of each key of a document, and refuses keys that YAML would let through."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._above: set[int] = set()  # nodes that hold this one
        self._left = MOST_NODES

    def visit(self, key: Key, node: yaml.Node) -> None:
        self._left -= 1
        if id(node) in self._above or self._left == 0:
            found = "an alias (*) of what it stands in" if self._left else "too many"
            self._document.fault(key, f"at most {MOST_NODES} values", found, "write them out")
        if self._left <= 0 or id(node) in self._above:
            return
        self._above.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(key, node)
        elif isinstance(node, yaml.SequenceNode):
            for place, item in enumerate(node.value):
                self._document.lines[(*key, place)] = item.start_mark.line + 1
                self.visit((*key, place), item)
        self._above.remove(id(node))

    def _mapping(self, key: Key, node: yaml.MappingNode) -> None:
        names = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.tag == "tag:yaml.org,2002:merge":
                self._merge(key, value)
                continue
            if not isinstance(name, yaml.ScalarNode) or name.tag != "tag:yaml.org,2002:str":
                self._document.lines.setdefault(key, line)
                found = (
                    repr(name.value) if isinstance(name, yaml.ScalarNode) else "a list or mapping"
                )
                inner = (*key, str(name.value)) if isinstance(name, yaml.ScalarNode) else key
                self._document.lines[inner] = line
                self._document.fault(inner, "a key that is text", found, "put it in quotes")
                continue
            inner = (*key, name.value)
            self._document.lines[inner] = line
            if name.value in names:
                self._document.fault(
                    inner, "each key once", f"{name.value!r} again", "keep one of the two"
                )
            names.add(name.value)
            self.visit(inner, value)

    def _merge(self, key: Key, value: yaml.Node) -> None:
        """`<<: *other`: the keys of another mapping; its lines hold where none of its own do."""
        own = dict(self._document.lines)
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            self.visit(key, node)
        self._document.lines.update(own)


def _scalars(key: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars((*key, name), inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _scalars((*key, place), inner)
    else:
        yield key, value
