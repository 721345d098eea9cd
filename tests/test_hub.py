"""Publishing with the real huggingface_hub client, in its own process, against a Hub on a loopback address."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, blob_images
from hub_server import TOKEN, Fault, HubServer
from huggingface_hub import ModelCard
from PIL import Image
from test_model_card import sample_facts
from transformers import AutoModel, AutoModelForImageClassification, ResNetConfig, ViTImageProcessorPil

from rd_hf.model_card import CARD_FILE, card_for, render_card, write_card
from rd_hf.modeling_rd_student import RDStudentForImageClassification

LABELS = ("benign", "malignant", "normal")
LOAD = """
import rd_hf, torch, sys, json
from transformers import AutoModelForImageClassification, AutoImageProcessor
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], revision=sys.argv[2]).eval()
assert AutoImageProcessor.from_pretrained(sys.argv[1], revision=sys.argv[2]).size["height"] == 32
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
print(json.dumps(model(pixel_values=pixels).logits.tolist()))
"""


def make_student(folder, labels=LABELS):
    """A student as a run saves it, without the training; :return: its logits on the images that LOAD makes."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(labels)), label2id={name: number for number, name in enumerate(labels)},
    )  # fmt: skip
    student = RDStudentForImageClassification.from_classifier(
        AutoModelForImageClassification.from_config(config), image_size=32
    ).eval()
    student.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    for image in sample_facts()["images"]:
        (folder / image).write_bytes(b"\x89PNG" + image.encode())
    write_card(folder, render_card(sample_facts(), "sample"))
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        return student(pixel_values=pixels).logits


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "student"
    return folder, make_student(folder)


@pytest.fixture
def folder(made, tmp_path):
    """A student's folder, with files beside it that are the user's own."""
    shutil.copytree(made[0], tmp_path / "student")
    (tmp_path / "student" / "patient_7.png").write_bytes(b"an image of a patient")
    (tmp_path / "student" / "patients.json").write_text("{}")
    return tmp_path / "student"


@pytest.fixture
def server():
    hub = HubServer()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def client(server, tmp_path):
    """Runs a command as a user of `server` with an own cache; :return: the finished process."""

    def run(*command, **environment):
        values = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        values |= {
            "HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf_home"),
            "HF_TOKEN": TOKEN, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *command],
            env=values | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def push(client, folder, *options, repo="me/xray", **environment):
    return client("-m", "rd_hf", "push", str(folder), "--repo_id", repo, *options, **environment)


