"""A run that is followed: what is passed on, what Ctrl-C asks, how it ends. Without a cluster."""

from types import SimpleNamespace
from typing import Any

import click
import pytest

from jobs.remote import attending
from jobs.remote.attending import Detached, attend, ending
from jobs.remote.logs import Output, OutputGone
from jobs.remote.tunnel import Unreachable

HEAD = "Running entrypoint for job run: python -m jobs.cli data check 'a\nb'\n"


def job(status: str = "RUNNING", code: int | None = None, message: str = "") -> Any:
    return SimpleNamespace(
        submission_id="run",
        entrypoint="python -m jobs.cli data check 'a\nb'",
        status=SimpleNamespace(value=status),
        driver_exit_code=code,
        message=message,
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("before", ["", "Runtime env is setting up.\n"])
def test_what_ray_writes_first_is_left_out(size: int, before: str) -> None:
    passed: list[str] = []
    output = Output(job(), passed.append)
    log = f"{before}{HEAD}one\ntwo\n"
    for begin in range(0, len(log), size):
        output.take(log[begin : begin + size])
    output.close()
    assert "".join(passed) == "one\ntwo\n"
    assert output.seen == len(log)


def test_a_program_that_never_began_shows_why() -> None:
    passed: list[str] = []
    output = Output(job(), passed.append)
    output.take("no environment\n")
    assert passed == []
    output.close()
    assert passed == ["no environment\n"]


@pytest.mark.parametrize(
    ("tail", "found"), [(0, ""), (1, "two\n"), (2, "one\ntwo\n"), (9, "one\ntwo\n")]
)
def test_the_last_lines(tail: int, found: str) -> None:
    passed: list[str] = []
    output = Output(job(), passed.append)
    output.skip(f"{HEAD}one\ntwo\n", tail)
    output.take("three\n")
    assert "".join(passed) == f"{found}three\n"


def test_a_reader_that_is_gone_is_not_a_broken_connection() -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError

    output = Output(job(), gone)
    with pytest.raises(OutputGone):
        output.take(f"{HEAD}one\n")


@pytest.mark.parametrize(
    ("found", "code", "part"),
    [
        (job("SUCCEEDED", 0), 0, ""),
        (job("STOPPED"), 3, "the run r was stopped; the same command resumes it"),
        (job("FAILED", 1), 1, "done but for what is named above"),
        (job("FAILED", 2), 2, "could not begin, for the reason above"),
        (job("FAILED", 3), 3, "failed; the same command resumes it"),
        (job("FAILED", 127), 3, "no `python` on the node"),
        (job("FAILED", -9), 3, "its process ended with exit code -9"),
        (job("FAILED", None, "Traceback\nRuntimeError: the node died.\n"), 3, "the node died;"),
        (job("FAILED", None), 3, "Ray gives no reason"),
        (job("FAILED", None, "OSError: [Errno 28] No space left on device\nx"), 3, "disk"),
    ],
)
def test_exit_codes(found: Any, code: int, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending("r", found) == code
    said = capsys.readouterr().err
    assert said.count("\n") == (1 if part else 0)
    assert part in said


class Following:
    """Stands for `follow`: raises one thing after the other, then the job is over."""

    def __init__(self, *raised: BaseException) -> None:
        self.raised = list(raised)

    def __call__(self, *arguments: object) -> Any:
        if self.raised:
            raise self.raised.pop(0)
        return job("STOPPED")


@pytest.fixture
def connection() -> Any:
    stopped: list[str] = []
    client = SimpleNamespace(stop_job=stopped.append, stopped=stopped)
    return SimpleNamespace(client=client, head=SimpleNamespace(options="--address here"))


@pytest.mark.parametrize(
    ("answers", "stopped"),
    [(["stop"], ["run"]), (["go-on", "stop"], ["run"]), (["go-on"], []), (["detach"], None)],
)
def test_ctrl_c_on_a_terminal_asks(
    connection: Any, monkeypatch: pytest.MonkeyPatch, answers: list[str], stopped: list[str] | None
) -> None:
    asked = iter(answers)
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(attending.sys, "stdin", terminal)
    monkeypatch.setattr(attending.sys, "stderr", terminal)
    monkeypatch.setattr(attending.click, "prompt", lambda *a, **k: next(asked))
    monkeypatch.setattr(attending, "follow", Following(*(KeyboardInterrupt() for _ in answers)))
    if stopped is None:
        with pytest.raises(Detached, match="n2n jobs logs r --follow --address here"):
            attend(connection, "r", job())
    else:
        assert attend(connection, "r", job()).status.value == "STOPPED"
        assert connection.client.stopped == stopped


@pytest.mark.parametrize(
    ("raised", "part"),
    [
        (KeyboardInterrupt(), "detached; the run r goes on"),
        (Unreachable("head: gone"), "head: gone; the run r goes on if its cluster does"),
        (OutputGone("standard output was closed"), "standard output was closed; pick it up"),
    ],
)
def test_elsewhere_the_run_goes_on(
    connection: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, part: str
) -> None:
    monkeypatch.setattr(attending, "follow", Following(raised))
    monkeypatch.setattr(attending.click, "prompt", click.Abort)
    with pytest.raises(Detached, match=part) as detached:
        attend(connection, "r", job())
    assert detached.value.exit_code == 3
    assert connection.client.stopped == []
