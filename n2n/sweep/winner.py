"""The best trial of a sweep: a copy of its run, and the command line that trains it again."""

import secrets
import shlex
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n2n.config import PRESETS, TrainConfig
from n2n.files import TEMPORARY
from n2n.sweep.trials import Trial

__all__ = ["Winner", "choose", "command_of", "copy_run", "options_of"]

FLAGS = ("flips", "turns", "swap")


@dataclass(frozen=True)
class Winner:
    """The best trial; where its run is copied to; how to train it again.

    command: None where no command can, since settings changed while it trained. note: what to know
    of the command, for a reader.
    """

    trial: Trial
    path: Path
    command: str | None
    note: str | None = None


def choose(trials: list[Trial]) -> Trial | None:
    """The trial with the best score; one that failed later only where there is no other."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(
        scored,
        key=lambda trial: (trial.state != "failed", trial.score, -trial.number),
        default=None,
    )


def copy_run(source: Path, destination: Path) -> None:
    """Copy a run directory; one that is there is replaced when the copy is complete."""
    temporary, old = (
        destination.with_name(TEMPORARY.replace("*", secrets.token_hex(8))) for _ in range(2)
    )
    try:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(TEMPORARY))
        if destination.exists():
            destination.rename(old)
        temporary.rename(destination)
    finally:
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)


def command_of(settings: dict[str, Any], trial: Trial, run: Path) -> tuple[str | None, str | None]:
    """The command line that trains a trial again in `run`, and a note on it.

    settings: of its config.yaml. The same weights on the same machine: threads are named, too.
    """
    if trial.inherits:
        return None, (
            "its settings changed while it trained, so that no one command line trains it again; "
            "best/config.yaml has the last"
        )
    note = None
    if trial.epochs < settings["epochs"]:
        stopped = f"it was stopped after {trial.epochs} of {settings['epochs']} epochs"
        if settings["schedule"] == "cosine":  # which has an end of its own
            note = (
                f"{stopped}, and the command trains them all; epoch {trial.best_epoch} is the same"
            )
        else:
            settings = {**settings, "epochs": trial.epochs}
            note = f"{stopped}, and so is the command"
    words = ["n2n", "train", str(settings["set"]), "--run", str(run)]
    return shlex.join([*words, *options_of(settings, trial.settings)]), note


def options_of(settings: dict[str, Any], chosen: Container[str] = ()) -> Iterator[str]:
    """The options of `n2n train` for the settings of a config.yaml.

    What differs from the preset, what a sweep has chosen, and what depends on the machine.
    """
    preset = settings["preset"]
    base = {**vars(TrainConfig()), **PRESETS[preset]}
    always = {"model", "optimizer", "lr", "epochs", "seed", "device", "threads"}
    always |= {"memory_limit", "snapshots"}
    yield from ("--preset", preset)
    for name, value in settings.items():
        if name in ("set", "digest", "preset") or name not in base:
            continue
        if name == "model_config":
            for key, number in value.items():
                yield from ("--set", f"{key}={number}")
        elif name not in always and name not in chosen and value == base[name]:
            continue
        elif name in FLAGS:
            yield f"--{name}" if value else f"--no-{name}"
        elif name == "memory_limit":
            yield from ("--memory", f"{value / 2**30!r}".removesuffix(".0"))
        else:
            yield from (f"--{name.replace('_', '-')}", str(value))
