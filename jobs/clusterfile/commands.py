"""The commands of a launcher file: whether Ray starts, with all workers, and only for its owner."""

from jobs.clusterfile import shell
from jobs.clusterfile.document import Document, Key, shown
from jobs.clusterfile.versions import installed, same_release

__all__ = ["check"]

LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
PROFILES = (".bashrc", ".bash_profile", ".profile")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MODE = "RAY_AUTH_MODE"
ADDRESS = ("$RAY_HEAD_IP", "${RAY_HEAD_IP}")


def check(document: Document) -> None:
    """Add the faults of the commands."""
    for name in LISTS:
        for place, command in enumerate(document.items(name)):
            if isinstance(command, str):
                _command(document, (name, place), command)
    for kind, image in document.mapping("docker").items():
        if kind in ("image", "head_image", "worker_image") and isinstance(image, str):
            _version(document, ("docker", kind), shell.image_versions(image))
    _starts(document, "head")
    _starts(document, "worker")
    _token_file(document)


def _command(document: Document, key: Key, command: str) -> None:
    if not shell.quotes_closed(command):
        document.fault(key, "quotes that are closed", shown(command), "close or double them")
    _version(document, key, shell.pinned_versions(command))


def _version(document: Document, key: Key, versions: list[str]) -> None:
    for version in versions:
        if not same_release(version):
            document.fault(
                key,
                f"Ray {installed()}, as here",
                version,
                f"write {installed()}: Ray's parts must be of one version",
            )


def _starts(document: Document, who: str) -> None:
    name = f"{who}_start_ray_commands"
    value = document.at(name)
    if value is None and name not in document.value:
        if who == "head" or _has_workers(document):
            document.fault(
                (name,),
                f"the key `{name}`",
                "none",
                "add it, as in cluster/onprem.yaml: Ray's default asks for no token",
                insecure=True,
            )
        return
    found = [
        ((name, place), start)
        for place, command in enumerate(document.items(name))
        if isinstance(command, str)
        for start in shell.starts(command)
        if start.head == (who == "head")
    ]
    option = "--head" if who == "head" else "--address=$RAY_HEAD_IP:6379"
    if not found and (who == "head" or _has_workers(document)):
        document.fault((name,), f"`ray start {option}` in it", "none", f"add `ray start {option}`")
    for key, start in found:
        _start(document, key, start)
        (_head if who == "head" else _worker)(document, key, start)


def _start(document: Document, key: Key, start: shell.Start) -> None:
    if "--block" in start.options:
        document.fault(
            key, "`ray start` without --block", "--block", "remove it: ray up would wait for ever"
        )
    if start.variables.get(MODE) != "token" and not _in_profile(document):
        found = start.variables.get(MODE)
        document.fault(
            key,
            f"{MODE}=token for `ray start`",
            f"{MODE}={found}" if found else "none",
            f"write `{MODE}=token ray start`: without it any stranger that reaches the "
            "ports runs code",
            insecure=True,
        )


def _head(document: Document, key: Key, start: shell.Start) -> None:
    host = start.options.get("--dashboard-host", LOOPBACK[0])
    if host not in LOOPBACK:
        document.fault(
            key,
            "a dashboard on 127.0.0.1",
            f"--dashboard-host={host}",
            "write --dashboard-host=127.0.0.1 and reach it by an ssh tunnel",
            insecure=True,
        )
    if "--autoscaling-config" not in start.options and _has_workers(document):
        document.fault(
            key,
            "--autoscaling-config, which starts the workers",
            "none",
            "add --autoscaling-config=~/ray_bootstrap_config.yaml",
        )


def _worker(document: Document, key: Key, start: shell.Start) -> None:
    address = start.options.get("--address", "")
    host, _, port = address.partition(":")
    if host not in ADDRESS:
        document.fault(
            key,
            "--address=$RAY_HEAD_IP:PORT",
            f"--address={address}" if address else "none",
            "write --address=$RAY_HEAD_IP:6379; Ray sets the variable",
        )
        return
    heads = [
        start.options.get("--port") or "6379"
        for command in document.items("head_start_ray_commands")
        if isinstance(command, str)
        for start in shell.starts(command)
        if start.head
    ]
    if heads and port not in heads:
        document.fault(
            key,
            f"the head's port, {heads[0]}",
            port or "none",
            f"write --address=$RAY_HEAD_IP:{heads[0]}",
        )


def _token_file(document: Document) -> None:
    """In token mode the nodes need the token itself."""
    commands = [text for name in LISTS for text in document.items(name) if isinstance(text, str)]
    if not any(f"{MODE}=token" in text for text in commands):
        return
    mounts = [*document.mapping("file_mounts")]
    if any(name.endswith("auth_token") for name in mounts):
        return
    if not any("auth_token" in text or "RAY_AUTH_TOKEN" in text for text in commands):
        document.fault(
            ("file_mounts",),
            "the token's file on the nodes",
            "none",
            "add `~/.ray/auth_token: ~/.ray/auth_token`",
        )


def _in_profile(document: Document) -> bool:
    """Set where every shell of Ray's launcher reads it."""
    commands = [*document.items("setup_commands"), *document.items("initialization_commands")]
    return any(
        isinstance(text, str) and f"{MODE}=token" in text and any(name in text for name in PROFILES)
        for text in commands
    )


def _has_workers(document: Document) -> bool:
    return document.number("max_workers") != 0
