"""`n2n train`: exit codes and messages; stopped, killed and on a full disk, as a real process."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from jobs.display.epochs import epoch_line
from jobs.train import main, parse_setting
from n2n import device, models
from n2n.checkpoint import load_model, read_tensors
from n2n.config import PRESETS, TrainConfig

# Some hundred small steps: long enough to be met in the middle.
OPTIONS = [
    *("--model", "seed", "--set", "width=4", "--epochs", "3", "--batch-size", "6"),
    *(
        "--threads",
        "1",
        "--optimizer",
        "adamw",
        "--lr",
        "0.01",
        "--schedule",
        "cosine",
        "--flips",
        "--turns",
    ),
    "--swap",
]
SGD = ["--optimizer", "sgd", "--schedule", "constant", "--threads", "1"]
STEPS = 50  # an epoch
LAST = Path("run/checkpoints/last.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Work in an empty folder, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def train(run_folder: str = "run", *options: str) -> Result:
    return run("set", "--run", run_folder, *OPTIONS, *options)


def start(*options: str, run_folder: str = "run") -> subprocess.Popen[str]:
    """The command as a process of its own; an in-epoch checkpoint after every batch."""
    command = [sys.executable, "-m", "jobs.train", "set", "--run", run_folder, *OPTIONS]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    return subprocess.Popen(
        [*command, "--checkpoint-seconds", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def steps_done() -> int:
    """What the checkpoint says; any file that is there is a whole one, also while it is written."""
    if not LAST.exists():
        return 0
    position = read_tensors(LAST)[1]["position"]
    return STEPS * position["epoch"] + position["batch"]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def result_of(path: str) -> dict[str, Any]:
    """All of a run that must not depend on where it was stopped."""
    files = ["model.safetensors", "checkpoints/last.safetensors", "checkpoints/best.safetensors"]
    tensors = {
        file: {name: value.numpy().tobytes() for name, value in load_file(Path(path, file)).items()}
        for file in files
    }
    lines = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
    metrics = [
        {k: v for k, v in line.items() if "seconds" not in k and "second" not in k}
        for line in lines
    ]
    return {**tensors, "metrics": metrics}


def assert_refused(result: Result, *parts: str, place: str = "run") -> None:
    """Exit code 2, one line, and nothing at --run."""
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line
    assert not Path(place).exists()


# ---- a run from the command line -----------------------------------------------------------------


def test_a_run(make_set) -> None:
    make_set(rows=90)
    options = ["--preset", "published", "--epochs", "2", "--set", "width=4", "--threads", "1"]
    result = run("set", "--run", "run", *options)
    assert result.exit_code == 0
    first, *epochs = result.stderr.splitlines()
    assert first == (
        "training seed (519 parameters) on 90 pairs, cpu, fp32, 1 threads, from epoch 1, batch 1"
    )
    pattern = (
        r"epoch {}/2  loss 0\.\d{{6}}  PSNR \d+\.\d\d dB  SSIM -?0\.\d{{4}}  "
        r"pooled: PSNR \d+\.\d\d dB  estimated \d+\.\d\d dB  \d+ img/s  00:00:\d\d left"
    )
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(pattern.format(number), line)
    assert len(epochs) == 2
    assert re.fullmatch(r"2 epochs done; best: epoch [12], run/model\.safetensors\n", result.stdout)
    network, metadata = load_model("run/model.safetensors")
    assert network.config == {"channels": 3, "width": 4}
    training = metadata["training"]
    assert (training["optimizer"], training["lr"], training["loss"]) == ("sgd", 5.0, "mse")
    assert (training["batch_size"], training["schedule"]) == (100, "constant")


def test_options_reach_the_run(make_set) -> None:
    make_set()
    result = run(
        *("set", "--run", "run", "--model", "unet", "--set", "width=2", "--set", "depth=1"),
        *("--epochs", "1", "--batch-size", "45", "--optimizer", "sgd", "--lr", "0.1"),
        *("--momentum", "0.5", "--weight-decay", "0.001", "--schedule", "step"),
        *(
            "--decay-epochs",
            "3",
            "--decay",
            "0.5",
            "--ema",
            "0.9",
            "--clip",
            "2",
            "--patience",
            "4",
        ),
        *("--loss", "l1", "--flips", "--no-turns", "--no-swap"),
        *("--seed", "7", "--threads", "1", "--memory", "0.5", "--checkpoint-seconds", "5"),
    )
    assert result.exit_code == 0
    training = load_model("run/model.safetensors")[1]["training"]
    expected = {
        "preset": "standard",
        "model": "unet",
        "model_config": {"width": 2, "depth": 1},
        "epochs": 1,
        "batch_size": 45,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.001,
        "schedule": "step",
        "decay_epochs": 3,
        "decay": 0.5,
        "ema": 0.9,
        "clip": 2.0,
        "patience": 4,
        "loss": "l1",
        "flips": True,
        "turns": False,
        "swap": False,
        "seed": 7,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "memory_limit": 1 << 29,
        "checkpoint_seconds": 5.0,
    }
    assert {name: training[name] for name in expected} == expected


def test_json(make_set) -> None:
    make_set()
    result = train("run", "--json")
    assert result.exit_code == 0
    last = Path("run/metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(result.stdout) == json.loads(last)
    assert "3 epochs done; best: epoch" in result.stderr


def test_a_complete_run_says_so(make_set) -> None:
    make_set()
    assert train().exit_code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    result = train()
    assert result.exit_code == 0
    assert re.fullmatch(r"3 epochs done; best: epoch [123], .*\n", result.stdout)
    (line,) = result.stderr.splitlines()
    assert line.startswith("the run is complete: 3 epochs done; ")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_another_configuration(make_set) -> None:
    make_set()
    make_set("other", seed=3)
    assert train().exit_code == 0
    for result, part in (
        (train("run", "--lr", "0.02"), "lr 0.01, asked for 0.02"),
        (train("run", "--epochs", "4"), "epochs 3, asked for 4"),
        (run("other", "--run", "run", *OPTIONS), "belongs to the pair set set, asked"),
    ):
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("n2n: run: ")
        assert part in line


def test_diverged(make_set) -> None:
    make_set()
    result = run("set", "--run", "run", "--model", "unet", "--lr", "1e38", *SGD)
    assert result.exit_code == 3
    line = result.stderr.splitlines()[-1]
    assert re.match(r"n2n: (.* not finite|the (validation )?loss is (nan|inf)) ", line)
    assert "in epoch 1, batch " in line
    assert "lower --lr" in line


# ---- presets -------------------------------------------------------------------------------------

SHORT = ["--set", "width=2", "--epochs", "1", "--threads", "1"]


def settings_of(path: str = "run") -> dict[str, Any]:
    return yaml.safe_load(Path(path, "config.yaml").read_text())


@pytest.mark.parametrize(
    ("options", "preset", "model"),
    [
        ([], "standard", TrainConfig().model),
        (["--preset", "fast"], "fast", TrainConfig().model),
        (["--preset", "published"], "published", "seed"),
        (["--model", "seed"], "published", "seed"),
        (["--model", "unet"], "standard", "unet"),
        (["--preset", "fast", "--model", "seed"], "fast", "seed"),
        (["--preset", "published", "--model", "unet", "--lr", "0.1"], "published", "unet"),
    ],
    ids=" ".join,
)
def test_preset_and_model(make_set, options: list[str], preset: str, model: str) -> None:
    make_set()
    result = run("set", "--run", "run", *options, *SHORT)
    assert result.exit_code == 0, result.stderr
    found = settings_of()
    assert (found["preset"], found["model"]) == (preset, model)
    assert (found["optimizer"], found["flips"], found["swap"]) == (
        ("sgd", False, False) if preset == "published" else ("muon", True, True)
    )
    assert found["precision"] == "fp32"
    assert "switched off" not in result.stderr
    assert run("set", "--run", "run", *options, *SHORT).exit_code == 0  # the same again


def test_an_option_replaces_the_presets_value(make_set) -> None:
    make_set()
    options = ["--no-flips", "--lr", "0.5", "--batch-size", "30", "--seed", "3"]
    assert run("set", "--run", "run", *options, *SHORT).exit_code == 0
    config = TrainConfig()
    found = settings_of()
    assert (found["flips"], found["lr"], found["batch_size"], found["seed"]) == (False, 0.5, 30, 3)
    assert (found["swap"], found["schedule"]) == (True, "cosine")
    assert (found["warmup"], found["weight_decay"]) == (config.warmup, config.weight_decay)


def test_what_the_set_does_not_allow_is_left_out_of_the_preset(make_set) -> None:
    make_set(target="clean")
    result = run("set", "--run", "run", *SHORT)
    assert result.exit_code == 0
    first = result.stderr.splitlines()[0]
    assert first == "swap is switched off: it needs two noisy views, the set's target is clean"
    assert settings_of()["swap"] is False
    assert_refused(run("set", "--run", "new", "--swap", *SHORT), "switch swap off", place="new")


def test_a_run_keeps_its_preset(make_set) -> None:
    """A run that has begun goes on without the option; another preset is refused."""
    make_set()
    assert run("set", "--run", "run", "--preset", "published", *SHORT).exit_code == 0
    result = run("set", "--run", "run", *SHORT)
    assert result.exit_code == 0
    assert "the run is complete: 1 epochs done" in result.stderr
    result = run("set", "--run", "run", "--preset", "fast", *SHORT)
    assert result.exit_code == 2
    assert "holds a run with model seed, asked for" in result.stderr


def test_a_run_goes_on_as_it_was_when_presets_have_changed(make_set, monkeypatch) -> None:
    """All of its settings are its own; an option that differs is refused as before."""
    make_set()
    options = ["--set", "width=2", "--set", "hidden=2", "--set", "blocks=1", "--threads", "1"]
    whole = run("set", "--run", "run", *options, "--epochs", "2", "--preset", "fast")
    assert whole.exit_code == 0, whole.stderr
    before = settings_of()
    changed = {"epochs": 9, "lr": 0.5, "turns": False, "ema": 0.0, "model_config": {"levels": 2}}
    monkeypatch.setitem(PRESETS, "fast", changed)
    for again in ([], ["--preset", "fast"], options):
        result = run("set", "--run", "run", *again, "--threads", "1")
        assert result.exit_code == 0, result.stderr
        assert "the run is complete: 2 epochs done" in result.stderr
        assert settings_of() == before
    result = run("set", "--run", "run", "--lr", "0.5", "--threads", "1")
    assert result.exit_code == 2
    assert "lr 0.004, asked for 0.5" in result.stderr


def test_a_run_of_an_earlier_version_goes_on(make_set) -> None:
    """Its config.yaml knows neither preset nor precision; its defaults were the published ones."""
    make_set()
    options = ["--set", "width=2", "--batch-size", "20", "--threads", "1"]
    begun = run("set", "--run", "run", "--preset", "published", "--epochs", "1", *options)
    assert begun.exit_code == 0
    config = settings_of()
    for name in ("preset", "precision", "ema", "clip", "patience", "start"):
        del config[name]
    Path("run/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    result = run("set", "--run", "run", "--epochs", "2", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("resuming seed ")
    added = {"preset": "published", "precision": "fp32", "start": ""}
    added |= {"ema": 0.0, "clip": 0.0, "patience": 0}
    assert settings_of() == {**config, "epochs": 2, **added}
    whole = run("set", "--run", "whole", "--preset", "published", "--epochs", "2", *options)
    assert whole.exit_code == 0
    assert result_of("run") == result_of("whole")


def test_fine_tuning_from_a_model_file(make_set) -> None:
    """The file gives the architecture; the run goes on without it, and ends as a whole one."""
    make_set()
    options = ["--lr", "0.01", "--optimizer", "sgd", "--batch-size", "20", "--threads", "1"]
    options += ["--schedule", "constant"]
    begun = run("set", "--run", "first", "--model", "seed", "--set", "width=2", *SHORT)
    assert begun.exit_code == 0, begun.stderr
    model = "first/model.safetensors"
    refused = run("set", "--run", "run", "--from", model, "--model", "unet", *SHORT)
    assert refused.exit_code == 2
    assert "holds a model with model seed, asked for unet" in refused.stderr
    assert not Path("run").exists()
    for name, parts in (("whole", (2,)), ("run", (1, 2))):
        for epochs in parts:
            given = ["--from", model] if epochs == parts[0] else []
            result = run("set", "--run", name, "--epochs", str(epochs), *given, *options)
            assert result.exit_code == 0, result.stderr
            assert "seed (" in result.stderr
    assert settings_of()["model_config"] == {"channels": 3, "width": 2}
    assert settings_of()["start"] == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    assert result_of("run") == result_of("whole")


def draw_photographs() -> None:
    Path("photographs").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(f"photographs/{seed}.png")


def test_pairs_drawn_from_photographs(make_set) -> None:
    """Stopped after an epoch and resumed, from a folder of another name: as uninterrupted."""
    make_set()
    draw_photographs()
    options = ["--preset", "published", "--set", "width=2", "--threads", "1", "--images", "45"]
    whole = run("set", "--run", "whole", "--stream-from", "photographs", "--epochs", "2", *options)
    assert whole.exit_code == 0, whole.stderr
    assert "45 pairs an epoch from 3 photographs; left out: 0 that validation has" in whole.stderr
    assert "on 45 pairs" in whole.stderr
    begun = run("set", "--run", "run", "--stream-from", "photographs", "--epochs", "1", *options)
    assert begun.exit_code == 0
    Path("photographs").rename("moved")
    lost = run("set", "--run", "run", "--stream-from", "photographs", "--epochs", "2", *options)
    assert lost.exit_code == 2
    assert "photographs: expected a folder of photographs; there is nothing" in lost.stderr
    result = run("set", "--run", "run", "--stream-from", "moved", "--epochs", "2", *options)
    assert result.exit_code == 0, result.stderr
    assert result_of("run") == result_of("whole")
    other = run("set", "--run", "run", "--stream-from", "moved", *options[:-1], "46")
    assert other.exit_code == 2
    assert "pair set set with pairs drawn from moved, asked to train on set with" in other.stderr


@pytest.mark.parametrize(
    "option",
    [
        ["--images", "0"],
        ["--clip-noise"],
        ["--grey-share", "0.5"],
        ["--clip-inputs", "0.5"],
        ["--exposures", "2"],
    ],
)
def test_options_of_a_stream_ask_for_one(make_set, option: list[str]) -> None:
    make_set()
    result = run("set", "--run", "run", *option, *SHORT)
    assert result.exit_code == 2
    assert "name a folder, or leave them out" in result.stderr


@pytest.mark.parametrize(
    ("option", "name", "value", "reason"),
    [
        ("--clip-inputs", "clipped_inputs", 0.5, "only inputs are clipped"),
        ("--exposures", "exposures", 3, "targets are means"),
    ],
)
def test_views_that_are_not_alike_are_not_swapped(
    make_set, option: str, name: str, value: float, reason: str
) -> None:
    """The preset's swap is left out, and said; asked for, it is refused."""
    make_set()
    draw_photographs()
    options = ["--stream-from", "photographs", option, str(value), "--epochs", "1"]
    options += ["--set", "width=2", "--set", "hidden=2", "--set", "blocks=1", "--threads", "1"]
    swapped = run("set", "--run", "swapped", *options, "--swap")
    assert swapped.exit_code == 2
    assert f"swap needs two views alike, but {reason}" in swapped.stderr
    assert not Path("swapped").exists()
    result = run("set", "--run", "run", *options)
    assert result.exit_code == 0, result.stderr
    assert f"swap is switched off: it needs two views alike, but {reason}" in result.stderr
    record = json.loads(Path("run/provenance.jsonl").read_text().splitlines()[0])
    assert record["set"]["stream"][name] == value


