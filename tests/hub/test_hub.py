"""Publishing with the real huggingface_hub client, in its own process, against a Hub on a loopback address."""

import json
import re
import shutil
import threading

import pytest
import torch
from hub_server import TOKEN, Fault
from huggingface_hub import ModelInfo
from test_model_card import sample_facts
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessorPil
from without_rd_hf import BLOCKER

from rd_hf.cards.card import (
    CARD_FILE,
    EVAL_RESULTS_FILE,
    card_for,
    eval_results,
    is_edited,
    render_card,
    write_card,
)  # fmt: skip
from rd_hf.cards.forms import copy_companions
from rd_hf.exports.run import export
from rd_hf.hub.publication import PushError, publishable_files
from rd_hf.hub.push import Destination, _send
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification

LABELS = ("benign", "malignant", "normal")
LOAD = """
import rd_hf, torch, sys, json
from transformers import AutoModelForImageClassification, AutoImageProcessor
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], revision=sys.argv[2]).eval()
assert AutoImageProcessor.from_pretrained(sys.argv[1], revision=sys.argv[2]).size["height"] == 32
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
print(json.dumps(model(pixel_values=pixels).logits.tolist()))
"""


# in a process that cannot import rd_hf
LOAD_WITHOUT = """
torch.set_num_threads(1)
model = AutoModelForImageClassification.from_pretrained(sys.argv[1]TRUST).eval()
assert AutoImageProcessor.from_pretrained(sys.argv[1]).size["height"] == 32
for tensor in (*model.parameters(), *model.buffers()):  # where a weight starts in its file decides on the last bit
    tensor.data = tensor.data.clone()
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
        AutoModelForImageClassification.from_config(config), image_size=32, provenance={"method": "rd"}
    ).eval()
    student.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    for image in sample_facts()["images"]:
        (folder / image).write_bytes(b"\x89PNG" + image.encode())
    write_card(folder, render_card(sample_facts(), "sample"))
    (folder / EVAL_RESULTS_FILE).parent.mkdir()
    (folder / EVAL_RESULTS_FILE).write_text(eval_results(sample_facts()))
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


def push(client, folder, *options, repo="me/xray", **environment):
    return client("-m", "rd_hf", "push", str(folder), "--repo_id", repo, *options, **environment)


def push_as_it_is(client, folder, *options, **environment):
    return push(client, folder, "--format", "rd_hf", *options, **environment)


def message(done):
    """The last line of a push that failed: one sentence on why, one on what is there, one on how to go on."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def uploads(server):
    return [path for method, path, _ in server.requests if re.search("/lfs/|/preupload/|/commit/|/repos/create", path)]


def files_of(server, ref="main", repo="me/xray"):
    return server.repos[repo].at(ref).files


PLAIN_FILES = {
    ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    "confusion_matrix.png", "roc.png", "curves.png", ".eval_results/rd_hf.yaml",
}  # fmt: skip
CODE_FILES = {"configuration_rd.py", "modeling_rd_student.py"}


@pytest.mark.parametrize("options", [[], ["--format", "rd_hf"]])
def test_a_pushed_student_is_loaded_back_in_a_fresh_process_with_the_same_logits(
    options, server, client, folder, made, tmp_path
):
    done = push(client, folder, "--private", "--commit_message", "first", *options)
    assert done.returncode == 0, done.stderr
    assert server.endpoint in done.stdout and "not part of a model: patient_7.png, patients.json" in done.stderr
    repo = server.repos["me/xray"]
    assert repo.private and [commit.title for commit in repo.commits.values()] == ["initial commit", "first"]
    repo.private = False
    said = message(push(client, folder, "--private", *options))
    assert "me/xray exists and is public, so what is pushed there would not be private" in said
    assert len(repo.commits) == 2
    assert set(files_of(server)) == PLAIN_FILES | (CODE_FILES if options else set())
    card = files_of(server)["README.md"][0].decode()
    assert 'model_id = "me/xray"' in card and not is_edited(card) and ("trust_remote_code" in card) == bool(options)
    if options:
        assert card == card_for((folder / CARD_FILE).read_text(), "me/xray")
    config = json.loads(files_of(server)["config.json"][0])
    assert config["provenance" if options else "rd_hf_provenance"] == {"method": "rd"}
    assert config["model_type"] == ("rd_student" if options else "resnet")
    everything = b"".join(content for content, _ in files_of(server).values())
    assert TOKEN.encode() not in everything and str(tmp_path).encode() not in everything
    shutil.rmtree(tmp_path / "hf_home", ignore_errors=True)
    shutil.rmtree(folder)
    trust = ", trust_remote_code=True" if options else ""
    loaded = client("-c", BLOCKER + LOAD_WITHOUT.replace("TRUST", trust), "me/xray")
    assert loaded.returncode == 0, loaded.stderr
    assert torch.equal(torch.tensor(json.loads(loaded.stdout)), made[1])


