"""What a run is trained with: every setting, the presets, and what a set allows of them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from n2n import models
from n2n.checkpoint import Learner
from n2n.data import SingleSet, StreamedSet, TrainingSet
from n2n.device import PRECISIONS
from n2n.errors import InvalidValue, ShapeError
from n2n.models import Network
from n2n.nn import (
    SGD,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    L0Loss,
    L1Loss,
    LogMSELoss,
    Loss,
    MSELoss,
    Muon,
    Optimizer,
    RelativeMSELoss,
    StepSchedule,
    WeightAverage,
)

__all__ = ["DEFAULT_PRESET", "PRESETS", "TrainConfig", "configure", "unusable"]

Schedule = Callable[[int], float]
LOSSES: dict[str, type[Loss]] = {
    "mse": MSELoss,
    "l1": L1Loss,
    "l0": L0Loss,
    "relative-mse": RelativeMSELoss,
    "log-mse": LogMSELoss,
}
OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
SCHEDULES = ("constant", "step", "cosine")
FINITE = ("lr", "momentum", "weight_decay", "warmup", "decay", "clip", "checkpoint_seconds")
LARGEST = 3e38  # about the largest float32

DEFAULT_PRESET = "standard"
PRESETS: dict[str, dict[str, Any]] = {
    "standard": {},  # what TrainConfig says
    "fast": {"epochs": 5},
    "published": {
        "model": "seed",
        "epochs": 50,
        "batch_size": 100,
        "optimizer": "sgd",
        "lr": 5.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "ema": 0.0,
        "flips": False,
        "turns": False,
        "swap": False,
    },
    # A second level, at half the resolution, and more epochs; a bound for the rare batch whose
    # gradient is far from the others'.
    "best": {
        "model_config": {"blocks": 5, "levels": 2},
        "epochs": 40,
        "warmup": 1.0,
        "clip": 1.0,
    },
}
PRESET_OF_MODEL = {"seed": "published"}  # of all others: the default


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. The defaults are the preset `standard`; `of` takes others.

    preset: where the settings came from, for the record. momentum is SGD's; weight_decay is every
    optimiser's. warmup: epochs of the cosine schedule's rise. decay_epochs, decay: the step
    schedule multiplies lr by `decay` every so many epochs. ema: decay of the running average of the
    weights (`n2n.nn.WeightAverage`), which is then the model that is scored and saved; 0: none.
    clip: the largest norm of the gradients (`n2n.nn.clip_gradients`); 0: any. patience: epochs
    without a better score after which a run ends; 0: never. start: sha256 of the model file that
    it begins with, "" for random weights. precision: of the operands of matrix
    products (`n2n.device.use_precision`). memory_limit: bytes of pairs held in memory; a larger
    set streams. checkpoint_seconds: between checkpoints inside an epoch. snapshots: epochs whose
    model is kept, such as "1,10,50"; "": none. InvalidValue names the setting that cannot be used.
    """

    preset: str = DEFAULT_PRESET
    model: str = "n2n"
    model_config: dict[str, int] = field(default_factory=dict)
    epochs: int = 26
    batch_size: int = 64
    optimizer: str = "muon"
    lr: float = 4e-3
    momentum: float = 0.0
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.1
    decay_epochs: int = 20
    decay: float = 0.1
    ema: float = 0.999
    clip: float = 0.0
    patience: int = 0
    loss: str = "mse"
    flips: bool = True
    turns: bool = True
    swap: bool = True
    seed: int = 0
    start: str = ""
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    memory_limit: int = 2 << 30
    checkpoint_seconds: float = 60.0
    snapshots: str = ""

    def __post_init__(self) -> None:
        _require_among("preset", self.preset, PRESETS)
        _require_among("model", self.model, models.architectures())
        _require_among("optimizer", self.optimizer, OPTIMIZERS)
        _require_among("schedule", self.schedule, SCHEDULES)
        _require_among("loss", self.loss, LOSSES)
        _require_among("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "threads", "decay_epochs", "memory_limit"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in FINITE:
            value = getattr(self, name)
            if not 0 <= value <= LARGEST:
                raise InvalidValue(f"{name} must be a finite number, not negative, got {value}")
        if self.patience < 0:
            raise InvalidValue(f"patience must be 0 or more epochs, got {self.patience}")
        if not 0 <= self.ema < 1:
            raise InvalidValue(f"ema must be from 0 to below 1, such as 0.999, got {self.ema}")
        if not all(text.isdecimal() for text in self._snapshots):
            raise InvalidValue(
                f"snapshots must be epochs with commas between them, such as 1,10,50, got "
                f"{self.snapshots!r}"
            )
        if not self.decay:
            raise InvalidValue(f"decay must be above 0, got {self.decay}")
        if not 0 <= self.seed < 1 << 64:
            raise InvalidValue(f"seed must be from 0 to 2^64 - 1, got {self.seed}")
        if self.momentum and self.optimizer != "sgd":
            raise InvalidValue(f"momentum is sgd's, got {self.momentum} for {self.optimizer}")
        if self.schedule == "cosine" and self.warmup >= self.epochs:
            raise InvalidValue(f"warmup must be below epochs ({self.epochs}), got {self.warmup}")

    @classmethod
    def of(cls, preset: str | None = None, **settings: Any) -> "TrainConfig":
        """A preset's settings, with those given in place of its own.

        Without a name: the preset for `model`. A preset's learning rate is for its optimiser: sgd
        and the others need rates a thousand times apart, so that changing from one to the other
        asks for an lr (InvalidValue).
        """
        if preset is None:
            preset = PRESET_OF_MODEL.get(settings.get("model", ""), DEFAULT_PRESET)
        _require_among("preset", preset, PRESETS)
        base = cls(**{"preset": preset, **PRESETS[preset]})
        if settings.get("model", base.model) != base.model:
            base = replace(base, model=settings["model"], model_config={})
        if "model_config" in settings:
            settings["model_config"] = {**base.model_config, **settings["model_config"]}
        config = replace(base, **settings)
        if "lr" not in settings and (base.optimizer == "sgd") != (config.optimizer == "sgd"):
            raise InvalidValue(
                f"the preset {preset} has lr {base.lr:g}, which is for {base.optimizer}; give "
                f"the lr for {config.optimizer}, too"
            )
        return config

    @property
    def snapshot_epochs(self) -> frozenset[int]:
        """The epochs, from 1 on, whose model is kept."""
        return frozenset(int(text) for text in self._snapshots)

    @property
    def _snapshots(self) -> list[str]:
        return [text.strip() for text in self.snapshots.split(",") if self.snapshots.strip()]

    @property
    def may_change(self) -> frozenset[str]:
        """The settings that may differ when a run is resumed: none that an epoch done rests on."""
        names = {"preset", "set", "device", "threads", "patience", "snapshots"}
        names |= {"checkpoint_seconds", "stream_from"}
        has_an_end = self.schedule == "cosine" or self.loss == "l0"
        return frozenset(names if has_an_end else names | {"epochs"})

    def settings(self, pairs: TrainingSet) -> dict[str, Any]:
        """What config.yaml holds: the set, and every setting."""
        places = {"set": str(pairs.path), "digest": pairs.digest}
        if isinstance(pairs, StreamedSet):
            places["stream_from"] = str(pairs.folder)
        return {**places, **asdict(self)}

    def require_suited(self, pairs: TrainingSet) -> None:
        """InvalidValue or ShapeError, with what to do, for a set that this cannot train on."""
        _, height, width = pairs.shape
        for name, reason in unusable(pairs).items():
            if getattr(self, name):
                raise InvalidValue(f"{name} {reason}; switch {name} off")
        if isinstance(pairs, SingleSet) and self.loss != "mse":
            raise InvalidValue(
                f"loss must be mse for single noisy images (n2n.neighbours), got {self.loss}"
            )
        if self.has_rising_regulariser(pairs) and self.patience:
            raise InvalidValue(
                "patience must be 0 for single noisy images, whose epochs cannot be compared, got "
                f"{self.patience}; set --epochs"
            )
        multiple = models.size_multiple(self.model, **self.model_config)
        if height % multiple or width % multiple:
            raise ShapeError(
                f"the network {self.model} takes sizes that are multiples of {multiple}, the set "
                f"has images of {height}x{width}; build it with another --size"
            )

    def has_rising_regulariser(self, pairs: TrainingSet) -> bool:
        """Whether γ of `n2n.neighbours` rises over the run: single images, random weights."""
        return isinstance(pairs, SingleSet) and not self.start

    def make_network(self, channels: int) -> Network:
        """The network, initialised from `seed`."""
        generator = torch.Generator().manual_seed(self.seed)
        config = {"channels": channels, **self.model_config}
        if config["channels"] != channels:
            raise InvalidValue(
                f"the set has images of {channels} channels, got channels={config['channels']}"
            )
        return models.create(self.model, generator=generator, **config).to(self.device)

    def make_optimizer(self, network: Network) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(network.param(), self.lr, self.momentum, weight_decay=self.weight_decay)
        kinds = {"adam": Adam, "adamw": AdamW, "muon": Muon}
        return kinds[self.optimizer](network.param(), self.lr, weight_decay=self.weight_decay)

    def make_learner(self, network: Network) -> Learner:
        """The network with its optimiser and the average of its weights, all at their beginning."""
        average = WeightAverage(network, self.ema) if self.ema else None
        return Learner(network, self.make_optimizer(network), average)

    @property
    def is_robust(self) -> bool:
        """Whether the loss is for pairs whose squared error misleads: by impulses, by letters."""
        return self.loss in ("l0", "l1")

    def make_loss(self) -> Loss:
        return LOSSES[self.loss]()

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        if self.schedule == "constant":
            return ConstantSchedule(self.lr)
        if self.schedule == "step":
            return StepSchedule(self.lr, self.decay_epochs * steps_per_epoch, self.decay)
        return CosineSchedule(
            self.lr, self.epochs * steps_per_epoch, int(self.warmup * steps_per_epoch)
        )


def configure(
    pairs: TrainingSet, preset: str | None = None, **settings: Any
) -> tuple[TrainConfig, list[str]]:
    """`TrainConfig.of` for a set, and a line for each thing of the preset that was left out.

    What the set does not allow is switched off where the preset asks for it. Where `settings`
    ask for it, it stays, and the Trainer refuses it.
    """
    config = TrainConfig.of(preset, **settings)
    lines = []
    for name, reason in unusable(pairs).items():
        if getattr(config, name) and name not in settings:
            config = replace(config, **{name: False})  # type: ignore[arg-type]  # a flag's name
            lines.append(f"{name} is switched off: it {reason}")
    return config, lines


def unusable(pairs: TrainingSet) -> dict[str, str]:
    """The augmentations that do not suit a set, and what each needs."""
    _, height, width = pairs.shape
    reasons = {}
    if height != width:
        reasons["turns"] = f"needs square images, the set has {height}x{width}"
    if pairs.train.target != "noisy":
        reasons["swap"] = f"needs two noisy views, the set's target is {pairs.train.target}"
    if isinstance(pairs, StreamedSet) and not pairs.train.has_equal_views:
        found = "targets are means" if pairs.train.exposures > 1 else "only inputs are clipped"
        reasons["swap"] = f"needs two views alike, but {found}"
    return reasons


def _require_among(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise InvalidValue(f"{name} must be one of {', '.join(known)}, got {value!r}")
