"""The script that makes the pictures of the documentation."""

import runpy
import sys

import pytest
from browser_pages import CHROMIUM, RUNTIME
from conftest import REPOSITORY
from PIL import Image


@pytest.mark.usefixtures("kept_log_level")
def test_it_makes_small_pictures_of_both_pages(tmp_path, monkeypatch):
    script = REPOSITORY / "examples" / "screenshots.py"
    options = ["--output_dir", tmp_path / "run", "--pictures", tmp_path / "pictures", "--max_steps", 2]
    options += ["--web_runtime", RUNTIME, "--chromium", CHROMIUM]
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, options)])
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    for name in ("report.png", "browser.png"):
        picture = tmp_path / "pictures" / name
        assert picture.stat().st_size < 400_000
        with Image.open(picture) as opened:
            assert opened.width >= 900 and len(opened.getcolors()) > 20
