"""Asks Ray's launcher where the head of a cloud's cluster is, as a program of its own.

It prints, last, a JSON value: the head's address, and `auth` with the key that Ray has made.
"""

import json
import sys
from pathlib import Path

import yaml

__all__: list[str] = []


def main() -> None:
    from ray.autoscaler.sdk import bootstrap_config, get_head_node_ip

    file = Path(sys.argv[1])
    config = bootstrap_config(yaml.safe_load(file.read_text(encoding="utf-8-sig")))
    print(json.dumps([get_head_node_ip(str(file)), config["auth"]]))


if __name__ == "__main__":
    main()
