"""The verdict of `n2n cluster check` beside Ray's own, and no YAML that makes it fall."""

import contextlib
import copy
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.clusterfile import check, inspect
from jobs.clusterfile.document import read

LAUNCHER = ("onprem.yaml", "local.yaml", "aws.yaml", "gcp.yaml")
NAMES = [
    "cluster_name", "provider", "type", "local", "aws", "gcp", "head_ip", "worker_ips", "auth",
    "ssh_user", "ssh_private_key", "max_workers", "min_workers", "available_node_types", "docker",
    "head_node_type", "resources", "node_config", "file_mounts", "setup_commands", "image",
    "head_start_ray_commands", "worker_start_ray_commands", "ray start --head", "metadata",
    "apiVersion", "ray.io/v1", "kind", "RayJob", "RayCluster", "spec", "rayClusterSpec", "name",
    "headGroupSpec", "workerGroupSpecs", "template", "containers", "env", "RAY_AUTH_TOKEN",
    "entrypoint", "runtimeEnvYAML", "CHANGE-ME", "rayStartParams", "authOptions", "mode", "head",
]  # fmt: skip


def refused_by_ray(value: Any) -> bool:
    """By what `ray up` does before it speaks to a provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            validate_config(prepare_config(copy.deepcopy(value)))
        except (Exception, SystemExit):
            return True
    return False


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_takes_the_shipped_files(name: str, home: Path, filled: Callable[[str], str]) -> None:
    assert not refused_by_ray(yaml.safe_load(filled(name)))


@pytest.mark.parametrize("name", LAUNCHER)
def test_what_ray_refuses_is_refused(
    name: str, home: Path, filled: Callable[[str], str], tmp_path: Path
) -> None:
    """Each key of a shipped file left out, renamed, or given another value, one after another."""
    file = tmp_path / "cluster.yaml"
    whole = yaml.safe_load(filled(name))
    refused = 0
    for key in keys(whole, depth=1 if name == "gcp.yaml" else 2):
        if key[:1] == ("provider",) and key[-1] in ("cache_stopped_nodes", "availability_zone"):
            continue
        for change in (drop, rename, lambda parent, at: parent.__setitem__(at, 3),
                       lambda parent, at: parent.__setitem__(at, "x"),
                       lambda parent, at: parent.__setitem__(at, None),
                       lambda parent, at: parent.__setitem__(at, [{}])):  # fmt: skip
            parent = value = copy.deepcopy(whole)
            for part in key[:-1]:
                parent = parent[part]
            change(parent, key[-1])
            if key[-1] == "resources" and key[0] == "available_node_types" and change is drop:
                continue  # Ray looks for itself on a cloud, though its check says no
            if refused_by_ray(value):
                refused += 1
                file.write_text(yaml.safe_dump(value))
                assert check(file), file.read_text()
    assert refused > 20


def drop(parent: Any, at: Any) -> None:
    del parent[at]


def rename(parent: Any, at: Any) -> None:
    if isinstance(parent, dict):
        parent[f"{at}_"] = parent.pop(at)


def keys(value: Any, above: tuple[Any, ...] = (), depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Of a mapping and of what is in it, down to a depth."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*above, name)
        if isinstance(inner, dict | list) and len(above) < depth:
            yield from keys(inner, (*above, name), depth)


# No YAML makes it fall

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(NAMES)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=25,
)
FREELY = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def lines_are_there(file: Path) -> None:
    report = inspect(file)
    assert report.faults or report.kind
    number = max(
        1, len(re.split("\r\n|[\r\n\x85\u2028\u2029]", file.read_bytes().decode("latin1")))
    )
    for fault in report.faults:
        assert 1 <= fault.line <= number + 1
        assert "\n" not in str(fault)


@FREELY
@given(value=VALUES)
@example(value={"provider": {"type": ["local"]}, "cluster_name": {"a": 1}})
@example(value={"kind": ["RayJob"], "apiVersion": 3})
@example(value={"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": [], "metadata": 1})
def test_any_value(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    lines_are_there(file)


@FREELY
@given(content=st.binary() | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`\t\n ,?<~0.").map(str.encode))
@example(content=b"? a\n: b\n? [c]\n")
@example(content=b"<<: [a]\n")
@example(content=b"<<: {a: 1}\nb: 2\n")
@example(content=b"a: !!binary x\n")
@example(content=b"=: 1\n")
@example(content=b"%YAML 9.9\n---\na: 1\n")
def test_any_bytes(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    lines_are_there(file)


@settings(FREELY, max_examples=60)
@given(
    name=st.sampled_from([*LAUNCHER, "kuberay/rayjob.yaml"]),
    place=st.integers(0, 200),
    value=VALUES,
)
def test_a_shipped_file_with_another_value_at_any_key(
    name: str, place: int, value: Any, home: Path, filled: Callable[[str], str], tmp_path: Path
) -> None:
    whole = yaml.safe_load(filled(name))
    found = list(keys(whole))
    key = found[place % len(found)]
    parent = whole
    for part in key[:-1]:
        parent = parent[part]
    parent[key[-1]] = value
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    lines_are_there(file)


@settings(FREELY, max_examples=50)
@given(value=st.dictionaries(st.text(min_size=1), VALUES, min_size=1))
def test_values_are_those_of_the_safe_loader(value: Any, tmp_path: Path) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8")
    [document] = read(file)
    if not document.faults:  # a key such as `yes` or `1`, quoted by safe_dump, is text here
        assert repr(document.value) == repr(yaml.safe_load(text))
        for key in keys(document.value):
            assert key in document.lines
