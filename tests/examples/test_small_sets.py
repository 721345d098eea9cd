"""`examples/compare/small_sets.py`: the splits stay those of the volumes, and a slice has the class of its quarter."""

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "examples" / "compare" / "small_sets.py"
SHAPE = (60, 12, 30)  # wider and lower than a slice


@pytest.fixture
def decathlon(tmp_path):
    """Volumes whose structure is from 2 to 9 along the second axis; each slice is brighter than the one before."""
    folder = tmp_path / "task"
    splits = {"train": ["a.nii.gz"], "validation": ["b.nii.gz"], "test": ["c.nii.gz"]}
    for kind in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / kind).mkdir(parents=True)
    (folder / "splits.json").write_text(json.dumps(splits))
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[20:30, 2:10, 10:20] = 2
    for number, (split, (name,)) in enumerate(splits.items(), start=1):
        volume = np.broadcast_to(np.arange(12.0)[None, :, None], SHAPE) * 1000 * number
        kind = "Ts" if split == "test" else "Tr"
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"images{kind}" / name)
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / f"labels{kind}" / name)
    return folder


def test_two_files_in_the_layout_of_medmnist(decathlon, tmp_path):
    rows = {"train": 700, "val": 20, "test": 30}
    whole = {f"{split}_labels": np.arange(count)[:, None] for split, count in rows.items()}
    whole |= {f"{split}_images": np.zeros((count, 28, 28), np.uint8) for split, count in rows.items()}
    np.savez(tmp_path / "whole.npz", **whole)
    line = [sys.executable, str(SCRIPT), str(decathlon), str(tmp_path / "whole.npz"), str(tmp_path / "sets")]
    subprocess.run(line, check=True)

    slices = np.load(tmp_path / "sets" / "hippocampus_slices.npz")
    for split in rows:
        images, labels = slices[f"{split}_images"], slices[f"{split}_labels"]
        assert images.shape == (8, 48, 48) and labels[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        grey = images[:, 24, 24].astype(int)
        assert (np.diff(grey) > 0).all() and grey[0] == pytest.approx(2 / 11 * 255, abs=1)
        assert (images[:, :9] == 0).all() and (images[:, 9:39].max(axis=(1, 2)) == grey).all()
    assert slices["classes"].tolist() == ["quarter 1", "quarter 2", "quarter 3", "quarter 4"]

    part = np.load(tmp_path / "sets" / "pneumonia_600.npz")
    assert [len(part[f"{split}_labels"]) for split in rows] == [600, 20, 30]
    kept = part["train_labels"][:, 0]
    assert (np.diff(kept) > 0).all() and len(part["train_images"]) == 600
