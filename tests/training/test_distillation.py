"""The whole job on tiny models: what a run leaves, resuming, interrupts, and bad input."""

import csv
import json
import resource
import shutil
import signal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import blob_arrays, read_settings
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from stopped_runs import interrupted, losses
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessorPil,
    pipeline,
)

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.pixels import PixelTransform
from rd_hf.inference.model_names import ModelNameError
from rd_hf.models.backbone import weights_hash
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.runtime.checkpoint import list_checkpoints
from rd_hf.students.loading import StudentError
from rd_hf.training.report import ReportError
from rd_hf.training.run_folder import read_history
from rd_hf.training.step import NonFiniteLossError, Update
from rd_hf.training.trainer import Trainer

TINY_RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip
TINY_VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "patch_size": 8, "hidden_dropout_prob": 0.1,
}  # fmt: skip


def settings(teacher, dataset, folder, **changes):
    values = {
        "teacher": str(teacher), "student": TINY_RESNET, "dataset": str(dataset), "student_image_size": 32,
        "output_dir": str(folder), "max_steps": 6, "eval_steps": 3, "logging_steps": 1, "shots": 5,
        "use_unlabeled": True, "per_device_train_batch_size": 8, "per_device_unlabeled_batch_size": 8,
        "learning_rate": 5e-3,
    }  # fmt: skip
    return read_settings(values | changes)


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """One finished DRD run, and the data it was made from."""
    folder = tmp_path_factory.mktemp("finished")
    np.savez(folder / "blobs.npz", **blob_arrays())
    values = settings(teacher, folder / "blobs.npz", folder / "run", method="drd", max_steps=30, eval_steps=10)
    student = rd_hf.distill(**values)
    return student, folder / "run", folder / "blobs.npz"


def test_a_run_leaves_what_the_readme_says(finished):
    _, run, _ = finished
    assert {path.name for path in run.iterdir()} == {
        "student", "teacher", "checkpoints", "config.yaml", "metrics.json", "metrics.jsonl", "predictions.csv",
        "curves.png", "cka.png", "confusion_matrix.png", "roc.png", "report.html", ".lock",
    }  # fmt: skip
    scores = json.loads((run / "metrics.json").read_text())
    assert set(scores) == {"validation", "test", "teacher", "training"}
    assert {"accuracy", "auroc", "intervals", "confusion_matrix"} <= set(scores["test"])
    assert scores["training"]["labelled_images"] == 15 and scores["training"]["unlabelled_images"] == 45
    assert scores["training"]["targets"] == (
        "the hybrid logits of each stage, of the view at hand; KL with weight 1 and temperature 4"
    )
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and list(rows[0])[:3] == ["row", "label", "prediction"]
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(scores["test"]["accuracy"])


def test_the_student_learns_and_the_loss_has_all_terms(finished):
    _, run, _ = finished
    assert json.loads((run / "metrics.json").read_text())["test"]["auroc"] > 0.8
    training_rows = [row for row in read_history(run) if "loss" in row]
    assert [row["step"] for row in training_rows] == list(range(1, 31))
    expected = {"supervised", "hybrid", "kl", "cka_loss", "cka/1", "cka/2", "gradient_norm", "learning_rate"}
    assert expected <= set(training_rows[0])


def test_a_new_process_loads_the_student_after_importing_rd_hf_and_scores_the_same(finished, python):
    student, run, _ = finished
    code = (
        "import sys, rd_hf, torch; from transformers import AutoModelForImageClassification as A;"
        f"m = A.from_pretrained(r'{run / 'student'}').eval(); torch.manual_seed(0);"
        "print(m(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)).logits.tolist())"
    )
    logits = json.loads(python("-c", code).stdout)
    with torch.no_grad():
        expected = student.eval()(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)).logits
    assert torch.allclose(torch.tensor(logits), expected, atol=1e-6)


