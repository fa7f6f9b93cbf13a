"""Training on pairs that are drawn anew: the set, what is left out, stopped and resumed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from n2n.config import TrainConfig, configure
from n2n.data import Gaussian, PairSet, Recipe, build_set, stream_from
from n2n.data.streamed import StreamedSet
from n2n.errors import Interrupted, PairSetError, RunConflict
from n2n.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "model": "unet",
    "model_config": {"width": 2, "depth": 1},
    "epochs": 2,
    "batch_size": 30,
    "lr": 0.01,
    "turns": True,
    "ema": 0.9,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, draw) -> Path:
    """Twelve photographs, one too small, and a file that is none."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(12):
        Image.fromarray(draw(seed, 24, 30)).save(folder / f"{seed:02}.png")
    Image.fromarray(draw(40, 24, 30)[:6]).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, folder: Path) -> PairSet:
    """100 pairs of 8x8, and 20 of one photograph in ten for validation."""
    path = tmp_path_factory.mktemp("sets") / "set"
    build_set(folder, path, Gaussian(20, 20), Recipe(size=8, pairs=100, val_pairs=20))
    return PairSet.open(path)


@pytest.fixture(scope="module")
def streamed(pairs: PairSet, folder: Path) -> StreamedSet:
    return stream_from(pairs, folder)[0]


def config_of(pairs: StreamedSet, **settings: Any) -> TrainConfig:
    return configure(pairs, **{**SETTINGS, **settings})[0]


def tensors_of(run: Path) -> dict[str, dict[str, bytes]]:
    return {
        path.name: {name: value.numpy().tobytes() for name, value in load_file(path).items()}
        for path in sorted(run.rglob("*.safetensors"))
    }


def test_the_set_gives_all_but_the_training_pairs(
    pairs: PairSet, folder: Path, streamed: StreamedSet
) -> None:
    held_out = {digest for _, digest in pairs.val.sources}
    assert held_out
    drawn = {photograph.sha256 for photograph in streamed.train.photographs}
    assert not drawn & held_out
    assert len(drawn) == 12 - len(held_out)
    assert (streamed.shape, streamed.noise, streamed.train.rows) == ((3, 8, 8), "gaussian:20", 100)
    assert streamed.val is pairs.val
    found, line = stream_from(pairs, folder, rows=7, clipped=True)
    assert (found.train.rows, found.train.clipped) == (7, True)
    left_out = f"{len(held_out)} that validation has, 2 that cannot be used"
    assert line == f"7 pairs an epoch from {len(drawn)} photographs; left out: {left_out}"
    assert len({found.digest, streamed.digest, pairs.digest}) == 3


def test_what_cannot_be_drawn_is_refused(
    pairs: PairSet, folder: Path, make_set, tmp_path: Path
) -> None:
    with pytest.raises(PairSetError, match="targets are clean images; train on the set alone"):
        stream_from(make_set(target="clean"), folder)
    with pytest.raises(PairSetError, match=r"square images .* found 8x12"):
        stream_from(make_set("wide", shape=(3, 8, 12)), folder)
    real = make_set("real")
    real.train.noise = None
    with pytest.raises(PairSetError, match="its noise is real"):
        stream_from(real, folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairSetError, match=r"empty: expected photographs .* found none but 0 that"):
        stream_from(pairs, tmp_path / "empty")
    with pytest.raises(PairSetError, match=r"nothing: expected a folder of photographs"):
        stream_from(pairs, tmp_path / "nothing")


@pytest.mark.parametrize("memory", [1, 1 << 30])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_resumed_equals_uninterrupted(
    streamed: StreamedSet, tmp_path: Path, memory: int, asynchronous: bool
) -> None:
    """Stopped in the first epoch, at its end and in the second; four batches each."""
    config = config_of(streamed, memory_limit=memory)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(config, streamed, whole).train()
    for batches in (1, 3, 2):
        # Nothing stays decoded from one part to the next.
        again = replace(streamed, train=replace(streamed.train))
        mine = Trainer(config, again, parts, asynchronous=asynchronous)
        mine.on_batch = partial(stop_after, mine, count(1), batches)
        with pytest.raises(Interrupted):
            mine.train()
    Trainer(config, streamed, parts, asynchronous=asynchronous).train()
    assert tensors_of(parts) == tensors_of(whole)


def stop_after(mine: Trainer, done: Iterator[int], batches: int, images: int) -> None:
    mine.stop = next(done) == batches


def test_the_record_names_the_photographs(
    pairs: PairSet, streamed: StreamedSet, tmp_path: Path, folder: Path
) -> None:
    config = config_of(streamed, epochs=1)
    Trainer(config, streamed, tmp_path / "run").train()
    begin = json.loads((tmp_path / "run" / "provenance.jsonl").read_text().splitlines()[0])
    assert begin["set"]["rows"] == {"train": 100, "val": 20}
    stream = begin["set"]["stream"]
    assert (stream["folder"], stream["noise"]) == (str(folder), "gaussian:20")
    assert [name for name, _ in stream["photographs"]] == sorted(
        photograph.name for photograph in streamed.train.photographs
    )
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["stream_from"] == str(folder)
    with pytest.raises(RunConflict, match="belongs to the pair set"):
        Trainer(config, pairs, tmp_path / "run")


def test_noise_beyond_black_and_white_reaches_the_network(
    streamed: StreamedSet, tmp_path: Path
) -> None:
    seen = []
    mine = Trainer(config_of(streamed, epochs=1), streamed, tmp_path / "run")
    step = mine.descent.step

    def watch(x: torch.Tensor, y: torch.Tensor, **more: Any) -> None:
        seen.append(torch.cat([x, y]))
        step(x, y, **more)

    mine.descent.step = watch
    mine.train()
    values = torch.cat(seen)
    assert values.dtype == torch.float32
    assert values.min() < -0.02
    assert values.max() > 1.02
    assert np.unique((values * 255).numpy().astype(np.float32)).size > 1000
