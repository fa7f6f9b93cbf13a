"""Wrong cluster files: each is refused with its file, line and remedy, and without a traceback."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result
from hosts import ROOT

from jobs.cli import main
from jobs.clusterfile import check, inspect

Fill = Callable[[str], str]


class Wrong(NamedTuple):
    """A shipped file with `old` replaced by `new` is refused at the line that holds `at`."""

    name: str
    file: str
    old: str
    new: str
    at: str
    words: tuple[str, ...]  # in the fault: the key, what was found, the remedy


START = "ray start --head --port=6379"
WORKER = "ray start --address=$RAY_HEAD_IP:6379"
HEAD_OPTIONS = " --autoscaling-config=~/ray_bootstrap_config.yaml"
PAIR = "  worker_ips:                           #    and the workers', as the head reaches them\n"
HOSTS = PAIR + "    - worker-1\n    - worker-2\n"
JOB = "kuberay/rayjob.yaml"

# fmt: off
# ruff: noqa: E501
LAUNCHER = [
    Wrong("no cluster_name", "onprem.yaml", "cluster_name: n2n  ", "# ", "provider:",
          ("cluster_name: expected the key", "add `cluster_name: n2n`")),
    Wrong("empty name", "onprem.yaml", "cluster_name: n2n  ", "cluster_name: ''", "cluster_name: ''",
          ("an empty text", "cluster_name: n2n")),
    Wrong("name with a slash", "onprem.yaml", "cluster_name: n2n  ", "cluster_name: a/b",
          "cluster_name: a/b", ("without /", "found 'a/b'", "cluster_name: n2n")),
    Wrong("name without text", "onprem.yaml", "cluster_name: n2n  ", "cluster_name: 7 ",
          "cluster_name: 7", ("expected text, found 7", 'put it in quotes: "7"')),
    Wrong("no provider", "onprem.yaml", "provider:\n  type: local", "metadata:\n  a: 1", "cluster_name:",
          ("provider: expected the key `provider`", "type: local")),
    Wrong("no provider type", "onprem.yaml", "  type: local ", "  # type ", "provider:",
          ("provider.type: expected the key `type`", "add `type:`")),
    Wrong("unknown provider", "onprem.yaml", "type: local", "type: lokal", "type: lokal",
          ("'lokal'", "write `type: local`")),
    Wrong("provider in capitals", "aws.yaml", "type: aws", "type: AWS", "type: AWS",
          ("'AWS'", "write `type: aws`")),
    Wrong("KubeRay as provider", "onprem.yaml", "type: local", "type: kuberay", "type: kuberay",
          ("kubectl apply", "rayjob.yaml")),
    Wrong("number as text", "aws.yaml", "max_workers: 4   ", 'max_workers: "3" ', 'max_workers: "3"',
          ("expected a whole number, found '3'", "remove the quotes: max_workers: 3")),
    Wrong("below zero", "aws.yaml", "max_workers: 4   ", "max_workers: -1 ", "max_workers: -1",
          ("at least 0", "write 0 or more")),
    Wrong("truth as number", "aws.yaml", "idle_timeout_minutes: 10", "idle_timeout_minutes: yes",
          "idle_timeout_minutes: yes", ("expected a number, found True", "write a number")),
    Wrong("text as truth", "aws.yaml", "cache_stopped_nodes: false", "cache_stopped_nodes: 'no'",
          "cache_stopped_nodes: 'no'", ("true or false", "without quotes")),
    Wrong("misspelt key", "onprem.yaml", "setup_commands:    ", "setup_comands:    ",
          "setup_comands:", ("'setup_comands'", "write `setup_commands`")),
    Wrong("misspelt in auth", "onprem.yaml", "ssh_user:", "ssh_usr:", "ssh_usr:",
          ("auth.ssh_usr", "write `ssh_user`")),
    Wrong("key twice", "onprem.yaml", "rsync_exclude:", "cluster_name: other\nrsync_exclude:",
          "cluster_name: other", ("cluster_name: expected each key once", "keep one")),
    Wrong("a tab", "onprem.yaml", "  - __pycache__", "\t- __pycache__", "\t- __pycache__",
          ("a tab", "indent with spaces alone")),
    Wrong("open quote", "onprem.yaml", "cluster_name: n2n  ", "cluster_name: 'n2n  ", "Ray's word",
          ("expected valid YAML", "does not belong", "check the indentation, quotes")),
    Wrong("wrong indentation", "onprem.yaml", "  head_ip: head", "   head_ip: head",
          "   head_ip: head", ("expected valid YAML", "check the indentation")),
    Wrong("no head", "onprem.yaml", "  head_ip: head ", "  # ", "provider:",
          ("provider.head_ip: expected the key", "the host on which the head runs")),
    Wrong("empty head", "onprem.yaml", "head_ip: head ", "head_ip: '' ", "head_ip: ''",
          ("expected a host", "write the head's name or address")),
    Wrong("no workers", "onprem.yaml", HOSTS, "  worker_ips: []\n", "worker_ips: []",
          ("at least one worker", "max_workers: 0")),
    Wrong("no worker_ips", "onprem.yaml", HOSTS, "", "provider:",
          ("provider.worker_ips: expected the key", "add the workers' hosts")),
    Wrong("one worker without a dash", "onprem.yaml", HOSTS, "  worker_ips: worker-1\n",
          "worker_ips: worker-1", ("expected a list, found 'worker-1'", "after `- `")),
    Wrong("head among the workers", "onprem.yaml", "- worker-1", "- head", "    - head",
          ("worker_ips[0]: expected a host that is not the head", "the head works, too")),
    Wrong("worker twice", "onprem.yaml", "- worker-2", "- worker-1", None,
          ("worker_ips[1]: expected each host once", "remove it")),
    Wrong("user in the host", "onprem.yaml", "- worker-2", "- jane@worker-2", "jane@worker-2",
          ("worker_ips[1]", "the user belongs into `auth: ssh_user`")),
    Wrong("port in the host", "onprem.yaml", "head_ip: head ", "head_ip: head:2222 ", "head:2222",
          ("provider.head_ip", "ssh_proxy_command")),
    Wrong("an address out of range", "onprem.yaml", "- worker-2", "- 10.0.0.300", "10.0.0.300",
          ("a host's name or address", "write the name or address alone")),
    Wrong("loopback for workers", "onprem.yaml", "head_ip: head ", "head_ip: 127.0.0.1 ",
          "head_ip: 127.0.0.1", ("that the workers can reach", "in the network")),
    Wrong("hosts left out", "onprem.yaml", "auth:", "max_workers: 1\nauth:", "max_workers: 1",
          ("expected 2, one for each", "remove `max_workers`")),
    Wrong("node types for hosts", "onprem.yaml", "auth:",
          "available_node_types: {a: {node_config: {}, resources: {}}}\nauth:",
          "available_node_types", ("no node types", "list the hosts under `provider`")),
    Wrong("no user", "onprem.yaml", "  ssh_user: jane  ", "  # ", "auth:",
          ("auth.ssh_user: expected the key", "KeyError")),
    Wrong("no such key file", "onprem.yaml", "~/.ssh/n2n", "~/.ssh/gone", "~/.ssh/gone",
          ("no such file", "ssh-keygen -t ed25519 -f ~/.ssh/gone")),
    Wrong("public key", "onprem.yaml", "~/.ssh/n2n", "~/.ssh/n2n.pub", "~/.ssh/n2n.pub",
          ("a public one", "write ~/.ssh/n2n, without .pub")),
    Wrong("another file as key", "onprem.yaml", "~/.ssh/n2n", "README.md", "ssh_private_key: README",
          ("expected a private key file", "write the path of your key")),
    Wrong("mount of nothing", "onprem.yaml", "~/n2n-code/jobs: jobs", "~/n2n-code/jobs: job",
          "n2n-code/jobs: job", ("no such file or directory: job", "where ray up is run")),
    Wrong("mounts as list", "onprem.yaml", "  ~/n2n-code/n2n: n2n      ", "  - ~/n2n-code/n2n ",
          "  ~/n2n-code/jobs", ("expected valid YAML", "check the indentation")),
    Wrong("old worker_nodes", "aws.yaml", "head_node_type: head", "worker_nodes: {}\nhead_node_type:"
          " head", "worker_nodes", ("of old Rays", "available_node_types")),
    Wrong("head does not start", "onprem.yaml", START, "ray start --port=6379",
          "head_start_ray_commands", ("`ray start --head`", "add `ray start --head`")),
    Wrong("worker without address", "onprem.yaml", WORKER, "ray start --num-cpus=2",
          "--num-cpus=2", ("--address=$RAY_HEAD_IP:PORT", "Ray sets the variable")),
    Wrong("another port", "onprem.yaml", WORKER, WORKER.replace("6379", "6380"), "HEAD_IP:6380",
          ("the head's port, 6379", "write --address=$RAY_HEAD_IP:6379")),
    Wrong("block", "onprem.yaml", START, f"{START} --block", "--block",
          ("without --block", "would wait for ever")),
    Wrong("no autoscaling config", "onprem.yaml", HEAD_OPTIONS, "", START,
          ("--autoscaling-config, which starts the workers", "add --autoscaling-config")),
    Wrong("open dashboard", "onprem.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0",
          "0.0.0.0", ("a dashboard on 127.0.0.1", "ssh tunnel")),
    Wrong("another Ray", "onprem.yaml", "'setuptools>=77'", "'ray[default]==2.9.0'", "2.9.0",
          ("as here, found 2.9.0", "must be of one version")),
    Wrong("open quote in a command", "onprem.yaml", "- ray stop", "- echo it's", "it's",
          ("quotes that are closed", "close or double them")),
    Wrong("no region", "aws.yaml", "  region: us-west-2    ", "  # ", "provider:",
          ("provider.region: expected the key", "us-west-2")),
    Wrong("zone as region", "aws.yaml", "region: us-west-2 ", "region: us-west-2a ", "us-west-2a",
          ("expected a region", "write the region, not a zone")),
    Wrong("no project", "gcp.yaml", "project_id: denoising-1", "project_id: null", "project_id:",
          ("provider.project_id", "add `project_id:`")),
    Wrong("zone of another region", "gcp.yaml", "us-west1-b", "europe-west4-b", "europe-west4-b",
          ("zones of us-west1", "change the region")),
    Wrong("head type unknown", "aws.yaml", "head_node_type: head", "head_node_type: haed",
          "head_node_type: haed", ("one of head, worker", "name one of")),
    Wrong("no head type", "aws.yaml", "head_node_type: head", "", "cluster_name:",
          ("the key `head_node_type`", "add it with one of head, worker")),
    Wrong("fraction of a GPU", "aws.yaml", "{CPU: 4, GPU: 1}", "{CPU: 4, GPU: 0.5}", "GPU: 0.5",
          ("expected a whole number, found 0.5", "no fractions: GPU: 1")),
    Wrong("more at least than at most", "aws.yaml", "min_workers: 0                      # none",
          "min_workers: 5 # none", "min_workers: 5", ("at most max_workers, 4", "lower it")),
    Wrong("no machine", "aws.yaml", "InstanceType: g5.xlarge", "Instance: g5.xlarge", "node_config:",
          ("the key `InstanceType`", "add `InstanceType:`")),
    Wrong("no node_config", "gcp.yaml", "    node_config:                        # as in", "    nodes: # ",
          "  head:", ("the key `node_config`", "with the machine type")),
    Wrong("worker count for all", "aws.yaml", "idle_timeout", "min_workers: 1\nidle_timeout",
          "min_workers: 1", ("in each node type", "Ray ignores it here")),
]

INSECURE = [
    Wrong("no token mode", "onprem.yaml", "RAY_AUTH_MODE=token", "A=1", START,
          ("RAY_AUTH_MODE=token for `ray start`", "any stranger")),
    Wrong("Ray's default head", "aws.yaml", "head_start_ray_commands:", "metadata: {}\nx: &x",
          "cluster_name:", ("head_start_ray_commands: expected the key", "asks for no token")),
    Wrong("token in the file", "onprem.yaml", START, f"RAY_AUTH_TOKEN=5ec237 {START}", START,
          ("no token in the file", "take a new one")),
    Wrong("KubeRay without token", JOB, "mode: token", "mode: disabled", "mode: disabled",
          ("token authentication", "mode: token")),
]

KUBERAY = [
    Wrong("old API", JOB, "ray.io/v1\n", "ray.io/v1alpha1\n", "v1alpha1",
          ("expected ray.io/v1", "write ray.io/v1")),
    Wrong("misspelt kind", JOB, "kind: RayJob", "kind: Rayjob", "kind: Rayjob",
          ("one of RayJob", "write `kind: RayJob`")),
    Wrong("no name", JOB, "  name: n2n-denoise  ", "  labels: {} # ", "metadata:",
          ("metadata.name: expected the key", "add `name: n2n`")),
    Wrong("name in capitals", JOB, "name: n2n-denoise  ", "name: N2N  ", "name: N2N",
          ("a-z, 0-9 and -", "KubeRay refuses")),
    Wrong("misspelt group", JOB, "workerGroupSpecs:", "workerGroupSpec:", "workerGroupSpec:",
          ("'workerGroupSpec'", "write `workerGroupSpecs`")),
    Wrong("no container", JOB, "          containers:\n            - name: ray-head",
          "          container:\n            - name: ray-head", "        spec:",
          ("the key `containers`", "add `containers:`")),
    Wrong("no image", JOB, "              image: registry.example.org/n2n:2.60.0 # 2.", "# ",
          "- name: ray-head", ("the key `image`", "rayproject/ray")),
    Wrong("too few at most", JOB, "minReplicas: 0", "minReplicas: 3", "minReplicas: 3",
          ("at most maxReplicas, 2", "raise maxReplicas")),
    Wrong("replicas beyond", JOB, "replicas: 0   ", "replicas: 5   ", "replicas: 5",
          ("minReplicas to maxReplicas, 0 to 2", "between them")),
    Wrong("number for ray start", JOB, 'num-cpus: "0"', "num-cpus: 0", "num-cpus: 0",
          ("expected text, found 0", 'put it in quotes: "0"')),
    Wrong("version unquoted", JOB, 'rayVersion: "2.60.0"', "rayVersion: 2.60", "rayVersion: 2.60",
          ("expected text", "put it in quotes")),
    Wrong("another Ray", JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.9.0"', "2.9.0",
          ("which n2n takes, found 2.9.0", "and an image with it")),
    Wrong("another image", JOB, "registry.example.org/n2n:2.60.0 #", "rayproject/ray:2.9.0 #",
          "rayproject/ray:2.9.0", ("an image of rayVersion", "rayproject/ray:2.60.0")),
    Wrong("no entrypoint", JOB, "  entrypoint: ", "  jobId: ", "spec:",
          ("the key `entrypoint`", "add the command")),
    Wrong("cluster is kept", JOB, "shutdownAfterJobFinishes: true", "suspend: false",
          "ttlSecondsAfterFinished", ("shutdownAfterJobFinishes: true", "costs")),
    Wrong("unknown mode", JOB, "K8sJobMode  ", "K8sMode  ", "K8sMode",
          ("K8sJobMode or HTTPMode", "write K8sJobMode")),
    Wrong("launcher's keys", JOB, "metadata:", "cluster_name: n2n\nmetadata:", "cluster_name: n2n",
          ("of Ray's launcher", "remove apiVersion")),
]
# fmt: on


def test_there_are_enough() -> None:
    rows = [*LAUNCHER, *KUBERAY, *INSECURE]
    assert len(rows) >= 40
    assert len({(row.name, row.file) for row in rows}) == len(rows)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cluster", "check", *map(str, arguments)])


@pytest.mark.parametrize(
    "wrong", [*LAUNCHER, *KUBERAY, *INSECURE], ids=lambda row: row.name.replace(" ", "-")
)
def test_a_wrong_file_is_refused_with_line_and_remedy(
    wrong: Wrong, home: Path, filled: Fill, tmp_path: Path
) -> None:
    (home / ".ssh/n2n.pub").write_text("ssh-ed25519 AAAA jane\n")
    text = filled(wrong.file)
    assert wrong.old in text, "the shipped file has changed"
    text = text.replace(wrong.old, wrong.new)
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    result = run(file)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if all(w in line for w in wrong.words)]
    assert lines, result.stderr
    if wrong.at is not None:
        numbers = [n for n, line in enumerate(text.splitlines(), 1) if wrong.at in line]
        assert any(line.startswith(f"{file}:{n}: ") for line in lines for n in numbers), (
            f"{lines}, expected one of lines {numbers}"
        )
    for line in lines:
        assert ": expected " in line
        assert ", found " in line
    if wrong in INSECURE:
        assert any(fault.insecure for fault in check(file))
        assert "5ec237" not in result.output


def test_shipped_files_are_good_once_they_are_filled_in(
    home: Path, filled: Fill, tmp_path: Path
) -> None:
    for name in ("onprem.yaml", "local.yaml", "aws.yaml", "gcp.yaml", "kuberay/rayjob.yaml"):
        file = tmp_path / "cluster.yaml"
        file.write_text(filled(name))
        result = run(file)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        kind = "KubeRay RayJob" if "kuberay" in name else "Ray launcher"
        assert result.stdout.startswith(f"{file}: {kind}")


def test_what_is_left_to_change_is_named_and_nothing_else(home: Path) -> None:
    for file in sorted((ROOT / "cluster").rglob("*.yaml")):
        lines = file.read_text().splitlines()
        faults = check(file)
        assert faults
        for fault in faults:
            assert fault.expected == "a value of your own"
            assert "CHANGE-ME" in lines[fault.line - 1]


def test_summary_and_notes(home: Path, filled: Fill, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(filled("onprem.yaml"))
    (tmp_path / "b.yaml").write_text(filled("aws.yaml"))
    result = run(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert "provider local, 1 head, 2 workers" in result.stdout
    assert "RAY_UP_enable_autoscaler_v2=0" in result.stdout
    assert "provider aws, 1 head, 0 to 4 workers" in result.stdout


def test_all_faults_of_all_files_at_once(home: Path, filled: Fill, tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = filled("aws.yaml").replace("type: aws", "type: asw").replace("Type: g5", "Typ: g5")
        (tmp_path / f"{name}.yaml").write_text(text.replace("max_workers: 4   ", "max_workers: []"))
    result = run(tmp_path / "a.yaml", tmp_path / "b.yaml", "--json")
    assert result.exit_code == 2
    reports = json.loads(result.stdout)
    assert [len(report["faults"]) for report in reports] == [2, 2]
    assert {"file", "line", "key", "expected", "found", "remedy"} <= set(reports[0]["faults"][0])


def test_json_of_a_good_file(home: Path, filled: Fill, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(filled("gcp.yaml"))
    result = run(tmp_path / "a.yaml", "--json")
    [report] = json.loads(result.stdout)
    assert (result.exit_code, report["kind"], report["faults"]) == (0, "launcher", [])


# Files that are no cluster files


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", 1, ("a mapping of keys, found nothing", "copy one")),
        (b"# a comment\n---\n", 1, ("found nothing", "copy one")),
        (b"- cluster_name: n2n\n", 1, ("found a list", "copy cluster/onprem.yaml")),
        (b"n2n", 1, ("one value, 'n2n'", "copy cluster/onprem.yaml")),
        (b"a: 1\nb: \xff\n", 2, ("text in UTF-8", "save the file as UTF-8")),
        (b"\xff\xfea\x00:\x00", 1, ("text in UTF-8", "save the file")),
        (b"a: \x07\n", 1, ("the character", "remove it")),
        (b"a: &x [*x]\n", 1, ("an alias", "write them out")),
        (b"a: *nowhere\n", 1, ("undefined alias", "check the indentation")),
        (b"a: !!python/object/apply:os.system [true]\n", 1, ("valid YAML", "check")),
        (b"a: 2024-99-99\n", 1, ("plain values", "in quotes")),
        (b"1: a\n", 1, ("a key that is text", "in quotes")),
        (b"[a]: b\n", 1, ("a key that is text", "in quotes")),
        (b"a: {" * 5000, 1, ("a few levels", "flatten")),
        (b"cluster_name: a\nprovider: {type: aws}\n---\nb: 1\n", 4, ("one document", "own file")),
        (b"kind: RayJob\n---\n- 1\n", 3, ("a Kubernetes resource", "remove it")),
    ],
)
def test_what_is_no_cluster_file(
    content: bytes, line: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_bytes(content)
    result = run(file)
    assert result.exit_code == 2
    found = [one for one in result.stderr.splitlines() if all(word in one for word in words)]
    assert any(one.startswith(f"{file}:{line}: ") for one in found), result.stderr


def test_many_aliases_end_soon(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    (tmp_path / "bomb.yaml").write_text(text)
    began = time.monotonic()
    assert any("at most" in fault.expected for fault in check(tmp_path / "bomb.yaml"))
    assert time.monotonic() - began < 30


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    for file, words in (
        (tmp_path / "gone.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "large.yaml", "at most 1 MiB"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        result = run(file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr


def test_aliases_and_merged_keys_keep_their_lines(home: Path, filled: Fill, tmp_path: Path) -> None:
    text = filled("aws.yaml").replace(
        "head_node_type: head",
        "head_node_type: head\nmetadata: {n2n: &type {min_workers: 7, max_workers: 3}}",
    )
    text = text.replace("  worker:\n", "  worker:\n    <<: *type\n")
    text = text.replace("    min_workers: 0                      # none while nothing waits\n", "")
    text = text.replace("    max_workers: 4\n", "")
    moved = text.index("head_node_type"), text.index("available_node_types")
    end = text.index("\n", text.index("metadata: {n2n"))
    text = text[: moved[1]] + text[moved[0] : end + 1] + text[moved[1] : moved[0]] + text[end + 1 :]
    (tmp_path / "a.yaml").write_text(text)
    key = "available_node_types.worker.min_workers"
    [fault] = [fault for fault in check(tmp_path / "a.yaml") if fault.key == key]
    assert "min_workers: 7" in text.splitlines()[fault.line - 1]


# Keys, tokens and hosts, which stand outside of the file


def test_a_key_that_others_read(home: Path, filled: Fill, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(filled("onprem.yaml"))
    (home / ".ssh/n2n").chmod(0o644)
    [fault] = check(tmp_path / "a.yaml")
    assert (fault.key, fault.found) == ("auth.ssh_private_key", "mode 0644")
    assert "chmod 600 ~/.ssh/n2n" in fault.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [("ssh-ed25519 AAAA", "a public key"), ("PuTTY-User-Key-File-3: x", "puttygen"),
     ("", "another file")],
)  # fmt: skip
def test_what_is_no_private_key(
    content: str, words: str, home: Path, filled: Fill, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(filled("onprem.yaml"))
    (home / ".ssh/n2n").write_text(content)
    [fault] = check(tmp_path / "a.yaml")
    assert words in str(fault)


def test_the_home_of_nobody(home: Path, filled: Fill, tmp_path: Path) -> None:
    text = filled("onprem.yaml").replace("~/.ssh/n2n", "~nobody-here/key")
    (tmp_path / "a.yaml").write_text(
        text.replace("n2n-code/jobs: jobs", "n2n-code/jobs: ~no-one/jobs")
    )
    keys = [fault.key for fault in check(tmp_path / "a.yaml")]
    assert keys == ["auth.ssh_private_key", "file_mounts.~/n2n-code/jobs"]


def test_a_token_that_others_read_and_none(home: Path, filled: Fill, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(filled("onprem.yaml"))
    token = home / ".ray/auth_token"
    token.chmod(0o644)
    [fault] = check(tmp_path / "a.yaml")
    assert fault.insecure
    assert "chmod 600" in fault.remedy
    token.unlink()
    [fault] = check(tmp_path / "a.yaml")
    assert "ray get-auth-token --generate" in fault.remedy


def test_a_token_never_shows(home: Path, filled: Fill, tmp_path: Path) -> None:
    secret = "52375235237"
    env = "env: [{name: RAY_AUTH_TOKEN, value: 'SECRET'}]\n              image: registry"
    places = [
        ("onprem.yaml", "- ray stop", "- export RAY_AUTH_TOKEN='SECRET'; ray stop it's"),
        ("onprem.yaml", "ssh_user: jane", 'ssh_user: "RAY_AUTH_TOKEN = SECRET@"'),
        ("onprem.yaml", "- worker-1", "- RAY_AUTH_TOKEN=SECRET"),
        ("onprem.yaml", "cluster_name: n2n", "docker: {run_options: ['-eRAY_AUTH_TOKEN=SECRET']}"),
        ("onprem.yaml", "cluster_name: n2n", "metadata: {RAY_AUTH_TOKEN: SECRET}"),
        ("onprem.yaml", "cluster_name: n2n", "RAY_AUTH_TOKEN=SECRET cluster_name: n2n"),
        (JOB, "spec:\n  # 1.", "spec:\n  runtimeEnvYAML: 'x: {RAY_AUTH_TOKEN: SECRET'\n  # 1."),
        (JOB, "image: registry", env),
        (JOB, "image: registry", env.replace("'", "")),
    ]
    for name, old, new in places:
        assert old in filled(name)
        (tmp_path / "a.yaml").write_text(
            filled(name).replace(old, new.replace("SECRET", secret), 1)
        )
        for option in ([], ["--json"]):
            result = run(tmp_path / "a.yaml", *option)
            assert result.exit_code == 2, new
            assert secret not in result.output, new
            assert "no token in the file" in result.output


def test_a_kind_that_is_asked_for(home: Path, filled: Fill, tmp_path: Path) -> None:
    for name, kind, other, words in (
        (JOB, "kuberay", "launcher", "kubectl apply"),
        ("onprem.yaml", "launcher", "kuberay", "give it to ray up"),
    ):
        (tmp_path / "a.yaml").write_text(filled(name))
        assert run(tmp_path / "a.yaml", "--kind", kind).exit_code == 0
        result = run(tmp_path / "a.yaml", "--kind", other)
        assert result.exit_code == 2
        assert words in result.stderr


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """One on which this machine listens, in the place of sshd's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        monkeypatch.setattr("jobs.clusterfile.reach.SSH_PORT", number)
        yield number