def test_evaluate_prints_the_numbers_of_metrics_json(finished, python):
    _, run, data = finished
    options = ("--model", str(run / "student"), "--dataset", str(data), "--split", "test")
    printed = json.loads(python("-m", "rd_hf", "evaluate", *options).stdout)
    assert printed == json.loads((run / "metrics.json").read_text())["test"]


def test_the_folder_of_a_run_in_place_of_its_student_is_named(finished):
    _, run, data = finished
    with pytest.raises(ModelNameError, match="folder of a run. Give its student, .*student"):
        rd_hf.evaluate(str(run), str(data))


def test_weights_have_the_permissions_of_other_files(finished):
    _, run, _ = finished
    modes = {path.stat().st_mode for path in (*run.rglob("*.safetensors"), run / "metrics.json")}
    assert len(modes) == 1


def test_the_reprogrammed_teacher_is_evaluated_with_its_local_backbone(finished, teacher):
    _, run, data = finished
    scores = rd_hf.evaluate(str(run / "teacher"), str(data), backbone=str(teacher))
    expected = json.loads((run / "metrics.json").read_text())["teacher"]["test"]
    assert scores["auroc"] == pytest.approx(expected["auroc"], abs=1e-6)
    with pytest.raises(ValueError, match="backbone"):
        rd_hf.evaluate(str(run / "teacher"), str(data))


def test_a_pipeline_takes_a_grey_file(finished, tmp_path):
    _, run, data = finished
    picture = tmp_path / "grey.png"
    Image.fromarray(np.load(data)["test_images"][1]).save(picture)
    answers = pipeline("image-classification", model=str(run / "student"))(str(picture))
    predicted = rd_hf.predict(str(run / "student"), [str(picture)])[0]
    assert answers[0]["label"] == predicted["label"]
    assert answers[0]["score"] == pytest.approx(predicted["probabilities"][predicted["label"]], abs=1e-4)


def test_predict_prints_json_lines_and_a_table(finished, tmp_path, python):
    _, run, data = finished
    for number, image in enumerate(np.load(data)["test_images"][:3]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    command = ["-m", "rd_hf", "predict", "--model", str(run / "student"), "--images"]
    pattern = str(tmp_path / "[0-9].png")
    lines = python(*command, pattern, "--json").stdout.splitlines()
    with (run / "predictions.csv").open() as file:
        expected = [row["prediction"] for row, _ in zip(csv.DictReader(file), range(3), strict=False)]
    assert [json.loads(line)["label"] for line in lines] == expected
    table = python(*command, str(tmp_path), "--on_bad_image", "skip")
    assert table.returncode == 0 and "could not be read" in table.stdout and "benign" in table.stdout
    failed = python(*command, str(tmp_path))
    assert failed.returncode == 1 and "broken.png" in failed.stderr and "Traceback" not in failed.stderr


def test_nothing_saved_knows_a_path_of_this_machine_or_holds_a_pickle(finished, teacher):
    _, run, _ = finished
    for folder in (run / "student", run / "teacher"):
        assert (folder / "README.md").is_file()
        for path in (*folder.rglob("*.json"), folder / "README.md", run / "report.html"):
            assert str(run.parent) not in path.read_text() and str(teacher) not in path.read_text()
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".csv", ".png", ".safetensors", ".md", ".py", ".html"}


def test_the_written_configuration_reproduces_the_run_to_the_bit(finished, tmp_path, python):
    _, run, _ = finished
    done = python("-m", "rd_hf", "distill", "--config", str(run / "config.yaml"), "--output_dir", "again")
    assert done.returncode == 0, done.stderr
    first, second = (load_file(f / "student" / "model.safetensors") for f in (run, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("num_views", "method"), [(None, "drd"), (2, "drd"), (None, "ce")])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(
    teacher, blobs_npz, tmp_path, monkeypatch, method, num_views
):
    values = settings(
        teacher, blobs_npz, tmp_path / "whole", method=method, student=TINY_VIT, save_steps=100, num_views=num_views
    )
    whole = rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 4, signal.SIGINT, KeyboardInterrupt, "Step 4 of 6 is saved.*`resume`")
    resumed = rd_hf.distill(**values, resume=True)
    for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert not resumed.training
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") and len(losses(tmp_path / "cut")) == 6


