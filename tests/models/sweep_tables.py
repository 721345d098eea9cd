"""Writes docs/reference/families.md from the results of `sweep_teachers.py` and `sweep_students.py`.

    python tests/models/sweep_tables.py [--teachers TEACHERS.jsonl] [--students STUDENTS.jsonl]

A section whose results are not given stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

from rd_hf.students.kinds import NO_STUDENTS

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
        ("inkling_mm_model", "kosmos-2.5", "minicpm_ocr", "minicpm_ocr_vision", "minicpmv4_6", "paddleocr_vl"),
        "It reads packed patches.",
    ),
    **dict.fromkeys(("minicpmv4_7", "minicpmv4_7_vision", "molmo2"), "It reads packed patches."),
    "blip_2_qformer": "It reads the features of another model.",
    "glm_image_vqmodel": "It has no forward pass.",
    "sam3_lite_text_text_model": "It reads text.",
}
REASONS = {"perceiver": "Its plain class has no layer that reads images, and its latents have no place in an image."}
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


def share(part: Sized, whole: Sized) -> str:
    """A part in percent."""
    return f"{100 * len(part) / len(whole):.0f} %"


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
    if row["type"] in REASONS:
        return REASONS[row["type"]]
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
        return "No small one was built: its default settings build none, or only one that does not run."
    found = ALONE.search(said)
    return f"{found[1] if found else said.split(': ', 1)[-1].split('. ')[0]}".rstrip(".") + "."


def is_left_out(row: dict[str, Any]) -> bool:
    """Whether a family reads something else than whole images."""
    said = row.get("fails", "")
    return "stages" not in row and bool(row["type"] in NO_IMAGE_MODELS or MISSING.search(said) or BESIDE.search(said))


def is_built(row: dict[str, Any]) -> bool:
    """Whether a small model of a family was built in time."""
    said = row.get("fails", "")
    return "stages" in row or not ("unbuilt" in row or "TimeoutError" in said or OF_SHAPES.search(said))


def teachers(rows: list[dict[str, Any]]) -> str:
    """The section on teachers."""
    works = [row for row in rows if "stages" in row]
    fails = [row for row in rows if "stages" not in row]
    others = [row for row in rows if is_left_out(row)]
    built = [row for row in rows if not is_left_out(row) and is_built(row)]
    unbuilt = len(rows) - len(others) - len(built)
    return "\n\n".join([
        "## Teachers",
        "A family works if rd_hf finds stages in it and reads their features. "
        f"{len(works)} of the {len(built)} families that read whole images and of which we built a small model work "
        f"({share(works, built)}). A model that was built and does not work counts as failing. We built no small model "
        f"of {unbuilt} more, for the reasons in the second table. Counted as failing too, they would make it "
        f"{len(works)} of {len(built) + unbuilt} ({share(works, range(len(built) + unbuilt))}). "
        f"{len(others)} families are left out of both numbers, because they read videos, pairs of images, text, packed "
        "patches for which rd_hf has no adapter, or something beside the image. The second table lists them too. Model "
        "types that are in neither table have no plain class that states images as its input. The packages timm and "
        "torchvision were installed.",
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
    refused = [row for row in rows if row["type"] in NO_STUDENTS]
    tried = [row for row in rows if row not in refused and row["type"] != "timm_wrapper"]
    exported = [row for row in works if "onnx" in row or row.get("fails", "").startswith("onnx")]
    in_onnx = [row for row in exported if "onnx" in row]
    return "\n\n".join([
        "## Students",
        f"transformers lists {len(rows)} model types as image classifiers. {len(refused)} of these are left out of the "
        "count, because rd_hf refuses them: the second table says what each is in place of a classifier of whole "
        "images with stages. timm_wrapper is left out too, because it works with the extra `timm` only. "
        f"{len(works)} of the other {len(tried)} work ({share(works, tried)}): two steps of DRD, saving, transformers' "
        "pipeline, and the plain export, whose logits differ as the table says. A type whose package was not installed "
        f"counts as failing. The export to ONNX works for {len(in_onnx)} of the {len(exported)} where it was tried.",
        table("Model type | Plain export | ONNX", (
            [f"`{row['type']}`", scientific(row["transformers"]), onnx_in_words(row)]
            for row in works
        )),
        "### Other image classifiers",
        table("Model type | Why", (
            [f"`{row['type']}`", refusal_in_words(row)] for row in rows if row not in works
        )),
    ])  # fmt: skip


def refusal_in_words(row: dict[str, Any]) -> str:
    """Why a family is no student."""
    said = row.get("refused") or row.get("fails") or OF_TIMM
    found = PACKAGE.search(said)
    return f"It needs the package `{found[1]}`, which was not installed." if found else said


def scientific(difference: float) -> str:
    """A difference by its first digit."""
    return f"{difference:.0e}" if difference else "0"


def onnx_in_words(row: dict[str, Any]) -> str:
    """The difference of an ONNX export, or why there is none."""
    return scientific(row["onnx"]) if "onnx" in row else row.get("fails", "").removeprefix("onnx: OnnxError: ")


def main() -> None:
    """Write the page."""
    import transformers

    parser = argparse.ArgumentParser()
    parser.add_argument("--teachers")
    parser.add_argument("--students")
    given = parser.parse_args()
    _, of_teachers, of_students = re.split(r"^(?=## )", PAGE.read_text(), flags=re.MULTILINE)
    parts = [HEAD.format(version=".".join(transformers.__version__.split(".")[:2]))]
    parts.append(of_teachers if given.teachers is None else teachers(rows_of(given.teachers)))
    parts.append(of_students if given.students is None else students(rows_of(given.students)))
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    main()
