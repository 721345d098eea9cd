"""Volumes on disk for the crops of a run."""

import errno
import logging
import os
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from torch.utils.data import DataLoader

from rd_hf.data.augmentation import EVALUATION_VIEW, AugmentationParameters
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.masks.reading import MaskReading
from rd_hf.data.open_split import Split
from rd_hf.data.order import Visit
from rd_hf.data.pixel_store import Visits, check_images, collate
from rd_hf.data.pixels import Transforms
from rd_hf.data.volumes.grid_volume import voxel_digest
from rd_hf.data.volumes.shelf import NOWHERE, Shelf, room_on_disk
from rd_hf.data.volumes.store import VolumeStore, tell_padded
from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.data.volumes.views import VolumeViews
from rd_hf.data.volumes.volume import VolumeReading
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.scoring.segmentation import IGNORED_LABEL

LPS = np.diag([-0.8, -1.0, 2.0, 1.0])
MASKS = MaskReading({0: 0, 1: 1, 7: 2}, ignored=(9,))
SHAPES = [(30, 26, 12), (22, 28, 16), (26, 30, 10), (30, 30, 14)]


def save(path, values, affine=LPS):
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Four volumes whose masks are where they are bright; the last has none."""
    generator, images, masks = np.random.default_rng(0), [], []
    for number, shape in enumerate(SHAPES):
        labels = np.zeros(shape, dtype=np.int16)
        labels[6:14, 8:16, 3:8] = 1
        labels[16:19, 10:20, 4:6] = 7
        values = (labels * 100 + generator.normal(0, 20, shape)).astype(np.int16)
        images.append(save(tmp_path / f"image{number}.nii.gz", values))
        masks.append(save(tmp_path / f"mask{number}.nii.gz", labels))
    return images, [*masks[:-1], None]


def table(images, masks=None):
    columns = {"image": images} if masks is None else {"image": images, "mask": masks}
    data = Dataset.from_dict(columns)
    for name in columns:
        data = data.cast_column(name, Image(decode=False))
    return data


def store_of(files, limit=None, masks=MASKS, **settings):
    settings = {"spacing": 1.25, "crop_size": (12, 12, 14)} | settings
    data = table(*files) if masks is not None else table(files[0])
    store = VolumeStore(data, RDVolumeProcessor(**settings), "train", VolumeReading(), masks, limit)
    store.views = VolumeViews(AugmentationParameters(), 3, store.processor.crop_size)
    return store


def test_a_visit_gives_student_teacher_and_mask_of_one_crop(files):
    store = store_of(files)
    student, teacher, mask = store.fetch(Visit(0, 5, True), True)
    assert student.shape == teacher.shape == (1, 12, 12, 14) and mask.shape == (12, 12, 14)
    assert student.dtype == teacher.dtype == torch.float32 and mask.dtype == torch.uint8
    assert teacher.min() >= 0 and teacher.max() <= 1
    mean, deviation = store.statistics(0)
    assert torch.allclose(student, (teacher - mean) / deviation, atol=1e-5)
    assert store.fetch(Visit(0, 5, True), False)[1] is None
    bright = teacher[0] > teacher[0].mean()
    assert teacher[0][mask == 2].mean() > teacher[0][mask == 0].mean() and bright.any()


def test_the_middle_of_a_volume_is_what_the_processor_makes_of_it(files):
    store = store_of(files)
    image, mask = (nibabel.load(paths[1]) for paths in files)
    shown = store.processor.shown(image.get_fdata()[None], LPS)
    assert torch.allclose(store.shown(1), shown, atol=1e-3)
    labels = store.processor.labels(np.asarray(mask.dataobj), LPS)
    classes = torch.where(labels == 7, 2, labels).to(torch.uint8)
    x, y, z = ((n - m) // 2 for n, m in zip(shown.shape[1:], (12, 12, 14), strict=True))
    _, teacher, shown_mask = store.fetch(Visit(1, EVALUATION_VIEW, True), True)
    assert torch.equal(teacher, store.shown(1)[:, x : x + 12, y : y + 12, z : z + 14])
    assert torch.equal(shown_mask, classes[x : x + 12, y : y + 12, z : z + 14])


def test_masks_of_the_source_lie_on_its_own_voxels(files):
    store = store_of(files)
    labels = np.asarray(nibabel.load(files[1][2]).dataobj)
    assert np.array_equal(store.source_mask(2), np.where(labels == 7, 2, labels))
    source = store.source(2)
    assert source.shape == SHAPES[2] and np.allclose(source.affine, LPS) and np.allclose(source.spacing, (0.8, 1, 2))


def test_a_row_without_a_mask_has_no_labels_anywhere(files):
    store = store_of(files)
    assert (store.fetch(Visit(3, 0, False), True)[2] == IGNORED_LABEL).all()
    assert store.source_mask(3).shape == SHAPES[3] and (store.source_mask(3) == IGNORED_LABEL).all()


def test_beyond_the_limit_the_same_is_read_anew_and_said_once(files, caplog):
    kept, live = store_of(files), store_of(files, limit=30_000)
    with caplog.at_level(logging.WARNING):
        for row in range(4):
            for view in (0, 1):
                visit = Visit(row, view, True)
                for one, other in zip(kept.fetch(visit, True), live.fetch(visit, True), strict=True):
                    assert torch.equal(one, other)
            assert torch.equal(kept.shown(row), live.shown(row))
    said = [record.getMessage() for record in caplog.records if "read and resampled anew" in record.getMessage()]
    assert len(said) == 1 and "From row 1 on" in said[0]
    assert 0 < live._shelf.used <= 30_000 < kept._shelf.used


def test_data_loading_processes_share_what_they_have_read(files):
    store = store_of(files)
    visits = [Visit(row, view, True) for view in (0, 1) for row in range(4)]
    expected = [store_of(files).fetch(visit, True) for visit in visits]
    rows = Visits(store, torch.zeros(4, 3), lambda visit: visit.view == 1)
    batches = list(DataLoader(rows, batch_sampler=[visits[:4], visits[4:]], collate_fn=collate, num_workers=2))
    for batch, found in zip(batches, (expected[:4], expected[4:]), strict=True):
        assert torch.equal(batch["student_pixels"], torch.stack([student for student, _, _ in found]))
        assert torch.equal(batch["labels"], torch.stack([mask for _, _, mask in found]))
    assert batches[0]["teacher_pixels"] is None
    assert torch.equal(batches[1]["teacher_pixels"], torch.stack([teacher for _, teacher, _ in expected[4:]]))
    store._reader = None  # this process reads no file
    for visit, (student, _, mask) in zip(visits, expected, strict=True):
        found = store.fetch(visit, False)
        assert torch.equal(found[0], student) and torch.equal(found[2], mask)


def test_classes_have_whole_volumes_at_one_size(files):
    store = store_of(files, masks=None, spacing=None, crop_size=None, size=(12, 16, 20))
    rows = Visits(store, torch.tensor([2, 0, 1, 1]), lambda visit: True)
    batch = collate([rows[Visit(row, 4, row < 3)] for row in range(4)])
    assert batch["student_pixels"].shape == batch["teacher_pixels"].shape == (4, 1, 12, 16, 20)
    assert batch["labels"].tolist() == [2, 0, 1]


def test_a_volume_smaller_than_the_crop_is_padded_and_that_is_said_once(files, caplog, monkeypatch):
    store = store_of(files, crop_size=(12, 32, 14))
    with caplog.at_level(logging.WARNING):
        assert check_images(store, range(4), "error") == {}
        student, _, mask = store.fetch(Visit(0, EVALUATION_VIEW, True), True)
    side = store.shown(0).shape[2]
    assert side < 32 and (mask[:, side:] == IGNORED_LABEL).all() and (mask[:, :side] != IGNORED_LABEL).all()
    mean, deviation = store.statistics(0)
    assert torch.allclose(student[0, :, side:], ((store.shown(0).min() - mean) / deviation).expand(12, 32 - side, 14))
    with caplog.at_level(logging.WARNING):
        tell_padded([store, store])
    (said,) = [record.getMessage() for record in caplog.records if "padded" in record.getMessage()]
    assert said.startswith("8 volumes have fewer voxels on the grid than the crop's 12 x 32 x 14")
    assert "The first is row 0 of" in said
    caplog.clear()
    monkeypatch.setattr(store, "padded_rows", lambda: [2])
    tell_padded([store])
    assert caplog.messages[0].startswith("1 volume has fewer voxels")


def test_identical_voxels_are_found_whatever_the_file(files, tmp_path):
    image = nibabel.load(files[0][0])
    same = save(tmp_path / "same.nii", image.get_fdata().astype(np.float32), np.eye(4))
    store = store_of(([files[0][0], same, files[0][1]], None), masks=None)
    assert check_images(store, range(3), "error") == {}
    digests = store.digests(range(3))
    assert digests[0] == digests[1] != digests[2]
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    assert (voxel_digest(values) == voxel_digest(np.asfortranarray(values))).all()
    assert (voxel_digest(values) != voxel_digest(values.reshape(1, 3, 2, 4))).any()


def test_a_label_without_a_class_is_refused(files, tmp_path):
    path = save(tmp_path / "other.nii.gz", np.full(SHAPES[0], 5, dtype=np.int16))
    with pytest.raises(DataError, match="holds 5, which is no class"):
        store_of((files[0][:1], [path])).decode(0)


def test_other_channels_than_the_models_are_refused(files):
    with pytest.raises(BadImageError, match="image0.nii.gz.* another number of channels .1. than the model reads .2."):
        store_of(files, channels=2).decode(0)


def test_a_shelf_keeps_all_or_nothing():
    shelf, values = Shelf(limit=200), np.arange(30, dtype=np.float32)
    first, empty = shelf.put([values, np.empty(0, dtype=np.int32)])
    assert np.array_equal(shelf.get(first, np.float32, (5, 6)), values.reshape(5, 6))
    assert shelf.get(empty, np.int32, (0,)).shape == (0,)
    assert shelf.put([values[:2], values]) == [NOWHERE, NOWHERE] and shelf.used == 128
    (last,) = shelf.put([values[:3]])
    assert shelf.get(last, np.float32, (3,)).tolist() == [0, 1, 2] and shelf.used == 192


def test_a_full_disk_leaves_the_shelf_as_it_was(monkeypatch):
    shelf, values = Shelf(limit=None), np.arange(30, dtype=np.float32)
    (first,) = shelf.put([values])
    write = os.pwrite

    def write_some(file, content, offset):
        if offset > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content[:50], offset)

    monkeypatch.setattr(os, "pwrite", write_some)
    assert shelf.put([values, values[:2]]) == [NOWHERE, NOWHERE] and shelf.used == 128
    (second,) = shelf.put([values[:16]])
    monkeypatch.undo()
    assert shelf.get(first, np.float32, (30,)).tolist() == values.tolist()
    assert shelf.get(second, np.float32, (16,)).tolist() == values[:16].tolist()


def test_the_processes_of_a_machine_share_half_of_the_free_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (room_on_disk(), room_on_disk(300), room_on_disk(900)) == (500, 300, 500)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (room_on_disk(), room_on_disk(300)) == (125, 75)


def test_an_opened_split_has_a_limit(files):
    transform = VolumeTransform(RDVolumeProcessor(spacing=1.25, crop_size=12))
    split = Split("test", table(files[0][:1]), np.zeros(1), None, volumes=VolumeReading())
    assert split.opened(Transforms(transform), "error").store._shelf.limit > 0
