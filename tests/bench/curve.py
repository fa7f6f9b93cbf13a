"""Draw the PSNR of a run and of its torch.nn twin over the epochs, from `tests/bench/twin.py`.

python tests/bench/curve.py RUN OUT.png        (needs the extra `bench`)
"""

import json
from pathlib import Path

import click


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own = [line["val"] for line in lines(run / "metrics.jsonl")]
    twin = lines(run / "twin.jsonl")
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    epochs = range(1, len(own) + 1)
    axes.plot(epochs, [scores["psnr"] for scores in own], label="n2n")
    axes.plot(epochs, [line["psnr"] for line in twin], "--", label="torch.nn twin")
    axes.set(xlabel="epoch", ylabel="validation PSNR [dB]", xlim=(1, len(own)))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
