"""Train step and inference over batch sizes and image sizes, to find where either has a cliff."""

from dataclasses import replace
from typing import Any

from .plan import Plan, Report
from .speed import calls_of
from .timing import alternate, warm_up

__all__ = ["cliffs", "measure"]

BATCHES = tuple(2**power for power in range(11))  # of 32×32
SIZES = (16, 32, 64, 128, 256, 512)
PIXELS = 512 * 512  # of a batch of any size
QUICK_BATCHES, QUICK_SIZES, QUICK_PIXELS = (1, 4), (16, 32), 32 * 32
LARGE_ROUNDS, LARGE = 5, 64 * 32 * 32  # fewer rounds for batches of so many pixels
CLIFF = 2.0  # times slower a pixel than a neighbour


def measure(plan: Plan, report: Report) -> list[dict[str, Any]]:
    """One table for each network, part and sweep: n2n and eager torch in fp32."""
    batches = QUICK_BATCHES if plan.quick else BATCHES
    sizes = QUICK_SIZES if plan.quick else SIZES
    pixels = QUICK_PIXELS if plan.quick else PIXELS
    sweeps = {
        "batch": [(batch, plan.size) for batch in batches],
        "size": [(max(1, pixels // size**2), size) for size in sizes],
    }
    cases = [
        (network, part, sweep)
        for network in plan.shape_networks
        for part in ("step", "inference")
        for sweep in sweeps
    ]
    total = sum(len(sweeps[sweep]) for _, _, sweep in cases)
    tables, done = [], 0
    for network, part, sweep in cases:
        rows = []
        for batch, size in sweeps[sweep]:
            report(f"shapes {network} {part} {batch}×{size}×{size}", done, total)
            rows.append(_row(plan, network, part, batch, size))
            done += 1
        for row, cliff in zip(
            rows, cliffs([row["n2n_ms_per_mpixel"] for row in rows]), strict=True
        ):
            row["cliff"] = cliff
        tables.append({"network": network, "part": part, "sweep": sweep, "rows": rows})
    report("shapes", total, total)
    return tables


def cliffs(times: list[float]) -> list[bool]:
    """For each time of a pixel, whether a neighbour's is less than half of it."""
    return [
        any(time > CLIFF * other for other in times[max(0, index - 1) : index + 2])
        for index, time in enumerate(times)
    ]


def _row(plan: Plan, network: str, part: str, batch: int, size: int) -> dict[str, Any]:
    config = replace(plan.config(network), batch_size=batch)
    calls = calls_of(part, config, ("n2n", "eager"), size)
    warm_up(calls)
    large = batch * size**2 >= LARGE
    rounds = min(LARGE_ROUNDS, plan.rounds) if large else plan.rounds
    timings = alternate(calls, rounds=rounds, device=plan.device)
    own, torch_ = timings["n2n"].median, timings["eager"].median
    megapixels = batch * size**2 / 1e6
    return {
        "batch": batch,
        "size": size,
        "n2n_ms_per_image": round(1e3 * own / batch, 4),
        "torch_ms_per_image": round(1e3 * torch_ / batch, 4),
        "n2n_ms_per_mpixel": round(1e3 * own / megapixels, 3),
        "torch_ms_per_mpixel": round(1e3 * torch_ / megapixels, 3),
        "ratio": round(own / torch_, 4),
    }
