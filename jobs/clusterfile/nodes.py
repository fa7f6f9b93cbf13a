"""Which machines a launcher file asks for: hosts of one's own, or node types of a cloud."""

import re
from collections.abc import Iterator
from typing import Any

from jobs.clusterfile.document import Document, shown

__all__ = ["check", "count", "hosts", "is_host"]

LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}$){LABEL}(\.{LABEL})*\.?$")
LOOPBACK = re.compile(r"localhost$|127\.|::1$")
MACHINE = {"aws": "InstanceType", "gcp": "machineType"}
PLACES = {  # provider: keys that it needs and an example, for which Ray has no default that fits
    "aws": {"region": "us-west-2"},
    "gcp": {"region": "us-west1", "availability_zone": "us-west1-a", "project_id": "my-project"},
    "azure": {"location": "westus2", "resource_group": "n2n"},
    "aliyun": {"region": "cn-hangzhou"},
}
REGION = {"aws": r"[a-z]{2}(-[a-z]+)+-\d+$", "gcp": r"[a-z]+-[a-z]+\d+$"}


def check(document: Document) -> None:
    """Add the faults of the machines."""
    kind = document.text("provider", "type")
    if kind == "local":
        _local(document)
    elif kind in PLACES:
        _places(document, kind)
        _types(document, kind)


def hosts(document: Document) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Key and name of each host that a file for hosts of one's own names, the head first."""
    head = "external_head_ip" if document.text("provider", "external_head_ip") else "head_ip"
    for key in (("provider", head), *_workers(document)):
        name = document.text(*key)
        if name and is_host(name):
            yield key, name


def count(document: Document) -> str:
    """How many nodes, in words."""
    if document.text("provider", "type") == "local":
        if document.at("provider", "coordinator_address"):
            return "nodes as its coordinator has them"
        return _number(1, "head") + ", " + _number(len(document.items("provider", "worker_ips")))
    types = document.mapping("available_node_types")
    most = document.number("max_workers")
    least = sum(_whole(node, "min_workers") or 0 for node in types.values())
    if most is None:
        return f"1 head, at least {_number(least)}"
    return f"1 head, {least} to {_number(most)}"


def is_host(name: str) -> bool:
    """Whether it can be a host's name or address."""
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return HOST.match(name) is not None and not re.fullmatch(r"[\d.]+", name)
    return True


def _number(number: int, what: str = "worker") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _whole(node: Any, key: str) -> int | None:
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _workers(document: Document) -> list[tuple[str | int, ...]]:
    places = range(len(document.items("provider", "worker_ips")))
    return [("provider", "worker_ips", place) for place in places]


# Hosts of one's own


def _local(document: Document) -> None:
    for name in ("available_node_types", "head_node_type"):
        if document.at(name):
            document.fault(
                (name,),
                "no node types: all hosts are alike to provider local",
                "some",
                "remove it, and list the hosts under `provider`",
            )
    if document.at("provider", "coordinator_address") is not None:
        if document.number("max_workers") is None:
            document.fault(
                ("max_workers",),
                "the key `max_workers`",
                "none",
                "add how many workers the coordinator may give",
            )
        return
    _head(document)
    _worker_hosts(document)
    most = document.number("max_workers")
    number = len(document.items("provider", "worker_ips"))
    if most is not None and 0 <= most < number:
        document.fault(
            ("max_workers",),
            f"{number}, one for each of worker_ips",
            str(most),
            "remove `max_workers`: Ray would leave hosts out",
        )
    if number:
        document.notes.append(
            "with provider local, Ray's newer autoscaler starts no worker: set "
            "RAY_UP_enable_autoscaler_v2=0 for ray up"
        )


def _head(document: Document) -> None:
    key = ("provider", "head_ip")
    if "head_ip" not in document.mapping("provider"):
        document.fault(key, "the key `head_ip`", "none", "add the host on which the head runs")
    elif not document.at(*key):
        document.fault(key, "a host", shown(document.at(*key)), "write the head's name or address")
    else:
        _host(document, key)


def _worker_hosts(document: Document) -> None:
    key = ("provider", "worker_ips")
    if "worker_ips" not in document.mapping("provider"):
        document.fault(key, "the key `worker_ips`", "none", "add the workers' hosts as a list")
        return
    names = document.at(*key)
    if names is None:
        document.fault(key, "a list of hosts", "nothing", "add the workers below it after `- `")
    elif names == [] and document.number("max_workers") != 0:
        document.fault(
            key,
            "at least one worker",
            "an empty list",
            "add hosts, or say `max_workers: 0` if the head shall do all the work",
        )
    head, seen = document.text("provider", "head_ip"), set()
    for place in _workers(document):
        name = document.at(*place)
        if not _host(document, place):
            continue
        if name == head:
            document.fault(
                place, "a host that is not the head", repr(name), "remove it: the head works, too"
            )
        elif name in seen:
            document.fault(place, "each host once", f"{name!r} again", "remove it")
        seen.add(name)
    if head and seen and LOOPBACK.match(head):
        document.fault(
            ("provider", "head_ip"),
            "an address that the workers can reach",
            repr(head),
            "write the head's name or address in the network",
        )