@pytest.mark.usefixtures("no_report")
def test_rd_is_drd_with_one_stage(teacher, blobs_npz, tmp_path):
    last = "resnet.encoder.stages.1.layers.0"
    students = [
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / method, method=method, **stages))
        for method, stages in (("rd", {}), ("drd", {"student_stages": [last]}))
    ]
    first, second = (student.state_dict() for student in students)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("no_report")
def test_the_teacher_is_bit_identical_after_a_training_and_stays_in_eval_mode(
    teacher, blobs_npz, tmp_path, monkeypatch
):
    seen = []
    step = Trainer.optimizer_step

    def watched(self, batches):
        row = step(self, batches)
        tower = self.inputs.backbone.tower
        seen.append((weights_hash(tower), tower.training))
        return row

    monkeypatch.setattr(Trainer, "optimizer_step", watched)
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", max_steps=2))
    assert len(set(seen)) == 1 and seen[0] == (weights_hash(AutoModel.from_pretrained(teacher)), False)


@pytest.mark.usefixtures("no_report")
def test_teacher_and_student_see_the_same_view_in_their_own_size_and_normalisation(
    teacher, blobs_npz, tmp_path, monkeypatch
):
    shown = []
    normalize = PixelTransform.normalize

    def watched(self, batch):
        shown.append(normalize(self, batch))
        return shown[-1]

    monkeypatch.setattr(PixelTransform, "normalize", watched)
    prepare = Update.prepare
    monkeypatch.setattr(Update, "prepare", lambda *given: shown.clear() or prepare(*given))
    monkeypatch.setattr(Trainer, "evaluate", lambda self: None)
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", max_steps=1))
    student, *of_teacher = shown
    of_teacher = torch.cat(of_teacher)  # it comes in chunks
    assert student.shape[-2:] == (32, 32) and of_teacher.shape[-2:] == (40, 40)
    of_teacher = torch.nn.functional.interpolate(of_teacher * 0.3 + 0.2, size=(32, 32), mode="bilinear", antialias=True)
    difference = (of_teacher - (student * 0.5 + 0.5)).abs().mean(dim=(1, 2, 3))
    other_rows = (of_teacher.roll(1, dims=0) - (student * 0.5 + 0.5)).abs().mean(dim=(1, 2, 3))
    assert difference.max() < 0.06 < other_rows.min()


def test_multi_label_runs_end_to_end(teacher, tmp_path):
    generator = np.random.default_rng(0)
    arrays = {"classes": np.array(["effusion", "nodule", "mass"])}
    for split, count in (("train", 60), ("val", 30), ("test", 30)):
        labels = generator.integers(0, 2, (count, 3))
        images = generator.integers(0, 60, (count, 24, 24))
        for image, label in zip(images, labels, strict=True):
            for number in np.flatnonzero(label):
                image[number * 8 : number * 8 + 6, 4:20] += 150
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images.astype(np.uint8), labels
    np.savez(tmp_path / "x.npz", **arrays)
    values = settings(teacher, tmp_path / "x.npz", tmp_path / "run", max_steps=30, class_weights="balanced", shots=10)
    student = rd_hf.distill(**values)
    assert student.config.problem_type == "multi_label_classification"
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["test"]["auroc"] > 0.6 and len(scores["test"]["confusion_matrix"]) == 3
    Image.fromarray(arrays["test_images"][0]).save(tmp_path / "one.png")
    assert set(rd_hf.predict(str(tmp_path / "run" / "student"), [str(tmp_path / "one.png")])[0]) == {
        "image", "labels", "probabilities",
    }  # fmt: skip