def test_hosts_are_reached_only_if_asked(
    home: Path, filled: Fill, tmp_path: Path, port: int
) -> None:
    text = filled("onprem.yaml").replace("head_ip: head", "head_ip: localhost")
    text = text.replace("worker-1", "127.0.0.1").replace("worker-2", "no-such-host.invalid")
    text = text.replace("head_ip: localhost", "head_ip: no-such-head.invalid")
    (tmp_path / "a.yaml").write_text(text)
    assert run(tmp_path / "a.yaml").exit_code == 0
    faults = inspect(tmp_path / "a.yaml", try_hosts=True).faults
    assert [fault.key for fault in faults] == ["provider.head_ip", "provider.worker_ips[1]"]
    result = run(tmp_path / "a.yaml", "--reach")
    assert result.exit_code == 2
    assert "no-such-head.invalid" in result.stderr
    assert "try: ssh no-such-host.invalid" in result.stderr


def test_a_host_that_refuses(home: Path, filled: Fill, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        number = closed.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.clusterfile.reach.SSH_PORT", number)
        (tmp_path / "a.yaml").write_text(filled("local.yaml"))
        [fault] = inspect(tmp_path / "a.yaml", try_hosts=True).faults
    assert "refused" in fault.found


# The command itself


def test_neither_ray_nor_torch_is_imported(home: Path, filled: Fill, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(filled("aws.yaml"))
    (tmp_path / "b.yaml").write_text(filled(JOB))
    command = [
        "-m",
        "jobs.cli",
        "cluster",
        "check",
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
    ]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "jsonschema" in imported
    assert not imported & {"ray", "torch", "numpy", "pyarrow"}
