"""The whole job for volumes on tiny models: masks in crops, whole volumes with classes, and teachers of both kinds."""

import json
import logging
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from conftest import read_settings
from drawn_data import boxes, write_classes, write_masks
from stopped_runs import interrupted, losses
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, ViTConfig, ViTImageProcessorPil, ViTModel

import rd_hf
from rd_hf.arguments.config import read_config
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.augmentation import EVALUATION_VIEW
from rd_hf.data.masks.reading import MaskReading
from rd_hf.data.order import Visit
from rd_hf.data.pixels import Transforms
from rd_hf.data.volumes import store
from rd_hf.data.volumes.shelf import Shelf
from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.data.volumes.views import VolumeViews
from rd_hf.models.backbone import Backbone
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.features import StageFeature
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.key import list_folders
from rd_hf.training import target_start
from rd_hf.training.fill_cache import build
from rd_hf.training.run_data import load_run_data
from rd_hf.training.run_folder import read_history
from rd_hf.training.teacher_features import _views_of_volumes
from rd_hf.training.teachers import _processor_of_teacher
from rd_hf.training.volume_inputs import VolumeInputs

UNET = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 8], "strides": [2]}}
RESNET = {
    "model_type": "monai", "network": "ResNet",
    "arguments": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "conv1_t_stride": 1},
}  # fmt: skip


OF_DRD = "Targets: the hybrid logits of each stage, of the view at hand; KL with weight 1 and temperature 4."
OF_RD_PLUS = (
    "Targets: 0.5 hybrid logits + 0.5 linear probe, of the mean over 2 views, with a share of the student's ensemble "
    "that rises to 0.5; DIST with weight 1 and temperature 1."
)


def settings(teacher, data, folder, **changes):
    values = {
        "teacher": str(teacher), "student": UNET, "dataset": str(data), "output_dir": str(folder), "crop_size": 8,
        "max_steps": 3, "eval_steps": 3, "save_steps": 3, "logging_steps": 1, "shots": 3, "use_unlabeled": True,
        "per_device_train_batch_size": 2, "per_device_unlabeled_batch_size": 2, "num_views": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    return read_settings(values | changes)


@pytest.fixture(scope="module")
def slice_teacher(tmp_path_factory):
    """A tiny ViT, which reads images of 16 pixels."""
    folder = tmp_path_factory.mktemp("slice_teacher")
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, patch_size=8, image_size=16
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks") / "data")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes") / "boxes.npz")


@pytest.fixture(scope="module")
def finished(slice_teacher, masks, tmp_path_factory):
    """A finished run of RD from slices."""
    folder = tmp_path_factory.mktemp("finished")
    values = settings(slice_teacher, masks, folder / "run", cache_dir=str(folder / "cache"), intensity_window="0,250")
    return rd_hf.distill(**values), folder / "run"


def test_a_run_leaves_a_student_with_its_grid_and_a_teacher_that_reads_0_to_1(finished, masks, slice_teacher):
    student, run = finished
    processor = AutoImageProcessor.from_pretrained(run / "student")
    assert (processor.spacing, processor.crop_size, processor.window) == ([1, 1, 1.25], [8, 8, 8], [0, 250])
    assert processor.do_normalize and not AutoImageProcessor.from_pretrained(run / "teacher").do_normalize
    config = rd_hf.RDTeacherConfig.from_pretrained(run / "teacher")
    assert config.slices == {"axis": "axial", "size": [16, 16], "mean": [0.4] * 3, "std": [0.2] * 3}
    assert student.config.provenance["dataset"]["volumes"] == {"channels": 1, "channel_axis": False}
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["training"]["labelled_images"] == 3 and scores["training"]["unlabelled_images"] == 5
    assert {"dice", "hd95", "surface_dice"} <= set(scores["teacher"]["test"])
    assert (run / "examples.png").is_file()
    assert read_config(run / "config.yaml")["cka_features"] == "positions"  # 4 volumes are too few rows of pooled ones
    text = "".join(path.read_text() for path in run.rglob("*") if path.suffix in (".json", ".md"))
    assert str(masks) not in text and "case_0" not in text and str(slice_teacher) not in text
    lines = (run / "predictions.csv").read_text().splitlines()  # which is not published
    assert lines[0].startswith("row,file,dice_") and all("case_" in line.split(",")[1] for line in lines[1:])