def test_a_pretrained_student_gets_a_new_head_and_keeps_its_processor(teacher, blobs_npz, tmp_path):
    student = rd_hf.distill(
        **settings(teacher, blobs_npz, tmp_path / "run", student=str(teacher), student_image_size=None)
    )
    assert student.config.label2id == {"benign": 0, "malignant": 1, "normal": 2}
    assert student.config.image_size == [40, 40]
    assert student.config.provenance["student_base"] == {"id": "local", "revision": None}
    saved = json.loads((tmp_path / "run" / "student" / "preprocessor_config.json").read_text())
    assert saved["image_mean"] == [0.2] * 3


def test_accumulation_workers_early_stopping_and_trackers_work_together(teacher, blobs_npz, tmp_path):
    values = settings(
        teacher, blobs_npz, tmp_path / "run", gradient_accumulation_steps=2, dataloader_num_workers=1, eval_steps=1,
        early_stopping_patience=1, learning_rate=1e-9, max_steps=20, report_to="tensorboard",
        gradient_checkpointing=True,         student=TINY_VIT, bf16=True, label_smoothing=0.1, class_weights="balanced",
    )  # fmt: skip
    rd_hf.distill(**values)
    history = read_history(tmp_path / "run")
    assert history[-1]["step"] < 20
    assert list((tmp_path / "run" / "trackers").rglob("events.out*"))


def test_an_output_folder_is_never_overwritten_unasked(teacher, blobs_npz, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    values = settings(teacher, blobs_npz, run, max_steps=1)
    with pytest.raises(ArgumentError, match="not empty.*`resume`.*`overwrite_output_dir`"):
        rd_hf.distill(**values)
    with pytest.raises(ArgumentError, match="has no earlier run"):
        rd_hf.distill(**values, overwrite_output_dir=True)
    (run / "notes.txt").unlink()
    rd_hf.distill(**values)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="`student`.*would be deleted"):
        rd_hf.distill(**(values | {"student": str(run / "student")}), overwrite_output_dir=True)
    rd_hf.distill(**values, overwrite_output_dir=True)
    assert (run / "notes.txt").read_text() == "mine"
    with pytest.raises(ArgumentError, match="learning_rate: 0.005 then, 0.1 now"):
        rd_hf.distill(**(values | {"learning_rate": 0.1}), resume=True)
    with pytest.raises(ArgumentError, match="no run to resume"):
        rd_hf.distill(**(values | {"output_dir": str(tmp_path / "other")}), resume=True)


def test_a_loss_that_is_not_finite_stops_names_the_term_and_keeps_the_checkpoints(
    teacher, blobs_npz, tmp_path, monkeypatch
):
    backward = Update.backward

    def poisoned(self, step, *values):
        terms = backward(self, step, *values)
        return terms | ({"hybrid": terms["hybrid"] * float("nan")} if step == 3 else {})

    monkeypatch.setattr(Update, "backward", poisoned)
    with pytest.raises(NonFiniteLossError, match="hybrid term.*step 4"):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", save_steps=2))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000002"]