def _host(document: Document, key: tuple[str | int, ...]) -> bool:
    value = document.at(*key)
    if not isinstance(value, str):
        if key[-1] != "head_ip":  # the schema says it of the head
            document.fault(key, "a host's name or address", shown(value), "write it in quotes")
        return False
    if is_host(value):
        return True
    remedy = "write the name or address alone"
    if "://" in value:
        remedy = "write the host alone, without the protocol"
    elif "@" in value:
        remedy = "write the host alone; the user belongs into `auth: ssh_user`"
    elif re.search(r":\d+$", value):
        remedy = 'write the host alone; for another port: `ssh_proxy_command: "nc %h PORT"`'
    document.fault(key, "a host's name or address", repr(value), remedy)
    return False


# Clouds


def _places(document: Document, kind: str) -> None:
    provider = document.mapping("provider")
    for name, example in PLACES[kind].items():
        if not provider.get(name):
            found = "none" if name not in provider else shown(provider[name])
            document.fault(
                ("provider", name), f"the key `{name}`", found, f"add `{name}:`, such as {example}"
            )
    region = document.text("provider", "region")
    if region and kind in REGION and not re.match(REGION[kind], region):
        document.fault(
            ("provider", "region"),
            f"a region, such as {PLACES[kind]['region']}",
            repr(region),
            "write the region, not a zone or a place's name",
        )
        return
    zones = document.text("provider", "availability_zone")
    for zone in zones.split(",") if zones and region else []:
        if not zone.strip().startswith(str(region)):
            document.fault(
                ("provider", "availability_zone"),
                f"zones of {region}",
                repr(zone.strip()),
                "write zones of the region, or change the region",
            )


def _types(document: Document, kind: str) -> None:
    types = document.mapping("available_node_types")
    head = document.text("head_node_type")
    if not types:
        document.fault(
            ("available_node_types",),
            "node types of the head and the workers",
            shown(document.at("available_node_types")),
            "add them, as in cluster/aws.yaml; else Ray takes machines without GPUs",
        )
        return
    if "head_node_type" not in document.value:
        document.fault(
            ("head_node_type",),
            "the key `head_node_type`",
            "none",
            f"add it with one of {', '.join(map(str, types))}",
        )
    elif head is not None and head not in types:
        document.fault(
            ("head_node_type",),
            f"one of {', '.join(map(str, types))}",
            repr(head),
            "name one of `available_node_types`",
        )
    for name, node in types.items():
        _type(document, kind, name, node)
    _numbers(document, types, head)


def _type(document: Document, kind: str, name: str, node: Any) -> None:
    if not isinstance(node, dict):
        return
    key = ("available_node_types", name)
    least, most = _whole(node, "min_workers"), _whole(node, "max_workers")
    if least is not None and most is not None and least > most:
        document.fault(
            (*key, "min_workers"),
            f"at most max_workers, {most}",
            str(least),
            "lower it or raise `max_workers`",
        )
    for number in ("min_workers", "max_workers"):
        if (_whole(node, number) or 0) < 0:
            document.fault((*key, number), "at least 0", str(node[number]), "write 0 or more")
    machine, config = MACHINE.get(kind), node.get("node_config")
    if machine and isinstance(config, dict) and not config.get(machine):
        document.fault(
            (*key, "node_config", machine),
            f"the key `{machine}`",
            "none",
            f"add `{machine}:` with the cloud's name of a machine",
        )


def _numbers(document: Document, types: dict[str, Any], head: str | None) -> None:
    most = document.number("max_workers")
    least = sum(_whole(node, "min_workers") or 0 for node in types.values())
    if most is None and "max_workers" not in document.value:
        document.fault(
            ("max_workers",),
            "the key `max_workers`",
            "none",
            "add how many workers there may be at most; Ray's default is 2",
        )
    if most is not None and least > most:
        document.fault(
            ("max_workers",),
            f"at least {least}, the sum of min_workers",
            str(most),
            "raise it or lower `min_workers`",
        )
    if head in types and len(types) == 1 and most != 0 and not _whole(types[head], "max_workers"):
        document.fault(
            ("available_node_types",),
            "a type for the workers",
            "the head's alone",
            "add one, or say `max_workers: 0` if the head shall do all the work",
        )
