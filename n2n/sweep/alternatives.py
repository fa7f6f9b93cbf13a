"""The domains of a parameter, each with its conditions, and which of them can ever hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from n2n.errors import InvalidValue
from n2n.sweep.domains import Choice, Domain, Integer, Scalar
from n2n.sweep.names import CONDITIONED, base_value, implied, require_fit, require_known

__all__ = [
    "Alternative",
    "Parameters",
    "applying",
    "checked",
    "conditions_of",
    "pruned",
    "require_possible",
]

When = Mapping[str, tuple[Scalar, ...]]


@dataclass(frozen=True)
class Alternative:
    """A domain of a parameter, and what must hold for it: one of the values of each name."""

    domain: Domain
    when: When = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        when = {name: list(values) for name, values in sorted(self.when.items())}
        return {**self.domain.as_dict(), **({"when": when} if when else {})}


Parameters = Mapping[str, tuple[Alternative, ...]]


def checked(name: str, one: Alternative, parameters: Parameters) -> Alternative:
    """The alternative with values of the right types. InvalidValue, InvalidType for others."""
    when = {}
    for other, values in one.when.items():
        if require_known(other) not in parameters:
            raise InvalidValue(f"when: {other} is no parameter of this space; add it, with values")
        if other == name:
            raise InvalidValue(f"when: {name} cannot depend on itself")
        domain = require_fit(other, Choice(tuple(values)))
        when[other] = tuple(value for value in domain.ends())
    return Alternative(require_fit(name, one.domain), when)


def conditions_of(name: str, one: Alternative) -> list[tuple[str, tuple[Scalar, ...]]]:
    """What must hold for an alternative: what it says, and what goes without saying."""
    return [*one.when.items(), *implied(name).items()]


def applying(
    name: str, parameters: Parameters, chosen: Mapping[str, Scalar], preset: str | None
) -> int | None:
    """The first alternative whose conditions hold in what was chosen before; None if none does."""

    def value(other: str) -> Scalar | None:
        if other in chosen or other not in CONDITIONED:
            return chosen.get(other)
        default: Scalar = base_value(other, preset, chosen.get("model"))
        return default

    for index, one in enumerate(parameters[name]):
        if all(value(other) in values for other, values in conditions_of(name, one)):
            return index
    return None


def require_possible(name: str, parameters: Parameters, preset: str | None) -> None:
    """InvalidValue for an alternative whose conditions hold for no values of the others."""
    for one in parameters[name]:
        for other, values in conditions_of(name, one):
            found = _possible(other, parameters, preset)
            if not found & set(values):
                wanted, others = (
                    " or ".join(sorted(str(value) for value in each)) for each in (values, found)
                )
                raise InvalidValue(
                    f"{name}: applies where {other} is {wanted}, but here {other} is {others}"
                )


def pruned(parameters: Parameters, preset: str | None, keep: set[str]) -> Parameters:
    """Without alternatives that cannot apply, but for those of the parameters to keep."""
    while True:
        left = {}
        for name, alternatives in parameters.items():
            can = tuple(
                one
                for one in alternatives
                if name in keep
                or all(
                    _possible(other, parameters, preset) & set(values)
                    for other, values in conditions_of(name, one)
                )
            )
            if can:
                left[name] = can
        if left == parameters:
            return parameters
        parameters = left


def _possible(name: str, parameters: Parameters, preset: str | None) -> set[Scalar]:
    """The values that a parameter may have. InvalidValue where they have no end."""
    found: set[Scalar] = set()
    always = False
    for one in parameters.get(name, ()):
        if not isinstance(one.domain, Choice | Integer):
            raise InvalidValue(
                f"a condition on {name} needs its values, found {one.domain}; give {name} a choice"
            )
        found.update(one.domain.all())
        always = always or not conditions_of(name, one)
    if name in CONDITIONED and not always:
        models = _possible("model", parameters, preset) if name != "model" else {None}
        found.update(base_value(name, preset, model) for model in models)
    return found
