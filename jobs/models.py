"""`n2n models`: the models that come with the package."""

from typing import TYPE_CHECKING, Any

import click

from jobs.command import job, print_json

if TYPE_CHECKING:
    from n2n.shipped import Shipped

__all__ = ["main"]


@job("models")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print what is known as JSON.")
def main(name: str | None, as_json: bool) -> None:
    """List the shipped models, or show the card of the model NAME.

    \b
      n2n models
      n2n models seed32
      n2n denoise photo.jpg clean.jpg --model seed32

    A name is taken wherever a model file is; n2n denoise without --model takes photo.
    """
    from n2n.errors import InvalidValue
    from n2n.shipped import shipped

    models = shipped()
    if name is not None and name not in models:
        raise InvalidValue(f"expected a shipped model ({', '.join(models)}), got {name!r}")
    chosen = list(models.values()) if name is None else [models[name]]
    if as_json:
        print_json([model.as_dict() for model in chosen])
    elif name is not None:
        click.echo(models[name].card.rstrip())
    else:
        for model in chosen:
            click.echo(describe(model))


def describe(model: "Shipped") -> str:
    """A few lines on a model."""
    known: dict[str, Any] = model.as_dict()
    lines = [f"{model.name:10s}{model.purpose}"]
    lines.append(f"noise {known['noise']}, {model.parameters:,} parameters, {model.bytes:,} bytes")
    scores = known["scores"] or {}
    told = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "input_psnr": "input {:.2f} dB"}
    parts = [text.format(scores[key]) for key, text in told.items() if scores.get(key) is not None]
    if parts:
        lines.append(f"on {scores['images']:,} validation pairs: {', '.join(parts)}")
    lines.append(f"card: n2n models {model.name}")
    return f"\n{' ':10s}".join(lines)


if __name__ == "__main__":
    main()
