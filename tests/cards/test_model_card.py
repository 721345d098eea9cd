"""Model cards: metadata, text, and a person's edits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.cards.card import (
    CARD_FILE,
    IMAGES,
    CardError,
    card_for,
    check_card,
    eval_results,
    is_edited,
    render_card,
    render_use,
    stamp,
    write_card,
)
from rd_hf.students.cost import Cost
from rd_hf.tasks.classification import SingleLabel
from rd_hf.tasks.segmentation import Segmentation
from rd_hf.training.card_facts import CURVES
from rd_hf.training.earlier_run import remove_earlier_run
from rd_hf.training.run_folder import FILES, open_run_folder

NAMES = ["benign", "malignant", "a|b <i>"]


def sample_scores(**changes):
    values = dict.fromkeys(("auroc", "accuracy", "balanced_accuracy", "f1", "average_precision"), 0.87654)
    values["expected_calibration_error"] = 0.04321
    intervals = {name: [value - 0.01, value + 0.01] for name, value in values.items()}
    for measure in ("sensitivity", "specificity"):
        values[measure] = dict.fromkeys(NAMES, 0.7)
        intervals[measure] = {name: [0.6, 0.8] for name in NAMES}
    return values | {"intervals": intervals, "undefined": {}} | changes


def sample_facts(**changes):
    """What `card_facts` collects, of a run that never was."""
    facts = {
        "kind": "student", "title": "resnet, distilled from org/foundation", "method": "rd", "license": "apache-2.0",
        "teacher": {"id": "org/foundation", "revision": "a" * 40, "sha256": "b" * 64},
        "student_base": {"id": "org/resnet", "revision": "c" * 40},
        "dataset": {"id": "org/images", "config_name": None, "revision": "d" * 40, "fingerprint": {"test": "sha256:e"}},
        "label_names": NAMES, "splits": [{"name": "test", "images": 9, "counts": [2, 3, 4]}],
        "unlabelled_images": 12, "skipped_images": 0, "arguments": {"shots": 5},
        "defaults": {"seed": 0, "metric_for_best_model": "auroc"},
        "training": {"steps": 6, "best_step": 3, "seconds": 1.5}, "cpu": "x86_64, 2 threads", "hardware": "1 x CPU",
        "costs": {"student": Cost(1234567, 0.25, 3.25), "foundation model": Cost(22000000, 5.5, None)},
        "versions": {"rd_hf": "0.1.0", "torch": "2.13.0"}, "scores": sample_scores(),
        "other_scores": sample_scores(auroc=0.9), "metrics": SingleLabel.metrics, "results": SingleLabel.card_template,
        "images": SingleLabel.figures_of_scores | SingleLabel.figures_of_rows | CURVES,
        "pipeline_tag": SingleLabel.pipeline_tag, "problem_type": SingleLabel.problem_type,
        "needs_student_pixels": False,
        "needs_timm": False,
    }  # fmt: skip
    return facts | changes


def test_the_metadata_is_what_huggingface_hub_reads_back():
    data = ModelCard(render_card(sample_facts(), "sample")).data
    assert data.base_model == ["org/resnet", "org/foundation"] and data.base_model_relation == "finetune"
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert data.datasets == ["org/images"] and data.model_name == "sample"
    results = {result.metric_type: result for result in data.eval_results}
    assert results["roc_auc"].metric_value == 0.8765 and results["roc_auc"].dataset_split == "test"
    assert results["roc_auc"].dataset_revision == "d" * 40 and len(results) == 6


def test_the_teacher_is_an_adapter_and_what_is_local_is_in_no_metadata():
    data = ModelCard(render_card(sample_facts(kind="teacher"), "sample")).data
    assert (data.base_model, data.base_model_relation) == (["org/foundation"], "adapter")
    local = {"id": "local", "revision": None, "sha256": "f" * 64}
    facts = sample_facts(
        teacher=local, student_base={"id": "resnet from scratch", "revision": None}, license=None,
        dataset={"id": "local", "config_name": None, "revision": None, "fingerprint": {}},
    )  # fmt: skip
    text = render_card(facts, "sample")
    data = ModelCard(text).data
    assert data.base_model is None and data.datasets is None and data.license is None
    assert "has not stated one" in text and "f" * 64 in text and "local, not on the Hub" in text


def test_the_card_of_a_teacher_says_that_it_needs_the_students_pixels():
    assert "pip install timm" in render_card(sample_facts(needs_timm=True), "one")
    assert "Pass `student_pixel_values`" in render_card(sample_facts(kind="teacher", needs_student_pixels=True), "one")
    for facts in (sample_facts(kind="teacher"), sample_facts(needs_student_pixels=True)):
        assert "student_pixel_values" not in render_card(facts, "one")


def test_the_text_says_what_a_reader_needs():
    text = render_card(sample_facts(), "sample")
    assert "not a medical device and must not be used for diagnosis" in text
    for line in (
        "| AUROC | 0.877 (0.867 to 0.887) | 0.900 (0.867 to 0.887) |",
        "| test | 9 | 2 | 3 | 4 |",
        "| a\\|b &lt;i> | 0.700 (0.600 to 0.800) | 0.700 (0.600 to 0.800) |",
        "| student | 1,234,567 | 0.25 | 3.2 |",
        "| foundation model | 22,000,000 | 5.5 | not measured |",
        "| `shots` | `5` |",
        "![Confusion matrix](confusion_matrix.png)",
    ):
        assert line in text.splitlines(), line
    bibtex = (REPOSITORY / "README.md").read_text().split("```bibtex\n")[1].split("```")[0]
    assert bibtex in text


def test_without_a_teacher_and_with_scores_that_are_undefined():
    scores = sample_scores(auroc=None, undefined={"auroc": "undefined: the split has no image of 'benign'"})
    text = render_card(sample_facts(teacher=None, method="ce", other_scores=None, scores=scores), "sample")
    assert "| AUROC | undefined |" in text and "the split has no image of 'benign'" in text
    assert "roc_auc" not in [result.metric_type for result in ModelCard(text).data.eval_results]


def test_what_is_undefined_is_said_once_with_the_scores_that_it_concerns():
    mean = "mean over the other labels: the split has only positive or only negative images of 'a_b'"
    undefined = {"auroc": mean, "f1": mean, "sensitivity/a_b": "undefined: the split has no image with 'a_b'"}
    facts = sample_facts(scores=sample_scores(undefined=undefined), problem_type="multi_label_classification")
    text = render_card(facts, "sample")
    assert f"- AUROC; F1, mean over classes. M{mean[1:]}." in text.splitlines()
    assert "- sensitivity. Undefined: the split has no image with 'a_b'." in text.splitlines()
    assert "stratified" not in text and "over its images, stratified by class." in render_card(sample_facts(), "sample")


@pytest.mark.parametrize("groups", [None, 3])
def test_a_split_that_is_too_small_for_intervals_is_said_to_be(groups):
    scores = sample_scores(**{} if groups is None else {"groups": groups})
    scores["intervals"] = {name: None for name in scores["intervals"]} | {
        measure: dict.fromkeys(NAMES) for measure in ("sensitivity", "specificity")
    }
    few = [{"name": "test", "images": 4 if groups is None else 9, "counts": [2, 1, 1]}]
    text = render_card(sample_facts(scores=scores, other_scores=None, splits=few), "sample")
    few = "images" if groups is None else "groups of images"
    assert f"Scores are from the test split, without intervals, because it has too few {few} for them." in text
    assert "| AUROC | 0.877 |" in text.splitlines() and "no interval" not in text and "bootstrap" not in text


def test_a_value_without_an_interval_is_given_alone():
    scores = sample_scores()
    scores["intervals"] |= {"auroc": None, "sensitivity": dict.fromkeys(NAMES)}
    text = render_card(sample_facts(scores=scores), "sample")
    lines = text.splitlines()
    assert "| AUROC | 0.877 (no interval) | 0.900 (0.867 to 0.887) |" in lines
    assert "| malignant | 0.700 (no interval) | 0.700 (0.600 to 0.800) |" in lines
    assert text.count("A value has no interval if") == 1
    assert "A value has no interval if" not in render_card(sample_facts(), "sample")
    (entry,) = parse_eval_result_entries(yaml.safe_load(eval_results(sample_facts(scores=scores))))
    assert entry.notes == "AUROC, split test, no interval" and entry.value == 0.8765


@pytest.mark.parametrize(
    "name, cell",
    [
        ("a$_low_$", "a\\$\\_low\\_\\$"), ("_b_", "\\_b\\_"), ("lung_opacity", "lung_opacity"), ("a*b*", "a\\*b\\*"),
        ("[x](y)", "\\[x\\](y)"), ("`code`", "\\`code\\`"), ("a\\|b", "a\\\\\\|b"), ("two\nlines\u2028", "two lines"),
        ("R&amp;D", "R&amp;amp;D"), ("سرطان", "سرطان"), ("心房", "心房"), ("x" * 120, "x" * 120),
        ("{{ 1 }}", "{{ 1 }}"),
    ],
)  # fmt: skip
def test_any_label_name_stands_in_a_card_as_it_is(name, cell):
    names = [name, "other"]
    scores = sample_scores(sensitivity=dict.fromkeys(names, 0.7), specificity=dict.fromkeys(names, 0.7))
    scores["intervals"] |= {measure: {n: [0.6, 0.8] for n in names} for measure in ("sensitivity", "specificity")}
    splits = [{"name": "test", "images": 9, "counts": [4, 5]}]
    text = render_card(sample_facts(label_names=names, scores=scores, splits=splits), "sample")
    lines = text.splitlines()
    assert f"| {cell} | 0.700 (0.600 to 0.800) | 0.700 (0.600 to 0.800) |" in lines
    assert f"| split | images | {cell} | other |" in lines
    assert not is_edited(text) and is_edited(text.replace("research", "us"))


@pytest.mark.parametrize(
    "metadata, says",
    [
        ("base_model: not a name", "not a name"),
        ("license: Apache 2", "Apache 2"),
        ("model-index:\n- name: x\n  results: 3", "not valid|model-index|results"),
        ("- a list", "dict"),
    ],
)
def test_metadata_that_the_hub_would_refuse_is_an_error(metadata, says):
    with pytest.raises(CardError, match=says):
        check_card(f"---\n{metadata}\n---\n\ntext\n")


def test_a_license_is_checked_before_the_training():
    with pytest.raises(ArgumentError, match="license.*Apache License"):
        DistillationArguments(dataset="d", student="s", method="ce", license="Apache License")
    with pytest.raises(ArgumentError, match="hub_model_id"):
        DistillationArguments(dataset="d", student="s", method="ce", push_to_hub=True)


@pytest.mark.parametrize("options", [{"method": "rd"}, {"method": "ce", "push_to_hub": True, "hub_model_id": "me/x"}])
def test_a_place_for_the_teacher_needs_a_push_and_a_teacher(options):
    with pytest.raises(ArgumentError, match="hub_teacher_id"):
        DistillationArguments(dataset="d", student="s", teacher="t", hub_teacher_id="me/t", **options)


def test_the_file_of_results_has_the_score_by_which_the_model_was_chosen_and_is_for_data_of_the_hub():
    facts = sample_facts(arguments={"metric_for_best_model": "accuracy"}, scores=sample_scores(accuracy=0.5))
    (entry,) = parse_eval_result_entries(yaml.safe_load(eval_results(facts)))
    assert entry.value == 0.5 and entry.notes.startswith("accuracy, split test")
    assert eval_results(facts | {"dataset": facts["dataset"] | {"id": "local"}}) is None
    assert eval_results(sample_facts(scores=sample_scores(auroc=None))) is None


def test_edits_are_seen_and_kept(tmp_path):
    text = render_card(sample_facts(), "sample")
    assert not is_edited(text) and not is_edited(text.replace("\n", "\r\n")) and stamp(text) == text
    assert write_card(tmp_path, text) and write_card(tmp_path, render_card(sample_facts(method="drd"), "sample"))
    path = tmp_path / CARD_FILE
    for edit in (text.replace("For research", "For us"), text.replace("apache-2.0", "mit"), "# My own\n", ""):
        path.write_text(edit)
        assert is_edited(edit) and not write_card(tmp_path, text)
        assert path.read_text() == edit and card_for(edit, "me/x") == edit
    sent = card_for(text, "me/x")
    assert 'model_id = "me/x"' in sent and not is_edited(sent)


def test_an_edited_card_survives_a_run_that_replaces_an_earlier_one(tmp_path):
    run = tmp_path / "run"
    for kind in ("student", "teacher"):
        (run / kind).mkdir(parents=True)
        write_card(run / kind, render_card(sample_facts(), "sample"))
    (run / "student" / CARD_FILE).write_text("# My own\n")
    arguments = DistillationArguments(
        dataset="d", student="s", method="ce", output_dir=str(run), overwrite_output_dir=True
    )
    (run / "config.yaml").write_text("of the earlier run")
    with open_run_folder(arguments):
        pass
    assert (run / "edited_card_of_student.md").read_text() == "# My own\n"
    assert {path.name for path in run.iterdir()} == {"edited_card_of_student.md", "config.yaml", ".lock"}


def test_a_run_that_replaces_an_earlier_one_keeps_what_no_run_writes(tmp_path, caplog):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    written = ("student/model.safetensors", "student/.eval_results/rd_hf.yaml", "checkpoints/step-00000002/a.json")
    theirs = ("student/reader_study/notes.txt", "student/LICENSE", "logs/my_notes.txt")
    for name in (*written, *theirs, "logs/process-0.log", "metrics.json", "../elsewhere/config.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    (run / "teacher").symlink_to(elsewhere)
    remove_earlier_run(run, FILES)
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == set(theirs)
    assert not (run / "teacher").is_symlink() and not (run / "checkpoints").exists()
    assert (elsewhere / "config.json").is_file()
    assert "student/LICENSE, student/reader_study/notes.txt in" in caplog.text and "my_notes" in caplog.text


# --- masks


def facts_of_masks(**changes):
    """Facts of a segmenter whose last class is in no test image."""
    task = Segmentation(["background", "a|b", "rare"])
    generator = torch.Generator().manual_seed(0)
    truths = [torch.randint(0, 2, (20, 24), generator=generator).to(torch.uint8) for _ in range(8)]
    logits = torch.randn(8, 3, 10, 12, generator=generator)
    logits[:, 2] = -9
    scores = task.scores(task.full_row(logits, truths).numpy(), 100)
    scores |= {"dice": 0.41239, "false_positive_images": None}
    scores["intervals"] |= {"dice": [0.3, 0.5], "false_positive_images": None}
    own = {
        "label_names": task.names, "metrics": task.metrics, "results": task.card_template, "scores": scores,
        "other_scores": scores | {"dice": 0.5}, "images": task.figures_of_scores | task.figures_of_rows | CURVES,
        "pipeline_tag": task.pipeline_tag, "problem_type": task.problem_type,
        "defaults": {"metric_for_best_model": "dice"}, "dataset": sample_facts()["dataset"] | {
            "made_splits": {"names": ["test"], "seed": 0, "group_column": None}},
    }  # fmt: skip
    return sample_facts(**own | changes)


def test_the_card_of_a_segmenter():
    facts = facts_of_masks()
    text = render_card(facts, "sample")
    lines = text.splitlines()
    for line in (
        "| Dice | 0.412 (0.300 to 0.500) | 0.500 (0.300 to 0.500) |",
        "| share of the images without foreground in which the model finds some | undefined | undefined |",
        "| rare | 0 | undefined | undefined | undefined | undefined |",
        "- HD95, pixels; surface Dice. Mean over the other classes: no image of the split has 'rare' in both truth and "
        "prediction.",
        "- Class 0, background, is the background and has no score of its own. A row of the first table is the mean "
        "over the other classes that the truth of the split has.",
        "![Dice of each class](dice.png)",
    ):
        assert line in lines, line
    assert "A small image segmenter for 3 classes (background, a\\|b, rare)" in text
    assert "stratified by the classes in each mask, with seed 0" in text and "used without a mask" in text
    assert 'pipeline("image-segmentation", model=model_id, trust_remote_code=True)' in text
    assert "classifier" not in text and "over its images." in text
    facts["scores"]["groups"] = 7
    assert "over its 7 groups of images, such as patients." in render_card(facts, "sample")
    assert set(facts["images"]) <= set(IMAGES)


def test_the_metadata_of_a_segmenter():
    data = ModelCard(render_card(facts_of_masks(), "sample")).data
    assert data.pipeline_tag == "image-segmentation"
    results = {result.metric_type: result for result in data.eval_results}
    assert list(results) == ["dice", "mean_iou", "hd95", "surface_dice"]
    assert results["dice"].metric_value == 0.4124 and results["dice"].task_type == "image-segmentation"
    (entry,) = parse_eval_result_entries(yaml.safe_load(eval_results(facts_of_masks())))
    assert (entry.value, entry.notes) == (0.4124, "Dice, split test, 95 % bootstrap interval 0.3000 to 0.5000")


def test_the_code_for_an_onnx_segmenter_makes_masks_of_the_images_size(tmp_path, monkeypatch, capsys):
    report = {"opset": 17, "precision": "float32", "input": [1], "max_abs_difference": 0.0, "checked_on": "noise"}
    code = render_use("onnx", {}, "image-segmentation", report=report).split("```python\n")[1].split("```")[0]
    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    session = SimpleNamespace(
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={"labels": '["background", "a", "b"]'}),
        run=lambda names, inputs: [logits.numpy()],
    )
    processor = SimpleNamespace(from_pretrained=lambda name: lambda image, return_tensors: {"pixel_values": None})
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda path: session)
    monkeypatch.setattr("transformers.AutoImageProcessor", processor)
    monkeypatch.setattr("transformers.utils.cached_file", lambda *names: "model.onnx")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (mask,) = Segmentation(["background", "a", "b"]).masks_of(logits, [(9, 13)])
    expected = dict(zip(["background", "a", "b"], np.bincount(mask.ravel(), minlength=3).tolist(), strict=True))
    assert capsys.readouterr().out.strip() == str(expected)


@pytest.mark.parametrize("pipeline_tag", ["image-segmentation", "image-classification"])
def test_a_plain_checkpoint_of_monai_says_what_it_needs(pipeline_tag):
    of_monai = render_use("transformers", {}, pipeline_tag, model_type="monai")
    assert "model=model_id, trust_remote_code=True)" in of_monai and "pip install monai" in of_monai
    plain = render_use("transformers", {}, pipeline_tag, model_type="segformer")
    assert "model=model_id)" in plain and "no code other than transformers" in plain
