"""What every command shares: one line for each error, and the exit code that belongs to it."""

import errno
import json
import os
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.command import Group, Job, job, print_json
from n2n import errors


def run_raising(error: BaseException, *arguments: str) -> Result:
    @job("try")
    def main() -> None:
        raise error

    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidValue("what is wrong"), 2),
        (errors.InvalidType("what is wrong"), 2),
        (errors.RunConflict("what is wrong"), 2),
        (errors.PairSetError("what is wrong"), 2),
        (errors.ModelFileError("what is wrong"), 2),
        (errors.JobFailed("what is wrong"), 3),
        (errors.Diverged("what is wrong"), 3),
        (errors.Interrupted("what is wrong"), 3),
        (errors.N2NError("what is wrong"), 3),
    ],
)
def test_errors_of_n2n(error: errors.N2NError, code: int) -> None:
    result = run_raising(error)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "n2n: what is wrong\n"


@pytest.mark.parametrize(
    ("number", "code", "parts"),
    [
        (errno.ENOSPC, 3, ["the disk is full: /some/file", "make space", "again"]),
        (errno.EDQUOT, 3, ["the disk is full: /some/file"]),
        (errno.EACCES, 2, ["no permission: /some/file"]),
        (errno.EPERM, 2, ["no permission: /some/file"]),
        (errno.EROFS, 2, ["Read-only file system: /some/file", "another place"]),
        (errno.ENOTDIR, 2, ["Not a directory: /some/file"]),
        (errno.EIO, 3, ["Input/output error: /some/file"]),
        (errno.ENOENT, 3, ["No such file or directory: /some/file"]),
    ],
)
def test_errors_of_the_system(number: int, code: int, parts: list[str]) -> None:
    result = run_raising(OSError(number, os.strerror(number), "/some/file"))
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("n2n: ")
    assert all(part in result.stderr for part in parts)


def test_a_full_disk_without_a_name() -> None:
    result = run_raising(OSError(errno.ENOSPC, "No space left on device"))
    assert result.exit_code == 3
    assert result.stderr.startswith("n2n: the disk is full; ")


def test_interrupted() -> None:
    result = run_raising(KeyboardInterrupt())
    assert result.exit_code == 3
    assert result.stderr.startswith("n2n: stopped; ")
    assert len(result.stderr.splitlines()) == 1


def test_abort_of_click() -> None:
    result = run_raising(click.Abort())
    assert (result.exit_code, result.stderr) == (3, "n2n: stopped\n")


def test_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**8, 10**8)
    for error in (MemoryError(), caught.value):
        result = run_raising(error)
        assert result.exit_code == 3
        assert result.stderr.startswith("n2n: out of memory; ")
        assert len(result.stderr.splitlines()) == 1


def test_a_mistake_of_ours_is_a_failed_job_and_names_itself() -> None:
    for error in (RuntimeError("a bug"), ZeroDivisionError("a bug"), AssertionError("a bug")):
        result = run_raising(error)
        assert result.exit_code == 3
        assert f"({type(error).__name__}: a bug)" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_message_is_one_line() -> None:
    """Names of files may hold line breaks."""
    result = run_raising(errors.InvalidValue("two\nlines"))
    assert result.stderr == "n2n: two lines\n"


@pytest.mark.parametrize("error", [errors.InvalidValue("wrong"), OSError(errno.EIO, "broken")])
def test_debug_shows_the_traceback(error: Exception) -> None:
    for arguments in ((), ("--debug",)):
        result = run_raising(error, *arguments)
        assert ("Traceback (most recent call last)" in result.stderr) == bool(arguments)
        assert ("raise error" in result.stderr) == bool(arguments)
        assert result.stderr.splitlines()[-1].startswith("n2n: ")
    assert result.exit_code == getattr(error, "exit_code", 3)


@pytest.mark.parametrize("code", [None, 0, 1, 3])
def test_what_a_command_returns_is_the_exit_code(code: int | None) -> None:
    @job("try")
    def main() -> int | None:
        return code

    for command in (main, group_of(main)):
        arguments = [] if isinstance(command, Job) else ["try"]
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == (code or 0)
        assert result.output == ""


def group_of(command: click.Command) -> click.Group:
    group = click.Group("n2n")
    group.__class__ = Group
    group.add_command(command)
    return group


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["Missing argument 'NUMBER'"]),
        (["x"], ["'x' is not a valid integer"]),
        (["1", "2"], ["unexpected extra argument (2)"]),
        (["1", "--none"], ["No such option", "--none"]),
        (["1", "--mode", "c"], ["'c' is not one of 'a', 'b'"]),
        (["1", "--mode"], ["'--mode' requires an argument"]),
        (["--mode"], ["--mode"]),
    ],
)
def test_wrong_usage(arguments: list[str], parts: list[str]) -> None:
    @job("try")
    @click.argument("number", type=int)
    @click.option("--mode", type=click.Choice(["a", "b"]))
    def main(**settings: Any) -> None:
        pytest.fail("ran")

    for command, words in ((main, arguments), (group_of(main), ["try", *arguments])):
        result = CliRunner().invoke(command, words)
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("n2n: ")
        assert line.endswith(" --help'")
        for part in parts:
            assert part.casefold() in line.casefold()


def test_an_unknown_command() -> None:
    @job("try")
    def main() -> None:
        pytest.fail("ran")

    result = CliRunner().invoke(group_of(main), ["tyr"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: No such command 'tyr'")


def test_help_names_the_defaults_and_debug() -> None:
    @job("try")
    @click.option("--size", default=32, help="Pixels.")
    def main(size: int) -> None:
        """Do it."""

    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "[default: 32]" in result.stdout
    assert "--debug" in result.stdout


def test_print_json(capsys) -> None:
    print_json({"a": [1, None, 0.5], "b": "ü"})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, 0.5], "b": "ü"}
    with pytest.raises(ValueError, match="JSON"):
        print_json(float("nan"))
