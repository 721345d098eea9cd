"""Volumes on a model's grid, and masks back on the voxels of their sources."""

import itertools
import json
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor

from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.models.volume_grid import classes_on_source, resized

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]  # fmt: skip
PLANE = 0.3  # radians


def affine_of(axes=(0, 1, 2), signs=(1, 1, 1), spacing=(1, 1, 1), oblique=False):
    """Array axis i runs along RAS axis axes[i], in direction signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (to, sign, side) in enumerate(zip(axes, signs, spacing, strict=True)):
        affine[to, axis] = sign * side
    if oblique:
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(PLANE), -np.sin(PLANE)], [np.sin(PLANE), np.cos(PLANE)]]
        affine = turn @ affine
    affine[:3, 3] = (-20, 30, 5)
    return affine


def one_hot(labels):
    return F.one_hot(labels.long()).movedim(-1, 0).float()


def dice(one, other):
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def ball(shape, spacing, share=0.7):
    """A ball in millimetres, in the middle of an array."""
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    radius = share * min(n * side for n, side in zip(shape, spacing, strict=True)) / 2
    return sum((axis * side) ** 2 for axis, side in zip(axes, spacing, strict=True)) <= radius**2


@pytest.mark.parametrize("oblique", [False, True])
def test_labels_come_back_as_they_were_from_each_of_the_48_orientations(oblique):
    labels = np.random.default_rng(0).integers(0, 4, (7, 6, 5)).astype(np.uint8)
    processor = RDVolumeProcessor()
    for axes, signs in ORIENTATIONS:
        affine = affine_of(axes, signs, (0.7, 1.2, 2.5), oblique)
        on_grid = processor.labels(labels, affine)
        assert tuple(on_grid.shape) == processor.grid(labels.shape, affine)
        back = classes_on_source(one_hot(on_grid), labels.shape, affine)
        assert np.array_equal(back, labels), (axes, signs)


def test_the_grid_runs_to_the_right_the_front_and_the_head():
    """The place in the patient is written in the voxels: channel i holds the millimetres along RAS axis i."""
    processor = RDVolumeProcessor(channels=3, percentiles=(0, 100))
    indices = np.stack(np.meshgrid(*map(np.arange, (5, 6, 7)), indexing="ij"))
    for axes, signs in ORIENTATIONS:
        affine = affine_of(axes, signs, (0.7, 1.2, 2.5))
        millimetres = np.einsum("ij,jxyz->ixyz", affine[:3, :3], indices) + affine[:3, 3].reshape(3, 1, 1, 1)
        shown = processor.shown(millimetres.astype(np.float32), affine)
        for axis in range(3):
            ramp = torch.linspace(0, 1, shown.shape[1 + axis]).view([-1 if i == axis else 1 for i in range(3)])
            assert torch.allclose(shown[axis], ramp.expand(shown.shape[1:]), atol=1e-5), (axes, signs)


@pytest.mark.parametrize("spacing", [1.0, (2, 1.5, 1), (0.6, 0.6, 3)])
def test_a_resampled_mask_lies_where_it_was(spacing):
    processor = RDVolumeProcessor(spacing=spacing)
    shape, sides = (40, 36, 15), (0.8, 1.0, 2.5)
    labels = ball(shape, sides)
    labels[:4, :4, :4] = True  # by which a mirrored mask would be another one
    for axes, signs in ORIENTATIONS:
        affine = affine_of(axes, signs, sides)
        on_grid = processor.labels(labels.astype(np.uint8), affine)
        back = classes_on_source(one_hot(on_grid), shape, affine)
        assert tuple(back.shape) == shape
        assert dice(back.bool().numpy(), labels) > 0.93, (axes, signs)


def test_the_grid_covers_the_field_of_view_at_the_wanted_spacing():
    affine = affine_of((2, 0, 1), (1, -1, 1), (3.0, 0.5, 0.75))
    processor = RDVolumeProcessor(spacing=(1, 1.5, 2))
    assert processor.grid((10, 64, 41), affine) == (32, 20, 15)
    assert np.allclose(processor.grid_spacing((10, 64, 41), affine), (1, 41 * 0.75 / 20, 2))
    assert RDVolumeProcessor().grid((10, 64, 41), affine) == (64, 41, 10)
    assert RDVolumeProcessor(size=24).grid((10, 64, 41), affine) == (24, 24, 24)
    assert RDVolumeProcessor(spacing=100).grid((10, 64, 41), affine) == (1, 1, 1)


def test_labels_are_those_of_torchs_nearest_exact():
    labels = torch.randint(0, 9, (13, 8, 21), dtype=torch.uint8)
    for size in ((7, 8, 50), (26, 3, 21), (1, 1, 1)):
        expected = F.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0, 0]
        assert torch.equal(RDVolumeProcessor(size=size).labels(labels, np.eye(4)).float(), expected)


def test_what_grows_is_interpolated_as_torch_does_and_what_shrinks_is_averaged():
    values = torch.rand(2, 9, 12, 10)
    expected = F.interpolate(values[None], (20, 12, 31), mode="trilinear", align_corners=False)[0]
    assert torch.allclose(resized(values, (20, 12, 31)), expected, atol=1e-5)
    stripes = (torch.arange(64) % 2).float().view(1, -1, 1, 1).expand(1, 64, 2, 2)
    assert (resized(stripes, (9, 2, 2)) - 0.5).abs().max() < 0.06  # without averaging 0 or 1


def test_a_window_is_shown_from_0_to_1_and_normalised_around_0():
    processor = RDVolumeProcessor(intensity="window", window=(-160, 240))
    values = np.array([-1000, -160, 40, 240, 3000], dtype=np.float32).reshape(1, 5, 1, 1)
    shown = processor.shown(values, np.eye(4))
    assert shown.flatten().tolist() == [0, 0, 0.5, 1, 1]
    assert processor.normalized(shown).flatten().tolist() == [-1, -1, 0, 1, 1]
    assert values[0, 0, 0, 0] == -1000  # the caller's voxels are left alone


def test_percentiles_are_those_of_the_sources_voxels_and_scores_those_of_the_volume():
    values = np.random.default_rng(1).gamma(2, 100, (2, 30, 20, 10)).astype(np.float32) * [[[[1]]], [[[7]]]]
    processor = RDVolumeProcessor(channels=2, spacing=2)
    shown = processor.shown(values.astype(np.float32), np.eye(4))
    low, high = np.percentile(values[1], (0.5, 99.5))
    expected = ((resized(torch.from_numpy(values).float(), (15, 10, 5))[1] - low) / (high - low)).clamp(0, 1)
    assert torch.allclose(shown[1], expected, atol=1e-4)
    normalized = processor.normalized(shown)
    assert torch.allclose(normalized.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(normalized.std(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    crop = processor.normalized(shown[:, 2:6, 3:7, 1:3], processor.statistics(shown))
    assert torch.equal(crop, normalized[:, 2:6, 3:7, 1:3])


def test_a_model_that_reads_0_to_1_gets_it():
    shown = torch.rand(1, 4, 4, 4)
    assert torch.equal(RDVolumeProcessor(do_normalize=False).normalized(shown), shown)


@pytest.mark.parametrize("value", [0.0, -1000.0, 7.5])
def test_a_volume_of_one_value_is_zero_throughout(value):
    pixels = RDVolumeProcessor(spacing=0.7)(np.full((1, 4, 5, 6), value, dtype=np.float32))["pixel_values"]
    assert pixels.shape == (1, 1, 6, 7, 9) and pixels.abs().max() == 0


def test_a_few_bright_voxels_are_seen():
    values = np.zeros((1, 20, 20, 20), dtype=np.float32)
    values[0, 3, 4, 5] = 1  # both percentiles are 0
    shown = RDVolumeProcessor().shown(values, np.eye(4))
    assert shown[0, 3, 4, 5] == 1 and shown.sum() == 1


def nifti(folder, name, values, affine):
    path = folder / name
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def test_files_of_several_sizes_make_a_batch_and_their_masks_have_the_files_voxels(tmp_path):
    generator = np.random.default_rng(3)
    shapes, affines = [(9, 8, 7), (6, 11, 5)], [affine_of((1, 2, 0), (-1, 1, -1)), affine_of((0, 2, 1), (1, 1, -1))]
    volumes = [generator.integers(0, 2, shape).astype(np.int16) for shape in shapes]
    paths = [
        str(nifti(tmp_path, f"{number}.nii.gz", volume, affine))
        for number, (volume, affine) in enumerate(zip(volumes, affines, strict=True))
    ]
    processor = RDVolumeProcessor(percentiles=(0, 100), crop_size=(8, 4, 4), do_normalize=False)
    pixels = processor(paths)["pixel_values"]
    assert pixels.shape == (2, 1, 8, 9, 11)  # of grids 7 x 9 x 8 and 6 x 5 x 11
    assert pixels[0, 0, 7].abs().max() == 0 and pixels[1, 0, :, 5:].abs().max() == 0
    outputs = SimpleNamespace(logits=torch.cat([1 - pixels, pixels], dim=1))
    maps = processor.post_process_semantic_segmentation(outputs, paths)
    assert all(np.array_equal(found, volume) for found, volume in zip(maps, volumes, strict=True))
    arrays = processor.post_process_semantic_segmentation(outputs, [v[None] for v in volumes], affines)
    assert all(torch.equal(one, other) for one, other in zip(maps, arrays, strict=True))


def test_a_file_in_metres_lies_where_the_one_in_millimetres_does(tmp_path):
    values = np.random.default_rng(4).normal(size=(5, 6, 7)).astype(np.float32)
    affine = affine_of(spacing=(2, 3, 4))
    images = [nibabel.Nifti1Image(values, np.diag([scale] * 3 + [1]) @ affine) for scale in (1, 0.001, 1000)]
    for image, unit in zip(images, ("mm", "meter", "micron"), strict=True):
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / f"{unit}.nii")
    processor = RDVolumeProcessor(spacing=1)
    expected = processor(values, affine)["pixel_values"]
    assert expected.shape == (1, 1, 10, 18, 28)
    for unit in ("mm", "meter", "micron"):
        found = processor(tmp_path / f"{unit}.nii")["pixel_values"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_coarse_logits_are_resized_to_the_padded_batch():
    """A network that halves its input says nothing finer than blocks of two voxels, of what was padded as well."""
    labels = np.repeat(np.arange(12).reshape(6, 2, 1) % 3 == 0, 2, axis=0).repeat(2, axis=1).repeat(4, axis=2)
    processor = RDVolumeProcessor(crop_size=(16, 8, 8), do_normalize=False)
    pixels = processor(labels.astype(np.float32))["pixel_values"]
    assert pixels.shape == (1, 1, 16, 8, 8)
    coarse = F.avg_pool3d(pixels, 2)
    outputs = SimpleNamespace(logits=torch.cat([0.5 - coarse, coarse - 0.5], dim=1))
    (found,) = processor.post_process_semantic_segmentation(outputs, labels.astype(np.float32))
    assert dice(found.bool().numpy(), labels) > 0.7


def test_logits_that_are_not_finite_make_no_mask():
    logits = torch.zeros(2, 2, 4, 4, 4)  # two volumes of two channels
    logits[1, 1, 2, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="The model's output for volume 1 is not finite"):
        RDVolumeProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=logits), np.zeros(logits.shape))


def test_volumes_come_as_paths_images_arrays_and_files_of_channels(tmp_path):
    values = np.random.default_rng(4).normal(size=(5, 6, 7, 2)).astype(np.float32)
    affine = affine_of((0, 1, 2), (-1, -1, 1))
    parts = [str(nifti(tmp_path, f"case_000{i}.nii", values[..., i], affine)) for i in range(2)]
    four = nifti(tmp_path, "four.nii", values, affine)
    processor = RDVolumeProcessor(channels=2)
    expected = processor(np.moveaxis(values, 3, 0), affine)["pixel_values"]
    assert torch.equal(processor([parts])["pixel_values"], expected)
    assert torch.equal(processor(four)["pixel_values"], expected)
    assert torch.equal(processor([nibabel.load(four)])["pixel_values"], expected)
    assert torch.equal(processor(torch.from_numpy(np.moveaxis(values, 3, 0)), [affine])["pixel_values"], expected)
    assert isinstance(processor(four, return_tensors="np")["pixel_values"], np.ndarray)


@pytest.mark.parametrize(
    ("images", "affines", "words"),
    [
        (np.zeros((2, 4, 4, 4)), None, "1 channel.*has 2"),
        (np.zeros((4, 4)), None, "shape \\(4, 4\\)"),
        (np.full((4, 4, 4), np.nan), None, "NaN"),
        ([np.zeros((4, 4, 4))], [np.eye(4), np.eye(4)], "1 volumes and 2 affines"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4)), "affine"),
        (np.zeros((4, 4, 4)), np.diag([1, 1, np.nan, 1]), "affine"),
    ],
)
def test_what_is_no_volume_is_refused(images, affines, words):
    with pytest.raises(ValueError, match=words):
        RDVolumeProcessor()(images, affines)


@pytest.mark.parametrize(
    "settings",
    [
        {"spacing": 0}, {"spacing": (1, 1)}, {"size": (64, 64, -1)}, {"intensity": "ct"}, {"window": (0, 80)},
        {"intensity": "window"}, {"intensity": "window", "window": (80, 0)}, {"percentiles": (0, 101)},
        {"channels": 0}, {"overlap": 1},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}|`window`"):
        RDVolumeProcessor(**settings)


def test_without_nibabel_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel.orientations", None)
    with pytest.raises(ImportError, match="pip install nibabel"):
        RDVolumeProcessor().grid((4, 4, 4), np.eye(4))


def test_it_is_saved_as_plain_numbers_and_found_by_its_name(tmp_path):
    processor = RDVolumeProcessor(
        spacing=np.array([1, 1.5, 2], dtype=np.float32), crop_size=np.int64(96), intensity="window",
        window=np.array([-1350, 150]), overlap=np.float64(0.25),
    )  # fmt: skip
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["spacing"] == [1, 1.5, 2] and saved["crop_size"] == [96, 96, 96] and saved["window"] == [-1350, 150]
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is RDVolumeProcessor and loaded.to_dict() == processor.to_dict()
    changed = AutoImageProcessor.from_pretrained(tmp_path, overlap=0.5, spacing=3.0)
    assert changed.overlap == 0.5 and changed.spacing == [3, 3, 3] and changed.window == [-1350, 150]


def test_processors_of_images_are_found_as_ever(tmp_path):
    """MONAI's networks of images have them too, and it is under their configuration that this one is registered."""
    from transformers import ViTImageProcessorPil

    from rd_hf.models.configuration_monai import MonaiNetConfig

    MonaiNetConfig().save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path, backend="pil")) is ViTImageProcessorPil