@pytest.mark.usefixtures("no_report")
def test_rd_plus_starts_at_a_dense_probe_of_slices(slice_teacher, masks, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(target_start, "FIT_STEPS", 2)
    values = settings(slice_teacher, masks, tmp_path / "run", method="rd_plus", max_steps=2, cache=False)
    with caplog.at_level("INFO", "rd_hf"):
        rd_hf.distill(**values)
    row = next(row for row in read_history(tmp_path / "run") if "loss" in row)
    assert {"kl", "probe", "cka_loss"} <= set(row) and not {"mutual", "dist"} & set(row)
    assert "A dense probe of the teacher is fitted to places of the 3 labelled rows" in caplog.text
    assert "Method rd_plus sets projector_start probe, probe_weight 1.0, probe_share 0.5." in caplog.text
    assert "Given in its place" not in caplog.text


def test_evaluate_and_a_plain_load_give_the_scores_and_logits_of_the_run(finished, masks, slice_teacher):
    student, run = finished
    scores = json.loads((run / "metrics.json").read_text())
    assert rd_hf.evaluate(str(run / "student"), str(masks)) == scores["test"]
    found = rd_hf.evaluate(str(run / "teacher"), str(masks), backbone=str(slice_teacher))
    assert found["dice"] == pytest.approx(scores["teacher"]["test"]["dice"], abs=1e-3)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(run / "student")
    pixels = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, student(pixel_values=pixels).logits)


def test_interrupted_and_resumed_with_workers_equals_uninterrupted(slice_teacher, masks, tmp_path, monkeypatch):
    values = settings(slice_teacher, masks, tmp_path / "whole", method="drd", max_steps=4)
    rd_hf.distill(**values)
    values |= {"output_dir": str(tmp_path / "cut"), "dataloader_num_workers": 2}
    interrupted(monkeypatch, values, 2)
    rd_hf.distill(**values, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") and len(losses(tmp_path / "cut")) == 4
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["test"] for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("no_report")
def test_cached_features_equal_the_live_ones(slice_teacher, masks, tmp_path):
    values = settings(slice_teacher, masks, tmp_path / "live", method="drd", cache=False, learning_rate=1e-3)
    rd_hf.distill(**values)
    cached = {"output_dir": str(tmp_path / "cached"), "cache": True, "cache_dtype": "float32", "verify_cache": 4}
    rd_hf.distill(**(values | cached))
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")


def test_a_cache_that_was_built_before_serves_the_run_and_its_report(slice_teacher, masks, tmp_path):
    values = settings(slice_teacher, masks, tmp_path / "run", cache_dir=str(tmp_path / "cache"))
    assert "16 entries, of which this process computed 16" in build(DistillationArguments(**values))
    rd_hf.distill(**values)
    (folder,) = list_folders(tmp_path / "cache")  # that of train; windows of the other splits are not cached
    before = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").unlink()
    assert rd_hf.report(tmp_path / "run")["test"] == before["test"]
    assert FeatureCache(folder, torch.device("cpu")).count() == 16


def test_crops_of_unlabelled_volumes_do_not_depend_on_their_masks(slice_teacher, masks):
    """And the masks of the labelled ones are part of the key, as crops are drawn to them."""
    arguments = DistillationArguments(**settings(slice_teacher, masks, "unused"))
    run_data = load_run_data(arguments)
    present = [mask is not None for mask in run_data.train["mask"]]
    assert np.flatnonzero(present).tolist() == sorted(run_data.labelled_rows.tolist())
    assert len(run_data.unlabelled_rows) == 5


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, []),
        ({"slice_axis": "coronal"}, ["slices.axis"]),
        ({"intensity_window": "0,300"}, ["processor.window"]),
        ({"crop_size": "8,8,6"}, ["image_size", "processor.crop_size", "volumes.crop_size"]),
        ({"shots": 4}, ["volumes.masks", "volumes.rows_with_masks"]),
    ],
)
def test_the_key_of_the_features_says_how_volumes_are_shown(finished, slice_teacher, masks, tmp_path, changes, differs):
    from rd_hf.teacher_cache.key import differences

    _, run = finished
    cache = tmp_path / "cache"
    values = settings(slice_teacher, masks, tmp_path / "run", intensity_window="0,250", max_steps=1)
    arguments = DistillationArguments(**(values | {"cache_dir": str(cache)} | changes))
    key = key_of(arguments)
    (before,) = [folder.key for folder in list_folders(run.parent / "cache") if folder.key["augmentation"]]
    found = [line.split()[0] for line in differences(before, key)]
    assert [name for name in found if name not in ("stages", "grids")] == differs


