"""`n2n submit` and `n2n jobs` on a real Ray head with a token, by ssh and by address."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from heads import Head, Sshd
from PIL import Image

from n2n import Model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ODD = """a b'c"d $HOME *\n{"x": [1, 2]} ;`date` \\ ü"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Model("n2n", width=4).save(path)
    return path


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


def test_arguments_arrive_unchanged_and_a_run_runs_once(
    head: Head, sshd: Sshd, model: Path, tmp_path: Path
) -> None:
    source, output = images(tmp_path / ODD), tmp_path / f"out {ODD}"
    command = ["denoise", str(source), str(output), f"--model={model}", "--exclude", ODD]
    file = sshd.cluster(tmp_path, head.port)
    submit = ["submit", "--cluster", str(file), "--id", "odd", "--", *command]
    first = head.n2n(*submit, RAY_ADDRESS="http://127.0.0.1:9")
    assert first.returncode == 0, first.stderr
    assert "1 done" in first.stdout
    assert (output / "image.png").is_file()
    words = [*command[:3], "--model", str(model), *command[4:]]
    sent = ["-m", "jobs.cli", "denoise", "--address", "auto", *words[1:]]
    assert head.arrived().count(sent) == 1

    again = head.n2n(*submit)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "is complete" in again.stderr
    assert head.arrived().count(sent) == 1

    other = head.n2n(*submit, "--strength", "0.5")
    assert other.returncode == 2
    assert "of no other command expected" in other.stderr

    status = head.n2n("jobs", "status", "odd", "--json", "--address", head.address)
    assert json.loads(status.stdout)["jobs"] == ["odd"]
    assert json.loads(status.stdout)["exit_code"] == 0
    for said in (first, again, other, status):
        assert head.token not in said.stdout + said.stderr


def test_a_run_that_ended_badly_is_resumed(head: Head, tmp_path: Path) -> None:
    """It reads a set that is not there, which is there the next time."""
    submit = ["submit", "--address", head.address, "--id", "bad"]
    command = ["--", "data", "check", str(tmp_path / "set")]
    for count in (1, 2):
        done = head.n2n(*submit, *command)
        assert done.returncode == 2, done.stderr
        assert "expected the folder of a pair set" in done.stdout
        assert "the run bad could not begin" in done.stderr
        status = json.loads(
            head.n2n("jobs", "status", "--json", "--address", head.address, "bad").stdout
        )
        assert status["jobs"] == ["bad", "bad~2"][:count]


def test_a_run_by_many_at_once_followed_cut_off_left_alone_and_stopped(
    head: Head, sshd: Sshd, tmp_path: Path
) -> None:
    """Two submit the same at the same time; one loses its connection, then is interrupted."""
    file = sshd.cluster(tmp_path, head.port)
    train = ["train", str(small_set(tmp_path)), "--run", str(tmp_path / "run")]
    train += ["--epochs", "1000000", "--set", "width=4", "--threads", "1"]
    submit = ["submit", "--cluster", str(file), "--id", "many", "--", *train]
    two = [start(head, submit) for _ in range(2)]
    try:
        for process in two:
            read_until(process, "epoch 2/")
        first, second = two
        shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True)
        assert f"ProxyCommand=nc 127.0.0.1 {sshd.port}" in shown.stdout
        assert head.token not in shown.stdout
        ssh = subprocess.run(
            ["pgrep", "-P", str(first.pid), "ssh"], capture_output=True, text=True, check=True
        )
        os.kill(int(ssh.stdout), signal.SIGKILL)
        seen = int(read_until(first, "epoch")[1])
        assert int(read_until(first, "epoch")[1]) == seen + 1  # nothing twice, nothing missing

        first.send_signal(signal.SIGINT)
        rest = first.communicate(timeout=120)[0]
        assert first.returncode == 3
        assert "detached; the run many goes on; pick it up: n2n jobs logs many --follow" in rest

        stopped = head.n2n("jobs", "stop", "many", "--address", head.address)
        assert (stopped.returncode, stopped.stderr) == (0, "the run many is over: stopped\n")
        rest = second.communicate(timeout=120)[0]
        assert second.returncode == 3
        assert "the run many was stopped; the same command resumes it" in rest
    finally:
        for process in two:
            process.kill()
            process.communicate()
    arrived = [words for words in head.arrived() if words[2:3] == ["train"]]
    assert len(arrived) == 1
    listed = head.n2n("jobs", "list", "--cluster", str(file)).stdout
    assert re.search(r"^many  stopped  .*  train ", listed, re.MULTILINE)


def small_set(folder: Path) -> Path:
    """64 pairs of 8x8."""
    from n2n.data import Recipe, build_set, parse_noise

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    (folder / "photos").mkdir()
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"photos/{number}.png")
    recipe = Recipe(size=8, pairs=64, val_pairs=4)
    build_set(folder / "photos", folder / "set", parse_noise("gaussian:25"), recipe, workers=1)
    return folder / "set"


def start(head: Head, arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        env=head.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> re.Match[str]:
    """The first line with a text, and the first number in it."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if text in line:
            found = re.search(r"(\d+)", line)
            assert found, line
            return found
    raise AssertionError(f"it ended without {text!r}")


def test_the_token_is_in_no_file_of_ray(head: Head) -> None:
    found = subprocess.run(
        ["grep", "-rlF", "--devices=skip", head.token, head.folder / "ray"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
    answer = head.n2n("jobs", "list", "--json", "--address", head.address)
    assert json.loads(answer.stdout)
    assert head.token not in answer.stdout
