"""Reports of a run, a sweep and a denoised folder, opened in a real Chromium.

Each page that is opened must log no error and ask for nothing (see conftest.py). Names, reasons and
settings are scripts that would leave a mark on the window, were they run.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from browsing import barriers, picture, scroll_through, sideways, tab_stops
from sweeps import add_trial, begin

from n2n import models
from n2n.batch import Batch, Worker, WorkerConfig, make_plan, settings_of
from n2n.checkpoint import save_model
from n2n.config import TrainConfig
from n2n.report import Options, report
from n2n.report.blocks import Text
from n2n.report.page import Page, Section
from n2n.trainer import Trainer

pytestmark = pytest.mark.browser

MARK = "<script>window.ran = true<"  # and in a path below it: /script>
HARM = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>"
KINDS = ("run", "sweep", "folder")
WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pages(place: Path, write: Callable) -> dict[str, Path]:
    """The three reports, each with all that it can show, but for classical denoisers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)  # no photographs of a clone
        pairs = write(place / MARK / "script>set", rows=60, val=12, shape=(3, 16, 16))
        run = place / "runs" / MARK / "script>"
        config = TrainConfig.of(epochs=2, batch_size=30, model_config={"width": 2, "hidden": 2})
        Trainer(config, pairs, run).train()
        return {
            "run": report(run, options=Options(peers=False, photos=photographs(place))),
            "sweep": report(swept(place / "sweep", pairs)),
            "folder": report(denoised(place / "folder")),
        }


def photographs(place: Path) -> Path:
    folder = place / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(16, 0)
    PIL.Image.fromarray(pixels.repeat(16, 1)).save(folder / "<script>window.ran = true.png")
    return folder


def swept(path: Path, pairs) -> Path:
    directory = begin(path, pairs, trials=14)
    rng = np.random.default_rng(0)
    for number in range(12):
        settings = {"model": ["seed", "unet"][number % 2], "lr": float(10 ** rng.uniform(-4, 0))}
        settings |= {"depth": number % 3} if number % 2 else {}
        scores = 20 + number / 4 + np.arange(1 + number % 4)
        add_trial(directory, number, settings, scores.tolist(), "done", seconds=1.0 + number % 5)
    add_trial(directory, 12, {"model": HARM, "lr": 0.5}, [], "failed", HARM)
    add_trial(directory, 13, {"model": "seed", "lr": 0.2}, [21.0])
    return path


def denoised(path: Path) -> Path:
    """Left half red and right half blue, by a model that knows nothing; and a file that is none."""
    source, model = path.with_name("inputs"), path.with_name("model.safetensors")
    folder = source / MARK
    folder.mkdir(parents=True)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2, 0] = pixels[:, WIDTH // 2 :, 2] = 230
    exif = PIL.Image.Exif()
    exif[0x010E] = HARM
    for name in ("a.png", "script>b.png"):
        PIL.Image.fromarray(pixels).save(folder / name, exif=exif)
    (folder / "script>none.png").write_bytes(b"nothing")
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))
    save_model(model, network, {})
    plan = make_plan(str(source), str(path))
    config = WorkerConfig(str(model), plan.inputs.root, plan.outputs.root, threads=1)
    batch = Batch(plan, config, settings_of(config))
    with batch, Worker(batch.config) as worker:
        batch.run(worker.execute)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_for_everybody(pages: dict[str, Path], open_page: Callable, kind: str) -> None:
    """No script of a name is run; no barrier, in light and dark; the keyboard reaches everything;
    a phone shows it without scrolling sideways."""
    page = open_page(pages[kind])
    scroll_through(page)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert barriers(page) == []
    assert page.evaluate("window.ran") is None
    assert "<script>" in page.locator("body").inner_text()
    reachable = page.locator(
        "a[href], button, input, select, summary, [tabindex='0']"
    ).evaluate_all("all => all.filter((one) => one.checkVisibility()).length")
    stops = tab_stops(page)
    assert len(stops) == reachable > 5
    assert all(stop["seen"] for stop in stops)
    page.set_viewport_size({"width": 400, "height": 800})
    scroll_through(page)
    assert sideways(page) == 0


