"""`n2n submit --cluster YAML -- COMMAND ARGS…`: any command of n2n on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.command import gibibytes, job
from jobs.remote.options import cluster_options

if TYPE_CHECKING:
    from jobs.remote.head import Head

__all__ = ["main"]

PATH = click.Path(path_type=Path)
ABOVE_0 = click.FloatRange(min=0, min_open=True, max=2**20)


@job(
    "submit",
    context_settings={"show_default": True, "allow_interspersed_args": False},
)
@cluster_options
@click.option("--id", "name", metavar="RUN", help="The run's id.  [default: from the command]")
@click.option("--wait/--no-wait", default=True, help="Follow the run to its end.")
@click.option("--up", is_flag=True, help="Start the cluster first, if it is not running.")
@click.option("--down", is_flag=True, help="End the cluster after the run, whatever its end.")
@click.option("--upload", multiple=True, type=PATH, help="Send this small input along.")
@click.option("--download", multiple=True, type=PATH, help="Bring this result here at the end.")
@click.option("--cpus", type=ABOVE_0, help="CPUs to keep for the command's own process.")
@click.option("--gpus", type=ABOVE_0, help="GPUs for it: it then runs on a node that has them.")
@click.option("--memory", type=float, metavar="GIB", help="Memory for it.")
@click.option("--no-code", is_flag=True, help="Run the n2n that the nodes have; send none.")
@click.argument("arguments", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED)
def main(
    cluster: Path | None,
    address: str | None,
    insecure: bool,
    name: str | None,
    wait: bool,
    up: bool,
    down: bool,
    upload: tuple[Path, ...],
    download: tuple[Path, ...],
    cpus: float | None,
    gpus: float | None,
    memory: float | None,
    no_code: bool,
    arguments: tuple[str, ...],
) -> int:
    """Run COMMAND, any of n2n's, on a Ray cluster, and follow it.

    \b
      n2n submit --cluster onprem.yaml -- denoise /mnt/in /mnt/out --model /mnt/m.safetensors
      n2n submit --cluster aws.yaml --up --down -- sweep s3://b/set --run s3://b/run
      n2n submit --address localhost:8265 --id first -- train /mnt/set --run /mnt/run

    The head of --cluster is reached by ssh. This n2n's code is sent, never data: paths must lie
    where the cluster sees them (a shared folder, s3://), which is checked first, or be named by
    --upload and --download; then the head does all the work. Commands that can work on a whole
    cluster do so, unless they are given an --address of their own.

    A run has an id: the same command again follows the run while it is running, tells its result
    when it is complete, and resumes it when it was stopped or has failed. It never runs twice.
    Ctrl-C asks whether to stop the run or leave it alone; see `n2n jobs`.

    A cluster must ask for a token (RAY_AUTH_MODE=token): it is taken from RAY_AUTH_TOKEN, the file
    RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

    Exit code: that of the command; 2 also when nothing was submitted; 3 when the run failed, was
    stopped, or is no longer followed.
    """
    from jobs.cli import main as root
    from jobs.remote.connect import choose_head, connected
    from jobs.remote.paths import parse
    from jobs.remote.runs import require_id
    from jobs.remote.submission import Request, submit

    kept = {"CPU": cpus, "GPU": gpus}
    kept["memory"] = None if memory is None else gibibytes(memory, "--memory")
    resources = {kind: float(amount) for kind, amount in kept.items() if amount is not None}
    request = Request(parse(root, arguments), upload, download, not no_code, resources)
    if name is not None:
        require_id(name)
    head = choose_head(cluster, address, insecure=insecure, whole=up)
    require_possible(head, request.downloads, wait=wait, up=up, down=down)
    with going_down(head, down):
        if up:
            start(head, insecure=insecure)
        with connected(head, insecure=insecure) as connection:
            return submit(connection, request, name, wait=wait)


def require_possible(
    head: "Head", downloads: tuple[Path, ...], *, wait: bool, up: bool, down: bool
) -> None:
    """UsageError for options that do not go together."""
    if (up or down) and head.file is None:
        raise click.UsageError("--up and --down need --cluster, the file to start from")
    if down and not wait:
        raise click.UsageError("--down needs --wait: the run would end with its cluster")
    if downloads and (head.file is None or head.in_container):
        raise click.UsageError(
            "--download needs --cluster, and Ray outside of a container: files come by ssh; "
            "use a shared folder or s3://"
        )


def start(head: "Head", *, insecure: bool) -> None:
    from jobs.remote.launching import up

    up(head, insecure=insecure)


@contextmanager
def going_down(head: "Head", wanted: bool) -> Iterator[None]:
    """End the cluster with the block, but not under a run that goes on."""
    from jobs.remote.attending import Detached
    from jobs.remote.launching import down

    try:
        yield
    except Detached:
        if wanted:
            click.echo(f"the cluster goes on, too; end it: ray down -y {head.file}", err=True)
        raise
    except BaseException:
        if wanted:
            down(head)
        raise
    if wanted:
        down(head)


if __name__ == "__main__":
    main()
