"""The report and the event files beside the work: how often, and what goes wrong with them."""

from pathlib import Path
from typing import Any

import pytest

import n2n.report
from jobs.display import onlookers
from jobs.display.onlookers import SHARE, Onlookers
from n2n.errors import Interrupted


class Clock:
    """Seconds that only pass when a report is made."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Clock, list[tuple[float, bool, bool]]]:
    """When reports are made, and whether live and quick; each takes 3 seconds."""
    clock, calls = Clock(), []

    def report(path: Path, *, options: n2n.report.Options) -> Path:
        calls.append((clock.now, options.live, options.quick))
        clock.now += 3
        return path

    monkeypatch.setattr(onlookers, "time", clock)
    monkeypatch.setattr(n2n.report, "report", report)
    return clock, calls


def test_the_report_takes_a_small_part_of_the_time(
    tmp_path: Path, made: tuple[Clock, list[tuple[float, bool, bool]]]
) -> None:
    clock, calls = made
    with Onlookers(tmp_path, None, print) as watching:
        for _ in range(2000):
            clock.now += 1
            watching.hear({})
    *live, last = calls
    assert len(live) > 5
    assert all(call[1:] == (True, True) for call in live)
    assert 3 * len(live) <= SHARE * clock.now + 3  # the first one at once
    assert last[1:] == (False, False)


def test_a_stopped_work_gets_what_is_quickly_done(
    tmp_path: Path, made: tuple[Clock, list[tuple[float, bool, bool]]]
) -> None:
    with pytest.raises(Interrupted), Onlookers(tmp_path, None, print):
        raise Interrupted("stopped")
    assert [call[1:] for call in made[1]] == [(False, True)]


def test_progress_alone_is_worth_no_page(
    tmp_path: Path, made: tuple[Clock, list[tuple[float, bool, bool]]]
) -> None:
    with Onlookers(tmp_path, None, print) as watching:
        watching.hear({}, worth_a_page=False)
        assert made[1] == []


def test_faults_are_said_once_and_end_nothing(tmp_path: Path) -> None:
    """No report of a folder that holds none of its kinds, no event file on a full disk."""
    said: list[str] = []

    class Full:
        def hear(self, news: Any) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with Onlookers(tmp_path, Full, said.append) as watching:
        for _ in range(3):
            watching.hear({"epoch": 1})
    assert len(said) == 2
    assert "warning: no event files (OSError: [Errno 28] No space left on device)" in said[0]
    assert "warning: no report (InvalidValue: " in said[1]
    assert all(line.endswith("the work goes on") and "\n" not in line for line in said)
