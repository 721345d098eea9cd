"""What a run publishes: of student, reprogrammed teacher and ONNX export, and what a stranger loads of it by its id."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import blob_images
from hub_server import TOKEN, Fault
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from test_hub import CODE_FILES, files_of, make_student, message, push, uploads
from transformers import AutoModel, ResNetConfig, ViTImageProcessorPil
from without_rd_hf import BLOCKER

from rd_hf.cards.card import is_edited
from rd_hf.exports.run import export

LABELS = ("benign", "malignant", "normal")
TOWER = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


def make_tower(folder):
    """A foundation model and its image processor."""
    torch.manual_seed(1)
    AutoModel.from_config(TOWER).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def distill(client, tmp_path, *options, teacher="secret_teacher"):
    """A small run with a teacher, from a terminal; a local teacher's folder and the data have telling names."""
    if teacher == "secret_teacher":
        make_tower(tmp_path / teacher)
    for number, (image, label) in enumerate(zip(blob_images(np.arange(45) % 3), np.arange(45) % 3, strict=True)):
        target = tmp_path / "secret_hospital" / LABELS[label]
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target / f"secret_patient_{number}.png")
    student = "{model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}"
    arguments = """--dataset secret_hospital --student_image_size 32 --max_steps 2 --shots 4
        --per_device_train_batch_size 8 --eval_steps 2 --output_dir secret_run --license cc-by-4.0
        --push_to_hub --hub_model_id"""
    line = ["-m", "rd_hf", "distill", "--student", student, "--teacher", teacher, *arguments.split(), *options]
    return client(*line)


def forget(tmp_path):
    """Everything that this machine has of the Hub, and the run."""
    for name in ("hf_home", "secret_run"):
        shutil.rmtree(tmp_path / name)


def test_a_run_publishes_its_student_and_names_nothing_of_this_machine(server, client, tmp_path):
    done = distill(client, tmp_path, "me/xray", "--hub_private_repo")
    assert done.returncode == 0, done.stderr
    assert "Published: " in done.stderr and server.repos["me/xray"].private
    assert len(server.repos["me/xray"].commits) == 2
    assert push(client, tmp_path / "secret_run" / "teacher", repo="me/xray-teacher").returncode == 0
    student, teacher = files_of(server), files_of(server, repo="me/xray-teacher")
    teachers_code = {
        "backbone", "features", "grids", "hybrid_norms", "modeling_rd_teacher", "open_clip_tower", "packed_tower",
        "pooled", "probe", "reprogramming", "slices", "stage_ends", "stages", "tape", "teacher_network", "timm_models",
        "token_order", "tower_loading", "with_backbone",
    }  # fmt: skip
    assert set(teacher) - set(student) == {"cka.png", *(f"{name}.py" for name in teachers_code), *CODE_FILES}
    assert set(student) - set(teacher) == {"roc.png"}
    for content, _ in [*student.values(), *teacher.values()]:
        assert b"secret" not in content and str(tmp_path).encode() not in content and TOKEN.encode() not in content
    card = student["README.md"][0].decode()
    assert "license: cc-by-4.0" in card and "| train (labelled) | 12 | 4 | 4 | 4 |" in card.splitlines()
    assert "The data had no validation or test split" in card and "base_model" not in card
    scores = json.loads((tmp_path / "secret_run" / "metrics.json").read_text())
    measured = {result.metric_type: result.metric_value for result in ModelCard(card).data.eval_results}
    assert measured["accuracy"] == round(scores["test"]["accuracy"], 4)
    assert "reprogrammed" in teacher["README.md"][0].decode()
    # the test split that was made from train is found again from what the plain checkpoint's config tells
    options = ["--model", "me/xray", "--dataset", "secret_hospital"]
    scored = client("-m", "rd_hf", "evaluate", *options)
    assert json.loads(scored.stdout)["auroc"] == pytest.approx(scores["test"]["auroc"], abs=1e-6), scored.stderr
    # a teacher made from a local foundation model needs its folder
    code = snippet(server, "me/xray-teacher").replace('"foundation_model"', '"secret_teacher"')
    done = client("-c", BLOCKER + code)
    assert done.returncode == 0, done.stderr


def test_student_and_teacher_of_a_run_are_loaded_by_id_where_rd_hf_cannot_be_imported(server, client, tmp_path):
    make_tower(tmp_path / "tower")
    server.make_repo("org/tower", {path.name: path.read_bytes() for path in (tmp_path / "tower").iterdir()})
    shutil.rmtree(tmp_path / "tower")
    done = distill(client, tmp_path, "me/xray", "--hub_teacher_id", "me/xray-teacher", teacher="org/tower")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Published: ") == 2
    card = ModelCard(files_of(server, repo="me/xray-teacher")["README.md"][0].decode())
    assert (card.data.base_model, card.data.base_model_relation) == (["org/tower"], "adapter")
    assert card.data.model_name == "xray-teacher"
    logits = """
pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
for tensor in (*model.parameters(), *model.buffers()):
    tensor.data = tensor.data.clone()
torch.set_num_threads(1)
print(json.dumps(model(pixel_values=pixels).logits.tolist()))
"""
    before = """
import json, torch, rd_hf
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained("secret_run/KIND").eval()
"""
    expected = {kind: client("-c", before.replace("KIND", kind) + logits) for kind in ("student", "teacher")}
    forget(tmp_path)
    Image.fromarray(blob_images(np.array([1]))[0]).save(tmp_path / "image.png")
    code = {
        "student": snippet(server, "me/xray") + "model = classify.model\n",
        "teacher": snippet(server, "me/xray-teacher"),
    }
    assert "trust_remote_code" not in code["student"] and "import rd_hf" not in code["teacher"]
    for kind, ran in expected.items():
        done = client("-c", BLOCKER + code[kind] + logits)
        assert done.returncode == 0, (kind, done.stderr)
        assert json.loads(done.stdout.splitlines()[-1]) == json.loads(ran.stdout), kind
        assert kind == "teacher" or "malignant" in done.stdout.splitlines()[0]


