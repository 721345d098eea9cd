"""The teacher's vectors averaged over a run's views, and runs on such vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import read_settings

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.features import StageFeature
from rd_hf.teacher_cache.key import list_folders
from rd_hf.training import view_means as module
from rd_hf.training.inputs import Inputs
from rd_hf.training.view_means import check_view_means, view_means

TINY_RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip
CPU = torch.device("cpu")


class VectorsOfRows(Inputs):
    """Of row r in view v a map that says 0, and the vector (r, r + v)."""

    def __init__(self):
        super().__init__(None, None, 0, None, None, CPU)

    def features_of(self, rows, views, pixels=None, positions=None):
        vectors = torch.tensor([[row, row + view] for row, view in zip(rows, views, strict=True)], dtype=torch.float16)
        return [StageFeature(torch.zeros(len(rows), 3, 2, 2)), StageFeature(vectors[..., None, None])]


class Process:
    """One of several processes, whose `gather` only notes what it is given."""

    def __init__(self, index, count):
        self.process_index, self.num_processes, self.is_main_process = index, count, index == 0

    def gather(self, tensor):
        self.given = tensor
        return tensor


@pytest.mark.parametrize("processes", [1, 3, 4])
def test_means_are_those_of_all_views_whichever_process_computes_them(processes, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    rows = [9, 2, 5, 7, 3]
    if processes == 1:
        means = view_means(VectorsOfRows(), rows, 4, Accelerator(cpu=True))
    else:
        shares = [Process(index, processes) for index in range(processes)]
        for share in shares:
            view_means(VectorsOfRows(), rows, 4, share)
        whole = torch.cat([share.given for share in shares])  # as `gather` joins them
        shares[0].gather = lambda tensor: whole
        means = view_means(VectorsOfRows(), rows, 4, shares[0])
    inputs = VectorsOfRows()
    inputs.means = means
    (feature,) = inputs.mean_features([7, 2, 7, 9])
    assert feature.prefix is None and feature.map.dtype == torch.float32
    assert feature.map.flatten(1).tolist() == [[7, 8.5], [2, 3.5], [7, 8.5], [9, 10.5]]
    with pytest.raises(KeyError, match=r"\[4\]"):
        inputs.mean_features([2, 4])


def test_a_run_without_means_says_so():
    with pytest.raises(ValueError, match="no features averaged over its views"):
        VectorsOfRows().mean_features([0])


@pytest.mark.parametrize(
    ("values", "views", "passing", "message"),
    [
        ({"teacher_features": "stage"}, 2, {}, "`teacher_features` to all or last"),
        ({"teacher_features": "all"}, None, {}, "`num_views` a number"),
        ({"teacher_features": "all"}, 2, {"shards": "some.tar"}, "images in tar files"),
        ({"teacher_features": "all"}, 2, {"stream": "some"}, "leave `unlabeled_streaming` out"),
    ],
)
def test_what_cannot_be_averaged_is_refused_with_the_way_out(values, views, passing, message):
    run_data = SimpleNamespace(views=lambda arguments: views, **({"shards": None, "stream": None} | passing))
    with pytest.raises(ArgumentError, match=message):
        check_view_means(SimpleNamespace(target_views="mean", **values), run_data)
    check_view_means(SimpleNamespace(target_views="one", **values), run_data)


def settings(teacher, dataset, folder, **changes):
    values = {
        "teacher": str(teacher), "student": TINY_RESNET, "dataset": str(dataset), "student_image_size": 32,
        "output_dir": str(folder), "max_steps": 4, "eval_steps": 4, "shots": 5, "use_unlabeled": True,
        "per_device_train_batch_size": 8, "per_device_unlabeled_batch_size": 5, "num_views": 2,
    }  # fmt: skip
    return read_settings(values | changes)


def test_a_run_on_vectors_caches_little_and_is_the_same_without_a_cache(
    teacher, blobs_npz, tmp_path, cache_dir, no_report
):
    students = []
    for name, changes in {"cached": {"cache_dtype": "float32"}, "live": {"cache": False}}.items():
        values = settings(teacher, blobs_npz, tmp_path / name, method="drd", teacher_features="all")
        students.append(rd_hf.distill(**(values | changes)).state_dict())
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
    (folder,) = list_folders(cache_dir)
    assert [stage.get("pooled") for stage in folder.key["stages"]][:-1] == [None]
    assert folder.key["stages"][-1]["channels"] == 8 + 16 + 24 and folder.key["grids"][-1] == [1, 1]


def test_masks_need_maps(teacher, tmp_path):
    from conftest import blob_mask_arrays

    np.savez(tmp_path / "masks.npz", **blob_mask_arrays())
    network = {"model_type": "monai", "network": "UNet", "spatial_dims": 2}
    network |= {"arguments": {"channels": [8, 16], "strides": [2]}}
    values = settings(teacher, tmp_path / "masks.npz", tmp_path / "run", student=network, teacher_features="last")
    with pytest.raises(ArgumentError, match="`teacher_features` is only for classes"):
        rd_hf.distill(**values)
