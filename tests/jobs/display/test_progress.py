"""One display of progress for all commands: a bar on a terminal, lines elsewhere."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from jobs.display import progress
from jobs.display.progress import Progress, clock


def lines(capsys: pytest.CaptureFixture[str], display: Progress, steps: int = 3) -> list[str]:
    for done in range(steps + 1):
        display("reading", done, steps)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, Progress()) == ["reading: 3 of 3"]
    starts = ["reading (1 of 3)", "reading (2 of 3)", "reading (3 of 3)"]
    assert lines(capsys, Progress(lines="start")) == starts
    assert lines(capsys, Progress(lines="none")) == []
    assert lines(capsys, Progress(lines="timed")) == []


def test_lines_come_as_time_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    display = Progress(lines="timed")
    for second in range(0, 36, 6):
        now[0] = float(second)
        display(f"at {second}", 0, 1)
    assert capsys.readouterr().err.splitlines() == ["at 12", "at 24"]


SCRIPT = """
from jobs.display.progress import Progress
with Progress(unit="img") as display:
    display("first", 1, 2)
    display.say("a line")
    display("first", 2, 2)
    display.say("between")
    display("second", 7, 10, since=5)
"""


def test_on_a_terminal() -> None:
    """A bar for each stage, lines above it, and nothing of it left at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "first:  50%" in text
    assert "second:  70%" in text
    assert "a line\r\n" in text
    assert text.index("a line") < text.index("between") < text.index("second")
    left = [line.rpartition("\r")[2].strip() for line in text.split("\r\n")]
    assert [line for line in left if line] == ["a line", "between"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (3725.9, "01:02:05"), (1e6, "over a day")]
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text
