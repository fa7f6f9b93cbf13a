"""Shell commands of a cluster file, as far as they start Ray. Nothing is run or expanded."""

import re
import shlex
from dataclasses import dataclass

__all__ = ["Start", "image_versions", "pinned_versions", "quotes_closed", "starts"]

ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
PREFIXES = {"sudo", "env", "exec", "nohup", "time", "-E"}
PIN = re.compile(r"(?<![\w.-])ray(?:\[[\w,\s]*\])?\s*==\s*(\d[\w.]*)")
IMAGE = re.compile(r"rayproject/ray(?:-ml|-llm)?:(\d[\d.]*)")


@dataclass(frozen=True)
class Start:
    """One `ray start` with its options, and the variables that the command sets for it."""

    options: dict[str, str]  # "--port": "6379"; flags have ""
    variables: dict[str, str]

    @property
    def head(self) -> bool:
        return "--head" in self.options


def quotes_closed(command: str) -> bool:
    """Whether every quote of a command is closed."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def starts(command: str) -> list[Start]:
    """Every `ray start` in a command."""
    found: list[Start] = []
    exported: dict[str, str] = {}
    for words in _simple_commands(command):
        variables: dict[str, str] = {}
        while words and (ASSIGNMENT.match(words[0]) or words[0] in PREFIXES):
            name, equals, value = words.pop(0).partition("=")
            if equals:
                variables[name] = value
        if words[:1] == ["export"]:
            exported |= dict(_pair(word) for word in words[1:])
        arguments = _after_start(words)
        if arguments is not None:
            found.append(Start(_options(arguments), exported | variables))
    return found


def pinned_versions(command: str) -> list[str]:
    """The versions of Ray that a command installs: ray[default]==2.60.0."""
    return PIN.findall(command)


def image_versions(image: str) -> list[str]:
    """The version of Ray in the name of one of its images: rayproject/ray:2.60.0-py311-gpu."""
    return [found.rstrip(".") for found in IMAGE.findall(image)]


def _simple_commands(command: str) -> list[list[str]]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace_split = True
    lexer.whitespace = " \t\r"
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word and set(word) <= set(";&|()\n"):
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError:  # an open quote, which is a fault of its own
        pass
    return commands


def _after_start(words: list[str]) -> list[str] | None:
    for place, word in enumerate(words[:-1]):
        name = word.rpartition("/")[2]
        if words[place + 1] == "start" and name in ("ray", "ray.scripts.scripts"):
            return words[place + 2 :]
    return None


def _options(arguments: list[str]) -> dict[str, str]:
    options, name = {}, ""
    for word in arguments:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            options[name] = value
        elif name and not options[name]:
            options[name] = word
    return options


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
