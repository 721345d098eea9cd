"""Cached and live teacher features: the same bits, the same training, and what if the cache cannot be used."""

import errno
import logging
import os
import pickle
import re
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import read_settings
from datasets import Dataset, Image
from PIL import Image as Picture
from safetensors.torch import load_file
from transformers import AutoModel, MobileNetV2Config, ResNetConfig, ViTConfig, ViTImageProcessorPil

import rd_hf
from rd_hf.data.augmentation import AugmentationParameters
from rd_hf.data.order import Visit
from rd_hf.data.pixel_store import PixelStore, Visits, collate
from rd_hf.data.pixels import PixelTransform, Transforms
from rd_hf.models.backbone import Backbone
from rd_hf.models.features import StageFeature
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.key import FORMAT, key_id, list_folders, open_folder
from rd_hf.training.inputs import Inputs
from rd_hf.training.run_folder import read_history
from rd_hf.training.teacher_features import CacheError

TINY_RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip
TEACHERS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic"),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=40),
    "vit": ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96, image_size=40, patch_size=8
    ),
}
CPU = torch.device("cpu")


def make_model(family: str):
    torch.manual_seed(5)
    model = AutoModel.from_config(TEACHERS[family])
    for module in model.modules():  # as they start, MobileNetV2's features are all but 0
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def make_teacher(folder, family: str):
    make_model(family).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("teacher"), "resnet")


def last_weights(run):
    return load_file(sorted((run / "checkpoints").iterdir())[-1] / "model.safetensors")


def settings(teacher, dataset, folder, **changes):
    values = {
        "teacher": str(teacher), "student": TINY_RESNET, "dataset": str(dataset), "student_image_size": 32,
        "output_dir": str(folder), "max_steps": 10, "eval_steps": 10, "shots": 5, "use_unlabeled": True,
        "per_device_train_batch_size": 8, "per_device_unlabeled_batch_size": 5, "learning_rate": 5e-3, "num_views": 2,
    }  # fmt: skip
    return read_settings(values | changes)


def make_key(rows=5, dtype="float32", parts=1):
    stages = [{"channels": 2, "prefix_tokens": 0}, {"channels": 4, "prefix_tokens": 2}][:parts]
    return {
        "format": FORMAT, "teacher_sha256": "0", "rows": rows, "dtype": dtype, "stages": stages,
        "grids": [[3, 3], [1, 1]][:parts],
    }  # fmt: skip


def make_cache(folder, **key) -> FeatureCache:
    return FeatureCache(open_folder(folder, make_key(**key), "local"), CPU)


