"""What is hashed of DICOM volumes, by which caches and fingerprints of data tell one volume from another."""

import hashlib

import numpy as np
from drawn_series import draw_series, enhanced, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from rd_hf.data.volumes.reading import read_volume, volume_bytes


def digest(path):
    return hashlib.sha256(b"".join(volume_bytes(path, "x"))).hexdigest()


def frames_at(path, heights):
    """An enhanced file with one slope, whose frames lie at these heights."""
    dataset = enhanced(positions=[[-10, -20, height] for height in heights])
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleSlope = 1
    return save(dataset, path)


def with_table(path, table, first=0):
    """Slices with a modality LUT in place of slope and intercept."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), first, 16])
    item.add_new("LUTData", "US", [int(value) for value in table])
    paths = draw_series(path, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=Sequence([item]))
    return paths[0]


def test_frames_that_lie_in_another_order_are_another_volume(tmp_path):
    paths = [
        frames_at(tmp_path / f"{number}.dcm", heights)
        for number, heights in enumerate(([22, 26, 30], [22, 30, 26], [30, 26, 22]))
    ]
    values = [read_volume(path, "x").values for path in paths]
    assert not np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])
    assert len({digest(path) for path in paths}) == 3


def test_another_modality_lut_is_another_volume(tmp_path):
    straight = np.arange(512)
    bent = np.where(straight < 2, straight, 511 - straight)  # the same for the stored values 0 and 1
    paths = [
        with_table(tmp_path / "a", straight), with_table(tmp_path / "b", bent),
        with_table(tmp_path / "c", straight, first=1),
        draw_series(tmp_path / "d", RescaleSlope=None, RescaleIntercept=None)[0],
    ]  # fmt: skip
    assert np.array_equal(read_volume(paths[0], "x").values, read_volume(paths[3], "x").values)
    assert len({digest(path) for path in paths}) == 4


def test_a_series_of_slices_keeps_its_digest(tmp_path):
    """So caches that were made of it by earlier versions are found."""
    assert digest(draw_series(tmp_path)[0]) == "c0f6110400f8c8f9918a54ee98fae71d79522f1f606e9d4ed7d7c37263dd329d"
