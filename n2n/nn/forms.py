"""Which form computes a convolution: chosen by its shape, where it was measured to be faster."""

from torch import Tensor

from n2n.nn.arguments import Pair
from n2n.nn.columns import Columns
from n2n.nn.geometry import Windows
from n2n.nn.winograd import Winograd

__all__ = ["Form", "choose_form"]

Form = Columns | Winograd

FEWEST_CHANNELS = 24  # of image and grid: fewer make Winograd's 36 products too narrow
SMALLEST_GRID = 4  # rows and columns: less does not fill a tile


def choose_form(windows: Windows, groups: int, weight: Tensor, grid: Pair) -> Form:
    """Winograd's where it has been measured to be faster and precise; else columns.

    It is neither on a GPU, where it was not measured, nor in 16 bits, which its sums outgrow.
    """
    plain = windows.kernel == (3, 3) and windows.stride == windows.dilation == (1, 1)
    if (
        plain
        and groups == 1
        and weight.element_size() >= 4
        and weight.device.type == "cpu"
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and min(grid) >= SMALLEST_GRID
    ):
        return Winograd(windows)
    return Columns(windows, groups)
