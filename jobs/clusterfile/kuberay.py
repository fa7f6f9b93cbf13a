"""Files of KubeRay, for `kubectl apply`: RayJob, RayCluster, RayService."""

import re
from typing import Any

import yaml

from jobs.clusterfile import access, schema, shell
from jobs.clusterfile.document import Document, Key, nearest, shown
from jobs.clusterfile.kuberay_schema import SCHEMAS
from jobs.clusterfile.versions import installed, required, same_release, within

__all__ = ["check", "is_kubernetes", "summary"]

CLUSTER: dict[str, Key] = {  # where the Ray cluster is described
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
    "RayCluster": ("spec",),
}
NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
LONGEST_NAME = {"RayJob": 47, "RayService": 47, "RayCluster": 50}  # KubeRay adds to it, up to 63
LAUNCHER_KEYS = ("cluster_name", "provider", "auth", "file_mounts", "head_node_type", "max_workers")
REMEDIES = {  # Ray's version is put into them when they are needed
    "apiVersion": "add `apiVersion: ray.io/v1`",
    "kind": f"add `kind:` with one of {', '.join(SCHEMAS)}",
    "metadata": "add `metadata:` with `name: n2n` below it",
    "spec": "add `spec:`, as in cluster/kuberay/rayjob.yaml",
    "rayVersion": 'add `rayVersion: "{ray}"`, the Ray of the image',
    "image": "add `image: rayproject/ray:{ray}-py311`, or one that holds n2n",
    "containers": "add `containers:` with one container, its `name` and `image`",
    "groupName": "add `groupName: workers`",
    "rayClusterConfig": "add `rayClusterConfig:` with `headGroupSpec` below it",
}


def is_kubernetes(document: Document) -> bool:
    """Whether it is meant for kubectl, and not for Ray's launcher."""
    value = document.value
    return isinstance(value, dict) and ("apiVersion" in value or "kind" in value)


def check(document: Document) -> None:
    """Add the faults of one resource; those of other APIs than Ray's are not looked at."""
    kind, api = document.at("kind"), document.text("apiVersion")
    if document.text("kind") not in SCHEMAS and api and not api.startswith("ray"):
        document.notes.append(f"{shown(kind)} is not KubeRay's: not looked at")
        return
    for name in LAUNCHER_KEYS:
        if name in document.value:
            document.fault(
                (name,),
                "one kind of file: KubeRay's",
                f"{name}, of Ray's launcher",
                "remove it, or remove apiVersion, kind and spec",
            )
            document.value.pop(name)
    if not isinstance(kind, str) or kind not in SCHEMAS:
        _kind(document, kind)
        return
    remedies = {key: text.replace("{ray}", installed()) for key, text in REMEDIES.items()}
    schema.apply(document, SCHEMAS[kind], remedies)
    _name(document, kind)
    place = CLUSTER[kind]
    if kind == "RayJob":
        _job(document)
    if document.at(*place) is not None:
        _cluster(document, place)
    _runtime(document)
    _tokens(document, place)
    access.tokens(document)
    access.placeholders(document)


def summary(document: Document) -> str:
    """One line on a resource: its kind and how many pods."""
    kind = document.text("kind") or "?"
    if kind not in CLUSTER:
        return kind
    name = document.text("metadata", "name") or "?"
    groups = document.items(*CLUSTER[kind], "workerGroupSpecs")
    least = sum(_whole(group, "minReplicas", _whole(group, "replicas", 0)) for group in groups)
    most = sum(_whole(group, "maxReplicas", _whole(group, "replicas", 0)) for group in groups)
    workers = f"{most}" if least == most else f"{least} to {most}"
    return f"KubeRay {kind} {name}, for kubectl apply, 1 head, {workers} workers"


