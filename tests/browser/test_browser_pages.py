"""What the tests of pages rely on: a page opens, its faults are found, and its errors fail a test."""

import pytest
from browser_pages import NARROW, overflows, serious_violations

GOOD = "<!doctype html><html lang='en'><title>t</title><main><h1>Title</h1><p>Text</p></main></html>"
BAD = "<!doctype html><html><title></title><img src='x.png'><div style='width:600px'><button></button></div></html>"


def written(folder, html):
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_a_good_page_has_no_serious_violation(open_page, tmp_path, color_scheme):
    page = open_page(written(tmp_path, GOOD), NARROW, color_scheme)
    assert serious_violations(page) == [] and not overflows(page)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (color_scheme == "dark")


def test_a_bad_page_has_some(open_page, tmp_path):
    page = open_page(written(tmp_path, BAD), NARROW)
    rules = {found.split(":")[0] for found in serious_violations(page)}
    assert {"button-name", "image-alt", "html-has-lang", "document-title"} <= rules and overflows(page)
