"""The page of a student in Chromium: it answers as `rd_hf.predict` does, keeps the images, and says what is wrong."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_pages import NARROW, RUNTIME, WIDE, overflows, serious_violations
from conftest import blob_arrays
from PIL import Image
from served_pages import give, ready, says, served, smooth, table, varied_images
from transformers import ViTImageProcessorPil

import rd_hf
from rd_hf.data.decoding.images import read_image
from rd_hf.exports.run import export
from rd_hf.students.loading import load_student

NAMES = ["benign", "malignant", "normal"]
CLASSES = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
MASKS = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 6, 8], "strides": [2, 2]}}
OTHER_PIXELS = 1e-3  # share of a mask's pixels that may be of another class than Python's


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """A random model whose probabilities differ from image to image."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return varied_images(tmp_path_factory.mktemp("varied") / "images")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Folders of a student and of its page."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model, _, _ = load_student(CLASSES, NAMES, "single_label_classification", 64)
    sharpened(model).save_pretrained(folder / "student")
    ViTImageProcessorPil(size={"height": 64, "width": 56}, image_mean=[0.4] * 3).save_pretrained(folder / "student")
    export(str(folder / "student"), str(folder / "page"), "web", web_runtime=str(RUNTIME))
    return folder / "student", folder / "page"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    torch.manual_seed(3)
    model, processor, _ = load_student(MASKS, ["background", "lesion", "cyst"], "segmentation", 64)
    for part in (sharpened(model), processor):
        part.save_pretrained(folder / "student")
    export(str(folder / "student"), str(folder / "page"), "web", web_runtime=str(RUNTIME))
    return folder / "student", folder / "page"


def test_twenty_images_have_the_probabilities_of_python(classifier, images, open_page):
    student, folder = classifier
    expected = rd_hf.predict(str(student), images)
    with served(folder) as address:
        page = ready(open_page(address))
        give(page, images)
        rows = table(page)
    assert {row["image"]: row["error"] for row in rows if row["error"]} == {}
    assert len(rows) == 20 and [row["image"] for row in rows] == [path.name for path in images]
    differences = [
        max(abs(float(row[name]) - one["probabilities"][name]) for name in NAMES)
        for row, one in zip(rows, expected, strict=True)
    ]
    print({path.name: f"{value:.1e}" for path, value in zip(images, differences, strict=True)})
    assert max(differences) < 1e-3
    assert [row["answer"] for row in rows] == [one["label"] for one in expected]
    spread = np.array([[float(row[name]) for name in NAMES] for row in rows])
    assert spread.std(axis=0).max() > 0.02


def test_masks_are_those_of_python(segmenter, images, open_page):
    student, folder = segmenter
    expected = rd_hf.predict(str(student), images)
    with served(folder) as address:
        page = ready(open_page(address))
        give(page, images)
        rows = table(page)
        assert page.locator(".result canvas.outline").count() == len(images)
    for row, one in zip(rows, expected, strict=True):
        total = sum(one["pixels"].values())
        other = sum(abs(int(row[f"pixels of {name}"]) - count) for name, count in one["pixels"].items()) / 2
        assert not row["error"] and other <= OTHER_PIXELS * total, (row, one["pixels"])
    assert sum(0.02 < one["pixels"]["lesion"] / one["mask"].size < 0.98 for one in expected) > 5


def test_jpeg_files_are_decoded_as_by_pillow(classifier, tmp_path, open_page):
    """In Chromium, whose decoder is Pillow's: to the byte, also with halved colours."""
    names = []
    for number, options in enumerate(({"subsampling": 2}, {"subsampling": 1}, {"quality": 30}, {"progressive": True})):
        names.append(tmp_path / f"{number}.jpg")
        Image.fromarray(smooth(101, 77, number)).save(names[-1], **options)
    with served(classifier[1]) as address:
        page = ready(open_page(address))
        for name in names:
            bytes_given = base64.b64encode(name.read_bytes()).decode()
            made = page.evaluate(
                """async (text) => {
                    const { readImage } = await import("./page/reading.js");
                    const image = await readImage(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), {});
                    return [image.height, image.width, [...image.data]];
                }""",
                bytes_given,
            )
            seen = np.array(made[2], dtype=int).reshape(made[0], made[1], 3)
            assert np.abs(seen - np.asarray(read_image(name).rgb)).max() == 0


