"""The report of a sweep: what was found, what matters, and every trial."""

from pathlib import Path

from n2n.report import Options, Report
from n2n.report.blocks import Absent, Cell, Columns, Command, Facts, Table, Text
from n2n.report.page import Block, Page, Section
from n2n.report.sweep.account import Account, text_of
from n2n.report.sweep.charts import cost, curves, importance_bars
from n2n.report.sweep.coordinates import coordinates
from n2n.report.sweep.table import details, state_of, trial_table
from n2n.sweep.winner import command_of

__all__ = ["make"]

IMPORTANCE = (
    "How much of the difference between trials goes with one setting alone: trials are ranked by "
    "score and grouped by the setting's values, and the bar is the share of the ranks' variance "
    "that lies between the groups, less what groups by chance would show (η² of the Kruskal-Wallis "
    "statistic). A bar that ends left of its mark may be chance: without any effect, 19 of 20 do. "
    "It does not see settings that matter only together, and compares trials that were stopped "
    "early by what they had reached."
)


def make(path: Path, options: Options) -> Report:
    """The report of the sweep at `path`, also while it runs."""
    account = Account.of(path)
    sections = [
        _found(account),
        *([_settings(account)] if len(account.scored) > 1 else []),
        *([_training(account)] if account.scored else []),
        *([_trials(account, options)] if account.trials else []),
        _origin(account),
    ]
    title = path.resolve().name
    return Report(Page("Sweep", title, sections, _summary(account), _highlights(account, options)))


def _summary(account: Account) -> str:
    search, scheduler = account.config["search"], account.config["scheduler"]
    return (
        f"{len(account.trials)} trials of up to {account.config['max_epochs']} epochs on "
        f"{account.settings['set']}, by {search} search and the scheduler {scheduler}; compared by "
        f"their {account.metric_name} on the validation pairs."
    )


def _highlights(account: Account, options: Options) -> list[tuple[str, str]]:
    states = [state_of(trial, options) for trial in account.trials]
    found = (
        [(account.number(account.best.score), f"of the best, trial {account.best.number}")]
        if account.best
        else []
    )
    for state in ("done", "stopped", "failed", "running", "unfinished"):
        if state in states:
            word = "stopped by the scheduler" if state == "stopped" else state
            found.append((f"{states.count(state):,}", word))
    return found


def _found(account: Account) -> Section:
    best = account.best
    if best is None:
        why = "no trial has ended an epoch"
        if reasons := [trial.reason for trial in account.trials if trial.reason]:
            why += f"; the first that failed: {reasons[0]}"
        return Section("best", "The best trial", [Absent("There is none yet:", f"{why}.")])
    facts: list[tuple[str, Cell]] = [
        ("trial", best.number),
        (account.metric_name, account.number(best.score)),
        ("reached after", f"{best.best_epoch} of {best.epochs} epochs"),
        *(
            (name, text_of(best.settings[name]))
            for name in account.varying
            if name in best.settings
        ),
    ]
    run = account.run(best).read_settings()
    again = account.path.with_name(f"{account.path.name}-winner")
    command, note = command_of(run, best, again)
    blocks: list[Block] = [Facts(facts)]
    if command is not None:
        blocks.append(Command(f"Trains it again{f' ({note})' if note else ''}", command))
    elif note is not None:
        blocks.append(Absent("No command trains it again:", f"{note}."))
    return Section("best", "The best trial", blocks)


def _settings(account: Account) -> Section:
    blocks: list[Block] = []
    if account.varying:
        blocks.append(coordinates(account))
    if account.importance:
        blocks += [Text(IMPORTANCE), Columns([importance_bars(account), _groups(account)])]
    else:
        blocks.append(Absent("Importance of settings", "cannot be told from so few trials."))
    if any(trial.inherits for trial in account.trials):
        blocks.append(Absent("Settings changed while trials trained:", "the last ones count here."))
    return Section("settings", "What matters", blocks)


def _groups(account: Account) -> Table:
    rows = [
        (one.name, values, f"{mean:.2f}")
        for one in account.importance
        for values, mean in one.groups
    ]
    caption = "Mean place of the trials with such values: 1 is the best of all, 0 the worst"
    return Table(caption, ["setting", "values", "mean place"], rows)


def _training(account: Account) -> Section:
    return Section("training", "Cost and learning", [cost(account), curves(account)])


def _trials(account: Account, options: Options) -> Section:
    failed = [
        (trial.number, trial.reason or "no reason was recorded")
        for trial in account.trials
        if trial.state == "failed"
    ]
    blocks: list[Block] = [trial_table(account, options)]
    if failed:
        blocks.append(Table("Trials that failed, and why", ["trial", "reason"], failed))
    return Section("trials", "Trials", [*blocks, details(account, options)])


def _origin(account: Account) -> Section:
    facts: list[tuple[str, Cell]] = [
        ("pair set", account.settings["set"]),
        ("its digest", account.settings["digest"]),
        *((name.replace("_", " "), text_of(value)) for name, value in account.config.items()),
    ]
    space = [
        (name, _domain(one), _condition(one))
        for name, alternatives in account.settings["space"].items()
        if isinstance(alternatives, list)
        for one in alternatives
    ]
    table = Table("The space", ["setting", "values", "where"], space)
    return Section("made", "How it was made", [Facts(facts), table])


def _domain(alternative: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value}".replace("[", "").replace("]", "")
        for name, value in alternative.items()
        if name != "when"
    )


def _condition(alternative: dict[str, object]) -> str:
    when = alternative.get("when")
    if not isinstance(when, dict):
        return "always"
    return ", ".join(f"{name} is {value}" for name, value in when.items())
