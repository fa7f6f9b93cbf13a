"""`n2n evaluate MODEL SET`: the scores of a model on a pair set."""

from pathlib import Path

import click

from jobs.command import device_options, job, print_json

__all__ = ["main"]

NAMES = {
    "images": ("images", "{}"),
    "input_psnr": ("PSNR of the noisy input", "{:.2f} dB"),
    "psnr": ("PSNR, mean over images", "{:.2f} dB"),
    "psnr_pooled": ("PSNR, pooled", "{:.2f} dB"),
    "estimated_psnr": ("PSNR estimated from noisy pairs, pooled", "{:.2f} dB"),
    "ssim": ("SSIM", "{:.4f}"),
    "mse": ("mean squared error", "{:.6f}"),
    "loss": ("mean squared error against the target", "{:.6f}"),
    "sigma": ("noise of one view, standard deviation", "{:.4f}"),
}


@job("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), help="[default: val, if there]")
@device_options("fp32, tf32, bf16 or fp16")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def main(
    model: Path,
    pairs: Path,
    split: str | None,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score MODEL (a model file or a checkpoint) on the pair set SET.

    Scores are on the scale [0, 1]. PSNR: of each image over all its pixels and channels, peak 1,
    then the mean over the images; pooled: of the mean squared error over the whole set.
    """
    from n2n.checkpoint import load_model
    from n2n.data import PairSet
    from n2n.device import choose_device, set_threads, use_precision
    from n2n.errors import PairSetError
    from n2n.evaluation import evaluate

    set_threads(threads)
    place = choose_device(device)
    dtype = use_precision(precision, place)
    found = PairSet.open(pairs)
    chosen = found.train if split == "train" or (split is None and not found.val) else found.val
    if chosen is None:
        raise PairSetError(f"{pairs}: expected a val split, found only train; use --split train")
    network, _ = load_model(model)
    scores = evaluate(network.to(place).compute_in(dtype), chosen, device=place).as_dict()
    if as_json:
        print_json({"split": chosen.name, **scores})
        return
    click.echo(f"{'split':42s}{chosen.name}")
    for name, (label, text) in NAMES.items():
        value = scores[name]
        if value is not None:
            click.echo(f"{label:42s}{text.format(value)}")


if __name__ == "__main__":
    main()
