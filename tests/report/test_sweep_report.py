"""The report of a sweep: what it says of trials, against the directory it is made from."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeps import add_trial, begin

from n2n.errors import RunConflict
from n2n.report import Options, kind_of, report
from n2n.report.sweep.account import Account
from n2n.report.sweep.charts import front
from n2n.report.sweep.coordinates import NONE, Axis
from n2n.sweep import SweepDirectory


@pytest.fixture
def sweep(make_set: Callable, tmp_path: Path) -> SweepDirectory:
    return begin(tmp_path / "sweep", make_set())


def text_of(page: Path) -> str:
    """Without its scripts, styles and tags."""
    html = page.read_text()
    html = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_trials_of_all_kinds(sweep: SweepDirectory) -> None:
    for number in range(6):
        add_trial(sweep, number, {"model": "seed", "lr": 0.1 * (number + 1)}, [20.0 + number],
                  "done" if number % 2 else "stopped")  # fmt: skip
    add_trial(sweep, 6, {"model": "unet", "lr": 0.9, "depth": 2}, [], "failed", "the loss is nan")
    add_trial(sweep, 7, {"model": "seed", "lr": 0.8}, [21.0, 22.0])
    before = {path: path.read_bytes() for path in sweep.path.rglob("*") if path.is_file()}
    assert kind_of(sweep.path) == "sweep"
    page = report(sweep.path)
    text = text_of(page)
    assert "of the best, trial 5 25.00 dB" in text
    assert "done 3 stopped by the scheduler 3 failed 1 unfinished 1" in text
    assert "6 the loss is nan" in text
    assert "Trial 7: unfinished, 22.00 dB after 2 of 2 epochs" in text
    assert "n2n train" in text
    assert {path: path.read_bytes() for path in before} == before
    assert set(sweep.path.rglob("*")) - set(before) >= {page}
    live = text_of(report(sweep.path, options=Options(live=True)))
    assert "Trial 7: running" in live
    assert "loads itself anew" in live
    assert "loads itself anew" not in text


def test_a_trial_s_own_report_is_linked(sweep: SweepDirectory) -> None:
    for number in (0, 1):
        add_trial(sweep, number, {"lr": 0.1 + number}, [20.0])
    own = sweep.trial_path(1) / "report" / "index.html"
    own.parent.mkdir()
    own.write_text("")
    page = report(sweep.path)
    links = re.findall(r'<a href="([^"#]*)">Its own report', page.read_text())
    assert [(page.parent / link).resolve() for link in links] == [own.resolve()]


def test_nothing_to_show_is_said(sweep: SweepDirectory) -> None:
    assert "There is none yet: no trial has ended an epoch." in text_of(report(sweep.path))
    add_trial(sweep, 0, {"lr": 0.1}, [], "failed", "out of memory")
    html = report(sweep.path).read_text()
    assert "the first that failed: out of memory" in html
    assert "data-chart" not in html
    add_trial(sweep, 1, {"lr": 0.2}, [20.0, 21.0], "done")
    text = text_of(report(sweep.path))
    assert "of the best, trial 1 21.00 dB" in text
    assert "Importance" not in text  # of one trial


def test_errors_are_shown_as_such_and_the_least_is_best(make_set: Callable, tmp_path: Path) -> None:
    sweep = begin(tmp_path / "sweep", make_set(), metric="loss")
    for number, score in enumerate((20.0, 30.0)):
        add_trial(sweep, number, {"lr": 0.1 + number}, [score], "done")
    assert "of the best, trial 1 0.001000" in text_of(report(sweep.path))


def test_none_is_better_in_less_time(sweep: SweepDirectory) -> None:
    for number, (score, seconds) in enumerate([(20, 3), (22, 5), (21, 6), (25, 9), (25, 12)]):
        add_trial(sweep, number, {"lr": 0.1 * (number + 1)}, [float(score)], seconds=seconds)
    account = Account.of(sweep.path)
    best = [
        trial.number
        for trial in account.trials
        if not any(
            (other.score, -account.seconds(other)) != (trial.score, -account.seconds(trial))
            and other.score >= trial.score
            and account.seconds(other) <= account.seconds(trial)
            for other in account.trials
        )
    ]
    assert sorted(trial.number for trial in front(account)) == best == [0, 1, 3]


def test_bands_hold_each_scored_trial_once(sweep: SweepDirectory) -> None:
    for number in range(11):
        add_trial(sweep, number, {"lr": 0.1 * (number + 1)}, [20.0 + number % 4])
    account = Account.of(sweep.path)
    scores = [[trial.score for trial in trials] for _, trials in account.bands]
    assert len(scores) == 5
    flat = [score for band in scores for score in band]
    assert flat == sorted(flat, reverse=True)
    assert len(flat) == 11


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([1e-4, 1e-2, 1.0], [0, 0.5, 1]),  # by the logarithm
        ([1.0, 2.0, 3.0], [0, 0.5, 1]),
        ([3, 3], [0.5, 0.5]),
        ([True, False], [1, 0]),
        (["b", "a", None], [1, 0, NONE]),
        ([2, "x"], [0, 1]),
    ],
    ids=str,
)
def test_where_values_lie(values: list, places: list[float]) -> None:
    axis = Axis("name", values)
    assert [axis.place(value) for value in values] == pytest.approx(places)
    assert {place for place, _ in axis.ticks()} >= {min(places), max(places)}


def test_lines_lead_to_trials(sweep: SweepDirectory) -> None:
    """Every point of a chart that belongs to a trial names its part of the page."""
    for number in range(4):
        add_trial(sweep, number, {"model": "seed", "lr": 0.1 * (number + 1)}, [20.0, 21.0])
    html = report(sweep.path).read_text()
    found = set()
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        for trace in json.loads(text)["data"]:
            found |= set(trace.get("customdata", ()))
    assert found - {None} == {f"trial-{number}" for number in range(4)}
    assert all(f'id="trial-{number}"' in html for number in range(4))


def test_a_damaged_sweep(sweep: SweepDirectory) -> None:
    sweep.settings_path.write_text("a: [")
    with pytest.raises(RunConflict, match=r"sweep\.yaml: expected YAML"):
        report(sweep.path)