def message(done):
    """The last line of a push that failed: one sentence on why, one on what is there, one on how to go on."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def uploads(server):
    return [path for method, path, _ in server.requests if re.search("/lfs/|/preupload/|/commit/|/repos/create", path)]


def files_of(server, ref="main", repo="me/xray"):
    return server.repos[repo].at(ref).files


def test_a_pushed_student_is_loaded_back_in_a_fresh_process_with_the_same_logits(
    server, client, folder, made, tmp_path
):
    done = push(client, folder, "--private", "--commit_message", "first")
    assert done.returncode == 0, done.stderr
    assert server.endpoint in done.stdout and "left out: patient_7.png, patients.json" in done.stderr
    repo = server.repos["me/xray"]
    assert repo.private and [commit.title for commit in repo.commits.values()] == ["initial commit", "first"]
    assert set(files_of(server)) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        "configuration_rd.py", "modeling_rd_student.py",
        "confusion_matrix.png", "roc.png", "curves.png",
    }  # fmt: skip
    assert files_of(server)["README.md"][0].decode() == card_for((folder / CARD_FILE).read_text(), "me/xray")
    assert 'model_id = "me/xray"' in files_of(server)["README.md"][0].decode()
    everything = b"".join(content for content, _ in files_of(server).values())
    assert TOKEN.encode() not in everything and str(tmp_path).encode() not in everything
    shutil.rmtree(tmp_path / "hf_home", ignore_errors=True)
    shutil.rmtree(folder)
    loaded = client("-c", LOAD, "me/xray", "main")
    assert loaded.returncode == 0, loaded.stderr
    assert torch.equal(torch.tensor(json.loads(loaded.stdout)), made[1])


def test_pushing_again_sends_only_what_changed_and_keeps_the_card_that_was_edited_on_the_hub(server, client, folder):
    assert push(client, folder).returncode == 0
    repo = server.repos["me/xray"]
    edited = files_of(server)["README.md"][0] + b"\nMy own words.\n"
    repo.add("main", "by hand", files_of(server) | {"README.md": (edited, False)}, repo.refs["main"])
    server.requests.clear()
    done = push(client, folder, "--commit_message", "again")
    assert done.returncode == 0 and "was edited there and is kept" in done.stderr
    assert not [path for method, path, _ in server.requests if method == "PUT"]
    assert files_of(server)["README.md"][0] == edited
    (folder / CARD_FILE).write_text("# Mine\n")  # an edit on disk is the user's latest word
    assert push(client, folder, "--commit_message", "mine").returncode == 0
    assert files_of(server)["README.md"][0] == b"# Mine\n" and repo.at("main").title == "mine"


def test_a_branch_and_a_pull_request_leave_main_alone(server, client, folder):
    server.make_repo("me/xray")
    before = server.repos["me/xray"].refs["main"]
    assert push(client, folder, "--revision", "second/try").returncode == 0
    done = push(client, folder, "--create_pr")
    assert done.returncode == 0 and "discussions/1" in done.stdout
    assert server.repos["me/xray"].refs["main"] == before
    for ref in ("second/try", "refs/pr/2"):
        assert "model.safetensors" in files_of(server, ref)
    assert client("-c", LOAD, "me/xray", "second/try").returncode == 0


@pytest.mark.parametrize(
    "repo, holds, says",
    [
        ("me/too/many", None, "Repo id must"),
        ("me/xray..", None, "me/xray"),
        ("stranger/xray", None, "me may not publish in stranger; only in me, hospital"),
        ("journal/xray", None, "me may not publish in journal"),
        (
            "me/bert",
            {"config.json": b'{"model_type": "bert"}'},
            "me/bert holds a bert of no named classes, not a rd_st",
        ),
        ("me/notes", {"notes.txt": b"notes"}, "me/notes holds files of another kind"),
    ],
)
def test_refused_before_a_byte_goes_up(server, client, folder, repo, holds, says):
    if holds is not None:
        server.make_repo(repo, holds)
    said = message(push(client, folder, repo=repo))
    assert says in said and "Nothing was sent." in said and "push again" not in said
    assert uploads(server) == []


def test_a_student_of_other_classes_does_not_replace_this_one(server, client, folder, tmp_path):
    make_student(tmp_path / "other", labels=("left", "right"))
    assert push(client, tmp_path / "other").returncode == 0
    server.requests.clear()
    assert "holds a rd_student of left, right, not a rd_student of benign, malignant, n" in message(
        push(client, folder)
    )
    assert uploads(server) == []


def test_without_a_token_with_a_wrong_one_with_one_that_reads_and_offline(server, client, folder):
    assert "You are not logged in" in message(push(client, folder, HF_TOKEN=""))
    wrong = push(client, folder, HF_TOKEN="hf_wrong")
    assert "does not accept the token" in message(wrong) and "hf_wrong" not in wrong.stderr
    server.role = "read"
    assert "The token of me may only read" in message(push(client, folder))
    assert "HF_HUB_OFFLINE is set" in message(push(client, folder, HF_HUB_OFFLINE="1"))
    assert uploads(server) == []


def test_a_folder_that_is_no_model_is_refused(server, client, folder):
    assert "There is no folder" in message(push(client, folder / "nothing"))
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in message(push(client, folder))
    assert server.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/whoami-v2", 429, headers={"Retry-After": "1"}),
        Fault("POST", "/repos/create", 503),
        Fault("POST", "/preupload/", 500),
        Fault("PUT", "/lfs/", 429, headers={"Retry-After": "1"}),
        Fault("PUT", "/lfs/", 500),
        Fault("PUT", "/lfs/", action="drop"),
        Fault("PUT", "/lfs/", action="slow"),
        Fault("POST", "/commit/", 503),
        Fault("POST", "/commit/", action="slow"),
    ],
    ids=lambda fault: f"{fault.path.strip('/')}-{fault.action}-{fault.status}",
)
def test_passing_trouble_is_waited_out(server, client, folder, fault):
    server.faults.append(fault)
    done = push(client, folder)
    assert done.returncode == 0, done.stderr
    assert fault.times == 0
    # sent with their length, so that a fault in the middle of an upload is one
    assert (folder / "model.safetensors").stat().st_size in {
        size for method, _, size in server.requests if method == "PUT"
    }
    assert [commit.title for commit in server.repos["me/xray"].commits.values()][1:] == ["Upload rd_student with rd_hf"]
    assert files_of(server)["model.safetensors"][0] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "fault, says, state",
    [
        (Fault("POST", "/repos/create", 403), "no right", "me/xray does not exist."),
        (Fault("POST", "/preupload/", 401), "does not accept the token", "made and is empty"),
        (Fault("POST", "/preupload/", 404), "does not find", "made and is empty"),
        (Fault("PUT", "/lfs/", action="damage"), "refuses an uploaded file", "made and is empty"),
        (Fault("POST", "/commit/", 409), "Somebody else is changing the repo", "made and is empty"),
        (Fault("POST", "/commit/", 412), "Somebody else has changed the repo", "made and is empty"),
        (Fault("POST", "/commit/", 500, times=99), "The Hub failed (HTTP 500)", "made and is empty"),
        (Fault("POST", "/commit/", action="drop"), "The connection to the Hub broke", "made and is empty"),
        (Fault("POST", "/commit/", action="lose"), "The connection to the Hub broke", "has a new commit"),
    ],
    ids=lambda value: f"{value.path.strip('/')}-{value.action}-{value.status}" if isinstance(value, Fault) else "",
)
def test_lasting_trouble_ends_in_one_line_and_the_command_of_it_works(server, client, folder, fault, says, state):
    server.faults.append(fault)
    said = message(push(client, folder))
    assert says in said and state in said and f"{folder} is complete on disk" in said
    if "me/xray" in server.repos:
        whole = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
        held = whole & set(files_of(server))
        assert held == (whole if "new commit" in state else set())
    server.faults.clear()
    again = re.search("push again with `rd-hf (.*)`", said).group(1).split()
    assert client("-m", "rd_hf", *again).returncode == 0
    assert files_of(server)["model.safetensors"][0] == (folder / "model.safetensors").read_bytes()


def test_a_commit_of_somebody_else_meanwhile_is_not_run_over(server, client, folder):
    repo = server.make_repo("me/xray")
    server.faults.append(Fault("POST", "/preupload/", action="slow"))

    def meddle():
        while not any("/preupload/" in path for _, path, _ in server.requests):
            waited.wait(0.02)
        repo.add("main", "of somebody else", {"LICENSE": (b"theirs", False)}, repo.refs["main"])

    waited = threading.Event()
    thread = threading.Thread(target=meddle, daemon=True)
    thread.start()
    said = message(push(client, folder))
    thread.join()
    assert "Somebody else has changed the repo meanwhile (HTTP 412)" in said
    assert set(files_of(server)) == {"LICENSE"}


def test_students_own_push_to_hub_is_that_of_transformers(server, client, folder):
    code = """
