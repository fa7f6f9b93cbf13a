"""Importing torch-saved tensors: what comes in, what is refused."""

import pickle

import numpy as np
import pytest
import torch

from n2n.data import PairSet, import_set
from n2n.errors import PairSetError


@pytest.fixture
def files(tmp_path):
    """A training file of 60 pairs and a validation file of 9."""
    generator = torch.Generator().manual_seed(0)

    def images(rows: int) -> torch.Tensor:
        return torch.randint(0, 256, (rows, 3, 8, 10), dtype=torch.uint8, generator=generator)

    content = {"train.pkl": (images(60), images(60)), "val.pkl": (images(9), images(9))}
    for name, tensors in content.items():
        torch.save(tensors, tmp_path / name)
    return tmp_path, content


def test_tensors_come_in_whole_and_in_order(files):
    folder, content = files
    made = import_set(folder / "train.pkl", folder / "val.pkl", folder / "set")
    assert (made.train_pairs, made.val_pairs, made.shape) == (60, 9, (3, 8, 10))
    pairs = PairSet.open(folder / "set")
    assert pairs.noise is None
    assert (pairs.train.target, pairs.val.target) == ("noisy", "clean")
    assert (pairs.train.has_clean, pairs.val.has_clean) == (False, True)
    train, val = pairs.train.read(), pairs.val.read(("input", "target", "clean"))
    for name, (inputs, targets) in {
        "train": content["train.pkl"],
        "val": content["val.pkl"],
    }.items():
        rows = train if name == "train" else val
        np.testing.assert_array_equal(rows["input"], inputs.numpy())
        np.testing.assert_array_equal(rows["target"], targets.numpy())
    np.testing.assert_array_equal(val["clean"], val["target"])


def test_without_val_all_rows_are_training(files):
    folder, _ = files
    import_set(folder / "train.pkl", None, folder / "set")
    pairs = PairSet.open(folder / "set")
    assert pairs.train.rows == 60
    assert pairs.val is None


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def write_old_pickle(path, value):
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [lambda path, value: torch.save(value, path), write_old_pickle])
def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path, save):
    save(tmp_path / "bad.pkl", Code(str(tmp_path / "ran")))
    with pytest.raises(PairSetError, match=r"pickle.*(it was not run|nothing in it was run)$"):
        import_set(tmp_path / "bad.pkl", None, tmp_path / "set")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "set").exists()


def image(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (image(2, 3, 4, 4), "found Tensor"),
        ((image(2, 3, 4, 4),), "found tuple of 1"),
        ({"a": image(2, 3, 4, 4)}, "found dict"),
        ((image(2, 3, 4, 4), 5), "the second tensor to be a tensor, found int"),
        ((image(2, 3, 4, 4, dtype=torch.float32),) * 2, "found float32 of shape (2, 3, 4, 4)"),
        ((image(2, 4, 4), image(2, 4, 4)), "found uint8 of shape (2, 4, 4)"),
        ((image(0, 3, 4, 4), image(0, 3, 4, 4)), "found uint8 of shape (0, 3, 4, 4)"),
        ((image(2, 3, 4, 4), image(3, 3, 4, 4)), "found (2, 3, 4, 4) and (3, 3, 4, 4)"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "train.pkl")
    with pytest.raises(PairSetError) as caught:
        import_set(tmp_path / "train.pkl", None, tmp_path / "set")
    assert found in str(caught.value)
    assert str(tmp_path / "train.pkl") in str(caught.value)


def test_damaged_and_missing_files_are_refused(files):
    folder, _ = files
    content = (folder / "train.pkl").read_bytes()
    for damaged in (b"", b"hello", content[: len(content) // 2]):
        (folder / "bad.pkl").write_bytes(damaged)
        with pytest.raises(PairSetError, match=r"bad\.pkl: expected a file by torch\.save"):
            import_set(folder / "bad.pkl", None, folder / "set")
    with pytest.raises(PairSetError, match="there is nothing"):
        import_set(folder / "none.pkl", None, folder / "set")
    with pytest.raises(PairSetError, match="found a folder"):
        import_set(folder, None, folder / "set")


def test_val_of_another_shape_is_refused_and_nothing_is_left(files):
    folder, _ = files
    torch.save((image(2, 3, 4, 4), image(2, 3, 4, 4)), folder / "val.pkl")
    with pytest.raises(PairSetError, match=r"shape \(3, 8, 10\) as in .*, found \(3, 4, 4\)"):
        import_set(folder / "train.pkl", folder / "val.pkl", folder / "set")
    assert sorted(path.name for path in folder.iterdir()) == ["train.pkl", "val.pkl"]
