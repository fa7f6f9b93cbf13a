"""`n2n sweep SET --run DIR`: many trials of a space of settings, on Ray; the best one is kept.

The space, its YAML and what the directory holds: `n2n.sweep`.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Reads, Writes, gibibytes, job
from jobs.display.board import Board
from jobs.display.findings import described, print_plan, report
from jobs.display.onlookers import Listener, Onlookers

if TYPE_CHECKING:
    from n2n.data import PairSet
    from n2n.sweep import Event, Space, SweepConfig, SweepDirectory, Winner

__all__ = ["main"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds of 90s, 30m, 8h, 1d or 1h30m."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise click.BadParameter(
            f"expected a time such as 90s, 30m or 8h, got {text!r}", param_hint="--time-budget"
        )
    parts = re.findall(r"([\d.]+)([smhd])", text)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


@job("sweep")
@click.argument("pairs", metavar="SET", type=Reads(path_type=Path))
@click.option("--run", type=Writes(path_type=Path), required=True, help="The sweep's directory.")
@click.option("--space", type=Reads(path_type=Path), help="YAML, as above.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=DOMAIN",
    help="A parameter, in place of the space's: lr=log:1e-4..5, width=int:16..64:8, "
    "optimizer=sgd,muon, momentum=0..0.9, loss=mse. May be repeated.",
)
@click.option(
    "--preset",
    help="fast or published: what the space does not name.  [default: the "
    "one for each trial's model]",
)
@click.option("--trials", type=int, help="How many.  [default: 16, or all of a grid]")
@click.option("--max-epochs", type=int, help="Of a trial.  [default: 10]")
@click.option("--scheduler", help="asha, pbt or none.  [default: asha]")
@click.option("--grace", type=int, help="Epochs before asha or pbt act on a trial.  [default: 1]")
@click.option("--reduction", type=int, help="asha lets one of so many go on.  [default: 3]")
@click.option("--search", help="random, grid or optuna.  [default: random]")
@click.option(
    "--metric",
    help="psnr, estimated-psnr or loss.  [default: the first of these that SET can give]",
)
@click.option("--cpus-per-trial", type=float, help="Such as 2, or 0.5.  [default: 1]")
@click.option("--gpus-per-trial", type=float, help="Such as 1, or 0.25.  [default: 1 with a GPU]")
@click.option("--time-budget", help="Such as 90s, 30m or 8h; what is not done by then can go on.")
@click.option("--seed", type=int, help="Of the samples and of every trial.  [default: 0]")
@click.option("--address", help="Of a running Ray cluster: HOST:PORT, or auto to find it.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--precision", help="Of matrix products: fp32, tf32 or bf16.  [default: fp32]")
@click.option(
    "--memory", type=float, help="GiB of pairs to hold; a larger set streams.  [default: 2]"
)
@click.option("--checkpoint-seconds", type=float, help="Between checkpoints in an epoch.")
@click.option("--report", "with_report", is_flag=True, help="Keep DIR/report/index.html up.")
@click.option("--tensorboard", is_flag=True, help="Write event files to DIR/tensorboard.")
@click.option("--json", "as_json", is_flag=True, help="Print the trials and the best as JSON.")
@click.option("--dry-run", is_flag=True, help="Print the space, the trials and their placement.")
def main(
    pairs: Path,
    run: Path,
    space: Path | None,
    settings: tuple[str, ...],
    preset: str | None,
    address: str | None,
    device: str,
    with_report: bool,
    tensorboard: bool,
    as_json: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Try settings on the pair set SET, and keep the best denoiser, in the directory --run.

    \b
      n2n sweep sets/mine --run sweeps/mine --dry-run
      n2n sweep sets/mine --run sweeps/mine --set model=n2n --set batch_size=32,64 --trials 32
      n2n sweep sets/mine --run sweeps/mine --space space.yaml --search optuna --time-budget 8h

    Every trial trains on SET with settings from the space. The default, which --dry-run prints,
    lies around the published recipe. A space names settings of `n2n train`, and of its networks:
    width, depth (unet), hidden and blocks (n2n). In YAML:

    \b
      model: [seed, unet]                        # a choice
      optimizer: [sgd, adamw]
      lr:                                        # the first whose condition holds
        - {log: [1, 20], when: {optimizer: sgd}}
        - {log: [5.0e-4, 1.0e-2], when: {optimizer: adamw}}
      momentum: {uniform: [0, 0.9]}              # means something for sgd alone: left out else
      width: {int: [16, 64], step: 8}            # or log: true
      depth: {int: [1, 3], when: {model: unet}}
      loss: mse                                  # one value
      preset: published                          # of all that is not named

    asha stops trials that are behind others; pbt lets them take over the weights of better ones,
    with changed settings. Trials are compared on the validation pairs: by their PSNR against the
    clean images, by that estimated from noisy pairs alone, or by their squared error.

    The same command resumes a sweep that was stopped, where --trials, --time-budget and what a
    trial gets may change; options not given are as they were. A trial that diverges or runs out
    of memory has failed, and the sweep goes on. DIR/best is the best trial's run, ready for
    `n2n evaluate` and `denoise`; DIR/trials.parquet has every epoch of every trial. No
    file is a pickle.

    Exit codes: 0 the sweep is complete, or its time is spent; 2 nothing done; 3 stopped, or no
    trial has a score.
    """
    from n2n.data import PairSet
    from n2n.sweep import SweepConfig, SweepDirectory

    directory = SweepDirectory(run)
    recorded = directory.read_settings()
    if options["memory"] is not None:
        options["memory_limit"] = gibibytes(options["memory"], "--memory")
    if options["time_budget"] is not None:
        options["time_budget"] = parse_duration(options["time_budget"])
    del options["memory"]
    given = {name: value for name, value in options.items() if value is not None}
    place = choose_place(device, given.pop("gpus_per_trial", None), address, recorded)
    before = {**recorded.get("config", {}), "time_budget": None}
    found = PairSet.open(pairs)
    config = SweepConfig(**{**before, **given, **place}).for_set(found)
    chosen = choose_space(found, space, settings, preset, recorded)
    require_precision(config, address)
    config.require_usable(chosen, found)
    directory.check(config, chosen, found)
    if dry_run:
        print_plan(config, chosen, found, directory, address, as_json=as_json)
        return
    onlookers = onlookers_of(directory, report=with_report, tensorboard=tensorboard)
    winner = sweep(config, chosen, found, directory, address, onlookers)
    report(config, directory, winner, as_json=as_json)


