"""Command modules as `ray submit` runs them: a copy in ~, beside those submitted before.

A line of shell calls it, in which the arguments stand as they came.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import jobs
from jobs.cli import COMMANDS
from n2n.data import PairSet

SCRIPTS = sorted({module.partition(".")[2] for module, _ in COMMANDS.values()} | {"cli"})
REMEDY = """quote all of them once more: -- "$(printf '%q ' ARGUMENTS)\"\n"""

Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def submit(tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """submit(NAME, LINE): what the head does; the folder is ~."""
    home = tmp_path_factory.mktemp("home")
    for name in SCRIPTS:
        shutil.copy(Path(jobs.__file__).with_name(f"{name}.py"), home)

    def run(name: str, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"{shlex.quote(sys.executable)} ~/{name}.py {line}"],
            cwd=home,
            env=os.environ | {"HOME": str(home)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_command_is_a_script(name: str, submit: Submit) -> None:
    done = submit(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")


def test_the_exit_code(submit: Submit, make_set: Callable[..., PairSet]) -> None:
    whole = make_set()
    assert submit("data", f"check {whole.path}").returncode == 0
    missing = submit("data", f"check {whole.path}/none")
    assert missing.returncode == 2
    assert "unquoted" not in missing.stderr


@pytest.mark.parametrize("name", ["a  'b'", 'ä "$HOME" *\nb'])
def test_arguments_that_were_quoted_once_more(
    name: str, submit: Submit, make_set: Callable[..., PairSet]
) -> None:
    path = make_set(name).path
    quote = ["bash", "-c", "printf '%q ' \"$@\"", "bash", "check", str(path), "--workers", "1"]
    line = subprocess.run(quote, capture_output=True, text=True, check=True).stdout
    done = submit("data", line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: ")


def test_a_path_that_was_taken_apart(submit: Submit, make_set: Callable[..., PairSet]) -> None:
    """Such as would else be a model that is not there."""
    path = make_set("my new set").path
    done = submit("evaluate", f"{path} {path}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"n2n: expected '{path}' in one piece, found it in 3;")
    assert done.stderr.endswith(REMEDY)


def test_too_many_arguments(submit: Submit) -> None:
    """Of which nobody knows what they were: both are said."""
    done = submit("denoise", "/none/my photos /none/clean --model m")
    assert done.returncode == 2
    assert "unexpected extra argument (/none/clean)" in done.stderr
    assert done.stderr.endswith(REMEDY)


def test_not_elsewhere(tmp_path: Path) -> None:
    """A path of two words, both given apart on purpose."""
    (tmp_path / "a b").mkdir()
    command = [sys.executable, "-m", "jobs.cli", "data", "check", "a", "b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("--help'\n")
