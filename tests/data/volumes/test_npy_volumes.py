"""Arrays of .npz files, as the bytes of NumPy's format."""

import io

import numpy as np
import pytest

from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.volumes.reading import header_of, read_labels, read_volume, volume_bytes
from rd_hf.data.volumes.volume import VolumeReading


def row(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return {"bytes": file.getvalue(), "path": None}


def refusal(source, read=read_volume):
    with pytest.raises(BadImageError, match=r"^row 3 is not a readable (label )?volume: .*[^.]\.$") as caught:
        read(source, "row 3")
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i2", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_their_axes(dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype=dtype, order=order)
    volume = read_volume(row(array), "x")
    assert volume.values.dtype == np.float32 and np.array_equal(volume.values[0], array)
    assert np.array_equal(volume.affine, np.eye(4)) and header_of(row(array), "x").shape == (2, 3, 4)
    labels = read_labels(row(array), "x")
    assert labels.values.dtype == np.int32 and np.array_equal(labels.values, array)
    assert b"".join(volume_bytes(row(array), "x")) == row(array)["bytes"]


def test_channels_along_the_last_axis():
    array = np.arange(48).reshape(2, 3, 4, 2)
    volume = read_volume(row(array), "x", VolumeReading(2, True))
    assert np.array_equal(volume.values, np.moveaxis(array, -1, 0)) and header_of(row(array), "x").channels == 2
    assert "`volume_channels` 2" in refusal(row(array))
    assert read_volume(row(array[..., :1]), "x", VolumeReading(1, True)).values.shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((3, 4)), "shape 3 x 4: a volume has three axes"),
        (np.ones((3, 0, 4)), "shape 3 x 0 x 4"),
        (np.float32([[[1, np.nan]]]), "1 of its 2 voxels is NaN"),
        (np.ones((2, 2, 2), complex), "of type complex128"),
        (np.full((2, 2, 2), "a"), "of type <U1"),
    ],
)
def test_arrays_that_are_no_volume(array, words):
    assert words in refusal(row(array)) and words in refusal(row(array), read_labels)


def test_pickles_and_cut_arrays_are_refused():
    assert "of type object" in refusal(row(np.full((2, 2, 2), None), allow_pickle=True))
    whole = row(np.ones((4, 4, 4)))["bytes"]
    assert "it is cut off: its header promises 640 bytes" in refusal({"bytes": whole[:-1], "path": None})
    assert "a damaged NumPy array" in refusal({"bytes": whole[:20], "path": None})
    unclosed = whole.replace(b"(4, 4, 4)", b"(4, 4, 4 ").replace(b"}", b" ")
    assert "a damaged NumPy array" in refusal({"bytes": unclosed, "path": None})
    huge = whole.replace(b"(4, 4, 4)", b"(9999, 9999, 9999)")
    assert "cut off" in refusal({"bytes": huge, "path": None}) or "damaged" in refusal({"bytes": huge, "path": None})
    assert "neither bytes nor a path" in refusal({"bytes": None, "path": None})


def test_labels_that_are_none():
    assert "it holds -1, but labels" in refusal(row(np.full((1, 1, 2), -1)), read_labels)
    assert "it holds 0.5, but labels" in refusal(row(np.full((1, 1, 2), 0.5)), read_labels)
