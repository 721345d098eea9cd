"""NIfTI files of predictions: types, the source's grid to the bit, and nothing else of the source."""

import nibabel
import numpy as np
import pytest
from drawn_series import draw_series

from rd_hf.data.volumes.nifti_writing import write_nifti

AFFINE = np.array([[0, 2, 0, 7], [-3, 0, 0, 8], [0, 0, 4, -9], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.arange(24), np.uint8), (np.arange(24) > 3, np.uint8), (np.arange(24) + 250, np.uint16),
        (np.arange(24) + 70_000, np.uint32), (np.arange(24) / 7, np.float32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_smallest_type_holds_the_values(tmp_path, values, dtype, name):
    values = values.reshape(2, 3, 4)
    write_nifti(values, AFFINE, tmp_path / name)
    written = nibabel.load(tmp_path / name)
    assert written.get_data_dtype() == dtype and written.header.get_slope_inter() == (None, None)
    assert np.array_equal(np.asarray(written.dataobj), values.astype(dtype))
    assert np.allclose(written.affine, AFFINE) and np.allclose(written.get_qform(), AFFINE, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("sform", "qform", "unit"), [(1, 0, "mm"), (0, 3, "mm"), (2, 1, "micron"), (0, 0, "unknown")])
def test_the_grid_of_a_nifti_source_is_kept_to_the_bit(tmp_path, sform, qform, unit):
    source = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), AFFINE)
    source.set_sform(AFFINE + 1e-3, sform)
    source.set_qform(AFFINE, qform)
    source.header.set_xyzt_units(unit)
    source.header["descrip"], source.header["db_name"] = b"Doe Jane", b"4711-secret"
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe Jane"))
    source.to_filename(tmp_path / "source.nii.gz")
    write_nifti(np.ones((2, 3, 4), np.int64), np.eye(4), tmp_path / "a.nii", like=tmp_path / "source.nii.gz")
    written, kept = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "source.nii.gz")
    assert np.array_equal(written.affine, kept.affine)
    for field in ("sform_code", "qform_code", "srow_x", "quatern_c", "qoffset_z", "xyzt_units"):
        assert np.array_equal(written.header[field], kept.header[field])
    assert b"Doe" not in (tmp_path / "a.nii").read_bytes() and b"4711" not in (tmp_path / "a.nii").read_bytes()
    with pytest.raises(ValueError, match="grid"):
        write_nifti(np.ones((2, 3, 5)), np.eye(4), tmp_path / "b.nii", like=tmp_path / "source.nii.gz")


def test_the_affine_is_taken_where_the_source_is_dicom(tmp_path):
    path = draw_series(tmp_path / "ct")[0]
    write_nifti(np.ones((5, 6, 4, 2)), AFFINE, tmp_path / "a.nii.gz", like=path)
    written = nibabel.load(tmp_path / "a.nii.gz")
    assert written.shape == (5, 6, 4, 2) and np.allclose(written.affine, AFFINE)
