"""What goes in comes out, in every kind of image, as other libraries see it."""

from pathlib import Path

import pytest

from .fidelity import METADATA, check, table
from .samples import SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_all_comes_out_as_it_went_in(tmp_path: Path, name: str) -> None:
    sample = SAMPLES[name]
    outcome = check(sample, tmp_path)
    lost = [column for column, word in outcome.items() if word == "lost"]
    assert lost == []
    kept = {column for column in METADATA if outcome[column] == "kept"}
    assert kept == sample.holds  # else the sample would prove nothing
    assert (outcome["new pixels"] == "lossy") == sample.loses
    has_alpha = "alpha" in name or "RGBA" in name or name == "PNG transparent colour"
    assert (outcome["alpha"] == "kept") == has_alpha


def test_the_table_has_a_row_for_each(monkeypatch) -> None:
    kinds = {name: SAMPLES[name] for name in ("PNG grey", "JPEG grey")}
    monkeypatch.setattr("images.fidelity.SAMPLES", kinds)
    first, _, *rows = table().splitlines()
    assert first.startswith("| | strength 0 | new pixels | mode")
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| PNG grey", "kept", "kept"],
        ["| JPEG grey", "kept", "lossy"],
    ]
