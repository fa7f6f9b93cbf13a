"""A user's home with a key and a token, and the shipped cluster files filled in for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import ROOT

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nbm9uZQ==\n-----END OPENSSH PRIVATE KEY-----\n"
FILLED = {  # in the shipped files: what a user would write
    "onprem.yaml": {
        "CHANGE-ME-head": "head",
        "CHANGE-ME-worker-1": "worker-1",
        "CHANGE-ME-worker-2": "worker-2",
        "~/.ssh/CHANGE-ME": "~/.ssh/n2n",
        "ssh_user: CHANGE-ME": "ssh_user: jane",
    },
    "local.yaml": {
        "~/.ssh/CHANGE-ME": "~/.ssh/n2n",
        "ssh_user: CHANGE-ME": "ssh_user: jane",
    },
    "aws.yaml": {"ImageId: CHANGE-ME": "ImageId: ami-0123456789abcdef0"},
    "gcp.yaml": {"project_id: CHANGE-ME": "project_id: denoising-1"},
    "kuberay/rayjob.yaml": {
        "CHANGE-ME-in": "noisy",
        "CHANGE-ME-out": "clean",
        "CHANGE-ME/n2n": "registry.example.org/n2n",
        "claimName: CHANGE-ME": "claimName: images",
    },
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """~ of a user who stands in the root of a clone."""
    home = tmp_path / "home"
    for name, text in ((".ssh/n2n", KEY), (".ray/auth_token", "0" * 64)):
        file = home / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    return home


@pytest.fixture
def filled() -> Callable[[str], str]:
    """The text of a shipped file, with what a user has to change."""

    def fill(name: str) -> str:
        text = (ROOT / "cluster" / name).read_text(encoding="utf-8")
        for old, new in FILLED[name].items():
            assert old in text, old
            text = text.replace(old, new)
        assert "CHANGE-ME" not in "".join(
            line.partition("#")[0] for line in text.splitlines(keepends=True)
        )
        return text

    return fill
