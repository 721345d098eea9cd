"""Runs whose unlabelled images lie in tar files: the same training as from a folder, resumed from the step number."""

import logging
import tarfile

import numpy as np
import pytest
from PIL import Image
from stopped_runs import interrupted
from test_teacher_cache import last_weights, settings

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.runtime.checkpoint import CheckpointError
from rd_hf.teacher_cache.key import list_folders
from rd_hf.training import fill_cache

pytestmark = pytest.mark.usefixtures("no_report")


def same(one, other) -> bool:
    return all(np.array_equal(one[name], value) for name, value in other.items())


@pytest.fixture
def images(tmp_path):
    """Two folders with the same 23 images: one with files, one with tar files."""
    generator, folder, shards = np.random.default_rng(3), tmp_path / "files", tmp_path / "shards"
    folder.mkdir()
    shards.mkdir()
    for row in range(23):
        picture = Image.fromarray(generator.integers(0, 256, (24, 20), dtype=np.uint8))
        picture.save(folder / f"{row:02d}.png")
        with tarfile.open(shards / f"{row // 10}.tar", "a") as shard:
            shard.add(folder / f"{row:02d}.png", f"{row:02d}.png")
    return folder, shards


def test_shards_train_as_a_folder_does_and_resume_in_the_same_course(
    tmp_path, teacher, blobs_npz, cache_dir, images, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "rd_hf")
    folder, shards = images
    values = settings(teacher, blobs_npz, tmp_path / "files_run", cache_dtype="float32", unlabeled_dataset=str(folder))
    rd_hf.distill(**values)
    whole = last_weights(tmp_path / "files_run")
    values |= {"output_dir": str(tmp_path / "cut"), "unlabeled_dataset": str(shards)}
    (before,) = list_folders(cache_dir)
    interrupted(monkeypatch, values, 6)
    assert "23 unlabelled images in 3 tar files" in caplog.text
    rd_hf.distill(**values, resume=True, dataloader_num_workers=1)
    assert same(whole, last_weights(tmp_path / "cut"))
    (folder_now,) = [found for found in list_folders(cache_dir) if found.path != before.path]
    assert folder_now.key["rows"] == 60 and before.key["rows"] == 83  # images of shards have no place in a cache
    said = fill_cache.build(DistillationArguments(**values))
    assert "120 entries" in said  # of the 60 images of train in 2 views


def test_means_over_the_views_of_images_in_shards_are_refused(tmp_path, teacher, blobs_npz, images):
    values = settings(teacher, blobs_npz, tmp_path / "run", method="rd_plus", unlabeled_dataset=str(images[1]))
    with pytest.raises(ArgumentError, match="`target_views` to one, or unpack the tar files"):
        rd_hf.distill(**values, target_views="mean")


def test_shards_that_have_changed_end_a_resumed_run(tmp_path, teacher, blobs_npz, images, monkeypatch):
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=3, unlabeled_dataset=str(images[1]))
    interrupted(monkeypatch, values, 2)
    (images[1] / "1.tar").unlink()
    with pytest.raises(CheckpointError):
        rd_hf.distill(**values, resume=True)