def test_the_key_of_crops_says_which_values_of_masks_are_foreground(slice_teacher, masks):
    arguments = DistillationArguments(**settings(slice_teacher, masks, "unused"))
    run_data = load_run_data(arguments)
    run_data.open_train(Transforms(VolumeTransform(run_data.volume_processor)), None)
    before = _views_of_volumes(run_data.train, run_data.store)
    run_data.store.masks = MaskReading({0: 1, 1: 0})
    after = _views_of_volumes(run_data.train, run_data.store)
    assert [name for name in before if before[name] != after[name]] == ["classes"]
    assert after["classes"] == {"classes": {"0": 1, "1": 0}, "ignored": [], "are_colors": False}


def key_of(arguments):
    """The key under which a run with these arguments caches its teacher's features."""
    from accelerate import Accelerator

    from rd_hf.training.assembly import build_inputs, build_models

    accelerator, run_data = Accelerator(), load_run_data(arguments)
    models = build_models(arguments, run_data, accelerator)
    run_data.open_train(models.transforms, None)
    return build_inputs(arguments, run_data, models, accelerator).cache.folder.key


@pytest.mark.parametrize("method", ["ce", "drd", "rd_plus"])
def test_classes_of_whole_volumes_from_a_teacher_of_volumes(classes, tmp_path, caplog, method):
    torch.manual_seed(0)
    config = MonaiNetConfig(
        network="ResNet", spatial_dims=3, in_channels=1, image_size=16, num_labels=2,
        arguments=RESNET["arguments"] | {"block_inplanes": [4, 8, 8, 8]},
    )  # fmt: skip
    MonaiNetForImageClassification(config).save_pretrained(tmp_path / "teacher")
    values = settings(tmp_path / "teacher", classes, tmp_path / "run", student=RESNET, method=method)
    values |= {"crop_size": None, "volume_size": 16, "use_unlabeled": method != "ce"}
    if method == "ce":
        values["teacher"] = None
    with caplog.at_level(logging.INFO, "rd_hf"):
        rd_hf.distill(**values)
    run = tmp_path / "run"
    scores = json.loads((run / "metrics.json").read_text())
    assert rd_hf.evaluate(str(run / "student"), str(classes)) == scores["test"]
    told = re.findall("Targets: .*", caplog.text)
    assert told == {"ce": [], "drd": [OF_DRD], "rd_plus": [OF_RD_PLUS]}[method]
    assert AutoImageProcessor.from_pretrained(run / "student").size == [16, 16, 16]
    if method == "drd":
        found = rd_hf.evaluate(str(run / "teacher"), str(classes), backbone=str(tmp_path / "teacher"))
        assert found["auroc"] == pytest.approx(scores["teacher"]["test"]["auroc"], abs=1e-6)


def test_own_skips_show_the_teacher_its_windows_in_0_to_1(slice_teacher, masks, tmp_path, monkeypatch):
    """The reprogrammed teacher is scored with the student's own features of the same windows."""
    extract, shown = Backbone.extract, []

    def watched(self, pixels):
        shown.append((float(pixels.min()), float(pixels.max())))
        return extract(self, pixels)

    monkeypatch.setattr(Backbone, "extract", watched)
    rd_hf.distill(**settings(slice_teacher, masks, tmp_path / "run", skips="own", max_steps=1))
    assert min(low for low, _ in shown) >= 0 and 0.5 < max(high for _, high in shown) <= 1
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= scores["teacher"]["test"]["dice"] <= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"student_image_size": 64},
            "`student_image_size` is only for images, but the data are read as volumes.*`crop_size`",
        ),
        ({"volume_size": 16}, "`volume_size` is only for classes.*`crop_size`"),
        ({"crop_size": 9}, "answers 10 x 10 x 10 voxels for a crop of 9 x 9 x 9: .* a multiple of 2"),
        ({"spacing": 100}, "100 mm the median volume of train has 1 x 1 x 1 voxels, of 12 x 14 x 10 .* smaller"),
        ({"spacing": [1, 1, 5]}, "has 12 x 14 x 2 voxels, of 12 x 14 x 10 in its file"),
        ({"spacing": 0.001}, "has 12000 x 14000 x 12500 voxels, which take 7823.1 GiB, and .* a larger spacing"),
        ({"page": 2}, "`page` is only for images"),
        ({"student": {"model_type": "resnet"}}, "model_type 'resnet', but the data are volumes"),
        (
            {"crop_size": 6, "student": UNET | {"arguments": {"channels": [4, 8, 8], "strides": [2, 2]}}},
            "does not run on volumes of 6 x 6 x 6 voxels.*each side is a multiple of 4: choose another crop_size",
        ),
    ],
)
def test_what_does_not_fit_volumes_is_refused_with_a_way_out(slice_teacher, masks, tmp_path, changes, named):
    with pytest.raises((ArgumentError, ValueError), match=named):
        rd_hf.distill(**settings(slice_teacher, masks, tmp_path / "run", **changes))


