import pytest
import torch

from rd_hf.features import StageFeature
from rd_hf.teacher_cache import FeatureCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_put_comes_back_to_the_bit_and_the_rest_is_missing(dtype):
    cache = FeatureCache(num_rows=5, num_views=3)
    rows, views = [4, 0, 4], [0, 2, 1]
    assert cache.missing(rows, views) == [0, 1, 2]
    features = [
        StageFeature(torch.randn(3, 2, 3, 3, dtype=dtype), None),
        StageFeature(torch.randn(3, 4, 1, 1, dtype=dtype), torch.randn(3, 2, 4, dtype=dtype)),
    ]
    cache.put(rows, views, features)
    assert cache.missing([4, 4, 0, 0], [1, 2, 2, 0]) == [1, 3]
    back = cache.get(rows[::-1], views[::-1], torch.device("cpu"))
    for feature, kept in zip(features, back, strict=True):
        assert torch.equal(feature.map.flip(0), kept.map) and kept.map.dtype == dtype
        assert (feature.prefix is None) == (kept.prefix is None)
        assert feature.prefix is None or torch.equal(feature.prefix.flip(0), kept.prefix)
