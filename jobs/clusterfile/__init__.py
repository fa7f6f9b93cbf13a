"""Cluster files: Ray's launcher YAML and KubeRay's, checked before anything is started.

`inspect` reads one file and says what it is and what is wrong; neither Ray nor torch is imported,
and nothing but the file, and the keys and files it names, is touched.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.clusterfile import kuberay, launcher, reach
from jobs.clusterfile.document import Document, Fault, read

__all__ = ["Fault", "Kind", "Report", "check", "inspect"]

Kind = Literal["launcher", "kuberay"]


@dataclass(frozen=True)
class Report:
    """What a file is, and all that is wrong with it.

    kind: None where it is neither. summary: one line. notes: what to know, though it is no fault.
    """

    file: str
    kind: Kind | None
    summary: str
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def check(path: str | Path, *, kind: Kind | None = None) -> list[Fault]:
    """All faults of a file, in the order of its lines; [] if there are none."""
    return list(inspect(path, kind=kind).faults)


def inspect(path: str | Path, *, kind: Kind | None = None, try_hosts: bool = False) -> Report:
    """Read and check one file. Never raises.

    kind: what it is to be; None: what it is. try_hosts: also connect to the hosts' ssh ports.
    """
    documents = read(Path(path))
    if all(document.faults for document in documents):
        return _report(path, None, documents)
    found: Kind = "kuberay" if any(map(kuberay.is_kubernetes, documents)) else "launcher"
    if kind is not None and kind != found:
        _wrong_kind(documents[0], kind)
    elif found == "kuberay":
        for document in documents:
            _check_kuberay(document)
    else:
        for document in documents[1:]:
            document.fault((), "one document", "a second after `---`", "put it in its own file")
        if not documents[0].faults:
            launcher.check(documents[0])
            if try_hosts and not documents[0].faults:
                reach.check(documents[0])
    return _report(path, found, documents)


def _check_kuberay(document: Document) -> None:
    if document.faults:
        return
    if kuberay.is_kubernetes(document):
        kuberay.check(document)
    else:
        document.fault((), "a Kubernetes resource", "something else after `---`", "remove it")


def _wrong_kind(document: Document, kind: Kind) -> None:
    name = document.text("kind") or "KubeRay"
    if kind == "launcher":
        document.fault(
            (),
            "a file of Ray's launcher",
            f"KubeRay's {name}",
            "give it to kubectl apply -f, or copy cluster/onprem.yaml",
        )
    else:
        document.fault(
            (),
            "a KubeRay file",
            "one of Ray's launcher",
            "give it to ray up, or copy cluster/kuberay/rayjob.yaml",
        )


def _report(path: str | Path, kind: Kind | None, documents: list[Document]) -> Report:
    faults = [fault for document in documents for fault in document.faults]
    describe = kuberay.summary if kind == "kuberay" else launcher.summary
    words = [describe(document) for document in documents if document.value is not None]
    return Report(
        str(path),
        kind,
        "; ".join(words) if kind else "not read",
        tuple(sorted(faults, key=lambda fault: fault.line)),
        tuple(note for document in documents for note in document.notes),
    )
