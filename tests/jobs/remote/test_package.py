"""What is sent: the code alone, small inputs, and the same bytes for the same files."""

import os
import zipfile
from pathlib import Path

import pytest

from jobs.remote.code import Upload, contents, pack
from jobs.remote.head import of_file
from jobs.remote.runs import derived_id, digest_of, require_id
from n2n.errors import InvalidValue

ROOT = Path(__file__).parents[3]


def test_the_code_and_nothing_else(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", [], code=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as package:
        names = package.namelist()
        sizes = {info.filename: info.compress_size for info in package.infolist()}
    assert {"n2n/__init__.py", "jobs/cli.py", "jobs/remote/code.py"} <= set(names)
    assert any(name.endswith(".safetensors") for name in names)
    assert {name.partition("/")[0] for name in names} == {"n2n", "jobs"}
    assert not [name for name in names if "__pycache__" in name or ".git" in name]
    models = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert models < 8_000_000
    assert (tmp_path / "a.zip").stat().st_size - models < 2**20


def test_the_same_files_are_the_same_package(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/b").write_text("b")
    (folder / "a").write_text("a")
    uploads = [Upload(folder, "uploads/0/in"), Upload(folder / "a", "uploads/1/a")]
    pack(tmp_path / "1.zip", uploads, code=False)
    before = contents(uploads)
    os.utime(folder / "a", (1, 1))
    pack(tmp_path / "2.zip", uploads, code=False)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert contents(uploads) == before
    (folder / "a").write_text("c")
    assert contents(uploads) != before
    with zipfile.ZipFile(tmp_path / "1.zip") as package:
        assert package.namelist() == ["uploads/0/in/a", "uploads/0/in/deep/b", "uploads/1/a"]
        assert package.read("uploads/1/a") == b"a"


def test_ids() -> None:
    words = ["data", "check", "set"]
    assert derived_id("data check", digest_of(words)).startswith("data-check-")
    assert digest_of(words) == digest_of(tuple(words))
    assert digest_of(words) != digest_of(["data", "check set"])
    assert digest_of(["a"], "b") != digest_of(["a", "b"])
    for name in ("a", "A-1_b.c", "9" * 100):
        assert require_id(name) == name
    for name in ("", "-a", ".a", "a b", "a/b", "a~2", "a" * 101, "a\n", "ü"):
        with pytest.raises(InvalidValue, match="--id"):
            require_id(name)


def test_what_strangers_could_use_is_refused_unless_insecure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a local file that only `ray up` needs does not keep a running cluster from use."""
    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nbm9uZQ==\n")
    key.chmod(0o600)
    file = tmp_path / "cluster.yaml"
    text = (
        "cluster_name: c\nprovider: {type: local, head_ip: head, worker_ips: []}\nmax_workers: 0\n"
        f"auth: {{ssh_user: me, ssh_private_key: {key}}}\nfile_mounts: {{~/x: not-there}}\n"
        "head_start_ray_commands:\n  - ray stop\n  - ray start --head\n"
    )
    file.write_text(text)
    with pytest.raises(InvalidValue, match="or --insecure"):
        of_file(file, insecure=False)
    assert of_file(file, insecure=True).port == 8265
    file.write_text(text.replace("ray start", "RAY_AUTH_MODE=token ray start"))
    assert of_file(file, insecure=False).name == str(file)
    with pytest.raises(InvalidValue, match=r"file_mounts\.~/x"):
        of_file(file, insecure=False, whole=True)
    file.write_text(text.replace("head_ip: head, ", ""))
    with pytest.raises(InvalidValue, match="head_ip"):
        of_file(file, insecure=True)
