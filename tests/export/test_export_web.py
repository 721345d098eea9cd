"""The folder of a web page: what is in it, where its runtime comes from, and what is refused."""

import io
import json
import re
import stat
import tarfile

import numpy as np
import pytest
import torch
from browser_pages import RUNTIME
from huggingface_hub import RepoCard
from PIL import Image
from small_volumes import saved_segmenter
from transformers import ViTImageProcessorPil

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cards.card import is_edited, write_card
from rd_hf.exports.run import export
from rd_hf.exports.web import runtime
from rd_hf.exports.web.layout import is_page, paths_of_page
from rd_hf.students.loading import load_student

NAMES = ["benign", "malignant", "normal"]
SMALL = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "student"
    torch.manual_seed(0)
    model, processor, _ = load_student(SMALL, NAMES, "single_label_classification", 32)
    model.config.provenance = {"method": "rd", "teacher": {"id": "org/teacher"}, "dataset": {"id": "local"}}
    for part in (model.eval(), processor):
        part.save_pretrained(folder)
    write_card(folder, "---\nlicense: cc-by-4.0\n---\n\n# A student\n")
    (folder / "LICENSE").write_text("Be kind.\n")
    (folder / "roc.png").write_bytes(b"a plot")
    return folder


def is_stand_in(path, name):
    return path.is_file() and path.read_text() == name


def make_package(folder):
    """A package of npm with small files in place of the runtime's."""
    (folder / "dist").mkdir(parents=True)
    for name in runtime.SHA256:
        (folder / "dist" / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """The folder of a page, and the report."""
    folder = tmp_path_factory.mktemp("exported")
    package = make_package(folder / "package")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_is_right", is_stand_in)
        return folder / "page", export(str(saved), str(folder / "page"), "web", web_runtime=str(package))


def test_the_folder_has_the_page_and_the_whole_export(exported, saved):
    page, report = exported
    there = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert there == paths_of_page() and is_page(page)
    assert report["format"] == "web" and report["runtime"] == "vendored" and report["max_abs_difference"] < 1e-4
    assert json.loads((page / "export.json").read_text()) == report
    assert report["page_bytes"] > report["bytes"] == (page / "model.onnx").stat().st_size
    student = json.loads((page / "student.json").read_text())
    assert student["labels"] == NAMES and not student["masks"] and not student["several_labels"]
    assert student["teacher"] == "org/teacher" and student["operating_point"] is None
    html = (page / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert "default-src 'none'" in policy and "connect-src 'self';" in policy and "://" not in html
    machine = str(page.parents[1]).encode()
    assert not any(machine in (page / name).read_bytes() for name in there)


def test_its_readme_is_that_of_a_static_space(exported):
    text = (exported[0] / "README.md").read_text()
    data = RepoCard(text).data.to_dict()
    assert data["license"] == "cc-by-4.0" and (exported[0] / "LICENSE").read_text() == "Be kind.\n"
    assert data["sdk"] == "static" and data["app_file"] == "index.html" and not is_edited(text)
    assert "no medical device" in text and "`org/teacher`" in text


def test_the_folder_is_an_onnx_model_as_well(exported, saved, tmp_path):
    Image.fromarray(np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)).save(tmp_path / "one.png")
    (of_page,), (of_student,) = (rd_hf.predict(str(one), tmp_path / "one.png") for one in (exported[0], saved))
    for name in NAMES:
        assert of_page["probabilities"][name] == pytest.approx(of_student["probabilities"][name], abs=1e-5)


def test_a_linked_runtime_is_named_with_its_hashes_and_the_config_with_its_operating_point(saved, tmp_path):
    point = {"rule": "youden", "thresholds": {"malignant": 0.3}}
    model = rd_hf.RDStudentForImageClassification.from_pretrained(saved)
    model.config.operating_point, model.config.calibration_temperature = point, 1.5
    model.save_pretrained(tmp_path / "marked")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "marked")
    page = tmp_path / "page"
    assert export(str(tmp_path / "marked"), str(page), "web", cdn=True)["runtime"] == "linked"
    html, student = (page / "index.html").read_text(), json.loads((page / "student.json").read_text())
    of_runtime = student["runtime"]
    assert f"script-src 'self' 'wasm-unsafe-eval' {of_runtime['script']};" in html and not (page / "runtime").exists()
    assert f"connect-src 'self' {of_runtime['wasm']};" in html and html.count('integrity="sha256-') == 1
    assert of_runtime["integrity"].startswith("sha256-") and runtime.VERSION in of_runtime["wasm"]
    assert student["operating_point"] == point and student["calibration_temperature"] == 1.5


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose files count as right, and an empty cache."""
    monkeypatch.setattr(runtime, "_is_right", is_stand_in)
    monkeypatch.setattr(runtime, "HF_HOME", str(tmp_path / "hf_home"))
    return make_package(tmp_path / "package")


@pytest.fixture
def page(tmp_path):
    (tmp_path / "page" / "runtime").mkdir(parents=True)
    return tmp_path / "page"


def test_the_runtime_comes_from_a_package_file_too(package, page, tmp_path):
    with tarfile.open(tmp_path / "one.tgz", "w:gz") as archive:
        archive.add(package, "package")
    found = runtime.vendored(page, str(tmp_path / "one.tgz"))
    assert {(page / found[name]).read_text() for name in ("script", "wasm")} == set(runtime.SHA256)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.REGTYPE])
def test_a_package_with_a_folder_or_a_flood_in_the_place_of_a_file_is_refused(page, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(runtime, "MOST_BYTES", 100)
    with tarfile.open(tmp_path / "one.tgz", "w:gz") as archive:
        member = tarfile.TarInfo(f"package/dist/{runtime.SCRIPT}")
        member.type, member.size = kind, 101 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(bytes(101)))
    with pytest.raises(ArgumentError, match="is no file, or a far larger one"):
        runtime.vendored(page, str(tmp_path / "one.tgz"))
    assert not list((page / "runtime").iterdir())


def npm(folder, script, monkeypatch):
    """An npm that runs a shell script."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_npm_fetches_the_runtime_once(package, page, tmp_path, monkeypatch):
    npm(tmp_path / "bin", f"echo $@ >> {tmp_path}/asked; tar -czf one.tgz -C {tmp_path} package", monkeypatch)
    for _ in range(2):
        runtime.vendored(page, None)
        assert (page / "runtime" / runtime.PLACED_SCRIPT).read_text() == runtime.SCRIPT
        (page / "runtime" / runtime.PLACED_SCRIPT).unlink()
    assert (tmp_path / "asked").read_text().splitlines() == ["pack --silent onnxruntime-web@" + runtime.VERSION]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'npm error network' >&2; exit 1", r"npm cannot fetch onnxruntime-web .* \(npm error network\)"),
        ("touch one.tgz", "what npm fetched is not the npm package"),
        (None, "there is no npm here"),
    ],
)
def test_without_a_runtime_the_way_out_is_named(package, page, tmp_path, monkeypatch, script, said):
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    else:
        npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(ArgumentError, match=f"^.*{said}.*`web_runtime`.*`cdn`.*$"):
        runtime.vendored(page, None)


