"""Operating point, temperature and subgroups of a run, from the command line to the model in every form."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest
from conftest import blob_images, blob_mask_arrays
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from drawing import leave_plots_empty
from PIL import Image as Picture
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

import rd_hf
from rd_hf import cli
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.columns import DataError
from rd_hf.exports.run import export
from rd_hf.inference.decisions import operating_point_values, with_decisions
from rd_hf.models.configuration_rd import DECISIONS
from rd_hf.scoring.bootstrap import FEWEST_FOR_INTERVAL
from rd_hf.scoring.operating_point import values_at
from rd_hf.tasks.classification import MultiLabel, SingleLabel

STUDENT = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
IMAGES = 40  # per split


def make_table(folder):
    """Images of two classes with wrong labels among them, and a table with the sex and the age of their patients."""
    generator = np.random.default_rng(0)
    lines = [["file_name", "split", "finding", "sex", "age"]]
    for number, split in enumerate(("train", "validation", "test")):
        kinds = np.arange(IMAGES) % 2
        shown = np.where(generator.random(IMAGES) < 0.2, 1 - kinds, kinds)
        for index, image in enumerate(blob_images(shown, seed=number)):
            name = f"{split}_{index}.png"
            Picture.fromarray(image).save(folder / name)
            sex = "" if index % 10 == 9 else "F" if index % 3 else "M"
            lines.append([name, split, ("benign", "malignant")[kinds[index]], sex, 20 + index])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run from the command line, beside its table."""
    folder = tmp_path_factory.mktemp("decisions")
    table = make_table(folder)
    with pytest.MonkeyPatch.context() as patch:
        leave_plots_empty(patch.setattr)
        patch.setattr("rd_hf.students.cost.MAX_RUNS", 1)
        done = cli.main([
            "distill", "--dataset", str(table), "--student", json.dumps(STUDENT), "--method", "ce",
            "--student_image_size", "32", "--max_steps", "20", "--per_device_train_batch_size", "16", "--no_augment",
            "--output_dir", str(folder / "run"), "--operating_point", "sensitivity=0.9", "--subgroup_column", "sex",
        ])  # fmt: skip
    assert done == 0
    return folder / "run"


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def evaluated(model, run, capsys, *options):
    """What `rd-hf evaluate` prints for the test split."""
    capsys.readouterr()
    line = ["evaluate", "--model", str(model), "--dataset", str(run.parent / "table.csv"), *options]
    assert cli.main(line) == 0
    return json.loads(capsys.readouterr().out)


def predicted(run, split="test"):
    """The rows of predictions.csv: true classes, answers and probabilities of the second class."""
    rows = list(csv.DictReader((run / "predictions.csv").open()))
    columns = [np.array([row[name] for row in rows]) for name in ("label", "prediction", "probability_malignant")]
    return columns[0] == "malignant", columns[1] == "malignant", columns[2].astype(float)


def test_the_report_has_the_point_with_its_values_and_the_student_keeps_it(trained):
    point, config = metrics_of(trained)["operating_point"], json.loads((trained / "student/config.json").read_text())
    assert (point["rule"], point["label"]) == ("sensitivity=0.9", "malignant")
    assert config["operating_point"] == {"rule": point["rule"], "thresholds": {"malignant": point["threshold"]}}
    assert point["validation"]["sensitivity"]["value"] >= 0.9
    truth, answered, probability = predicted(trained)
    assert (answered == (probability >= point["threshold"])).all()
    assert point["test"]["sensitivity"]["value"] == pytest.approx(recall_score(truth, answered))
    assert point["test"]["specificity"]["value"] == pytest.approx(recall_score(~truth, ~answered))
    assert metrics_of(trained)["test"]["accuracy"] == accuracy_score(truth, probability > 0.5)
    names = {path.name for path in (trained / "student").iterdir()}
    assert {"config.json", "model.safetensors", "configuration_rd.py", "modeling_rd_student.py"} < names
    assert config["architectures"] == ["RDStudentForImageClassification"] and "AutoConfig" in config["auto_map"]


