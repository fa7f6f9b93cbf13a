"""Which form computes a convolution: chosen by its shape, where it was measured to be faster."""

from torch import Tensor

from n2n.nn.columns import Columns
from n2n.nn.geometry import Windows
from n2n.nn.interpolation import TILE
from n2n.nn.mirrored import Mirrored
from n2n.nn.planes import FEW_CHANNELS, Planes
from n2n.nn.winograd import Winograd

__all__ = ["Form", "choose_form"]

Form = Columns | Mirrored | Planes | Winograd

# Winograd's 36 products are too narrow for fewer channels of image or grid. Its time is that of
# its tiles, and for the weights that of about 32 more; the columns' that of positions, of which
# 16 make a tile, and take 1.6 times as long.
FEWEST_CHANNELS = 24
TILES_OF_WEIGHTS = 32
TIME_SAVED = 1.6


def choose_form(windows: Windows, groups: int, weight: Tensor, grid: tuple[int, int, int]) -> Form:
    """Planes, from either side, or Winograd's, where that was measured to be faster; else columns.

    grid: N, P, Q.
    """
    if groups == 1:
        if weight.shape[1] <= FEW_CHANNELS:
            return Planes(windows)
        if len(weight) <= FEW_CHANNELS and windows.mirrored is not None:
            return Mirrored(Planes(windows.mirrored))
        if windows.stride == (1, 1) and _suits_winograd(windows, weight, grid):
            return Winograd(windows)
    return Columns(windows, groups)


def _suits_winograd(windows: Windows, weight: Tensor, grid: tuple[int, int, int]) -> bool:
    """Not on a GPU, where it was not measured, nor in 16 bits: its sums need more."""
    batch, rows, columns = grid
    tiles = batch * -(-rows // TILE) * -(-columns // TILE)
    return (
        windows.kernel == (3, 3)
        and windows.dilation == (1, 1)
        and weight.element_size() >= 4
        and weight.device.type == "cpu"
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and tiles + TILES_OF_WEIGHTS <= TIME_SAVED * batch * rows * columns / TILE**2
    )
