"""`n2n evaluate MODEL… SET`: the scores of models on a pair set.

`n2n evaluate MODEL… FOLDER --noise gaussian:25`: on clean images, with noise added to them.
"""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Reads, ReadsModel, Writes, device_options, job, stopping
from jobs.display.outcomes import one_line
from jobs.display.progress import Progress
from jobs.display.scores import describe, print_scores, print_table, write_parquet
from jobs.display.standings import print_standings, write_images
from jobs.processes.execute import execute
from jobs.processes.workers import Workers

if TYPE_CHECKING:
    from n2n.data import Split
    from n2n.data.photographs import Photograph
    from n2n.protocol import ContestConfig, ImageOutcome
    from n2n.scoring import Candidate, Outcome, Piece, Result, ScorerConfig

__all__ = ["main"]


@job("evaluate")
@click.argument("models", metavar="MODEL...", nargs=-1, type=ReadsModel())
@click.argument("pairs", metavar="SET", type=Reads(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), help="[default: val, if there]")
@click.option(
    "--noise",
    help="SET is a folder of clean images, and this is added: gaussian:SIGMA, gaussian:LOW-HIGH, "
    "poisson:PEAK, impulse:P, text:P or none.",
)
@click.option("--clip", is_flag=True, help="With --noise: clip and round the noisy images.")
@click.option("--grey", is_flag=True, help="With --noise: take all images as grey.")
@click.option("--seed", default=0, help="With --noise: another one draws other noise.")
@click.option(
    "--peers", is_flag=True, help="With --noise: beside the classical denoisers that are installed."
)
@click.option("--peer", "chosen", multiple=True, metavar="NAME", help="Beside this one alone.")
@click.option(
    "--tta", is_flag=True, help="With --noise: models give the mean over 8 flips and turns."
)
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
    **options: Any,
) -> int:
    """Score each MODEL (a model file, a checkpoint, a run's directory, or a shipped model).

    \b
      n2n evaluate model.safetensors sets/photos
      n2n evaluate runs/* sets/photos --workers 4 --parquet scores.parquet
      n2n evaluate model.safetensors photographs/ --noise gaussian:25 --peers

    Scores are on the scale [0, 1]. PSNR: of each image over all its pixels and channels, peak 1,
    then the mean over the images; pooled: of the mean squared error over the whole set.

    Several models: a table, the best first, by the squared error against the clean images; where
    there are none, by that estimated from the noisy pairs. Models and batches are shared out among
    the workers; the scores do not depend on how many there are (to the bit, with equal --threads).
    On a cluster, models and SET lie under the same paths on all machines.

    --noise: SET is a folder of clean images of any sizes. The noise is added in float and not
    clipped, and drawn from --seed and the image's content alone; results are rounded to 8 bits.
    PSNR and SSIM are means over the images, with the 95 % interval of such a mean (Student's t).
    The peers (nlm, bayes, visu, tv, opencv, bm3d) are told the noise's standard deviation.

    Exit codes: 0 all done; 1 some models or images could not be scored, each named; 2 nothing
    done; 3 stopped.
    """
    from n2n.data import PairSet
    from n2n.scoring import ScorerConfig, choose_split

    where = [options.pop(f"{name}_per_worker") for name in ("gpus", "cpus")]
    workers = Workers(options.pop("workers"), where[0], options.pop("address"), where[1])
    if parquet is not None:
        require_new(parquet)
    if options["noise"] is not None:
        if split is not None:
            raise click.UsageError("--split is of pair sets, and --noise of folders of images")
        place = {"device": device, "precision": precision, "threads": threads}
        return evaluate_folder(models, pairs, workers, place, as_json, parquet, **options)
    for name in ("clip", "grey", "seed", "peers", "chosen", "tta"):
        if options[name]:
            raise click.UsageError(f"--{name.replace('chosen', 'peer')} needs --noise")
    if not models:
        raise click.UsageError(f"expected a MODEL or more, then the SET, found only {pairs}")
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
    from n2n.scoring import Scoreboard, Scorer

    board = Scoreboard(config.models, split)
    if not config.models:
        return []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(lines="timed", unit="img"))
        bunches = board.bunches(workers.count)
        outcomes = execute(Scorer, fail, config, bunches, workers, stack, progress.say)
        count = len(config.models)
        for outcome in stack.enter_context(closing(outcomes)):
            board.settle(outcome)
            label = f"{board.complete} of {count} models, {board.images:,} images scored"
            progress(label, board.images, count * split.rows)
    return board.results()


