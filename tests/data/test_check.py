"""Checking sets: figures against independent ones, no false alarm, every planted fault found."""

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest

from n2n.data import PairSet, check_set, faults, parse_noise
from n2n.data.check import findings_of, repeats
from n2n.data.format import Provenance
from n2n.data.measure import measure_group
from n2n.data.writer import write_arrays
from n2n.errors import PairSetError

COLUMNS = ("input", "target", "clean")
ROWS = 400


@pytest.fixture(scope="module")
def clean(draw: Callable[..., np.ndarray]) -> np.ndarray:
    """Crops of photograph-like images, (400, 3, 32, 32)."""
    rng = np.random.default_rng(5)
    photographs = [draw(seed, 120, 120) for seed in range(20)]
    crops = np.empty((ROWS, 3, 32, 32), np.uint8)
    for i in range(ROWS):
        top, left = rng.integers(0, 88, 2)
        crops[i] = photographs[i % 20][top : top + 32, left : left + 32].transpose(2, 0, 1)
    return crops


def noisy(clean, spec="gaussian:15", seed=0):
    x, y = parse_noise(spec).views(clean, np.random.default_rng(seed))
    return x, y.copy()


def kinds(x, y, clean, target="noisy"):
    rows = measure_group(x, y, clean)
    return {f.kind: f for f in findings_of("train", target, clean is not None, rows)}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "spec", ["gaussian:2", "gaussian:25", "gaussian:5-50", "poisson:30", "poisson:3", "impulse:0.3"]
)
def test_good_pairs_give_no_warning(clean, spec, known):
    for seed in range(3):
        assert not kinds(*noisy(clean, spec, seed), clean if known else None)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("spec", ["gaussian:5-50", "poisson:30", "impulse:0.3"])
def test_blown_and_black_images_give_no_warning(clean, spec, known):
    """Clipped noise has a mean that both views share, and black rows have no noise at all."""
    stretched = np.clip((clean.astype(int) - 128) * 4 + 128, 0, 255).astype(np.uint8)
    stretched[7] = 0
    assert not kinds(*noisy(stretched, spec), stretched if known else None)


def test_subsampled_pairs_give_no_warning(draw, rng):
    model = parse_noise("subsample")
    views = [model.sample((draw(seed, 200, 220),), 30, 32, rng) for seed in range(12)]
    x, y, clean = (np.concatenate(columns) for columns in zip(*views, strict=True))
    assert not kinds(x, y, clean)
    assert not kinds(x, y, None)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("down_right", [(1, 0), (0, -1), (2, 0), (-1, 2), (3, -3)])
def test_a_shift_in_some_rows_is_found(clean, known, down_right):
    x, y = noisy(clean)
    moved = np.arange(0, ROWS, 10)
    y[moved] = np.roll(y[moved], down_right, (2, 3))
    finding = kinds(x, y, clean if known else None)["misaligned"]
    assert set(finding.first_rows) <= set(moved.tolist())
    assert finding.rows <= len(moved)
    assert f"by {down_right[0]} pixels down and {down_right[1]} right" in finding.message