class Images:
    """Counts the images that the teacher sees."""

    def __init__(self, monkeypatch):
        self.seen, extract = 0, Backbone.extract

        def counted(backbone, pixels):
            self.seen += len(pixels)
            return extract(backbone, pixels)

        monkeypatch.setattr(Backbone, "extract", counted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_comes_back_to_the_bit_and_the_rest_is_missing(tmp_path, dtype):
    cache = make_cache(tmp_path, dtype=dtype, parts=2)
    rows, views = [4, 0, 4], [0, 2, 1]
    assert cache.read(rows, views)[1] == [0, 1, 2] and cache.lacks(4, 0)
    kind = getattr(torch, dtype)
    features = [
        StageFeature(torch.randn(3, 2, 3, 3, dtype=kind), None),
        StageFeature(torch.randn(3, 4, 1, 1, dtype=kind), torch.randn(3, 2, 4, dtype=kind)),
    ]
    cache.write(rows, views, features)
    assert cache.read([4, 4, 0, 0], [1, 2, 2, 0])[1] == [1, 3]
    assert not cache.lacks(4, 0) and cache.lacks(4, 2) and cache.present(2).tolist() == [0]
    back, missing = make_cache(tmp_path, dtype=dtype, parts=2).read(rows[::-1], views[::-1])
    assert not missing
    for feature, kept in zip(features, back, strict=True):
        assert torch.equal(feature.map.flip(0), kept.map) and kept.map.dtype == kind
        assert (feature.prefix is None) == (kept.prefix is None)
        assert feature.prefix is None or torch.equal(feature.prefix.flip(0), kept.prefix)


def test_another_process_opens_its_files_itself(tmp_path):
    cache = make_cache(tmp_path)
    cache.write([1], [0], [StageFeature(torch.ones(1, 2, 3, 3), None)])
    copy = pickle.loads(pickle.dumps(cache))
    assert cache._files and not copy._files  # a number of an open file means nothing there
    assert not copy.lacks(1, 0) and torch.equal(copy.read([1], [0])[0][0].map, torch.ones(1, 2, 3, 3))


def test_features_that_float16_cannot_hold_are_not_stored_and_lose_nothing(tmp_path, caplog):
    cache = make_cache(tmp_path, dtype="float16")
    feature = torch.rand(3, 2, 3, 3)
    feature[1, 0, 0, 0] = 1e6
    for _ in range(2):
        (returned,) = cache.write([0, 1, 2], [0, 0, 0], [StageFeature(feature)])
    assert torch.equal(returned.map[1], feature[1]) and torch.equal(returned.map[2], feature[2].half().float())
    assert cache.read([0, 1, 2], [0, 0, 0])[1] == [1]
    assert caplog.text.count("not finite in float16") == 1 and "`cache_dtype` bfloat16" in caplog.text


def test_a_full_disk_is_warned_of_once_and_what_is_there_is_still_read(tmp_path, monkeypatch, caplog):
    cache = make_cache(tmp_path)
    feature = [StageFeature(torch.rand(1, 2, 3, 3))]
    cache.write([0], [0], feature)
    write = os.pwrite

    def full(handle, content, offset):
        write(handle, bytes(content)[:10], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for view in (0, 0, 1):
        cache.write([1], [view], feature)
    assert caplog.text.count("No space left on device") == 1 and "`cache` false" in caplog.text and cache.full
    assert cache.read([0, 1, 1], [0, 0, 1])[1] == [1, 2]


def test_a_cache_on_a_disk_that_only_reads_is_read(tmp_path, monkeypatch, caplog):
    feature = [StageFeature(torch.rand(1, 2, 3, 3))]
    make_cache(tmp_path).write([0], [0], feature)
    opened = os.open

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", lambda path, flags, *a: refused() if flags & os.O_RDWR else opened(path, flags, *a))
    monkeypatch.setattr(os, "utime", refused)
    cache = make_cache(tmp_path)
    (found,), missing = cache.read([0], [0])
    assert not missing and torch.equal(found.map, feature[0].map) and not caplog.text
    for _ in range(2):
        cache.write([1], [0], feature)
    assert cache.full and caplog.text.count("Read-only file system") == 1 and cache.read([0, 1], [0, 0])[1] == [1]


def test_a_folder_that_vanishes_stops_nothing(tmp_path, caplog):
    cache = make_cache(tmp_path)
    (tmp_path / key_id(make_key()) / "key.json").unlink()
    (tmp_path / key_id(make_key())).rmdir()
    (tmp_path / key_id(make_key())).write_text("a file in its place")
    cache.write([1], [0], [StageFeature(torch.rand(1, 2, 3, 3))])
    assert cache.read([1], [0])[1] == [0] and "Training continues" in caplog.text


def test_a_damaged_entry_is_warned_of_once_and_missing(tmp_path, caplog):
    cache = make_cache(tmp_path)
    cache.write([0, 1, 2], [0, 0, 0], [StageFeature(torch.rand(3, 2, 3, 3))])
    path = tmp_path / key_id(make_key()) / "view_0000.safetensors"
    content = bytearray(path.read_bytes())
    for row in (1, 2):
        content[-(5 - row) * 72 + 3] ^= 1
    path.write_bytes(content)
    cache = make_cache(tmp_path)
    assert cache.read([0, 1, 2], [0, 0, 0])[1] == [1, 2]
    assert caplog.text.count("Damaged features") == 1 and cache.damaged == 2


def make_inputs(folder, family, cache=None, rows=19):
    generator = np.random.default_rng(0)
    files = []
    for row in range(rows):
        files.append(str(folder / f"{row}.png"))
        Picture.fromarray(generator.integers(0, 256, (40, 40), dtype=np.uint8)).save(files[-1])
    split = Dataset.from_dict({"image": files}).cast_column("image", Image(decode=False))
    transform = PixelTransform(ViTImageProcessorPil(size={"height": 40, "width": 40}))
    backbone = Backbone.from_model(make_model(family))
    stages = backbone.find_stages((40, 40))
    grids = [(min(stage.grid[0], 2), min(stage.grid[1], 2)) for stage in stages]
    backbone.tap(stages, grids, (40, 40))
    store = PixelStore(split, Transforms(transform, transform), "train")
    return Inputs(store, AugmentationParameters(), 0, backbone, cache, CPU)


@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_and_view_has_the_same_bits_in_any_company_and_any_place(tmp_path, family, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inputs, generator, first = make_inputs(tmp_path, family), np.random.default_rng(1), {}
        for count in (1, 2, 7, 8, 9, 19, 19, 19):
            rows = generator.permutation(19)[:count].tolist()
            views = [row % 3 for row in rows]
            features = inputs.run_teacher(rows, views, None)
            for position, row in enumerate(rows):
                own = [part[position] for feature in features for part in feature if part is not None]
                known = first.setdefault(row, own)
                assert all(part.std() > 1e-3 for part in own)
                assert all(torch.equal(a, b) for a, b in zip(known, own, strict=True)), (row, count, position)
        assert len(first) == 19
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("family", "method"), [("resnet", "drd"), ("mobilenet_v2", "rd"), ("vit", "drd")])
def test_cold_warm_and_live_training_are_the_same_to_the_bit(
    tmp_path, blobs_npz, monkeypatch, no_report, family, method
):
    teacher = make_teacher(tmp_path / "teacher", family)
    images, seen, students = Images(monkeypatch), {}, {}
    for name, changes in {"cold": {}, "warm": {}, "live": {"cache": False, "cache_dtype": None}}.items():
        values = settings(teacher, blobs_npz, tmp_path / name, method=method, cache_dtype="float32")
        images.seen = 0
        rd_hf.distill(**(values | changes))
        seen[name] = images.seen
        students[name] = last_weights(tmp_path / name)
    assert seen["warm"] < seen["cold"] < seen["live"] and seen["warm"] == 13  # those of the calibration
    for name in ("warm", "live"):
        assert all(torch.equal(students["cold"][n], value) for n, value in students[name].items()), name


def test_float16_and_a_full_disk_do_not_change_a_run_between_cold_and_warm(
    tmp_path, teacher, blobs_npz, monkeypatch, no_report
):
    write, students = os.pwrite, []

    def soon_full(handle, content, offset):
        if soon_full.calls > 150:
            raise OSError(errno.ENOSPC, "No space left on device")
        soon_full.calls += 1
        return write(handle, content, offset)

    for name in ("full", "cold", "warm", "nowhere"):
        soon_full.calls = 0
        monkeypatch.setattr(os, "pwrite", soon_full if name == "full" else write)
        folder = {"cache_dir": str(blobs_npz / "below a file")} if name == "nowhere" else {}
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / name, **folder))
        students.append(last_weights(tmp_path / name))
    assert all(torch.equal(students[0][n], other[n]) for other in students[1:] for n in other)


