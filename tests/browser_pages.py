"""Pages in Debian's headless Chromium, driven by Playwright: a fixture that opens them, and what axe-core finds there.

`make test-browser` installs what the tests of `tests/browser` need.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("RD_HF_CHROMIUM") or shutil.which("chromium")
PACKAGES = Path(__file__).resolve().parents[1] / ".venv" / "browser"  # what `make test-browser` unpacks there
AXE, RUNTIME = PACKAGES / "axe-core" / "axe.min.js", PACKAGES / "onnxruntime-web"
IS_INSTALLED = CHROMIUM is not None and find_spec("playwright") is not None and AXE.is_file()
WIDE, NARROW = 1280, 380  # pixels of the screens that pages are looked at on
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(address, width=1280, color_scheme="light", **context)` shows a page; `address` may be a file's path.

    The test fails when a script of the page raises.
    """
    contexts, raised = [], []

    def open_page(address: str | Path, width: int = WIDE, color_scheme: str = "light", **options: Any) -> Page:
        viewport = {"width": width, "height": 900}
        context = chromium.new_context(viewport=viewport, color_scheme=color_scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert raised == []


def serious_violations(page: Page) -> list[str]:
    """What axe-core finds in a page that is serious or worse: the rule, and the first element that breaks it."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{each['id']}: {each['help']} ({len(each['nodes'])}; first: {each['nodes'][0]['html'][:200]})"
        for each in found
        if each["impact"] in SERIOUS
    ]


def overflows(page: Page) -> bool:
    """Whether a page is wider than its screen, so that one must scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