def fail(piece: "Piece", reason: str) -> "Outcome":
    """Of a piece that the pool gives up."""
    from n2n.scoring import Outcome

    return Outcome(piece, reason=reason)


def evaluate_folder(
    models: Sequence[str],
    folder: Path,
    workers: Workers,
    place: dict[str, Any],
    as_json: bool,
    parquet: Path | None,
    *,
    noise: str,
    peers: bool,
    chosen: Sequence[str],
    tta: bool,
    **protocol: Any,
) -> int:
    """Score models and peers on a folder of clean images; the exit code."""
    from n2n.classical import CLASSICAL, available, missing
    from n2n.data import parse_noise
    from n2n.protocol import ContestConfig, Protocol, clean_images, look_at_model, require_peers

    require_peers(chosen)
    names = [peer.name for peer in available()] if peers else list(dict.fromkeys(chosen))
    if noise == "none" and (peers or chosen):
        raise click.UsageError("the peers need the standard deviation of a --noise, found none")
    if not models and not names:
        raise click.UsageError(f"expected a MODEL or more, or --peers, found only {folder}")
    config = ContestConfig(
        tuple(look_at_model(name) for name in dict.fromkeys(models)),
        tuple(names),
        Protocol(None if noise == "none" else parse_noise(noise), **protocol),
        **place,
        tta=tta,
    )
    images, skipped = clean_images(folder)
    for skip in skipped:
        click.echo(one_line(f"skipped: {skip.name}: {skip.reason}"), err=True)
    for name in names:
        if CLASSICAL[name].note:
            click.echo(f"note: {name}: {CLASSICAL[name].note}", err=True)
    with stopping():
        outcomes = score_images(config, images, workers)
    print_standings(config, folder, outcomes, missing() if peers else [], as_json=as_json)
    if parquet is not None:
        write_images(parquet, config, folder, outcomes)
    return 1 if any(outcome.reason for outcome in outcomes) else 0


def score_images(
    config: "ContestConfig", images: "Sequence[Photograph]", workers: Workers
) -> "list[ImageOutcome]":
    """One outcome for each image, in their order. JobFailed where none could be scored."""
    from n2n.errors import JobFailed
    from n2n.protocol import Contest, ImageOutcome

    def fail(image: "Photograph", reason: str) -> ImageOutcome:
        return ImageOutcome(image, reason=reason)

    found: dict[Photograph, ImageOutcome] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(lines="timed", unit="img"))
        bunches = ([image] for image in images)
        outcomes = execute(Contest, fail, config, bunches, workers, stack, progress.say)
        for outcome in stack.enter_context(closing(outcomes)):
            found[outcome.item] = outcome
            if outcome.reason:
                progress.say(one_line(f"failed: {outcome.item.name}: {outcome.reason}"))
            label = f"{len(found)} of {len(images)} images scored"
            progress(label, len(found), len(images))
    if all(outcome.reason for outcome in found.values()):
        raise JobFailed("no image could be scored; the reasons are above")
    return [found[image] for image in images]


def require_new(path: Path) -> None:
    """InvalidValue unless a file can be made there."""
    from n2n.errors import InvalidValue

    if path.exists():
        raise InvalidValue(f"{path}: expected a new file for the scores, found one; choose another")
    if not path.parent.is_dir():
        raise InvalidValue(f"{path}: expected a folder to write to, found no {path.parent}")


if __name__ == "__main__":
    main()
