"""What a measurement was made on: processor, threads, GPU, versions."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import torch

from n2n.device import cpu_name
from n2n.provenance import versions

__all__ = ["describe"]


def describe(device: torch.device | str) -> dict[str, Any]:
    """Machine and versions, for the head of a report."""
    device = torch.device(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cores_of_machine": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "versions": versions(),
        "os": platform.platform(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