def test_a_warm_step_neither_loads_nor_augments_teacher_pixels(tmp_path, monkeypatch):
    inputs = make_inputs(tmp_path, "resnet")
    parts = inputs.run_teacher([0], [0], None)
    key = make_key(rows=19) | {
        "stages": [{"channels": f.map.shape[1], "prefix_tokens": 0} for f in parts],
        "grids": [list(f.map.shape[2:]) for f in parts],
    }
    inputs.cache = FeatureCache(open_folder(tmp_path / "cache", key, "local"), CPU)
    visits = Visits(inputs.store, torch.zeros(19, dtype=torch.long), inputs.needs_teacher_pixels)

    def batch():
        return collate([visits[Visit(row, 1, True)] for row in range(10)])

    cold = batch()
    assert cold["teacher_positions"] == list(range(10))
    first = inputs.teacher_features(cold)
    normalised = []
    monkeypatch.setattr(PixelTransform, "normalize", lambda self, batch: normalised.append(batch))
    monkeypatch.setattr(inputs.store, "teacher", None)  # reading its pixels would fail
    warm = batch()
    assert warm["teacher_pixels"] is None and not normalised
    second = inputs.teacher_features(warm)
    assert all(torch.equal(a.map, b.map) for a, b in zip(first, second, strict=True)) and not normalised


def test_pixels_that_came_serve_where_some_are_no_longer_missing(tmp_path, monkeypatch):
    """Rows of a stream cannot be fetched a second time."""
    inputs = make_inputs(tmp_path, "resnet")
    pixels = torch.stack([inputs.teacher_pixels(row, 0) for row in range(4)])
    shown = []
    monkeypatch.setattr(inputs, "run_teacher", lambda rows, views, own: shown.append((rows, own)) or [])
    cache = Mock(read=lambda rows, views: ([], [1, 3]), write=lambda rows, views, new: new)
    monkeypatch.setattr(inputs, "cache", cache)
    inputs.features_of(range(4), [0] * 4, pixels[1:], [1, 2, 3])
    inputs.features_of(range(4), [0] * 4, pixels[1:2], [1])  # what 3 shows was not fetched
    (rows, own), (_, none) = shown
    assert rows == [1, 3] and torch.equal(own, pixels[[1, 3]]) and none is None