def _whole(group: Any, key: str, default: int) -> int:
    value = group.get(key) if isinstance(group, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _kind(document: Document, kind: Any) -> None:
    words = ", ".join(SCHEMAS)
    meant = nearest(kind, list(SCHEMAS)) if isinstance(kind, str) else None
    found = "none" if kind is None else shown(kind)
    document.fault(("kind",), f"one of {words}", found, f"write `kind: {meant or 'RayJob'}`")


def _name(document: Document, kind: str) -> None:
    key = ("metadata", "name")
    name = document.at(*key)
    if not document.mapping("metadata").get("generateName") and name is None:
        if isinstance(document.at("metadata"), dict):
            document.fault(key, "the key `name`", "none", "add `name: n2n`")
    elif isinstance(name, str) and name and access.PLACEHOLDER not in name:
        most = LONGEST_NAME[kind]
        if not NAME.match(name) or len(name) > most:
            document.fault(
                key,
                f"at most {most} of a-z, 0-9 and -",
                shown(name),
                "write such a name: KubeRay refuses others",
            )


def _job(document: Document) -> None:
    spec = document.mapping("spec")
    if "rayClusterSpec" not in spec and "clusterSelector" not in spec:
        document.fault(
            ("spec", "rayClusterSpec"),
            "the key `rayClusterSpec`",
            "none",
            "add the cluster to run on, as in cluster/kuberay/rayjob.yaml",
        )
    if "entrypoint" not in spec and spec.get("submissionMode") != "InteractiveMode":
        document.fault(
            ("spec", "entrypoint"),
            "the key `entrypoint`",
            "none",
            "add the command, such as `entrypoint: n2n denoise …`",
        )
    entrypoint = spec.get("entrypoint")
    if isinstance(entrypoint, str) and entrypoint:
        if not entrypoint.strip():
            document.fault(("spec", "entrypoint"), "a command", "blanks", "write the command")
        elif not shell.quotes_closed(entrypoint):
            document.fault(
                ("spec", "entrypoint"),
                "quotes that are closed",
                shown(entrypoint),
                "close or double them",
            )
    if spec.get("ttlSecondsAfterFinished") and spec.get("shutdownAfterJobFinishes") is not True:
        document.fault(
            ("spec", "ttlSecondsAfterFinished"),
            "shutdownAfterJobFinishes: true",
            shown(spec.get("shutdownAfterJobFinishes")),
            "add `shutdownAfterJobFinishes: true`: else the cluster goes on, and costs",
        )


def _cluster(document: Document, place: Key) -> None:
    version = document.text(*place, "rayVersion")
    if version and not within(version):
        document.fault(
            (*place, "rayVersion"),
            f"Ray {required()}, which n2n takes",
            version,
            f'write "{installed()}", and an image with it',
        )
    for key in _containers(document, place):
        for found in shell.image_versions(document.text(*key, "image") or ""):
            if version and not same_release(found, version):
                document.fault(
                    (*key, "image"),
                    f"an image of rayVersion, {version}",
                    found,
                    f"write rayproject/ray:{version}, or change rayVersion",
                )
    _groups(document, place)
    _head(document, place)


def _containers(document: Document, place: Key) -> list[Key]:
    groups: list[Key] = [(*place, "headGroupSpec")]
    workers = range(len(document.items(*place, "workerGroupSpecs")))
    groups += [(*place, "workerGroupSpecs", number) for number in workers]
    return [
        (*group, "template", "spec", "containers", number)
        for group in groups
        for number in range(len(document.items(*group, "template", "spec", "containers")))
    ]


def _groups(document: Document, place: Key) -> None:
    key = (*place, "workerGroupSpecs")
    if not document.items(*key):
        document.fault(
            key,
            "at least one group of workers",
            shown(document.at(*key)),
            "add a group with groupName, replicas and template",
        )
    names = set()
    scaled = document.at(*place, "enableInTreeAutoscaling") is True
    for number in range(len(document.items(*key))):
        group = (*key, number)
        name = document.text(*group, "groupName")
        if name in names:
            document.fault((*group, "groupName"), "each name once", f"{name!r} again", "rename it")
        names.add(name)
        _replicas(document, group, scaled)


def _replicas(document: Document, group: Key, scaled: bool) -> None:
    number = document.number(*group, "replicas")
    least = document.number(*group, "minReplicas")
    most = document.number(*group, "maxReplicas")
    if least is not None and most is not None and least > most:
        document.fault(
            (*group, "minReplicas"),
            f"at most maxReplicas, {most}",
            str(least),
            "lower it or raise maxReplicas",
        )
    elif number is not None and not (least or 0) <= number <= (number if most is None else most):
        document.fault(
            (*group, "replicas"),
            f"minReplicas to maxReplicas, {least or 0} to {most}",
            str(number),
            "write a number between them",
        )
    elif not scaled and not number and not least:
        document.fault(
            (*group, "replicas"),
            "at least 1 without enableInTreeAutoscaling",
            shown(number),
            "write how many workers there shall be",
        )


def _head(document: Document, place: Key) -> None:
    params = document.mapping(*place, "headGroupSpec", "rayStartParams")
    if params.get("block") == "false":
        document.fault(
            (*place, "headGroupSpec", "rayStartParams", "block"),
            "no `block`",
            "'false'",
            "remove it: the pod would end at once",
        )


def _runtime(document: Document) -> None:
    """spec.runtimeEnvYAML is YAML in a text."""
    key = ("spec", "runtimeEnvYAML")
    text = document.text(*key)
    if not text:
        return
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        document.fault(key, "YAML in the text", shown(text), "check its indentation and quotes")
        return
    if not isinstance(value, dict):
        document.fault(key, "a mapping in the text", shown(value), "write `env_vars:` or the like")


def _tokens(document: Document, place: Key) -> None:
    for key in _containers(document, place):
        for number, variable in enumerate(document.items(*key, "env")):
            named = isinstance(variable, dict) and variable.get("name") == "RAY_AUTH_TOKEN"
            if named and variable.get("value"):
                document.fault(
                    (*key, "env", number, "value"),
                    "no token in the file",
                    "RAY_AUTH_TOKEN",
                    "write `valueFrom: secretKeyRef:` and take a new token",
                    insecure=True,
                )
    mode = document.at(*place, "authOptions", "mode")
    if document.at(*place) is None or (mode == "token" or _mode_by_hand(document, place)):
        return
    key = (*place, "authOptions")
    document.fault(
        (*key, "mode") if mode is not None else key,
        "token authentication",
        shown(mode) if mode is not None else "none",
        "write `authOptions:` with `mode: token` below it: without it whoever reaches "
        "the dashboard runs code",
        insecure=True,
    )


def _mode_by_hand(document: Document, place: Key) -> bool:
    """RAY_AUTH_MODE=token in every container that runs Ray, as before KubeRay 1.5.1."""
    first = [key for key in _containers(document, place) if key[-1] == 0]
    return bool(first) and all(
        any(
            isinstance(variable, dict)
            and (variable.get("name"), variable.get("value")) == ("RAY_AUTH_MODE", "token")
            for variable in document.items(*key, "env")
        )
        for key in first
    )
