"""What a measurement was made on: processor, threads, GPU, versions."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from n2n.trainer import versions

__all__ = ["describe"]

CPU_INFO = Path("/proc/cpuinfo")


def describe(device: torch.device | str) -> dict[str, Any]:
    """Machine and versions, for the head of a report."""
    device = torch.device(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _cpu_name(),
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


def _cpu_name() -> str:
    """As Linux names it, with family and model, since some names say little."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    if "model name" not in told:
        return platform.machine()
    if {"cpu family", "model"} <= told.keys():
        return f"{told['model name']} (family {told['cpu family']}, model {told['model']})"
    return told["model name"]
