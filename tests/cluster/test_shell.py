"""What is read out of commands and versions, without running or expanding anything."""

import pytest

from jobs.clusterfile import shell, versions


@pytest.mark.parametrize(
    ("command", "options", "mode"),
    [
        ("ray start --head --port 6379", {"--head": "", "--port": "6379"}, None),
        ("A=1 RAY_AUTH_MODE=token ray start --head", {"--head": ""}, "token"),
        ("export RAY_AUTH_MODE=token; ulimit -n 9 && ray start --head", {"--head": ""}, "token"),
        ("RAY_AUTH_MODE=token; ray start --head", {"--head": ""}, None),  # not exported
        ("env RAY_AUTH_MODE='token' ~/v/bin/ray start", {}, "token"),
        ("sudo -E python3 -m ray.scripts.scripts start --head", {"--head": ""}, None),
        ("(ray stop; ray start --head) > log 2>&1", {"--head": ""}, None),
        ("ulimit -n 9\nray start --address=$RAY_HEAD_IP:1", {"--address": "$RAY_HEAD_IP:1"}, None),
    ],
)
def test_ray_start(command: str, options: dict[str, str], mode: str | None) -> None:
    [start] = shell.starts(command)
    assert start.options == options
    assert start.variables.get("RAY_AUTH_MODE") == mode


@pytest.mark.parametrize(
    "command", ["ray stop", "echo 'ray start'", "", "# ray start", "ray", "start", "echo 'open"]
)
def test_no_ray_start(command: str) -> None:
    assert shell.starts(command) == []


def test_versions_in_commands_and_images() -> None:
    assert shell.pinned_versions("pip install 'ray[default,tune]==2.9.3' x-ray==1.0") == ["2.9.3"]
    assert shell.pinned_versions("pip install 'ray>=2.60'") == []
    assert shell.image_versions("rayproject/ray:2.60.0-py311-gpu") == ["2.60.0"]
    assert shell.image_versions("rayproject/ray:latest") == []


def test_versions_of_ray() -> None:
    assert versions.within(versions.installed())
    assert not versions.within("2.59.9")
    assert not versions.within("nightly")
    assert versions.same_release(versions.installed())
    assert versions.same_release("2.60", "2.60.1")
    assert not versions.same_release("2.60.0", "2.60.1")
    assert not versions.same_release("2", "2.60.1")
    assert versions.required().startswith(">=")
