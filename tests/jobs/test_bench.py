"""`n2n bench`: what it prints, what it counts, what it refuses. No test looks at seconds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench.floor import Products, count_products
from bench.memory import CLEAR
from bench.plan import Plan, bound_of, judged
from bench.shapes import cliffs
from bench.tables import align, verdict
from bench.timing import Timing, alternate, ratio, warm_up
from click.testing import CliRunner, Result

from jobs import bench
from jobs.bench import PARTS, main
from jobs.cli import main as n2n
from n2n import models

SPEED = {
    "network", "precision", "batch", "size", "optimizer", "loss", "n2n", "torch", "unavailable",
    "fastest", "ratio", "bound", "met",
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave torch's threads as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--threads", "1", "--device", "cpu", *arguments])


def quick(*arguments: str) -> dict:
    result = run("--quick", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_train_step_as_json() -> None:
    found = quick("--parts", "step", "--networks", "seed", "--precision", "fp32")
    assert set(found) == {"machine", "quick", "rounds", "published_ratio", "parts"}
    assert found["machine"]["threads"] == 1
    assert set(found["machine"]["versions"]) == {"n2n", "torch", "python"}
    assert set(found["parts"]) == {"step"}
    (step,) = found["parts"]["step"]
    assert set(step) == SPEED
    assert (step["network"], step["precision"], step["optimizer"]) == ("seed", "fp32", "sgd")
    assert set(step["torch"]) == {"eager", "channels_last"}
    assert step["unavailable"] == {"compile": "left out by --quick"}
    assert step["bound"] == 0.85
    assert step["met"] is (step["ratio"] <= 0.85)
    own, fastest = step["n2n"], step["torch"][step["fastest"]]
    assert own["min_ms"] <= own["median_ms"]
    assert fastest["median_ms"] == min(one["median_ms"] for one in step["torch"].values())
    assert step["ratio"] == pytest.approx(own["median_ms"] / fastest["median_ms"], rel=1e-3)


def test_every_network_in_one_command() -> None:
    found = quick("--parts", "inference,floor", "--precision", "fp32", "--batch-size", "2")
    names = models.architectures()
    assert [result["network"] for result in found["parts"]["inference"]] == names
    assert all(result["batch"] == 2 for result in found["parts"]["inference"])
    for result in found["parts"]["floor"]:
        parts = ("forward", "weight_gradient", "input_gradient")
        assert sum(result["gflop"][part] for part in parts) == pytest.approx(
            result["gflop"]["step"]
        )
        assert result["share"] == pytest.approx(result["floor_ms"] / result["step_ms"], rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR.exists(), reason=f"needs Linux's {CLEAR}")
def test_memory() -> None:
    (found,) = quick("--parts", "memory", "--networks", "seed", "--precision", "fp32")["parts"][
        "memory"
    ]
    peaks = found["peak_mib"]
    assert set(peaks) == {"n2n", "eager", "channels_last"}
    assert all(peak > 0 for peak in peaks.values())
    assert peaks[found["least"]] == min(peaks["eager"], peaks["channels_last"])
    assert found["bound"] == 1.0


@pytest.mark.skipif(not CLEAR.exists(), reason=f"needs Linux's {CLEAR}")
def test_a_photograph() -> None:
    """Both sides come to the same picture."""
    (found,) = quick("--parts", "denoise", "--networks", "seed")["parts"]["denoise"]
    assert set(found["sides"]) == {"n2n", "eager", "channels_last"}
    assert found["unavailable"] == {}
    assert found["largest_difference"] <= 1
    own, fastest = found["sides"]["n2n"], found["sides"][found["fastest"]]
    assert own["mpixel_per_s"] == pytest.approx(120 / own["median_ms"], rel=1e-2)
    assert found["ratio"] == pytest.approx(own["median_ms"] / fastest["median_ms"], rel=1e-2)
    least = found["sides"][found["least"]]["peak_mib"]
    assert least == min(found["sides"][name]["peak_mib"] for name in ("eager", "channels_last"))
    assert found["memory_ratio"] == pytest.approx(own["peak_mib"] / least, rel=0.2, abs=0.2)


def test_an_epoch(make_set, tmp_path: Path) -> None:
    found = quick("--parts", "epoch")["parts"]["epoch"]
    assert (found["pairs"], found["steps"], found["set"]) == (200, 25, "random pairs")
    assert len(found["ratios"]) == len(found["epoch_seconds"]) == 1
    make_set(rows=30, shape=(3, 32, 32))
    found = quick("--parts", "epoch", "--set", str(tmp_path / "set"))["parts"]["epoch"]
    assert (found["pairs"], found["steps"], found["set"]) == (30, 4, str(tmp_path / "set"))


def test_shapes() -> None:
    tables = quick("--parts", "shapes")["parts"]["shapes"]
    assert [(table["network"], table["part"], table["sweep"]) for table in tables] == [
        ("seed", "step", "batch"),
        ("seed", "step", "size"),
        ("seed", "inference", "batch"),
        ("seed", "inference", "size"),
    ]
    row = tables[0]["rows"][1]
    assert (row["batch"], row["size"]) == (4, 32)
    assert row["n2n_ms_per_mpixel"] == pytest.approx(
        row["n2n_ms_per_image"] * 1e6 / 32**2, rel=1e-2
    )


def test_the_tables() -> None:
    result = run("--quick", "--parts", "step,denoise,epoch,floor", "--networks", "seed")
    assert result.exit_code == 0, result.output
    assert re.search(r"^1 threads on \d+ of \d+ cores$", result.stdout, re.MULTILINE)
    assert f"torch {torch.__version__}" in result.stdout
    assert re.search(r"^seed +fp32 +8 .+ ≤ 0\.85 (not )?met$", result.stdout, re.MULTILINE)
    assert re.search(r"^seed .+ ≥ 0\.65 (not )?met$", result.stdout, re.MULTILINE)
    assert re.search(r"^ratio .+ ≤ 1\.05 (not )?met$", result.stdout, re.MULTILINE)
    assert re.search(r"^seed +0\.1 +megapixels a second .+ time$", result.stdout, re.MULTILINE)
    assert re.search(r"^seed +0\.1 +peak memory, MiB .+ memory$", result.stdout, re.MULTILINE)
    assert "2.3 times torch" in result.stdout
    assert "step seed fp32 (1 of" in result.stderr


# Refused


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line


def test_what_cannot_be_measured(make_set, tmp_path: Path) -> None:
    assert_refused(run("--parts", "step,colour"), "--parts", "'colour'", *PARTS)
    assert_refused(run("--precision", "fp8"), "--precision", "'fp8'")
    assert_refused(run("--networks", "seed,alexnet"), "'alexnet'", "seed")
    assert_refused(run("--networks", "seed,"), "--networks")
    assert_refused(run("--rounds", "0"), "--rounds")
    assert_refused(run("--batch-size", "0"), "--batch-size")
    assert_refused(run("--threads", "0"), "threads", "got 0")
    assert_refused(run("--device", "tpu"), "'tpu'")
    assert_refused(run("--set", str(tmp_path / "none")), "none", "pair set")
    make_set(shape=(3, 16, 16))
    assert_refused(run("--set", str(tmp_path / "set")), "(3, 32, 32)", "(3, 16, 16)")


def test_without_the_source_checkout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "PACKAGE", tmp_path / "tests" / "bench")
    monkeypatch.delitem(bench.sys.modules, "bench", raising=False)
    assert_refused(run("--quick"), "n2n bench needs the source checkout", str(tmp_path))


def test_found_by_the_console_script() -> None:
    assert "bench" in CliRunner().invoke(n2n, ["--help"]).stdout
    assert CliRunner().invoke(n2n, ["bench", "--help"]).exit_code == 0


# What is counted


def test_products_of_the_seed_network() -> None:
    """2·(N·P·Q)·K·G each: grids of 16x16, 8x8, 8x8, 16x16; K·G of 27·48 and 432·48."""
    ends, middle = 2 * 100 * 256 * 27 * 48, 2 * 100 * 64 * 432 * 48
    forward = 2 * ends + 2 * middle
    found = count_products(models.create("seed"), batch=100, size=32)
    assert found == Products(forward, forward, forward - ends)
    assert found.step == pytest.approx(1.92e9, rel=0.01)


def test_products_behind_a_skip() -> None:
    """A U-Net of one level: `enter` alone needs no gradient of its input."""
    network = models.create("unet", width=2, depth=1)
    grid, half = 2 * 16 * 16, 2 * 8 * 8
    enter = grid * 27 * 2
    conv, merge, leave = grid * 18 * 2, grid * 36 * 2, grid * 18 * 3
    down, up, low = half * 8 * 4, half * 8 * 4, half * 36 * 4
    forward = enter + conv + merge + leave + down + up + low
    assert count_products(network, batch=1, size=16) == Products(forward, forward, forward - enter)


def test_the_least_of_the_others_is_compared_with() -> None:
    assert ratio(3.0, {"eager": 4.0, "compile": 2.0}) == ("compile", 1.5)
    assert judged(0.9, 0.85) == {"ratio": 0.9, "bound": 0.85, "met": False}
    assert judged(0.85, 0.85)["met"] is True
    assert judged(0.5, None)["met"] is None
    assert bound_of("memory", "unet", "bf16") == 1.0
    assert bound_of("step", "unet", "bf16") is None


def test_sides_take_turns_and_another_begins_each_round() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = alternate(calls, rounds=2)
    assert "".join(order) == "aaabbb" + "bbbaaa"
    assert all(timing.calls == 6 for timing in timings.values())
    assert Timing.of([3.0, 1.0, 2.0]) == Timing(2.0, 1.0, 3)


def test_what_cannot_warm_up_is_left_out_with_its_reason() -> None:
    def fail() -> None:
        raise RuntimeError("\n no compiler here\nmore")

    assert warm_up({"n2n": list, "compile": fail}, optional="compile") == {
        "compile": "RuntimeError: no compiler here"
    }
    with pytest.raises(RuntimeError, match="no compiler"):
        warm_up({"eager": fail}, optional="compile")


def test_a_cliff_is_a_pixel_of_twice_its_neighbours_time() -> None:
    assert cliffs([5.0, 2.0, 1.0, 1.9, 1.0, 3.0]) == [True, False, False, False, False, True]
    assert cliffs([1.0]) == [False]


def test_presets_give_batch_and_optimiser() -> None:
    plan = Plan(("seed",), ("seed",), ("fp32",))
    assert (plan.config("seed").batch_size, plan.config("seed").optimizer) == (100, "sgd")
    assert (plan.config("unet").batch_size, plan.config("unet").optimizer) == (
        64,
        "adamw",
    )  # in place of muon
    assert Plan((), (), (), batch_size=7).config("unet").batch_size == 7


def test_columns_are_aligned() -> None:
    assert align(("a", "b", "c"), [("long", 1, ""), ("x", 22, "y")]).splitlines() == [
        "a      b  c",
        "long   1",
        "x     22  y",
    ]
    assert verdict({"bound": 0.65, "met": True}, "≥") == "≥ 0.65 met"
