"""Sweeps: many trials of a space of settings, and which of them is best. Without Ray.

>>> config, space = SweepConfig(trials=8).for_set(pairs), Space.read("space.yaml")
>>> directory = SweepDirectory(Path("sweeps/mine"))
>>> with directory.locked():
...     directory.begin(config, space, pairs)
...     for number, sample in enumerate(config.samples(space)):
...         directory.add(number, "begun", settings=sample)
...         Trainer(config.settings_of(sample, pairs), pairs, directory.trial_path(number)).train()
...         directory.add(number, "done")
...     winner = directory.finish()
"""

from n2n.sweep.default import default_space
from n2n.sweep.directory import SweepDirectory
from n2n.sweep.domains import Choice, Domain, Integer, LogUniform, Uniform, parse_domain
from n2n.sweep.reading import parse_settings
from n2n.sweep.settings import METRICS, SCHEDULERS, SEARCHES, SweepConfig, score
from n2n.sweep.space import Sample, Space
from n2n.sweep.trials import Event, Trial
from n2n.sweep.winner import Winner

__all__ = [
    "METRICS",
    "SCHEDULERS",
    "SEARCHES",
    "Choice",
    "Domain",
    "Event",
    "Integer",
    "LogUniform",
    "Sample",
    "Space",
    "SweepConfig",
    "SweepDirectory",
    "Trial",
    "Uniform",
    "Winner",
    "default_space",
    "parse_domain",
    "parse_settings",
    "score",
]
