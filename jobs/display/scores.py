"""Scores for a reader, for programs, and in a Parquet file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import print_json
from jobs.display.outcomes import one_line

if TYPE_CHECKING:
    from n2n.scoring import Result, ScorerConfig

__all__ = ["describe", "print_scores", "print_table", "write_parquet"]

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
COLUMNS = {
    "psnr_pooled": ("pooled PSNR", "{:.2f}"),
    "psnr": ("PSNR", "{:.2f}"),
    "estimated_psnr": ("estimated PSNR", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "mse": ("MSE", "{:.6f}"),
    "loss": ("loss", "{:.6f}"),
}
GAP = "  "


def describe(config: "ScorerConfig", pairs: Path) -> dict[str, Any]:
    """What was scored on, and with what."""
    from n2n.provenance import code, versions

    return {
        "set": str(pairs),
        "digest": config.digest,
        "split": config.split,
        "precision": config.precision,
        "code": dict(code()),
        "versions": versions(),
    }


def print_scores(result: "Result", told: dict[str, Any], *, as_json: bool) -> None:
    """Of one model. JobFailed where there are none."""
    from n2n.errors import JobFailed

    if result.scores is None:
        raise JobFailed(f"{result.name}: {result.reason}")
    scores = result.scores.as_dict()
    if as_json:
        print_json({"split": told["split"], **scores})
        return
    click.echo(f"{'split':42s}{told['split']}")
    for name, (label, text) in NAMES.items():
        value = scores[name]
        if value is not None:
            click.echo(f"{label:42s}{text.format(value)}")


def print_table(results: "Sequence[Result]", told: dict[str, Any], *, as_json: bool) -> None:
    """Of several models, the best first; those without scores are named on standard error."""
    ranked = sorted(results, key=lambda result: result.rank, reverse=True)
    ranked = [result for result in ranked if result.scores is not None]
    for result in results:
        if result.scores is None:
            click.echo(one_line(f"failed: {result.name}: {result.reason}"), err=True)
    if as_json:
        best = ranked[0].name if ranked else None
        print_json({**told, "best": best, "models": [row(result) for result in results]})
    elif ranked:
        scores = [result.scores.as_dict() for result in ranked if result.scores is not None]
        click.echo(heading(scores[0], told))
        for line in table([one_line(result.name) for result in ranked], scores):
            click.echo(line)


def heading(scores: dict[str, Any], told: dict[str, Any]) -> str:
    line = f"{told['split']}: {scores['images']:,} pairs"
    if scores["input_psnr"] is not None:
        line += f"; PSNR of the noisy input {scores['input_psnr']:.2f} dB"
    return line


def table(names: Sequence[str], scores: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each model under a line of titles: what is known of any, numbers to the right."""
    known = [name for name in COLUMNS if any(of[name] is not None for of in scores)]
    columns = [["model", *names]]
    for name in known:
        title, text = COLUMNS[name]
        cells = [text.format(of[name]) if of[name] is not None else "-" for of in scores]
        columns.append([title, *cells])
    widths = [max(map(len, column)) for column in columns]
    return [
        GAP.join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        )
        for cells in zip(*columns, strict=True)
    ]


def row(result: "Result") -> dict[str, Any]:
    """A model's name, file's digest, scores (None where there are none) and why it has none."""

    from n2n.evaluation import Scores

    scores: dict[str, Any] = dict.fromkeys(Scores(0, 0.0).as_dict())
    if result.scores is not None:
        scores = result.scores.as_dict()
    return {"model": result.name, "digest": result.digest, **scores, "failed": result.reason}


def write_parquet(path: Path, results: "Sequence[Result]", told: dict[str, Any]) -> None:
    """A row for each model, in the order of the command; the rest as JSON in the metadata `n2n`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from n2n.files import replacing

    rows = [row(result) for result in results]
    texts = {"model": pa.string(), "digest": pa.string(), "failed": pa.string()}
    kinds = {name: texts.get(name, pa.float64()) for name in rows[0]} | {"images": pa.int64()}
    schema = pa.schema(kinds, metadata={"n2n": json.dumps(told)})
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
