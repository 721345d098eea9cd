"""Web pages of students for the tests: a server of a folder, images of every kind, and what the page answers."""

from __future__ import annotations

import csv
import functools
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from small_images import png_of_16_bits

if TYPE_CHECKING:
    from playwright.sync_api import Page

ORIENTATION = 0x0112


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Quiet."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A plain server of a folder, as `python -m http.server`; :return: its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    """Colours (H, W, 3) uint8 that change as those of a photograph do, with noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(large + generator.integers(-12, 13, large.shape), 0, 255).astype(np.uint8)


def varied_images(folder: Path) -> list[Path]:
    """Twenty files of many sizes and kinds: grey, 1 to 16 bits, alpha, palette, JPEG, EXIF."""
    generator = np.random.default_rng(0)
    deep = generator.integers(300, 4000, (70, 90, 4))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    colour, rgba = Image.fromarray(smooth(120, 90, 1)), Image.fromarray(smooth(61, 83, 2)).convert("RGBA")
    rgba.putalpha(Image.fromarray(generator.integers(0, 256, (61, 83), dtype=np.uint8)))
    images = {
        "colour.png": (colour, {}),
        "large.png": (Image.fromarray(smooth(700, 900, 3)), {}),
        "tall.png": (Image.fromarray(smooth(400, 70, 4)), {}),
        "tiny.png": (Image.fromarray(smooth(9, 7, 5)), {}),
        "fitting.png": (Image.fromarray(smooth(64, 64, 6)), {}),
        "grey.png": (Image.fromarray(smooth(100, 81, 7)).convert("L"), {}),
        "one_bit.png": (Image.fromarray(smooth(50, 61, 8)).convert("1"), {}),
        "grey_alpha.png": (Image.fromarray(smooth(50, 61, 9)).convert("LA"), {}),
        "alpha.png": (rgba, {}),
        "palette.png": (Image.fromarray(smooth(77, 88, 10)).quantize(200), {}),
        "palette_4.png": (Image.fromarray(smooth(77, 88, 11)).quantize(11), {"bits": 4}),
        "palette_clear.png": (Image.fromarray(smooth(40, 44, 12)).quantize(9), {"transparency": 3}),
        "turned.png": (colour, {"exif": exif}),
        "grey_16.png": (Image.fromarray(deep[..., 0].astype(np.uint16)), {}),
        "photo.jpg": (Image.fromarray(smooth(210, 333, 13)), {"quality": 90}),
        "turned.jpg": (Image.fromarray(smooth(210, 133, 14)), {"quality": 75, "exif": exif}),
        "grey.jpg": (Image.fromarray(smooth(128, 100, 15)).convert("L"), {}),
        "progressive.jpg": (Image.fromarray(smooth(128, 100, 16)), {"progressive": True, "subsampling": 0}),
    }
    folder.mkdir(parents=True)
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    (folder / "colour_16.png").write_bytes(png_of_16_bits(deep[..., :3]))
    (folder / "alpha_16.png").write_bytes(png_of_16_bits(deep[..., [0, 3]]))
    return sorted(folder.iterdir())


def says(page: Page, beginning: str, timeout: float = 60_000) -> Page:
    """Wait until the line under the files begins so."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text(re.compile(f"^{beginning}"), timeout=timeout)
    return page


def ready(page: Page) -> Page:
    """Wait until the page has its student."""
    return says(page, "Ready")


def give(page: Page, files: list[Path]) -> None:
    """Choose files, and wait until each is answered."""
    before = page.locator("#results > li").count()
    page.set_input_files("#files", files)
    count = before + len(files)
    says(page, "1 file done" if count == 1 else f"{count} files done")


def table(page: Page) -> list[dict[str, str]]:
    """The rows of the file that the page offers for download."""
    with page.expect_download() as download:
        page.click("#download")
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"), newline="")))
