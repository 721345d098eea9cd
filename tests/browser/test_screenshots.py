"""The script that makes the pictures of the documentation."""

import os
import subprocess
import sys

from browser_pages import CHROMIUM, RUNTIME
from conftest import REPOSITORY
from PIL import Image


def test_it_makes_small_pictures_of_both_pages(tmp_path):
    """In a process of its own, because a process has one Playwright."""
    options = ["--output_dir", tmp_path / "run", "--pictures", tmp_path / "pictures", "--max_steps", "2"]
    options += ["--web_runtime", RUNTIME, "--chromium", CHROMIUM]
    script, values = REPOSITORY / "examples" / "screenshots.py", os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, env=values, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("report.png", "browser.png"):
        picture = tmp_path / "pictures" / name
        assert picture.stat().st_size < 400_000
        with Image.open(picture) as opened:
            assert opened.width >= 900 and len(opened.getcolors()) > 20