def test_an_early_end_is_said(make_set) -> None:
    """At a rate of 0 no epoch is better than the first."""
    make_set()
    options = ["--epochs", "9", "--patience", "2", "--lr", "0", "--set", "width=2"]
    options += ["--preset", "published", "--threads", "1"]
    result = run("set", "--run", "run", *options)
    assert result.exit_code == 0, result.stderr
    assert "3 epochs done; best: epoch 1" in result.stdout
    again = run("set", "--run", "run", *options)
    assert "none was better since epoch 1; more --patience trains on" in again.stderr


def test_help_names_the_presets_and_models() -> None:
    text = " ".join(run("--help").stdout.split())
    for name in (*PRESETS, *models.architectures()):
        assert name in text


# ---- precision -----------------------------------------------------------------------------------


def test_bf16(make_set, monkeypatch) -> None:
    make_set()
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    result = train("run", "--precision", "bf16")
    assert result.exit_code == 0
    assert "cpu, bf16, 1 threads" in result.stderr
    assert settings_of()["precision"] == "bf16"
    assert all(
        value.dtype == torch.float32 for value in load_file("run/model.safetensors").values()
    )
    result = train("run", "--precision", "fp32")
    assert result.exit_code == 2
    assert "holds a run with precision bf16, asked for fp32" in result.stderr


