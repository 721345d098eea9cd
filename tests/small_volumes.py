"""Small volumes of tests: students with random weights, NIfTI files in any orientation, and DICOM series."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification

NAMES = ["background", "organ", "tumour"]
PATIENT = "Kowalski^Anna"


def saved_segmenter(folder: Path, channels: int = 1, provenance: dict | None = None) -> Path:
    """The folder of a student of masks, which reads CT in voxels of 1.5 mm, in windows of 16 a side."""
    torch.manual_seed(0)
    config = MonaiNetConfig(
        "UNet", spatial_dims=3, in_channels=channels, image_size=16, num_labels=3, id2label=dict(enumerate(NAMES)),
        arguments={"channels": [4, 8], "strides": [2]},
    )  # fmt: skip
    network = MonaiNetForSemanticSegmentation(config)
    RDStudentForSemanticSegmentation.from_classifier(network, provenance).save_pretrained(folder)
    settings = {"spacing": 1.5, "crop_size": 16, "intensity": "window", "window": (-100, 200)}
    RDVolumeProcessor(channels=channels, **settings).save_pretrained(folder)
    return folder


def saved_classifier(folder: Path) -> Path:
    """The folder of a student of classes, which reads MR."""
    torch.manual_seed(0)
    config = MonaiNetConfig(
        "DenseNet", spatial_dims=3, in_channels=1, image_size=16, id2label={0: "healthy", 1: "ill"},
        arguments={"init_features": 4, "growth_rate": 2, "block_config": [1, 1]},
        problem_type="single_label_classification",
    )  # fmt: skip
    RDStudentForImageClassification.from_classifier(MonaiNetForImageClassification(config)).save_pretrained(folder)
    RDVolumeProcessor(size=16).save_pretrained(folder)
    return folder


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Smooth values (X, Y, Z) between about -200 and 300, whole numbers."""
    field = torch.randn(1, 1, 4, 4, 3, generator=torch.Generator().manual_seed(seed))
    return (150 * torch.nn.functional.interpolate(field, shape, mode="trilinear")[0, 0] + 50).round().numpy()


def write_volume(path: Path, values: np.ndarray, spacing=(1.0, 1.2, 2.5), axes: str = "RAS") -> np.ndarray:
    """Write RAS values as a NIfTI file whose axes run towards others; :return: the file's affine."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-20, 11, 5)
    image = nib.Nifti1Image(values.astype(np.int16), affine)
    start, end = (nib.orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(start, end))
    nib.save(turned, path)
    return turned.affine


def write_series(folder: Path, values: np.ndarray, spacing=(1.0, 1.0, 2.0)) -> None:
    """Write values (columns, rows, slices) as CT slices in files whose names are out of order."""
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid(entropy_srcs=[str(folder), name]) for name in ("study", "series", "frame"))
    for number in range(values.shape[2]):
        slice_ = Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(number)])
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = PATIENT, "P-77", "", "F"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.StudyDate = slice_.StudyTime = slice_.AccessionNumber = slice_.ReferringPhysicianName = ""
        slice_.StudyID, slice_.SeriesNumber, slice_.InstanceNumber, slice_.Modality = "1", 1, number + 1, "CT"
        slice_.PositionReferenceIndicator = slice_.PatientPosition = slice_.Manufacturer = ""
        slice_.ImagePositionPatient = [-10.0, 5.0, 100.0 + spacing[2] * number]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        slice_.Columns, slice_.Rows = values.shape[:2]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelData = (values[:, :, number].T + 1024).astype(np.int16).tobytes()
        slice_.save_as(folder / f"{(number * 7) % values.shape[2]:02d}.dcm", enforce_file_format=True)
