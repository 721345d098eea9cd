"""Damaged files, at random: either a volume is read, or one sentence names the file."""

import gzip
import warnings

import nibabel
import numpy as np
import pytest
from drawn_series import draw_series, enhanced, save

from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.volumes.reading import header_of, read_labels, read_volume, volume_bytes


def nifti(folder):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1, 2, 3, 1.0]))
    image.to_filename(folder / "a.nii")
    return folder / "a.nii"


def packed_nifti(folder):
    path = folder / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti(folder).read_bytes(), mtime=0))
    return path


def array(folder):
    np.save(folder / "a.npy", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    return folder / "a.npy"


def series(folder):
    return draw_series(folder)[1]


def frames(folder):
    return save(enhanced(), folder / "e.dcm")


def damaged(content, rng):
    """Some bytes changed, most of them in the first kilobyte, where headers are; or the end cut off."""
    changed = bytearray(content)
    if rng.random() < 0.3:
        return bytes(changed[: rng.integers(len(changed))])
    reach = len(changed) if rng.random() < 0.3 else min(len(changed), 1024)
    start, count = rng.integers(reach), rng.integers(1, 9)
    fill = [rng.integers(0, 256, count), np.zeros(count), np.full(count, 255)][rng.integers(3)]
    changed[start : start + count] = fill.astype(np.uint8).tobytes()
    return bytes(changed)


@pytest.mark.parametrize(
    ("draw", "damages"), [(nifti, 60), (packed_nifti, 60), (array, 60), (series, 15), (frames, 15)]
)
def test_damaged_files_are_told_in_a_sentence(tmp_path, draw, damages):
    path, rng = draw(tmp_path), np.random.default_rng(11)
    content, refused = path.read_bytes(), 0
    for _ in range(damages):
        path.write_bytes(damaged(content, rng))
        for read in (read_volume, header_of, read_labels, lambda row, where: list(volume_bytes(row, where))):
            for row in ({"bytes": None, "path": str(path)}, {"bytes": path.read_bytes(), "path": str(path)}):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        read(row, "row 3")
                except BadImageError as error:
                    words = str(error)
                    assert words.startswith(f"row 3 ({path}) is not a readable ") and words.endswith(".")
                    assert "\n" not in words and "Doe" not in words and "secret" not in words
                    refused += 1
    assert refused > damages


def test_a_damaged_stream_of_gzip_never_becomes_other_values(tmp_path):
    path, rng = packed_nifti(tmp_path), np.random.default_rng(5)
    expected, content = read_volume(path, "x").values, path.read_bytes()
    for place in rng.integers(10, len(content), 40):  # after the fields of gzip that mean nothing to the content
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        try:
            found = read_volume({"bytes": bytes(changed), "path": None}, "x").values
        except BadImageError:
            continue
        assert np.array_equal(found, expected)
