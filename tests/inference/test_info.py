"""`rd_hf.info` of a run, of its models in every form, and of a name on the Hub: from files alone."""

import json
import shutil

import numpy as np
import pytest
from conftest import blob_arrays
from drawing import leave_plots_empty
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small_volumes import saved_classifier, saved_segmenter
from test_hub import files_of, make_student, push
from transformers import AutoModelForImageClassification

import rd_hf
from rd_hf import cli
from rd_hf.arguments.values import ArgumentError
from rd_hf.exports.run import export
from rd_hf.inference.info_files import info_table
from rd_hf.inference.model_names import ModelNameError
from rd_hf.models.backbone import Backbone

STUDENT = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
NAMES = ["benign", "malignant", "normal"]


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    """A run with a teacher and, beside it, its student in other forms. Its data is then gone."""
    folder = tmp_path_factory.mktemp("info")
    np.savez(folder / "blobs.npz", **blob_arrays())
    with pytest.MonkeyPatch.context() as patch:
        leave_plots_empty(patch.setattr)
        patch.setattr("rd_hf.students.cost.MAX_RUNS", 1)
        rd_hf.distill(
            teacher=str(teacher), student=STUDENT, dataset=str(folder / "blobs.npz"), student_image_size=32,
            max_steps=2, per_device_train_batch_size=8, output_dir=str(folder / "run"), cache=False, num_views=1,
            operating_point="youden", positive_label="normal",
        )  # fmt: skip
        export(str(folder / "run/student"), str(folder / "transformers"))
        quantized = {"quantize": "int8", "dataset": str(folder / "blobs.npz")}
        export(str(folder / "run/student"), str(folder / "onnx"), "onnx", **quantized)
    (folder / "blobs.npz").unlink()
    return folder / "run"


def stored(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def test_a_run(run):
    facts, metrics = rd_hf.info(run), stored(run, "metrics.json")
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["form"], facts["model_type"], facts["task"]) == ("rd_hf", "resnet", "image-classification")
    assert (facts["labels"], facts["reads"], facts["image_size"]) == (NAMES, "images", [32, 32])
    assert facts["preprocessing"]["image_mean"] == [0.5, 0.5, 0.5]
    assert facts["cost"]["parameters"] == metrics["training"]["student_parameters"]
    assert facts["cost"]["milliseconds"] > 0 and facts["cost"]["gflop"] > 0 and facts["cost"]["per"] == "image"
    assert facts["made_from"] == stored(run / "student")["provenance"]
    for split in ("validation", "test"):
        assert facts["scores"][split]["auroc"] == metrics[split]["auroc"]
        assert facts["scores"][split]["intervals"]["f1"] == metrics[split]["intervals"]["f1"]
    assert facts["teacher_scores"]["test"]["auroc"] == metrics["teacher"]["test"]["auroc"]
    assert facts["training"]["steps"] == 2
    assert facts["files"]["student/model.safetensors"] == (run / "student" / "model.safetensors").stat().st_size
    assert facts["files"]["checkpoints/"] > 0 and facts["operating_point"] == stored(run / "student").get(
        "operating_point"
    )


def test_its_card_lists_what_was_chosen_and_not_what_follows_from_it(run):
    told = (run / "student/README.md").read_text().split("Arguments that differ from the defaults")[1]
    chosen, others = told.split("<details>")
    assert "| `max_steps` | `2` |" in chosen and "eval_steps" not in chosen and "save_steps" not in chosen
    assert "`eval_steps` 1," in others


def test_splits_that_were_made_of_train_are_told_from_those_of_the_data(run):
    facts = rd_hf.info(run)
    counts = ", ".join(f"{name} {count}" for name, count in facts["made_from"]["dataset"]["splits"].items())
    assert f"data                local data ({counts})" in info_table(facts).splitlines()
    data = {"id": "local", "splits": {"train": 20}, "made_splits": {"names": ["validation", "test"]}}
    facts["made_from"]["dataset"] = data
    line = "data                local data (train 20, of which validation and test were made)"
    assert line in info_table(facts).splitlines()