def test_arguments_of_volumes_are_refused_for_images(teacher, blobs_npz, tmp_path):
    values = {"teacher": str(teacher), "student": {"model_type": "resnet"}, "dataset": str(blobs_npz)}
    with pytest.raises(ArgumentError, match="`spacing` is only for volumes, but the data is read as images"):
        rd_hf.distill(**values, output_dir=str(tmp_path / "run"), spacing=1)


def test_grid_and_crop_follow_from_the_headers_of_train(slice_teacher, masks, classes, caplog):
    caplog.set_level("INFO", "rd_hf")
    values = settings(slice_teacher, masks, "unused", crop_size=None)
    processor = load_run_data(DistillationArguments(**values)).volume_processor
    # 12 x 14 x 10 voxels of 1 x 1 x 1.25 mm; no side below the 16 voxels that networks of four halvings take
    assert (processor.spacing, processor.crop_size, processor.size) == ([1, 1, 1.25], [16, 16, 16], None)
    finer = load_run_data(DistillationArguments(**(values | {"spacing": 0.25}))).volume_processor
    assert (finer.spacing, finer.crop_size) == ([0.25] * 3, [48, 48, 48])  # of 48 x 56 x 50
    assert "axes to the right, front and head" in caplog.text
    caplog.clear()
    values |= {"dataset": str(classes), "student": RESNET}
    whole = load_run_data(DistillationArguments(**values)).volume_processor
    assert (whole.spacing, whole.crop_size, whole.size) == (None, None, [16, 16, 16])
    assert "axes as in the arrays" in caplog.text and "right, front" not in caplog.text


def test_the_grid_does_not_depend_on_which_rows_a_run_uses(tmp_path):
    """A student alone, which uses few labels, is compared with one that uses all volumes of train."""
    data = write_masks(tmp_path / "data")
    for path in sorted(data.glob("*Tr/*.nii.gz")):
        number = int(path.name[5:7])
        image = nibabel.load(path)
        scaled = image.affine @ np.diag([1 + number / 8] * 3 + [1])
        nibabel.Nifti1Image(np.asarray(image.dataobj), scaled).to_filename(path)
    values = settings(None, data, "unused", method="ce", use_unlabeled=False, shots=1)
    few = load_run_data(DistillationArguments(**values))
    affines = [nibabel.load(path["path"]).affine for path in few.train["image"]]
    median = np.round(np.median([np.abs(np.diag(affine)[:3]) for affine in affines], axis=0), 3).tolist()
    values |= {"method": "rd", "teacher": "unused", "use_unlabeled": True}
    every = load_run_data(DistillationArguments(**values))
    assert few.volume_processor.spacing == every.volume_processor.spacing == median
    assert len(few.labelled_rows) == 1 and len(every.unlabelled_rows) == 7


def test_a_trained_student_keeps_its_grid_and_intensities_unless_others_are_asked_for(finished, slice_teacher, masks):
    _, run = finished
    values = settings(slice_teacher, masks, "unused", student=str(run / "student"), crop_size=None)
    processor = load_run_data(DistillationArguments(**values)).volume_processor
    assert (processor.spacing, processor.crop_size, processor.window) == ([1, 1, 1.25], [8, 8, 8], [0, 250])
    changed = load_run_data(DistillationArguments(**(values | {"spacing": 2, "intensity_window": "1,2"})))
    assert (changed.volume_processor.spacing, changed.volume_processor.window) == ([2, 2, 2], [1, 2])


