"""Options that `n2n submit` and `n2n jobs` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["cluster_options"]


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: which cluster."""
    options = (
        click.option(
            "--cluster",
            metavar="YAML",
            type=click.Path(path_type=Path),
            help="A file of Ray's launcher, as those in cluster/: its head is reached by ssh.",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="Of Ray's dashboard, which takes jobs: such as localhost:8265.",
        ),
        click.option(
            "--insecure",
            is_flag=True,
            help="Use a cluster without a token, or another machine's address without https.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
