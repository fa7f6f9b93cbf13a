"""What is known of a sweep, as its report needs it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from n2n.report.blocks import show
from n2n.report.importance import Importance, importance
from n2n.run import RunDirectory
from n2n.sweep import SweepDirectory, Trial, score
from n2n.sweep.winner import choose

__all__ = ["BANDS", "Account", "text_of"]

NAMES = {"psnr": "PSNR", "estimated-psnr": "estimated PSNR", "loss": "squared error"}
BANDS = 5  # of trials, by score


@dataclass(frozen=True)
class Account:
    """A sweep's directory, its settings and its trials, by number."""

    path: Path
    settings: dict[str, Any]
    trials: Sequence[Trial]

    @classmethod
    def of(cls, path: Path) -> "Account":
        directory = SweepDirectory(path)
        return cls(path, directory.read_settings(), directory.trials())

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.settings["config"]
        return found

    @property
    def metric(self) -> str:
        return str(self.config["metric"])

    @property
    def metric_name(self) -> str:
        """For a reader."""
        return NAMES[self.metric]

    @property
    def metric_axis(self) -> str:
        """With the unit."""
        return self.metric_name + ("" if self.metric == "loss" else " [dB]")

    def shown(self, found: float | None) -> float | None:
        """A score for a reader: of errors, the lower is the better."""
        return -found if found is not None and self.metric == "loss" else found

    def number(self, found: float | None) -> str:
        """The same as text."""
        shown = self.shown(found)
        if shown is None:
            return show(None)
        return f"{shown:.6f}" if self.metric == "loss" else f"{shown:.2f} dB"

    @cached_property
    def best(self) -> Trial | None:
        return choose(list(self.trials))

    @cached_property
    def scored(self) -> list[Trial]:
        """Trials with a score, the best first."""
        found = [trial for trial in self.trials if trial.score is not None]
        return sorted(found, key=lambda trial: (-(trial.score or 0.0), trial.number))

    @cached_property
    def bands(self) -> list[tuple[str, list[Trial]]]:
        """The scored trials in groups of about equal size, the best first, with their names."""
        count = max(1, min(BANDS, len(self.scored) // 2))
        edges = [len(self.scored) * place // count for place in range(count + 1)]
        groups = [self.scored[low:high] for low, high in pairwise(edges)]
        if count == 1:
            return [("all trials", groups[0])] if groups[0] else []
        part = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}[count]
        ordinals = ["best", "second", "third", "fourth", "last"]
        ordinals = [*ordinals[: count - 1], "last"]
        return [(f"{word} {part}", group) for word, group in zip(ordinals, groups, strict=True)]

    @cached_property
    def importance(self) -> list[Importance]:
        return importance(
            [trial.settings for trial in self.scored],
            [float(trial.score or 0.0) for trial in self.scored],
        )

    @cached_property
    def varying(self) -> list[str]:
        """Settings that are not the same in all trials, the most important first."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        found = [
            name
            for name in names
            if len({repr(trial.settings.get(name)) for trial in self.trials}) > 1
        ]
        shares = {one.name: one.share for one in self.importance}
        return sorted(found, key=lambda name: (-shares.get(name, 0.0), name))

    def seconds(self, trial: Trial) -> float:
        """Of its epochs, of those that it took over too."""
        names = ("seconds", "validation_seconds")
        return sum(float(line.get(name, 0.0)) for line in trial.lines for name in names)

    def curve(self, trial: Trial) -> Iterator[tuple[int, float | None]]:
        """The score of each epoch, for a reader."""
        for line in trial.lines:
            yield line["epoch"], self.shown(score(line, self.metric))

    def run(self, trial: Trial) -> RunDirectory:
        return RunDirectory(SweepDirectory(self.path).trial_path(trial.number))


def text_of(value: Any) -> str:
    """A setting for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return show(None)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
