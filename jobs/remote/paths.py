"""What a command reads and writes, by the types of its own parameters.

The command parses its arguments as it would at home, and does not run; parameters of the types
`Reads` and `Writes` then say which of the arguments are paths, wherever they stand.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from jobs.command import Reads, ReadsModel, Writes
from n2n.shipped import shipped

__all__ = ["Command", "Place", "parse"]

NOT_THERE = {
    "submit": "it is what sends the others",
    "jobs": "it asks a cluster from outside",
    "cluster": "it looks at files of this machine",
    "bench": "it needs a clone of n2n",
}


class Word(str):
    """An argument that knows where it stood."""

    place: int

    def __new__(cls, text: str, place: int) -> "Word":
        word = super().__new__(cls, text)
        word.place = place
        return word


@dataclass(frozen=True)
class Place:
    """A path among the arguments. index: of the argument. written: else it is read."""

    index: int
    path: str
    written: bool

    @property
    def is_uri(self) -> bool:
        return "://" in self.path

    @property
    def absolute(self) -> str:
        return os.path.abspath(self.path)

    @property
    def base(self) -> str:
        return os.path.basename(self.absolute)

    @property
    def here(self) -> str | None:
        """What must be there, too, as this machine has it: the path itself, or, of one that is to
        be written, the folder that it goes into. None if this machine has no such thing."""
        path = self.absolute
        if os.path.lexists(path):
            return path
        if not self.written:
            return None
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        return path


@dataclass(frozen=True)
class Command:
    """A command that its own parser takes.

    words: name, then arguments, `--set=x` as two words. depth: how many of them are the name.
    """

    words: tuple[str, ...]
    depth: int
    places: tuple[Place, ...]
    joins_ray: bool  # takes --address
    has_address: bool

    @property
    def name(self) -> str:
        return " ".join(self.words[: self.depth])

    def for_cluster(self, changed: dict[int, str], *, join: bool) -> list[str]:
        """The words, some of them replaced.

        join: work on the whole cluster, if the command can and does not say where to work.
        """
        words = [changed.get(index, word) for index, word in enumerate(self.words)]
        if join and self.joins_ray and not self.has_address:
            words[self.depth : self.depth] = ["--address", "auto"]
        return words


def parse(root: click.Group, arguments: Sequence[str]) -> Command:
    """Parse a command of `root` as it would parse itself. Raises click's errors of usage."""
    context = click.Context(root, info_name="n2n")
    command: click.Command = root
    words = list(arguments)
    depth = 0
    while isinstance(command, click.Group):
        command, context, depth = _step(command, context, words, depth), context, depth + 1
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=words[depth - 1], parent=context)
    name = words[depth - 1]
    command.make_context(name, words[depth:], parent=context).close()  # says what is wrong
    words = words[:depth] + _split(command, words[depth:])
    places: list[Place] = []
    spied = _spied(command, places)
    tagged = [Word(word, depth + index) for index, word in enumerate(words[depth:])]
    with spied.make_context(name, list(tagged), parent=context) as parsed:
        address = parsed.params.get("address")
    joins = any(parameter.name == "address" for parameter in command.params)
    places.sort(key=lambda place: place.index)
    return Command(tuple(words), depth, tuple(places), joins, address is not None)


def _step(
    group: click.Group, context: click.Context, words: list[str], depth: int
) -> click.Command:
    if len(words) <= depth:
        known = _known(group, context)
        raise click.UsageError(f"expected a command after --, one of: {known}", context)
    name = words[depth]
    if depth == 0 and name in NOT_THERE:
        raise click.UsageError(f"{name} does not run on a cluster: {NOT_THERE[name]}", context)
    command = group.get_command(context, name)
    if command is None:
        known = _known(group, context)
        raise click.UsageError(f"no command {name!r}; expected one of: {known}", context)
    return command


def _known(group: click.Group, context: click.Context) -> str:
    return ", ".join(name for name in group.list_commands(context) if name not in NOT_THERE)


def _split(command: click.Command, words: list[str]) -> list[str]:
    """`--name=value` as two words, so that the value stands alone. The parser has taken them."""
    options = {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
    }
    found: list[str] = []
    skip = 0  # values of the option before
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if skip:
            skip -= 1
        elif word == "--":
            return found + words[place:]
        elif equals and name in options:
            found += [name]
            skip, word = options[name].nargs - 1, value
        elif word in options and not options[word].is_flag:
            skip = options[word].nargs
        found.append(word)
    return found


class Spy(click.ParamType[Any]):
    """Takes whatever the type takes, and notes the words that are paths."""

    def __init__(self, kind: click.Path, places: list[Place]) -> None:
        self.name, self._kind, self._places = kind.name, kind, places

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, Word) and not self._is_name(value):
            self._places.append(Place(value.place, str(value), isinstance(self._kind, Writes)))
        return value

    def _is_name(self, word: str) -> bool:
        return isinstance(self._kind, ReadsModel) and word in shipped()


def _spied(command: click.Command, places: list[Place]) -> click.Command:
    spied = copy.copy(command)
    spied.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in spied.params:
        if isinstance(parameter.type, Reads | Writes):
            parameter.type = Spy(parameter.type, places)
    return spied