def test_a_full_disk_is_reported_and_training_goes_on(teacher, blobs_npz, tmp_path, monkeypatch, caplog):
    save = Trainer.save

    def save_on_a_full_disk(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            save(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(Trainer, "save", save_on_a_full_disk)
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run"))
    assert "No checkpoint could be written at step 6" in caplog.text and (tmp_path / "run" / "metrics.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_disk_that_is_full_at_the_end_costs_no_trained_step(teacher, blobs_npz, tmp_path, monkeypatch):
    values = settings(teacher, blobs_npz, tmp_path / "run")
    with monkeypatch.context() as full:
        error = SafetensorError("I/O error: No space left on device (os error 28)")
        full.setattr(RDTeacherForImageClassification, "save_pretrained", Mock(side_effect=error))
        with pytest.raises(ReportError, match="No space left.*rd-hf report .* without training again"):
            rd_hf.distill(**values)
    monkeypatch.setattr(Trainer, "optimizer_step", Mock(side_effect=AssertionError("trained again")))
    rd_hf.distill(**values, resume=True)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["training"]["steps"] == values["max_steps"]
    assert (tmp_path / "run" / "teacher" / "model.safetensors").exists()


def image_folder(folder, broken=False):
    for split, count in (("train", 6), ("validation", 3), ("test", 3)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (30, 30)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    if broken:
        victim = folder / "train" / "cat" / "3.png"
        victim.write_bytes(victim.read_bytes()[:200])
    return folder


def test_a_truncated_image_stops_with_its_name_or_is_skipped_and_listed(teacher, tmp_path):
    data = image_folder(tmp_path / "data", broken=True)
    values = settings(teacher, data, tmp_path / "run", shots=None, use_unlabeled=False, max_steps=2)
    with pytest.raises(BadImageError, match=r"3\.png.*`on_bad_image` skip"):
        rd_hf.distill(**values)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    rd_hf.distill(**values, on_bad_image="skip")
    skipped = json.loads((tmp_path / "run" / "skipped_images.json").read_text())
    assert len(skipped["train"]) == 1 and "3.png" in next(iter(skipped["train"].values()))


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"shots": 2.5}, ArgumentError, "shots.*int"),
        ({"report_to": "wandb"}, ArgumentError, "wandb.*not installed"),
        (
            {"report_to": "nothing"},
            ArgumentError,
            "`report_to` is 'nothing'; each tracker must be one of .*tensorboard",
        ),
        ({"report_to": ["tensorboard", "mine"]}, ArgumentError, "`report_to` is 'mine'"),
        ({"output_dir": None, "resume": True}, ArgumentError, "`resume` needs `output_dir`"),
        ({"dataset": "no/such/data.npz"}, DataError, "data.npz"),
        ({"student": {"model_type": "resnett"}}, StudentError, "resnett.*`resnet`"),
        ({"student": TINY_RESNET | {"hidden_size": [1]}}, StudentError, "hidden_size.*`hidden_sizes`"),
        ({"teacher": "no/such-teacher"}, (OSError, ValueError), "no/such-teacher"),
        ({"per_device_train_batch_size": 2, "use_unlabeled": False}, ValueError, "per_device_train_batch_size"),
        ({"studnet": "x"}, ArgumentError, "studnet.*`student`"),
        ({"student_stages": ["resnet.encoder.stage.1"]}, ValueError, "resnet.encoder.stage"),
    ],
)
def test_bad_input_is_answered_by_a_sentence_that_names_it(teacher, blobs_npz, tmp_path, changes, error, named):
    with pytest.raises(error, match=named):
        rd_hf.distill(**read_settings(settings(teacher, blobs_npz, tmp_path / "run") | changes))
    assert not (tmp_path / "run").exists()  # so that the same command works once the input is mended


def test_one_class_a_missing_class_and_a_label_outside_the_names_are_refused(teacher, blobs_npz, tmp_path):
    arrays = dict(np.load(blobs_npz))
    one = arrays | {name: np.zeros_like(values) for name, values in arrays.items() if name.endswith("labels")}
    absent = arrays | {"train_labels": arrays["train_labels"] % 2}
    outside = arrays | {"train_labels": arrays["train_labels"] + 1}
    for name, content, named in (
        ("one", one, "only one class"),
        ("absent", absent, "no row of class.*normal"),
        ("outside", outside, "label 3 is outside the 3 names"),
    ):
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(DataError, match=named):
            rd_hf.distill(**settings(teacher, tmp_path / f"{name}.npz", tmp_path / f"run_{name}"))


@pytest.mark.usefixtures("no_report")
def test_a_batch_of_one_trains_where_there_is_no_cka(teacher, blobs_npz, tmp_path):
    values = settings(
        teacher, blobs_npz, tmp_path / "run", per_device_train_batch_size=1, use_unlabeled=False, max_steps=2
    )
    rd_hf.distill(**(values | {"cka_weight": 0.0, "student": TINY_VIT}))


def test_a_saved_student_is_an_ordinary_model(finished):
    _, run, _ = finished
    model = AutoModelForImageClassification.from_pretrained(run / "student")
    output = model(torch.zeros(2, 3, 32, 32), labels=torch.tensor([0, 1]))
    assert output.loss.ndim == 0 and output.logits.shape == (2, 3)
    with pytest.raises(ValueError, match="3, rows, columns"):
        model(torch.zeros(2, 1, 32, 32))


