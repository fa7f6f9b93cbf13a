"""One photograph of 12 megapixels, 8 bits in and out: the Denoiser against torch.nn's whole image.

Both begin with an array (H, W, 3) of uint8 and end with one. The Denoiser goes by tiles; the twin
is given the whole image at once, as a user of torch would first do it. They take turns in one
process, a call each. Peak memory is how far a fresh process grows in one call, beyond network,
image and result; the twin's first call on a small image has paid for what stays.
"""

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from n2n.config import TrainConfig
from n2n.denoiser import Denoiser
from n2n.device import set_threads
from n2n.errors import JobFailed

from .contestants import Own, make_side
from .memory import begin, in_fresh_process, peak
from .plan import Plan, Report, judged
from .timing import Call, alternate, ratio

__all__ = ["calls_of", "measure", "peak_of"]

SIZE, QUICK_SIZE = (3000, 4000), (300, 400)
RIVALS = ("eager", "channels_last")
MOST_ROUNDS = 3  # of seconds each
SMALL = 64

Pixels = NDArray[np.uint8]
Denoise = Callable[[Pixels], Pixels]


def measure(plan: Plan, report: Report) -> list[dict[str, Any]]:
    """Time and memory of each network in fp32."""
    results = []
    for done, network in enumerate(plan.networks):
        report(f"denoise {network}", done, len(plan.networks))
        results.append(_compare(plan, plan.config(network)))
    report("denoise", len(plan.networks), len(plan.networks))
    return results


def calls_of(config: TrainConfig, sides: tuple[str, ...], pixels: Pixels) -> dict[str, Call]:
    """A call for each side, all on the same photograph."""
    calls: dict[str, Call] = {}
    for name in sides:
        denoise = _denoise_by(config, name)
        calls[name] = lambda denoise=denoise: denoise(pixels)  # type: ignore[misc]  # bound now
    return calls


def peak_of(config: TrainConfig, side: str, size: tuple[int, int]) -> int:
    """Bytes by which this process grows while it denoises one photograph."""
    set_threads(config.threads)
    denoise, pixels = _denoise_by(config, side), _draw(size)
    denoise(pixels[:SMALL, :SMALL])
    gc.collect()
    before = begin(config.device)
    denoise(pixels)
    return peak(config.device) - before


def _compare(plan: Plan, config: TrainConfig) -> dict[str, Any]:
    size = QUICK_SIZE if plan.quick else SIZE
    sides = ("n2n", *RIVALS)
    peaks, unavailable = _peaks(config, sides, size)
    calls = calls_of(config, tuple(peaks), _draw(size))
    results = {name: call() for name, call in calls.items()}  # and they are warm
    timings = alternate(calls, rounds=min(plan.rounds, MOST_ROUNDS), device=plan.device, burst=1)
    seconds = {name: taken.median for name, taken in timings.items()}
    mpixel = size[0] * size[1] / 1e6
    rivals = [name for name in RIVALS if name in peaks]
    fastest, value = ratio(seconds["n2n"], {name: seconds[name] for name in rivals})
    least, memory = ratio(peaks["n2n"], {name: peaks[name] for name in rivals})
    return {
        "network": config.model,
        "precision": config.precision,
        "height": size[0],
        "width": size[1],
        "mpixel": mpixel,
        "sides": {
            name: {
                **timings[name].as_dict(),
                "mpixel_per_s": round(mpixel / seconds[name], 3),
                "peak_mib": round(peaks[name] / 2**20, 1),
            }
            for name in calls
        },
        "unavailable": unavailable,
        "largest_difference": max(_difference(results["n2n"], results[name]) for name in rivals),
        "fastest": fastest,
        "least": least,
        "memory_ratio": round(memory, 4),
        **judged(value, None),
    }


def _peaks(
    config: TrainConfig, sides: tuple[str, ...], size: tuple[int, int]
) -> tuple[dict[str, int], dict[str, str]]:
    """Of each side that has the memory, and why the others have not."""
    peaks, unavailable = {}, {}
    for side in sides:
        try:
            peaks[side] = in_fresh_process("denoise", [asdict(config), side, size])
        except JobFailed as error:
            if side == sides[0] or (side == sides[-1] and len(peaks) == 1):
                raise
            unavailable[side] = str(error)
    return peaks, unavailable


def _denoise_by(config: TrainConfig, name: str) -> Denoise:
    side = make_side(config, name, training=False)
    if isinstance(side, Own):
        denoiser = Denoiser(side.network)

        def by_tiles(pixels: Pixels) -> Pixels:
            out = np.empty_like(pixels)
            denoiser.run(pixels, out)
            return out

        return by_tiles

    @torch.inference_mode()
    def whole(pixels: Pixels) -> Pixels:
        image = torch.from_numpy(pixels).to(config.device).permute(2, 0, 1)[None]
        y = side.infer(side.prepare(image.float().div_(255)))
        y = y.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        result: Pixels = y[0].permute(1, 2, 0).contiguous().cpu().numpy()
        return result

    return whole


def _draw(size: tuple[int, int]) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def _difference(a: Any, b: Any) -> int:
    """Largest, in levels."""
    return int(np.abs(a.astype(np.int16) - b).max())


if __name__ == "__main__":
    settings, chosen, pixels = json.loads(sys.argv[1])
    print(peak_of(TrainConfig(**settings), chosen, tuple(pixels)))
