"""What every command shares: one-line errors, exit codes, `--debug`, lines for programs.

Exit codes: 0 all done; 1 finished, but some inputs failed, each named; 2 wrong usage or
configuration, nothing done; 3 the job failed or was stopped.
"""

import errno
import json
import os.path
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from n2n.errors import N2NError, is_out_of_memory

__all__ = [
    "Group",
    "Job",
    "Reads",
    "ReadsModel",
    "Writes",
    "device_options",
    "gibibytes",
    "job",
    "print_json",
    "stopping",
]

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
NO_PLACE = {errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}

MOST_WORDS = 20  # that a path is taken apart into
QUOTE_ONCE_MORE = (
    "ray submit joins arguments unquoted; if one has a space, a quote, * or $ in it, quote all of "
    """them once more: -- "$(printf '%q ' ARGUMENTS)\""""
)


class Reads(click.Path):
    """The type of a parameter that names a file or folder to read, or a URI; it need not be there.

    `n2n submit` asks parameters of this type, and of `Writes`, what a command needs on a cluster.
    """


class ReadsModel(Reads):
    """The type of a parameter that names a model: as `Reads`, or the name of a shipped one."""


class Writes(click.Path):
    """The type of a parameter that names a file or folder to write or to go on with, or a URI."""


class OneLineErrors:
    """Mixin for click commands: what a command returns is the exit code, errors are one line."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            if by_ray_submit():
                require_whole(sys.argv[1:])
            code = super().main(*args, **kwargs)  # type: ignore[misc]  # click's main, by the MRO
        except click.UsageError as error:
            code = _refuse(error)
        except click.Abort:
            click.echo("n2n: stopped", err=True)
            code = 3
        except click.ClickException as error:
            click.echo(f"n2n: {error.format_message()}", err=True)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


class Group(OneLineErrors, click.Group):
    """A group of commands with one-line errors."""


class Job(OneLineErrors, click.Command):
    """A command with one-line errors and `--debug`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.")
        )

    def invoke(self, context: click.Context) -> Any:
        debug = context.params.pop("debug", False)
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            code, line = _explain(error)
            if debug:
                traceback.print_exc()
        click.echo(f"n2n: {' '.join(line.split())}", err=True)
        return code


def job(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Job]:
    """Decorator: the function becomes a `Job`. What it returns is the exit code (None is 0)."""
    settings.setdefault("context_settings", {"show_default": True})
    return click.command(name, cls=Job, **settings)


def device_options(precisions: str) -> Callable[[Any], Any]:
    """Decorator: where and how to compute; `precisions` are those that the command knows."""
    options = (
        click.option("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX."),
        click.option("--precision", default="fp32", help=f"Of matrix products: {precisions}."),
        click.option(
            "--threads",
            type=int,
            help="CPU threads.  [default: all cores, at most 16, since small batches gain nothing "
            "from more]",
        ),
    )

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def gibibytes(number: float, option: str) -> int:
    """Bytes; click's error for what is not above zero."""
    if not 0 < number <= 2**20:
        raise click.BadParameter(
            f"expected GiB above 0 and at most {2**20}, got {number}", param_hint=option
        )
    return int(number * 2**30)


def print_json(result: Any) -> None:
    """Print a result for programs: one JSON value on standard output."""
    click.echo(json.dumps(result, indent=2, allow_nan=False))


def by_ray_submit() -> bool:
    """Whether the program is what `ray submit` runs: a copy of a command's module in ~."""
    script: str | None = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        return False
    return os.path.realpath(os.path.dirname(script)) == os.path.realpath(os.path.expanduser("~"))


def require_whole(words: Sequence[str]) -> None:
    """UsageError for a path taken apart at its spaces: words that are one only together."""
    for first, word in enumerate(words):
        for end in range(first + 2, min(first + MOST_WORDS, len(words)) + 1):
            path = " ".join(words[first:end])
            if os.path.exists(path) and not os.path.exists(word):
                raise click.UsageError(
                    f"expected {shlex.quote(path)} in one piece, found it in {end - first}"
                )


@contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and a closed terminal stop as Ctrl-C does: at once, with nothing half done."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    path = error.ctx.command_path if error.ctx else "n2n"
    message = error.format_message().rstrip(".")
    remedy = f"; {QUOTE_ONCE_MORE}" if by_ray_submit() else ""
    click.echo(f"n2n: {' '.join(message.split())}; see '{path} --help'{remedy}", err=True)
    return 2


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the message."""
    if isinstance(error, N2NError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 3, "stopped; run the same command again"
    if isinstance(error, OSError):
        return _explain_system(error)
    if is_out_of_memory(error):
        return 3, "out of memory; close other programs or do less at once"
    return (
        3,
        f"a fault of n2n's own ({type(error).__name__}: {error}); please report --debug's text",
    )


def _explain_system(error: OSError) -> tuple[int, str]:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in FULL_DISK:
        return 3, f"the disk is full{where}; make space, then run the same command again"
    if isinstance(error, PermissionError):
        return 2, f"no permission{where}; choose another place or change its permissions"
    if error.errno in NO_PLACE:
        return 2, f"{error.strerror}{where}; choose another place"
    return 3, f"{error.strerror or error}{where}"