def test_a_teacher_without_a_processor_and_a_student_with_pickled_weights_are_refused(teacher, blobs_npz, tmp_path):
    shutil.copytree(teacher, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="no image processor.*bare"):
        rd_hf.distill(**(settings(teacher, blobs_npz, tmp_path / "run") | {"teacher": str(tmp_path / "bare")}))
    shutil.copytree(teacher, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="student.*pickled.*safetensors"):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", student=str(tmp_path / "pickled")))


@pytest.mark.usefixtures("no_report")
def test_a_head_for_other_classes_of_the_same_number_is_not_kept(teacher, blobs_npz, tmp_path):
    torch.manual_seed(1234)  # another stream than that of the run
    for labels, kept in ((["cat", "dog", "bird"], False), (["benign", "malignant", "normal"], True)):
        config = ResNetConfig(
            **{k: v for k, v in TINY_RESNET.items() if k != "model_type"}, id2label=dict(enumerate(labels))
        )
        classifier = AutoModelForImageClassification.from_config(config)
        classifier.save_pretrained(tmp_path / labels[0])
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / labels[0])
        values = settings(teacher, blobs_npz, tmp_path / f"run_{kept}", student=str(tmp_path / labels[0]), max_steps=1)
        student = rd_hf.distill(**values | {"learning_rate": 1e-30})  # which changes no weight
        weight, was = student.model.classifier[1].weight, classifier.classifier[1].weight
        assert torch.equal(weight, was) == kept
        assert torch.equal(
            student.model.resnet.embedder.embedder.convolution.weight,
            classifier.resnet.embedder.embedder.convolution.weight,
        )


def test_position_embeddings_that_do_not_fit_are_refused(teacher, blobs_npz, tmp_path):
    values = {k: v for k, v in TINY_VIT.items() if k != "model_type"}
    AutoModelForImageClassification.from_config(ViTConfig(**values, image_size=48)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "vit")
    with pytest.raises(StudentError, match="do not fit an image size of 32.*position_embeddings"):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", student=str(tmp_path / "vit")))


@pytest.mark.usefixtures("no_report")
def test_a_finished_student_is_distilled_further(finished, teacher, tmp_path):
    _, run, data = finished
    student = rd_hf.distill(**settings(teacher, data, tmp_path / "again", student=str(run / "student"), max_steps=1))
    assert student.config.model_type == "rd_student" and student.config.classifier_config.model_type == "resnet"


def test_skipping_may_not_empty_a_class(teacher, tmp_path):
    data = image_folder(tmp_path / "data")
    for path in (data / "train" / "cat").iterdir():
        path.write_bytes(b"no image")
    values = settings(teacher, data, tmp_path / "run", shots=None, use_unlabeled=False, on_bad_image="skip")
    with pytest.raises(ArgumentError, match="'cat'"):
        rd_hf.distill(**values)


@pytest.mark.parametrize("method", ["drd", "ce"])
def test_two_processes_score_the_student_that_they_save(teacher, blobs_npz, tmp_path, job, method):
    values = settings(teacher, blobs_npz, tmp_path / "run", method=method, student=json.dumps(TINY_RESNET))
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    for done in job(2, "-m", "rd_hf", "distill", *options, "--per_device_train_batch_size", "6"):
        assert done.returncode == 0, done.stderr[-3000:]
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    scores = rd_hf.evaluate(str(tmp_path / "run" / "student"), str(blobs_npz))
    assert scores["auroc"] == pytest.approx(saved["auroc"], abs=1e-9)
    assert scores["expected_calibration_error"] == pytest.approx(saved["expected_calibration_error"], abs=1e-6)


def test_bfloat16_training_scores_in_the_precision_that_is_saved(teacher, blobs_npz, tmp_path):
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", method="ce", bf16=True))
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert rd_hf.evaluate(str(tmp_path / "run" / "student"), str(blobs_npz)) == saved
