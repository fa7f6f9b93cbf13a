"""A real Chromium, in which reports are opened from the disk."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OWN = ("file:", "data:", "blob:")

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """Debian's; its profile is an empty folder, which goes with it."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium: apt-get install --no-install-recommends chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of [test]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: "Browser") -> Iterator[OpenPage]:
    """open_page(path, width=1280, dark=False): the page, once it is there.

    The test fails if a page logs an error, raises one, or asks for anything that is not in it or
    beside it on the disk.
    """
    faults: list[str] = []
    contexts = []

    def hear(message) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"{message.type}: {message.text}")

    def look(request) -> None:
        if not request.url.startswith(OWN):
            faults.append(f"asks for {request.url}")

    def open_it(path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> "Page":
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            offline=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", look)
        page.goto(path.resolve().as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert faults == []
