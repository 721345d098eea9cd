"""Arguments of evaluate, predict, export and info that nothing would read are refused."""

import json

import pytest

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.exports.run import export
from rd_hf.inference import evaluation, loading
from rd_hf.inference.loading import LoadedModel
from rd_hf.inference.prediction import predict_loaded
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.tasks.make import make_task
from rd_hf.tasks.segmentation import Segmentation

CLASSES = make_task("single_label_classification", ["a", "b"], False)
MASKS = make_task(Segmentation.problem_type, ["a", "b"], False)


def loaded(task=CLASSES, of_volumes=False):
    transform = VolumeTransform(RDVolumeProcessor(size=[8, 8, 8], channels=1)) if of_volumes else None
    return LoadedModel("m", None, transform, task, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "validation"}, "`split` has no effect, because no `dataset` is given: leave it out"),
        ({"dataset_revision": "main"}, "`dataset_revision` has no effect, because no `dataset` is given"),
        ({"dataset_config_name": "x"}, "`dataset_config_name` has no effect, because no `dataset` is given"),
        ({"image_column": "x"}, "`image_column` has no effect, because no `dataset` is given"),
        ({"label_column": "x"}, "`label_column` has no effect, because no `dataset` is given"),
        ({"mask_column": "x"}, "`mask_column` has no effect, because no `dataset` is given"),
        ({"mask_colors": {"#ff0000": "x"}}, "`mask_colors` has no effect, because no `dataset` is given"),
        ({"batch_size": 8}, "`batch_size` has no effect, because only `quantize` scores the model"),
    ],
)
def test_export_without_data(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        export("m", str(tmp_path / "new"), **changes)


@pytest.mark.parametrize(
    ("task", "given", "why"),
    [
        (CLASSES, {"mask_column": "x"}, "the model gives classes"),
        (CLASSES, {"mask_colors": {"#ff0000": "x"}}, "the model gives classes"),
        (MASKS, {"label_column": "x"}, "the model gives masks"),
        (MASKS, {"uncertain": "ignore"}, "the model gives masks"),
    ],
)
def test_columns_of_the_other_task(blobs_npz, task, given, why):
    (name,) = given
    with pytest.raises(ArgumentError, match=f"`{name}` has no effect, because {why}: leave it out"):
        evaluation.load_splits(loaded(task), str(blobs_npz), "test", **given)


def test_evaluate(monkeypatch):
    with pytest.raises(ArgumentError, match="`report_images` has no effect, because no `report` is written"):
        rd_hf.evaluate("m", "d", report_images=False)
    monkeypatch.setattr(evaluation, "load_model", lambda *_, **__: loaded(of_volumes=True))
    with pytest.raises(ArgumentError, match="`batch_size` has no effect, because volumes come one by one"):
        rd_hf.evaluate("m", "d", batch_size=8)


def test_predict(tmp_path, monkeypatch, capsys):
    with pytest.raises(ArgumentError, match="`batch_size` has no effect, because volumes come one by one"):
        list(predict_loaded(loaded(of_volumes=True), str(tmp_path), 8, "error", None))
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: loaded())
    assert main(["predict", "--model", "m", "--images", "x.png", "--json", "--top_k", "5"]) == 2
    assert "`top_k` has no effect, because `json` prints every class: leave it out." in capsys.readouterr().err
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: loaded(MASKS))
    assert main(["predict", "--model", "m", "--images", "x.png", "--output_dir", "o", "--top_k", "5"]) == 2
    assert "`top_k` has no effect, because this model gives masks: leave it out." in capsys.readouterr().err


def test_a_folder_has_no_revisions(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    for command in (loading.load_model, rd_hf.info):
        with pytest.raises(ArgumentError, match=r"`revision` has no effect, because .* is a folder, which has no rev"):
            command(str(tmp_path), revision="main")
