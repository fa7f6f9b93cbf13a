"""The report of a run: what its page says, against numbers worked out elsewhere."""

import json
import math
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from jobs.report import main
from n2n.checkpoint import load_model
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.evaluation import evaluate
from n2n.report import Options, kind_of, report
from n2n.report.run import learning, make
from n2n.report.run.comparison import interval
from n2n.report.run.examination import LAGS, Spread, examine
from n2n.report.run.reading import read_run, rows_of
from n2n.trainer import Trainer

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """A page, read by the standard library: its elements, texts and JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID and not (tag != "svg" and "svg" in self._open):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and not (tag != "svg" and "svg" in self._open):
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append((self.elements[-1][1], data))
        elif self._open[-1:] != ["style"]:
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(filter(None, self.texts)).split())

    def figures(self) -> list[dict]:
        return [
            json.loads(text)
            for attributes, text in self.scripts
            if attributes.get("type") == "application/json"
        ]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def page_of(run: Path, **options) -> Reader:
    """The page alone, without any file."""
    return Reader(make(run, Options(**{"peers": False, **options})).page.render())


def train(pairs: PairSet, run: Path, *, epochs: int = 3, **settings) -> Path:
    config = TrainConfig.of(
        epochs=epochs,
        batch_size=30,
        schedule="constant",
        model_config={"width": 2, "hidden": 2, "blocks": 1},
        **settings,
    )
    Trainer(config, pairs, run).train()
    return run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, write) -> PairSet:
    return write(tmp_path_factory.mktemp("sets") / "set", rows=60, val=24)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pairs: PairSet) -> Path:
    return train(pairs, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return read(report(run, options=Options(photos=None)))


@pytest.fixture(autouse=True)
def no_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a clone take seconds; a test of them names its own."""
    monkeypatch.chdir(tmp_path)


# The page


def test_nothing_comes_from_elsewhere(page: Reader) -> None:
    for _, attributes in page.elements:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert "default-src 'none'" in page.named("meta")[1]["content"]


def test_it_is_well_formed_for_readers(page: Reader) -> None:
    names = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(names) == len(set(names))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in names
    assert all(attributes.get("alt") for attributes in page.named("img"))
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert page.named("html") == [{"lang": "en"}]


def test_every_section_is_there_and_has_content(page: Reader) -> None:
    sections = [attributes["id"] for attributes in page.named("section")]
    links = [attributes["href"] for attributes in page.named("a")][1:]
    assert links == [f"#{name}" for name in sections]
    assert sections[0] == "learning"
    assert len(sections) == 7


def test_charts_are_plotlys(page: Reader) -> None:
    """By its own check of every name and value, with colours in place of the page's names."""
    from plotly.graph_objects import Figure

    figures = page.figures()
    assert len(figures) == 7
    for figure in figures:
        Figure(named(figure))
        assert all(trace.get("x") for trace in figure["data"])