import rd_hf, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification
AutoModelForImageClassification.from_pretrained(sys.argv[1]).push_to_hub("me/own", private=True)
AutoImageProcessor.from_pretrained(sys.argv[1]).push_to_hub("me/own")
"""
    done = client("-c", code, str(folder))
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= set(files_of(server, repo="me/own"))
    assert client("-c", LOAD, "me/own", "main").returncode == 0
    # and a push of the same student may follow, with its card
    assert push(client, folder, repo="me/own").returncode == 0
    assert "roc.png" in files_of(server, repo="me/own")


def distill(client, tmp_path, *options):
    """A small run with a teacher, from a terminal; the teacher's folder and the data have telling names."""
    torch.manual_seed(1)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(tmp_path / "secret_teacher")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "secret_teacher")
    for number, (image, label) in enumerate(zip(blob_images(np.arange(45) % 3), np.arange(45) % 3, strict=True)):
        target = tmp_path / "secret_hospital" / LABELS[label]
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target / f"secret_patient_{number}.png")
    student = "{model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}"
    arguments = """--teacher secret_teacher --dataset secret_hospital --student_image_size 32 --max_steps 2 --shots 4
        --per_device_train_batch_size 8 --eval_steps 2 --output_dir secret_run --license cc-by-4.0
        --push_to_hub --hub_model_id"""
    return client("-m", "rd_hf", "distill", "--student", student, *arguments.split(), *options)


