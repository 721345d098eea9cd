"""The example of masks, with two steps per training."""

import sys

import numpy as np
from conftest import REPOSITORY
from datasets import DatasetDict

sys.path.insert(0, str(REPOSITORY / "examples"))

import segmentation


def test_it_runs_to_its_table(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["segmentation.py", "--output_dir", str(folder), "--max_steps", "2"])
    pictures = segmentation.pictures

    def fewer(*arguments, **options):
        data = pictures(*arguments, **(options | {"train": 24}))
        return DatasetDict({name: rows.select(range(24 if name == "train" else 6)) for name, rows in data.items()})

    monkeypatch.setattr(segmentation, "pictures", fewer)
    segmentation.main()
    printed = capsys.readouterr().out
    assert "student alone" in printed and "student by RD" in printed
    assert (folder / "masks" / "picture.png").is_file() and (folder / "masks" / "overlays" / "picture.png").is_file()


def test_drawn_pictures_have_every_tissue_in_the_mask_and_none_without_a_label():
    data = segmentation.pictures(segmentation.MANY_TISSUES, 0.3, seed=0, train=6, labelled=2)
    masks = [np.asarray(mask) for mask in data["train"]["mask"][:2]]
    assert set(np.concatenate(masks).ravel()) == {0, 1, 2, 3}
    assert data["train"]["mask"][2:] == [None] * 4