def test_a_shift_that_hides_in_the_noise_of_each_row_shows_in_all(clean):
    x, y = noisy((clean // 4 + 96).astype(np.uint8), "gaussian:20")
    y = np.roll(y, 1, 3)
    finding = kinds(x, y, None)["misaligned"]
    assert "0 pixels down and 1 right" in finding.message


@pytest.mark.parametrize("known", [True, False])
def test_another_exposure_is_found(clean, known):
    x, y = noisy(clean)
    darker = (y * 0.9).astype(np.uint8)
    finding = kinds(x, darker, clean if known else None)["exposure"]
    assert "levels brighter than the targets" in finding.message
    some = y.copy()
    some[7::50] = darker[7::50]
    finding = kinds(x, some, clean if known else None)["exposure"]
    assert finding.first_rows[0] == 7
    assert {row % 50 for row in finding.first_rows} == {7}


def test_another_colour_is_found(clean):
    x, y = noisy(clean)
    y[11, 2] = np.clip(y[11, 2].astype(int) + 20, 0, 255)
    assert kinds(x, y, None)["exposure"].first_rows == (11,)


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_shared_noise_is_found_with_clean(clean, share):
    x, y = noisy(clean, "gaussian:10")
    common = np.random.default_rng(9).normal(0, 8, clean.shape)
    common[int(ROWS * share) :] = 0
    x, y = (np.clip(np.rint(view + common), 0, 255).astype(np.uint8) for view in (x, y))
    finding = kinds(x, y, clean)["correlated"]
    assert max(finding.first_rows) < ROWS * share
    if share == 1:
        rho = 64 / 164
        assert float(finding.message.split("(")[1].split(")")[0]) == pytest.approx(rho, abs=0.05)


def test_shared_noise_is_found_without_clean():
    rng = np.random.default_rng(1)
    ramp = np.linspace(60, 180, 32)
    clean = np.broadcast_to(ramp * rng.uniform(0.5, 1, (ROWS, 3, 1, 1)), (ROWS, 3, 32, 32))
    clean = clean * rng.integers(0, 2, (ROWS, 1, 1, 1)) + 40  # half of the rows are flat

    def pair(shared: float):
        common = rng.normal(0, shared, clean.shape)
        views = [clean + common + rng.normal(0, 6, clean.shape) for _ in range(2)]
        return [np.clip(np.rint(view), 0, 255).astype(np.uint8) for view in views]

    assert "correlated" not in kinds(*pair(0), None)
    assert "correlated" in kinds(*pair(6), None)


def test_identical_views_are_found(clean):
    x, y = noisy(clean)
    y[[3, 5]] = x[[3, 5]]
    finding = kinds(x, y, clean)["identical"]
    assert (finding.rows, finding.first_rows) == (2, (3, 5))
    assert set(kinds(x, y, None)) == {"identical"}
    assert "without noise" in kinds(clean, clean, clean)["identical"].message


def test_repeated_views_are_found_also_crosswise(clean):
    x, y = noisy(clean)
    x[20], y[30] = x[4], x[5]
    finding = kinds(x, y, clean)["duplicate"]
    assert finding.first_rows == (20, 30)


def test_constant_images_are_found(clean):
    x, y = noisy(clean)
    for row in (8, 9, 10):
        x[row] = y[row] = row
    found = kinds(x, y, None)
    assert found["constant"].first_rows == (8, 9, 10)
    assert set(found) == {"constant"}


def test_clean_targets_are_judged_as_such(clean):
    x, _ = noisy(clean, "impulse:0.3")
    assert not kinds(x, clean, clean, target="clean")
    moved = np.roll(clean, 2, 3)
    assert "misaligned" in kinds(x, moved, clean, target="clean")


def test_tiny_images_are_measured_too(rng):
    x, y = rng.integers(0, 256, (2, 50, 1, 3, 2), np.uint8)
    assert not kinds(x, y, None)


def test_repeats_by_hand():
    keys = np.array([5, 7, 5, 9, 7, 7, 1], np.uint64)
    rows = np.array([0, 0, 3, 1, 0, 2, 4])
    assert repeats(keys, rows).tolist() == [2, 3]


def test_window_sums_and_shift_scores_by_brute_force(clean):
    x, y = (faults.grey(view) for view in noisy(clean[:6]))
    found = faults.shifts(x, y)
    for row in range(6):
        inner = x[row, 3:-3, 3:-3].astype(float)
        inner -= inner.mean()
        ssd = {}
        for down in range(-3, 4):
            for right in range(-3, 4):
                window = y[row, 3 + down : 29 + down, 3 + right : 29 + right].astype(float)
                ssd[down, right] = ((inner - (window - window.mean())) ** 2).sum()
        expected = [(ssd[0, 0] - ssd[shift]) / ssd[0, 0] for shift in found.candidates]
        np.testing.assert_allclose(found.gain[row], expected, rtol=1e-3, atol=1e-3)


def write(folder, columns, split, target="noisy"):
    folder.mkdir(exist_ok=True)
    provenance = Provenance("a test", None, {}, None, target, ())
    write_arrays(folder / split, columns, provenance)


def test_figures_agree_with_independent_ones(clean, tmp_path):
    x, y = noisy(clean)
    write(tmp_path / "set", {"input": x, "target": y, "clean": clean}, "train")
    x_val, _ = noisy(clean[:50, :, ::-1], seed=4)
    flipped = np.ascontiguousarray(clean[:50, :, ::-1])
    write(tmp_path / "set", {"input": x_val, "target": flipped, "clean": flipped}, "val", "clean")
    checked = check_set(tmp_path / "set")
    assert not checked.findings
    assert checked.digest == PairSet.open(tmp_path / "set").digest
    train, val = checked.splits
    assert (train.pairs, train.target, val.pairs, val.target) == (ROWS, "noisy", 50, "clean")
    assert train.sigma == pytest.approx(np.sqrt(np.var(x - y.astype(float)) / 2), rel=1e-6)
    assert val.sigma == pytest.approx(np.std(x_val - flipped.astype(float)), rel=1e-6)
    mse = ((x - clean.astype(float)) ** 2).mean((1, 2, 3))
    assert train.input_psnr == pytest.approx((10 * np.log10(255**2 / mse)).mean(), abs=1e-6)
    assert train.input_psnr_pooled == pytest.approx(10 * np.log10(255**2 / mse.mean()), abs=1e-6)


def test_images_shared_by_train_and_val_are_found(clean, tmp_path):
    x, y = noisy(clean)
    write(tmp_path / "set", {"input": x, "target": y, "clean": clean}, "train")
    fresh = np.ascontiguousarray(clean[:30, :, :, ::-1])
    fresh[12] = clean[100]
    columns = dict(zip(COLUMNS, (*noisy(fresh, seed=8), fresh), strict=True))
    write(tmp_path / "set", columns, "val")
    (finding,) = check_set(tmp_path / "set").findings
    assert (finding.kind, finding.split, finding.first_rows) == ("duplicate", "val", (12,))


@pytest.mark.parametrize("checksums", [True, False])
def test_damaged_rows_are_found(clean, tmp_path, monkeypatch, checksums):
    """By Parquet's own checksums, or, where a writer left them out, by the digest of the rows."""
    writer = pq.ParquetWriter
    monkeypatch.setattr(
        "n2n.data.format.pq.ParquetWriter",
        lambda *values, **names: writer(*values, **{**names, "write_page_checksum": checksums}),
    )
    x, y = noisy(clean)
    write(tmp_path / "set", {"input": x, "target": y}, "train")
    path = tmp_path / "set" / "train" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    at = content.index(x[200].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    if checksums:
        for read in (check_set, lambda path: PairSet.open(path).train.read()):
            with pytest.raises(PairSetError, match=r"part-00000\.parquet: cannot be read .*CRC"):
                read(tmp_path / "set")
    else:
        (finding,) = check_set(tmp_path / "set").findings
        assert finding.kind == "damaged"


def test_row_numbers_count_over_row_groups_and_workers_agree(clean, tmp_path):
    many = np.concatenate([clean, clean[:, ::-1], clean[:, :, ::-1]])
    x, y = noisy(many)
    y[1100] = x[1100]
    write(tmp_path / "set", {"input": x, "target": y, "clean": many}, "train")
    checked = check_set(tmp_path / "set")
    assert [finding.first_rows for finding in checked.findings] == [(1100,)]
    assert check_set(tmp_path / "set", workers=2) == checked