def test_the_processor_of_a_student_in_hand_is_kept(masks, tmp_path):
    network = {"network": "UNet", "spatial_dims": 3, "in_channels": 1, "arguments": UNET["arguments"]}
    model = MonaiNetForSemanticSegmentation(MonaiNetConfig(**network, num_labels=2))
    processor = rd_hf.RDVolumeProcessor(spacing=2, crop_size=8, intensity="window", window=[0, 300])
    values = settings(None, masks, tmp_path / "run", method="ce", max_steps=1, use_unlabeled=False)
    values = {name: value for name, value in values.items() if name not in ("teacher", "student", "dataset")}
    with pytest.raises(ArgumentError, match="`crop_size` is stated by the student's processor already"):
        rd_hf.distill_from_models((model, processor), None, str(masks), values)
    rd_hf.distill_from_models((model, processor), None, str(masks), values | {"crop_size": None})
    saved = AutoImageProcessor.from_pretrained(tmp_path / "run" / "student")
    assert (saved.spacing, saved.crop_size, saved.window) == ([2, 2, 2], [8, 8, 8], [0, 300])


@pytest.mark.parametrize(
    ("of_student", "named"),
    [
        (
            ViTImageProcessorPil(),
            "ViTImageProcessor.*reads images, but the data are volumes: give an RDVol",
        ),
        (rd_hf.RDVolumeProcessor(spacing=2), "no crop_size, .*give None for the processor and `crop_size`"),
        (rd_hf.RDVolumeProcessor(spacing=2, crop_size=8, channels=2), "channels=2, but the volumes of the data have 1"),
    ],
)
def test_a_processor_in_hand_that_does_not_fit_masks_is_refused(masks, tmp_path, of_student, named):
    network = {"network": "UNet", "spatial_dims": 3, "in_channels": 1, "arguments": UNET["arguments"]}
    model = MonaiNetForSemanticSegmentation(MonaiNetConfig(**network, num_labels=2))
    values = {"output_dir": str(tmp_path / "run"), "method": "ce", "max_steps": 1}
    with pytest.raises(ArgumentError, match=named):
        rd_hf.distill_from_models((model, of_student), None, str(masks), values)


def test_processors_in_hand_that_do_not_fit_classes_are_refused(classes, slice_teacher, tmp_path):
    network = MonaiNetConfig(
        spatial_dims=3,
        in_channels=1,
        image_size=16,
        num_labels=2,
        **{name: value for name, value in RESNET.items() if name != "model_type"},
    )
    model = MonaiNetForImageClassification(network)
    values = {"output_dir": str(tmp_path / "run"), "max_steps": 1}
    crops = rd_hf.RDVolumeProcessor(size=16, crop_size=8)
    with pytest.raises(ArgumentError, match="volumes with classes are resized as a whole: set size"):
        rd_hf.distill_from_models((model, crops), None, str(classes), values | {"method": "ce"})
    teacher, whole = ViTModel.from_pretrained(slice_teacher), rd_hf.RDVolumeProcessor(size=16)
    for processor in (None, whole):
        with pytest.raises(ArgumentError, match="The teacher is a model of images but has .*AutoImageProcessor"):
            rd_hf.distill_from_models((model, whole), (teacher, processor), str(classes), values)


Z_SCORES = rd_hf.RDVolumeProcessor()
WINDOW = rd_hf.RDVolumeProcessor(intensity="window", window=[-100, 300])


@pytest.mark.parametrize(
    ("of_student", "own", "named"),
    [
        (
            WINDOW,
            Z_SCORES,
            "reads the z-scores of each volume, but this run shows the window.*leave `intensity_w",
        ),
        (Z_SCORES, WINDOW, "set `intensity_window` to -100,300"),
        (rd_hf.RDVolumeProcessor(do_normalize=False), Z_SCORES, "student's processor shows 0..1"),
    ],
)
def test_a_teacher_of_other_values_is_refused(of_student, own, named):
    with pytest.raises(ArgumentError, match=f"teacher 'net' .*{named}"):
        _processor_of_teacher(of_student, own, "net")


def test_a_teacher_reads_0_to_1_or_the_values_that_it_was_made_for():
    raw = rd_hf.RDVolumeProcessor(do_normalize=False)
    for own, is_normalised in ((None, False), (raw, False), (Z_SCORES, True)):
        assert _processor_of_teacher(Z_SCORES, own, "net").do_normalize == is_normalised
    assert not _processor_of_teacher(WINDOW, raw, "net").do_normalize


