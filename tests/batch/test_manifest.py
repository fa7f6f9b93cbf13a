"""The manifest: what was recorded last, found again whatever killed processes left."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from n2n.batch import manifest as module
from n2n.batch.manifest import MANIFEST, History, open_history, open_manifest
from n2n.errors import RunConflict
from n2n.storage import LocalFolder


def write(path: Path, *lines) -> Path:
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return path


def line(output: str, state: str = "done", **more) -> dict:
    return {"state": state, "input": output, "output": output, **more}


def test_of_several_lines_the_last_holds(tmp_path):
    path = write(
        tmp_path / "m",
        line("a", "begun"),
        line("a", size=1),
        line("b", "begun"),
        line("a", size=2),
        line("c", "failed", reason="broken"),
    )
    with History(path) as history:
        assert history.find("a")[0] == line("a", size=2)
        assert history.find("b")[0]["state"] == "begun"
        assert history.find("c") is history.find("d") is None


def test_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_hash", lambda name: 7)
    path = write(tmp_path / "m", *(line(name, size=ord(name)) for name in "abcab"))
    with History(path) as history:
        for name in "abc":
            assert history.find(name)[0]["size"] == ord(name)
        assert history.find("d") is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"state": "done", "output": "b", "si',
        b"\x00\xff\n",
        b"[1]\n3\nnull\n",
        b'{"state": "done"}\n{"state": "done", "output": 5}\n',
        b'{"run": 5}\n{"end": null}\n\n\n',
    ],
)
def test_what_is_no_line_of_ours_is_passed_over(tmp_path, content):
    path = write(tmp_path / MANIFEST, line("a"))
    with path.open("ab") as file:
        file.write(content)
    with open_manifest(LocalFolder(str(tmp_path)), tmp_path) as (history, manifest):
        assert history.find("a")[0] == line("a")
        assert history.find("b") is None
        manifest.write(line("c"))
    with History(path) as history:
        assert history.find("a")[0] == line("a")
        assert history.find("c")[0] == line("c")


def test_lines_can_be_read_while_they_are_written(tmp_path):
    with open_manifest(LocalFolder(str(tmp_path / "new" / "out")), tmp_path) as (_, manifest):
        manifest.write(line("a"), line("b"))
        lines = (tmp_path / "new" / "out" / MANIFEST).read_text().splitlines()
        assert [json.loads(one)["output"] for one in lines] == ["a", "b"]


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff\n'\".png")
    with open_manifest(LocalFolder(str(tmp_path)), tmp_path) as (_, manifest):
        manifest.write(line(name))
    assert (tmp_path / MANIFEST).read_bytes().isascii()
    with History(tmp_path / MANIFEST) as history:
        assert history.find(name)[0]["output"] == name


def test_a_second_process_is_kept_out(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from n2n.batch.manifest import open_manifest\nfrom n2n.storage import LocalFolder\n"
        "with open_manifest(LocalFolder(sys.argv[1]), Path('.')):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with ExitStack() as stack:
        other = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunConflict, match="another n2n denoise works here; wait for it"):
            stack.enter_context(open_manifest(LocalFolder(str(tmp_path)), tmp_path))
        with open_history(LocalFolder(str(tmp_path)), tmp_path) as history:  # a look is allowed
            assert history.find("a") is None
        other.kill()
    with open_manifest(LocalFolder(str(tmp_path)), tmp_path):
        pass


def run(*, overwrite: bool) -> dict:
    return {"run": {"overwrite": overwrite}}


@pytest.mark.parametrize(
    ("lines", "since"),
    [
        ([], None),
        ([run(overwrite=True), line("a")], 0),
        ([run(overwrite=True), line("a"), {"end": {}}], None),
        ([run(overwrite=True), line("a"), run(overwrite=True), line("b")], 0),
        ([run(overwrite=True), line("a"), run(overwrite=False), line("b")], None),
        ([run(overwrite=False), run(overwrite=True)], len(json.dumps(run(overwrite=False))) + 1),
    ],
)
def test_a_stopped_run_that_was_to_do_all_again(tmp_path, lines, since):
    with History(write(tmp_path / "m", *lines)) as history:
        assert history.unfinished_overwrite == since


def test_no_manifest_is_no_history(tmp_path):
    with open_history(LocalFolder(str(tmp_path / "no")), tmp_path) as history:
        assert history is None
    assert not (tmp_path / "no").exists()


def test_where_nothing_was_done_nothing_is_left(tmp_path):
    with open_manifest(LocalFolder(str(tmp_path / "out")), tmp_path):
        assert (tmp_path / "out" / MANIFEST).exists()
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with open_manifest(LocalFolder(str(tmp_path / "there")), tmp_path):
        pass
    assert list((tmp_path / "there").iterdir()) == []
