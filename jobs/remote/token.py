"""The token that lets a program into a Ray cluster: from the environment or from a private file."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from n2n.errors import InvalidValue

__all__ = ["HOME_FILE", "VARIABLES", "Token", "find_token"]

HOME_FILE = "~/.ray/auth_token"
VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
PRIVATE_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
LARGEST = 4096  # bytes


@dataclass(frozen=True)
class Token:
    """A token and where it is from. Nothing prints the token itself."""

    value: str = field(repr=False)
    source: str


def find_token(mounted: str | None = None) -> Token | None:
    """The token as Ray looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    mounted: the file that the cluster's own YAML sends to its nodes, which comes before the one in
    the home. None if there is no token. Raises InvalidValue for a file that others can read.
    """
    value, path = (os.environ.get(name) for name in VARIABLES)
    if value and value.strip():
        return _checked(value, "RAY_AUTH_TOKEN")
    if path:
        return _read(Path(path), "RAY_AUTH_TOKEN_PATH")
    for name in (mounted, HOME_FILE):
        if name and (file := Path(os.path.expanduser(name))).exists():
            return _read(file, str(file))
    return None


def _read(file: Path, source: str) -> Token:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            data = opened.read(LARGEST)
    except OSError as error:
        raise InvalidValue(
            f"{source}: a file with the cluster's token expected at {file}, found: "
            f"{(error.strerror or type(error).__name__).lower()}; correct the path"
        ) from error
    if mode & PRIVATE_TO_OTHERS:
        raise InvalidValue(
            f"{file}: a token that its owner alone reads (0600) expected, found mode {mode:04o}; "
            f"chmod 600 {file}, and take a new token if others use this machine"
        )
    return _checked(data.decode("utf-8", "replace"), source)


def _checked(text: str, source: str) -> Token:
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidValue(
            f"{source}: one token in printable letters expected, found something else; "
            "make one: ray get-auth-token --generate"
        )
    return Token(text, source)