def test_pushing_again_sends_only_what_changed_and_keeps_the_card_that_was_edited_on_the_hub(server, client, folder):
    assert push(client, folder).returncode == 0
    repo = server.repos["me/xray"]
    edited = files_of(server)["README.md"][0] + b"\nMy own words.\n"
    repo.add("main", "by hand", files_of(server) | {"README.md": (edited, False)}, repo.refs["main"])
    server.requests.clear()
    done = push(client, folder, "--commit_message", "again")
    assert done.returncode == 0 and "was edited there, so it is kept. Check that its scores" in done.stderr
    assert not [path for method, path, _ in server.requests if method == "PUT"]
    assert files_of(server)["README.md"][0] == edited
    (folder / CARD_FILE).write_text("# Mine\n")  # an edit on disk is the user's latest word
    assert push(client, folder, "--commit_message", "mine").returncode == 0
    assert files_of(server)["README.md"][0] == b"# Mine\n" and repo.at("main").title == "mine"


def test_weights_without_a_card_do_not_go_under_the_card_of_others(server, client, folder, tmp_path):
    """As of a student that was trained further and saved, which has no card."""
    assert push(client, folder).returncode == 0
    card = files_of(server)["README.md"][0]
    (folder / CARD_FILE).unlink()
    (folder / "old_weights.safetensors").write_bytes(b"of somebody else")
    said = message(push(client, folder))
    assert "has no model card (README.md), and the card in me/xray has the scores of the model that was pushed" in said
    done = push(client, folder, repo="me/other")
    assert done.returncode == 0 and "has no model card (README.md), so me/other gets none" in done.stderr
    assert not {"README.md", "old_weights.safetensors"} & set(files_of(server, repo="me/other"))
    repo = server.repos["me/xray"]
    repo.add("main", "by hand", files_of(server) | {"README.md": (card + b"Mine.\n", False)}, repo.refs["main"])
    done = push(client, folder)
    assert done.returncode == 0 and "so the card in me/xray stays as it is" in done.stderr


def test_a_card_whose_metadata_the_hub_refuses_is_not_committed(server, client, folder):
    (folder / CARD_FILE).write_text("---\nlicense: [mit, apache-2.0]\n---\n# Mine\n")
    done = push(client, folder)
    assert done.returncode == 1 and '"license" must be a string' in done.stderr and "Push again" in done.stderr
    assert set(files_of(server)) == {".gitattributes"}


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


THEIRS = {"model_type": "resnet", "id2label": dict(enumerate(LABELS))}
OWN = THEIRS | {"rd_hf_provenance": {"method": "drd"}}


