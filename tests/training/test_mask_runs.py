"""The whole job for masks on tiny models: what a run leaves, and what of it is published."""

import csv
import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import blob_mask_arrays, read_settings
from PIL import Image

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.decoding.image_notes import Note
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.pixel_store import check_size
from rd_hf.inference.mask_files import check_files_differ, names_of_masks
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.training.mask_examples import _with_text, chosen_positions
from rd_hf.training.run_folder import read_history

TINY_UNET = {
    "model_type": "monai", "network": "UNet", "spatial_dims": 2,
    "arguments": {"channels": [8, 16, 16], "strides": [2, 2]},
}  # fmt: skip


def settings(teacher, data, folder, **changes):
    values = {
        "teacher": str(teacher), "student": TINY_UNET, "dataset": str(data), "student_image_size": 24,
        "output_dir": str(folder), "max_steps": 4, "eval_steps": 2, "logging_steps": 1, "shots": 6,
        "use_unlabeled": True, "per_device_train_batch_size": 6, "per_device_unlabeled_batch_size": 6,
    }  # fmt: skip
    return read_settings(values | changes)


@pytest.fixture(scope="module")
def masks_npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "masks.npz"
    np.savez(path, **blob_mask_arrays())
    return path


@pytest.fixture(scope="module")
def finished(teacher, masks_npz, tmp_path_factory):
    """One finished RD run that shows its test images in the card."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    values = settings(teacher, masks_npz, folder, max_steps=90, eval_steps=30, learning_rate=1e-2, card_images=True)
    return rd_hf.distill(**values), folder


def test_a_run_leaves_scores_pictures_and_predictions(finished):
    student, run = finished
    assert isinstance(student, RDStudentForSemanticSegmentation)
    assert {path.name for path in run.iterdir()} == {
        "student", "teacher", "checkpoints", "config.yaml", "metrics.json", "metrics.jsonl", "predictions.csv",
        "curves.png", "cka.png", "dice.png", "dice_images.png", "examples.png", "report.html", ".lock",
    }  # fmt: skip
    scores = json.loads((run / "metrics.json").read_text())
    assert {"dice", "iou", "hd95", "surface_dice", "false_positive_images", "intervals"} <= set(scores["test"])
    assert scores["test"]["dice"] > 0.25 and scores["teacher"]["test"]["dice"] > 0.15
    assert scores["training"]["labelled_images"] == 6 and scores["training"]["unlabelled_images"] == 18
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    bright = [float(row["dice_bright"]) for row in rows if row["dice_bright"]]
    assert len(rows) == 12 and np.mean(bright) == pytest.approx(scores["test"]["dice_per_class"]["bright"])
    first = next(row for row in read_history(run) if "loss" in row)
    assert {"supervised", "hybrid", "kl", "cka_loss", "cka/1", "cka/2"} <= set(first)


def test_the_card_shows_test_images_only_if_asked_to(finished, teacher, masks_npz, tmp_path):
    _, run = finished
    assert (run / "student" / "examples.png").is_file()
    assert "](examples.png)" in (run / "student" / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in (run / "student" / "README.md").read_text()
    again = settings(teacher, masks_npz, tmp_path / "run", max_steps=1)
    rd_hf.distill(**again, card_images=True)
    assert (tmp_path / "run" / "student" / "examples.png").is_file()
    rd_hf.distill(**again, resume=True)  # without them
    assert (tmp_path / "run" / "examples.png").is_file()
    assert not (tmp_path / "run" / "student" / "examples.png").exists()
    assert "examples.png" not in (tmp_path / "run" / "student" / "README.md").read_text()
    (step,) = (row for row in read_history(tmp_path / "run") if "learning_rate" in row)
    assert step["learning_rate"] > 0  # the only step trains something, though a warm-up begins at 0


def test_a_class_that_the_labelled_masks_lack_is_a_matter_of_their_number(teacher, masks_npz, tmp_path):
    with pytest.raises(ArgumentError, match="None of the 1 labelled images of train shows.*raise `shots`"):
        rd_hf.distill(**settings(teacher, masks_npz, tmp_path / "run", shots=1))


def test_evaluate_gives_the_scores_of_the_run(finished, teacher, masks_npz):
    _, run = finished
    scores = json.loads((run / "metrics.json").read_text())
    assert rd_hf.evaluate(str(run / "student"), str(masks_npz)) == scores["test"]
    found = rd_hf.evaluate(str(run / "teacher"), str(masks_npz), backbone=str(teacher))
    assert found["dice"] == pytest.approx(scores["teacher"]["test"]["dice"], abs=1e-3)


@pytest.mark.parametrize(("method", "skips"), [("ce", "reprogrammed"), ("drd", "reprogrammed"), ("rd", "own")])
def test_every_method_runs_and_own_skips_score_the_teacher_with_the_students_images(
    teacher, masks_npz, tmp_path, method, skips
):
    values = settings(teacher, masks_npz, tmp_path / "run", method=method, skips=skips, max_steps=2)
    rd_hf.distill(**values)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert ("teacher" in scores) == (method != "ce")
    if method != "ce":
        config = rd_hf.RDTeacherConfig.from_pretrained(tmp_path / "run" / "teacher")
        assert len(config.hybrid_stages) == {"rd": 1, "drd": 2}[method] and config.skips == skips


def test_predicted_masks_have_the_size_and_the_name_of_their_image(finished, tmp_path):
    _, run = finished
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for name, size in (("a.png", (31, 47)), ("deep/a.png", (24, 24)), ("b.jpg", (50, 20)), ("b.bmp", (20, 50))):
        Image.new("RGB", size, (90, 30, 30)).save(tmp_path / "new" / name)
    rows = rd_hf.predict(str(run / "student"), str(tmp_path / "new"), output_dir=str(tmp_path / "out"), overlay=True)
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    names = {"a.png", "deep/a.png", "b.jpg.png", "b.bmp.png"}
    assert found == names | {f"overlays/{name}" for name in names}
    for row in rows:
        mask, picture = Image.open(row["mask"]), Image.open(row["image"])
        assert mask.mode == "P" and mask.size == picture.size == Image.open(row["overlay"]).size
        counts = np.bincount(np.asarray(mask).ravel(), minlength=3).tolist()
        assert list(row["pixels"].values()) == counts
    with pytest.raises(rd_hf.arguments.values.ArgumentError, match=r"a\.png exists already"):
        rd_hf.predict(str(run / "student"), str(tmp_path / "new"), output_dir=str(tmp_path / "out"))
    in_memory = rd_hf.predict(str(run / "student"), str(tmp_path / "new" / "a.png"))[0]["mask"]
    assert np.array_equal(in_memory, np.asarray(Image.open(tmp_path / "out" / "a.png")))


def test_a_command_that_was_stopped_goes_on_with_the_images_that_have_no_mask(finished, tmp_path, caplog):
    for name in "abc":
        Image.new("RGB", (24, 20), (90, 30, 30)).save(tmp_path / f"{name}.png")
    predict = partial(rd_hf.predict, str(finished[1] / "student"), str(tmp_path / "*.png"), overlay=True)
    predict(output_dir=str(tmp_path / "out"))
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out" / "b.png").unlink()  # but not its overlay, as a kill between the two leaves it
    with caplog.at_level(logging.INFO, "rd_hf"):
        rows = predict(output_dir=str(tmp_path / "out"), skip_existing=True)
    assert [Path(row["image"]).name for row in rows] == ["b.png"]
    assert "2 of 3 images have a mask already and are left out" in caplog.text
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")} == written
    with pytest.raises(ArgumentError, match="`overlay` is about files: name their folder"):
        predict()
    rd_hf.predict(str(finished[1] / "student"), str(tmp_path / "a.png"), output_dir=str(tmp_path / "masks"))
    assert "Masks are written beside the images" not in caplog.text
    (tmp_path / "d.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    rd_hf.predict(str(finished[1] / "student"), str(tmp_path / "d.jpg"), output_dir=str(tmp_path))
    assert "Masks are written beside the images" in caplog.text


def test_a_bad_image_is_told_before_the_first_mask_is_written(finished, tmp_path):
    for name in "abc":
        Image.new("RGB", (24, 24)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    for size in (1, 64):
        with pytest.raises(BadImageError, match=r"c\.png is not a readable image"):
            rd_hf.predict(
                str(finished[1] / "student"), str(tmp_path), output_dir=str(tmp_path / "out"), batch_size=size
            )
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_prediction_is_the_argmax_of_resized_logits(finished, masks_npz, tmp_path):
    """Of an image of the student's own size, whatever else the file's way to the model does."""
    student, run = finished
    image = np.load(masks_npz)["test_images"][1]
    Image.fromarray(image).save(tmp_path / "one.png")
    pixels = torch.from_numpy(np.stack([image] * 3)).float() / 255 * 2 - 1
    with torch.no_grad():
        expected = student(pixel_values=pixels[None]).logits[0].argmax(dim=0).numpy()
    assert np.array_equal(rd_hf.predict(str(run / "student"), str(tmp_path / "one.png"))[0]["mask"], expected)


def test_a_mask_of_another_size_is_refused_and_a_turn_is_named():
    picture = Image.new("RGB", (30, 20))
    check_size(np.zeros((20, 30)), picture, "row 1 of train")
    with pytest.raises(BadImageError, match=r"row 1 of train: the mask has 10 x 20 .* its image 30 x 20"):
        check_size(np.zeros((20, 10)), picture, "row 1 of train")
    with pytest.raises(BadImageError, match="EXIF"):
        check_size(np.zeros((30, 20)), picture, "row 1 of train")


def test_best_median_and_worst_without_repeats():
    values = np.array([0.1, 0.9, 0.5, 0.8, 0.4, 0.2, 0.6])
    assert values[chosen_positions(values, 2)].tolist() == [0.9, 0.8, 0.6, 0.5, 0.2, 0.1]
    assert values[chosen_positions(values, 1)].tolist() == [0.9, 0.5, 0.1]
    assert chosen_positions(np.array([0.3, 0.2]), 2).tolist() == [0, 1]
    assert chosen_positions(np.array([]), 2).tolist() == []


def test_names_of_masks_of_files_that_are_named_by_numbers():
    """As DICOM files are by their UIDs."""
    names = names_of_masks([Path("a/1.2.840.5"), Path("a/1.2.840.6")])
    assert [str(name) for name in names.values()] == ["1.2.840.5.png", "1.2.840.6.png"]


def test_files_whose_names_differ_in_capitals_only_are_refused_where_these_do_not_count(monkeypatch):
    planned = [(Path("A.png"), Path("A.jpg")), (Path("b.png"), Path("b.jpg")), (Path("a.png"), Path("a.bmp"))]
    check_files_differ(planned, "images")
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(
        ArgumentError, match="Two images would have the file a.png, A.jpg and a.bmp: predict them apart"
    ):
        check_files_differ(planned, "images")


def test_names_of_masks_below_the_shared_folder(tmp_path):
    images = [tmp_path / name for name in ("x/1.png", "x/2.jpg", "y/1.png")]
    assert [path.as_posix() for path in names_of_masks(images).values()] == ["x/1.png", "x/2.png", "y/1.png"]
    assert [path.as_posix() for path in names_of_masks(images[:2]).values()] == ["1.png", "2.png"]


def test_images_with_text_burned_in_are_in_no_picture(caplog):
    notes = {3: Note.DICOM, 5: Note.DICOM | Note.BURNED_IN}
    split = SimpleNamespace(name="test", rows=[3, 5], store=SimpleNamespace(notes=lambda rows: notes))
    assert _with_text(split).tolist() == [False, True]
    assert "examples.png leaves out 1 of 2 images of test" in caplog.text
