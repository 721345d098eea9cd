"""Features cached as int8: what rounding costs, and that a run does not depend on what was cached before."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from test_teacher_cache import CPU, last_weights, make_cache, make_key, settings

import rd_hf
from rd_hf.models.features import StageFeature
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.int8 import from_int8, rounding_bound, saves_space, to_int8
from rd_hf.teacher_cache.key import SMALL_MAPS, entry_layout, list_folders, open_folder
from rd_hf.training.teacher_features import CacheError


@pytest.mark.parametrize("grid", [(7, 5), (3, 4, 5)])
def test_no_value_is_off_by_more_than_half_a_step_of_its_channel(grid):
    torch.manual_seed(0)
    maps = torch.randn(3, 6, *grid) * torch.logspace(-20, 20, 6).view(1, 6, *[1] * len(grid))
    maps[0, 2] = 0.0
    values, scales = to_int8(maps)
    back = from_int8(values, scales)
    largest = maps.flatten(2).abs().amax(dim=2)
    assert values.dtype == torch.int8 and values.flatten(2).abs().amax(dim=2)[largest > 0].eq(127).all()
    error = (back - maps).flatten(2).abs().amax(dim=2)
    assert (error <= largest * (0.5 / 127 + 1e-6)).all() and not back[0, 2].any()
    norms = [side.double().flatten(2).norm(dim=2) for side in (back - maps, maps)]
    shares = (norms[0] / norms[1]).nan_to_num()
    assert 0 < shares.max() <= rounding_bound(grid)


def test_fresh_features_are_those_that_are_read_and_safetensors_reads_them_too(tmp_path):
    cache = make_cache(tmp_path, dtype="int8", parts=2)
    features = [StageFeature(torch.randn(3, 2, 3, 3)), StageFeature(torch.randn(3, 4, 1, 1), torch.randn(3, 2, 4))]
    features[0].map[1, 0] = float("inf")  # of the second image
    features[1].prefix[2, 0, 0] = 1e6  # of the third; more than float16 holds
    fresh = cache.write([4, 0, 1], [0, 0, 0], features)
    again = make_cache(tmp_path, dtype="int8", parts=2)
    read, missing = again.read([4, 0, 1], [0, 0, 0])
    assert missing == [1, 2]
    for kept, back, exact in zip(fresh, read, features, strict=True):
        assert torch.equal(kept.map[0], back.map[0]) and torch.equal(kept.map[1:], exact.map[1:])
        assert kept.map.dtype == torch.float32 and (kept.map[0] - exact.map[0]).norm() < 0.02 * exact.map[0].norm()
    assert torch.equal(fresh[1].prefix[0], read[1].prefix[0])
    assert torch.equal(fresh[1].prefix[0], features[1].prefix[0].half().float())
    tensors = load_file(again.folder.path / "view_0000.safetensors")
    back = from_int8(tensors["map_0"][4:5], tensors["scale_0"][4:5])
    assert torch.equal(back[0], read[0].map[0]) and tensors["prefix_1"].dtype == torch.float16


def test_a_run_is_the_same_cold_and_warm_and_a_wrong_entry_is_found(
    tmp_path, teacher, blobs_npz, cache_dir, no_report
):  # fmt: skip
    values = settings(teacher, blobs_npz, tmp_path / "cold", max_steps=4, eval_steps=4, cache_dtype="int8")
    rd_hf.distill(**values)
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "warm"), "verify_cache": 100}))
    cold, warm = last_weights(tmp_path / "cold"), last_weights(tmp_path / "warm")
    assert all(torch.equal(cold[name], value) for name, value in warm.items())
    (folder,) = list_folders(cache_dir)
    cache = FeatureCache(folder, CPU)
    rows = cache.present(0)
    features, _ = cache.read(rows, [0] * len(rows))
    cache.write(rows, [0] * len(rows), [StageFeature(f.map * 1.1, f.prefix) for f in features])
    with pytest.raises(CacheError, match=f"rd-hf cache clear --key {folder.path.name}"):
        rd_hf.distill(**(values | {"output_dir": str(tmp_path / "wrong"), "verify_cache": 100}))


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (2, 2), (5, 1), (1, 1, 1), (2, 2, 2)])
def test_int8_is_for_maps_that_it_makes_smaller(grid):
    key = make_key(parts=1) | {"grids": [list(grid)]}
    in_int8, in_float16 = (entry_layout(key | {"dtype": dtype}).entry_bytes for dtype in ("int8", "float16"))
    assert saves_space(grid) == (in_int8 < in_float16)


def test_small_maps_beside_int8_are_float16(tmp_path):
    key = make_key(dtype="int8", parts=2)
    cache = FeatureCache(open_folder(tmp_path, key | {SMALL_MAPS: [1]}, "local"), CPU)
    features = [StageFeature(torch.randn(2, 2, 3, 3)), StageFeature(torch.randn(2, 4, 1, 1), torch.randn(2, 2, 4))]
    fresh = cache.write([3, 1], [0, 0], features)
    read, missing = cache.read([3, 1], [0, 0])
    assert not missing and "scale_0" in cache.layout.parts and "scale_1" not in cache.layout.parts
    for one, other in zip(fresh, read, strict=True):
        assert torch.equal(one.map, other.map) and one.map.dtype == other.map.dtype == torch.float32
    assert torch.equal(read[1].map, features[1].map.half().float())
    assert cache.layout.entry_bytes < entry_layout(key).entry_bytes


@pytest.mark.parametrize(("changes", "dtype", "small", "words"), [
    ({"teacher_features": "last"}, "float16", None, "The teacher's features are stored in float16"),
    ({"method": "drd", "student_image_size": 16}, "int8", [1], "1 of the teacher's 2 maps are stored in float16"),
])  # fmt: skip
def test_a_run_says_what_it_does_not_store_in_int8(
    tmp_path, teacher, blobs_npz, cache_dir, no_report, caplog, changes, dtype, small, words
):
    caplog.set_level(logging.INFO, "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=2, eval_steps=2, cache_dtype="int8", **changes)
    rd_hf.distill(**values, verify_cache=20)
    (folder,) = list_folders(cache_dir)
    assert folder.key["dtype"] == dtype and folder.key.get(SMALL_MAPS) == small and words in caplog.text
    assert FeatureCache(folder, CPU).count() > 0
