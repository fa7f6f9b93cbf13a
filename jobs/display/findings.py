"""What `n2n sweep` prints: its plan, and what came out, for readers and for programs."""

from typing import TYPE_CHECKING, Any

import click

from jobs.command import print_json
from jobs.display.board import score_text, settings_text

if TYPE_CHECKING:
    from n2n.data import PairSet
    from n2n.sweep import Space, SweepConfig, SweepDirectory, Trial, Winner

__all__ = ["described", "print_plan", "report"]


def described(config: "SweepConfig") -> str:
    """How trials are chosen, and what each gets."""
    gpus = f" and {config.gpus_per_trial:g} GPU" if config.gpus_per_trial else ""
    return (
        f"{config.search} search, scheduler {config.scheduler}, metric {config.metric}; each trial "
        f"{config.cpus_per_trial:g} CPU{gpus}, {config.threads} threads, {config.device}, "
        f"{config.precision}"
    )


def report(
    config: "SweepConfig", directory: "SweepDirectory", winner: "Winner | None", *, as_json: bool
) -> None:
    """What came out. JobFailed if no trial has a score."""
    from n2n.errors import JobFailed

    trials = directory.trials()
    if winner is None:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise JobFailed(
            f"no trial has a score, of {len(trials)} that were begun"
            + (f"; the first that failed: {reasons[0]}" if reasons else "")
        )
    metric = str(config.metric)
    if as_json:
        print_json(
            {
                "metric": metric,
                "trials": [as_record(trial, metric) for trial in trials],
                "best": {
                    **as_record(winner.trial, metric),
                    "run": str(winner.path),
                    "command": winner.command,
                    "note": winner.note,
                },
            }
        )
        return
    states = [trial.state for trial in trials]
    counts = ((states.count(state), state) for state in ("done", "stopped", "failed", "begun"))
    words = {"begun": "not finished: the same command goes on"}
    click.echo(", ".join(f"{count} {words.get(state, state)}" for count, state in counts if count))
    best = winner.trial
    click.echo(
        f"best: trial {best.number}, epoch {best.best_epoch} of {best.epochs}, "
        f"{score_text(best.score or 0.0, metric)}: {settings_text(best.settings)}"
    )
    click.echo(f"its run: {winner.path}; all epochs: {directory.table_path}")
    if winner.command is not None:
        click.echo(f"to train it again:\n{winner.command}")
    if winner.note is not None:
        click.echo(winner.note)


def as_record(trial: "Trial", metric: str) -> dict[str, Any]:
    """A trial for `--json`; its score as the metric says it, of a loss the lower is better."""
    score = trial.score if trial.score is None or metric != "loss" else -trial.score
    return {
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "settings": trial.settings,
        "epochs": trial.epochs,
        "best_epoch": trial.best_epoch,
        "score": score,
    }


def print_plan(
    config: "SweepConfig",
    space: "Space",
    pairs: "PairSet",
    directory: "SweepDirectory",
    address: str | None,
    *,
    as_json: bool,
) -> None:
    """The space, the trials and where they would run; nothing is started."""
    import yaml

    known = {trial.number: trial for trial in directory.trials()}
    count = config.count(space)
    proposed = config.search == "optuna"
    samples = [] if proposed else list(config.samples(space))
    place = placement(config, count, address)
    if as_json:
        plan = {"space": space.as_dict(), "config": config.as_dict(), "placement": place}
        print_json({**plan, "count": count, "trials": samples})
        return
    click.echo(yaml.safe_dump(space.as_dict(), sort_keys=False, default_flow_style=None).rstrip())
    click.echo()
    for number, sample in enumerate(samples):
        state = known[number].state if number in known else ""
        click.echo(f"trial {number:4d}  {settings_text(sample)}{f'  ({state})' if state else ''}")
    if proposed:
        click.echo(f"{count} trials, each proposed by optuna from those before it")
    click.echo()
    click.echo(
        f"{count} trials of up to {config.max_epochs} epochs on {pairs.train.rows:,} pairs; "
        f"{described(config)}; {place}"
    )


def placement(config: "SweepConfig", count: int, address: str | None) -> str:
    """How many trials there is room for at a time."""
    if address is not None:
        return f"on the Ray cluster at {address}"
    import torch

    from n2n.data import default_workers

    cores = default_workers()
    room = int(cores / config.cpus_per_trial + 1e-9)
    if config.gpus_per_trial:
        gpus, share = torch.cuda.device_count(), config.gpus_per_trial
        room = min(room, gpus * int(1 / share) if share < 1 else int(gpus / share))
    return f"{min(room, count)} at a time on the {cores} cores of this machine"
