"""`n2n evaluate` with several models and workers: tables, what fails, what workers make of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from clusters import RayCluster
from PIL import Image
from scorers import Dying

from jobs.evaluate import main
from n2n import models, scoring
from n2n.checkpoint import load_model, save_model
from n2n.data import PairSet
from n2n.evaluation import evaluate
from n2n.files import digest_of

NAMES = ["a.safetensors", "runs/b", "runs/c"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Work in an empty folder that holds three models, two as runs; leave torch's threads."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(NAMES):
        save(file_of(name), seed)
    yield tmp_path
    torch.set_num_threads(threads)


def save(path: Path, seed: int, **config: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    save_model(path, models.create("unet", width=2, depth=1, generator=generator, **config), {})


def file_of(name: str) -> Path:
    return Path(name) / "model.safetensors" if name.startswith("runs") else Path(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line


def scores_of(pairs: PairSet) -> dict[str, dict]:
    """By the library, one model after the other."""
    torch.set_num_threads(1)
    return {name: evaluate(load_model(file_of(name))[0], pairs.val).as_dict() for name in NAMES}


def told_of(result: Result) -> dict[str, dict]:
    """Of each model, what `--json` says beside its name."""
    return {entry.pop("model"): entry for entry in json.loads(result.stdout)["models"]}


def best_first(expected: dict[str, dict]) -> list[str]:
    return sorted(NAMES, key=lambda name: expected[name]["mse"])


def test_json(make_set) -> None:
    pairs = make_set()
    result = run(*NAMES, "set", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    expected = scores_of(pairs)
    assert found["best"] == best_first(expected)[0]
    assert (found["split"], found["set"], found["digest"]) == ("val", "set", pairs.digest)
    assert [entry["model"] for entry in found["models"]] == NAMES
    for name, entry in told_of(result).items():
        assert entry == {**expected[name], "digest": digest_of(file_of(name)), "failed": None}


def test_the_table_has_the_best_first(make_set) -> None:
    expected = scores_of(make_set())
    result = run(*NAMES, "set")
    assert (result.exit_code, result.stderr) == (0, "")
    heading, titles, *lines = result.stdout.splitlines()
    noisy = expected[NAMES[0]]["input_psnr"]
    assert heading == f"val: 20 pairs; PSNR of the noisy input {noisy:.2f} dB"
    titles = [title.strip() for title in titles.split("  ") if title]
    assert titles == ["model", "pooled PSNR", "PSNR", "estimated PSNR", "SSIM", "MSE", "loss"]
    assert [line.split()[0] for line in lines] == best_first(expected)
    best = expected[best_first(expected)[0]]
    assert lines[0].split()[1:3] == [f"{best['psnr_pooled']:.2f}", f"{best['psnr']:.2f}"]
    assert len({len(line) for line in [*lines]}) == 1


def test_the_table_says_what_is_known(make_set) -> None:
    make_set(clean=False)
    _, titles, *lines = run(*NAMES, "set").stdout.splitlines()
    assert titles.split() == ["model", "estimated", "PSNR", "loss"]
    assert len(lines) == 3
    make_set("clean", target="clean")
    assert "estimated" not in run(*NAMES, "clean").stdout


def test_parquet(make_set) -> None:
    """In the order of the command; also where a model failed, and of a single one."""
    pairs = make_set()
    assert run("none", *NAMES, "set", "--parquet", "scores.parquet").exit_code == 1
    table = pq.read_table("scores.parquet")
    rows = {entry.pop("model"): entry for entry in table.to_pylist()}
    assert list(rows) == ["none", *NAMES]
    for name, scores in scores_of(pairs).items():
        assert rows[name] == {**scores, "digest": digest_of(file_of(name)), "failed": None}
    assert rows["none"].pop("failed").startswith("expected a model file, a run or a shipped")
    assert set(rows["none"].values()) == {None}
    told = json.loads(table.schema.metadata[b"n2n"])
    assert (told["digest"], told["split"], told["precision"]) == (pairs.digest, "val", "fp32")
    assert len(told["code"]["sources"]) == 64
    result = run(NAMES[0], "set", "--parquet", "one.parquet", "--json")
    assert json.loads(result.stdout)["images"] == 20
    assert pq.read_table("one.parquet").column("model").to_pylist() == NAMES[:1]


def test_a_parquet_file_that_cannot_be(make_set) -> None:
    make_set()
    Path("mine.parquet").write_text("mine")
    assert_refused(run(*NAMES, "set", "--parquet", "mine.parquet"), "mine.parquet", "a new file")
    assert_refused(run(*NAMES, "set", "--parquet", "none/a.parquet"), "found no none")
    assert Path("mine.parquet").read_text() == "mine"


def test_models_that_cannot_be_scored_are_named(make_set) -> None:
    """And the others are scored."""
    pairs = make_set()
    Path("garbage.safetensors").write_bytes(b"garbage")
    Path("empty").mkdir()
    save(Path("grey.safetensors"), 0, channels=1)
    broken = ["none", "garbage.safetensors", "empty", "grey.safetensors"]
    result = run(*broken[:2], *NAMES, *broken[2:], "set", "--json")
    assert result.exit_code == 1
    for name, line in zip(broken, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"failed: {name}: ")
        assert line.count(name) == 1
    found = told_of(result)
    assert {name for name, entry in found.items() if entry["failed"]} == set(broken)
    assert found["grey.safetensors"]["psnr"] is None
    expected = scores_of(pairs)
    assert all(found[name]["mse"] == expected[name]["mse"] for name in NAMES)
    result = run(*broken, "set", "--json")
    assert (result.exit_code, json.loads(result.stdout)["best"]) == (1, None)
    result = run(*broken, "set")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_model_named_twice_is_scored_once(make_set) -> None:
    """By whatever name: its first one counts."""
    make_set()
    Path("link").symlink_to("runs/b")
    result = run("runs/b", "a.safetensors", "runs/b/model.safetensors", "link", "set", "--json")
    assert result.exit_code == 0
    assert list(told_of(result)) == ["runs/b", "a.safetensors"]
    assert result.stderr.splitlines() == [
        "note: runs/b/model.safetensors is runs/b, which is scored once",
        "note: link is runs/b, which is scored once",
    ]
    result = run("runs/b", "runs/b", "set")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)


def test_images_without_noise(make_set) -> None:
    """Of infinite PSNR: best of all, and no number for JSON, the table or Parquet."""
    make_set(sigma=0.0)
    network = models.create("unet", width=1, depth=1, generator=torch.Generator())
    for value, _ in network.param():
        value.zero_()
    save_model(Path("same.safetensors"), network, {})
    result = run("a.safetensors", "same.safetensors", "set", "--parquet", "scores.parquet")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split()[:3] == ["same.safetensors", "-", "-"]
    assert pq.read_table("scores.parquet").column("psnr").to_pylist()[1] is None


def test_what_cannot_be(make_set) -> None:
    make_set()
    make_set("bare", val=0)
    assert_refused(run(*NAMES, "bare", "--split", "val"), "expected a val split")
    assert_refused(run(*NAMES), "runs/c: expected a pair set")
    assert_refused(run("set"), "found only set")
    assert_refused(run(*NAMES, "set", "--workers", "0"), "workers must be at least 1")
    assert_refused(run(*NAMES, "set", "--cpus-per-worker", "1"), "needs more than one")
    for share in ("0", "nan", "-1"):
        options = ["--workers", "2", "--cpus-per-worker", share]
        assert_refused(run(*NAMES, "set", *options), "cpus-per-worker must be above 0")
    assert_refused(run(*NAMES, "set", "--address", "127.0.0.1:1"), "none answered at 127.0.0.1:1")


@pytest.mark.ray
def test_workers_give_the_same_bits(ray_cluster: RayCluster, make_set) -> None:
    """Over two row groups and several batches; files and set are found under relative names."""
    make_set(rows=5, val=1100)
    one = run(*NAMES, "set", "--json")
    on_ray = ["--json", "--workers", "3", "--address", ray_cluster.address]
    result = run("none", *NAMES, "set", *on_ray)
    assert result.exit_code == 1, result.output
    device, *_, failed = result.stderr.splitlines()  # between: how far it is, on a slow machine
    assert device == "device: 3 workers on Ray, each cpu (1 threads), fp32"
    assert failed.startswith("failed: none: ")
    found = told_of(result)
    del found["none"]
    assert found == told_of(one)


@pytest.mark.ray
def test_workers_give_the_same_scores_on_images(ray_cluster: RayCluster) -> None:
    """But for the times."""
    Path("clean").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), np.uint8)
        Image.fromarray(pixels).save(f"clean/{number}.png")
    arguments = [*NAMES, "clean", "--noise", "gaussian:25", "--peer", "tv", "--json"]
    found = []
    for where in ([], ["--workers", "2", "--address", ray_cluster.address]):
        result = run(*arguments, *where)
        assert result.exit_code == 0, result.stderr
        rows = json.loads(result.stdout)["denoisers"]
        assert all(row.pop("seconds_per_megapixel") >= 0 for row in rows)
        found.append(rows)
    assert found[0] == found[1]
    assert [row["images"] for row in found[0]] == [3] * 5


@pytest.mark.ray
def test_a_killed_worker_loses_nothing(ray_cluster: RayCluster, make_set, monkeypatch) -> None:
    """A piece that kills every worker costs its model its scores, and no other."""
    make_set(rows=5, val=600)
    shutil.copytree("set", "deadly")
    expected = told_of(run(*NAMES, "set", "--json"))
    monkeypatch.setattr(scoring, "Scorer", Dying)
    on_ray = ["--json", "--workers", "2", "--address", ray_cluster.address]
    result = run(*NAMES, "set", *on_ray)
    assert result.exit_code == 0, result.output
    assert Path("deaths").read_text() == "died\n"
    assert told_of(result) == expected
    Path("deaths").unlink()
    result = run(*NAMES, "deadly", *on_ray)
    assert result.exit_code == 1, result.output
    assert "failed: runs/b: its worker died 3 times at it" in result.stderr
    assert Path("deaths").read_text() == "died\n" * 3
    found = told_of(result)
    assert found.pop("runs/b")["mse"] is None
    assert found == {name: expected[name] for name in ("a.safetensors", "runs/c")}


def test_a_damaged_set_ends_the_work(make_set) -> None:
    """It is none of the models' fault."""
    (path, _), *_ = make_set(val=1100).val.parts
    damaged = bytearray(path.read_bytes())
    damaged[1000:1100] = bytes(100)
    path.write_bytes(damaged)
    assert_refused(run(*NAMES, "set"), "part-00000.parquet: cannot be read")
