"""Web pages as static Spaces: one commit, the page's own files alone, and the refusals of a push."""

import json
import shutil

import pytest
from hub_server import Fault
from test_hub import files_of, make_student, message, push, uploads

from rd_hf.exports.run import export
from rd_hf.exports.web import runtime

SPACE = "spaces/me/xray"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A student, and its page with stand-ins for the files of onnxruntime-web."""
    folder = tmp_path_factory.mktemp("made")
    make_student(folder / "student")
    (folder / "runtime").mkdir()
    for name in runtime.SHA256:
        (folder / "runtime" / name).write_text(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_is_right", lambda path, name: path.read_text() == name)
        export(str(folder / "student"), str(folder / "page"), "web", web_runtime=str(folder / "runtime"))
    return folder


@pytest.fixture
def page(made, tmp_path):
    """A page with files beside it that are the user's own."""
    shutil.copytree(made / "page", tmp_path / "page")
    for name in ("patient_7.png", "page/patients.js", "patients.json"):
        (tmp_path / "page" / name).write_bytes(b"of a patient")
    return tmp_path / "page"


def test_a_page_is_published_in_one_commit_without_the_files_of_others(server, client, page):
    done = push(client, page, "--space")
    assert done.returncode == 0, done.stderr
    space = server.repos[SPACE]
    assert len(space.commits) == 2 and done.stdout.strip().endswith(f"/spaces/me/xray/commit/{space.refs['main']}")
    sent = files_of(server, repo=SPACE)
    here = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert set(sent) - {".gitattributes"} == here - {"patient_7.png", "page/patients.js", "patients.json"}
    assert all(content == (page / name).read_bytes() for name, (content, _) in sent.items() if name != ".gitattributes")
    assert "sdk: static" in sent["README.md"][0].decode() and not any(b"of a patient" in c for c, _ in sent.values())
    assert "patients.json" in done.stderr and str(page.parent).encode() not in b"".join(c for c, _ in sent.values())


def test_the_same_page_again_and_a_page_of_other_classes(server, client, page):
    assert push(client, page, "--space").returncode == 0
    (page / "student.json").write_text(json.dumps(json.loads((page / "student.json").read_text()) | {"title": "Mine"}))
    assert push(client, page, "--space").returncode == 0
    assert b"Mine" in files_of(server, repo=SPACE)["student.json"][0] and len(server.repos[SPACE].commits) == 3
    config = json.loads((page / "config.json").read_text())
    config["id2label"] = {"0": "cat", "1": "dog", "2": "owl"}
    (page / "config.json").write_text(json.dumps(config))
    before = len(uploads(server))
    assert "not a resnet in ONNX of cat, dog, owl" in message(push(client, page, "--space"))
    assert len(uploads(server)) == before


def test_refusals_before_anything_is_sent(server, client, made, page):
    assert "is a web page: push it with `space`" in message(push(client, page))
    assert "has no index.html: make one with" in message(push(client, made / "student", "--space"))
    assert "There is no folder" in message(push(client, made / "nothing", "--space"))
    assert "`format` is for students only" in message(push(client, page, "--space", "--format", "rd_hf"))
    server.make_repo("spaces/me/other", {"app.py": b"import gradio"})
    assert "contains files of another kind" in message(push(client, page, "--space", repo="me/other"))
    assert "cannot publish in journal" in message(push(client, page, "--space", repo="journal/xray"))
    server.role = "read"
    assert "is read-only" in message(push(client, page, "--space"))
    assert uploads(server) == []


def test_a_push_that_fails_names_the_command_that_continues(server, client, page):
    server.faults.append(Fault("POST", "/commit/", status=403))
    said = message(push(client, page, "--space"))
    assert "was created and is empty" in said and "--space" in said
    assert push(client, page, "--space").returncode == 0
    assert b"<!doctype html>" in files_of(server, repo=SPACE)["index.html"][0]
