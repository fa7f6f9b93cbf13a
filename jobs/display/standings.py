"""Scores on a folder of clean images: for a reader, for programs, and in a Parquet file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import print_json
from jobs.display.outcomes import one_line
from jobs.display.scores import GAP

if TYPE_CHECKING:
    from n2n.classical import Classical
    from n2n.protocol import ContestConfig, ImageOutcome
    from n2n.standings import Interval, Standing

__all__ = ["print_standings", "write_images"]

TITLES = ("denoiser", "PSNR (dB)", "SSIM", "against the first", "s/megapixel")


def print_standings(
    config: "ContestConfig",
    folder: Path,
    outcomes: "Sequence[ImageOutcome]",
    missing: "Sequence[Classical]",
    *,
    as_json: bool,
) -> None:
    """A row for each denoiser, in the order of the command; missing: peers left out."""
    from n2n.standings import standings

    scored = [outcome for outcome in outcomes if not outcome.reason]
    # Gains are over the first that denoises.
    found = standings(scored, config.names, first=config.names[1])
    told = describe(config, folder, scored)
    if as_json:
        left_out = [{"name": peer.name, "install": peer.install} for peer in missing]
        failed = [
            {"image": outcome.item.name, "reason": outcome.reason}
            for outcome in outcomes
            if outcome.reason
        ]
        rows = [_named(config, standing) for standing in found]
        print_json({**told, "denoisers": rows, "left_out": left_out, "failed": failed})
        return
    click.echo(_heading(told))
    for line in _table(found):
        click.echo(line)
    for peer in missing:
        click.echo(f"left out: {peer.title}; to install it: {peer.install}", err=True)


def describe(
    config: "ContestConfig", folder: Path, scored: "Sequence[ImageOutcome]"
) -> dict[str, Any]:
    """What was scored on, and how."""
    from n2n.provenance import code, versions

    protocol = config.protocol
    return {
        "folder": str(folder),
        "noise": protocol.noise.spec if protocol.noise is not None else "none",
        "clip": protocol.clip,
        "seed": protocol.seed,
        "images": len(scored),
        "grey": sum(outcome.channels == 1 for outcome in scored),
        "interval": "95 % of the mean over the images, Student's t",
        "precision": config.precision,
        "tta": config.tta,
        "code": dict(code()),
        "versions": versions(),
    }


def write_images(
    path: Path, config: "ContestConfig", folder: Path, outcomes: "Sequence[ImageOutcome]"
) -> None:
    """A row for each denoiser and image; the rest as JSON in the metadata `n2n`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from n2n.files import replacing

    scored = [outcome for outcome in outcomes if not outcome.reason]
    rows = [
        {
            "denoiser": name,
            "image": outcome.item.name,
            "sha256": outcome.item.sha256,
            "width": outcome.item.width,
            "height": outcome.item.height,
            "channels": outcome.channels,
            "sigma": outcome.sigma,
            "psnr": score.psnr,
            "ssim": score.ssim,
            "seconds": score.seconds,
        }
        for outcome in scored
        for name, score in outcome.scores.items()
    ]
    metadata = {"n2n": json.dumps(describe(config, folder, scored))}
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), temporary)


def _named(config: "ContestConfig", standing: "Standing") -> dict[str, Any]:
    """With the digest of the model's file; None for what is no model."""
    digests = {model.name: model.digest for model in config.models}
    return {**standing.as_dict(), "digest": digests.get(standing.name)}


def _heading(told: dict[str, Any]) -> str:
    grey = f", {told['grey']} of them grey" if told["grey"] else ""
    clipped = ", clipped" if told["clip"] else ""
    turned = "; models: mean over 8 flips and turns" if told["tta"] else ""
    return (
        f"{told['images']} images{grey}; noise {told['noise']}{clipped}{turned}; means over the "
        "images and 95 % intervals (Student's t)"
    )


def _table(found: "Sequence[Standing]") -> list[str]:
    rows = [TITLES]
    for one in found:
        seconds = f"{one.seconds_per_megapixel:.2f}" if one.name != "noisy" else "-"
        gain = _cell(one.gain, "+.2f") if one.gain is not None else "-"
        psnr, ssim = _cell(one.psnr, ".2f"), _cell(one.ssim, ".4f")
        rows.append((one_line(one.name), psnr, ssim, gain, seconds))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        )
        for cells in rows
    ]


def _cell(interval: "Interval", form: str) -> str:
    """The mean, and how far the interval reaches from it."""
    mean = format(interval.mean, form)
    if interval.high is None:
        return mean
    return f"{mean} ± {format(interval.high - interval.mean, form.lstrip('+'))}"
