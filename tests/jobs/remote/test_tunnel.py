"""ssh to a real sshd on loopback."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import pytest
from heads import Sshd, dashboard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.remote.head import of_file
from jobs.remote.tunnel import SSH, NoSSH, Tunnel

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)


@pytest.fixture
def ssh(sshd: Sshd) -> SSH:
    keys = str(sshd.folder / "known_hosts")
    return SSH("127.0.0.1", getuser(), str(sshd.folder / "key"), f"nc 127.0.0.1 {sshd.port}", keys)


def read(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/hello", timeout=10) as answer:
        return bytes(answer.read())


def test_a_port_leads_there_and_comes_back(ssh: SSH) -> None:
    with dashboard({"GET /hello": (200, "hello")}) as address:
        tunnel = Tunnel(ssh, int(address.partition(":")[2]))
        tunnel.open()
        try:
            assert read(tunnel.url) == b"hello"
            url, process = tunnel.url, tunnel._process
            assert process is not None
            process.kill()
            process.wait()
            assert not tunnel.alive
            tunnel.open()
            assert tunnel.url == url
            assert read(tunnel.url) == b"hello"
        finally:
            tunnel.close()
        assert not tunnel.alive


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"key": "wrong_key"}, ["Permission denied", "ssh_private_key"]),
        ({"host_keys": "wrong"}, ["Host key verification failed", "ssh-keygen -R 127.0.0.1"]),
        ({"proxy": "nc 127.0.0.1 1"}, ["expected, found", "try: ssh"]),
        ({"proxy": None, "host": "no-such-host.invalid"}, ["correct the host's name"]),
    ],
)
def test_what_ssh_refuses_is_one_line(
    ssh: SSH, sshd: Sshd, tmp_path: Path, change: dict[str, str], parts: list[str]
) -> None:
    if "key" in change:
        change = {"key": str(sshd.folder / change["key"])}
    if "host_keys" in change:
        wrong = (sshd.folder / "wrong_key.pub").read_text()
        (tmp_path / "hosts").write_text(f"127.0.0.1 {wrong}")
        change = {"host_keys": str(tmp_path / "hosts")}
    with pytest.raises(NoSSH) as refused:
        Tunnel(replace(ssh, **change), 1).open()
    assert "\n" not in str(refused.value)
    for part in parts:
        assert part in str(refused.value)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(NAMES, min_size=1, max_size=5))
def test_any_name_is_looked_for_there(ssh: SSH, tmp_path: Path, names: list[str]) -> None:
    names = [name for name in names if len(os.fsencode(name)) < 200 and name not in (".", "..")]
    there = {name for name in names[::2] if name}
    for name in there:
        (tmp_path / name).touch()
    found = ssh.which_exist([str(tmp_path / name) for name in names] or ["/"])
    assert found == ([name in there for name in names] or [True])
    for name in there:
        (tmp_path / name).unlink()


def test_it_ends_with_its_process(ssh: SSH) -> None:
    """Also when that is killed."""
    program = (
        "import sys, time; from jobs.remote.tunnel import SSH, Tunnel\n"
        f"tunnel = Tunnel({ssh!r}, 1); tunnel.open()\n"
        "print(tunnel._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "ssh" in Path(f"/proc/{pid}/comm").read_text():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("ssh is left")
        time.sleep(0.05)


def test_the_file_says_how(sshd: Sshd, tmp_path: Path) -> None:
    head = of_file(sshd.cluster(tmp_path, 1234), insecure=False)
    assert head.port == 1234
    assert head.ssh is not None
    command = head.ssh.command("true")
    assert f"UserKnownHostsFile={sshd.folder}/known_hosts" in command
    assert "StrictHostKeyChecking=yes" in command
    assert f"ProxyCommand=nc 127.0.0.1 {sshd.port}" in command
    assert command[-3:] == ["--", "127.0.0.1", "true"]
