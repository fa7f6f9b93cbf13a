"""Where tensors lie: what may be written in place."""

from torch import Tensor

__all__ = ["fills_its_memory", "share_memory"]


def share_memory(x: Tensor, y: Tensor) -> bool:
    """Whether writing to one may change the other."""
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def fills_its_memory(x: Tensor) -> bool:
    """Whether x has no gaps, as an image without its border has.

    An elementwise pass over gaps is slow, and into a new tensor it leaves none for those after it.
    """
    return x.numel() * x.element_size() == x.untyped_storage().nbytes()