def test_distill_pushes_its_student_and_the_teacher_goes_the_same_way(server, client, tmp_path):
    done = distill(client, tmp_path, "me/xray", "--hub_private_repo")
    assert done.returncode == 0, done.stderr
    assert "Published: " in done.stderr and server.repos["me/xray"].private
    assert len(server.repos["me/xray"].commits) == 2
    assert push(client, tmp_path / "secret_run" / "teacher", repo="me/xray-teacher").returncode == 0
    student, teacher = files_of(server), files_of(server, repo="me/xray-teacher")
    teachers_code = {
        f"{name}.py" for name in ["backbone", "features", "modeling_rd_teacher", "reprogramming", "stages", "tape"]
    }
    assert set(teacher) - set(student) == {"cka.png", *teachers_code}
    assert set(student) - set(teacher) == {"roc.png"}
    for content, _ in [*student.values(), *teacher.values()]:
        assert b"secret" not in content and str(tmp_path).encode() not in content and TOKEN.encode() not in content
    card = student["README.md"][0].decode()
    assert "license: cc-by-4.0" in card and "| train (labelled) | 12 | 4 | 4 | 4 |" in card.splitlines()
    assert "The data had no validation and no test split" in card and "base_model" not in card
    scores = json.loads((tmp_path / "secret_run" / "metrics.json").read_text())
    measured = {result.metric_type: result.metric_value for result in ModelCard(card).data.eval_results}
    assert measured["accuracy"] == round(scores["test"]["accuracy"], 4)
    assert "reprogrammed" in teacher["README.md"][0].decode()
    for kind, repo in (("student", "me/xray"), ("teacher", "me/xray-teacher")):
        snippet = re.search("```python\n(.*?)```", files_of(server, repo=repo)["README.md"][0].decode(), re.DOTALL)
        code = snippet.group(1).replace('"foundation_model"', '"secret_teacher"')
        Image.fromarray(blob_images(np.array([1]))[0]).save(tmp_path / "image.png")
        done = client("-c", code)
        assert done.returncode == 0, (kind, done.stderr)
        assert kind == "teacher" or "malignant" in done.stdout


def test_distill_checks_where_it_will_push_before_it_trains(server, client, tmp_path):
    assert "me may not publish in stranger" in message(distill(client, tmp_path, "stranger/xray"))
    assert not (tmp_path / "secret_run").exists() and uploads(server) == []


def test_distill_whose_push_fails_leaves_a_whole_run_and_says_how_to_push_it(server, client, tmp_path):
    server.faults.append(Fault("POST", "/preupload/", 403))
    said = message(distill(client, tmp_path, "me/xray"))
    assert "no right" in said and "secret_run/student is complete on disk" in said
    again = re.search("push again with `rd-hf (.*)`", said).group(1).split()
    assert client("-m", "rd_hf", *again).returncode == 0
    assert "model.safetensors" in files_of(server)


def test_the_command_of_the_readme(server, client, folder, tmp_path):
    line = re.search("^rd-hf push .*$", (REPOSITORY / "README.md").read_text(), re.MULTILINE).group()
    shutil.copytree(folder, tmp_path / "runs" / "xray" / "student")
    assert client("-m", "rd_hf", *shlex.split(line)[1:]).returncode == 0
    assert server.repos["me/xray-student"].private
    assert "model.safetensors" in files_of(server, repo="me/xray-student")