@pytest.mark.parametrize(
    "repo, holds, says",
    [
        ("me/too/many", None, "Repo id must"),
        ("me/xray..", None, "me/xray"),
        ("stranger/xray", None, "me cannot publish in stranger, only in me, hospital"),
        ("journal/xray", None, "me cannot publish in journal"),
        (
            "me/bert",
            {"config.json": b'{"model_type": "bert"}'},
            "me/bert contains a bert, not made by rd_hf, of no named classes, not a resnet of benign, malignant, "
            "normal:",
        ),
        ("me/notes", {"notes.txt": b"notes"}, "me/notes contains files of another kind"),
        (
            "me/theirs",
            {"config.json": json.dumps(THEIRS).encode()},
            "contains a resnet, not made by rd_hf, of benign, mal",
        ),
        (
            "me/onnx",
            {"config.json": json.dumps(OWN | {"rd_hf_form": "onnx"}).encode()},
            "contains a resnet in ONNX of ben",
        ),
        (
            "me/code",
            {"config.json": json.dumps(THEIRS | {"model_type": "rd_student"}).encode()},
            "contains a rd_student of benign, malignant, normal, not a resnet of benign, malignant, normal: choose "
            "another repo, or push with `format` rd_hf.",
        ),
    ],
)
def test_refused_before_a_byte_goes_up(server, client, folder, repo, holds, says):
    if holds is not None:
        server.make_repo(repo, holds)
    said = message(push(client, folder, repo=repo))
    assert says in said and "Nothing was uploaded." in said and "Push again" not in said
    assert uploads(server) == []


def test_a_student_of_other_classes_does_not_replace_this_one(server, client, folder, tmp_path):
    make_student(tmp_path / "other", labels=("left", "right"))
    assert push(client, tmp_path / "other").returncode == 0
    server.requests.clear()
    assert "contains a resnet of left, right, not a resnet of benign, malignant, n" in message(push(client, folder))
    assert uploads(server) == []


def test_without_a_token_with_a_wrong_one_with_one_that_reads_and_offline(server, client, folder):
    assert "You are not logged in" in message(push(client, folder, HF_TOKEN=""))
    wrong = push(client, folder, HF_TOKEN="hf_wrong")
    assert "rejects the token" in message(wrong) and "hf_wrong" not in wrong.stderr
    server.role = "read"
    assert "The token of me is read-only" in message(push(client, folder))
    assert "HF_HUB_OFFLINE is set" in message(push(client, folder, HF_HUB_OFFLINE="1"))
    assert uploads(server) == []


def test_a_folder_that_is_no_model_is_refused(server, client, folder):
    assert "There is no folder" in message(push(client, folder / "nothing"))
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text(whole[:50])
    assert "config.json is not valid JSON" in message(push(client, folder))
    (folder / "config.json").write_text(whole)
    (folder / "model.safetensors").rename(folder / "old.safetensors")
    assert "has no weights" in message(push(client, folder))
    (folder / "bundle" / "configs").mkdir(parents=True)
    (folder / "bundle" / "configs" / "metadata.json").write_text("{}")
    assert "bundle is a MONAI bundle, which asks its user to run code" in message(push(client, folder / "bundle"))
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
    done = push_as_it_is(client, folder)
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
        (Fault("POST", "/repos/create", 403), "lacks the permission", "me/xray does not exist."),
        (Fault("POST", "/preupload/", 401), "rejects the token", "created and is empty"),
        (Fault("POST", "/preupload/", 404), "cannot find", "created and is empty"),
        (Fault("PUT", "/lfs/", 403), "lacks the permission", "created and is empty"),
        (Fault("PUT", "/lfs/", action="drop", times=99), "The connection to the Hub broke", "created and is empty"),
        (Fault("PUT", "/lfs/", action="damage"), "rejects an uploaded file", "created and is empty"),
        (Fault("POST", "/commit/", 409), "Someone else is changing the repo", "created and is empty"),
        (Fault("POST", "/commit/", 412), "Someone else has changed the repo", "created and is empty"),
        (Fault("POST", "/commit/", 504), "The Hub failed (HTTP 504)", "created and is empty"),  # may be carried out
        (Fault("POST", "/commit/", 503, times=99), "The Hub failed (HTTP 503)", "created and is empty"),
        (Fault("POST", "/commit/", action="drop"), "The connection to the Hub broke", "created and is empty"),
        (Fault("POST", "/commit/", action="lose"), "The connection to the Hub broke", "has a new commit"),
    ],
    ids=lambda value: f"{value.path.strip('/')}-{value.action}-{value.status}" if isinstance(value, Fault) else "",
)
def test_lasting_trouble_ends_in_one_line_and_the_command_of_it_works(server, client, folder, fault, says, state):
    server.faults.append(fault)
    said = message(push_as_it_is(client, folder))
    assert says in said and state in said and f"{folder} is complete on disk" in said
    if "me/xray" in server.repos:
        whole = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
        held = whole & set(files_of(server))
        assert held == (whole if "new commit" in state else set())
    server.faults.clear()
    again = re.search("Push again with `rd-hf (.*)`", said).group(1).split()
    assert client("-m", "rd_hf", *again).returncode == 0
    assert files_of(server)["model.safetensors"][0] == (folder / "model.safetensors").read_bytes()


