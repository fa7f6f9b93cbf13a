"""Whether the hosts of a launcher file answer: the only check that uses the network."""

import socket
from concurrent.futures import ThreadPoolExecutor

from jobs.clusterfile import nodes
from jobs.clusterfile.document import Document

__all__ = ["check"]

SSH_PORT = 22
SECONDS = 3.0
AT_ONCE = 32


def check(document: Document, seconds: float = SECONDS) -> None:
    """Add a fault for each host that does not take a connection to its ssh port."""
    if document.text("provider", "type") != "local":
        document.notes.append("not reached: the nodes of a cloud are not there yet")
        return
    if document.text("auth", "ssh_proxy_command"):
        document.notes.append("not reached: ssh goes by ssh_proxy_command")
        return
    found = list(nodes.hosts(document))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda host: _answer(host[1], seconds), found)
        for (key, name), problem in zip(found, answers, strict=True):
            if problem:
                document.fault(
                    key,
                    f"a host that answers on port {SSH_PORT}",
                    f"{name}: {problem}",
                    f"start it and its sshd, or correct the name; try: ssh {name}",
                )


def _answer(name: str, seconds: float) -> str | None:
    try:
        socket.create_connection((name, SSH_PORT), seconds).close()
    except TimeoutError:
        return f"no answer in {seconds:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except UnicodeError:
        return "an impossible name"
    return None