def test_the_log_says_where_how_many_how_large_and_what_changed(
    tmp_path, teacher, blobs_npz, cache_dir, caplog, no_report
):
    caplog.set_level(logging.INFO, "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "one", max_steps=4, eval_steps=4)
    rd_hf.distill(**values)
    (folder,) = list_folders(cache_dir)
    assert f"Teacher features: {folder.path} (new)" in caplog.text
    # 24 channels in a grid of 2 x 2 in float16, and a checksum: 0.2 KB
    assert "KB per row and view" in caplog.text and "for 60 rows in 2 views" in caplog.text
    caplog.clear()
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "two")}))
    assert "A new cache" not in caplog.text and "of 120 entries are cached" in caplog.text
    share = re.search(r"Waiting for data took ([\d.]+) % of the training", caplog.text)
    rows = [row["data_wait"] for row in read_history(tmp_path / "two") if "data_wait" in row]
    assert 0 < float(share.group(1)) < 100 and len(rows) == 1 and 0 < rows[0] < 1
    caplog.clear()
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "three"), "rotation_degrees": 15.0}))
    assert "differs from the most similar cache: rotation_degrees was 10.0, is 15.0." in caplog.text


def test_workers_fetch_teacher_pixels_only_where_they_are_needed(tmp_path, teacher, blobs_npz, monkeypatch, no_report):
    values = settings(teacher, blobs_npz, tmp_path / "one", dataloader_num_workers=2)
    images = Images(monkeypatch)
    one = rd_hf.distill(**values)
    cold, images.seen = images.seen, 0
    fetched, teacher_features = [], Inputs.teacher_features

    def watched(self, batch):
        fetched.extend(batch["teacher_positions"])
        return teacher_features(self, batch)

    monkeypatch.setattr(Inputs, "teacher_features", watched)
    two = rd_hf.distill(**(values | {"output_dir": str(tmp_path / "two")}))
    assert not fetched and images.seen < cold
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_verify_cache_passes_what_is_right_and_names_the_way_out_of_what_is_not(
    tmp_path, teacher, blobs_npz, cache_dir, caplog, no_report
):
    caplog.set_level(logging.INFO, "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "one", max_steps=2)
    rd_hf.distill(**values)
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "two"), "verify_cache": 10}))
    assert "The teacher computed the checked features again" in caplog.text
    (folder,) = list_folders(cache_dir)
    cache = FeatureCache(folder, CPU)
    rows = cache.present(0)
    features, _ = cache.read(rows, [0] * len(rows))
    cache.write(rows, [0] * len(rows), [StageFeature(f.map * 1.01, f.prefix) for f in features])
    with pytest.raises(CacheError, match=f"rd-hf cache clear --key {folder.path.name}"):
        rd_hf.distill(**(values | {"output_dir": str(tmp_path / "three"), "verify_cache": 100}))


def test_two_processes_fill_one_cache(tmp_path, cache_dir, warm_python):
    code = f"""
import os, sys, time, torch
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_teacher_cache import make_cache
from rd_hf.models.features import StageFeature
cache = make_cache(Path("cache"), rows=300)
Path(f"ready_{{os.getpid()}}").touch()
while len(list(Path().glob("ready_*"))) < 2:
    time.sleep(0.001)
for row in range(300):
    for view in (0, 1):
        cache.write([row], [view], [StageFeature(torch.full((1, 2, 3, 3), float(row + view / 2)))])
"""
    for finish in [warm_python.start("-c", code, cwd=tmp_path) for _ in range(2)]:
        done = finish()
        assert done.returncode == 0, done.stderr
    cache = make_cache(tmp_path / "cache", rows=300)
    for view in (0, 1):
        (feature,), missing = cache.read(range(300), [view] * 300)
        expected = (torch.arange(300) + view / 2).view(-1, 1, 1, 1).expand_as(feature.map)
        assert not missing and torch.equal(feature.map, expected)
    assert cache.damaged == 0
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/*")) == [
        "key.json", "view_0000.safetensors", "view_0001.safetensors",
    ]  # fmt: skip


def test_runs_of_several_seeds_share_a_cache_under_one_view_seed(tmp_path, teacher, blobs_npz, cache_dir, no_report):
    values = settings(teacher, blobs_npz, tmp_path / "one", max_steps=2, view_seed=7)
    rd_hf.distill(**values)
    again = values | {"output_dir": str(tmp_path / "two"), "seed": 1, "verify_cache": 100}
    rd_hf.distill(**again)  # raises where its views are not those of the first
    assert len(list_folders(cache_dir)) == 1
    rd_hf.distill(**(again | {"output_dir": str(tmp_path / "three"), "view_seed": None}))
    assert len(list_folders(cache_dir)) == 2
