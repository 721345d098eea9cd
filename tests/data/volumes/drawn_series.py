"""Draws DICOM series: slices of a ramp, with a patient's name in each file, as scanners write it."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import set_pixel_data
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

PATIENT = "Doe^Jane^Secret"
SERIES = "1.2.826.0.1.77"
SIZE = (6, 5)  # rows, columns


def slice_values(number):
    """Stored values of a slice, each voxel of a series another one."""
    rows, columns = SIZE
    return (np.arange(rows * columns, dtype=np.uint16) + 100 * number).reshape(SIZE)


def dataset_of(pixels, kind=CTImageStorage, modality="CT", **elements):
    """A DICOM object with pixels; elements of None are left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = kind, "1.2.3", modality
    dataset.PatientName, dataset.PatientID, dataset.SeriesDescription = PATIENT, "4711-secret", "secret-thorax"
    dataset.SeriesInstanceUID = SERIES
    if pixels is not None:
        set_pixel_data(dataset, pixels, "MONOCHROME2", 16)
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def ct_slice(number, position=None, **elements):
    """An axial slice of 2 x 3 mm pixels, 4 mm apart; rescaled to Hounsfield units."""
    wanted = {
        "ImagePositionPatient": [-10.0, -20.0, 30.0 + 4 * number] if position is None else position,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [3, 2],
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    return dataset_of(slice_values(number), **(wanted | elements))


def draw_series(folder, slices=4, **elements):
    """Slices whose names are in another order than they lie; their paths in the order in which they lie."""
    names = [f"IM{(number * 7 + 3) % 11:03d}.dcm" for number in range(slices)]
    return [save(ct_slice(number, **elements), Path(folder) / name) for number, name in enumerate(names)]


def change(path, **elements):
    """Change elements of a file; None deletes one."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)


def enhanced(frames=3, positions=None, shared_orientation=True):
    """A multi-frame CT whose frames are stored from the top down, each with a slope of its own."""
    dataset = dataset_of(np.stack([slice_values(number) for number in range(frames)]), EnhancedCTImageStorage)
    shared = Dataset()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [3, 2], 4
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    if shared_orientation:
        shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence, groups = [shared], []
    for number in range(frames):
        group, place, meaning = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10, -20, 30 - 4 * number] if positions is None else positions[number]
        meaning.RescaleSlope, meaning.RescaleIntercept, meaning.RescaleType = number + 1, -5, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [meaning]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset
