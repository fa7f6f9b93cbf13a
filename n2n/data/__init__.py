"""Pair sets: noise models, making, importing, reading and checking them."""

from n2n.data.build import build_set
from n2n.data.check import Checked, Finding, SplitFigures, check_set
from n2n.data.exposures import pair_set
from n2n.data.importer import import_set
from n2n.data.make import Made, Recipe
from n2n.data.noise import Gaussian, Impulse, NoiseModel, Poisson, Subsample, Text, parse_noise
from n2n.data.pairs import PairSet
from n2n.data.parallel import default_workers
from n2n.data.single import SingleSet, single_images
from n2n.data.split import Split
from n2n.data.streamed import StreamedSet, TrainingSet, stream_from

__all__ = [
    "Checked",
    "Finding",
    "Gaussian",
    "Impulse",
    "Made",
    "NoiseModel",
    "PairSet",
    "Poisson",
    "Recipe",
    "SingleSet",
    "Split",
    "SplitFigures",
    "StreamedSet",
    "Subsample",
    "Text",
    "TrainingSet",
    "build_set",
    "check_set",
    "default_workers",
    "import_set",
    "pair_set",
    "parse_noise",
    "single_images",
    "stream_from",
]