def test_a_push_that_failed_halfway_in_the_default_format_goes_on_with_its_command(server, client, folder):
    server.faults.append(Fault("PUT", "/lfs/", action="damage"))
    said = message(push(client, folder, "--private", "--commit_message", "first"))
    assert "rejects an uploaded file" in said and set(files_of(server)) == {".gitattributes"}
    assert "--private --commit_message first`" in said
    again = re.search("Push again with `rd-hf (.*)`", said).group(1).split()
    assert client("-m", "rd_hf", *again).returncode == 0
    assert set(files_of(server)) == PLAIN_FILES


@pytest.mark.parametrize(
    "options, says",
    [
        (["--format", "onnx"], "rd-hf export --format onnx"),
        (["--format", "pickle"], "`format` is 'pickle'; it must be transformers or rd_hf."),
    ],
)
def test_a_format_that_there_is_not_is_refused_with_the_way_to_it(options, says, server, client, folder):
    assert says in message(push(client, folder, *options))
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    assert "`format` is for students only, and a resnet is pushed as it is" in message(push_as_it_is(client, folder))
    assert server.requests == []


def test_pictures_and_scores_of_an_earlier_card_go_with_it_and_nothing_else(server, client, folder):
    assert push(client, folder).returncode == 0
    repo, earlier = server.repos["me/xray"], files_of(server)
    theirs = {"examples.png": (b"patients", False), "notes.png": (b"theirs", False)}
    repo.add("main", "by hand", earlier | theirs, repo.refs["main"])
    assert push(client, folder).returncode == 0
    assert set(files_of(server)) == {*earlier, "notes.png"}
    edited = files_of(server)["README.md"][0] + b"See examples.png.\n"
    repo.add("main", "by hand", files_of(server) | theirs | {"README.md": (edited, False)}, repo.refs["main"])
    assert push(client, folder, "--commit_message", "again").returncode == 0
    assert "examples.png" in files_of(server)


def sharded(whole, folder):
    """A plain checkpoint with its weights divided, and one bias changed; :return: its logits on the images of LOAD."""
    model = AutoModelForImageClassification.from_pretrained(whole).eval()
    model.classifier[-1].bias.data += 1
    model.save_pretrained(folder, max_shard_size="2KB")
    for name in ("preprocessor_config.json", CARD_FILE):
        shutil.copy(whole / name, folder)
    with torch.no_grad():
        return model(pixel_values=torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).logits


def test_weights_in_other_files_take_the_place_of_the_earlier_ones(server, client, folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    export(str(folder), str(whole))
    expected = sharded(whole, parts)
    assert push(client, whole).returncode == 0
    repo = server.repos["me/xray"]
    repo.add("main", "by hand", files_of(server) | {"model.onnx": (b"theirs", False)}, repo.refs["main"])
    done = push(client, parts)
    assert "Removed from me/xray with the earlier weights: model.safetensors\n" in done.stderr
    held = {path.name for path in parts.iterdir()}
    assert len(held) > 5 and set(files_of(server)) == held | {".gitattributes", "model.onnx"}
    loaded = client("-c", LOAD, "me/xray", "main")
    assert torch.allclose(torch.tensor(json.loads(loaded.stdout)), expected), loaded.stderr
    done = push(client, whole)
    assert "with the earlier weights: model-00001-of-" in done.stderr
    assert set(files_of(server)) == {*publishable_files(whole), ".gitattributes", "model.onnx"}


def test_shards_beside_whole_weights_are_not_published(folder, tmp_path):
    export(str(folder), str(tmp_path / "whole"))
    sharded(tmp_path / "whole", tmp_path / "parts")
    assert "model.safetensors.index.json" in publishable_files(tmp_path / "parts")
    shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path / "parts")
    assert {name for name in publishable_files(tmp_path / "parts") if "model" in name} == {"model.safetensors"}