def test_its_student_in_every_form(run):
    whole = rd_hf.info(run)
    same = ("labels", "task", "image_size", "operating_point", "calibration_temperature", "made_from")
    card = {
        result.metric_type: result.metric_value
        for result in ModelCard.load(run / "student/README.md").data.eval_results
    }
    for folder, form in (
        (run / "student", "rd_hf"),
        (run.parent / "transformers", "transformers"),
        (run.parent / "onnx", "onnx"),
    ):
        facts = rd_hf.info(str(folder))
        assert {name: facts[name] for name in same} == {name: whole[name] for name in same}
        assert (facts["form"], facts["model_type"]) == (form, "resnet")
        for name in ("parameters", "gflop"):
            assert facts["cost"][name] == whole["cost"][name]
        if form != "onnx":
            scores = facts["scores"]["test"]
            assert (scores["auroc"], scores["balanced_accuracy"]) == (card["roc_auc"], card["balanced_accuracy"])
        assert facts["files"]["config.json"] == (folder / "config.json").stat().st_size
    scores = stored(folder, "export.json")["scores"]  # a model in eight bits has its own
    assert facts["scores"] == {"test": scores["int8"] | {"intervals": {}}}
    assert facts["float32_scores"] == {"test": scores["float32"] | {"intervals": {}}}


def test_a_reprogrammed_teacher_without_its_foundation_model(run, tmp_path, monkeypatch):
    shutil.copytree(run / "teacher", tmp_path / "teacher")
    monkeypatch.setattr(Backbone, "extract", None)
    facts = rd_hf.info(tmp_path / "teacher")
    assert facts["model_type"] == "rd_teacher" and facts["labels"] == NAMES and facts["image_size"] == [40, 40]
    assert facts["preprocessing"]["image_mean"] == [0.2] * 3 and facts["operating_point"] is None
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    assert facts["cost"]["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert facts["foundation_model"]["id"] == "local" and facts["made_from"]["method"] == "rd"
    assert facts["scores"]["test"]["auroc"] == round(stored(run, "metrics.json")["teacher"]["test"]["auroc"], 4)
    assert "not counted in the cost" in info_table(facts)


def test_the_command_prints_lines_or_json(run, capsys):
    assert cli.main(["info", str(run)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["task"] == "image-classification, 3 classes: benign, malignant, normal"
    assert lines["model"].endswith("(a student of rd_hf, resnet)") and " parameters, " in lines["cost"]
    assert cli.main(["info", "--model", str(run / "student"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == NAMES


@pytest.mark.parametrize(
    ("make", "task", "per", "shown"),
    [
        (saved_segmenter, "image-segmentation", "window", "spacing [1.5, 1.5, 1.5] mm, intensities [-100"),
        (saved_classifier, "image-classification", "volume", "resized as a whole, intensities percentiles"),
    ],
)
def test_students_of_volumes(make, task, per, shown, tmp_path):
    facts = rd_hf.info(make(tmp_path))
    assert (facts["task"], facts["reads"], facts["image_size"]) == (task, "volumes", [16, 16, 16])
    assert facts["cost"]["per"] == per and facts["cost"]["milliseconds"] > 0
    assert facts["made_from"] == {} and facts["scores"] == {} and facts["calibration_temperature"] is None
    assert shown in info_table(facts)


def test_a_name_on_the_hub(server, client, tmp_path):
    make_student(tmp_path / "student")
    assert push(client, tmp_path / "student", repo="me/xray").returncode == 0
    shutil.rmtree(tmp_path / "student")
    done = client("-m", "rd_hf", "info", "me/xray", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["model"], facts["form"], facts["labels"]) == ("me/xray", "transformers", NAMES)
    assert facts["made_from"] == {"method": "rd"} and facts["scores"]["test"]["auroc"] == 0.8765
    assert facts["files"]["model.safetensors"] == len(files_of(server, repo="me/xray")["model.safetensors"][0])
    assert str(tmp_path) not in done.stdout


def test_a_plain_model_of_transformers(tmp_path):
    make_student(tmp_path)
    student = AutoModelForImageClassification.from_pretrained(tmp_path)
    student.to_transformers().save_pretrained(tmp_path / "plain")
    shutil.copy(tmp_path / "preprocessor_config.json", tmp_path / "plain")
    facts = rd_hf.info(tmp_path / "plain")
    assert facts["form"] == "transformers" and facts["made_from"] == {} and facts["scores"] == {}


def test_an_onnx_model_is_told_of_where_its_network_cannot_be_built(run, monkeypatch):
    def missing(config):
        raise ImportError("MONAI")

    monkeypatch.setattr(AutoModelForImageClassification, "from_config", missing)
    facts = rd_hf.info(run.parent / "onnx")
    assert facts["cost"]["parameters"] is None and facts["cost"]["milliseconds"] > 0
    assert "parameters" not in info_table(facts)


def test_what_is_no_model_is_said(run, teacher, tmp_path):
    with pytest.raises(ArgumentError, match="is a ResNetModel, which gives neither classes nor masks"):
        rd_hf.info(teacher)
    with pytest.raises(ModelNameError, match="is not a folder"):
        rd_hf.info(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("method: ce\n")
    with pytest.raises(ArgumentError, match=r"has no student yet.*`rd-hf report"):
        rd_hf.info(tmp_path)