def test_a_runtime_of_another_version_is_refused_and_nothing_is_written(saved, package, tmp_path):
    (package / "dist" / runtime.WASM).write_text("other")
    with pytest.raises(ArgumentError, match=f"has another {runtime.WASM} than that of onnxruntime-web"):
        export(str(saved), str(tmp_path / "never"), "web", web_runtime=str(package))
    (package / "dist" / runtime.WASM).unlink()
    with pytest.raises(ArgumentError, match=f"has no {runtime.WASM}: it must be the npm package"):
        export(str(saved), str(tmp_path / "never"), "web", web_runtime=str(package))
    assert not (tmp_path / "never").exists()


def test_the_hashes_are_those_of_the_package():
    """Where `make test-browser` has unpacked it."""
    if not RUNTIME.is_dir():
        pytest.skip("make test-browser has not fetched onnxruntime-web")
    assert all(runtime._is_right(RUNTIME / "dist" / name, name) for name in runtime.SHA256)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "onnx", "cdn": True}, "`web_runtime` and `cdn` are for `format` web only"),
        ({"format": "transformers", "web_runtime": "x"}, "`web_runtime` and `cdn` are for `format` web only"),
        ({"format": "web", "web_runtime": "x", "cdn": True}, "leave one out"),
        ({"format": "web", "web_runtime": "no/such/folder"}, "no/such/folder does not exist"),
        ({"format": "web", "dynamic_size": True}, "`dynamic_size` is for `format` onnx only"),
        ({"format": "web", "quantize": "int8"}, "`quantize` needs a `dataset`"),
    ],
)
def test_arguments_that_contradict_each_other(saved, tmp_path, options, said):
    with pytest.raises(ArgumentError, match=said):
        export(str(saved), str(tmp_path / "page"), **options)


def test_students_of_volumes_have_no_page(tmp_path):
    saved_segmenter(tmp_path / "student")
    with pytest.raises(ArgumentError, match="is for students of images, because a volume is too large for a page"):
        export(str(tmp_path / "student"), str(tmp_path / "page"), "web", cdn=True)