def test_no_script_of_the_page_reaches_another_server(classifier, open_page):
    with served(classifier[1]) as address, served(classifier[0]) as other:
        page = ready(open_page(address))
        asked = "(url) => fetch(url, {method: 'POST', mode: 'no-cors', body: 'x'}).then(() => 'sent', () => 'refused')"
        assert page.evaluate(asked, other) == "refused" and page.evaluate(asked, f"{address}student.json") == "sent"
        loaded = (
            "(url) => new Promise((done) => Object.assign(new Image(), {onload: () => done('sent'), "
            "onerror: () => done('refused'), src: url}))"
        )
        assert page.evaluate(loaded, f"{other}config.json") == "refused"
        beacon = (
            "(url) => new Promise((done) => { addEventListener('securitypolicyviolation', (one) => "
            "done(one.effectiveDirective)); navigator.sendBeacon(url, 'x'); })"
        )
        assert page.evaluate(beacon, other) == "connect-src"


def test_a_ready_page_needs_no_network(classifier, images, open_page):
    with served(classifier[1]) as address:
        page = ready(open_page(address))
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.context.set_offline(True)
        give(page, images[:3])
    assert len(table(page)) == 3 and not [url for url in asked if not url.startswith("blob:")]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_nothing_serious_is_wrong_for_those_who_need_help(
    classifier, segmenter, images, tmp_path, open_page, width, color_scheme
):
    bad = tmp_path / "notes_without_a_single_space_in_their_very_long_name_that_must_be_broken.txt"
    bad.write_text("no image")
    for folder in (with_choices(classifier[1], tmp_path / "classifier"), segmenter[1]):
        with served(folder) as address:
            page = ready(open_page(address, width, color_scheme, bypass_csp=True))  # for axe-core
            assert serious_violations(page) == [] and not overflows(page)
            give(page, [*images[:2], bad])
            assert serious_violations(page) == [] and not overflows(page)


def with_choices(folder, target, threshold=0.0):
    """A copy of a page whose student has an operating point and a temperature, also as an ONNX model."""
    shutil.copytree(folder, target)
    for name in ("student.json", "config.json"):
        values = json.loads((target / name).read_text())
        values["operating_point"] = {"rule": "sensitivity=0.95", "thresholds": {"malignant": threshold}}
        values["calibration_temperature"] = 2.5
        (target / name).write_text(json.dumps(values))
    return target


def test_the_operating_point_decides_as_in_python(classifier, images, tmp_path, open_page):
    before = rd_hf.predict(str(classifier[0]), images)
    threshold = float(np.median([one["probabilities"]["malignant"] for one in before]))
    folder = with_choices(classifier[1], tmp_path / "page", threshold + 1e-4)
    expected = [one["label"] for one in rd_hf.predict(str(folder), images)]
    with served(folder) as address:
        page = ready(open_page(address))
        give(page, images)
        assert [row["answer"] for row in table(page)] == expected
        assert page.locator(".mark").count() == len(images)
    assert "malignant" in expected and expected != [one["label"] for one in before]


def test_calibration_is_shown_on_demand(classifier, images, tmp_path, open_page):
    with served(with_choices(classifier[1], tmp_path / "page")) as address:
        page = ready(open_page(address))
        give(page, images[:1])
        (row,) = table(page)
        assert "malignant from 0\u00a0%; a line marks it" in page.inner_text("#rule")
        page.focus("#calibrated")
        page.keyboard.press("Space")
        shown = [float(text.split("\u00a0")[0]) / 100 for text in page.locator(".bar .value").all_inner_texts()]
        logits = np.log([float(row[name]) for name in NAMES]) / 2.5
        calibrated = np.exp(logits) / np.exp(logits).sum()
        assert np.abs(np.array(shown) - calibrated).max() < 1e-3 and page.locator(".mark").count() == 0
        assert np.abs(np.array([float(row[f"calibrated {name}"]) for name in NAMES]) - calibrated).max() < 1e-4


def test_the_keyboard_alone_reaches_everything(segmenter, images, open_page):
    with served(segmenter[1]) as address:
        page = ready(open_page(address, permissions=["clipboard-read", "clipboard-write"]))
        page.keyboard.press("Tab")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(images[:2])
        says(page, "2 files done")
        assert page.evaluate("document.activeElement.id") == "files"
        reached = []
        for _ in range(5):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert reached == ["opacity", "clear", "copy", "download", "scroll"]
        page.focus("#opacity")
        page.keyboard.press("End")
        assert page.evaluate("getComputedStyle(document.querySelector('.tint')).opacity") == "1"
        page.focus("#copy")
        page.keyboard.press("Enter")
        says(page, "The table is copied")
        copied = page.evaluate("navigator.clipboard.readText()").splitlines()
        assert copied[0].split("\t")[:2] == ["image", "answer"] and len(copied) == 3
        page.focus("#clear")
        page.keyboard.press("Enter")
        says(page, "Everything is removed")
        assert page.locator(".result").count() == 0 and page.evaluate("document.activeElement.id") == "files"


