"""Files of Ray's cluster launcher: `ray up`, `ray exec`, `ray submit`, `ray down`.

Ray's own schema is read from the installed package, without importing Ray. What follows it is what
Ray lets through or reports with a traceback.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.clusterfile import access, commands, nodes, schema
from jobs.clusterfile.document import Document, nearest, shown

__all__ = ["check", "summary"]

LONGEST_NAME = 100
PROVIDERS = ("local", "aws", "gcp", "azure", "aliyun", "external")
NOT_FOR_USERS = ("fake_multinode", "fake_multinode_docker", "readonly", "spark", "vsphere")
REMEDIES = {
    "cluster_name": "add `cluster_name: n2n`, or any other name",
    "provider": "add `provider:` with `type: local` for hosts of your own, aws or gcp below it",
    "type": f"add `type:` with one of {', '.join(PROVIDERS)}",
    "resources": "add `resources: {CPU: 4}` with what a node of this type has; {} lets Ray look",
    "node_config": "add `node_config:` with the machine type, as in cluster/aws.yaml or gcp.yaml",
    "ssh_proxy_command": "add `ssh_proxy_command:`; without it there is no host to ask by node id",
}
# Ray looks for itself how many CPUs and GPUs such a node has.
RESOURCES_FOUND = ("aws", "azure", "gcp")
LEGACY = {
    "head_node": "describe the head under `available_node_types` and name it in `head_node_type`",
    "worker_nodes": "describe the workers under `available_node_types`",
}


def check(document: Document) -> None:
    """Add the faults of a launcher file."""
    if not isinstance(document.value, dict):
        document.fault(
            (), "a mapping of keys", _kind_of(document.value), "copy cluster/onprem.yaml"
        )
        return
    _legacy(document)
    schema.apply(document, _schema(document), REMEDIES)
    _provider(document)
    name = document.text("cluster_name") or ""
    if "cluster_name" in document.value and document.text("cluster_name") == "":
        document.fault(("cluster_name",), "a name", "an empty text", "write `cluster_name: n2n`")
    elif "/" in name or len(name) > LONGEST_NAME:
        document.fault(
            ("cluster_name",),
            f"at most {LONGEST_NAME} characters without /: Ray names files after it",
            shown(name),
            "write `cluster_name: n2n`",
        )
    nodes.check(document)
    access.check(document)
    commands.check(document)
    _docker(document)


def summary(document: Document) -> str:
    """One line on a launcher file: provider and how many nodes."""
    kind = document.text("provider", "type") or "?"
    name = document.text("cluster_name") or "?"
    return f"Ray launcher, cluster {name}, provider {kind}, {nodes.count(document)}"


def _schema(document: Document) -> dict[str, Any]:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(next(iter(spec.submodule_search_locations)), "autoscaler", "ray-schema.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name in (*LEGACY, "min_workers"):  # Ray takes them away before it looks at the schema
        found["properties"][name] = {}
    if document.text("provider", "type") in RESOURCES_FOUND:
        node = found["properties"]["available_node_types"]["patternProperties"][".*"]
        node["required"] = [name for name in node["required"] if name != "resources"]
    return found


def _legacy(document: Document) -> None:
    for name, remedy in LEGACY.items():
        if name in document.value:
            document.fault((name,), "no such key: it is of old Rays", "it", remedy)
    if "min_workers" in document.value and document.text("provider", "type") != "local":
        document.fault(
            ("min_workers",),
            "`min_workers` in each node type",
            "it for the whole cluster",
            "move it below the worker's type in `available_node_types`; Ray ignores it here",
        )


def _provider(document: Document) -> None:
    kind = document.text("provider", "type")
    if kind is None or kind in PROVIDERS:
        if kind == "external" and document.text("provider", "module") is None:
            document.fault(
                ("provider", "module"),
                "the key `module`",
                "none",
                "add `module:` with the Python class of your provider",
            )
        return
    key = ("provider", "type")
    if kind == "kuberay":
        remedy = "write a KubeRay file, as cluster/kuberay/rayjob.yaml, for kubectl apply"
    elif kind in NOT_FOR_USERS:
        remedy = "Ray has it for itself or cannot start it from a file; write local, aws or gcp"
    else:
        meant = nearest(kind.lower(), list(PROVIDERS))
        remedy = f"write `type: {meant}`" if meant else "write local for hosts of your own"
    document.fault(key, f"one of {', '.join(PROVIDERS)}", repr(kind), remedy)


def _docker(document: Document) -> None:
    """Ray's own check of it is an assertion."""
    docker = document.mapping("docker")
    image = docker.get("image") or (docker.get("head_image") and docker.get("worker_image"))
    name = docker.get("container_name")
    if name and not image:
        document.fault(("docker", "image"), "the key `image`", "none", "add the image to run")
    elif image and not name:
        document.fault(
            ("docker", "container_name"),
            "the key `container_name`",
            "none",
            "add `container_name: ray`",
        )


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"one value, {value!r}"
