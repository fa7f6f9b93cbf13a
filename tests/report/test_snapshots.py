"""The models that a run keeps of some epochs, and what its report makes of them."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from jobs.train import main
from n2n.checkpoint import load_model
from n2n.config import TrainConfig
from n2n.errors import Interrupted, InvalidValue
from n2n.report import Options, report
from n2n.trainer import Trainer

SMALL = {"width": 2, "hidden": 2, "blocks": 1}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "snapshots").iterdir())


def test_they_are_the_models_of_their_epochs(make_set, tmp_path: Path) -> None:
    pairs, run = make_set(), tmp_path / "run"
    settings = {"schedule": "constant", "ema": 0.0, "model_config": SMALL}
    config = TrainConfig.of(epochs=3, snapshots="1,3", **settings)
    first = Trainer(config, pairs, run)
    first.on_epoch = lambda line: setattr(first, "stop", True)
    with pytest.raises(Interrupted):
        first.train()
    assert names(run) == ["epoch-0001.safetensors"]
    Trainer(TrainConfig.of(epochs=3, snapshots="2,3", **settings), pairs, run).train()
    assert names(run) == [f"epoch-000{epoch}.safetensors" for epoch in (1, 2, 3)]
    for epoch in (1, 2, 3):
        alone = Trainer(TrainConfig.of(epochs=epoch, **settings), pairs, tmp_path / f"to-{epoch}")
        alone.train()
        network, metadata = load_model(run / f"snapshots/epoch-000{epoch}.safetensors")
        assert metadata["training"]["epochs_done"] == epoch
        for name, value in network.state_dict().items():
            assert torch.equal(value, alone.network.state_dict()[name])
    (run / "snapshots/epoch-0002.safetensors").write_bytes(b"damaged")
    page = report(run, options=Options(peers=False, photos=tmp_path / "run")).read_text()
    assert all(f'<th scope="col">epoch {epoch}</th>' in page for epoch in (1, 3))
    assert "A snapshot cannot be read:" in page


@pytest.mark.parametrize("text", ["x", "1,", "1;2", "-1", "1.5"])
def test_what_is_no_list_of_epochs_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="snapshots must be epochs"):
        TrainConfig(snapshots=text)


def test_the_command_keeps_some_by_itself(make_set, tmp_path: Path) -> None:
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    for option, kept in (([], True), (["--snapshots", ""], False)):
        run = tmp_path / f"run-{kept}"
        words = [str(make_set(f"set-{kept}").path), "--run", str(run), "--epochs", "1"]
        found = CliRunner().invoke(main, [*words, "--threads", "1", *settings, *option])
        assert found.exit_code == 0, found.output
        assert (run / "snapshots/epoch-0001.safetensors").exists() is kept
