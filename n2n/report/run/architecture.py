"""The network: drawn (Figure 1 of the paper), in numbers, and the filters of its first layer."""

from typing import TYPE_CHECKING

import numpy as np

from n2n.models import Network
from n2n.nn import Conv2d
from n2n.report.blocks import Absent, Table
from n2n.report.figures import COLOURS, Figure, drawing
from n2n.report.page import Block, Section
from n2n.report.pictures import Drawn, Plate, embed
from n2n.report.run.network import Bridge, Layer, Structure, describe
from n2n.report.run.reading import Pixels, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

__all__ = ["figures", "section", "structure_of"]

SIZE = 64  # about, of an image where the set's is not known
FILTERS = 96  # shown at most
INK = {"Conv2d": 0, "ConvTranspose2d": 1, "PatchBlock": 2}  # others: 3
GAP, HEIGHT = 0.55, 2.0


def structure_of(run: Run) -> Structure | None:
    """Of the run's network, for the set's images, or for others where the set is gone."""
    if run.network is None:
        return None
    multiple = run.network.multiple
    side = -(-SIZE // multiple) * multiple
    size = (run.pairs.shape[1], run.pairs.shape[2]) if run.pairs is not None else (side, side)
    return describe(run.network, size)


def section(run: Run, structure: Structure | None) -> Section:
    """The network's drawing, its layers, its first filters."""
    if structure is None or run.network is None:
        blocks: list[Block] = [Absent("No drawing:", run.reasons["network"])]
        return Section("network", "The network", blocks)
    channels, height, width = structure.shape
    lead = (
        f"{structure.parameters:,} parameters; {structure.multiply_adds:,} multiply-adds for an "
        f"image of {height} × {width} pixels and {channels} channels, "
        f"{structure.multiply_adds / (height * width):,.0f} a pixel; a pixel of the output depends "
        f"on at most {structure.receptive_field} × {structure.receptive_field} of the input."
    )
    note = (
        "Blue: convolutions, orange: transposed ones, green: blocks of patches. Height: rows of "
        "the image; width: channels. Under each: channels, size, and in brackets the receptive "
        "field."
    )
    figure = Figure("figure-1-network", lambda: draw(structure))
    alt = f"{len(structure.stages)} layers with parameters; the table below has their numbers."
    blocks = [
        Drawn("The network.", figure.markup(), alt, note),
        _layers(structure),
        *_filters(run.network),
    ]
    return Section("network", "The network", blocks, lead)


def figures(structure: Structure | None) -> list[Figure]:
    """Figure 1."""
    return [] if structure is None else [Figure("figure-1-network", lambda: draw(structure))]


def _layers(structure: Structure) -> Table:
    rows = [
        (
            layer.name,
            layer.kind,
            layer.detail or "—",
            _size(layer.output),
            layer.parameters,
            layer.multiply_adds,
            layer.receptive_field,
        )
        for layer in structure.layers
    ]
    columns = [
        "layer",
        "kind",
        "geometry",
        "output",
        "parameters",
        "multiply-adds",
        "receptive field",
    ]
    return Table(f"Layers, for an input of {_size(structure.shape)}", columns, rows)


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def draw(structure: Structure) -> "Drawing":
    """The layers with parameters from left to right, and the connections past them."""
    stages = structure.stages
    figure = drawing(max(5.2, 0.72 * (len(stages) + 1)), 2.7)
    axes = figure.add_subplot()
    axes.axis("off")
    tallest = max(max(layer.output[1], layer.input[1]) for layer in stages)
    widths = [_width(structure.shape[0]), *(_width(layer.output[0]) for layer in stages)]
    lefts = np.cumsum([0.0, *(width + GAP for width in widths[:-1])]).tolist()
    _box(axes, lefts[0], widths[0], structure.shape, tallest, COLOURS[5], "input", "")
    for number, layer in enumerate(stages, start=1):
        ink = COLOURS[INK.get(layer.kind, 3)]
        place = (lefts[number], widths[number])
        _box(axes, *place, layer.output, tallest, ink, _title(layer), f"{layer.receptive_field}")
        between = (lefts[number] - GAP, lefts[number])
        axes.annotate(
            "", (between[1], 0), (between[0], 0), arrowprops={"arrowstyle": "->", "lw": 0.8}
        )
    _bridges(axes, structure, [left + width for left, width in zip(lefts, widths, strict=True)])
    end = lefts[-1] + widths[-1]
    axes.annotate("", (end + GAP, 0), (end, 0), arrowprops={"arrowstyle": "->", "lw": 0.8})
    levels = max((_level(structure, bridge) + 1 for bridge in structure.bridges), default=0)
    axes.set_xlim(-0.3, end + GAP + 0.1)
    axes.set_ylim(-HEIGHT / 2 - 0.75, HEIGHT / 2 + 0.45 + 0.42 * levels)
    return figure


def _width(channels: int) -> float:
    return 0.12 + 0.08 * float(np.log2(channels))


def _title(layer: Layer) -> str:
    kernel = layer.detail.partition(",")[0].removeprefix("patches of ")
    return (
        f"{kernel}"
        + (" ↑" if layer.output[1] > layer.input[1] else "")
        + (" ↓" if layer.output[1] < layer.input[1] else "")
    )


def _box(
    axes: "Axes",
    left: float,
    width: float,
    shape: tuple[int, ...],
    tallest: int,
    ink: str,
    title: str,
    field: str,
) -> None:
    """A tensor: as high as its rows, as wide as its channels."""
    from matplotlib.patches import Rectangle

    height = HEIGHT * shape[1] / tallest
    axes.add_patch(Rectangle((left, -height / 2), width, height, facecolor=ink, alpha=0.85))
    middle = left + width / 2
    axes.text(middle, height / 2 + 0.07, title, ha="center", va="bottom", fontsize=7)
    below = f"{shape[0]}\n{shape[1]}×{shape[2]}" + (f"\n({field})" if field else "")
    axes.text(middle, -height / 2 - 0.07, below, ha="center", va="top", fontsize=6.5)


def _bridges(axes: "Axes", structure: Structure, ends: list[float]) -> None:
    """A bow over the layers that a connection passes by, from before to behind them."""
    for bridge in structure.bridges:
        passed = [
            number
            for number, layer in enumerate(structure.stages, start=1)
            if bridge.first <= structure.layers.index(layer) <= bridge.last
        ]
        if not passed:
            continue
        begin, end = ends[passed[0] - 1] + GAP / 4, ends[passed[-1]] + GAP / 3
        top = HEIGHT / 2 + 0.4 + 0.42 * _level(structure, bridge)
        axes.plot([begin, begin, end, end], [0, top, top, 0], color="black", lw=0.7, ls=(0, (3, 2)))
        symbol = "+ input" if bridge.kind == "sum" else "concatenate"
        axes.text((begin + end) / 2, top + 0.03, symbol, ha="center", va="bottom", fontsize=6.5)


def _level(structure: Structure, bridge: Bridge) -> int:
    """How many connections lie inside of one."""
    return sum(
        bridge.first <= other.first and other.last <= bridge.last and other is not bridge
        for other in structure.bridges
    )


def _filters(network: Network) -> list[Block]:
    """The kernels of the first convolution, each as a small picture."""
    first = next((module for module in network.modules() if isinstance(module, Conv2d)), None)
    if first is None:
        return [Absent("No filters:", "the network has no convolution.")]
    weight = first.weight.value.cpu().numpy()  # (out, in, rows, columns)
    shown = weight[:FILTERS]
    colour = shown.shape[1] == 3
    kernels = shown if colour else shown.mean(1, keepdims=True)
    largest = np.abs(kernels).max((1, 2, 3), keepdims=True)
    pixels = np.rint(127.5 + 127.5 * kernels / np.where(largest > 0, largest, 1)).astype(np.uint8)
    count, rows, columns = len(weight), *weight.shape[2:]
    of = "" if count <= FILTERS else f" The first {FILTERS} of {count}."
    how = "as colours" if colour else "in grey"
    note = f"{rows} × {columns} pixels each, {how}: mid grey is 0, each scaled by itself.{of}"
    alt = f"{len(shown)} filters of the first convolution, in rows of {_across(len(shown))}."
    return [Plate("Filters of the first layer.", embed(_tile(pixels), alt), note)]


def _across(count: int) -> int:
    return min(count, 16)


def _tile(kernels: Pixels) -> Pixels:
    """(N, C, H, W) side by side with a pixel between them: (rows, columns, C)."""
    count, channels, height, width = kernels.shape
    across = _across(count)
    down = -(-count // across)
    tiled = np.full((down * (height + 1) - 1, across * (width + 1) - 1, channels), 128, np.uint8)
    for number, kernel in enumerate(kernels):
        top, left = number // across * (height + 1), number % across * (width + 1)
        tiled[top : top + height, left : left + width] = kernel.transpose(1, 2, 0)
    return tiled
