"""Two of the data sets of four_sets.yaml: slices of the hippocampus, and a part of PneumoniaMNIST.

    python examples/compare/small_sets.py ../shared/data/hippocampus ../shared/data/pneumoniamnist.npz runs/small_sets

The first argument is the hippocampus of the Medical Segmentation Decathlon, with a `splits.json` that divides its
files into train, validation and test. A coronal slice has the class of its quarter of the hippocampus, counted from the
back; the slices are in 0..255 by the percentiles of their volume. Of PneumoniaMNIST 600 train and 300 validation images
are kept, so that the features of a teacher take minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np

SIDE = 48
SLICES = {"train": 600, "validation": 180, "test": 450}
KEYS = {"train": "train", "validation": "val", "test": "test"}  # of MedMNIST's files
PNEUMONIA = {"train": 600, "val": 300}


def slices_of(image: Path, mask: Path) -> tuple[list[np.ndarray], list[int]]:
    """Coronal slices (48, 48) of a volume that show its structure, and the quarter of it that each one shows."""
    values = np.asarray(nibabel.load(image).dataobj, dtype=np.float64)
    shown = np.flatnonzero((np.rint(np.asarray(nibabel.load(mask).dataobj)) > 0).any(axis=(0, 2)))
    low, high = np.percentile(values, (0.5, 99.5))
    grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    first, behind = shown[0], shown[-1] + 1
    quarters = [int(4 * (place - first) / (behind - first)) for place in range(first, behind)]
    return [_square(grey[:, place].T[::-1]) for place in range(first, behind)], quarters


def _square(grey: np.ndarray) -> np.ndarray:
    """The middle of an image, on a black square."""
    square = np.zeros((SIDE, SIDE), dtype=np.uint8)
    height, width = (min(side, SIDE) for side in grey.shape)
    rows, columns = ((side - kept) // 2 for side, kept in zip(grey.shape, (height, width), strict=True))
    down, right = (SIDE - height) // 2, (SIDE - width) // 2
    square[down : down + height, right : right + width] = grey[rows : rows + height, columns : columns + width]
    return square


def write_slices(folder: Path, target: Path) -> None:
    """Write the slices of a folder of the Decathlon, those of a split drawn from its volumes."""
    draws, values = np.random.default_rng(0), {}
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    for split, most in SLICES.items():
        images, quarters = [], []
        for name in splits[split]:
            kind = next(kind for kind in ("Tr", "Ts") if (folder / f"images{kind}" / name).exists())
            of_volume = slices_of(folder / f"images{kind}" / name, folder / f"labels{kind}" / name)
            images += of_volume[0]
            quarters += of_volume[1]
        kept = np.sort(draws.permutation(len(images))[:most])
        values[f"{KEYS[split]}_images"] = np.stack(images)[kept]
        values[f"{KEYS[split]}_labels"] = np.array(quarters)[kept, None]
    classes = np.array([f"quarter {number}" for number in range(1, 5)])
    np.savez(target, classes=classes, **values)


def write_part(source: Path, target: Path) -> None:
    """Write a file of MedMNIST with fewer images."""
    draws, values = np.random.default_rng(0), dict(np.load(source))
    for split, most in PNEUMONIA.items():
        kept = np.sort(draws.permutation(len(values[f"{split}_labels"]))[:most])
        values |= {name: values[name][kept] for name in (f"{split}_images", f"{split}_labels")}
    np.savez(target, **values)


def main() -> None:
    """Parse the arguments and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hippocampus", type=Path, help="folder of the Decathlon's task, with splits.json")
    parser.add_argument("pneumonia", type=Path, help="pneumoniamnist.npz")
    parser.add_argument("folder", type=Path, help="where the two files go")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_slices(options.hippocampus, options.folder / "hippocampus_slices.npz")
    write_part(options.pneumonia, options.folder / "pneumonia_600.npz")


if __name__ == "__main__":
    main()
