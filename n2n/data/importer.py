"""Pair sets from torch-saved tensors, as the course gives them: `(inputs, targets)`."""

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.data.folder import building, require_free
from n2n.data.format import Provenance
from n2n.data.make import Made
from n2n.data.parallel import Progress
from n2n.data.writer import write_arrays
from n2n.errors import PairSetError

__all__ = ["import_set", "load_tensors"]

NAMES = ("the first tensor", "the second tensor")


def import_set(
    train: Path,
    val: Path | None,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Make a pair set at `out` from torch-saved uint8 tensors (N, C, H, W).

    `train` holds (noisy, noisy): all of its rows become train, in their order. `val` holds
    (noisy, clean): input, with the clean image both as target and as clean. Without `val` the set
    has no validation. Raises PairSetError for files that hold anything else; no code in them is
    run.
    """
    require_free(out, overwrite=overwrite)
    inputs, targets = load_tensors(train)
    columns = {"input": inputs, "target": targets}
    with building(out, overwrite=overwrite) as hidden:
        write_arrays(hidden / "train", columns, _provenance(train, "noisy"), progress=progress)
        val_rows = 0
        if val is not None:
            noisy, clean = load_tensors(val)
            if noisy.shape[1:] != inputs.shape[1:]:
                raise PairSetError(
                    f"{val}: expected images of shape {inputs.shape[1:]} as in {train}, "
                    f"found {noisy.shape[1:]}"
                )
            columns = {"input": noisy, "target": clean, "clean": clean}
            write_arrays(hidden / "val", columns, _provenance(val, "clean"), progress=progress)
            val_rows = len(noisy)
    _, channels, height, width = inputs.shape
    return Made(
        path=out,
        shape=(channels, height, width),
        train_pairs=len(inputs),
        val_pairs=val_rows,
        train_scenes=1,
        val_scenes=0 if val is None else 1,
    )


def load_tensors(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two uint8 tensors (N, C, H, W) of the same shape from a file by torch.save.

    Only tensors and plain containers are read; a pickle that holds code is refused, not run.
    """
    import torch  # here, for the workers of `build` and `n2n --help` do without

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch: how the file was pickled
            content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise PairSetError(f"{path}: expected a file by torch.save; there is nothing") from None
    except IsADirectoryError:
        raise PairSetError(f"{path}: expected a file by torch.save, found a folder") from None
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise _refused(path, error) from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise PairSetError(
            f"{path}: expected two tensors (inputs, targets), found {_kind(content)}"
        )
    first, second = (_pixels(path, name, part) for name, part in zip(NAMES, content, strict=True))
    if first.shape != second.shape:
        raise PairSetError(
            f"{path}: expected two tensors of the same shape, found {first.shape} and "
            f"{second.shape}"
        )
    return first, second


def _pixels(path: Path, name: str, value: Any) -> NDArray[np.uint8]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise PairSetError(f"{path}: expected {name} to be a tensor, found {_kind(value)}")
    if value.dtype != torch.uint8 or value.ndim != 4 or not value.numel():
        raise PairSetError(
            f"{path}: expected {name} to be uint8 of shape (N, C, H, W), found "
            f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
        )
    if value.layout != torch.strided:
        raise PairSetError(f"{path}: expected {name} to be dense, found {value.layout}")
    pixels: NDArray[np.uint8] = value.contiguous().numpy()
    return pixels


def _refused(path: Path, error: Exception) -> PairSetError:
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
        return PairSetError(
            f"{path}: expected tensors only, found a pickle that holds code or other objects; "
            "it was not run"
        )
    if isinstance(error, pickle.UnpicklingError):
        return PairSetError(
            f"{path}: expected a file by torch.save, found another pickle or a damaged file; "
            "nothing in it was run"
        )
    return PairSetError(
        f"{path}: expected a file by torch.save, found one that cannot be read "
        f"({type(error).__name__})"
    )


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _provenance(path: Path, target: str) -> Provenance:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Provenance("n2n data import", None, {}, None, target, ((path.name, digest),))
