"""Splits of images with masks, and which of them keep their masks."""

import logging

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, List, Value

from rd_hf.data.columns import DataError
from rd_hf.data.image_data import ImageData
from rd_hf.data.masks.reading import MaskReading
from rd_hf.data.splits import choose_labelled, complete_splits

NAMES = ["background", "a", "b", "c"]


def marks(counts):
    return (counts > 0).astype(np.int64)


def image_data(present, names=NAMES):
    """Data of images in which the named classes are present; every image has background."""
    counts = np.concatenate([np.ones((len(present), 1), dtype=np.int64), np.asarray(present, dtype=np.int64)], axis=1)
    files = [{"bytes": None, "path": str(row)} for row in range(len(counts))]
    rows = Dataset.from_dict({"image": files, "label": counts.tolist()})
    rows = rows.cast_column("label", List(Value("int64"), length=len(names)))
    reading = MaskReading({index: index for index in range(len(names))})
    return ImageData(DatasetDict(train=rows), list(names), "segmentation", {"id": "local"}, masks=reading)


def drawn(present, shots, seed=0):
    names = NAMES[: np.shape(present)[1] + 1]
    return np.asarray(present)[choose_labelled(image_data(present, names), marks, shots, None, seed).rows]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shots", [1, 4, 10, 37])
def test_shots_are_images_with_the_classes_in_their_shares(shots, seed):
    present = np.repeat([[1, 0], [0, 1], [0, 0]], [50, 30, 20], axis=0)
    chosen = drawn(present, shots, seed)
    assert len(chosen) == shots
    if shots > 1:
        shares = np.array([chosen[:, 0].sum(), chosen[:, 1].sum(), (chosen.sum(axis=1) == 0).sum()])
        assert np.abs(shares - shots * np.array([0.5, 0.3, 0.2])).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_each_foreground_class_has_an_image_where_there_is_room(seed):
    present = np.repeat([[1, 0, 0], [1, 1, 0], [0, 0, 1]], [200, 2, 1], axis=0)
    assert (drawn(present, 3, seed).sum(axis=0) > 0).all()
    assert drawn(present, 1, seed).tolist() == [[0, 0, 1]]  # the rarest


def test_shots_depend_on_the_seed_and_never_exceed_the_images(caplog):
    present = np.repeat([[1], [0]], [40, 20], axis=0)
    data = image_data(present, NAMES[:2])
    first, again, other = (choose_labelled(data, marks, 10, None, seed).rows.tolist() for seed in (0, 0, 1))
    assert first == again != other
    caplog.set_level(logging.WARNING)
    everything = choose_labelled(data, marks, 100, None, 0)
    assert len(everything.rows) == 60 and len(everything.unlabelled_rows) == 0
    assert "train has 60 rows with masks, fewer than shots = 100" in caplog.text


def test_label_fraction_and_made_splits_keep_the_share_of_empty_images():
    present = np.repeat([[1], [0]], [80, 40], axis=0)
    data = image_data(present, NAMES[:2])
    rows = choose_labelled(data, marks, None, 0.25, 0).rows
    assert (len(rows), present[rows].sum()) == (30, 20)
    made = complete_splits(data, marks, 0.15, 0.15, 0)
    foreground = {name: (made.labels(name)[:, 1] > 0).mean() for name in made.splits}
    assert all(abs(share - 2 / 3) < 0.1 for share in foreground.values())
    assert made.masks == data.masks and made.labels("test").dtype == np.int64


def test_a_class_that_no_mask_of_train_has_is_named():
    with pytest.raises(DataError, match="no mask of train has class 'b'.*classes.txt"):
        complete_splits(image_data([[1, 0], [1, 0]], NAMES[:3]), marks, 0.2, 0.2, 0)
