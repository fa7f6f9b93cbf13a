"""A neural network library from scratch: forward and backward by hand, no autograd.

The rule of five: of torch it may use `empty`, `cat`, `arange`, `fold`, `unfold` and the methods of
Tensor, nothing else; the first three are enough. Tensors are (N, C, H, W).
"""

from n2n.nn.activation import Activation, LeakyReLU, ReLU, Sigmoid
from n2n.nn.average import WeightAverage
from n2n.nn.container import Residual, Sequential, Skip
from n2n.nn.conv import Conv2d, ConvTranspose2d
from n2n.nn.loss import L0Loss, L1Loss, LogMSELoss, Loss, MSELoss, RelativeMSELoss
from n2n.nn.module import Module, Parameter
from n2n.nn.muon import Muon
from n2n.nn.optim import SGD, Adam, AdamW, Optimizer, clip_gradients
from n2n.nn.patch import PatchBlock
from n2n.nn.resample import MaxPool2d, NearestUpsample, PixelShuffle, PixelUnshuffle
from n2n.nn.schedule import ConstantSchedule, CosineSchedule, StepSchedule

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "ConstantSchedule",
    "Conv2d",
    "ConvTranspose2d",
    "CosineSchedule",
    "L0Loss",
    "L1Loss",
    "LeakyReLU",
    "LogMSELoss",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Muon",
    "NearestUpsample",
    "Optimizer",
    "Parameter",
    "PatchBlock",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReLU",
    "RelativeMSELoss",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Skip",
    "StepSchedule",
    "WeightAverage",
    "clip_gradients",
]
