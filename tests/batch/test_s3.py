"""Object stores: a real S3 server on loopback, also killed and started again in the middle."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from n2n import storage
from n2n.batch import Worker, make_plan
from n2n.errors import InvalidValue, StorageError
from n2n.storage import ObjectStore, open_storage

SERVER = Path(__file__).with_name("s3_server.py")


class Server:
    """Started, killed, and started again on the same port, with what it had kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0

    def start(self) -> None:
        command = [sys.executable, str(SERVER), str(self.folder), str(self.port)]
        with (self.folder.parent / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3") / "objects")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, request) -> str:
    """The name of a new bucket, and the usual environment of credentials."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return name


def upload(folder: Path, uri: str) -> ObjectStore:
    """Copy a folder's files to a store."""
    store = ObjectStore(uri)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path.read_bytes())
    return store


def objects(store: ObjectStore, folder: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in store.list(folder):
        name = f"{folder}/{entry.name}" if folder else entry.name
        found |= objects(store, name) if entry.kind == "folder" else {name: store.read(name)}
    return found


def images(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if "manifest" not in name}


def local(folder: Path) -> dict[str, bytes]:
    return images(
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
    )


def test_a_folder_through_a_store_is_what_it_is_through_the_disk(runs, source, tmp_path, bucket):
    (source / "bad.png").touch()
    (source / "it's a #%20? é.png").write_bytes((source / "b.png").read_bytes())
    runs(source, tmp_path / "out")
    expected, states = local(tmp_path / "out"), runs.states
    before = objects(upload(source, f"s3://{bucket}/some/in"))
    assert runs(f"s3://{bucket}/some/in", f"s3://{bucket}/out").exit_code == 1
    assert runs.states == states
    store = ObjectStore(f"s3://{bucket}/out")
    assert images(objects(store)) == expected
    assert objects(ObjectStore(f"s3://{bucket}/some/in")) == before
    assert runs(f"s3://{bucket}/some/in", f"s3://{bucket}/out").skipped == 4
    names = [name for name in objects(store) if "manifest" in name]
    assert [name.partition("-")[0] for name in names] == ["n2n"] * 2
    lines = [json.loads(line) for name in sorted(names) for line in store.read(name).splitlines()]
    assert [next(iter(line)) for line in lines].count("run") == 2


@pytest.mark.parametrize("remote", ["input", "output"])
def test_one_side_may_be_a_store(runs, source, tmp_path, bucket, remote):
    runs(source, tmp_path / "expected")
    expected = local(tmp_path / "expected")
    if remote == "input":
        upload(source, f"s3://{bucket}/in")
        runs(f"s3://{bucket}/in", tmp_path / "out")
        assert local(tmp_path / "out") == expected
        assert not (tmp_path / "out" / ".n2n-work").exists()
    else:
        runs(source, f"s3://{bucket}/out")
        assert images(objects(ObjectStore(f"s3://{bucket}/out"))) == expected


def test_a_single_object_and_a_model_in_a_store(runs, source, tmp_path, bucket, model):
    ObjectStore(f"s3://{bucket}").write("models/m.safetensors", model.read_bytes())
    upload(source, f"s3://{bucket}/in")
    runs(source / "b.png", tmp_path / "b.png")
    runs.model = f"s3://{bucket}/models/m.safetensors"
    assert runs(f"s3://{bucket}/in/b.png", f"s3://{bucket}/x/y.png").done == 1
    found = objects(ObjectStore(f"s3://{bucket}/x"))
    assert found == {"y.png": (tmp_path / "b.png").read_bytes()}


def test_keys_that_would_lead_elsewhere_are_refused(tmp_path, bucket):
    import boto3

    client = boto3.client("s3")
    keys = ("in/../evil.png", "in/./x.png", "in//abs.png", "in/a//b.png", "in/fine.png", "in/dir/")
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    client.close()
    plan = make_plan(f"s3://{bucket}/in", str(tmp_path / "out"))
    assert (plan.files, plan.refused) == (1, 4)


def test_places_that_cannot_be_meant(runs, source, bucket):
    for uri, message in {
        "s3://no-such-bucket/x": "found nothing; check the name",
        f"s3://{bucket}/nothing": "found nothing; check the name",
        "s3://": "a bucket expected, as in s3://bucket/folder",
        "zz://bucket/x": "a folder, or a URI such as s3://bucket/folder expected",
        "file://host/x": "a file of this machine expected",
    }.items():
        with pytest.raises(InvalidValue, match=message):
            make_plan(uri, "out")
    with pytest.raises(
        InvalidValue, match=r"cannot be written: .*NO_SUCH_BUCKET.*check the bucket"
    ):
        runs(source, "s3://no-such-bucket/out")
    upload(source, f"s3://{bucket}/in")
    for output in (f"s3://{bucket}/in", f"s3://{bucket}/in/out", f"s3://{bucket}/in/"):
        with pytest.raises(InvalidValue, match="a folder outside of the input folder"):
            make_plan(f"s3://{bucket}/in", output)


def test_uris_of_files_are_paths(source):
    assert open_storage(source.as_uri()).find("b.png").size == (source / "b.png").stat().st_size


def test_a_server_killed_and_started_again_in_the_middle(
    runs, source, tmp_path, bucket, server, make_image
):
    for number in range(40):
        make_image(source / f"{number:02d}.png", seed=number)
    runs(source, tmp_path / "out")
    expected = local(tmp_path / "out")
    upload(source, f"s3://{bucket}/in")

    class Killing(Worker):
        """After ten images the server is killed; two seconds later it is there again."""

        done = 0

        def run(self, items):
            for outcome in super().run(items):
                self.done += 1
                if self.done == 10:
                    server.kill()
                    threading.Timer(2.0, server.start).start()
                yield outcome

    report = runs(f"s3://{bucket}/in", f"s3://{bucket}/out", worker=Killing)
    assert (report.done, report.failed) == (43, 0)
    assert images(objects(ObjectStore(f"s3://{bucket}/out"))) == expected


@pytest.mark.slow
def test_a_server_that_stays_away_stops_the_work_and_the_next_run_goes_on(
    runs, source, tmp_path, bucket, server, monkeypatch
):
    monkeypatch.setattr(storage, "WAITS", ())
    runs(source, tmp_path / "out")
    upload(source, f"s3://{bucket}/in")

    class Killing(Worker):
        def run(self, items):
            for outcome in super().run(items):
                yield outcome
                server.kill()

    started = time.monotonic()
    with pytest.raises(StorageError, match=r"the store does not answer .*again when it does"):
        runs(f"s3://{bucket}/in", f"s3://{bucket}/out", worker=Killing)
    assert time.monotonic() - started < 60
    server.start()
    report = runs(f"s3://{bucket}/in", f"s3://{bucket}/out")
    assert (report.done + report.skipped, report.failed) == (3, 0)
    assert images(objects(ObjectStore(f"s3://{bucket}/out"))) == local(tmp_path / "out")
