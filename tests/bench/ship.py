"""A model file of half the size: weights in fp16, which n2n computes with in fp32 again.

    python tests/bench/ship.py RUN OUT.safetensors

For models that go into the package. Half precision keeps 11 binary digits of a weight, far more
than its last training steps have settled; what it costs, `n2n evaluate` tells.
"""

from pathlib import Path

import click

from n2n.checkpoint import read_tensors, write_tensors
from n2n.shipped import locate


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
def main(model: str, out: Path) -> None:
    """Write MODEL, a run's or a model file, to OUT in half precision."""
    tensors, metadata = read_tensors(locate(model))
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    if not all(bool(half.isfinite().all()) for half in halves.values()):
        raise click.ClickException(f"{model}: has weights that fp16 cannot hold; ship it as it is")
    write_tensors(out, halves, metadata)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
