"""`n2n train SET --run DIR`: train a denoiser on a pair set, or resume.

A preset gives every setting, the options change some of them.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import (
    Reads,
    ReadsModel,
    Writes,
    device_options,
    gibibytes,
    job,
    print_json,
)
from jobs.display.epochs import Epochs
from jobs.display.onlookers import Listener, Onlookers
from jobs.display.progress import Progress
from jobs.together.team import Team, Training

if TYPE_CHECKING:
    from n2n.data import SingleSet, TrainingSet
    from n2n.trainer import TrainConfig

__all__ = ["main"]

# How --stream-from draws where no option asks for anything.
PLAIN = {"clipped": False, "grey_share": 0.0, "clipped_inputs": 0.0, "exposures": 1}


def parse_setting(text: str) -> tuple[str, int]:
    """NAME=INTEGER of `--set`."""
    name, equals, value = text.partition("=")
    try:
        number = int(value)
    except ValueError:
        equals = ""
    if not equals:
        raise click.BadParameter(f"expected NAME=INTEGER such as width=64, got {text!r}")
    return name.strip(), number


@job("train")
@click.argument("pairs", metavar="SET", type=Reads(path_type=Path))
@click.option("--run", type=Writes(path_type=Path), required=True, help="The run's directory.")
@click.option(
    "--preset",
    help="standard, fast, published or best.  [default: standard; published for --model seed]",
)
@click.option("--model", help="Architecture: n2n, seed or unet.")
@click.option("--set", "settings", multiple=True, metavar="NAME=N", help="Its width, depth, …")
@click.option(
    "--stream-from",
    "folder",
    type=Reads(path_type=Path),
    help="Photographs to draw training pairs from, anew in every epoch.",
)
@click.option("--images", type=int, help="Pairs an epoch of --stream-from.  [default: as in SET]")
@click.option("--single", is_flag=True, help="SET is a folder of noisy images: train on these.")
@click.option("--size", type=int, help="Pixels a side of what --single trains on.  [default: 32]")
@click.option("--grey", is_flag=True, help="With --single: take the images as grey.")
@click.option(
    "--clip-noise/--no-clip-noise",
    default=False,
    help="Round and clip what --stream-from draws to 8 bits, as in SET.",
)
@click.option(
    "--grey-share",
    default=0.0,
    help="Of what --stream-from draws: so much in grey, with one noise in all channels.",
)
@click.option(
    "--clip-inputs",
    default=0.0,
    help="Of what --stream-from draws: so many inputs as in files of 8 bits, the targets whole.",
)
@click.option(
    "--exposures",
    default=1,
    help="Noisy views whose mean is a target of --stream-from.",
)
@click.option("--epochs", type=int, help="Times through the set.")
@click.option("--batch-size", type=int, help="Pairs a step.")
@click.option("--optimizer", help="sgd, adam, adamw or muon.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--momentum", type=float, help="Of sgd.")
@click.option("--weight-decay", type=float)
@click.option("--schedule", help="constant, step or cosine.")
@click.option("--warmup", type=float, help="Epochs of the cosine schedule's rise.")
@click.option("--decay-epochs", type=int, help="Epochs between the step schedule's drops.")
@click.option("--decay", type=float, help="Factor of each drop.")
@click.option("--ema", type=float, help="Decay of a running average of the weights; 0: none.")
@click.option("--clip", type=float, help="Largest norm of the gradients; 0: any.")
@click.option("--patience", type=int, help="Epochs that are no better, to end after; 0: never.")
@click.option("--loss", help="mse, l1, l0 (annealed), relative-mse or log-mse.")
@click.option("--flips/--no-flips", default=None, help="Augment by flips.")
@click.option("--turns/--no-turns", default=None, help="Augment by quarter turns.")
@click.option("--swap/--no-swap", default=None, help="Exchange input and target at random.")
@click.option(
    "--from", "source", type=ReadsModel(), metavar="NAME|FILE", help="A model to begin with."
)
@click.option("--seed", type=int, help="Of the weights, the order and the augmentation.")
@device_options("fp32, tf32 or bf16")
@click.option("--workers", default=1, help="Processes that share every batch; more than 1: on Ray.")
@click.option("--cpus-per-worker", type=float, help="[default: --threads, or a fair share]")
@click.option("--gpus-per-worker", type=float, help="0 or 1.  [default: 1 where there are GPUs]")
@click.option("--address", help="Of a running Ray cluster, HOST:PORT or auto.")
@click.option("--max-failures", type=int, help="Deaths of workers to go on after.  [default: 3]")
@click.option(
    "--memory",
    type=float,
    help="GiB of pairs to hold; a larger set streams, in an order that follows from this.  "
    "[default: 2, or a part of what is free; a resumed run's own]",
)
@click.option("--checkpoint-seconds", type=float, help="Between checkpoints in an epoch.")
@click.option(
    "--snapshots",
    default="1,10,25,50",
    metavar="EPOCHS",
    help="Whose models are kept in RUN/snapshots, for n2n report; '': none.",
)
@click.option("--report", is_flag=True, help="Keep RUN/report/index.html up while it trains.")
@click.option("--tensorboard", is_flag=True, help="Write event files to RUN/tensorboard.")
@click.option("--json", "as_json", is_flag=True, help="Print the last epoch's metrics as JSON.")
def main(
    pairs: Path,
    run: Path,
    preset: str | None,
    settings: tuple[str, ...],
    source: str | None,
    folder: Path | None,
    images: int | None,
    clip_noise: bool,
    grey_share: float,
    clip_inputs: float,
    exposures: int,
    single: bool,
    size: int | None,
    grey: bool,
    device: str,
    threads: int | None,
    workers: int,
    cpus_per_worker: float | None,
    gpus_per_worker: float | None,
    address: str | None,
    max_failures: int | None,
    memory: float | None,
    report: bool,
    tensorboard: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a denoiser on the pair set SET, in the directory --run.

    --preset standard: the default network in 26 epochs, with averaged weights, flips, turns and
    swaps. --preset fast: the same in 5 epochs. --preset published: the seed network in 50 epochs of
    SGD. --preset best: a deeper default network in 40 epochs, for who can wait. An option given
    replaces the preset's value; what SET does not allow of a preset is left out, and said.
    RUN/config.yaml names every setting.

    The same command again resumes a run that was stopped, and ends with the same weights; a run
    keeps its preset. The best model so far is RUN/model.safetensors, chosen by its pooled PSNR on
    the validation pairs: against their clean images, or estimated from the noisy pairs alone.

    --stream-from FOLDER: in place of SET's training pairs, crops and noise drawn anew in every
    epoch from the photographs in FOLDER and below. Size, noise and validation are SET's, and what
    that was made of is left out. Photographs stay decoded as far as --memory goes.

    --single: SET is a folder of noisy images, of which there is one of each scene. Pairs are two
    sub-samples of one crop, of neighbouring pixels (Neighbor2Neighbor, Huang et al. 2021), --images
    of them an epoch (10,000). Each epoch is scored by the squared error between such sub-samples of
    a tenth of the images, held out. What takes back that neighbours are not quite the same counts
    for more from epoch to epoch, so that the last one is the model; with --from, where all of it
    counts from the beginning, the best by that score. For noise that is independent from pixel to
    pixel, which that of a JPEG, of a shrunk or demosaiced picture is not: there the model learns to
    keep it.

    --from MODEL: train on a model file, a run or a shipped model, from its architecture and
    weights. The run keeps a copy. --set overlap=N: with more overlapping blocks than it has.

    --workers N: processes on Ray, on this machine or, with --address, on a cluster whose machines
    all reach SET and RUN under the same paths. They share every batch and give the same model as
    one process, up to the rounding of sums; any number of them may resume a run. --threads and
    --memory: of each worker, and of all together. When a worker or its machine dies, all begin
    again at the last checkpoint, with fewer if fewer find a place.
    """
    from n2n.config import configure
    from n2n.device import keep_freed_memory
    from n2n.memory import pairs_to_hold
    from n2n.run import RunDirectory
    from n2n.shipped import locate
    from n2n.start import Start, resumed

    explicit = {name: value for name, value in options.items() if value is not None}
    if settings:
        explicit["model_config"] = dict(parse_setting(text) for text in settings)
    if memory is not None:
        explicit["memory_limit"] = gibibytes(memory, "--memory")
    team = Team(workers, cpus_per_worker, gpus_per_worker, address, max_failures)
    with ExitStack() as stack:
        team, explicit["device"], explicit["threads"] = team.machine_of_each(device, threads, stack)
        keep_freed_memory()
        begun = RunDirectory(run).read_settings()
        explicit = resumed(begun, explicit, preset)
        own = explicit.pop("preset", None)  # with every setting that it had
        start = locate(source) if source is not None else None
        if start is not None:
            explicit = Start.read(start).settings(explicit)
        drawn = {
            "clipped": clip_noise,
            "grey_share": grey_share,
            "clipped_inputs": clip_inputs,
            "exposures": exposures,
        }
        if single:
            if folder is not None or drawn != PLAIN or team.on_ray:
                raise click.UsageError("--single trains in one process, without --stream-from")
            found: TrainingSet = open_single(pairs, size=size, rows=images, grey=grey)
        elif size is not None or grey:
            raise click.UsageError("--size and --grey are --single's; pass it, or leave them out")
        else:
            found = open_set(pairs, folder, rows=images, **drawn)
        held = begun.get("memory_limit") or pairs_to_hold(found.train.nbytes)
        explicit.setdefault("memory_limit", held)
        config, left_out = configure(found, preset if own is None else None, **explicit)
        config = replace(config, preset=own or config.preset)
        for line in left_out:
            click.echo(line, err=True)
        trainer = train_with_progress(
            config, found, run, team, start=start, report=report, tensorboard=tensorboard
        )
    click.echo(
        f"{trainer.position.epoch} epochs done; best: epoch {trainer.position.best_epoch}, "
        f"{trainer.run.model_path}",
        err=as_json,
    )
    if as_json:
        print_json(trainer.run.metrics[-1])


