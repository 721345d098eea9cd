"""Makes the pictures of the documentation: `python examples/screenshots.py`, with the extras browser, onnx, report.

The run is on the digits of `examples/demo.py`, so no patient is shown. Playwright drives the Chromium of this machine.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from demo import STUDENT, digits, pretrain_teacher
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

import rd_hf
from rd_hf.exports.run import export
from rd_hf.pages.report import REPORT_FILE

WIDTH = 1000  # pixels of a screen
GAP = 24  # pixels between two parts of a picture
COLORS = 256
WAIT = 60_000  # milliseconds for a page in the browser
IMAGES = 6  # that the page in the browser answers
CELL = "#confusion [data-cell].wrong:not([disabled])"


def train(folder: Path, max_steps: int) -> Path:
    """A run on digits, whose student finds the digit 8 at an operating point."""
    teacher = pretrain_teacher(folder, max_steps)
    rd_hf.distill(
        teacher=str(teacher), method="rd", student=STUDENT, dataset=digits(range(5, 10)), student_image_size=32,
        use_unlabeled=True, shots=5, horizontal_flip=False, max_steps=max_steps, learning_rate=1e-3,
        operating_point="sensitivity=0.95", positive_label="digit 8", output_dir=str(folder / "rd"),
        cache_dir=str(folder / "teacher_features"), overwrite_output_dir=True,
    )  # fmt: skip
    return folder / "rd"


def part(page: Page, selector: str, height: int) -> Image.Image:
    """The upper part of an element."""
    page.locator(selector).scroll_into_view_if_needed()
    picture = Image.open(io.BytesIO(page.locator(selector).screenshot()))
    return picture.crop((0, 0, picture.width, min(height, picture.height)))


def beside(left: list[Image.Image], right: list[Image.Image]) -> Image.Image:
    """Two columns of parts on one picture."""
    columns = [left, right]
    sizes = [(max(p.width for p in own), sum(p.height + GAP for p in own) - GAP) for own in columns]
    height = min(size[1] for size in sizes)
    paper = left[0].convert("RGB").getpixel((0, 0))
    whole = Image.new("RGB", (sizes[0][0] + sizes[1][0] + 3 * GAP, height + 2 * GAP), paper)
    x = GAP
    for own, (width, _) in zip(columns, sizes, strict=True):
        y = GAP
        for one in own:
            whole.paste(one.crop((0, 0, one.width, min(one.height, GAP + height - y))), (x, y))
            y += one.height + GAP
        x += width + GAP
    return whole


def picture_of_report(page: Page) -> Image.Image:
    """Scores and operating point on the left; confusion and images on the right."""
    page.add_style_tag(content="nav { display: none !important; }")  # it sticks to the screen
    left = [part(page, "header", 420), part(page, "#threshold", 1080)]
    page.locator(CELL).first.click()
    return beside(left, [part(page, "#confusion", 620), part(page, "#images", 840)])


def picture_of_browser_page(page: Page, run: Path, web_runtime: str | None) -> Image.Image:
    """The student in the browser, with its answers to some images."""
    folder, images = run.parent / "page", run.parent / "images"
    shutil.rmtree(folder, ignore_errors=True)
    export(str(run / "student"), str(folder), "web", web_runtime=web_runtime)
    images.mkdir(exist_ok=True)
    files = [images / f"digit_{number}.png" for number in range(IMAGES)]
    for file, row in zip(files, digits(range(5, 10))["test"], strict=False):
        row["image"].save(file)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        expect(page.locator("#status")).to_have_text(re.compile("^Ready"), timeout=WAIT)
        page.set_input_files("#files", files)
        expect(page.locator("#status")).to_have_text(re.compile(f"^{IMAGES} files done"), timeout=WAIT)
        picture = Image.open(io.BytesIO(page.screenshot()))
        server.shutdown()
    return picture


def main() -> None:
    """Train, open the pages and save what they show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/pictures"), help="folder of the run")
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"), help="folder of the pictures")
    parser.add_argument("--max_steps", type=int, default=300, help="optimiser steps per training")
    parser.add_argument("--web_runtime", help="the package onnxruntime-web; by default npm fetches it")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's program")
    options = parser.parse_args()
    run = train(options.output_dir, options.max_steps)
    options.pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto((run / REPORT_FILE).resolve().as_uri())
        pictures = {"report.png": picture_of_report(page)}
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        pictures["browser.png"] = picture_of_browser_page(page, run, options.web_runtime)
        browser.close()
    for name, picture in pictures.items():
        picture.convert("RGB").quantize(COLORS, kmeans=4).save(options.pictures / name, optimize=True)
        print(f"{options.pictures / name} is there.")


if __name__ == "__main__":
    main()
