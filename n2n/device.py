"""Where and how the work runs: the device, its precision, CPU threads, the memory allocator.

What is said of GPUs has not been run on one yet.
"""

import ctypes
import os
import platform
from pathlib import Path

import torch

from n2n.errors import InvalidValue

__all__ = [
    "PRECISIONS",
    "choose_device",
    "cpu_name",
    "keep_freed_memory",
    "set_deterministic",
    "set_threads",
    "use_precision",
]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
CPU_INFO = Path("/proc/cpuinfo")
FAST_BF16 = {"amx_bf16", "bf16"}  # the last is Arm's name for it
MOST_THREADS = 1024
DEFAULT_THREADS = 16  # at most: the batches of a small network are too small to share further
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """`auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:INDEX`.

    InvalidValue for another name, or a GPU that is not there: never a silent run on the CPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise InvalidValue(f"device must be auto, cpu, cuda or cuda:INDEX, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise InvalidValue(f"expected the GPU {name}, found {found} GPUs; use --device cpu")
    return torch.device("cuda", int(index or 0))


def use_precision(
    name: str, device: torch.device | str, *, training: bool = False
) -> torch.dtype | None:
    """Check a precision and prepare the device for it; returns what `network.compute_in` takes.

    It is that of the operands of matrix products; parameters and loss are always fp32, as are
    the sums. fp32: exact, also on a GPU, where TF32 is switched off. tf32: a GPU rounds the
    operands to 10 bits of fraction. On a GPU this sets switches of torch that hold for the whole
    process. InvalidValue, with the reason, for what the device or the purpose does not allow.
    """
    device = torch.device(device)
    if name not in PRECISIONS:
        raise InvalidValue(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "fp16" and training:
        raise InvalidValue(
            "precision fp16 is for inference only, since its gradients would vanish without a "
            "scaled loss; use --precision bf16 or fp32"
        )
    if device.type == "cpu":
        _require_cpu(name)
    else:
        _require_capability(name, device)
        _set_products(tf32=name == "tf32")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)


def _require_cpu(name: str) -> None:
    if name in ("tf32", "fp16"):
        raise InvalidValue(f"precision {name} needs a GPU, the device is cpu; use --precision fp32")
    if name == "bf16" and not has_fast_bf16():
        raise InvalidValue(
            "precision bf16 needs a processor with fast bf16 (amx_bf16, AMD's avx512_bf16 or Arm's "
            f"bf16 in {CPU_INFO}), found one without; use --precision fp32"
        )


def _require_capability(name: str, device: torch.device) -> None:
    if name in ("tf32", "bf16"):
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            raise InvalidValue(
                f"precision {name} needs a GPU of compute capability 8.0 or above, {device} has "
                f"{major}.{minor}; use --precision fp32"
            )


def _set_products(*, tf32: bool) -> None:
    """Whether a GPU may round fp32 operands to TF32; sums of all products stay in fp32."""
    products = torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):  # torch 2.9 and later, where allow_tf32 warns
        products.fp32_precision = "tf32" if tf32 else "ieee"
    else:
        products.allow_tf32 = tf32
    products.allow_bf16_reduced_precision_reduction = False
    products.allow_fp16_reduced_precision_reduction = False


def has_fast_bf16() -> bool:
    """Whether products in bf16 are faster than in fp32.

    Those of AVX512_BF16 are on AMD's processors (Zen 4: 1.6 to 2.2 times the rate); on an Intel
    without AMX (model 207) they ran at half of fp32's.
    """
    features = cpu_features()
    is_amd = "avx512_bf16" in features and "GenuineIntel" not in features
    return is_amd or bool(features & FAST_BF16)


def cpu_features() -> frozenset[str]:
    """Whose the processor is and what it can do, in the words of Linux; nothing where it does not
    say."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.split())
    names = ("vendor_id", "flags", "Features")  # the last is Arm's
    return frozenset(word for name in names for word in found.get(name, []))


def cpu_name() -> str:
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


def set_deterministic(device: torch.device | str) -> None:
    """Make equal runs on a GPU give equal bits; an operation that cannot is an error.

    On a CPU they do so anyway. Holds for the whole process, and must come before its first matrix
    product on a GPU.
    """
    if torch.device(device).type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS
        torch.use_deterministic_algorithms(True)
        # Buffers need no filling: they are written before they are read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at run time


def set_threads(threads: int | None) -> int:
    """Use so many CPU threads; None: one for each core that this process may use, at most 16."""
    if threads is None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        threads = min(cores, DEFAULT_THREADS)
    if not 1 <= threads <= MOST_THREADS:
        raise InvalidValue(f"threads must be from 1 to {MOST_THREADS}, got {threads}")
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to a GiB, for the next step of training.

    By default glibc hands large blocks back to the system, and every step pays for their pages
    anew. Does nothing where the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
        mallopt(M_TRIM_THRESHOLD, 2**30)
