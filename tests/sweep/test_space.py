"""The space: its YAML, its conditions, its samples and grids, and what it refuses."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from n2n.config import TrainConfig
from n2n.errors import InvalidType, InvalidValue, N2NError
from n2n.sweep import (
    Choice,
    Integer,
    LogUniform,
    Sample,
    Space,
    SweepConfig,
    default_space,
    parse_settings,
)
from n2n.sweep import space as module

EXAMPLE = yaml.safe_load(
    textwrap.dedent(module.__doc__.partition("FILE`:\n")[2].partition("A name is")[0])
)


def samples(space: Space, count: int = 300) -> list[Sample]:
    return [space.sample(np.random.default_rng([3, number])) for number in range(count)]


def test_the_example_of_the_documentation() -> None:
    space = Space.of(EXAMPLE)
    found = samples(space)
    for sample in found:
        assert sample["preset"] == "published"
        assert sample["model"] in ("seed", "unet")
        assert sample["batch_size"] in (50, 100, 150, 200)
        low, high = (1, 20) if sample["optimizer"] == "sgd" else (3e-4, 1e-2)
        assert low <= sample["lr"] <= high
        assert ("momentum" in sample) == (sample["optimizer"] == "sgd")
        assert ("weight_decay" in sample) == (sample["optimizer"] == "adamw")
        assert ("depth" in sample) == (sample["model"] == "unet")
    assert {(sample["model"], sample["optimizer"]) for sample in found} == {
        (model, optimizer) for model in ("seed", "unet") for optimizer in ("sgd", "adamw")
    }


def test_one_form_for_all_ways_of_saying_the_same() -> None:
    space = Space.of(EXAMPLE)
    assert Space.of(space.as_dict()) == space
    assert Space.of(yaml.safe_load(yaml.safe_dump(space.as_dict()))).as_dict() == space.as_dict()
    backwards = Space.of(dict(reversed(EXAMPLE.items())))
    assert backwards.as_dict() == space.as_dict()
    assert samples(backwards, 20) == samples(space, 20)
    one = Space.of({"lr": 5, "optimizer": "sgd", "momentum": {"uniform": [0, 0.5]}})
    same = {
        "momentum": [{"uniform": [0.0, "5e-1"]}],  # YAML takes 5e-1 for a text
        "lr": ["5.0"],
        "optimizer": {"value": "sgd"},
    }
    assert Space.of(same).as_dict() == one.as_dict()


@pytest.mark.parametrize(
    ("content", "applying"),
    [
        ({"model": "seed", "momentum": 0.5}, {"momentum"}),  # published: sgd, constant
        ({"model": ["seed", "n2n"], "momentum": 0.5, "warmup": 0.2}, {"warmup"}),  # fast: cosine
        ({"model": ["seed", "n2n"], "blocks": 2, "hidden": 8}, {"blocks", "hidden"}),
        ({"model": ["n2n", "unet"], "blocks": 2, "depth": 1}, {"blocks"}),
        ({"schedule": ["constant", "step"], "decay": 0.5, "decay_epochs": 1}, set()),
        ({"preset": "published", "model": "n2n", "momentum": 0.5}, {"momentum"}),
    ],
)
def test_conditions_that_go_without_saying(content: dict[str, Any], applying: set[str]) -> None:
    """They look at what the space does not name, too: the preset of the trial's model."""
    space = Space.of(content)
    wanted = {"model": "n2n", "schedule": "constant"}  # where there is a choice
    for sample in samples(space, 40):
        if all(sample[name] == value for name, value in wanted.items() if name in space.varying):
            assert sample.keys() - {"model", "schedule", "preset"} == applying


def test_alternatives_are_looked_at_in_order() -> None:
    space = Space.of(
        {
            "model": ["seed", "unet", "n2n"],
            "width": [
                {"value": 8, "when": {"model": ["unet", "n2n"]}},
                {"int": [16, 24], "step": 8, "when": {"model": "seed"}},
            ],
        }
    )
    for sample in samples(space, 40):
        assert sample["width"] in ((16, 24) if sample["model"] == "seed" else (8,))
    labels: list[str] = []

    def choose(label: str, domain: Choice | Integer) -> object:
        labels.append(label)
        return domain.ends()[0]

    assert space.draw(choose) == {"model": "seed", "width": 16}
    assert labels == ["model", "width/1"]
    assert space.domain("width", {"model": "unet"}) == Choice((8,))


