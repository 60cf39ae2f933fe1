"""The page in a real browser, for the tests that need one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from serving import PATIENCE, Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Without its sandbox, which a container's root cannot have; it sees no page but ours. And without asking anybody else.
OPTIONS = (
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENT = ("--max-job-minutes", 100_000)  # a server that accepts what a test only wants to see waiting


@contextmanager
def open_browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """The page, which must ask nobody but its server and say nothing on the console."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:")) else trouble.append(r.url))
    page.goto(server.url)
    yield page
    context.close()
    # A request that is refused shows up as a failed resource: a prompt with unknown words, and the closed door.
    assert [words for words in trouble if "Failed to load resource" not in words] == []


def settings(page: Page, **values: object) -> None:
    if page.locator("#more").get_attribute("open") is None:
        page.get_by_text("More settings").click()
    for label, value in values.items():
        page.get_by_label(label.capitalize(), exact=True).fill(str(value))


def look(page: Page) -> None:
    """The page asks its server at once, as it does when it is seen again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
