"""A real S3 server for tests: moto's, that also keeps its objects on the disk.

`python s3_server.py FOLDER PORT` serves on 127.0.0.1, prints its port, and can be killed at any
moment: started again with the same folder, it has what it had answered for. PORT 0: any.
"""

import os
import pickle
import sys
from pathlib import Path
from urllib.parse import quote, unquote

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BACKEND = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def load(folder: Path) -> None:
    for path in sorted(folder.glob("*.object")):
        bucket, _, key = unquote(path.stem).partition("/")
        if bucket not in BACKEND.buckets:
            BACKEND.create_bucket(bucket, "us-east-1")
        if key:
            content, changed = pickle.loads(path.read_bytes())
            BACKEND.put_object(bucket, key, content).last_modified = changed


def keep(folder: Path, bucket: str, key: str) -> None:
    """Write what there is now of an object, or of a bucket."""
    path = folder / f"{quote(f'{bucket}/{key}', safe='')}.object"
    found = BACKEND.buckets[bucket].keys.get(key) if key and bucket in BACKEND.buckets else None
    if key and found is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(pickle.dumps((found.value, found.last_modified) if found else None))
    os.replace(temporary, path)


def keeping(application, folder: Path):
    """The application, that answers a change when it is kept."""

    def answer(environment, start):
        parts = list(application(environment, start))
        if environment["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            path = environment["PATH_INFO"].encode("latin-1").decode()
            bucket, _, key = path.removeprefix("/").partition("/")
            keep(folder, bucket, key)
        return parts

    return answer


def main(folder: Path, port: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    load(folder)
    application = keeping(DomainDispatcherApplication(create_backend_app), folder)
    server = make_server("127.0.0.1", port, application, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