def test_a_second_place_that_is_refused_stops_the_run_before_it_trains(server, client, tmp_path):
    server.make_repo("me/taken", {"config.json": b'{"model_type": "bert"}'})
    said = message(distill(client, tmp_path, "me/xray", "--hub_teacher_id", "me/taken"))
    assert "me/taken contains a bert" in said and "not a rd_teacher of benign, malignant, normal" in said
    assert not (tmp_path / "secret_run").exists() and uploads(server) == []


def test_an_onnx_export_is_pushed_scored_and_run_by_its_id(server, client, blobs_npz, tmp_path):
    make_student(tmp_path / "student")
    export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx", dataset=str(blobs_npz))
    assert push(client, tmp_path / "onnx", repo="me/onnx").returncode == 0
    assert set(files_of(server, repo="me/onnx")) == {
        ".gitattributes", "README.md", "config.json", "preprocessor_config.json", "model.onnx", "export.json",
        "confusion_matrix.png", "roc.png", "curves.png", ".eval_results/rd_hf.yaml",
    }  # fmt: skip
    assert "contains a resnet in ONNX" in message(push(client, tmp_path / "student", repo="me/onnx"))
    scores = client("-m", "rd_hf", "evaluate", "--model", str(tmp_path / "student"), "--dataset", str(blobs_npz))
    for name in ("student", "onnx", "hf_home"):
        shutil.rmtree(tmp_path / name)
    again = client("-m", "rd_hf", "evaluate", "--model", "me/onnx", "--dataset", str(blobs_npz), "--revision", "main")
    assert json.loads(again.stdout)["auroc"] == pytest.approx(json.loads(scores.stdout)["auroc"], abs=1e-6), (
        again.stderr
    )
    Image.fromarray(blob_images(np.array([1]))[0]).save(tmp_path / "image.png")
    predicted = client("-m", "rd_hf", "predict", "--model", "me/onnx", "--images", "image.png", "--json")
    probabilities = json.loads(predicted.stdout)["probabilities"]
    done = client("-c", BLOCKER + snippet(server, "me/onnx"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"')) == pytest.approx(probabilities, abs=1e-5)


def test_an_export_of_a_published_student_has_its_card_and_plots(server, client, tmp_path):
    make_student(tmp_path / "student")
    assert push(client, tmp_path / "student", "--format", "rd_hf").returncode == 0
    shutil.rmtree(tmp_path / "student")
    done = client("-m", "rd_hf", "export", "--model", "me/xray", "--output_dir", "plain")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert names >= {"model.safetensors", "README.md", "roc.png", ".eval_results"} and not names & CODE_FILES
    card = (tmp_path / "plain" / "README.md").read_text()
    assert 'model_id = "."' in card and "me/xray" not in card and not is_edited(card)


def test_the_file_of_results_is_one_that_huggingface_hub_reads(server, client, tmp_path):
    make_student(tmp_path / "student")
    assert push(client, tmp_path / "student").returncode == 0
    (entry,) = parse_eval_result_entries(yaml.safe_load(files_of(server)[".eval_results/rd_hf.yaml"][0]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/images", "default", 0.8765)
    assert entry.dataset_revision == "d" * 40 and entry.notes.startswith("AUROC, split test, 95 %")


def test_distill_checks_where_it_will_push_before_it_trains(server, client, tmp_path):
    assert "me cannot publish in stranger" in message(distill(client, tmp_path, "stranger/xray"))
    assert not (tmp_path / "secret_run").exists() and uploads(server) == []


def test_distill_whose_push_fails_leaves_a_whole_run_and_says_how_to_push_it(server, client, tmp_path):
    server.faults.append(Fault("POST", "/preupload/", 403))
    said = message(distill(client, tmp_path, "me/xray"))
    assert "lacks the permission" in said and "secret_run/student is complete on disk" in said
    again = re.search("Push again with `rd-hf (.*)`", said).group(1).split()
    assert client("-m", "rd_hf", *again).returncode == 0
    assert "model.safetensors" in files_of(server)


def snippet(server, repo):
    """The code in the card of a repo."""
    card = files_of(server, repo=repo)["README.md"][0].decode()
    return re.search("```python\n(.*?)```", card, re.DOTALL).group(1)
