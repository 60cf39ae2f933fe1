"""Write docs/page.png and docs/page-phone.png, the pictures of the page: `page_picture.py ADDRESS` of a calm
`linnet serve` that has made a few clips, and makes three more for it."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1100, "height": 1080}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
HALF_DONE = "() => /step (9|1[0-9]) of/.test(document.querySelector('li.live .state')?.textContent)"
NEWS = "#news { display: none }"


def take(browser: Any, address: str, name: str, how: dict[str, Any], *prompts: str) -> None:
    """The page while it makes the first of these."""
    page = browser.new_context(bypass_csp=True, **how).new_page()
    page.set_default_timeout(300_000)
    page.goto(address)
    page.add_style_tag(content=NEWS)
    page.locator("article").first.wait_for()
    for number, prompt in enumerate(prompts, 1):
        page.locator("#prompt").fill(prompt)
        page.locator("#make").click()
        page.wait_for_function(f"document.querySelectorAll('#queue li').length >= {number}")
    page.wait_for_function(HALF_DONE, polling=100)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(256).save(DOCS / name, optimize=True)
    page.locator("#making").wait_for(state="hidden")
    page.close()


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        waiting = "a pink square shrinks on a white background"
        running = "a large orange triangle falls on a black background"
        take(browser, sys.argv[1], "page.png", DESKTOP, running, waiting)
        take(
            browser,
            sys.argv[1],
            "page-phone.png",
            PHONE,
            "a large purple heart moves right on a gray background",
        )


if __name__ == "__main__":
    main()
