"""The example of volumes, with two steps per training on few small volumes."""

import sys

import nibabel
import numpy as np
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "examples"))

import volumes


def test_it_runs_to_its_table(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["volumes.py", "--output_dir", str(folder), "--max_steps", "2"])
    monkeypatch.setattr(volumes, "SIZE", 16)
    monkeypatch.setattr(volumes, "VALIDATION", 2)
    monkeypatch.setattr(volumes, "TEST", 3)
    write, fewer = volumes.write, {"train": 8, "labelled": 4}
    monkeypatch.setattr(volumes, "write", lambda *given, **options: write(*given, **(options | fewer)))
    volumes.main()
    printed = capsys.readouterr().out
    assert "student alone" in printed and "student by RD" in printed and "ml are lesion" in printed
    mask = nibabel.load(folder / "masks" / "caseTs_000.nii.gz")
    assert mask.shape == (16, 16, 16) and set(np.unique(mask.dataobj)) <= {0, 1}


def test_drawn_volumes_have_every_tissue_in_the_mask_and_none_without_a_label(tmp_path):
    folder = volumes.write(tmp_path / "data", volumes.MANY_TISSUES, seed=0, train=6, labelled=2)
    masks = sorted((folder / "labelsTr").iterdir())
    assert len(masks) == 2 and len(list((folder / "imagesTr").iterdir())) == 6
    assert set(np.concatenate([np.asarray(nibabel.load(mask).dataobj) for mask in masks]).ravel()) == {0, 1, 2, 3}
