"""What a reader meets on a page in a browser: sizes, focus, pictures, barriers."""

import io
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    if (!element.dataset.stop) element.dataset.stop = String(document.querySelectorAll(
        "[data-stop]").length + 1);
    return {
        stop: element.dataset.stop,
        tag: element.tagName.toLowerCase(),
        id: element.id,
        name: element.getAttribute("aria-label") || element.textContent.trim(),
        seen: element.matches(":focus-visible"),
    };
}"""


def barriers(page: "Page") -> list[str]:
    """What axe-core finds that is serious or critical, contrast in the present colours too."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:5]
    ]


def sideways(page: "Page") -> int:
    """Pixels by which the page is wider than the window; 0 where all fits."""
    return int(
        page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )


def tab_stops(page: "Page", most: int = 500) -> list[dict[str, str]]:
    """What the Tab key reaches, in order, from the start of the page to its end."""
    page.evaluate("document.activeElement && document.activeElement.blur()")
    stops: list[dict[str, str]] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found is None or any(found["stop"] == stop["stop"] for stop in stops):
            return stops
        stops.append(found)
    return stops


def picture(element: "Locator") -> NDArray[np.uint8]:
    """What is seen of an element, (H, W, 3)."""
    shot = element.screenshot(animations="disabled")
    return np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("RGB"))