def named(value):
    """The figure with a colour in place of each of the page's names."""
    if isinstance(value, str):
        return "#000000" if value.startswith("var(--") else value
    if isinstance(value, list):
        return [named(item) for item in value]
    return {key: named(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_curves_are_those_of_the_metrics(run: Path, page: Reader) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    psnr, errors, rate, speed = page.figures()[:4]
    traces = {trace["name"]: trace for trace in psnr["data"]}
    of = traces["validation, mean against the clean images"]
    assert of["x"] == [1, 2, 3]
    assert of["y"] == [line["val"]["psnr"] for line in lines]
    estimated = traces["validation, pooled, estimated from noisy pairs"]
    assert estimated["y"] == [line["val"]["estimated_psnr"] for line in lines]
    loss = {trace["name"]: trace["y"] for trace in errors["data"]}
    assert loss["training, against its target"] == [line["train_loss"] for line in lines]
    assert traces["training, against its target"]["y"] == pytest.approx(
        [10 * math.log10(1 / line["train_loss"]) for line in lines]
    )
    assert rate["data"][0]["y"] == [line["lr"] for line in lines]
    assert speed["data"][0]["y"] == [line["images_per_second"] for line in lines]


def test_scores_are_those_of_evaluate(run: Path, pairs: PairSet, page: Reader) -> None:
    network, _ = load_model(run / "model.safetensors")
    scores = evaluate(network, pairs.val)
    examined = examine(network, pairs.val)
    assert examined.is_whole
    assert float(examined.psnr.mean()) == pytest.approx(scores.psnr, abs=1e-5)
    assert np.mean(examined.errors) == pytest.approx(scores.mse, rel=1e-5)
    assert f"{scores.psnr:.2f} dB PSNR against clean images, mean" in swapped(page)
    assert f"{scores.psnr:.2f} [" in page.text  # in the table, with its interval
    assert f"{scores.input_psnr:.2f} [" in page.text


def swapped(page: Reader) -> str:
    """Highlights are marked up as name and number; the eye sees the number first."""
    texts = list(filter(None, page.texts))
    return " ".join(f"{number} {name}" for name, number in pairwise(texts))


def test_the_worst_and_the_best_are_by_error(run: Path, pairs: PairSet) -> None:
    network, _ = load_model(run / "model.safetensors")
    columns = pairs.val.read(("input", "clean"))
    x, clean = (torch.from_numpy(columns[name].copy()).float() / 255 for name in columns)
    errors = ((network(x).clamp(0, 1) - clean) ** 2).mean((1, 2, 3))
    assert examine(network, pairs.val).ranking() == errors.argsort(descending=True).tolist()


def test_without_clean_images_errors_are_estimated(run: Path, write, tmp_path: Path) -> None:
    network, _ = load_model(run / "model.safetensors")
    unclean = write(tmp_path / "unclean", clean=False)
    examined = examine(network, unclean.val)
    scores = evaluate(network, unclean.val)
    assert examined.is_estimated
    assert np.mean(examined.errors) == pytest.approx(scores.estimated_mse, rel=1e-4)
    assert examined.noise.sigma == pytest.approx(scores.sigma, rel=1e-2)


def test_autocorrelation_against_sums() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((2, 3, 12, 10))
    values[:, :, 1:] += 0.5 * values[:, :, :-1]
    spread = Spread()
    spread.add(values[:1], values[:1])
    spread.add(values[1:], values[1:])
    for down, right in ((0, 1), (1, 0), (3, -2), (-8, 8)):
        a = values[:, :, max(0, down) : 12 + min(0, down), max(0, right) : 10 + min(0, right)]
        b = values[:, :, max(0, -down) : 12 - max(0, down), max(0, -right) : 10 - max(0, right)]
        expected = ((a * b).mean() - values.mean() ** 2) / values.var()
        assert spread.autocorrelation[LAGS + down, LAGS + right] == pytest.approx(expected)
    assert spread.sigma == pytest.approx(values.std())
    assert spread.mean == pytest.approx(values.mean())
    assert spread.follows_image == pytest.approx(1)
    counts, _ = np.histogram(255 * values, 511, (-255.5, 255.5))
    assert spread.histogram.tolist() == counts.tolist()


def test_an_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)


def test_rows_come_in_the_order_asked_for(write, tmp_path: Path) -> None:
    pairs = write(tmp_path / "long", rows=2100, val=0)
    whole = pairs.train.read(("input", "target", "clean"))
    rows = [2050, 3, 1000, 999, 0]
    for name, column in rows_of(pairs.train, rows).items():
        assert np.array_equal(column, whole[name][rows])


# Figures


def test_figures_are_whole(run: Path, page: Reader) -> None:
    names = {"figure-1-network", "figure-2-psnr", "figure-3-mse", "residuals", "table-1-epochs"}
    found = list((run / "report" / "figures").iterdir())
    assert {path.stem for path in found} == names
    assert len(found) == 2 * len(names)
    for path in found:
        if path.suffix == ".png":
            with PIL.Image.open(path) as image:
                image.load()
                assert min(image.size) > 200
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_only(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = CliRunner().invoke(main, [str(run), "--out", str(out), "--figures-only", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout) == {"report": str(out / "figures")}
    assert [path.name for path in out.iterdir()] == ["figures"]


# Runs that lack something


def absent(page: Reader) -> str:
    """What the page says is not shown."""
    assert all(trace["x"] for figure in page.figures() for trace in figure["data"])
    return page.text


def test_a_run_of_one_epoch(pairs: PairSet, tmp_path: Path) -> None:
    page = read(report(train(pairs, tmp_path / "one", epochs=1), options=Options(peers=False)))
    assert "one epoch was finished" in absent(page)
    assert len(page.figures()) == 3  # histogram and two maps: no curves of one point
    assert not (tmp_path / "one/report/figures/figure-2-psnr.png").exists()


def test_an_interrupted_run(pairs: PairSet, tmp_path: Path) -> None:
    config = TrainConfig.of(epochs=5, schedule="constant", model_config={"width": 2, "blocks": 1})
    trainer = Trainer(config, pairs, tmp_path / "run")
    trainer.on_epoch = lambda line: setattr(trainer, "stop", line["epoch"] == 2)
    with pytest.raises(Exception, match="stopped"):
        trainer.train()
    text = absent(page_of(tmp_path / "run"))
    assert "2 of 5 epochs" in text
    assert "its last part ended as stopped" in text


def test_a_run_stopped_before_its_first_epoch(pairs: PairSet, tmp_path: Path) -> None:
    config = TrainConfig.of(epochs=5, schedule="constant", model_config={"width": 2, "blocks": 1})
    trainer = Trainer(config, pairs, tmp_path / "run")
    trainer.stop = True
    with pytest.raises(Exception, match="stopped"):
        trainer.train()
    page = page_of(tmp_path / "run")
    assert "no epoch was finished" in absent(page)
    assert "0 of 5 epochs" in page.text


def test_a_run_of_settings_alone(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    text = absent(page_of(tmp_path))
    assert "expected a model file, found nothing there" in text
    assert "no provenance.jsonl" in text


def test_a_run_without_clean_images(write, tmp_path: Path) -> None:
    pairs = write(tmp_path / "set", clean=False, val=12)
    page = page_of(train(pairs, tmp_path / "run", epochs=2))
    assert "The estimate from noisy pairs stands in" in absent(page)
    assert "PSNR, pooled, estimated [dB]" in page.text
    assert "validation, against the clean images" not in page.text


def test_a_run_with_clean_targets(write, tmp_path: Path) -> None:
    pairs = write(tmp_path / "set", clean=False, val=12, target="clean")
    page = page_of(train(pairs, tmp_path / "run", epochs=2, swap=False))
    assert "gain over the input" in absent(page)


def test_a_grey_run_without_validation(write, tmp_path: Path) -> None:
    pairs = write(tmp_path / "set", rows=40, val=0, shape=(1, 8, 12), clean=False)
    page = page_of(train(pairs, tmp_path / "run", epochs=2, turns=False))
    assert "no validation pairs" in absent(page)
    assert "8 × 12 pixels, grey" in page.text
    assert "Seen in training" in page.text


def test_a_set_that_is_gone_and_one_that_was_moved(
    run: Path, pairs: PairSet, write, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    config = (copy / "config.yaml").read_text().replace(str(pairs.path), "/gone/for/ever")
    (copy / "config.yaml").write_text(config)
    page = read(report(copy, options=Options(peers=False)))
    assert not (copy / "report/figures/residuals.png").exists()  # of the set that is gone
    assert "/gone/for/ever: expected the folder of a pair set; there is nothing" in absent(page)
    assert len(page.figures()) == 4  # curves alone
    moved = page_of(copy, pairs=pairs.path)
    assert "this network" in moved.text
    other = write(tmp_path / "other", seed=1)
    found = CliRunner().invoke(main, [str(copy), "--set", str(other.path)])
    assert found.exit_code == 2
    assert "expected the set of digest" in found.stderr


def test_a_run_whose_pairs_were_drawn_from_photographs(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    digest = json.loads((run / "provenance.jsonl").read_text().splitlines()[0])["set"]["digest"]
    config = (copy / "config.yaml").read_text().replace(digest, "0" * 64)
    (copy / "config.yaml").write_text(f"{config}stream_from: photos\n")
    lines = [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines()]
    lines[0]["set"]["stream"] = {
        "folder": "/the/photos",
        "noise": "gaussian:20",
        "photographs": [["a.jpg", "1" * 64]],
    }
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (copy / "provenance.jsonl").write_text(text)
    page = page_of(copy)
    assert "on 60 pairs an epoch, drawn from photographs, of 8 × 8" in page.text
    assert "/the/photos" in page.text
    assert "Not checked:" in page.text


def test_a_run_that_ended_early(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    config = (copy / "config.yaml").read_text().replace("epochs: 3", "epochs: 9")
    (copy / "config.yaml").write_text(config)
    assert "3 of 9 epochs" in (text := page_of(copy).text)
    assert "It ended early" in text


def test_without_scikit_image(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("n2n.classical.find_spec", lambda name: None)
    page = page_of(run, peers=True)
    assert "pip install 'n2n[peers]'" in absent(page)
    assert "noisy input" in page.text


def test_classical_denoisers_are_on_the_page(page: Reader) -> None:
    for name in ("non-local means", "total variation", "wavelets, BayesShrink"):
        assert name in page.text
    assert "seconds a megapixel" in page.text
    assert "Protocol:" in page.text


# Text that is not to be run, files that are not to be touched


def test_names_are_shown_not_run(run: Path, pairs: PairSet, tmp_path: Path) -> None:
    name = "<script>alert(1)<"
    copy = shutil.copytree(run, tmp_path / name)
    evil = tmp_path / "x<" / "script><img src=x onerror=alert(1)>"
    shutil.copytree(pairs.path, evil)
    settings = (copy / "config.yaml").read_text()
    config = settings.replace(str(pairs.path), f'"{evil}"').replace("standard", '"<b>standard"')
    (copy / "config.yaml").write_text(config)
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = PIL.Image.new("RGB", (16, 16), (90, 120, 150))
    exif = photo.getexif()
    exif[0x010E] = "</script><script>alert(2)</script>"
    photo.save(photos / "<script>alert(3)<.jpg", exif=exif)
    (photos / '"><script>alert(4).png').write_bytes(b"none")
    page = page_of(copy, photos=photos)
    assert name in page.text
    assert str(evil) in page.text
    assert "<script>alert(3)<.jpg" in page.text
    assert '"><script>alert(4).png is not shown:' in page.text
    assert "<b>standard" in page.text
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    scripts = [text for attributes, text in page.scripts if not attributes.get("type")]
    assert len(scripts) == 3  # page.js, plotly, charts.js
    assert not any("alert(" in text for text in (scripts[0], scripts[2]))


def test_the_run_is_not_touched(run: Path, page: Reader) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(run.rglob("*"))
            if path.is_file() and "report" not in path.parts
        }

    before = state()
    report(run, options=Options(peers=False))
    assert state() == before
    assert not list(run.rglob("*.tmp"))


def test_photographs_before_and_after(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(photos / "a.png")
    page = page_of(run, photos=photos)
    (slider,) = page.named("input")
    assert slider["type"] == "range"
    assert "place of the line, noisy left of it, denoised right of it" in (
        slider["aria-label"] or ""
    )
    assert "dB before" in page.text


# Wrong use


@pytest.mark.parametrize("make", ["nothing", "file", "folder"])
def test_what_is_no_run_is_refused(make: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if make == "file":
        path.touch()
    elif make == "folder":
        path.mkdir()
    found = CliRunner().invoke(main, [str(path)])
    assert found.exit_code == 2
    assert "expected the directory of a" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_kinds(run: Path) -> None:
    assert kind_of(run) == "run"


def test_a_folder_of_photographs_that_is_not_there(run: Path) -> None:
    found = CliRunner().invoke(main, [str(run), "--photos", "nowhere"])
    assert found.exit_code == 2
    assert "expected a folder of photographs" in found.stderr


def test_a_resumed_run_is_joined(run: Path, pairs: PairSet, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    train(pairs, copy, epochs=5)
    page = page_of(copy)
    psnr = page.figures()[0]
    assert psnr["data"][0]["x"] == [1, 2, 3, 4, 5]
    assert [shape["x0"] for shape in psnr["layout"]["shapes"]] == [3.5]
    assert len(read_run(copy).parts) == 2
    assert set(learning.plots(read_run(copy))) >= {"figure-2-psnr", "figure-3-mse"}
