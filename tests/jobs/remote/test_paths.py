"""Paths among the arguments of a command, known by the types of its own parameters."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cli import COMMANDS, main
from jobs.command import Reads, Writes
from jobs.remote.paths import NOT_THERE, Command, parse

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def places(command: Command) -> dict[str, bool]:
    return {place.path: place.written for place in command.places}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("denoise in out --model=m", {"in": False, "out": True, "m": False}),
        ("denoise --model m -- -in out", {"-in": False, "out": True, "m": False}),
        ("denoise in out --model m --suffix in", {"in": False, "out": True, "m": False}),
        ("train set --run=r --preset fast", {"set": False, "r": True}),
        ("sweep set --run r --space s.yaml", {"set": False, "r": True, "s.yaml": False}),
        ("evaluate a b set --parquet x=y", {"a": False, "b": False, "set": False, "x=y": True}),
        ("data build photos out", {"photos": False, "out": True}),
        ("data import a b --out o", {"a": False, "b": False, "o": True}),
        ("data pair a b o", {"a": False, "b": False, "o": True}),
        ("demo", {}),
        ("demo --out here", {"here": True}),
    ],
)
def test_paths_of_each_command(text: str, found: dict[str, bool]) -> None:
    command = parse(main, text.split())
    assert places(command) == found
    assert all(command.words[place.index] == place.path for place in command.places)


def test_every_path_of_every_command_says_whether_it_is_read_or_written() -> None:
    def commands(command: click.Command) -> list[click.Command]:
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return [command, *(found for each in inner for found in commands(each))]

    context = click.Context(main)
    for name in COMMANDS.keys() - NOT_THERE.keys():
        top = main.get_command(context, name)
        assert top is not None
        for command in commands(top):
            for parameter in command.params:
                if isinstance(parameter.type, click.Path):
                    assert isinstance(parameter.type, Reads | Writes), (name, parameter.name)


@settings(max_examples=200, deadline=None)
@given(
    source=TEXT, output=TEXT, patterns=st.lists(TEXT, max_size=3), model=TEXT, joined=st.booleans()
)
def test_any_text_is_found_where_it_stands(
    source: str, output: str, patterns: list[str], model: str, joined: bool
) -> None:
    """Against the values that the command itself gets."""
    options = [f"--model={model}"] if joined else ["--model", model]
    for pattern in patterns:
        options += [f"--include={pattern}"] if joined else ["--include", pattern]
    command = parse(main, ["denoise", *options, "--", source, output])
    assert [(place.path, place.written) for place in command.places] == [
        (model, False),
        (source, False),
        (output, True),
    ]
    values = values_of(command.for_cluster({}, join=True)[1:])
    assert (values["source"], values["output"], values["model"]) == (source, output, model)
    assert values["include"] == tuple(patterns)
    assert values["address"] == "auto"
    changed = {place.index: f"/there/{place.index}" for place in command.places}
    values = values_of(command.for_cluster(changed, join=False)[1:])
    assert [values[name] for name in ("model", "source", "output")] == list(changed.values())
    assert values["address"] is None


def values_of(words: list[str]) -> dict[str, Any]:
    denoise = main.get_command(click.Context(main), "denoise")
    assert denoise is not None
    return denoise.make_context("denoise", list(words)).params


@pytest.mark.parametrize("address", [["--address", "10.0.0.1:6379"], ["--address=auto"]])
def test_an_address_of_its_own_is_kept(address: list[str]) -> None:
    command = parse(main, ["denoise", "in", "out", "--model", "m", *address])
    assert command.for_cluster({}, join=True).count("--address") == 1


def test_commands_without_an_address_get_none() -> None:
    assert parse(main, ["data", "check", "s"]).for_cluster({}, join=True) == ["data", "check", "s"]


def test_what_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    found = parse(main, ["denoise", "in", "new/deep/out", "--model", "nowhere"]).places
    assert [place.here for place in found] == [str(tmp_path / "in"), str(tmp_path), None]
    uris = parse(main, ["denoise", "s3://in/a", "gs://out/b", "--model", "s3://m"]).places
    assert all(place.is_uri for place in uris)


@settings(max_examples=10, deadline=None)
@given(words=st.lists(TEXT, max_size=5))
def test_a_shell_gives_the_words_back(words: list[str]) -> None:
    """As Ray runs an entry point: by sh."""
    show = [sys.executable, "-SE", "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    done = subprocess.run(shlex.join([*show, *words]), shell=True, capture_output=True, check=True)
    assert json.loads(done.stdout) == words