def choose_place(
    device: str, gpus: float | None, address: str | None, recorded: dict[str, Any]
) -> dict[str, Any]:
    """The device and the GPUs of a trial. InvalidValue for a GPU that this machine lacks.

    On the CPU with GPUs, trials are placed by GPUs, and do not use them.
    """
    import torch

    from n2n.device import choose_device
    from n2n.errors import InvalidValue

    if device not in ("auto", "cpu", "cuda"):
        raise InvalidValue(
            f"device must be auto, cpu or cuda, got {device!r}; Ray gives trials their GPUs"
        )
    if device == "auto" and gpus is None and recorded:
        return {}
    if device == "auto":
        here = address is None and torch.cuda.is_available()
        device = "cuda" if (gpus is None and here) or (gpus or 0) > 0 else "cpu"
    if device == "cuda" and address is None:
        choose_device("cuda")
    if device == "cuda" and gpus == 0:
        raise InvalidValue("gpus_per_trial must be above 0 on the device cuda, got 0")
    default = 1.0 if device == "cuda" else 0.0
    return {"device": device, "gpus_per_trial": default if gpus is None else gpus}


def require_precision(config: "SweepConfig", address: str | None) -> None:
    """InvalidValue for a precision that this machine cannot train with; a cluster may."""
    from n2n.device import use_precision
    from n2n.errors import InvalidValue

    if address is None or config.precision == "fp16":
        use_precision(config.precision, config.device, training=True)
    elif config.precision == "tf32" and config.device == "cpu":
        raise InvalidValue("precision tf32 needs a GPU, the device is cpu; use --precision fp32")


def choose_space(
    pairs: "PairSet",
    path: Path | None,
    settings: tuple[str, ...],
    preset: str | None,
    recorded: dict[str, Any],
) -> "Space":
    """The file's, or the one of the sweep so far, or the default; changed by `--set`."""
    from n2n.sweep import Space, default_space, parse_settings

    if path is None and not settings and preset is None and recorded:
        return Space.of(recorded["space"])
    space = default_space(pairs) if path is None else Space.read(path)
    return space.narrowed(parse_settings(settings), preset)


def sweep(
    config: "SweepConfig",
    space: "Space",
    pairs: "PairSet",
    directory: "SweepDirectory",
    address: str | None,
    onlookers: Onlookers,
) -> "Winner | None":
    """Run the trials that are left, showing how far they are; the table and the best are written
    also when the sweep is stopped."""
    count = config.count(space)
    with directory.locked(), onlookers:
        resumed = directory.begin(config, space, pairs)
        trials = directory.trials()
        left = count - sum(trial.finished for trial in trials)
        word = "resuming the sweep" if resumed else "sweep"
        head = (
            f"{word}: {count} trials, {max(0, left)} to do, of up to {config.max_epochs} epochs on "
            f"{pairs.train.rows:,} pairs; {described(config)}"
        )
        if left <= 0:
            click.echo(head, err=True)
            return directory.finish()
        board = Board(
            head,
            count=count,
            epochs=config.max_epochs,
            metric=str(config.metric),
            varying=space.varying,
            trials=trials,
        )
        try:
            with board:
                run_trials(config, space, pairs, directory, address, board, onlookers)
        finally:
            winner = directory.finish() if directory.log_path.exists() else None
    return winner


def run_trials(
    config: "SweepConfig",
    space: "Space",
    pairs: "PairSet",
    directory: "SweepDirectory",
    address: str | None,
    board: Board,
    onlookers: Onlookers,
) -> None:
    from jobs.trials.tuning import run_sweep

    def hear(event: "Event") -> None:
        board.hear(event)
        onlookers.hear(event, worth_a_page=event.kind != "progress")

    run_sweep(config, space, pairs, directory, address=address, on_event=hear)


def onlookers_of(directory: "SweepDirectory", *, report: bool, tensorboard: bool) -> Onlookers:
    """What is kept up while the sweep goes on."""

    def events() -> Listener:
        from n2n.tensorboard import TrialEvents

        return TrialEvents(directory)

    return Onlookers(
        directory.path if report else None,
        events if tensorboard else None,
        lambda text: click.echo(text, err=True),
    )


if __name__ == "__main__":
    main()
