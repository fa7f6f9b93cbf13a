"""A sweep's directory: what it is, what became of its trials, and what came out.

DIR/sweep.yaml                   settings, space, and the digest of the pair set
DIR/trials/0000/ …               a run directory for each trial (n2n.run)
DIR/trials.jsonl                 what became of the trials: a line for each step, only ever appended
DIR/trials.parquet               every epoch of every trial, with its settings
DIR/best/                        a copy of the best trial's run directory

Nothing in it is a pickle. trials.jsonl is readable while the sweep runs; of several lines for one
trial the last holds:

{"trial": 3, "state": "begun", "settings": {…}, "time": …}
{"trial": 3, "state": "done"}         trained to the last epoch
{"trial": 3, "state": "stopped"}      ended by the scheduler
{"trial": 3, "state": "failed", "reason": …}

A trial that takes over the weights of another one has a line more: "begun" with its new
settings, `since` (epochs done: they hold for the ones after), `donor` (whose epochs the ones
before are), and `replaced`, its own lines of metrics that the donor's took the place of.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from n2n.data import PairSet
from n2n.errors import InvalidValue, RunConflict
from n2n.files import TEMPORARY, replacing
from n2n.run import RunDirectory
from n2n.sweep.settings import SweepConfig
from n2n.sweep.space import Sample, Space
from n2n.sweep.table import epoch_rows, write_table
from n2n.sweep.trials import STATES, Trial, read_log, read_metrics
from n2n.sweep.winner import Winner, choose, command_of, copy_run

__all__ = ["SweepDirectory"]

FORMAT = 1


@dataclass
class SweepDirectory:
    """Reads and writes a sweep's files. Nothing is created before `begin`.

    One process sweeps in a directory at a time: `with directory.locked(): directory.begin(…)`.
    The trials' processes write their run directories, and nothing else of it.
    """

    path: Path

    @property
    def settings_path(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def log_path(self) -> Path:
        return self.path / "trials.jsonl"

    @property
    def table_path(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def best_path(self) -> Path:
        return self.path / "best"

    def trial_path(self, number: int) -> Path:
        """A trial's run directory."""
        return self.path / "trials" / f"{number:04d}"

    def check(self, config: SweepConfig, space: Space, pairs: PairSet) -> bool:
        """Whether a sweep of these settings was begun here. Changes nothing.

        config: with its metric (`SweepConfig.for_set`). RunConflict for a directory of something
        else, naming the first difference.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunConflict(f"{self.path}: expected the directory of a sweep, found a file")
        found = self.read_settings()
        if not found:
            if self.path.is_dir() and any(path.suffix != ".tmp" for path in self.path.iterdir()):
                raise RunConflict(
                    f"{self.path}: expected a sweep or an empty directory, found other files; "
                    "choose another --run"
                )
            return False
        self._require_same(found, self._settings(config, space, pairs), config.may_change)
        return True

    def begin(self, config: SweepConfig, space: Space, pairs: PairSet) -> bool:
        """`check`, then create what is missing. Returns True for a sweep that is resumed."""
        resumed = self.check(config, space, pairs)
        (self.path / "trials").mkdir(parents=True, exist_ok=True)
        with replacing(self.settings_path) as temporary:
            text = yaml.safe_dump(self._settings(config, space, pairs), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        return resumed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sweeps out. RunConflict if another process sweeps here.

        What was made in the block goes with it, unless a trial was begun.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunConflict(f"{self.path}: expected the directory of a sweep, found a file")
        new = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        begun = self.settings_path.exists()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunConflict(
                    f"{self.path}: another process sweeps here; wait for it, or choose another "
                    "--run"
                ) from error
            for left in self.path.glob(TEMPORARY):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield
        finally:
            if not begun and not self.log_path.exists():
                self._remove(new)
            os.close(descriptor)

    def _remove(self, new: list[Path]) -> None:
        """What `begin` made, and the folders that did not exist before."""
        with suppress(OSError):  # there is something else
            if self.settings_path.exists():
                (self.path / "trials").rmdir()
                self.settings_path.unlink()
            for path in new:
                path.rmdir()

    def add(
        self,
        trial: int,
        state: str,
        *,
        settings: Sample | None = None,
        reason: str | None = None,
        **more: Any,
    ) -> None:
        """Record what became of a trial; it is on the disk when this returns.

        settings: with the first "begun", and whenever they change. reason: of "failed".
        """
        if state not in STATES:
            raise InvalidValue(f"state must be one of {', '.join(STATES)}, got {state!r}")
        given = {"settings": settings, "reason": reason, **more}
        record = {"trial": trial, "state": state}
        record |= {name: value for name, value in given.items() if value is not None}
        line = json.dumps({**record, "time": round(time.time(), 3)}, allow_nan=False) + "\n"
        with self.log_path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # torn, by a kill
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def log(self) -> list[dict[str, Any]]:
        """The lines of trials.jsonl, but those that a killed process left torn."""
        return read_log(self.log_path)

    def trials(self) -> list[Trial]:
        """All trials that were begun, by number, with their metrics."""
        metric = self.read_settings().get("config", {}).get("metric")
        records: dict[int, list[dict[str, Any]]] = {}
        for record in self.log():
            records.setdefault(record["trial"], []).append(record)
        return [
            Trial.of(number, records[number], read_metrics(self.trial_path(number)), metric)
            for number in sorted(records)
        ]

    def finish(self) -> Winner | None:
        """Write trials.parquet and best/, of all that is done so far. None without a score."""
        settings = self.read_settings()
        trials = self.trials()
        runs = {trial.number: self.trial_path(trial.number) for trial in trials}
        rows = list(epoch_rows(trials, self.log(), runs, settings["config"]["metric"]))
        write_table(self.table_path, rows, settings)
        best = choose(trials)
        if best is None:
            return None
        copy_run(runs[best.number], self.best_path)
        run = RunDirectory(self.best_path).read_settings()
        again = self.path.with_name(f"{self.path.name}-winner")
        return Winner(best, self.best_path, *command_of(run, best, again))

    def read_settings(self) -> dict[str, Any]:
        """What sweep.yaml holds; nothing if there is none. RunConflict for another file."""
        if not self.settings_path.exists():
            return {}
        try:
            found = yaml.safe_load(self.settings_path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunConflict(f"{self.settings_path}: expected YAML, found another text") from error
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise RunConflict(f"{self.settings_path}: expected the settings of a sweep, found none")
        if found.get("format") != FORMAT:
            raise RunConflict(
                f"{self.settings_path}: expected format {FORMAT}, found {found.get('format')}; use "
                "the n2n that wrote it"
            )
        unknown = sorted(found["config"].keys() - {item.name for item in fields(SweepConfig)})
        if unknown or not isinstance(found.get("space"), dict):
            raise RunConflict(
                f"{self.settings_path}: expected the settings and the space of a sweep, found "
                f"{f'also {unknown[0]}' if unknown else 'no space'}; restore the file"
            )
        return found

    def _settings(self, config: SweepConfig, space: Space, pairs: PairSet) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "set": str(pairs.path),
            "digest": pairs.digest,
            "config": config.as_dict(),
            "space": space.as_dict(),
        }

    def _require_same(
        self, found: dict[str, Any], wanted: dict[str, Any], may_change: frozenset[str]
    ) -> None:
        if found.get("digest") != wanted["digest"]:
            raise RunConflict(
                f"{self.path}: belongs to the pair set {found.get('set')}, asked to sweep on "
                f"{wanted['set']}, which differs; choose another --run"
            )
        for part in ("config", "space"):
            before, now = found.get(part) or {}, wanted[part]
            for name in sorted({**before, **now}):
                if before.get(name) != now.get(name) and name not in may_change:
                    what = f"a space with {name}" if part == "space" else name
                    raise RunConflict(
                        f"{self.path}: holds a sweep with {what} {_brief(before.get(name))}, asked "
                        f"for {_brief(now.get(name))}; choose another --run, or the settings in "
                        f"{self.settings_path.name}"
                    )


def _brief(value: object) -> str:
    """For a message."""
    if value is None:
        return "none"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