def test_files_that_cannot_be_read_say_why_and_the_others_are_answered(classifier, images, tmp_path, open_page):
    photo = next(path for path in images if path.name == "photo.jpg").read_bytes()
    bad = {
        "text.txt": (b"no image", "it is text, not an image"),
        "cut.jpg": (photo[: len(photo) // 2], "cut off"),
        "cut.png": ((images[0].parent / "large.png").read_bytes()[:900], "cut off"),
        "head.jpg": (photo[:200] + b"\xff\xd9", "cut off"),
        "empty.png": (b"", "it is empty"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    with served(classifier[1]) as address:
        page = ready(open_page(address, NARROW))
        give(page, [*(tmp_path / name for name in bad), images[0]])
        rows = table(page)
        assert "5 have no answer" in page.inner_text("#status")
    for row, (name, (_, reason)) in zip(rows, bad.items(), strict=False):
        assert row["image"] == name and reason in row["error"] and not row["answer"]
    assert rows[-1]["answer"] in NAMES and not rows[-1]["error"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", None, "model.onnx is missing"),
        ("model.onnx", b"no model", "model.onnx is damaged"),
        ("student.json", b"{", "student.json is damaged"),
        ("runtime/ort.wasm.bundle.min.js", None, "onnxruntime-web .* cannot be loaded"),
        ("runtime/ort-wasm-simd-threaded.wasm", None, "onnxruntime-web .* is missing"),
    ],
)
def test_a_page_without_one_of_its_parts_says_which(classifier, tmp_path, open_page, name, content, said):
    shutil.copytree(classifier[1], tmp_path / "page")
    if content is None:
        (tmp_path / "page" / name).unlink()
    else:
        (tmp_path / "page" / name).write_bytes(content)
    with served(tmp_path / "page") as address:
        page = says(open_page(address), said)
        assert page.is_disabled("#files") and "failed" in page.get_attribute("#status", "class")


def test_dicom_files_are_answered_as_by_python(classifier, open_page):
    pydicom_data = pytest.importorskip("pydicom.data", reason="the extra `dicom` is not installed")
    files = [Path(pydicom_data.get_testdata_file(name)) for name in ("CT_small.dcm", "MR_small_bigendian.dcm")]
    expected = rd_hf.predict(str(classifier[0]), files)
    with served(classifier[1]) as address:
        page = ready(open_page(address))
        give(page, files)
        rows = table(page)
    for row, one in zip(rows, expected, strict=True):
        assert max(abs(float(row[name]) - one["probabilities"][name]) for name in NAMES) < 1e-3


@pytest.mark.parametrize("is_right", [True, False])
def test_a_linked_runtime_must_have_its_hashes(classifier, images, tmp_path, open_page, is_right):
    """The public server is played by this machine."""
    folder = tmp_path / "page"
    export(str(classifier[0]), str(folder), "web", cdn=True)

    def answer(route):
        body = (RUNTIME / "dist" / route.request.url.rsplit("/", 1)[1]).read_bytes()
        headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
        route.fulfill(body=body if is_right else body + b"\n", headers=headers)

    with served(folder) as address:
        page = open_page("about:blank")
        page.context.route("https://cdn.jsdelivr.net/**", answer)
        page.goto(address)
        if not is_right:
            says(page, "onnxruntime-web .* cannot be")
            return
        give(ready(page), images[:1])
        assert table(page)[0]["answer"] in NAMES


def test_a_student_of_eight_bits_answers_as_in_onnxruntime(classifier, images, tmp_path, open_page):
    """Whose processors round the sums of eight bits differently: by a step or so of eight bits."""
    np.savez(tmp_path / "blobs.npz", **blob_arrays())
    options = {"quantize": "int8", "dataset": str(tmp_path / "blobs.npz"), "web_runtime": str(RUNTIME)}
    report = export(str(classifier[0]), str(tmp_path / "page"), "web", **options)
    assert report["precision"] == "int8"
    expected = rd_hf.predict(str(tmp_path / "page"), images)
    with served(tmp_path / "page") as address:
        page = ready(open_page(address))
        give(page, images)
        rows = table(page)
    differences = [
        max(abs(float(row[name]) - one["probabilities"][name]) for name in NAMES)
        for row, one in zip(rows, expected, strict=True)
    ]
    print(f"int8: {max(differences):.1e}")
    assert max(differences) < 0.15
