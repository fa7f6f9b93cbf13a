"""Time of a train step and of inference: n2n's networks in turns with their torch.nn twins."""

from functools import partial
from typing import Any

from n2n.config import TrainConfig

from .contestants import draw_batch, forget_compiled, make_side
from .plan import Plan, Report, bound_of, judged
from .timing import Call, Timing, alternate, ratio, warm_up

__all__ = ["calls_of", "measure"]


def measure(part: str, plan: Plan, report: Report) -> list[dict[str, Any]]:
    """`step` or `inference`: a result for each network and precision."""
    cases = [(network, precision) for network in plan.networks for precision in plan.precisions]
    results = []
    for done, (network, precision) in enumerate(cases):
        report(f"{part} {network} {precision}", done, len(cases))
        results.append(compare(part, plan, plan.config(network, precision)))
    report(part, len(cases), len(cases))
    return results


def compare(part: str, plan: Plan, config: TrainConfig) -> dict[str, Any]:
    """One network at one precision against all variants of its twin."""
    calls = calls_of(part, config, ("n2n", *plan.variants), plan.size)
    unavailable = warm_up(calls, optional="compile")
    if "compile" not in calls:
        unavailable["compile"] = "left out by --quick"
    warm = {name: call for name, call in calls.items() if name not in unavailable}
    timings = alternate(warm, rounds=plan.rounds, device=plan.device)
    forget_compiled()
    own = timings.pop("n2n")
    fastest, value = ratio(own.median, {name: taken.median for name, taken in timings.items()})
    return {
        "network": config.model,
        "precision": config.precision,
        "batch": config.batch_size,
        "size": plan.size,
        **({"optimizer": config.optimizer, "loss": config.loss} if part == "step" else {}),
        "n2n": own.as_dict(),
        "torch": {name: _against(own, taken) for name, taken in timings.items()},
        "unavailable": unavailable,
        "fastest": fastest,
        **judged(value, bound_of(part, config.model, config.precision)),
    }


def calls_of(part: str, config: TrainConfig, sides: tuple[str, ...], size: int) -> dict[str, Call]:
    """A call for each side, all on the same batch."""
    x, y = draw_batch(config, size)
    calls: dict[str, Call] = {}
    for name in sides:
        side = make_side(config, name, training=part == "step")
        own_x, own_y = side.prepare(x), side.prepare(y)
        calls[name] = (
            partial(side.step, own_x, own_y) if part == "step" else partial(side.infer, own_x)
        )
    return calls


def _against(own: Timing, other: Timing) -> dict[str, Any]:
    return {**other.as_dict(), "ratio": round(own.median / other.median, 4)}
