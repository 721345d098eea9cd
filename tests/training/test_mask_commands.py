"""Runs with masks, end to end: what they leave, how they are resumed, and what is refused by a sentence."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blob_mask_arrays
from PIL import Image
from stopped_runs import interrupted, losses
from test_distillation import settings

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.exports.run import export
from rd_hf.inference.mask_files import MaskFiles
from rd_hf.tasks.segmentation import Segmentation

TINY_SEGFORMER = {  # its decoder has a batch norm
    "model_type": "segformer", "hidden_sizes": [4, 6, 8, 12], "num_attention_heads": [1, 1, 2, 2],
    "depths": [1, 1, 1, 1], "decoder_hidden_size": 8,
}  # fmt: skip


@pytest.fixture
def masks_npz(tmp_path):
    np.savez(tmp_path / "masks.npz", **blob_mask_arrays())
    return tmp_path / "masks.npz"


def mask_settings(teacher, dataset, folder, **changes):
    return settings(teacher, dataset, folder, **({"student": TINY_SEGFORMER, "shots": 12, "method": "drd"} | changes))


def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(teacher, masks_npz, tmp_path, monkeypatch):
    values = mask_settings(teacher, masks_npz, tmp_path / "whole", hybrid_norms="own", save_steps=100)
    whole = rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 4, signal.SIGINT, KeyboardInterrupt, "Step 4 of 6 is saved.*`resume`")
    resumed = rd_hf.distill(**values, resume=True)
    for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") and len(losses(tmp_path / "cut")) == 6
    scores = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "cut")]
    assert scores[0]["teacher"] == scores[1]["teacher"]  # with the statistics of its hybrid passes


@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
def test_a_reprogrammed_teacher_runs_alone_or_is_refused_with_the_way_out(teacher, masks_npz, tmp_path, skips):
    rd_hf.distill(**mask_settings(teacher, masks_npz, tmp_path / "run", skips=skips, max_steps=2))
    folder = tmp_path / "run" / "teacher"
    if skips == "reprogrammed":
        expected = json.loads((tmp_path / "run" / "metrics.json").read_text())["teacher"]["test"]
        assert rd_hf.evaluate(str(folder), str(masks_npz), backbone=str(teacher)) == expected
        assert "student_pixel_values" not in (folder / "README.md").read_text()
        return
    Image.new("L", (9, 7)).save(tmp_path / "one.png")
    for run in (
        lambda: rd_hf.evaluate(str(folder), str(masks_npz), backbone=str(teacher)),
        lambda: rd_hf.predict(str(folder), str(tmp_path / "one.png"), backbone=str(teacher)),
    ):
        with pytest.raises(ArgumentError, match="teacher is a reprogrammed teacher .*skips: own.*Give its student"):
            run()
    assert "Pass `student_pixel_values`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask_colors", {"#ff0000": "tumour"}),
        ("label_names", ["a", "b"]),
        ("skips", "own"),
        ("hybrid_norms", "student"),
        ("card_images", True),
    ],
)
def test_what_is_for_masks_is_refused_for_classes(teacher, blobs_npz, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` .* masks, but the data is read as images with classes: leave it"):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", **{name: value}))


@pytest.mark.parametrize("card_images", [False, True])
def test_pictures_of_patients_are_published_only_if_asked_for(
    teacher, masks_npz, tmp_path, server, client, card_images
):
    rd_hf.distill(**mask_settings(teacher, masks_npz, tmp_path / "run", card_images=card_images, max_steps=2))
    student = tmp_path / "run" / "student"
    assert (tmp_path / "run" / "examples.png").is_file()
    assert (student / "examples.png").is_file() == card_images
    export(str(student), str(tmp_path / "plain"))
    assert (tmp_path / "plain" / "examples.png").is_file() == card_images
    assert ("(examples.png)" in (student / "README.md").read_text()) == card_images
    assert not (tmp_path / "run" / "teacher" / "examples.png").exists()
    for options in ((), ("--format", "rd_hf")):
        server.repos.clear()
        done = client("-m", "rd_hf", "push", str(student), "--repo_id", "me/masks", *options)
        assert done.returncode == 0, done.stderr
        sent = server.repos["me/masks"].at("main").files
        assert "dice.png" in sent and ("examples.png" in sent) == card_images


def test_predict_asks_for_a_folder_before_it_runs(teacher, masks_npz, tmp_path, monkeypatch, capsys):
    rd_hf.distill(**mask_settings(teacher, masks_npz, tmp_path / "run", method="rd", max_steps=1))
    Image.new("L", (9, 7)).save(tmp_path / "one.png")
    monkeypatch.setattr("rd_hf.inference.prediction._predict_batch", None)  # which is not called
    code = main(["predict", "--model", str(tmp_path / "run" / "student"), "--images", str(tmp_path / "one.png")])
    assert code == 2 and "This model gives masks: name a folder for them with `output_dir`" in capsys.readouterr().err


def test_two_images_never_share_a_file(tmp_path):
    images = [Path("a.png"), Path("overlays/a.png")]
    task = Segmentation(["background", "lesion"])
    MaskFiles(task, images, str(tmp_path), with_overlays=False)
    with pytest.raises(ArgumentError, match=r"the file .*overlays/a.png, overlays/a.png and a.png:"):
        MaskFiles(task, images, str(tmp_path), with_overlays=True)