def test_the_card_tells_both(trained):
    card = (trained / "student" / "README.md").read_text()
    point, calibration = (metrics_of(trained)[name] for name in ("operating_point", "calibration"))
    hits, positives = point["test"]["sensitivity"]["count"]
    assert f"| malignant | {point['threshold']:.3g} | {hits / positives:.3f} (" in card
    assert f"; {hits}/{positives})" in card and "The rule `sensitivity=0.9` chose this threshold" in card
    assert f"With the temperature {calibration['temperature']:.3f}" in card
    assert f"goes from {calibration['test']['ece_before']:.3f} to {calibration['test']['ece_after']:.3f}" in card
    assert "(missing)" not in card  # scores of subgroups are not published


def test_the_pages_of_run_and_evaluation_show_them(trained, tmp_path, capsys):
    calibration = metrics_of(trained)["calibration"]
    options = ["--calibrated", "--report", str(tmp_path / "page.html"), "--subgroup_column", "sex"]
    evaluated(trained / "student", trained, capsys, *options)
    for page in (trained / "report.html", tmp_path / "page.html"):
        html = page.read_text()
        assert "<code>sensitivity=0.9</code> put it" in html and "(missing)" in html
        assert f"after temperature {calibration['temperature']:.3f}" in html
        assert f"<b>{calibration['test']['ece_after']:.3f}</b>" in html


@pytest.fixture(scope="module")
def forms(trained, tmp_path_factory):
    """The student in every form."""
    folder = tmp_path_factory.mktemp("forms")
    for format in ("transformers", "onnx"):
        export(str(trained / "student"), str(folder / format), format)
    return {"rd_hf": trained / "student", "transformers": folder / "transformers", "onnx": folder / "onnx"}


@pytest.mark.parametrize("form", ["rd_hf", "transformers", "onnx"])
def test_predict_and_evaluate_decide_so_in_every_form(form, forms, trained, capsys, caplog):
    point = metrics_of(trained)["operating_point"]
    scores = evaluated(forms[form], trained, capsys)
    assert scores["operating_point"] == {name: point[name] for name in ("rule", "label", "threshold", "test")}
    assert scores["accuracy"] == metrics_of(trained)["test"]["accuracy"] and "calibration" not in scores
    images = sorted(trained.parent.glob("test_*.png"), key=lambda path: int(path.stem.split("_")[1]))
    with caplog.at_level(logging.INFO, "rd_hf"):
        plain, calibrated = (rd_hf.predict(str(forms[form]), images, calibrated=value) for value in (False, True))
    threshold = f"malignant from {point['threshold']:.3g} (rule sensitivity=0.9)"
    assert f"The model answers by its operating point: {threshold}." in caplog.text
    _, answered, _ = predicted(trained)
    assert [row["label"] == "malignant" for row in plain] == answered.tolist()
    assert [row["label"] for row in calibrated] == [row["label"] for row in plain]
    odds = [
        np.log([row["probabilities"][name] for name in ("malignant", "benign")]) for row in (plain[0], calibrated[0])
    ]
    ratio = (odds[0][0] - odds[0][1]) / (odds[1][0] - odds[1][1])
    assert ratio == pytest.approx(metrics_of(trained)["calibration"]["temperature"], rel=1e-4)
    cli.main(["predict", "--model", str(forms[form]), "--images", str(images[0])])
    assert f"  {plain[0]['label']}:  " in capsys.readouterr().out


