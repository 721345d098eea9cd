"""Draws tiny NIfTI files, each with one value that tells it from the others."""

import nibabel
import numpy as np

SHAPE = (4, 3, 5)
AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
ORGAN = np.zeros(SHAPE, dtype=np.uint8)
ORGAN[:2, 1, 2:] = 1


def write_volume(path, value=0, affine=AFFINE, shape=SHAPE):
    """Save a volume that is `value` throughout."""
    return write_labels(path, np.full(shape, value, dtype=np.int16), affine)


def write_labels(path, values=ORGAN, affine=AFFINE):
    """Save an array as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(values), affine).to_filename(path)
    return path
