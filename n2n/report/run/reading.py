"""What a run's report is made from, as far as it is there. Nothing of the run is changed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.checkpoint import load_model
from n2n.data import PairSet, Split
from n2n.errors import InvalidValue, N2NError
from n2n.evaluation import require_fit
from n2n.models import Network
from n2n.provenance import read_record
from n2n.run import RunDirectory

__all__ = ["Part", "Run", "Snapshot", "read_run", "rows_of"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """A part of a run, from its begin to its end, as provenance.jsonl has them."""

    begin: Mapping[str, Any]
    end: Mapping[str, Any] | None  # None: killed, or still going on

    @property
    def outcome(self) -> str:
        return str(self.end["outcome"]) if self.end is not None else "no end recorded"

    @property
    def epoch(self) -> float:
        """Where it began, in epochs: 2.0 after two."""
        position = self.begin.get("position") or {}
        return float(position.get("epoch", 0)) + 0.5 * bool(position.get("batch", 0))


@dataclass(frozen=True)
class Snapshot:
    """The network as it was after an epoch."""

    epoch: int
    network: Network


@dataclass(frozen=True)
class Run:
    """A run, read. What is not there is None, and `reasons` says why, by the same name.

    metrics: a line an epoch. network: the best one; model: the metadata of its file. pairs: the
    set; split: of it, what the network is tried on: val, if there is one, else train. damaged:
    snapshots that cannot be read.
    """

    path: Path
    settings: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    parts: Sequence[Part]
    network: Network | None
    model: Mapping[str, Any]
    pairs: PairSet | None
    snapshots: Sequence[Snapshot]
    damaged: Sequence[str]
    reasons: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.metrics)

    @property
    def best_epoch(self) -> int | None:
        """The epoch that the network comes from."""
        epoch = (self.model.get("training") or {}).get("epochs_done")
        return int(epoch) if epoch is not None else None

    @cached_property
    def split(self) -> Split | None:
        return None if self.pairs is None else self.pairs.val or self.pairs.train

    @property
    def has_finished(self) -> bool:
        """Whether it reached its end: all epochs, or those that its patience allowed."""
        ended = bool(self.parts) and self.parts[-1].outcome == "done"
        return ended or self.epochs >= int(self.settings.get("epochs", 0))

    @property
    def stream(self) -> Mapping[str, Any] | None:
        """Of training pairs drawn from photographs: which ones; None of those of the set."""
        last = self.parts[-1].begin if self.parts else {}
        found: Mapping[str, Any] | None = (last.get("set") or {}).get("stream")
        return found

    @property
    def train_rows(self) -> int | None:
        """Training pairs of an epoch."""
        last = self.parts[-1].begin if self.parts else {}
        rows = ((last.get("set") or {}).get("rows") or {}).get("train")
        if rows is None and self.pairs is not None:
            return self.pairs.train.rows
        return None if rows is None else int(rows)

    def missing(self) -> str | None:
        """Why the network cannot be tried on pairs; None where it can."""
        return self.reasons.get("network") or self.reasons.get("pairs")


def read_run(path: Path, pairs: Path | None = None) -> Run:
    """Read the run at `path`. pairs: where its set lies now.

    RunConflict for a damaged config.yaml; InvalidValue for a set, named by the caller, that is
    not the one that the run was trained on.
    """
    directory = RunDirectory(path)
    settings = directory.read_settings()
    reasons: dict[str, str] = {}
    network: Network | None = None
    model: Mapping[str, Any] = {}
    found = None
    with _reason(reasons, "network"):
        network, model = _read_network(directory)
    with _reason(reasons, "pairs"):
        found = _open_set(settings, pairs, network)
    if pairs is not None and found is None:
        raise InvalidValue(reasons["pairs"])
    snapshots, damaged = _read_snapshots(path)
    return Run(
        path,
        settings,
        list(_read_metrics(directory.metrics_path)),
        _read_parts(directory.provenance_path),
        network,
        model,
        found,
        snapshots,
        damaged,
        reasons,
    )


@contextmanager
def _reason(reasons: dict[str, str], name: str) -> Iterator[None]:
    """Keep the error of the block as the reason why something is missing."""
    try:
        yield
    except (N2NError, OSError) as error:
        reasons[name] = " ".join(str(error).split())


def _read_network(directory: RunDirectory) -> tuple[Network, dict[str, Any]]:
    """The best model, or, before the first epoch's end, what the last checkpoint has."""
    path = directory.model_path
    if not path.exists() and directory.last_path.exists():
        path = directory.last_path
    return load_model(path)


def _open_set(settings: Mapping[str, Any], moved: Path | None, network: Network | None) -> PairSet:
    path = moved or Path(str(settings.get("set", "")))
    found = PairSet.open(path)
    # A stream's digest is of its photographs, too, which are not looked at here.
    if found.digest != settings.get("digest") and not settings.get("stream_from"):
        raise InvalidValue(
            f"{path}: expected the set of digest {str(settings.get('digest'))[:12]}… that the run "
            f"was trained on, found {found.digest[:12]}…; name the right one by --set"
        )
    if network is not None:
        require_fit(network, found.train)
    return found


def _read_metrics(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of the epochs, in order, up to the first that is none."""
    text = path.read_bytes().splitlines() if path.exists() else []
    for number, content in enumerate(text, start=1):
        try:
            line = json.loads(content)
        except ValueError:
            return
        if not isinstance(line, dict) or line.get("epoch") != number or not _is_sound(line):
            return
        yield line


def _is_sound(line: Mapping[str, Any]) -> bool:
    """Whether numbers stand where numbers belong."""
    scores = line.get("val") or {}
    return isinstance(scores, dict) and all(
        value is None or isinstance(value, int | float)
        for name, value in (*line.items(), *scores.items())
        if name != "val"
    )


def _read_parts(path: Path) -> list[Part]:
    begins: dict[int, Mapping[str, Any]] = {}
    ends: dict[int, Mapping[str, Any]] = {}
    for line in read_record(path):
        (ends if "outcome" in line else begins)[line["part"]] = line
    return [Part(begin, ends.get(number)) for number, begin in sorted(begins.items())]


def _read_snapshots(path: Path) -> tuple[list[Snapshot], list[str]]:
    found, damaged = [], []
    for file in sorted(RunDirectory(path).snapshot_path(1).parent.glob("epoch-*.safetensors")):
        try:
            network, metadata = load_model(file)
            found.append(Snapshot(int(metadata["training"]["epochs_done"]), network))
        except (N2NError, KeyError, TypeError, ValueError) as error:
            damaged.append(" ".join(str(error).split()))
    return sorted(found, key=lambda snapshot: snapshot.epoch), damaged


def rows_of(split: Split, rows: Sequence[int]) -> dict[str, Pixels]:
    """Some rows of a split, in the order asked for: uint8 (n, C, H, W) of every column."""
    columns = [name for name in split.parts[0][1].columns if name in ("input", "target", "clean")]
    starts = np.cumsum([0, *(count for _, _, count in split.groups)])
    order = np.argsort(np.asarray(rows), kind="stable")
    ascending = np.asarray(rows)[order]
    groups = np.searchsorted(starts, ascending, side="right") - 1
    pieces = [
        split.read_rows([group], ascending[groups == group] - starts[group], columns)
        for group in np.unique(groups).tolist()
    ]
    back = np.argsort(order)
    return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in columns}
