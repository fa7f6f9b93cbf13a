"""What a sweep shows of its trials: lines, and a table on a terminal."""

import io
import pickle

import pytest
from rich.console import Console

from jobs.display.board import Board, score_text, settings_text
from n2n.sweep import Event, Trial

SETTINGS = {"model": "seed", "lr": 11.43112, "width": 48, "flips": False, "swap": True}
VARYING = ("flips", "lr", "model", "swap", "width")


def board(**settings) -> Board:
    given = {"count": 3, "epochs": 4, "metric": "psnr", "varying": VARYING, **settings}
    return Board("head", **given)


def epoch(number: int, psnr: float, loss: float = 0.01) -> dict:
    return {"epoch": number, "val": {"psnr": psnr, "loss": loss, "estimated_psnr": None}}


NEWS = [
    Event("begun", 0, settings=SETTINGS),
    Event("progress", 0, progress=0.25),
    Event("epoch", 0, line=epoch(1, 21.456)),
    Event("begun", 1, settings={"model": "unet", "lr": 0.001}),
    Event("epoch", 0, line=epoch(2, 20.0)),
    Event("note", reason="the set is read by shard"),
    Event("lost", 1, reason="its process died"),
    Event("failed", 1, reason="[red] the loss is nan"),
    Event("stopped", 0),
]


def test_lines(capsys: pytest.CaptureFixture) -> None:
    with board() as shown:
        for event in NEWS:
            shown.hear(event)
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == [
        "head",
        "trial 0  seed  width 48  lr 11.4  no flips  swap",
        "trial 0  epoch 1/4  PSNR 21.46 dB",
        "trial 1  unet  lr 0.001",
        "trial 0  epoch 2/4  PSNR 20.00 dB",
        "the set is read by shard",
        "trial 1  lost: its process died",
        "trial 1  failed: [red] the loss is nan",
        "trial 0  stopped after epoch 2 with PSNR 21.46 dB",
    ]


def test_nothing_is_said_before_the_first_news(capsys: pytest.CaptureFixture) -> None:
    with board():
        pass
    assert capsys.readouterr().err == ""


def table(height: int = 30, width: int = 100, news: list[Event] = NEWS, **settings) -> str:
    """What a terminal shows at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    with board(console=console, **settings) as shown:
        for event in news:
            shown.hear(event)
        console.file.truncate(0)
    return console.export_text() if console.record else console.file.getvalue()


def test_a_table_on_a_terminal(capsys: pytest.CaptureFixture) -> None:
    text = table()
    for part in ("seed  width 48  lr 11.4", "2/4", "21.46", "stopped", "[red] the loss is nan"):
        assert part in text
    assert "2 of 3 trials ended, best: trial 0, PSNR 21.46 dB" in text
    assert "the set is read by shard" in text
    assert capsys.readouterr().err == "head\n"  # and no lines


def test_how_far_an_epoch_is() -> None:
    assert "0/4 +25%" in table(news=NEWS[:2])
    assert "1 running" in table(news=NEWS[:2])


def test_more_trials_than_the_terminal_has_lines_for() -> None:
    """Those at work, then the best."""
    news = []
    for number in range(40):
        news.append(Event("begun", number, settings=SETTINGS))
        news.append(Event("epoch", number, line=epoch(1, 20 + number / 100)))
        if number != 3:
            news.append(Event("done", number))
    text = table(height=15, news=news, count=40)
    shown = [line for line in text.splitlines() if "seed" in line]
    assert len(shown) == 9
    assert "20.03" in shown[0]
    assert ["20.39" in shown[1], "20.32" in shown[8]] == [True, True]
    assert "31 more trials, not shown" in text


def test_a_narrow_terminal() -> None:
    """A line for each trial: what is too long is cut off."""
    text = table(width=50, news=[NEWS[0], NEWS[2]])
    (line,) = [line for line in text.splitlines() if "seed" in line]
    assert "…" in line
    assert "1/4" in line
    assert "21.46" in line
    assert "no flips" not in text


def test_trials_that_are_there_already() -> None:
    trials = [
        Trial(0, "done", SETTINGS, lines=[epoch(1, 25.0)], score=25.0, best_epoch=1),
        Trial(1, "begun", SETTINGS, lines=[epoch(1, 22.0)], score=22.0, best_epoch=1),
    ]
    text = table(trials=trials, news=[Event("note", reason="hello")])
    assert "25.00" in text
    assert "waiting" in text
    assert "1 of 3 trials ended" in text


def test_words() -> None:
    assert settings_text(SETTINGS) == "seed  width 48  lr 11.4  no flips  swap"
    assert settings_text(SETTINGS, ["lr", "depth"]) == "lr 11.4"
    assert score_text(25.0, "estimated-psnr") == "estimated PSNR 25.00 dB"
    assert score_text(-0.0125, "loss") == "loss 0.012500"


def test_it_can_be_pickled_as_nothing() -> None:
    """Ray Tune does so with whoever listens."""
    with board(console=Console(file=io.StringIO(), force_terminal=True)) as shown:
        shown.hear(NEWS[0])
        assert vars(pickle.loads(pickle.dumps(shown))) == {}
