"""What is refused before anything is submitted: each by one line, with the right exit code."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from heads import dashboard

from jobs.cli import main
from jobs.remote import client

TOKEN = "f" * 64
VERSION = {"ray_version": "2.60.0"}
NODES = {"data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 4.0}}]}}}
EMPTY = {  # a cluster without jobs
    "GET /api/version": (200, VERSION),
    "GET /api/jobs/": (200, []),
    "GET /api/v0/nodes": (200, NODES),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("default login someone password secret\n")
    return tmp_path


def give_token(home: Path, token: str = TOKEN, mode: int = 0o600) -> None:
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text(f"{token}\n")
    (home / ".ray/auth_token").chmod(mode)


def submit(address: str, *options: str) -> Result:
    command = ["submit", "--address", address, *options, "--", "data", "check", "s3://b/set"]
    return CliRunner().invoke(main, command)


def refused(result: Result, *parts: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("run ")]
    assert len(lines) == 1, lines
    line = lines[0]
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line
    assert TOKEN not in result.output
    assert "Traceback" not in result.output


def test_no_token(home: Path) -> None:
    with dashboard(EMPTY, TOKEN) as address:
        refused(submit(address), "the cluster's token expected, found none", "auth_token")


def test_wrong_token(home: Path) -> None:
    give_token(home, "0" * 64)
    with dashboard(EMPTY, TOKEN) as address:
        refused(submit(address), "it refuses that of", "auth_token")


def test_token_that_others_can_read(home: Path) -> None:
    give_token(home, mode=0o644)
    with dashboard(EMPTY, TOKEN) as address:
        refused(submit(address), "(0600) expected, found mode 0644", "chmod 600")


@pytest.mark.parametrize("text", ["", "two words", "\x00\x01", "line\nline"])
def test_what_is_no_token(home: Path, text: str) -> None:
    give_token(home, text)
    with dashboard(EMPTY, TOKEN) as address:
        refused(submit(address), "one token in printable letters expected")


def test_a_cluster_without_a_token_is_refused_and_never_sent_one(home: Path) -> None:
    give_token(home)
    with dashboard(EMPTY) as address:
        refused(submit(address), "a cluster that asks for a token expected", "--insecure")
        listed = CliRunner().invoke(main, ["jobs", "list", "--address", address])
        refused(listed, "a cluster that asks for a token expected")
        listed = CliRunner().invoke(main, ["jobs", "list", "--address", address, "--insecure"])
        assert (listed.exit_code, listed.stderr) == (0, "no runs\n")


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "head:8265", "head.example.org"])
def test_a_token_does_not_travel_readable(home: Path, address: str) -> None:
    refused(submit(address), "https, or a port of this machine, expected", "ssh -N -L")


@pytest.mark.parametrize(
    "address", ["", "ray://localhost:10001", "localhost:x", "localhost:8265/path", "u:p@localhost"]
)
def test_addresses_that_cannot_be(home: Path, address: str) -> None:
    refused(submit(address), "HOST:PORT of Ray's dashboard expected")


def test_nobody_answers(home: Path) -> None:
    with dashboard({}) as address:
        pass
    refused(submit(address), "an answer of Ray's dashboard expected, found: refused", "ray up")


def test_no_answer_in_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECONDS_TO_ANSWER", 0.2)
    with dashboard(EMPTY, slow=1) as address:
        refused(submit(address), "found: none in 0.2 s")


def test_something_else_answers(home: Path) -> None:
    with dashboard({"GET /api/version": (200, "<html>")}) as address:
        refused(submit(address), "Ray's dashboard expected, found something else")


@pytest.mark.parametrize("version", ["2.9.3", "2.59.1", "3.0.0"])
def test_another_ray(home: Path, version: str) -> None:
    give_token(home)
    with dashboard({"GET /api/version": (200, {"ray_version": version})}, TOKEN) as address:
        refused(submit(address), f"expected on the cluster, found {version}", "2.60")


def test_a_gpu_where_there_is_none(home: Path) -> None:
    give_token(home)
    with dashboard(EMPTY, TOKEN) as address:
        found = submit(address, "--gpus", "1", "--cpus", "2")
        refused(found, "a node with 2 CPU, 1 GPU expected, found 4 CPU, 0 GPU")


@pytest.mark.parametrize(
    ("status", "text", "code", "parts"),
    [
        (413, "too large", 2, ["takes no package of this size", "s3://"]),
        (500, "OSError: [Errno 28] No space left on device", 3, ["disk of the head is full"]),
        (500, "Traceback\nRuntimeError: odd.\n", 3, ["answers 500: RuntimeError: odd"]),
    ],
)
def test_a_package_that_is_not_taken(
    home: Path, status: int, text: str, code: int, parts: list[str]
) -> None:
    """The fake dashboard has no package, whatever its name, and does not take one."""
    give_token(home)

    class Packages(dict[str, tuple[int, Any]]):
        def get(self, key: str, default: Any = None) -> Any:
            if key.startswith("PUT /api/packages/"):
                return status, text
            return super().get(key, default)

    with dashboard(Packages(EMPTY), TOKEN) as address:
        refused(submit(address), *parts, code=code)


def test_too_much_to_send(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_token(home)
    large = home / "large.npy"
    with large.open("wb") as opened:
        opened.truncate(101 * 2**20)
    options = ["--address", "ADDRESS", "--upload", str(large), "--no-code"]
    command = ["denoise", str(large), "s3://b/out", "--model", "s3://b/m"]
    with dashboard(EMPTY, TOKEN) as address:
        options[1] = address
        found = CliRunner().invoke(main, ["submit", *options, "--", *command])
    refused(found, "at most 100.0 MiB to send expected, found 101.0 MiB", "large.npy (101.0 MiB)")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ([], "expected a command after --"),
        (["nonsense"], "no command 'nonsense'"),
        (["submit", "--", "train"], "submit does not run on a cluster"),
        (["jobs", "list"], "jobs does not run on a cluster"),
        (["cluster", "check"], "cluster does not run on a cluster"),
        (["data"], "expected a command after --"),
        (["data", "nonsense"], "no command 'nonsense'"),
        (["denoise", "in"], "Missing argument 'OUTPUT'; see 'n2n denoise --help'"),
        (["train", "s", "--run", "r", "--epochs", "x"], "'x' is not a valid integer"),
        (["train", "s", "--run", "r", "--nope"], "No such option"),
    ],
)
def test_wrong_commands_are_refused_here(command: list[str], part: str) -> None:
    refused(CliRunner().invoke(main, ["submit", "--address", "localhost:1", "--", *command]), part)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "one of --cluster YAML and --address"),
        (["--cluster", "a.yaml", "--address", "localhost:1"], "one of --cluster YAML"),
        (["--cluster", "nothing.yaml"], "nothing.yaml:1: file: expected a YAML file"),
        (["--address", "localhost:1", "--up"], "need --cluster"),
        (["--address", "localhost:1", "--down", "--no-wait"], "need --cluster"),
        (["--address", "localhost:1", "--gpus", "-1"], "-1.0 is not in the range"),
        (["--address", "localhost:1", "--memory", "0"], "GiB above 0"),
        (["--address", "localhost:1", "--id", "a b"], "letters, digits"),
        (["--address", "localhost:1", "--id", "../a"], "letters, digits"),
        (["--address", "localhost:1", "--upload", "else"], "a path that the command reads"),
        (["--address", "localhost:1", "--upload", "in"], "a file or folder expected, found none"),
        (["--address", "localhost:1", "--download", "in"], "a path that the command writes"),
        (["--address", "localhost:1", "--download", "out"], "--download needs --cluster"),
        (["--address", "localhost:1", "--download", "out", "--gpus", "1"], "files of the head"),
    ],
)
def test_options_that_cannot_be(options: list[str], part: str) -> None:
    command = ["submit", *options, "--", "denoise", "in", "out", "--model", "m"]
    refused(CliRunner().invoke(main, command), part)