def test_a_cache_of_crops_needs_a_number_of_views_also_without_augmentation(slice_teacher, masks, tmp_path):
    values = settings(slice_teacher, masks, tmp_path / "run", augment=False, num_views="endless")
    with pytest.raises(ArgumentError, match="`num_views` asks for other crops in every epoch: give a number"):
        build(DistillationArguments(**values))


@pytest.mark.parametrize(
    ("device", "batch_size", "slices", "at_once"),
    [
        ("meta", None, None, [4, 4, 2]),
        ("meta", 6, None, [6, 4]),
        ("meta", 6, "slices", [4, 4, 2]),
        ("cpu", 6, None, [1] * 10),
    ],
)
def test_few_volumes_go_through_the_teacher_at_once(device, batch_size, slices, at_once):
    seen = []

    def extract(chunk):
        seen.append(len(chunk))
        return [StageFeature(chunk, None)]

    backbone = SimpleNamespace(batch_size=batch_size, slices=slices, extract=extract)
    store = SimpleNamespace(views=VolumeViews(None, 0, None))
    teacher = VolumeTransform(rd_hf.RDVolumeProcessor(do_normalize=False))
    inputs = VolumeInputs(store, teacher, backbone, None, torch.device(device))
    (feature,) = inputs.run_teacher(range(10), [0] * 10, torch.rand(10, 1, 2, 2, 2))
    assert seen == at_once and len(feature.map) == 10


def test_without_augmentation_crops_still_differ(slice_teacher, masks):
    arguments = DistillationArguments(**settings(slice_teacher, masks, "unused", augment=False))
    run_data = load_run_data(arguments)
    assert run_data.views(arguments) == 2 and arguments.views == 1


def test_the_middle_of_a_volume_is_what_the_evaluation_view_shows(slice_teacher, masks):
    run_data = load_run_data(DistillationArguments(**settings(slice_teacher, masks, "unused", crop_size=[8, 8, 10])))
    run_data.open_train(Transforms(VolumeTransform(run_data.volume_processor)), None)
    row = int(run_data.labelled_rows[0])
    _, shown, mask = run_data.store.fetch(Visit(row, EVALUATION_VIEW, True), True)
    whole = run_data.store.shown(row)
    store = run_data.store
    classes = run_data.volume_processor.labels(store.source_mask(row), store.source(row).affine)
    assert torch.equal(shown, whole[:, 2:10, 3:11]) and torch.equal(mask, classes[2:10, 3:11])
    assert int(mask.sum()) > 0 and len(boxes(1)[0][0]) == 12


def test_volumes_take_half_of_the_cache_limit_and_what_is_beyond_is_read_anew(masks, tmp_path, monkeypatch, caplog):
    """Each of the 12 volumes takes 7 KB on the grid, with its mask: half of 120 KB holds some of each split."""
    shelves = []

    class Watched(Shelf):
        def __init__(self, limit):
            super().__init__(limit)
            shelves.append(self)

    monkeypatch.setattr(store, "Shelf", Watched)
    values = settings(None, masks, tmp_path / "run", method="ce", use_unlabeled=False, shots=None, max_steps=1)
    rd_hf.distill(**values, cache_limit="120kB")
    used = [shelf.used for shelf in shelves]
    assert len(used) == 3 and min(used) > 0 and sum(used) <= sum(shelf.limit for shelf in shelves) <= 60_000
    said = [record.getMessage() for record in caplog.records if "read and resampled anew" in record.getMessage()]
    assert said and all("Raise `cache_limit`" in text for text in said)
    expected = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "whole")}))
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["test"] == expected


@pytest.mark.parametrize("card_images", [False, True])
def test_pictures_of_volumes_are_in_the_card_only_if_asked_for(masks, tmp_path, card_images):
    values = settings(None, masks, tmp_path / "run", method="ce", use_unlabeled=False, max_steps=1)
    rd_hf.distill(**values, card_images=card_images)
    student = tmp_path / "run" / "student"
    assert (tmp_path / "run" / "examples.png").is_file()
    assert (student / "examples.png").is_file() == card_images
    card = (student / "README.md").read_text()
    assert ("(examples.png)" in card) == ("Slices of the best, the median and the worst" in card) == card_images