def open_set(pairs: Path, folder: Path | None, *, rows: int | None, **drawn: Any) -> "TrainingSet":
    """The pair set, its training pairs drawn from the photographs in a folder, if there is one.

    rows, drawn: how many and how, as `n2n.data.stream_from` takes it.
    """
    from n2n.data import PairSet, stream_from
    from n2n.errors import InvalidValue

    found = PairSet.open(pairs)
    if folder is None:
        if rows is not None or drawn != PLAIN:
            raise InvalidValue(
                "--images, --clip-noise, --grey-share, --clip-inputs and --exposures are "
                "--stream-from's; name a folder, or leave them out"
            )
        return found
    with Progress() as progress:
        streamed, line = stream_from(found, folder, rows=rows, progress=progress, **drawn)
    click.echo(line, err=True)
    return streamed


def open_single(folder: Path, *, grey: bool, **given: int | None) -> "SingleSet":
    """Crops of the noisy images in a folder; given: size and rows, where they are."""
    from n2n.data import single_images

    wanted = {name: value for name, value in given.items() if value is not None}
    with Progress() as progress:
        found, line = single_images(folder, grey=grey, progress=progress, **wanted)
    click.echo(line, err=True)
    return found


def train_with_progress(
    config: "TrainConfig",
    pairs: "TrainingSet",
    run: Path,
    team: Team | None = None,
    *,
    start: Path | None = None,
    report: bool = False,
    tensorboard: bool = False,
) -> Training:
    """Train or resume to the end, showing how far it is; signals stop it with a checkpoint."""
    team = team or Team()

    def events() -> Listener:
        from n2n.tensorboard import RunEvents

        return RunEvents(run)

    def hear(line: dict[str, Any]) -> None:
        progress.epoch(line)
        onlookers.hear(line)

    with (
        Epochs(team) as progress,
        Onlookers(
            run if report else None,
            events if tensorboard else None,
            progress.say,
            threads=config.threads,
        ) as onlookers,
    ):
        trainer = team.trainer(
            config,
            pairs,
            run,
            on_batch=progress.batch,
            on_epoch=hear,
            warn=progress.say,
            start=start,
        )
        progress.begin(trainer)
        with stopping(trainer):
            trainer.train()
    return trainer


@contextmanager
def stopping(trainer: Training) -> Iterator[None]:
    """Ctrl-C, SIGTERM, a closed terminal end the batch, save and stop; a second one at once."""

    def stop(number: int, frame: Any) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
