"""Which volumes a user names for a prediction."""

import numpy as np
import pytest
from drawn_series import dataset_of, draw_series, save
from drawn_volumes import write_labels, write_volume
from PIL import Image

from rd_hf.arguments.values import ArgumentError
from rd_hf.data.volumes.finding import find_volumes
from rd_hf.data.volumes.reading import read_volume
from rd_hf.data.volumes.volume import VolumeReading


def found(names, root, *reading):
    """What is shown below the root, and the stem, of each."""
    return [(str(row.shown).removeprefix(f"{root}/"), row.stem) for row in find_volumes(names, *reading)]


def test_files_folders_and_globs(tmp_path, monkeypatch):
    for name in ("a.nii.gz", "deep/b.nii", "deep/er/a.nii.gz", ".x/c.nii"):
        write_volume(tmp_path / name)
    write_labels(tmp_path / "a_mask.nii.gz")
    Image.new("L", (4, 4)).save(tmp_path / "deep" / "preview.png")
    all_rows = [("a.nii.gz", "a"), ("deep/b.nii", "deep/b"), ("deep/er/a.nii.gz", "deep/er/a")]
    assert found(tmp_path, tmp_path) == all_rows
    assert found([tmp_path / "a.nii.gz", tmp_path], tmp_path) == all_rows
    assert sorted(found(str(tmp_path / "**" / "*"), tmp_path)) == all_rows
    assert found(str(tmp_path / "d*"), tmp_path) == [("deep/b.nii", "b"), ("deep/er/a.nii.gz", "er/a")]
    assert found(tmp_path / "deep" / "b.nii", tmp_path) == [("deep/b.nii", "b")]
    assert found(tmp_path / "a_mask.nii.gz", tmp_path) == [("a_mask.nii.gz", "a_mask")]
    monkeypatch.chdir(tmp_path)
    row = find_volumes("a.nii.gz")[0]
    assert row.shown == "a.nii.gz" and row.source == {"bytes": None, "path": str(tmp_path / "a.nii.gz")}


def test_several_roots(tmp_path):
    for name in ("x/a.nii", "x/deep/b.nii", "y/z/c.nii", "y/z/a.nii"):
        write_volume(tmp_path / name)
    names = [tmp_path / "x", tmp_path / "y" / "z" / "c.nii"]
    assert [stem for _, stem in found(names, tmp_path)] == ["a", "deep/b", "c"]
    # where two would be the same, their folders tell them apart
    assert [stem for _, stem in found([tmp_path / "x", tmp_path / "y"], tmp_path)] == [
        "x/a", "x/deep/b", "y/z/a", "y/z/c",
    ]  # fmt: skip


def test_names_that_differ_in_their_suffix_only(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        write_volume(tmp_path / name)
    assert found(tmp_path, tmp_path) == [("a.nii", "a.nii"), ("a.nii.gz", "a.nii.gz")]


def test_series(tmp_path):
    for number, name in enumerate(["p.1", "p.2/ct", "p.2/mr", "p.2/mr"]):
        draw_series(tmp_path / name, slices=5, SeriesInstanceUID=f"1.2.{number}")
    save(dataset_of(None, modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"), tmp_path / "p.1" / "A.dcm")
    names = [("p.1", "p.1"), ("p.2/ct", "p.2/ct"), ("p.2/mr", "p.2/mr")]
    assert found(tmp_path, tmp_path) == names
    assert found(tmp_path / "p.1", tmp_path) == [("p.1", "p.1")]
    assert all(read_volume(row.source, "it").values.shape[3] == 5 for row in find_volumes(tmp_path))
    slices = find_volumes(tmp_path / "p.2" / "ct" / "*.dcm")
    assert len(slices) == 1 and slices[0].source == find_volumes(tmp_path / "p.2" / "ct")[0].source
    for file in [*(tmp_path / "p.1").iterdir()]:
        file.rename(tmp_path / "p.2" / "ct" / f"second{file.name}")
    firsts = ["p.2/ct/IM002.dcm", "p.2/ct/secondIM002.dcm"]
    assert [shown for shown, _ in found(tmp_path / "p.2" / "ct", tmp_path)] == firsts


def test_channels_in_files(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        write_volume(tmp_path / f"{name}.nii.gz")
    in_files = VolumeReading(2)
    assert found(tmp_path, tmp_path, in_files) == [("a_0000.nii.gz", "a"), ("b_0000.nii.gz", "b")]
    assert found(tmp_path / "a_*.nii.gz", tmp_path, in_files) == [("a_0000.nii.gz", "a")]
    assert len(found(tmp_path, tmp_path, VolumeReading(2, channel_axis=True))) == 3
    for several in (tmp_path, tmp_path / "a*"):
        with pytest.raises(ArgumentError, match=r"a_0000.nii.gz and a_0001.nii.gz are two channels of one case.*reads"):
            find_volumes(several)
    first, second = found(tmp_path / "*_0000.nii.gz", tmp_path)
    assert (first, second) == (("a_0000.nii.gz", "a"), ("b_0000.nii.gz", "b"))  # nnU-Net's names of masks
    for number in range(9):
        write_volume(tmp_path / "patients" / f"p_{number:04}.nii.gz")
    assert len(found(tmp_path / "patients", tmp_path)) == 9  # too many to be channels
    write_volume(tmp_path / "c.nii.gz")
    names = [tmp_path / "b_0000.nii.gz", tmp_path / "c.nii.gz"]
    assert found(names, tmp_path) == [("b_0000.nii.gz", "b_0000"), ("c.nii.gz", "c")]


def test_cases_of_brats(tmp_path):
    for name in ("a/a_flair", "a/a_t1", "a/a_t1ce", "a/a_t2", "a/a_seg", "b/b_flair"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_volume(tmp_path / f"{name}.nii.gz")
    assert found(tmp_path, tmp_path, VolumeReading(4)) == [("a/a_flair.nii.gz", "a/a"), ("b/b_flair.nii.gz", "b/b")]
    with pytest.raises(ArgumentError, match=r"a_flair.nii.gz and a_t1.nii.gz are two channels of one case"):
        find_volumes(tmp_path)


@pytest.mark.parametrize("name", ["none", "a.nii.gx", "*.nii", "pictures"])
def test_nothing_there(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "pictures" / "1.png")
    with pytest.raises(ArgumentError, match=r"There is no volume at .*\. Volumes are .nii and .nii.gz files, and"):
        find_volumes(tmp_path / name)
