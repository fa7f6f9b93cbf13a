"""`n2n submit` and `n2n jobs` on a real Ray head with a token, by ssh and by address."""

import json
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