def test_no_fast_bf16(make_set, monkeypatch) -> None:
    make_set()
    monkeypatch.setattr(device, "cpu_features", frozenset)
    assert_refused(train("run", "--precision", "bf16"), "needs a processor with fast bf16")


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--lr", "nan"], "lr must be a finite number, not negative, got nan"),
        (["--lr", "-1"], "lr"),
        (["--lr", "fast"], "'--lr': 'fast' is not a valid float"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--epochs", "1.5"], "'--epochs'"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--batch-size", "-5"], "batch_size must be at least 1, got -5"),
        (["--model", "resnet"], "seed, unet"),
        (["--optimizer", "lion"], "sgd, adam, adamw, muon, got 'lion'"),
        (["--schedule", "linear"], "constant, step, cosine, got 'linear'"),
        (["--loss", "huber"], "mse, l1, l0, relative-mse, log-mse, got 'huber'"),
        (["--set", "width"], "expected NAME=INTEGER such as width=64, got 'width'"),
        (["--set", "width="], "got 'width='"),
        (["--set", "width=x"], "got 'width=x'"),
        (["--set", "width=²"], "got 'width=²'"),
        (["--set", "width=1.5"], "got 'width=1.5'"),
        (["--model", "seed", "--set", "=4"], "channels, width, got ''"),
        (["--set", "width=0"], "width must be at least 1, got 0"),
        (["--set", "width=-4"], "width must be at least 1, got -4"),
        (["--model", "seed", "--set", "depth=2"], "channels, width, got 'depth'"),
        (["--set", "channels=1"], "3 channels, got channels=1"),
        (["--seed", "-1"], "seed must be from 0 to 2^64 - 1, got -1"),
        (["--seed", str(1 << 64)], "seed must be from 0 to 2^64 - 1"),
        (["--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["--memory", "0"], "--memory"),
        (["--memory", "nan"], "--memory"),
        (["--memory", "inf"], "--memory"),
        (["--checkpoint-seconds", "nan"], "checkpoint_seconds must be"),
        (["--decay", "0"], "decay must be above 0"),
        (["--preset", "fast", "--warmup", "5"], "warmup must be below epochs (5)"),
        (["--preset", "slow"], "preset must be one of standard, fast, published, best, got 'slow'"),
        (["--preset", "published", "--optimizer", "adam"], "give the lr for adam, too"),
        (["--momentum", "0.9"], "momentum is sgd's"),
        (["--precision", "fp8"], "fp32, tf32, bf16, fp16, got 'fp8'"),
        (["--precision", "fp16"], "fp16 is for inference only"),
        (["--device", "cpu", "--precision", "tf32"], "tf32 needs a GPU, the device is cpu"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:INDEX, got 'tpu'"),
        (["--none"], "--none"),
    ],
    ids=" ".join,
)
def test_bad_values(make_set, options: list[str], part: str) -> None:
    make_set(rows=5, val=2)
    assert_refused(run("set", "--run", "run", *options), part)


def test_sets_that_cannot_be_used(make_set) -> None:
    make_set("odd", rows=5, val=2, shape=(3, 6, 6))
    make_set("oblong", rows=5, val=2, shape=(3, 4, 8))
    make_set("clean", rows=5, val=2, target="clean")
    Path("empty").mkdir()
    assert_refused(run("none", "--run", "run"), "none: expected the folder of a pair set")
    assert_refused(run("empty", "--run", "run"), "empty: expected a pair set")
    assert_refused(run("odd", "--run", "run"), "multiples of 4", "6x6")
    assert_refused(run("oblong", "--run", "run", "--turns"), "square", "4x8")
    assert_refused(run("clean", "--run", "run", "--swap"), "swap")
    assert_refused(run("odd"), "--run")
    assert_refused(run("--run", "run"), "SET")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(make_set) -> None:
    make_set(rows=5, val=2)
    assert_refused(run("set", "--run", "run", "--device", "cuda"), "cuda", "found 0 GPUs")


def test_a_network_larger_than_memory(make_set) -> None:
    make_set(rows=5, val=2)
    result = run("set", "--run", "run", "--model", "seed", "--set", f"width={10**13}")
    assert result.exit_code == 3
    assert result.stderr.startswith("n2n: out of memory; ")
    assert len(result.stderr.splitlines()) == 1
    assert not Path("run").exists()


def test_places_that_cannot_be_a_run(make_set) -> None:
    make_set(rows=5, val=2)
    Path("file").write_text("mine")
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    for place, part in (("file", "found a file"), ("full", "other files"), ("file/run", "file")):
        result = run("set", "--run", place, "--set", "width=2", "--epochs", "1")
        assert result.exit_code == 2, place
        (line,) = result.stderr.splitlines()
        assert part in line
    assert os.listdir("full") == ["notes.txt"]
    assert Path("file").read_text() == "mine"


def test_debug_shows_where(make_set) -> None:
    make_set(rows=5, val=2)
    for options in ([], ["--debug"]):
        result = run("set", "--run", "run", "--lr", "nan", *options)
        assert result.exit_code == 2
        assert ("Traceback" in result.stderr) == bool(options)
        assert ("config.py" in result.stderr) == bool(options)
        assert result.stderr.splitlines()[-1].startswith("n2n: lr must be")


@pytest.mark.parametrize(
    ("text", "expected"), [("width=64", ("width", 64)), (" depth = 3 ", ("depth", 3))]
)
def test_parse_setting(text: str, expected: tuple[str, int]) -> None:
    assert parse_setting(text) == expected


def test_epoch_line() -> None:
    line = {
        "epoch": 2,
        "train_loss": 0.0123456,
        "seconds": 100.0,
        "validation_seconds": 20.0,
        "images_per_second": 1234.5,
        "val": {"psnr": 24.567, "ssim": 0.98765, "estimated_psnr": None},
    }
    assert epoch_line(line, 32) == (
        "epoch 2/32  loss 0.012346  PSNR 24.57 dB  SSIM 0.9877  1234 img/s  01:00:00 left"
    )
    del line["val"]
    assert epoch_line(line, 2) == "epoch 2/2  loss 0.012346  1234 img/s  00:00:00 left"
    assert epoch_line(line, 10**4).endswith("over a day left")


# ---- stopped and killed --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(make_set, number: int) -> None:
    make_set(rows=300)
    process = start()
    wait_until(lambda: steps_done() > 60, process)
    process.send_signal(number)
    output, lines = process.communicate(timeout=60)
    assert (process.returncode, output) == (3, "")
    last = lines.splitlines()[-1]
    found = re.fullmatch(
        r"n2n: stopped after batch (\d+) of epoch (\d+), which is saved in run; "
        r"run the same command again to go on",
        last,
    )
    assert found, last
    batch, epoch = map(int, found.groups())
    assert STEPS * (epoch - 1) + batch == steps_done() < 3 * STEPS
    again = train("run", "--checkpoint-seconds", "0")
    assert again.exit_code == 0
    beginning = again.stderr.splitlines()[0]
    assert beginning.startswith("resuming seed (")
    if batch < STEPS:
        assert beginning.endswith(f"from epoch {epoch}, batch {batch + 1}")
    assert train("whole").exit_code == 0
    assert result_of("run") == result_of("whole")


@pytest.mark.slow
def test_killed_at_random_moments(make_set) -> None:
    """kill -9, five times in one run; the same command then ends with the same weights."""
    make_set(rows=300)
    moments = random.Random(11)
    first = start()
    first.kill()  # while it starts
    first.communicate()
    previous = 0
    for _ in range(5):
        target = previous + moments.randrange(1, 22)
        process = start()
        wait_until(lambda target=target: steps_done() >= target, process)
        time.sleep(moments.random() / 50)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        previous = steps_done()
        assert previous >= target
    assert previous < 3 * STEPS
    process = start()
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 0
    assert lines.startswith("resuming seed (")
    assert train("whole").exit_code == 0
    assert result_of("run") == result_of("whole")


def test_damaged_files_of_a_run(make_set) -> None:
    make_set()
    assert train("good").exit_code == 0
    for name in ("metrics.jsonl", "checkpoints/last.safetensors"):
        shutil.copytree("good", "run")
        path = Path("run", name)
        path.write_bytes(path.read_bytes()[:-20])
        result = train()
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"n2n: run/{name}: expected ")
        shutil.rmtree("run")


