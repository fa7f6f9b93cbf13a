"""A run's directory: its settings, metrics, checkpoints and model.

runs/NAME/config.yaml            every setting, and the digest of the pair set
runs/NAME/metrics.jsonl          one line an epoch
runs/NAME/checkpoints/           last.safetensors, best.safetensors
runs/NAME/model.safetensors      the best model so far
runs/NAME/snapshots/             epoch-0010.safetensors, …: the model after the epochs asked for
runs/NAME/start.safetensors      the model file that it began with, where there is one
runs/NAME/provenance.jsonl       what each part of the run rests on (n2n.provenance)
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from n2n import models
from n2n.checkpoint import Learner, describe, read_tensors, write_tensors
from n2n.errors import InvalidValue, ModelFileError, RunConflict
from n2n.files import TEMPORARY, digest_of, replacing
from n2n.models import Network
from n2n.position import Position

__all__ = ["RunDirectory"]

# Settings that runs of earlier versions do not name, and what they were trained with.
EARLIER = {
    "preset": "published",
    "precision": "fp32",
    "ema": 0.0,
    "clip": 0.0,
    "patience": 0,
    "start": "",
}
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_END = 2.0


@dataclass
class RunDirectory:
    """Reads and writes a run's files. Nothing is created before `begin`."""

    path: Path
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model_path(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def provenance_path(self) -> Path:
        return self.path / "provenance.jsonl"

    @property
    def start_path(self) -> Path:
        return self.path / "start.safetensors"

    def snapshot_path(self, epoch: int) -> Path:
        return self.path / "snapshots" / f"epoch-{epoch:04d}.safetensors"

    @property
    def last_path(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best_path(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    def begin(
        self, settings: dict[str, Any], *, may_change: frozenset[str], start: Path | None = None
    ) -> bool:
        """Create the directory, or check that it holds a run of the same settings.

        Returns True for a run that can be resumed. RunConflict names the first setting that
        differs, unless it `may_change` between the parts of a run. start: the model file whose
        digest the settings name; it is kept here, so that it is needed only once.
        """
        config = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise RunConflict(f"{self.path}: expected a run directory, found a file")
        if not config.exists() and self.path.is_dir() and self._holds_other_files():
            raise RunConflict(
                f"{self.path}: expected a run or an empty directory, found other files; "
                "choose another --run"
            )
        resumable = config.exists() and self.last_path.exists()
        if not resumable and self._epochs_recorded() > 1:  # one: killed before its checkpoint
            raise RunConflict(
                f"{self.path}: expected {self.last_path.name} to go on from, found only the "
                "metrics and model of a run; choose another --run"
            )
        if config.exists():
            self._require_same(self.read_settings(), {**EARLIER, **settings}, may_change)
        self.last_path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(config) as temporary:
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        if settings.get("start") and not resumable:
            self._keep_start(settings["start"], start)
        return resumable

    def _keep_start(self, digest: str, start: Path | None) -> None:
        """Copy the model file, unless it is here already."""
        if not self.start_path.exists() and start is not None:
            with replacing(self.start_path) as temporary:
                shutil.copyfile(start, temporary)
        if not self.start_path.exists():
            raise RunConflict(
                f"{self.path}: expected the model file that it begins with, found none; give it "
                "again, with --from"
            )
        if digest_of(self.start_path) != digest:
            raise RunConflict(
                f"{self.start_path}: expected the model file with sha256 {digest[:12]}…, found "
                "another; choose another --run"
            )

    @contextmanager
    def locked(self, *, patience: float = SECONDS_TO_END) -> Iterator[None]:
        """Keep other processes out, and remove what killed ones left half written.

        RunConflict if another process trains here, and does so for `patience` seconds: one that
        was killed takes a moment to end. The system frees the lock when this process ends,
        however it ends.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunConflict(f"{self.path}: expected a run directory, found a file")
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            deadline = time.monotonic() + patience
            while not _lock(descriptor):
                if time.monotonic() > deadline:
                    raise RunConflict(
                        f"{self.path}: another process trains here; wait for it, or choose another "
                        "--run"
                    )
                time.sleep(SECONDS_BETWEEN_LOOKS)
            for left in self.path.rglob(TEMPORARY):
                left.unlink()
            yield
        finally:
            os.close(descriptor)

    def _epochs_recorded(self) -> int:
        if not self.metrics_path.exists():
            return 0
        return self.metrics_path.read_bytes().count(b"\n")

    def _holds_other_files(self) -> bool:
        """Whether the directory holds more than a `begin` leaves that was killed at once."""
        own = self.last_path.parent
        return any(
            any(own.iterdir()) if path == own and own.is_dir() else path.suffix != ".tmp"
            for path in self.path.iterdir()
        )

    def save(self, path: Path, learner: Learner, metadata: dict[str, Any]) -> None:
        """Write a checkpoint; the one before is replaced only when it is complete."""
        write_tensors(path, learner.tensors(), {**describe(learner.network), **metadata})

    def restore(self, learner: Learner) -> Position:
        """Load the last checkpoint, drop later metrics, and say where it stands.

        ModelFileError for a checkpoint that is damaged or does not fit, RunConflict for metrics
        that lack an epoch.
        """
        tensors, metadata = read_tensors(self.last_path)
        self._require_same_network(learner.network, metadata)
        try:
            position = Position(**metadata["position"])
        except (KeyError, TypeError) as error:
            raise ModelFileError(
                f"{self.last_path}: expected the position of a run, found none; "
                "start again with another --run"
            ) from error
        try:
            learner.load(tensors)
        except InvalidValue as error:
            message = f"{self.last_path}: {error}; start again with another --run"
            raise ModelFileError(message) from error
        self._keep_metrics(position.epoch)
        return position

    def _require_same_network(self, network: Network, metadata: dict[str, Any]) -> None:
        """RunConflict for a network of the same shapes that an earlier version trained."""
        config = metadata.get("architecture", {}).get("config", network.config)
        for name, value in models.with_earlier(network.name, config).items():
            if name not in config and network.config[name] != value:
                raise RunConflict(
                    f"{self.path}: expected a network with {name} {network.config[name]}, found "
                    f"an earlier version's with {value}; choose another --run"
                )

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append one epoch's line to metrics.jsonl."""
        self.metrics.append(line)
        self._write_metrics()

    def _keep_metrics(self, epochs: int) -> None:
        path = self.metrics_path
        found = path.read_bytes().splitlines()[:epochs] if path.exists() else []
        try:
            self.metrics = [json.loads(line) for line in found]
        except ValueError:
            self.metrics = []
        if [isinstance(line, dict) for line in self.metrics] != [True] * epochs:
            raise RunConflict(
                f"{path}: expected the metrics of {epochs} epochs, a line each, found fewer or "
                "damaged ones; restore the file, or start again with another --run"
            )
        self._write_metrics()

    def _write_metrics(self) -> None:
        with replacing(self.metrics_path) as temporary:
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.metrics)
            temporary.write_text(text, encoding="utf-8")

    def read_settings(self) -> dict[str, Any]:
        """What config.yaml holds; nothing if there is none. RunConflict for another file."""
        config = self.path / "config.yaml"
        if not config.exists():
            return {}
        try:
            found = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunConflict(f"{config}: expected YAML, found something else") from error
        if not isinstance(found, dict):
            raise RunConflict(f"{config}: expected the settings of a run, found none")
        return {**found, **{name: value for name, value in EARLIER.items() if name not in found}}

    def _require_same(
        self, found: dict[str, Any], wanted: dict[str, Any], may_change: frozenset[str]
    ) -> None:
        for name in {**found, **wanted}:
            if name == "digest" and found.get(name) != wanted.get(name):
                raise RunConflict(
                    f"{self.path}: belongs to the pair set {_set_of(found)}, asked to train on "
                    f"{_set_of(wanted)}, which differs; choose another --run"
                )
            if name not in may_change and found.get(name) != wanted.get(name):
                raise RunConflict(
                    f"{self.path}: holds a run with {name} {found.get(name)}, asked for "
                    f"{wanted.get(name)}; choose another --run, or the settings in config.yaml"
                )


def _set_of(settings: dict[str, Any]) -> str:
    folder = settings.get("stream_from")
    drawn = f" with pairs drawn from {folder}" if folder else ""
    return f"{settings.get('set')}{drawn}"


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
