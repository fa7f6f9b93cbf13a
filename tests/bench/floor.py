"""The least time that the matrix products of a train step can take, and the share reached.

Floor: the FLOPs of all products over the best rate of `mm`, measured beside the steps.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from n2n.models import Network

from .plan import SHARE_OF_FLOOR, Plan, Report
from .speed import calls_of
from .timing import Call, alternate, warm_up
from .twins import twin_of

__all__ = ["Products", "count_products", "measure"]

# (M, K, N) of products, large enough for a library's best rate, and of different proportions.
SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 512), (16384, 512, 128))
QUICK_SHAPES = ((256, 256, 256),)


@dataclass(frozen=True)
class Products:
    """FLOPs, 2·M·K·N of each product, over all convolutions of a step."""

    forward: int = 0
    weight_gradient: int = 0
    input_gradient: int = 0

    @property
    def step(self) -> int:
        return self.forward + self.weight_gradient + self.input_gradient


def count_products(network: Network, batch: int, size: int) -> Products:
    """Of a step on (batch, C, size, size).

    A convolution has 2·N·P·Q FLOPs for each of its weights, P and Q being its grid; its weight
    gradient as many, its input gradient too, which the first convolution need not compute.
    """
    forward = skipped = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal forward, skipped
        grid = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        flops = 2 * grid.shape[0] * grid.shape[2] * grid.shape[3] * layer.weight.numel()
        forward += flops
        if not inputs[0].requires_grad:
            skipped += flops

    twin = twin_of(network).to("meta")  # shapes only
    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    twin(torch.empty((batch, network.channels, size, size), device="meta"))
    return Products(forward, forward, forward - skipped)


def measure(plan: Plan, report: Report) -> list[dict[str, Any]]:
    """The floor of each network's step at each precision."""
    cases = [(network, precision) for network in plan.networks for precision in plan.precisions]
    results = []
    for done, (network, precision) in enumerate(cases):
        report(f"floor {network} {precision}", done, len(cases))
        results.append(_measure(plan, network, precision))
    report("floor", len(cases), len(cases))
    return results


def _measure(plan: Plan, name: str, precision: str) -> dict[str, Any]:
    config = plan.config(name, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    products = {
        shape: _product(shape, dtype, plan.device)
        for shape in (QUICK_SHAPES if plan.quick else SHAPES)
    }
    calls = calls_of("step", config, ("n2n",), plan.size)
    calls |= {str(shape): call for shape, call in products.items()}
    warm_up(calls)
    timings = alternate(calls, rounds=plan.rounds, device=plan.device)
    rate = max(2 * m * k * n / timings[str((m, k, n))].fastest for m, k, n in products)
    flops = count_products(config.make_network(3), config.batch_size, plan.size)
    floor, taken = flops.step / rate, timings["n2n"].median
    share, bound = floor / taken, SHARE_OF_FLOOR.get((name, precision))
    return {
        "network": name,
        "precision": precision,
        "batch": config.batch_size,
        "size": plan.size,
        "gflop": {
            "forward": flops.forward / 1e9,
            "weight_gradient": flops.weight_gradient / 1e9,
            "input_gradient": flops.input_gradient / 1e9,
            "step": flops.step / 1e9,
        },
        "mm_gflops": round(rate / 1e9, 1),
        "floor_ms": round(1e3 * floor, 4),
        "step_ms": round(1e3 * taken, 4),
        "share": round(share, 4),
        "bound": bound,
        "met": None if bound is None else share >= bound,
    }


def _product(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Call:
    """A call that multiplies (M, K) by (K, N) into a kept result."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.rand((m, k), generator=generator).to(device, dtype)
    b = torch.rand((k, n), generator=generator).to(device, dtype)
    out = torch.empty((m, n), dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out)
