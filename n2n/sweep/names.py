"""What a space may name: settings of `n2n train`, and those of its architectures."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from n2n import models
from n2n.config import PRESET_OF_MODEL, PRESETS, TrainConfig
from n2n.errors import InvalidType, InvalidValue
from n2n.sweep.domains import Choice, Domain, Integer, Scalar

__all__ = [
    "ARCHITECTURE",
    "CONDITIONED",
    "base_value",
    "implied",
    "require_fit",
    "require_known",
    "train_settings",
]

# Settings that are the sweep's own, or the machine's, and what sets them.
ELSEWHERE = {
    "epochs": "--max-epochs",
    "preset": "--preset, or preset at the top of the space",
    "model_config": "its own settings, such as width",
    "device": "--device",
    "threads": "--cpus-per-trial",
    "memory_limit": "--memory",
    "patience": "--scheduler, which ends trials that are behind",
    "start": "nothing: trials begin with random weights",
    "checkpoint_seconds": "nothing: it changes no result",
    "snapshots": "nothing: trials keep their best model alone",
}
KINDS: dict[str, type] = {  # of a TrainConfig's fields
    item.name: type(getattr(TrainConfig(), item.name))
    for item in fields(TrainConfig)
    if item.name not in ELSEWHERE
}
ARCHITECTURE: dict[str, tuple[str, ...]] = {  # setting: the models that have it
    setting: tuple(
        name
        for name, kind in models.ARCHITECTURES.items()
        if setting in {item.name for item in fields(kind)}
    )
    for kind in models.ARCHITECTURES.values()
    for setting in (item.name for item in fields(kind))
    if setting != "channels"  # of the set
}
IMPLIED: dict[str, dict[str, tuple[Scalar, ...]]] = {
    "momentum": {"optimizer": ("sgd",)},
    "warmup": {"schedule": ("cosine",)},
    "decay": {"schedule": ("step",)},
    "decay_epochs": {"schedule": ("step",)},
    **{
        name: {"model": have}
        for name, have in ARCHITECTURE.items()
        if len(have) < len(models.ARCHITECTURES)
    },
}
CONDITIONED = {name for conditions in IMPLIED.values() for name in conditions}
# In which every setting may take every value that it ever may.
PROBE: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "epochs": 10**9}


def implied(name: str) -> dict[str, tuple[Scalar, ...]]:
    """What must hold for a setting to mean anything: {"optimizer": ("sgd",)} for momentum."""
    return IMPLIED.get(name, {})


def base_value(name: str, preset: str | None, model: Scalar | None) -> Any:
    """What a setting is where a space does not name it. preset None: the one for the model."""
    if preset is None:
        preset = PRESET_OF_MODEL.get(str(model), TrainConfig.preset)
    return PRESETS[preset].get(name, getattr(TrainConfig, name))


def train_settings(sample: dict[str, Scalar]) -> dict[str, Any]:
    """A sample as TrainConfig takes it: the architecture's settings in `model_config`."""
    settings: dict[str, Any] = {
        name: value for name, value in sample.items() if name not in ARCHITECTURE
    }
    architecture = {name: value for name, value in sample.items() if name in ARCHITECTURE}
    return {**settings, "model_config": architecture} if architecture else settings


def require_known(name: object) -> str:
    """The name. InvalidValue for one that no space may have, with one that is like it."""
    known = [*KINDS, *ARCHITECTURE]
    if name in known:
        return str(name)
    if name in ELSEWHERE:
        raise InvalidValue(
            f"{name} is no parameter of a space; it is set by {ELSEWHERE[str(name)]}"
        )
    like = get_close_matches(str(name), known, 1)
    hint = f"; did you mean {like[0]}?" if like else f"; known are {', '.join(sorted(known))}"
    raise InvalidValue(f"there is no setting {name!r}{hint}")


def require_fit(name: str, domain: Domain) -> Domain:
    """The domain, its values of the setting's type. InvalidValue for values it cannot take."""
    kind = int if name in ARCHITECTURE else KINDS[name]
    if isinstance(domain, Choice):
        domain = Choice(tuple(_cast(name, value, kind) for value in domain.values))
    elif kind is int and not isinstance(domain, Integer):
        raise InvalidValue(f"{name} is a whole number: int or a choice expected, got {domain}")
    elif kind not in (int, float):
        raise InvalidValue(f"{name} is not a number: a choice expected, got {domain}")
    for value in domain.ends():
        if name not in ARCHITECTURE:
            TrainConfig(**{**PROBE, name: value})
        elif int(value) < 1:
            raise InvalidValue(f"{name} must be at least 1, got {value}")
    return domain


def _cast(name: str, value: Scalar, kind: type) -> Scalar:
    """YAML has texts for numbers such as 1e-4; whole numbers are floats, too."""
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            value, fits = float(value), True
        except ValueError:
            fits = False
    if not fits:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
        raise InvalidType(f"{name} is {words[kind]}, got {value!r}")
    return value