def test_a_grid_has_each_setting_once() -> None:
    space = Space.of(
        {
            "model": ["seed", "unet"],
            "depth": {"int": [1, 3], "step": 2},
            "optimizer": ["sgd", "adamw"],
            "lr": 1,
            "momentum": [0.0, 0.5],
        }
    )
    grid = list(space.grid())
    assert len(grid) == 9 == (1 + 2) * (1 + 2)
    texts = {repr(sample) for sample in grid}
    assert len(texts) == 9
    assert {repr(sample) for sample in samples(space)} == texts  # what a draw can give, and no more


def test_a_grid_needs_values() -> None:
    with pytest.raises(InvalidValue, match=r"lr: a grid needs a choice or int, found log:1\.\.2"):
        Space.of({"lr": {"log": [1, 2]}}).grid()


@given(st.permutations(sorted(EXAMPLE)), st.integers(0, 2**32))
def test_samples_do_not_depend_on_the_order_of_the_lines(order: list[str], seed: int) -> None:
    shuffled = Space.of({name: EXAMPLE[name] for name in order})
    assert shuffled.sample(np.random.default_rng(seed)) == Space.of(EXAMPLE).sample(
        np.random.default_rng(seed)
    )


def test_settings_of_the_command_line_replace_those_of_the_space() -> None:
    space = Space.of(EXAMPLE).narrowed(
        parse_settings(["model=seed", "lr=log:1e-4..5", "optimizer=sgd", "turns=true,false"])
    )
    content = space.as_dict()
    assert content["lr"] == [{"log": [1e-4, 5.0]}]
    assert content["turns"] == [{"choice": [True, False]}]
    assert "depth" not in content  # of a network that there is no more
    assert "weight_decay" not in content
    assert "momentum" in content
    assert space.preset == "published"
    assert Space.of(EXAMPLE).narrowed({}, "fast").preset == "fast"


@pytest.mark.parametrize("texts", [["lr"], ["lr="], ["=3"], ["lr=1", "lr=2"], ["lr=2..1"]])
def test_settings_that_are_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidValue, match=r"^--set ") as caught:
        parse_settings(texts)
    assert "\n" not in str(caught.value)


