"""The space of a sweep: which settings its trials try.

As YAML, `n2n sweep --space FILE`:

    preset: published                    # what all other settings are; default: the model's own
    model: [seed, unet]                  # a choice; one value needs no list
    optimizer: [sgd, adamw]
    lr:                                  # alternatives: the first whose condition holds
      - {log: [1, 20], when: {optimizer: sgd}}
      - {log: [3.0e-4, 1.0e-2], when: {optimizer: adamw}}
    momentum: {uniform: [0, 0.9]}
    batch_size: {int: [50, 200], step: 50}
    width: {int: [16, 64], log: true}
    depth: {int: [1, 3]}
    loss: [mse, l1]
    flips: [true, false]
    weight_decay: {value: 0.01, when: {optimizer: adamw}}

A name is a setting of `n2n train`, or of an architecture: width (all), depth (unet), hidden and
blocks (n2n). `when` names other parameters, and a value or a list of values of each. Some
conditions go without saying: momentum is sgd's, warmup the cosine schedule's, decay and
decay_epochs the step schedule's, depth unet's, hidden and blocks n2n's. A parameter whose
conditions do not hold is left out of a trial, which then has the preset's value.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from n2n.config import PRESETS
from n2n.errors import InvalidValue
from n2n.sweep.alternatives import (
    Alternative,
    Parameters,
    applying,
    checked,
    conditions_of,
    pruned,
    require_possible,
)
from n2n.sweep.domains import Choice, Domain, Integer, Scalar
from n2n.sweep.names import require_known
from n2n.sweep.reading import naming, parameters_of, read_yaml

__all__ = ["Sample", "Space"]

Sample = dict[str, Any]  # name: value, of the parameters that apply; "preset" where there is one


@dataclass(frozen=True)
class Space:
    """Parameters, each with its alternatives. InvalidValue and InvalidType name what is wrong.

    preset: what the other settings are; None: the preset for each trial's model.
    """

    parameters: Parameters
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidValue(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if not self.parameters:
            raise InvalidValue("a space needs at least one parameter, found none")
        found = {}
        for name in sorted(map(require_known, self.parameters)):
            with naming(name):
                if not self.parameters[name]:
                    raise InvalidValue("a domain expected, found none")
                found[name] = tuple(
                    checked(name, one, self.parameters) for one in self.parameters[name]
                )
        object.__setattr__(self, "parameters", found)
        _ = self.names  # InvalidValue for a circle
        for name in found:
            require_possible(name, found, self.preset)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters, each behind those that its conditions name; else by the alphabet."""
        graph = TopologicalSorter({name: self._parents(name) for name in self.parameters})
        order: list[str] = []
        try:
            graph.prepare()
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise InvalidValue(f"the conditions go in a circle: {circle}; drop one") from error
        while graph.is_active():
            ready = sorted(graph.get_ready())
            order += ready
            graph.done(*ready)
        return tuple(order)

    @property
    def varying(self) -> tuple[str, ...]:
        """The parameters that are not the same in all trials."""

        def fixed(one: Alternative) -> bool:
            return len(one.domain.ends()) == 1 and not one.when

        return tuple(
            name for name in self.names if not all(fixed(one) for one in self.parameters[name])
        )

    def domain(self, name: str, chosen: Mapping[str, Scalar]) -> Domain | None:
        """The domain of a parameter where `chosen` holds; None where it does not apply."""
        index = applying(name, self.parameters, chosen, self.preset)
        return None if index is None else self.parameters[name][index].domain

    def draw(self, choose: Callable[[str, Domain], Scalar]) -> Sample:
        """Settings, each parameter that applies chosen from its domain: for searchers of any kind.

        choose(label, domain) is asked in the order of `names`. The label is the parameter's name,
        with the alternative's number where there are several ("lr/0", "lr/1"), so that a label
        always has the same domain.
        """
        chosen: Sample = {} if self.preset is None else {"preset": self.preset}
        for name in self.names:
            index = applying(name, self.parameters, chosen, self.preset)
            if index is not None:
                alternatives = self.parameters[name]
                label = name if len(alternatives) == 1 else f"{name}/{index}"
                chosen[name] = choose(label, alternatives[index].domain)
        return chosen

    def sample(self, rng: np.random.Generator) -> Sample:
        """Settings drawn at random. The order of the YAML's lines changes nothing."""
        return self.draw(lambda label, domain: domain.sample(rng))

    def grid(self) -> Iterator[Sample]:
        """All settings, the last of `names` changing fastest.

        InvalidValue for a parameter with a range of numbers between which there are others.
        """
        for name, alternatives in self.parameters.items():
            for one in alternatives:
                if not one.domain.finite:
                    raise InvalidValue(
                        f"{name}: a grid needs a choice or int, found {one.domain}; name its "
                        f"values, such as --set {name}=1,2,5, or use --search random"
                    )
        return self._grid({} if self.preset is None else {"preset": self.preset}, self.names)

    def _grid(self, chosen: Sample, names: Sequence[str]) -> Iterator[Sample]:
        if not names:
            yield chosen
            return
        domain = self.domain(names[0], chosen)
        if isinstance(domain, Choice | Integer):
            for value in domain.all():
                yield from self._grid({**chosen, names[0]: value}, names[1:])
        else:  # it does not apply
            yield from self._grid(chosen, names[1:])

    def narrowed(self, domains: Mapping[str, Domain], preset: str | None = None) -> "Space":
        """The space with some parameters replaced or added, and another preset, as by `--set`.

        What of the other parameters can then no longer apply is left out.
        """
        replaced = {name: (Alternative(domain),) for name, domain in domains.items()}
        preset = self.preset if preset is None else preset
        return Space(pruned({**self.parameters, **replaced}, preset, set(domains)), preset)

    def as_dict(self) -> dict[str, Any]:
        """The space as YAML has it: one form for all ways of saying the same."""
        preset = {} if self.preset is None else {"preset": self.preset}
        return preset | {
            name: [one.as_dict() for one in self.parameters[name]] for name in self.parameters
        }

    @classmethod
    def of(cls, content: object) -> "Space":
        """From what YAML holds."""
        return cls(*parameters_of(content))

    @classmethod
    def read(cls, path: str | Path) -> "Space":
        """From a YAML file, which errors name."""
        with naming(path):
            return cls.of(read_yaml(Path(path)))

    def _parents(self, name: str) -> set[str]:
        """The parameters that must be known before this one."""
        found = {other for one in self.parameters[name] for other, _ in conditions_of(name, one)}
        if found and name != "model":
            found.add("model")  # whose preset says what is not in the space
        return found & self.parameters.keys()