def test_answers_are_printed_before_an_image_that_cannot_be_read(trained, tmp_path, capsys):
    for number in range(4):
        shutil.copy(trained.parent / f"test_{number}.png", tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    command = ["predict", "--model", str(trained / "student"), "--images", str(tmp_path), "--batch_size", "2"]
    capsys.readouterr()
    assert cli.main(command) == 1
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [str(tmp_path / f"{n}.png") for n in range(3)]
    assert "3.png is not a readable image" in printed.err
    assert cli.main([*command, "--on_bad_image", "skip"]) == 0
    assert "could not be read" in capsys.readouterr().out.splitlines()[3]
    for options, message in (({"on_bad_image": "no"}, "one of error, skip"), ({"batch_size": 0}, "above 0")):
        with pytest.raises(ArgumentError, match=message):
            rd_hf.predict(str(trained / "student"), tmp_path, **options)


def test_calibrated_scores(trained, capsys):
    calibration = metrics_of(trained)["calibration"]
    scores = evaluated(trained / "student", trained, capsys, "--calibrated", "--split", "validation")
    assert scores["calibration"] == {name: calibration[name] for name in ("temperature", "validation")}
    assert scores["expected_calibration_error"] == pytest.approx(calibration["validation"]["ece_after"])
    plain = evaluated(trained / "student", trained, capsys, "--split", "validation")
    assert plain["expected_calibration_error"] == pytest.approx(calibration["validation"]["ece_before"])
    assert scores["operating_point"] == plain["operating_point"]  # thresholds are of what is not calibrated


def test_scores_of_subgroups(trained, capsys):
    groups = metrics_of(trained)["subgroups"]["sex"]
    assert list(groups) == ["F", "M", "(missing)"]
    sexes = np.array(
        [row["sex"] for row in csv.DictReader((trained.parent / "table.csv").open()) if row["split"] == "test"]
    )
    truth, answered, probability = predicted(trained)
    for name, value in (("F", "F"), ("M", "M"), ("(missing)", "")):
        own, scores = sexes == value, groups[name]
        assert scores["images"] == own.sum()
        assert scores["accuracy"] == pytest.approx(accuracy_score(truth[own], probability[own] > 0.5))
        assert (scores["intervals"]["accuracy"] is None) == (own.sum() < FEWEST_FOR_INTERVAL)
        at_point = scores["operating_point"]["malignant"]
        hits = (truth & answered & own).sum()
        assert at_point["sensitivity"]["count"] == [hits, (truth & own).sum()]
        if 0 < truth[own].sum() < own.sum():
            assert scores["auroc"] == pytest.approx(roc_auc_score(truth[own], probability[own]))
    assert groups["(missing)"]["images"] == 4 and set(groups["(missing)"]["intervals"].values()) == {None}
    assert evaluated(trained / "student", trained, capsys, "--subgroup_column", "[sex]")["subgroups"] == {"sex": groups}


def test_the_report_takes_another_point_and_keeps_it(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    scores = rd_hf.report(tmp_path / "run", operating_point="specificity = 0.8", subgroup_column=["sex", "finding"])
    assert scores["operating_point"]["rule"] == "specificity=0.8"
    assert scores["operating_point"]["validation"]["specificity"]["value"] >= 0.8
    assert list(scores["subgroups"]["finding"]) == ["benign", "malignant"]
    assert scores["test"] == metrics_of(trained)["test"]
    assert rd_hf.report(tmp_path / "run") == scores  # as config.yaml says now
    stored = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert stored["operating_point"]["rule"] == "specificity=0.8"


def test_an_output_folder_in_a_file_is_refused_before_anything_is_read(trained, tmp_path):
    file = trained.parent / "table.csv"
    arguments = {"student": STUDENT, "dataset": "no_data", "method": "ce"}
    for folder, words in ((file, "is a file"), (file / "a" / "b", f"lies in {file}, which is a file")):
        with pytest.raises(ArgumentError, match=f"`output_dir` {folder} {words}: give a folder"):
            rd_hf.distill(**arguments, output_dir=str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subgroup_column": "gender"}, r"no split has the column 'gender'.*the columns are: .*sex"),
        ({"group_column": "patient"}, r"no split has the column 'patient' that `group_column` names;"),
        ({"subgroup_column": ["sex", "age"]}, r"'age' has 40 values in split 'test', and at most 20"),
        ({"operating_point": "accuracy=0.9"}, r"`operating_point` is 'accuracy=0.9'; it must be youden"),
        ({"operating_point": "sensitivity=0"}, r"above 0 and up to 1"),
        ({"positive_label": "benign"}, r"`positive_label` needs `operating_point`"),
        ({"operating_point": "youden", "positive_label": "malign"}, r"'malign', which is no class.*`malignant`"),
        ({"operating_point": "youden", "task": "segmentation"}, r"`operating_point` is of classes"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(options, message, trained, tmp_path):
    arguments = {"student": STUDENT, "dataset": str(trained.parent / "table.csv"), "method": "ce"}
    with pytest.raises((ArgumentError, DataError), match=message):
        rd_hf.distill(**arguments, output_dir=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def in_memory(labels: dict[str, list[int]], names: list[str], **columns) -> DatasetDict:
    """Splits of blobs with these labels, and other columns that are the same in each."""
    features = {"image": Image(), "label": ClassLabel(names=names)} | {
        name: ClassLabel(names=["F", "M"]) for name in columns
    }
    return DatasetDict({
        split: Dataset.from_dict(
            {"image": list(blob_images(np.array(own))), "label": own}
            | {name: values[: len(own)] for name, values in columns.items()}, features=Features(features),
        )
        for split, own in labels.items()
    })  # fmt: skip


def test_more_than_two_classes_need_the_positive_one_and_validation_needs_it_too(tmp_path):
    labels = {"train": [0, 1, 2] * 8, "validation": [0, 1] * 8, "test": [0, 1, 2] * 4}
    common = {"student": STUDENT, "method": "ce", "output_dir": str(tmp_path / "run"), "operating_point": "youden"}
    common["metric_for_best_model"] = "accuracy"
    data = in_memory(labels, ["a", "b", "c"])
    with pytest.raises(ArgumentError, match=r"needs `positive_label`, because there are 3 classes.* a, b, c"):
        rd_hf.distill(dataset=data, **common)
    with pytest.raises(ArgumentError, match=r"validation, which has no images both with and without 'c'"):
        rd_hf.distill(dataset=data, **common, positive_label="c")


def test_without_options_a_run_has_no_point_and_no_subgroups(tmp_path, caplog):
    """And no temperature where validation is too small for one; columns of names in a data set in memory are read."""
    labels = {"train": [0, 1] * 8, "validation": [0, 1] * 4, "test": [0, 1] * 4}
    data = in_memory(labels, ["a", "b"], sex=[0, 1, 1, -1] * 8)
    common = {"student": STUDENT, "method": "ce", "max_steps": 1, "student_image_size": 32}
    rd_hf.distill(dataset=data, **common, output_dir=str(tmp_path / "run"))
    assert not {"operating_point", "subgroups", "calibration"} & set(metrics_of(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert not set(DECISIONS) & set(config)
    assert "no calibration temperature, because validation does not define it: it has 8 rows" in caplog.text
    with pytest.raises(ArgumentError, match="no calibration temperature.*leave `calibrated` out"):
        rd_hf.evaluate(str(tmp_path / "run" / "student"), data, calibrated=True)
    scores = rd_hf.evaluate(str(tmp_path / "run" / "student"), data, subgroup_column="sex")
    assert {name: own["images"] for name, own in scores["subgroups"]["sex"].items()} == {"F": 2, "M": 4, "(missing)": 2}


def test_several_labels_have_a_threshold_each_and_the_others_keep_theirs(tmp_path, caplog):
    """One label is not in validation: it is told, and answered from 0.5 on."""
    generator = np.random.default_rng(0)
    features = Features({"image": Image(), "label": List(Value("float32"), length=3)})
    splits = {}
    for number, split in enumerate(("train", "validation", "test")):
        vectors = (generator.random((24, 3)) < 0.5).astype(np.float32)
        vectors[:, 2] = 0 if split == "validation" else vectors[:, 2]
        images = list(blob_images(vectors[:, 0].astype(int), seed=number))
        splits[split] = Dataset.from_dict({"image": images, "label": vectors.tolist()}, features=features)
    common = {"student": STUDENT, "method": "ce", "max_steps": 10, "student_image_size": 32, "augment": False}
    common |= {"dataset": DatasetDict(splits), "operating_point": "youden", "per_device_train_batch_size": 8}
    with pytest.raises(ArgumentError, match="each image has several, and each gets its own threshold"):
        rd_hf.distill(**common, output_dir=str(tmp_path / "run"), positive_label="0")
    rd_hf.distill(**common, output_dir=str(tmp_path / "run"))
    assert "no threshold for '2' with the rule youden, because there is no image with it" in caplog.text
    points = metrics_of(tmp_path / "run")["operating_point"]
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    thresholds = {point["label"]: point["threshold"] for point in points}
    assert config["operating_point"] == {"rule": "youden", "thresholds": thresholds} and "2" not in thresholds
    assert rd_hf.evaluate(str(tmp_path / "run" / "student"), common["dataset"])["operating_point"] == [
        {name: point[name] for name in ("rule", "label", "threshold", "test")} for point in points
    ]
    rows = csv.DictReader((tmp_path / "run" / "predictions.csv").open())
    for row in rows:
        expected = [name for name in "012" if float(row[f"probability_{name}"]) >= thresholds.get(name, 0.5)]
        assert row["prediction"].split("|") == (expected or [""])
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "these thresholds" in card if len(points) > 1 else "this threshold" in card


def test_labels_that_are_not_known_count_nowhere():
    point = {"rule": "youden", "thresholds": {"a": 0.3}}
    task = with_decisions(MultiLabel(["a", "b"]), {"operating_point": point})
    logits = np.array([[2.0, -1.0], [-0.5, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    labels = np.array([[1, 0], [0, 1], [0, 1], [-1, 1]])  # -1 is not known
    rows = np.concatenate([logits, labels], axis=1).astype(np.float32)
    (found,) = operating_point_values(task, {"test": rows})
    assert found["test"] == values_at(np.array([1, 1, 0], dtype=bool), np.array([1, 0, 0], dtype=bool))
    assert [cells[:2] for cells in task.table(rows)] == [["a", "a"], ["b", "a|b"], ["b", "b"], ["b", "a|b"]]


def test_below_the_threshold_the_likeliest_of_the_others_is_answered():
    task = with_decisions(
        SingleLabel(["a", "b", "c"]), {"operating_point": {"rule": "youden", "thresholds": {"b": 0.6}}}
    )
    high, first_but_low, low = (0.1, 0.6, 0.3), (0.1, 0.55, 0.35), (0.4, 0.3, 0.3)
    decided = task.decided(np.array([high, first_but_low, low]))
    assert [task.named(own)["label"] for own in decided] == ["b", "c", "a"]
    with pytest.raises(ValueError, match="`operating_point` is .*a, b"):
        with_decisions(SingleLabel(["a", "b"]), {"operating_point": {"rule": "youden", "thresholds": {"c": 0.6}}})


def test_masks_have_scores_of_subgroups_and_no_point(tmp_path):
    arrays = blob_mask_arrays(test=36)
    features = Features({"image": Image(), "mask": Image(), "site": Value("float64")})
    splits = {}
    for own, split in {"train": "train", "val": "validation", "test": "test"}.items():
        images, masks = list(arrays[f"{own}_images"]), list(arrays[f"{own}_masks"])
        sites = [(1.0, 2.0, None)[index % 3] if index % 2 and index < 24 else 1.0 for index in range(len(images))]
        splits[split] = Dataset.from_dict({"image": images, "mask": masks, "site": sites}, features=features)
    student = {
        "model_type": "segformer", "num_encoder_blocks": 2, "hidden_sizes": [8, 16], "depths": [1, 1],
        "num_attention_heads": [1, 2], "sr_ratios": [4, 2], "mlp_ratios": [2, 2], "patch_sizes": [7, 3],
        "strides": [4, 2], "decoder_hidden_size": 8,
    }  # fmt: skip
    common = {"student": student, "method": "ce", "max_steps": 1, "student_image_size": 32}
    with pytest.raises(ArgumentError, match="`operating_point` is of classes, but the data has masks"):
        rd_hf.distill(dataset=DatasetDict(splits), **common, output_dir=str(tmp_path / "run"), operating_point="youden")
    rd_hf.distill(dataset=DatasetDict(splits), **common, subgroup_column="site", output_dir=str(tmp_path / "run"))
    metrics = metrics_of(tmp_path / "run")
    groups = metrics["subgroups"]["site"]
    assert {name: own["images"] for name, own in groups.items()} == {"1": 28, "2": 4, "(missing)": 4}
    assert set(groups["1"]) == {"images", "dice", "iou", "hd95", "surface_dice", "intervals"}
    assert groups["1"]["intervals"]["dice"] is not None and groups["2"]["intervals"]["dice"] is None
    assert not {"operating_point", "calibration"} & set(metrics)
