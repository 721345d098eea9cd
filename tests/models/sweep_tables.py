"""Writes docs/reference/families.md from the results of `sweep_teachers.py` and `sweep_students.py`.

python tests/models/sweep_tables.py TEACHERS.jsonl STUDENTS.jsonl
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
PROCESSORS = {
    "own": "its own",
    "plain": "made with Pillow",
    "size": "`--teacher_image_size`",
    "none": "none: save one beside the weights",
}
VIDEOS, PAIRS = "It reads videos.", "It reads pairs of images."
TOGETHER = "It reads images and text together, and has no image tower of its own."
NO_IMAGE_MODELS = {
    **dict.fromkeys(
        ("timesformer", "tvp", "videomae", "videoprism", "videoprism_vision_model", "vivit", "vjepa2"), VIDEOS
    ),
    **dict.fromkeys(("xclip", "pe_video", "pe_video_encoder", "edgetam_video", "sam3_video"), VIDEOS),
    **dict.fromkeys(("efficientloftr", "lightglue", "superglue"), PAIRS),
    **dict.fromkeys(
        ("fuyu", "gemma4_unified", "layoutlmv2", "layoutlmv3", "phi4_multimodal", "t5gemma2", "udop", "vilt"), TOGETHER
    ),
    **dict.fromkeys(
        ("inkling_mm_model", "kosmos-2.5", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "paddleocr_vl"),
        "It reads packed patches.",
    ),
    "blip_2_qformer": "It reads the features of another model.",
    "glm_image_vqmodel": "It has no forward pass.",
    "sam3_lite_text_text_model": "It reads text.",
}
OF_TIMM = "It works with the extra `timm`: see [Use models of timm and open_clip](../how-to/timm.md)."
MISSING = re.compile(r"missing \d+ required positional arguments?: (.+?)( Give the image size|$)")
BESIDE = re.compile(r"reads (.+?) beside its images")
ALONE = re.compile(r"alone: (.+?) Give the image size")
OF_SHAPES = re.compile(r"mat1 and mat2 shapes|expected input\[")  # widths that a class does not take from its config
PACKAGE = re.compile(r"requires the (\S+) library")
HEAD = """# Families of transformers

This page lists which families of transformers work as teachers and as students. We built a small model of each
family of transformers {version}, with random weights. `tests/models/sweep_teachers.py` and `sweep_students.py` do
that, and `sweep_tables.py` writes this page. For foundation models by name see [teachers.md](teachers.md).
"""


def rows_of(path: str) -> list[dict[str, Any]]:
    """The results in a file, by model type."""
    return sorted((json.loads(line) for line in Path(path).read_text().splitlines()), key=lambda row: row["type"])


def table(header: str, rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)])


def stages_in_words(stages: list[list[Any]]) -> str:
    """Grids of stages: equal ones as a product, with the tokens in front."""
    grids = [" x ".join(map(str, grid)) for _, _, grid, _ in stages]
    words = f"{len(grids)} of {grids[0]}" if len(set(grids)) == 1 else ", ".join(grids)
    tokens = stages[-1][3]
    return words + (f"; {tokens} token{'s' if tokens > 1 else ''}" if tokens else "")


def reason_in_words(row: dict[str, Any]) -> str:
    """Why a family is no teacher, in one sentence."""
    if row["type"] in NO_IMAGE_MODELS:
        return NO_IMAGE_MODELS[row["type"]]
    said = row.get("fails") or row["unbuilt"]
    if "TimeoutError" in said or "MemoryError" in said:
        return "Even a small one is too large for this sweep."
    if found := MISSING.search(said) or BESIDE.search(said):
        return f"It reads more than whole images ({found[1].replace(' and ', ', ').replace(chr(39), '`')})."
    if found := PACKAGE.search(said):
        return f"It needs the package `{found[1]}`, which was not installed."
    if "no stages found" in said:
        return "Its blocks hand on no tokens in the order of a grid; name the stages with `--teacher_stages`."
    if "gathers its patches in groups" in said:
        return "It gathers its patches in groups, which lie on no grid."
    if "draws random numbers" in said:
        return "It shuffles its tokens at random: load its weights into the class of the plain encoder."
    if "unbuilt" in row or OF_SHAPES.search(said):
        return "A small one could not be built for this table."
    found = ALONE.search(said)
    return f"{found[1] if found else said.split(': ', 1)[-1].split('. ')[0]}".rstrip(".") + "."


def is_plain(row: dict[str, Any]) -> bool:
    """Whether a family was built in time and reads images alone."""
    said = row.get("fails", "")
    if "stages" in row:
        return True
    if row["type"] in NO_IMAGE_MODELS or "TimeoutError" in said or OF_SHAPES.search(said):
        return False
    return "unbuilt" not in row and not MISSING.search(said) and not BESIDE.search(said)


def teachers(rows: list[dict[str, Any]]) -> str:
    """The section on teachers."""
    works = [row for row in rows if "stages" in row]
    fails = [row for row in rows if "stages" not in row]
    plain = [row for row in rows if is_plain(row)]
    share = 100 * len(works) / len(plain)
    return "\n\n".join([
        "## Teachers",
        f"{len(works)} of {len(plain)} families that read whole images work ({share:.0f} %). The other "
        f"{len(rows) - len(plain)} read packed patches, videos or text as well, or could not be built here. "
        "Model types that are not listed were not run. The packages timm and torchvision were installed.",
        "The image processor is that of the family's default settings: *its own*, *made with Pillow* where its class "
        "exists for torchvision only, or `--teacher_image_size` where it pads, tiles or keeps the image's shape.",
        table("Model type | Image tower | Stages | Image processor", (
            [f"`{row['type']}`", row["tower"], stages_in_words(row["stages"]), PROCESSORS[row["processor"]]]
            for row in works
        )),
        "### What does not work",
        table("Model type | Why", ([f"`{row['type']}`", reason_in_words(row)] for row in fails)),
    ])  # fmt: skip


def students(rows: list[dict[str, Any]]) -> str:
    """The section on students."""
    works = [row for row in rows if "pipeline" in row]
    return "\n\n".join([
        "## Students",
        f"{len(works)} of transformers' {len(rows)} image classifiers work: two steps of DRD, saving, transformers' "
        "pipeline, and the plain export, whose logits differ as the table says. ONNX was tried where it has a value.",
        table("Model type | Plain export | ONNX", (
            [f"`{row['type']}`", f"{row['transformers']:.0e}" if row["transformers"] else "0", onnx_in_words(row)]
            for row in works
        )),
        "### Other image classifiers",
        table("Model type | Why", (
            [f"`{row['type']}`", row.get("refused") or row.get("fails") or OF_TIMM]
            for row in rows if row not in works
        )),
    ])  # fmt: skip


def onnx_in_words(row: dict[str, Any]) -> str:
    """The difference of an ONNX export, or why there is none."""
    return f"{row['onnx']:.0e}" if "onnx" in row else row.get("fails", "").removeprefix("onnx: OnnxError: ")


def main() -> None:
    """Write the page."""
    import transformers

    parts = [HEAD.format(version=".".join(transformers.__version__.split(".")[:2]))]
    PAGE.write_text("\n".join([*parts, teachers(rows_of(sys.argv[1])), "", students(rows_of(sys.argv[2])), ""]))


if __name__ == "__main__":
    main()