# ---- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 500 kB at `disk`."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount, for a small tmpfs")
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=500k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("mount of a tmpfs is not permitted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(make_set, small_disk: Path) -> None:
    """Ballast leaves room for the settings alone, for less than two checkpoints, then for all."""
    make_set(rows=90)
    run_folder = str(small_disk / "run")
    ballast = small_disk / "ballast"

    def leave(room: int) -> None:
        ballast.unlink(missing_ok=True)
        state = os.statvfs(small_disk)
        ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - room))

    options = ["--checkpoint-seconds", "0", "--set", "width=16"]
    assert train("whole", *options).exit_code == 0
    for room in (0, 8 << 10, 100 << 10):
        leave(room)
        result = train(run_folder, *options)
        assert result.exit_code == 3, room
        line = result.stderr.splitlines()[-1]
        assert line.startswith("n2n: the disk is full")
        assert "make space, then run the same command again" in line
        assert not list(small_disk.rglob("*.tmp"))
        for path in small_disk.rglob("*.safetensors"):
            load_model(path)
    assert Path(run_folder, "checkpoints", "last.safetensors").exists()
    ballast.unlink()
    # What is there holds the first steps; the same command goes on from them.
    result = train(run_folder, *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("resuming seed (")
    assert result_of(run_folder) == result_of("whole")


def test_a_network_too_deep_for_the_set_is_refused_before_it_is_made(make_set) -> None:
    make_set(rows=5, val=2)
    options = ["--run", "run", "--model", "unet", "--set", "depth=40"]
    assert_refused(run("set", *options), f"multiples of {2**40}")
