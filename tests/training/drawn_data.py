"""Draws tiny data sets of volumes with a bright box: masks in the Decathlon's layout, or classes in an .npz."""

import json

import nibabel
import numpy as np

SHAPE = (12, 14, 10)
AFFINE = np.diag([1.0, -1.0, 1.25, 1.0])  # of which the second axis runs from front to back


def boxes(count: int, shape=SHAPE):
    """Volumes (N, X, Y, Z) float32, masks uint8 of a box in each, and whether its box is a long one."""
    rng = np.random.default_rng(7)
    volumes = rng.normal(100, 10, (count, *shape)).astype(np.float32)
    masks = np.zeros(volumes.shape, dtype=np.uint8)
    is_long = np.arange(count) % 2
    for number, mask in enumerate(masks):
        x, y, z = rng.integers(1, 4, 3)
        mask[x : x + 4, y : y + (8 if is_long[number] else 4), z : z + 4] = 1
    return volumes + 80 * masks, masks, is_long


def write_masks(folder, count: int = 12):
    """The Decathlon's layout: imagesTr, labelsTr and dataset.json."""
    volumes, masks, _ = boxes(count)
    for name, values in (("imagesTr", volumes), ("labelsTr", masks)):
        (folder / name).mkdir(parents=True)
        for number, value in enumerate(values):
            nibabel.Nifti1Image(value, AFFINE).to_filename(folder / name / f"case_{number:02}.nii.gz")
    cases = [
        {"image": f"./imagesTr/case_{n:02}.nii.gz", "label": f"./labelsTr/case_{n:02}.nii.gz"} for n in range(count)
    ]
    content = {"labels": {"0": "background", "1": "box"}, "modality": {"0": "MR"}, "training": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_classes(path):
    """MedMNIST3D's layout."""
    volumes, _, labels = boxes(28, (12, 12, 12))
    images = np.clip(volumes, 0, 255).astype(np.uint8)
    parts = {"train": slice(0, 16), "val": slice(16, 22), "test": slice(22, 28)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"{name}_labels": labels[part, None] for name, part in parts.items()})
    return path
