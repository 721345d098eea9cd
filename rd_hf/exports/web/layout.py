"""What the folder of a web page consists of; imports no torch, because a push reads it too."""

from __future__ import annotations

from pathlib import Path

from ...runtime.files import EXPORT_REPORT
from .runtime import PLACED_SCRIPT, RUNTIME_FOLDER, WASM

FILES = Path(__file__).with_name("files")  # copied into every page
PAGE_FILE, STUDENT_FILE, WEIGHTS_FILE, README_FILE = "index.html", "student.json", "model.onnx", "README.md"
NEEDED = (PAGE_FILE, STUDENT_FILE, WEIGHTS_FILE, README_FILE)
LICENSE_FILE = "LICENSE"  # the student's, if it has one
# of the ONNX export that the page is built around
BESIDE = ("config.json", "preprocessor_config.json", EXPORT_REPORT)


def is_page(folder: Path) -> bool:
    """Whether a folder is an export of `format` web."""
    return (folder / PAGE_FILE).is_file() and (folder / STUDENT_FILE).is_file()


def paths_of_page() -> set[str]:
    """Every path that the folder of a page may have, as written in a repo."""
    copied = {path.relative_to(FILES).as_posix() for path in FILES.rglob("*") if path.is_file()}
    return copied | {f"{RUNTIME_FOLDER}/{name}" for name in (PLACED_SCRIPT, WASM)} | {*NEEDED, *BESIDE, LICENSE_FILE}
