"""All of `n2n bench`: the plan from the command's options, then part after part."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from n2n import models
from n2n.data import PairSet
from n2n.device import choose_device, keep_freed_memory, set_threads, use_precision
from n2n.errors import InvalidValue, PairSetError

from . import batch, denoise, epoch, floor, machine, memory, shapes, speed
from .plan import PUBLISHED, Plan, Report
from .tables import render

__all__ = ["make_plan", "render", "run"]

ROUNDS, QUICK_ROUNDS = 20, 1
PRECISIONS = ("fp32", "bf16")
SHAPE_NETWORKS = ("seed",)


def make_plan(
    *,
    networks: tuple[str, ...] = (),
    precision: tuple[str, ...] = (),
    rounds: int | None = None,
    batch_size: int | None = None,
    pairs: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    quick: bool = False,
) -> Plan:
    """A plan that this machine can follow; InvalidValue for one that it cannot.

    Without names: all networks, at the precisions that are fast here. Threads and the allocator
    are set for the whole process.
    """
    place = str(choose_device(device))
    plan = Plan(
        networks=networks or tuple(models.architectures()),
        shape_networks=networks or SHAPE_NETWORKS,
        precisions=precision or tuple(name for name in PRECISIONS if _suits(name, place)),
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        batch_size=batch_size,
        device=place,
        threads=set_threads(threads),
        pairs=pairs,
        quick=quick,
    )
    for network in plan.networks:
        for name in plan.precisions:
            use_precision(plan.config(network, name).precision, place)
    if pairs is not None and PairSet.open(pairs).shape != (3, plan.size, plan.size):
        raise PairSetError(
            f"{pairs}: expected pairs of {(3, plan.size, plan.size)}, found "
            f"{PairSet.open(pairs).shape}; the epoch is held against steps on such images"
        )
    keep_freed_memory()
    return plan


def run(plan: Plan, parts: Iterable[str], report: Report) -> dict[str, Any]:
    """Measure those parts, and tell on what."""
    measures = {
        "step": lambda: speed.measure("step", plan, report),
        "inference": lambda: speed.measure("inference", plan, report),
        "memory": lambda: memory.measure(plan, report),
        "denoise": lambda: denoise.measure(plan, report),
        "batch": lambda: batch.measure(plan, report),
        "epoch": lambda: epoch.measure(plan, report),
        "floor": lambda: floor.measure(plan, report),
        "shapes": lambda: shapes.measure(plan, report),
    }
    return {
        "machine": machine.describe(plan.device),
        "quick": plan.quick,
        "rounds": plan.rounds,
        "published_ratio": PUBLISHED,
        "parts": {part: measures[part]() for part in parts},
    }


def _suits(precision: str, device: str) -> bool:
    try:
        use_precision(precision, device)
    except InvalidValue:
        return False
    return True
