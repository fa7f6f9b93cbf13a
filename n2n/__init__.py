"""n2n: a Noise2Noise image denoiser with a network written from scratch.

The names below are loaded when they are first used, so that `import n2n` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from n2n.model import Model
    from n2n.nn import SGD, Conv2d, ReLU, Sequential, Sigmoid
    from n2n.nn import ConvTranspose2d as TransposeConv2d
    from n2n.nn import MSELoss as MSE

__all__ = ["MSE", "SGD", "Conv2d", "Model", "ReLU", "Sequential", "Sigmoid", "TransposeConv2d"]

# name: (module, name there); MSE and TransposeConv2d are the published project's names.
HOMES = {
    "Conv2d": ("n2n.nn", "Conv2d"),
    "MSE": ("n2n.nn", "MSELoss"),
    "Model": ("n2n.model", "Model"),
    "ReLU": ("n2n.nn", "ReLU"),
    "SGD": ("n2n.nn", "SGD"),
    "Sequential": ("n2n.nn", "Sequential"),
    "Sigmoid": ("n2n.nn", "Sigmoid"),
    "TransposeConv2d": ("n2n.nn", "ConvTranspose2d"),
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'n2n' has no attribute {name!r}")
    module, attribute = HOMES[name]
    return getattr(import_module(module), attribute)
