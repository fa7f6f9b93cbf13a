"""A batch from its plan to its report: what is to do, in bunches; what was done, recorded.

Only this, in the process that was started, writes the manifest; workers write outputs.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from n2n.batch.items import Item, Outcome, Report
from n2n.batch.manifest import Manifest, open_manifest
from n2n.batch.plan import Plan
from n2n.batch.resume import Resume, key_of
from n2n.batch.scratch import WORK, local_scratch, new_name, work_folder
from n2n.batch.work import WorkerConfig, local_model
from n2n.errors import InvalidValue, StorageError
from n2n.files import digest_of
from n2n.storage import LocalFolder

__all__ = ["Batch", "Execute", "Limits", "settings_of"]

Execute = Callable[[Iterable[Sequence[Item]]], Generator[Outcome, None, None]]
BUNCH_ITEMS = 64
BUNCH_BYTES = 32 << 20
BUNCHES_PER_WORKER = 4  # at least, so that all end at about the same time


@dataclass(frozen=True)
class Limits:
    """How much goes to a worker at once."""

    items: int
    bytes: int

    @classmethod
    def of(cls, plan: Plan, workers: int) -> "Limits":
        """Bunches of about equal bytes, and enough of them for all workers."""
        share = workers * BUNCHES_PER_WORKER
        items = max(1, min(BUNCH_ITEMS, plan.files // share))
        return cls(items, max(1, min(BUNCH_BYTES, plan.size // share)))


def settings_of(config: WorkerConfig) -> dict[str, Any]:
    """What an output depends on beside its input: the model's digest, and how it is used."""
    with ExitStack() as stack:
        digest = digest_of(local_model(config.model, stack))
    return {"model": digest, "precision": config.precision, **config.options.as_dict()}


class Batch:
    """One run over a plan; a context manager that holds the output folder meanwhile.

    `config` is completed by the folder for unfinished outputs, which is there within the context;
    workers are made of it. settle(outcome) is called for each input as it ends. RunConflict if
    another process works on the folder.
    """

    def __init__(
        self,
        plan: Plan,
        config: WorkerConfig,
        settings: dict[str, Any],
        *,
        overwrite: bool = False,
        workers: int = 1,
        settle: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.plan, self.report = plan, Report()
        self._work = None
        if isinstance(plan.outputs, LocalFolder):
            self._work = plan.outputs.path / WORK / new_name()
        self.config = replace(config, work=None if self._work is None else str(self._work))
        self.settings, self._key, self._overwrite = settings, key_of(settings), overwrite
        self._limits = Limits.of(plan, workers)
        self._told = settle
        self._manifest: Manifest | None = None
        self._headed = False
        self._stack = ExitStack()

    def __enter__(self) -> "Batch":
        history = None
        with ExitStack() as stack:
            if not self.plan.single:
                scratch = stack.enter_context(local_scratch())
                opened = open_manifest(self.plan.outputs, scratch)
                history, self._manifest = stack.enter_context(opened)
                if not isinstance(self.plan.outputs, LocalFolder):
                    self._try_out()
            if self._work is not None:
                stack.enter_context(work_folder(self._work))
            self._stack = stack.pop_all()
        self._resume = Resume(self.plan, history, self._key, overwrite=self._overwrite)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, execute: Execute) -> Report:
        """Do all; `execute` takes bunches to workers, and yields what becomes of their items.

        StorageError for a full disk or a store that does not answer; what was finished is kept.
        """
        started = time.perf_counter()
        with closing(execute(self._bunches())) as outcomes:
            for outcome in outcomes:
                if outcome.state == "stopped":
                    raise StorageError(str(outcome.reason))
                self._settle(outcome)
        report = self.report
        counts = {"done": report.done, "skipped": report.skipped, "failed": report.failed}
        self._write({"end": {**counts, "seconds": round(time.perf_counter() - started, 3)}})
        return report

    def _bunches(self) -> Iterator[list[Item]]:
        """What is to be done; what is not is settled on the way."""
        bunch: list[Item] = []
        size = 0
        for planned in self.plan:
            decided = self._resume.decide(planned) if isinstance(planned, Item) else planned
            if isinstance(decided, Outcome):
                self._settle(decided)
                continue
            if bunch and size + decided.size > self._limits.bytes:
                yield self._begin(bunch)
                bunch, size = [], 0
            bunch.append(decided)
            size += decided.size
            if len(bunch) == self._limits.items:
                yield self._begin(bunch)
                bunch, size = [], 0
        if bunch:
            yield self._begin(bunch)

    def _begin(self, bunch: list[Item]) -> list[Item]:
        """From here on, what lies at these outputs is ours."""
        if self._manifest is not None:
            lines = [{"state": "begun", "input": i.source, "output": i.destination} for i in bunch]
            self._write(*lines)
            self._manifest.flush()
        return bunch

    def _settle(self, outcome: Outcome) -> None:
        self.report.add(outcome)
        if outcome.state == "failed" or outcome.digest is not None:
            self._write(_record(outcome, self._key))
        if self._told is not None:
            self._told(outcome)

    def _write(self, *lines: dict[str, Any]) -> None:
        """Append to the manifest, where there is one; the first time the run's header too."""
        if self._manifest is not None:
            header = () if self._headed else ({"run": self._header()},)
            self._headed = True
            self._manifest.write(*header, *lines)

    def _try_out(self) -> None:
        """Before any work, whether an object store takes anything at all."""
        assert self._manifest is not None
        try:
            self._write()
            self._manifest.flush()
        except OSError as error:
            raise InvalidValue(
                f"{self.plan.outputs.root}: cannot be written: {' '.join(str(error).split())}; "
                "check the bucket and the credentials"
            ) from error

    def _header(self) -> dict[str, Any]:
        return {
            "version": version("n2n"),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "input": self.plan.inputs.root,
            "settings": self.settings,
            "key": self._key,
            "overwrite": self._overwrite,
            "files": self.plan.files,
            "bytes": self.plan.size,
        }


def _record(outcome: Outcome, key: str) -> dict[str, Any]:
    """A line of the manifest. What was skipped for its digest is recorded with its new time."""
    item = outcome.item
    line: dict[str, Any] = {
        "state": "failed" if outcome.state == "failed" else "done",
        "input": item.source,
        "output": item.destination,
    }
    if outcome.state == "failed":
        return line | {"reason": outcome.reason}
    line |= {"size": item.size, "mtime_ns": item.mtime_ns, "digest": outcome.digest, "key": key}
    line |= {"output_size": outcome.output_size, "pixels": outcome.pixels}
    line |= {"drift": outcome.drift, "sigma": outcome.sigma, "seconds": round(outcome.seconds, 4)}
    return line | ({"scores": outcome.scores} if outcome.scores else {})
