"""A second run does what is missing, and leaves alone what is not its own."""

import json
import os

import pytest

from n2n.batch import MANIFEST, Choice, Outcome, decisions, make_plan


def tree(folder) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_the_second_run_does_what_is_missing(runs, source, tmp_path, make_image):
    out = tmp_path / "out"
    assert runs(source, out).done == 3
    (out / "b.png").unlink()
    make_image(source / "new.png")
    kept = tree(out)
    report = runs(source, out)
    assert runs.states == {
        "a.JPG": "skipped",
        "b.png": "done",
        "new.png": "done",
        "sub/deep/c.jpeg": "skipped",
    }
    assert (report.done, report.skipped, report.exit_code) == (2, 2, 0)
    assert tree(out).items() > kept.items()


def test_the_manifest_tells_all_of_a_run(runs, source, tmp_path):
    (source / "bad.png").touch()
    runs(source, tmp_path / "out", strength=0.5)
    header, *lines, end = records(tmp_path / "out")
    assert header["run"]["settings"]["strength"] == 0.5
    assert len(header["run"]["settings"]["model"]) == 64
    assert end["end"].items() >= {"done": 3, "skipped": 0, "failed": 1}.items()
    of = {(one["state"], one["input"]): one for one in lines}
    assert len(of) == len(lines) == 8  # begun and ended, each once
    done = of["done", "b.png"]
    status = (source / "b.png").stat()
    assert (done["size"], done["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
    assert done["output_size"] == (tmp_path / "out" / "b.png").stat().st_size
    assert "an empty file" in of["failed", "bad.png"]["reason"]


@pytest.mark.parametrize("change", ["model", "strength", "tta", "value_range"])
def test_other_settings_do_it_again(runs, source, tmp_path, change, model):
    out = tmp_path / "out"
    runs(source, out)
    before = tree(out)
    if change == "model":
        runs.model = tmp_path / "other.safetensors"
        runs.model.write_bytes(model.read_bytes().replace(b'"F32"', b'"F32"', 1))
        runs(source, out)
        assert set(runs.states.values()) == {"skipped"}  # it is the content that counts
        import torch

        from n2n import models
        from n2n.checkpoint import save_model

        network = models.create("seed", width=2, generator=torch.Generator().manual_seed(1))
        save_model(runs.model, network, {})
        runs(source, out)
    else:
        value = {"strength": 0.5, "tta": True, "value_range": (10.0, 200.0)}[change]
        runs(source, out, **{change: value})
    assert set(runs.states.values()) == {"done"}
    assert tree(out).keys() == before.keys()
    assert tree(out) != before


def test_a_changed_input_is_done_again(runs, source, tmp_path, make_image):
    runs(source, tmp_path / "out")
    make_image(source / "b.png", seed=9)
    runs(source, tmp_path / "out")
    assert runs.states == {"a.JPG": "skipped", "b.png": "done", "sub/deep/c.jpeg": "skipped"}


def test_an_input_that_was_only_touched_is_not(runs, source, tmp_path):
    out = tmp_path / "out"
    runs(source, out)
    before = tree(out)
    os.utime(source / "b.png", (1, 1))
    assert runs(source, out).skipped == 3
    assert tree(out) == before
    assert records(out)[-2]["mtime_ns"] == 10**9  # so that the digest is not asked for again
    plan = make_plan(str(source), str(out))
    header = records(out)[0]["run"]["settings"]
    assert {one.state for one in decisions(plan, header)} == {"skipped"}


def test_an_output_that_is_not_ours_is_left_alone_unless_overwritten(runs, source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"precious")
    report = runs(source, out)
    assert report.exit_code == 1
    reason = f"its output {out}/b.png exists and is not n2n's own; move it, or pass --overwrite"
    assert runs.reasons == {"b.png": reason}
    runs(source, out)
    assert runs.reasons == {"b.png": reason}  # that it failed does not make it ours
    assert (out / "b.png").read_bytes() == b"precious"
    runs(source, out, overwrite=True)
    assert set(runs.states.values()) == {"done"}
    assert (out / "b.png").read_bytes() != b"precious"


def test_an_output_that_was_changed_since_is_not_ours_any_more(runs, source, tmp_path):
    out = tmp_path / "out"
    runs(source, out)
    with (out / "b.png").open("ab") as file:
        file.write(b"retouched")
    runs(source, out, strength=0.5)
    assert runs.states == {"a.JPG": "done", "b.png": "failed", "sub/deep/c.jpeg": "done"}
    assert (out / "b.png").read_bytes().endswith(b"retouched")


@pytest.mark.parametrize("state", ["begun", "in place, not recorded"])
def test_what_was_in_flight_is_done_again(runs, source, tmp_path, state):
    out = tmp_path / "out"
    runs(source, out)
    whole = tree(out)
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    cut = next(i for i, text in enumerate(lines) if '"done", "input": "b.png"' in text)
    (out / MANIFEST).write_text("".join(lines[:cut]))
    (out / "sub" / "deep" / "c.jpeg").unlink()
    if state == "begun":
        (out / "b.png").unlink()
    runs(source, out)
    assert runs.states == {"a.JPG": "skipped", "b.png": "done", "sub/deep/c.jpeg": "done"}
    assert {n: c for n, (c, _) in tree(out).items()} == {n: c for n, (c, _) in whole.items()}


def test_overwriting_goes_on_where_it_was_stopped(runs, source, tmp_path):
    out = tmp_path / "out"
    runs(source, out)
    runs(source, out, overwrite=True)
    assert set(runs.states.values()) == {"done"}
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    cut = next(i for i in reversed(range(len(lines))) if '"done", "input": "b.png"' in lines[i])
    (out / MANIFEST).write_text("".join(lines[: cut + 1]))  # stopped after b.png
    runs(source, out, overwrite=True)
    assert runs.states == {"a.JPG": "skipped", "b.png": "skipped", "sub/deep/c.jpeg": "done"}
    runs(source, out, overwrite=True)
    assert set(runs.states.values()) == {"done"}


def test_outputs_stay_in_the_output_folder(runs, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    runs(source, tmp_path / "out")
    assert runs.states == {"a.JPG": "done", "b.png": "done", "sub/deep/c.jpeg": "failed"}
    assert f"would lie outside of {tmp_path}/out; choose another" in runs.reasons["sub/deep/c.jpeg"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_inputs_below_the_outputs_are_never_written(runs, tmp_path, make_image):
    source = tmp_path / "out" / "in"
    for name in ("a.png", "in/a.png"):  # the second one's output is the first one
        make_image(source / name)
    before = (source / "a.png").read_bytes()
    runs(source, tmp_path / "out", overwrite=True)
    assert runs.states == {"a.png": "done", "in/a.png": "failed"}
    assert "would lie inside of" in runs.reasons["in/a.png"]
    assert (source / "a.png").read_bytes() == before


def test_a_link_in_the_place_of_an_output_is_replaced_not_followed(runs, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out" / "b.png").symlink_to(tmp_path / "precious")
    runs(source, tmp_path / "out")
    assert runs.states["b.png"] == "failed"
    runs(source, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "b.png").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_in_the_place_of_an_output(runs, source, tmp_path):
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    runs(source, tmp_path / "out", overwrite=True)
    assert runs.reasons == {"b.png": f"its output {tmp_path}/out/b.png is a folder"}


def test_a_single_file_keeps_no_manifest_and_replaces_nothing(runs, source, tmp_path, files):
    assert runs(source / "b.png", tmp_path / "x" / "y.png").done == 1
    assert files(tmp_path / "x") == ["y.png"]
    assert runs(source / "b.png", tmp_path / "x" / "y.png").failed == 1
    assert "y.png exists; choose another name, or pass --overwrite" in runs.reasons["b.png"]
    assert runs(source / "b.png", tmp_path / "x" / "y.png", overwrite=True).done == 1


def test_decisions_write_nothing(source, tmp_path):
    plan = make_plan(str(source), str(tmp_path / "out"), Choice())
    assert not [one for one in decisions(plan, {}) if isinstance(one, Outcome)]
    assert not (tmp_path / "out").exists()
