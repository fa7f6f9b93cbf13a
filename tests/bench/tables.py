"""The results of `n2n bench` for a reader: a table for each part."""

from collections.abc import Sequence
from typing import Any

from .contestants import VARIANTS
from .plan import PUBLISHED

__all__ = ["render"]

Row = Sequence[object]


def render(results: dict[str, Any]) -> str:
    """The machine, then every part that was measured."""
    parts = {
        "step": ("Train step, milliseconds (median)", speed),
        "inference": ("Inference, milliseconds (median)", speed),
        "memory": ("Peak memory of a train step, MiB", memory),
        "denoise": ("One photograph of any size, by tiles, against the whole at once", denoise),
        "batch": ("A folder of small images over a bare loop, and what it takes beside", batch),
        "epoch": ("Epoch of the trainer over its bare steps", epoch),
        "floor": ("Share of the floor: the least time of a step's products by mm", floor),
        "shapes": ("Milliseconds per megapixel, fp32, n2n against eager torch", shapes),
    }
    blocks = [machine(results["machine"])]
    if results["quick"]:
        blocks.append("--quick: a test of the benchmark, no measurement")
    for name, (title, table) in parts.items():
        if name in results["parts"]:
            blocks.append(f"{title}\n\n{table(results['parts'][name])}")
    blocks.append(
        "Ratio: n2n over the fastest torch variant of that precision; bf16 is torch's autocast.\n"
        f"The published project's own layers, as its report states: {PUBLISHED} times torch."
    )
    return "\n\n".join(blocks)


def machine(told: dict[str, Any]) -> str:
    place = told["gpu"] or f"{told['cpu']}, {told['instructions']}"
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    cuda = f", CUDA {told['cuda']}" if told["cuda"] else ""
    return (
        f"{place}\n"
        f"{told['threads']} threads on {told['cores']} of {told['cores_of_machine']} cores\n"
        f"{versions}{cuda}, {told['os']}; {told['date']}"
    )


def speed(results: list[dict[str, Any]]) -> str:
    head = ("network", "precision", "batch", "n2n", *VARIANTS, "ratio", "bound")
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for result in results:
        own, others = result["n2n"]["median_ms"], result["torch"]
        rows.append(
            (
                result["network"],
                result["precision"],
                result["batch"],
                f"{own:.2f}",
                *(
                    f"{others[name]['median_ms']:.2f}" if name in others else "-"
                    for name in VARIANTS
                ),
                f"{result['ratio']:.3f}",
                verdict(result),
            )
        )
        for name, reason in result["unavailable"].items():
            notes[f"{name}: {reason}"] = None
    return "\n".join([align(head, rows), *notes])


def memory(results: list[dict[str, Any]]) -> str:
    sides = list(results[0]["peak_mib"]) if results else []
    rows = [
        (
            result["network"],
            result["precision"],
            result["batch"],
            *(f"{result['peak_mib'][side]:.1f}" for side in sides),
            f"{result['ratio']:.3f}",
            verdict(result),
        )
        for result in results
    ]
    return align(("network", "precision", "batch", *sides, "ratio", "bound"), rows)


def denoise(results: list[dict[str, Any]]) -> str:
    """Speed and memory below each other: the same sides."""
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for result in results:
        sides = result["sides"]
        for what, unit, key, ratio in (
            ("megapixels a second", ".2f", "mpixel_per_s", f"{result['ratio']:.3f} time"),
            ("peak memory, MiB", ".0f", "peak_mib", f"{result['memory_ratio']:.3f} memory"),
        ):
            cells = [
                format(sides[name][key], unit) if name in sides else "-"
                for name in ("n2n", *VARIANTS[:2])
            ]
            rows.append((result["network"], f"{result['mpixel']:.1f}", what, *cells, ratio))
        for name, reason in result["unavailable"].items():
            notes[f"{name}: {reason}"] = None
    head = ("network", "megapixels", "", "n2n", *VARIANTS[:2], "ratio")
    return "\n".join([align(head, rows), *notes])


def epoch(result: dict[str, Any]) -> str:
    seconds = ", ".join(f"{taken:.2f}" for taken in result["epoch_seconds"])
    return (
        f"{result['network']} {result['precision']}, {result['pairs']:,} pairs ({result['set']}), "
        f"{result['steps']} steps of {result['batch']}\n"
        f"epochs {seconds} s; a bare step {result['step_ms']:.2f} ms\n"
        f"ratio {result['ratio']:.3f}, bound {verdict(result)}"
    )


def floor(results: list[dict[str, Any]]) -> str:
    head = ("network", "precision", "batch", "GFLOP", "mm GFLOP/s", "floor ms", "step ms")
    rows = [
        (
            result["network"],
            result["precision"],
            result["batch"],
            f"{result['gflop']['step']:.3f}",
            f"{result['mm_gflops']:.0f}",
            f"{result['floor_ms']:.2f}",
            f"{result['step_ms']:.2f}",
            f"{result['share']:.3f}",
            verdict(result, "≥"),
        )
        for result in results
    ]
    return align((*head, "share", "bound"), rows)


def shapes(tables: list[dict[str, Any]]) -> str:
    blocks = []
    for table in tables:
        rows = [
            (
                f"{row['batch']} × {row['size']}×{row['size']}",
                f"{row['n2n_ms_per_image']:.3f}",
                f"{row['torch_ms_per_image']:.3f}",
                f"{row['n2n_ms_per_mpixel']:.1f}",
                f"{row['torch_ms_per_mpixel']:.1f}",
                f"{row['ratio']:.3f}",
                "cliff" if row["cliff"] else "",
            )
            for row in table["rows"]
        ]
        head = ("images", "n2n/image", "torch/image", "n2n/Mpixel", "torch/Mpixel", "ratio", "")
        blocks.append(f"{table['network']}, {table['part']}\n{align(head, rows)}")
    return "\n\n".join(blocks)


def batch(result: dict[str, Any]) -> str:
    memory, planning = result["memory"], result["planning"]
    rates = result["images_per_second"]
    one = next(iter(rates.values()))
    rows: list[Row] = [
        ("time over a bare loop", f"{result['ratio']:.3f}", verdict(result)),
        ("memory after a tenth, MiB", memory["mib"], ""),
        ("its growth to the end, MiB", memory["growth_mib"], ""),
    ]
    for side, rate in rates.items():
        rows.append((f"images a second, {side}", rate, f"{rate / one:.2f} times"))
    rows += [
        (f"plan and record {planning['files']:,} files, ms a file", planning["ms_per_file"], ""),
        ("skip them in the next run, ms a file", planning["ms_per_skipped_file"], ""),
        ("memory of both, MiB", planning["memory_mib"], ""),
    ]
    what = f"{result['images']:,} images {result['side']}×{result['side']}, {result['network']}"
    return align((what, "", ""), rows)


def verdict(result: dict[str, Any], relation: str = "≤") -> str:
    """The bound, and whether it is met."""
    if result["bound"] is None:
        return "-"
    return f"{relation} {result['bound']:.2f} {'met' if result['met'] else 'not met'}"


def align(head: Row, rows: Sequence[Row]) -> str:
    """Columns of equal width, the first and the last to the left."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    edges = (0, len(head) - 1)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in edges else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
