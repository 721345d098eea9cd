"""A file that a full disk cuts off: it is named, and no part of it stays."""

import errno
import os
from uuid import UUID

import nibabel
import numpy as np
import pytest
from PIL import Image

from rd_hf.data.volumes.nifti_writing import write_nifti
from rd_hf.runtime.files import write_predictions, written_whole


def cut_off(_, path, *__):
    with open(path, "wb") as file:
        file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system does for a write: without a file


def test_the_file_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", cut_off)
    named = pytest.raises(OSError, match="No space left on device: '.*mask.png'")
    with named, written_whole(tmp_path / "mask.png") as aside:
        Image.new("L", (4, 4)).save(aside)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "mask.png") as aside:
        aside.write_bytes(b"half")
        assert list(tmp_path.iterdir()) == [aside] and aside.suffix == ".png"
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_a_volume_leaves_nothing_and_spares_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "mask.nii.gz").write_bytes(b"of before")
    monkeypatch.setattr(nibabel.Nifti1Image, "to_filename", cut_off)
    with pytest.raises(OSError, match="No space left on device: '.*/mask.nii.gz'"):
        write_nifti(np.zeros((2, 2, 2), np.uint8), np.eye(4), tmp_path / "mask.nii.gz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of before"]


def test_other_errors_pass_as_they_are(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"of before")
    with pytest.raises(FileNotFoundError, match="'nowhere'"), written_whole(tmp_path / "mask.png"):
        os.stat("nowhere")
    with pytest.raises(OSError, match="^cannot write mode F$"), written_whole(tmp_path / "mask.png"):
        assert (tmp_path / "mask.png").read_bytes() == b"of before"
        raise OSError("cannot write mode F")  # of Pillow


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the full device of Linux")
def test_predictions_name_their_file(tmp_path, monkeypatch):
    path = tmp_path / "predictions.csv"
    monkeypatch.setattr("rd_hf.runtime.files.uuid4", lambda: UUID(int=1))
    path.with_name(f".writing-{UUID(int=1).hex}.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '.*predictions.csv'"):
        write_predictions(path, [0], ["a"], [["0.5"]])
    assert not path.is_symlink() and os.path.exists("/dev/full")