def test_a_slider_shows_the_input_left_and_the_output_right(
    pages: dict[str, Path], open_page: Callable, place: Path
) -> None:
    """Pixel by pixel, up to what WebP loses: by keys, and by the pointer."""
    before, after = (
        np.asarray(PIL.Image.open(place / folder / MARK / "a.png")).astype(float)
        for folder in ("inputs", "folder")
    )
    page = open_page(pages["folder"])
    slider = page.locator(".card .slider").first
    handle = slider.locator("input")
    assert "a.png" in (handle.get_attribute("aria-label") or "")

    def assert_shows(percent: int) -> None:
        page.mouse.move(0, 0)
        seen = picture(slider)
        assert abs(seen.shape[0] - 2 * HEIGHT) <= 1  # it may begin within a pixel
        assert seen.shape[1] == 2 * WIDTH
        seen = seen[: 2 * HEIGHT : 2, ::2].astype(float)
        line = WIDTH * percent // 100
        wanted = np.concatenate([before[:, :line], after[:, line:]], 1)
        apart = np.abs(seen - wanted).mean((0, 2))  # by column
        columns = np.arange(WIDTH)  # but the line, and the edge, whose colours WebP halves
        clear = (abs(columns - line) > 3) & (abs(columns - WIDTH // 2) > 3)
        assert apart[clear].max() < 25

    handle.focus()
    assert np.abs(before - after).mean() > 60
    assert_shows(50)
    page.keyboard.press("Home")
    assert_shows(0)
    page.keyboard.press("End")
    assert_shows(100)
    page.keyboard.press("Home")
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    assert_shows(25)
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    handle.evaluate("(input) => { input.value = Math.round(input.value / 5) * 5; }")
    handle.dispatch_event("input")
    assert_shows(75)


def test_a_slider_of_a_photograph_moves(pages: dict[str, Path], open_page: Callable) -> None:
    page = open_page(pages["run"])
    slider = page.locator(".slider").first
    slider.locator("input").focus()
    page.keyboard.press("Home")
    after = picture(slider)
    page.keyboard.press("End")
    before = picture(slider)
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    half = picture(slider)
    width = half.shape[1] // 2
    rows = slice(0, half.shape[0] // 2)  # above the names
    np.testing.assert_array_equal(half[rows, : width - 8], before[rows, : width - 8])
    np.testing.assert_array_equal(half[rows, width + 8 :], after[rows, width + 8 :])
    assert (before != after).any()


@pytest.mark.parametrize(
    ("kind", "section", "text"), [("sweep", "training", "trial "), ("run", "learning", "epoch")]
)
def test_the_pointer_over_a_chart_shows_values(
    pages: dict[str, Path], open_page: Callable, kind: str, section: str, text: str
) -> None:
    page = open_page(pages[kind])
    chart = page.locator(f"#{section} .plot").first
    chart.scroll_into_view_if_needed()
    point = chart.locator(".point").first
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = chart.locator(".hoverlayer")
    label.locator("text").first.wait_for()
    assert any(character.isdigit() for character in label.text_content())
    if kind == "sweep":
        assert text in label.text_content()


def test_a_point_leads_to_its_trial(pages: dict[str, Path], open_page: Callable) -> None:
    page = open_page(pages["sweep"])
    chart = page.locator("#training .plot").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".point").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("location.hash.startsWith('#trial-')")
    trial = page.evaluate("location.hash")
    assert page.locator(trial).get_attribute("open") is not None
    assert page.evaluate("document.activeElement.parentElement.id") == trial[1:]


def test_the_table_of_trials(pages: dict[str, Path], open_page: Callable) -> None:
    """Filtered by state and text, sorted by numbers both ways; missing ones come last."""
    page = open_page(pages["sweep"])
    table = page.locator("[data-trials]")

    def column(number: int) -> list[str]:
        return [
            row.locator("th, td").nth(number).inner_text()
            for row in table.locator("tbody tr").all()
            if row.is_visible()
        ]

    assert column(0) == [str(number) for number in range(14)]
    head = table.get_by_role("button", name="PSNR")
    head.click()
    scores = column(2)
    known = [float(score.removesuffix(" dB")) for score in scores[:-1]]
    assert known == sorted(known)
    assert len(known) == 13
    head.click()
    assert column(2) == [*reversed(scores[:-1]), scores[-1]]
    table.get_by_label("State").select_option("failed")
    assert column(0) == ["12"]
    assert table.get_by_role("status").inner_text() == "1 of 14 trials"
    table.get_by_label("State").select_option("")
    table.get_by_label("Contains").fill("unet")
    assert set(column(5)) | set(column(6)) >= {"unet"}
    assert len(column(0)) == 6


def test_the_gallery_is_filtered_and_sorted(pages: dict[str, Path], open_page: Callable) -> None:
    page = open_page(pages["folder"])
    cards = page.locator(".card:visible")
    assert cards.count() == 2
    page.get_by_label("Name contains").fill("B.PNG")
    assert cards.count() == 1
    assert page.get_by_role("status").inner_text() == "1 of 2 images"
    page.get_by_label("Name contains").fill("")
    page.get_by_label("Order").select_option("seconds")
    seconds = [float(card.get_attribute("data-seconds") or 0) for card in cards.all()]
    assert seconds == sorted(seconds, reverse=True)
    link = cards.first.get_by_role("link")
    target = page.evaluate("(element) => element.href", link.element_handle())
    assert (pages["folder"].parent / link.get_attribute("href")).name  # relative
    assert target.startswith("file:")
    page.get_by_label("Show").select_option("flagged")
    assert cards.count() == page.locator(".card.flagged").count()


def test_a_live_page_loads_itself_anew_where_the_reader_is(
    tmp_path: Path, open_page: Callable
) -> None:
    """Until the work has ended, or while it is not paused."""
    path = tmp_path / "index.html"

    def write(text: str, refresh: int | None) -> None:
        words = [Text(f"{text} {number}") for number in range(80)]
        Page("Run", "live", [Section("all", "All", words)], refresh=refresh).write(path)

    write("first", 1)
    page = open_page(path)
    page.evaluate("scrollTo({ top: 700, behavior: 'instant' })")
    write("second", 1)
    page.get_by_text("second 79").wait_for()
    assert page.evaluate("scrollY") == 700
    page.get_by_label("Pause").check()
    page.evaluate("window.here = true")
    write("third", 1)
    page.wait_for_timeout(2500)
    assert page.evaluate("window.here")
    page.get_by_label("Pause").uncheck()
    page.get_by_text("third 79").wait_for()
    write("last", None)
    page.get_by_text("last 79").wait_for()
    page.evaluate("window.here = true")
    page.wait_for_timeout(2500)
    assert page.evaluate("window.here")


def test_the_checks_can_fail(tmp_path: Path, chromium) -> None:
    """What the fixture and the helpers are there for is seen by them."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<body style='width: 3000px'><img src='http://nowhere.invalid/a.png'>"
        "<p style='color: #999; background: #fff'>pale</p><script>missing()</script>"
    )
    page = chromium.new_page(viewport={"width": 400, "height": 300})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    assert "http://nowhere.invalid/a.png" in asked
    assert "missing is not defined" in errors[0]
    assert sideways(page) > 2000
    assert any(one.startswith("color-contrast") for one in barriers(page))
    assert any(one.startswith("image-alt") for one in barriers(page))
    page.close()
