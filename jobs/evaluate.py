"""`n2n evaluate MODEL… SET`: the scores of models on a pair set."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Reads, Writes, device_options, job, stopping
from jobs.display.outcomes import one_line
from jobs.display.progress import Progress
from jobs.display.scores import describe, print_scores, print_table, write_parquet
from jobs.processes.workers import Workers

if TYPE_CHECKING:
    from n2n.data import Split
    from n2n.scoring import Candidate, Outcome, Piece, Result, ScorerConfig

__all__ = ["main"]


@job("evaluate")
@click.argument("models", metavar="MODEL...", nargs=-1, type=Reads())
@click.argument("pairs", metavar="SET", type=Reads(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), help="[default: val, if there]")
@device_options("fp32, tf32, bf16 or fp16")
@click.option("--workers", default=1, help="Processes; more than one run on Ray.")
@click.option(
    "--cpus-per-worker",
    type=float,
    help="Of each of several workers.  [default: its --threads, else an even share]",
)
@click.option(
    "--gpus-per-worker",
    type=float,
    help="Of each of several workers, such as 0.25.  [default: 1 with --device cuda]",
)
@click.option("--address", help="Of a running Ray cluster: HOST:PORT, or auto to find it.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@click.option(
    "--parquet",
    type=Writes(path_type=Path),
    metavar="FILE",
    help="Write the scores to a new file, too: a row for each model.",
)
def main(
    models: tuple[str, ...],
    pairs: Path,
    split: str | None,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    parquet: Path | None,
    **where: Any,
) -> int:
    """Score each MODEL (a model file, a checkpoint, or a run's directory) on the pair set SET.

    \b
      n2n evaluate model.safetensors sets/photos
      n2n evaluate runs/* sets/photos --workers 4 --parquet scores.parquet

    Scores are on the scale [0, 1]. PSNR: of each image over all its pixels and channels, peak 1,
    then the mean over the images; pooled: of the mean squared error over the whole set.

    Several models: a table, the best first, by the squared error against the clean images; where
    there are none, by that estimated from the noisy pairs. Models and batches are shared out among
    the workers; the scores do not depend on how many there are (to the bit, with equal --threads).
    On a cluster, models and SET lie under the same paths on all machines.

    Exit codes: 0 all done; 1 some models could not be scored, each named; 2 nothing done; 3
    stopped.
    """
    from n2n.data import PairSet
    from n2n.scoring import ScorerConfig, choose_split

    workers = Workers(
        where["workers"], where["gpus_per_worker"], where["address"], where["cpus_per_worker"]
    )
    if not models:
        raise click.UsageError(f"expected a MODEL or more, then the SET, found only {pairs}")
    if parquet is not None:
        require_new(parquet)
    found = PairSet.open(pairs)
    chosen = choose_split(found, split)
    with stopping():
        candidates, refused = look(models, chosen)
        config = ScorerConfig(
            tuple(candidates),
            pairs=str(pairs.resolve()),
            digest=found.digest,
            split=chosen.name,
            device=device,
            precision=precision,
            threads=threads,
        )
        scored = score(config, chosen, workers)
    results = sorted([*scored, *refused], key=lambda result: models.index(result.name))
    told = describe(config, pairs)
    if len(models) == 1:
        print_scores(results[0], told, as_json=as_json)
    else:
        print_table(results, told, as_json=as_json)
    if parquet is not None:
        write_parquet(parquet, results, told)
    return 1 if any(result.scores is None for result in results) else 0


def look(names: Sequence[str], split: "Split") -> "tuple[list[Candidate], list[Result]]":
    """The models that can be scored, each once, and what is wrong with the others.

    A single one that cannot be is an error.
    """
    from n2n.errors import ModelFileError, ShapeError
    from n2n.scoring import Result, look_at

    found: dict[str, Candidate] = {}  # by the file's path
    refused = []
    for name in dict.fromkeys(names):
        try:
            model = look_at(name, split)
        except (ModelFileError, ShapeError) as error:
            if len(names) == 1:
                raise
            refused.append(Result(name, None, None, str(error).removeprefix(f"{name}: ")))
            continue
        if model.path in found:
            note = f"note: {name} is {found[model.path].name}, which is scored once"
            click.echo(one_line(note), err=True)
        found.setdefault(model.path, model)
    return list(found.values()), refused


def score(config: "ScorerConfig", split: "Split", workers: Workers) -> "list[Result]":
    """Score the models of the config, in this process or on Ray, showing how far it is."""
    from n2n.scoring import Scoreboard

    board = Scoreboard(config.models, split)
    if not config.models:
        return []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(lines="timed", unit="img"))
        outcomes = execute(config, board.bunches(workers.count), workers, stack, progress.say)
        count = len(config.models)
        for outcome in stack.enter_context(closing(outcomes)):
            board.settle(outcome)
            label = f"{board.complete} of {count} models, {board.images:,} images scored"
            progress(label, board.images, count * split.rows)
    return board.results()


def execute(
    config: "ScorerConfig",
    bunches: "Iterable[Sequence[Piece]]",
    workers: Workers,
    stack: ExitStack,
    say: Callable[[str], None],
) -> "Generator[Outcome, None, None]":
    """The outcomes of all pieces. What cannot be used here is refused before anything starts."""
    from n2n.device import use_precision
    from n2n.scoring import Scorer

    if not workers.on_ray:
        yield from Scorer(config).execute(bunches)
        return
    from jobs.processes.pool import run_on_ray, threads_for

    cpus, gpus = workers.share(config.device, config.threads, stack)
    if not gpus:
        use_precision(config.precision, "cpu")
    threads = config.threads or threads_for(cpus)
    each = f"{gpus:.3g} GPU" if gpus else f"cpu ({threads} threads)"
    say(f"device: {workers.count} workers on Ray, each {each}, {config.precision}")
    config = replace(config, device="cuda" if gpus else "cpu", threads=threads)
    yield from run_on_ray(
        partial(Scorer, config),
        bunches,
        workers=workers.count,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        address=workers.address,
        fail=fail,
        warn=say,
    )


def fail(piece: "Piece", reason: str) -> "Outcome":
    """Of a piece that the pool gives up."""
    from n2n.scoring import Outcome

    return Outcome(piece, reason=reason)


def require_new(path: Path) -> None:
    """InvalidValue unless a file can be made there."""
    from n2n.errors import InvalidValue

    if path.exists():
        raise InvalidValue(f"{path}: expected a new file for the scores, found one; choose another")
    if not path.parent.is_dir():
        raise InvalidValue(f"{path}: expected a folder to write to, found no {path.parent}")


if __name__ == "__main__":
    main()
