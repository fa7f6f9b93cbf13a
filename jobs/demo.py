"""`n2n demo`: from photographs to a trained denoiser and its pictures, in about two minutes."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from jobs.command import Reads, Writes, job, print_json

__all__ = ["main"]

HELD_OUT = 3  # photographs that training never sees
NOISE = "gaussian:25"
PAIRS, SIZE = 9_000, 32
SUFFIXES = {".jpg", ".jpeg", ".png"}
# A small U-Net gives the most for a minute of two cores; see the README.
TRAINING: dict[str, Any] = {
    "model": "unet",
    "model_config": {"width": 16, "depth": 2},
    "epochs": 6,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 3e-3,
    "schedule": "cosine",
    "warmup": 0.2,
    "weight_decay": 0.0,
    "flips": True,
    "turns": True,
    "swap": True,
}

Pixels = NDArray[np.uint8]


@job("demo")
@click.option(
    "--photos",
    default=Path("data/photos"),
    type=Reads(path_type=Path),
    help="Folder of photographs: at least five.",
)
@click.option(
    "--out", default=Path("runs/demo"), type=Writes(path_type=Path), help="Where it goes."
)
@click.option("--threads", type=int, help="CPU threads.  [default: all cores, at most 16]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(photos: Path, out: Path, threads: int | None, as_json: bool) -> int:
    """Make noisy pairs from photographs, train a denoiser on them, and try it.

    Three photographs are kept out of training; their noisy versions are denoised, and the PSNR of
    both is printed. OUT holds the pair set, the run with its report, the model and the pictures;
    the same command again goes on where it was stopped.
    """
    from n2n.device import keep_freed_memory, set_threads
    from n2n.errors import InvalidValue

    threads = set_threads(threads)
    keep_freed_memory()
    if out.resolve().is_relative_to(photos.resolve()):
        raise InvalidValue(f"{out}: expected a folder outside of {photos}; choose another --out")
    training, held_out = choose(photos)
    pairs = build_pairs(training, out, threads)
    model = train(pairs, out / "run", threads)
    shutil.copyfile(model, out / "model.safetensors")
    scores = denoise_all(model, held_out, out)
    gain = sum(score["output_psnr"] - score["input_psnr"] for score in scores) / len(scores)
    page = str(report_on(out, threads))
    if as_json:
        model_path = str(out / "model.safetensors")
        print_json({"model": model_path, "report": page, "gain": gain, "photographs": scores})
        return 0
    for score in scores:
        click.echo(
            f"{score['name']:16s} {score['input_psnr']:.2f} dB noisy, "
            f"{score['output_psnr']:.2f} dB denoised"
        )
    click.echo(f"mean gain {gain:+.2f} dB; pictures in {out}, model {out / 'model.safetensors'}")
    click.echo(f"report: {page}")
    return 0


def choose(photos: Path) -> tuple[list[Path], list[Path]]:
    """The photographs to train on, and the last few by name, which are kept out."""
    from n2n.errors import InvalidValue
    from n2n.images import read_pixels

    found = sorted(p for p in photos.glob("*") if p.suffix.lower() in SUFFIXES)
    if len(found) < HELD_OUT + 2:
        raise InvalidValue(
            f"{photos}: expected at least {HELD_OUT + 2} photographs (JPEG, PNG), found "
            f"{len(found)}; run in a clone of the project, or name a folder by --photos"
        )
    for path in found[-HELD_OUT:]:  # before minutes of training
        if read_pixels(path).shape[2] != 3:
            raise InvalidValue(f"{path}: expected a colour photograph, found a grey one")
    return found[:-HELD_OUT], found[-HELD_OUT:]


def build_pairs(training: list[Path], out: Path, workers: int) -> Path:
    """The pair set at OUT/pairs, made of copies of the photographs in OUT/photographs.

    One that is there already is used again if it was made of the same photographs.
    """
    from n2n.data import PairSet, Recipe, build_set, parse_noise
    from n2n.errors import PairSetError

    pairs, source = out / "pairs", out / "photographs"
    if pairs.exists():
        used = {digest for split in PairSet.open(pairs).splits for _, digest in split.sources}
        if used != {sha256(path.read_bytes()).hexdigest() for path in training}:
            raise PairSetError(
                f"{pairs}: expected pairs of the photographs given, found pairs of others; "
                "choose another --out"
            )
        return pairs
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for photograph in training:
        shutil.copyfile(photograph, source / photograph.name)
    click.echo(f"drawing {PAIRS:,} pairs with {NOISE} from {len(training)} photographs", err=True)
    recipe = Recipe(size=SIZE, pairs=PAIRS, val_pairs=500)
    made = build_set(source, pairs, parse_noise(NOISE), recipe, workers=workers)
    for skip in made.skipped:
        click.echo(f"skipped {skip.name}: {skip.reason}", err=True)
    return pairs


def train(pairs: Path, run: Path, threads: int) -> Path:
    """The best model of a short run."""
    from jobs.train import train_with_progress
    from n2n.config import TrainConfig
    from n2n.data import PairSet

    config = TrainConfig.of(threads=threads, **TRAINING)
    return train_with_progress(config, PairSet.open(pairs), run).run.model_path


def denoise_all(model: Path, held_out: list[Path], out: Path) -> list[dict[str, Any]]:
    """Noisy and denoised pictures of the photographs kept out, and one that shows both."""
    from n2n.checkpoint import load_model
    from n2n.data import parse_noise
    from n2n.denoiser import denoise_pixels
    from n2n.images import read_pixels, save_pixels

    network, _ = load_model(model)
    noise = parse_noise(NOISE)
    scores, strips = [], []
    for number, path in enumerate(held_out):
        clean = read_pixels(path)  # (H, W, 3)
        views = noise.views(clean.transpose(2, 0, 1)[None], np.random.default_rng([number]))
        noisy = np.ascontiguousarray(views[0][0].transpose(1, 2, 0))
        denoised = denoise_pixels(network, noisy)
        for folder, pixels in (("noisy", noisy), ("denoised", denoised), ("clean", clean)):
            target = out / folder / f"{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            save_pixels(target, pixels)
        strips.append(np.concatenate([centre(p) for p in (noisy, denoised, clean)], axis=1))
        scores.append(
            {
                "name": path.name,
                "input_psnr": psnr_of(noisy, clean),
                "output_psnr": psnr_of(denoised, clean),
            }
        )
    save_pixels(out / "before-after.png", np.concatenate(strips))
    return scores


def report_on(out: Path, threads: int) -> Path:
    """The run's report, with the photographs kept out."""
    from n2n.report import Options, report

    return report(out / "run", options=Options(photos=out / "clean", peers=False, threads=threads))


def centre(pixels: Pixels, side: int = 256) -> Pixels:
    """The middle of a picture (H, W, C), (side, side, C); black around a smaller one."""
    top, left = (max(0, (size - side) // 2) for size in pixels.shape[:2])
    middle = pixels[top : top + side, left : left + side]
    rows, columns = (side - size for size in middle.shape[:2])
    return np.pad(middle, ((0, rows), (0, columns), (0, 0)))


def psnr_of(pixels: Pixels, clean: Pixels) -> float:
    """PSNR in dB of 8-bit pixels."""
    error = np.mean((pixels.astype(np.float64) - clean) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


if __name__ == "__main__":
    main()
