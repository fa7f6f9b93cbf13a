"""Who gets in, and what is sent: keys, mounted files, tokens, places left to change.

`~` is expanded as Ray does it, by os.path, which leaves the home of an unknown user as it is.
"""

import os
import stat
from pathlib import Path

from jobs.clusterfile.document import TOKEN, TOKEN_WRITTEN, Document, Key, shown, spelled

__all__ = ["check", "placeholders", "tokens"]

PLACEHOLDER = "CHANGE-ME"
TOKEN_FILE = "~/.ray/auth_token"
MAKE_TOKEN = f"make it: ray get-auth-token --generate > /dev/null && chmod 600 {TOKEN_FILE}"
PRIVATE_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
HEAD_OF_KEY = 100  # bytes


def check(document: Document) -> None:
    """Add the faults of ssh, of mounted files and of tokens in the file."""
    _user(document)
    _key(document)
    _mounts(document)
    tokens(document)
    placeholders(document)


def tokens(document: Document) -> None:
    """A token in the file itself; it is not repeated in the fault."""
    for key, value in document.scalars():
        text = "" if value is None else str(value)
        if any(TOKEN_WRITTEN.search(str(part)) for part in key):
            text = f"{TOKEN}=x"
        if TOKEN_WRITTEN.search(text) or (key[-1:] == (TOKEN,) and text[:1] not in ("", "$")):
            document.fault(
                key,
                "no token in the file",
                f"{TOKEN}=…",
                f"remove it and take a new one: send the file {TOKEN_FILE} by file_mounts",
                insecure=True,
            )


def placeholders(document: Document) -> None:
    """What a user has to change; other faults of the same keys go."""
    left = {key: text for key, text in document.texts() if PLACEHOLDER in text}
    names = {spelled(key) for key in left}
    document.faults[:] = [fault for fault in document.faults if fault.key not in names]
    for key, text in left.items():
        document.fault(key, "a value of your own", shown(text), "write yours in its place")


def _user(document: Document) -> None:
    auth, kind = document.at("auth"), document.text("provider", "type")
    if auth is None and kind != "local":
        return  # Ray's default
    if isinstance(auth, dict | None) and document.at("auth", "ssh_user") in (None, ""):
        document.fault(
            ("auth", "ssh_user"),
            "the key `ssh_user`",
            "none",
            "add the user on the hosts; Ray ends with a KeyError without it",
        )


def _key(document: Document) -> None:
    key: Key = ("auth", "ssh_private_key")
    name = document.text(*key)
    if name is None:
        return
    file = Path(os.path.expanduser(name))
    expected = "a private key file"
    if name.endswith(".pub"):
        document.fault(
            key,
            expected,
            f"a public one, {name!r}",
            f"write {name.removesuffix('.pub')}, without .pub",
        )
        return
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_OF_KEY)
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
    except (OSError, ValueError) as error:
        document.fault(
            key,
            expected,
            f"{_reason(error)}: {name}",
            "write the path of your key, or make one: ssh-keygen -t ed25519 -f "
            f"{name if not file.exists() else '~/.ssh/n2n'}",
        )
        return
    if head.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        document.fault(key, expected, "a public key", "write the file without .pub")
    elif head.startswith(b"PuTTY"):
        document.fault(
            key,
            "a private key of OpenSSH",
            "one of PuTTY",
            f"convert it: puttygen {name} -O private-openssh -o NEW",
        )
    elif b"PRIVATE KEY-----" not in head:
        document.fault(key, expected, f"another file, {name!r}", "write the path of your key")
    elif mode & PRIVATE_TO_OTHERS:
        document.fault(
            key,
            "a key that its owner alone reads (0600)",
            f"mode {mode:04o}",
            f"chmod 600 {name}: ssh refuses it as it is",
        )


def _mounts(document: Document) -> None:
    for remote, local in document.mapping("file_mounts").items():
        key = ("file_mounts", remote)
        if not isinstance(local, str):
            document.fault(key, "a local path", shown(local), "write `remote path: local path`")
            continue
        if not remote.startswith(("/", "~/")):
            document.fault(
                key,
                "a path on the hosts from / or ~/",
                repr(remote),
                f"write ~/{remote}: local path",
            )
        file = Path(os.path.expanduser(local))
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except (OSError, ValueError) as error:
            remedy = "correct the path; one without / is relative to where ray up is run"
            if file == Path(os.path.expanduser(TOKEN_FILE)):
                remedy = MAKE_TOKEN
            document.fault(key, "a local file or folder", f"{_reason(error)}: {local}", remedy)
            continue
        if file.name == "auth_token" and mode & PRIVATE_TO_OTHERS:
            document.fault(
                key,
                "a token that its owner alone reads (0600)",
                f"mode {mode:04o}",
                f"chmod 600 {local}",
                insecure=True,
            )


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or "an impossible name").lower()