REFUSED: list[tuple[object, type[N2NError], str]] = [
    (None, InvalidType, "a mapping from names to domains expected, got None"),
    ([1], InvalidType, "a mapping"),
    ({}, InvalidValue, "at least one parameter"),
    ({"preset": "slow", "lr": 1}, InvalidValue, "preset must be one of standard, fast, published"),
    ({"preset": 3, "lr": 1}, InvalidType, "preset: a name"),
    ({"wdith": 3}, InvalidValue, "there is no setting 'wdith'; did you mean width?"),
    ({"zzz": 3}, InvalidValue, "there is no setting 'zzz'; known are batch_size, blocks"),
    ({3: 3}, InvalidValue, "there is no setting 3"),
    ({"epochs": 3}, InvalidValue, "epochs is no parameter of a space; it is set by --max-epochs"),
    ({"channels": 3}, InvalidValue, "no setting 'channels'"),
    ({"lr": []}, InvalidValue, "lr: a choice needs at least one value"),
    ({"lr": None}, InvalidType, "lr: "),
    ({"lr": {"log": [1, 0.5]}}, InvalidValue, "lr: log: the range from 1 to 0.5 is empty"),
    ({"lr": {"log": [1]}}, InvalidValue, r"lr: log: \[LOW, HIGH\] expected"),
    ({"lr": {"log": 3}}, InvalidType, "lr: log: a list expected"),
    ({"lr": {"lgo": [1, 2]}}, InvalidValue, "lr: one of choice, value, .* found lgo"),
    ({"lr": {}}, InvalidValue, "found nothing"),
    ({"lr": {"log": [1, 2], "uniform": [1, 2]}}, InvalidValue, "one of choice"),
    ({"lr": {"log": [1, 2], "step": 2}}, InvalidValue, "lr: log knows no 'step'"),
    ({"lr": {"uniform": [-1, 2]}}, InvalidValue, "lr: lr must be a finite number, not negative"),
    ({"lr": ["fast"]}, InvalidType, "lr: lr is a number, got 'fast'"),
    ({"lr": [True]}, InvalidType, "lr: lr is a number, got True"),
    ({"lr": [1, {"log": [1, 2]}]}, InvalidType, "lr: .* a mixture"),
    ({"batch_size": {"uniform": [1, 2]}}, InvalidValue, "batch_size is a whole number"),
    ({"batch_size": [10, 2.5]}, InvalidType, "batch_size is a whole number, got 2.5"),
    ({"batch_size": {"int": [0, 5]}}, InvalidValue, "batch_size must be at least 1, got 0"),
    ({"batch_size": {"int": [1, 5], "log": 2}}, InvalidType, "log: true or false"),
    ({"width": [0]}, InvalidValue, "width must be at least 1, got 0"),
    ({"flips": ["yes"]}, InvalidType, "flips is true or false, got 'yes'"),
    ({"flips": {"int": [0, 1]}}, InvalidValue, "flips is not a number"),
    ({"optimizer": "sgdd"}, InvalidValue, "optimizer must be one of sgd, adam, adamw"),
    ({"model": ["seed", "big"]}, InvalidValue, "model must be one of .* got 'big'"),
    ({"lr": {"value": 1, "when": {"model": "seed"}}}, InvalidValue, "model is no parameter of"),
    ({"lr": {"value": 1, "when": 3}}, InvalidType, "lr: when: a mapping"),
    ({"lr": {"value": 1, "when": {"lr": 1}}}, InvalidValue, "lr cannot depend on itself"),
    (
        {"model": "seed", "lr": {"value": 1, "when": {"model": "unet"}}},
        InvalidValue,
        "lr: applies where model is unet, but here model is seed",
    ),
    (
        {"lr": {"log": [1, 2]}, "width": {"value": 1, "when": {"lr": 1}}},
        InvalidValue,
        "a condition on lr needs its values",
    ),
    ({"model": "seed", "depth": 2}, InvalidValue, "depth: applies where model is unet"),
    ({"optimizer": "adam", "lr": 1, "momentum": 0.1}, InvalidValue, "momentum: applies where"),
    (
        {
            "loss": {"choice": ["mse", "l1"], "when": {"flips": True}},
            "flips": {"choice": [True, False], "when": {"loss": "l1"}},
        },
        InvalidValue,
        "the conditions go in a circle",
    ),
]


@pytest.mark.parametrize(("content", "error", "part"), REFUSED, ids=lambda item: str(item)[:40])
def test_what_is_refused(content: object, error: type[N2NError], part: str) -> None:
    with pytest.raises(error, match=part) as caught:
        Space.of(content)
    assert "\n" not in str(caught.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    cases = {
        "lr: [1\n": "expected YAML, found another text",
        "lr: 1\nloss: mse\nlr: 2\n": r"lr twice, line 3",
        "width: {int: [1, 2], int: [3, 4]}": "int twice",
        "lr: {log: [2, 1]}\n": "lr: log: the range from 2 to 1 is empty",
        "": "a mapping",
    }
    for text, part in cases.items():
        path.write_text(text)
        with pytest.raises(N2NError, match=part) as caught:
            Space.read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    for place in (path, tmp_path, tmp_path / "nothing"):
        with pytest.raises(InvalidValue, match="expected"):
            Space.read(place)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("lr: {log: [1e-4, 5]}\nmodel: seed\n", encoding="utf-8")
    assert Space.read(path).domain("lr", {}) == LogUniform(1e-4, 5.0)


def test_the_default_trains_on_every_kind_of_set(make_set: Callable) -> None:
    """Every sample of it, with every set: no swap with clean targets, no depth for odd sizes."""
    for number, (shape, target) in enumerate(
        [((3, 8, 8), "noisy"), ((1, 4, 8), "noisy"), ((3, 12, 12), "clean"), ((3, 2, 2), "noisy")]
    ):
        pairs = make_set(f"set{number}", shape=shape, target=target, rows=5, val=2)
        space = default_space(pairs)
        config = SweepConfig(trials=100).for_set(pairs)
        found = [config.settings_of(sample, pairs) for sample in config.samples(space)]
        assert {one.model for one in found} == (
            {"unet"} if shape[1] == 2 else {"seed", "n2n", "unet"}
        )
        assert {one.swap for one in found} == ({False} if target == "clean" else {True, False})
        assert all(isinstance(one, TrainConfig) for one in found)
