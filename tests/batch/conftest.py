"""Folders of small images, a tiny model, and a whole batch in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from n2n import models
from n2n.batch import Batch, Choice, Outcome, Report, Worker, WorkerConfig, make_plan, settings_of
from n2n.checkpoint import save_model
from n2n.options import Options

MakeImage = Callable[..., Path]


class Runs:
    """Batches with one model; what became of each input in the last one."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.outcomes: dict[str, Outcome] = {}

    def __call__(
        self,
        source: Path | str,
        output: Path | str,
        *,
        choice: Choice | None = None,
        overwrite: bool = False,
        worker: Callable[[WorkerConfig], Any] = Worker,
        **options: Any,
    ) -> Report:
        plan = make_plan(str(source), str(output), choice)
        roots = plan.inputs.root, plan.outputs.root
        config = WorkerConfig(str(self.model), *roots, threads=1, options=Options(**options))
        self.outcomes = {}

        def settle(outcome: Outcome) -> None:
            assert outcome.item.source not in self.outcomes  # exactly one state
            self.outcomes[outcome.item.source] = outcome

        batch = Batch(plan, config, settings_of(config), overwrite=overwrite, settle=settle)
        with batch, worker(batch.config) as one:
            return batch.run(one.execute)

    @property
    def states(self) -> dict[str, str]:
        return {name: outcome.state for name, outcome in self.outcomes.items()}

    @property
    def reasons(self) -> dict[str, str]:
        return {name: str(one.reason) for name, one in self.outcomes.items() if one.reason}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave torch's threads as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))
    save_model(path, network, {})
    return path


@pytest.fixture
def runs(model: Path) -> Runs:
    return Runs(model)


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """make_image(path, seed=0, size=(9, 7)): a colour image of random pixels."""

    def make(path: Path, *, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path)
        return path

    return make


@pytest.fixture
def source(tmp_path: Path, make_image: MakeImage) -> Path:
    """Three images in a tree, and two files of other kinds."""
    folder = tmp_path / "in"
    for seed, name in enumerate(("b.png", "a.JPG", "sub/deep/c.jpeg")):
        make_image(folder / name, seed=seed)
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "sub" / "notes.txt").write_text("")
    return folder


@pytest.fixture(scope="session")
def files() -> Callable[[Path], list[str]]:
    """files(folder): what lies in it, below it too, in order."""

    def found(folder: Path) -> list[str]:
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())

    return found