def test_a_picture_that_the_card_does_not_show_is_neither_pushed_nor_exported(folder, tmp_path):
    (folder / "examples.png").write_bytes(b"patients, from before the pictures were taken back")
    copied = tmp_path / "copied"
    copied.mkdir()
    copy_companions(str(folder), None, copied)
    for names in (set(publishable_files(folder)), {path.name for path in copied.iterdir()}):
        assert "roc.png" in names and "examples.png" not in names
    with (folder / CARD_FILE).open("a") as card:
        card.write("![By hand](examples.png)\n")
    assert "examples.png" in publishable_files(folder)


class RacedHub:
    """A Hub on which somebody else makes each repo, a public one, in the moment before the push does."""

    def __init__(self):
        self.asked = []

    def create_repo(self, repo_id, private, **options):
        self.asked.append(private)

    def repo_info(self, repo_id, **options):
        return ModelInfo(id=repo_id, sha="0" * 40, private=False)

    def preupload_lfs_files(self, *arguments, **options):
        raise InterruptedError("an upload")


def test_an_organisation_chooses_for_its_repos_and_a_private_push_never_goes_into_a_public_one(monkeypatch, folder):
    hub = RacedHub()
    monkeypatch.setattr("rd_hf.hub.push.HfApi", lambda: hub)
    destination = Destination("lab/xray", "model", None, None)
    with pytest.raises(PushError, match="made as a public repo"):
        _send(publishable_files(folder), destination, True, None, False, "message")
    with pytest.raises(InterruptedError):
        _send(publishable_files(folder), destination, False, None, False, "message")
    assert hub.asked == [True, None]


def test_a_commit_of_somebody_else_meanwhile_is_not_run_over(server, client, folder):
    repo = server.make_repo("me/xray")
    server.faults.append(Fault("POST", "/preupload/", action="slow"))

    def meddle():
        while not any("/preupload/" in path for _, path, _ in server.requests):
            waited.wait(0.02)
        repo.add("main", "from someone else", {"LICENSE": (b"theirs", False)}, repo.refs["main"])

    waited = threading.Event()
    thread = threading.Thread(target=meddle, daemon=True)
    thread.start()
    said = message(push_as_it_is(client, folder))
    thread.join()
    assert "Someone else has changed the repo in the meantime (HTTP 412)" in said
    assert set(files_of(server)) == {"LICENSE"}


def test_a_students_own_push_to_hub_is_the_same_push(server, client, folder, tmp_path):
    code = """
import rd_hf, sys
from transformers import AutoModelForImageClassification
student = AutoModelForImageClassification.from_pretrained(sys.argv[1])
print(student.push_to_hub("me/own", private=True, commit_message="from Python"))
student.model.classifier[-1].bias.data += 1
try:
    student.push_to_hub("me/other")
except rd_hf.hub.push.PushError as error:
    print(error)
"""
    done = client("-c", code, str(folder))
    assert done.returncode == 0, done.stderr
    address, refusal = done.stdout.strip().splitlines()
    assert address.startswith(server.endpoint) and "rd_hf.push(folder, repo_id)" in refusal
    assert set(files_of(server, repo="me/own")) == PLAIN_FILES and set(server.repos) == {"me/own"}
    assert server.repos["me/own"].private and server.repos["me/own"].at("main").title == "from Python"


def test_the_code_that_travels_pushes_as_transformers_does(server, client, folder):
    code = """
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
model.push_to_hub("me/theirs", private=True)
"""
    done = client("-c", BLOCKER + code, str(folder))
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "config.json", *CODE_FILES} <= set(files_of(server, repo="me/theirs"))
