"""Runs the scripts of the web page in node, which `page_in_node.mjs` does, and gives and takes images there."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rd_hf.exports.web.layout import FILES

NODE = shutil.which("node")


def in_node(calls: list[list]) -> list[Any]:
    """The values of functions of the page: (module, name, arguments) each; what one throws is {"error": ...}."""
    script = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(
        [NODE, script, FILES / "page"], input=json.dumps(calls), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def encoded(content: bytes) -> str:
    """Bytes as an argument takes them."""
    return base64.b64encode(content).decode()


def given(image: Image.Image) -> dict[str, Any]:
    """An RGB image as an argument."""
    return {"width": image.width, "height": image.height, "data": {"bytes": encoded(image.tobytes())}}


def pixels(answer: dict[str, Any]) -> np.ndarray:
    """An image (H, W, 3) that a function gave."""
    assert "error" not in answer, answer
    data = np.frombuffer(base64.b64decode(answer["data"]["bytes"]), np.uint8)
    return data.reshape(answer["height"], answer["width"], 3)
