"""A cache with a limit: what is stored, what is said, and that no result depends on it."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from stopped_runs import interrupted
from test_interrupts import options
from test_teacher_cache import (
    CPU,
    Images,
    last_weights,
    make_cache,
    make_key,
    make_teacher,
    settings,
)
from warm_python import free_port
from warm_server import EMPTY_PLOTS

import rd_hf
from rd_hf.arguments.config import config_text
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.features import StageFeature
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.key import list_folders, open_folder
from rd_hf.training import fill_cache

ENTRY = 2 * 3 * 3 * 4 + 8  # bytes of an entry of `make_key`
TRAINED = 24 * 3 * 3 * 2 + 8  # of a float16 entry of the runs below


def limited(folder, limit, **key) -> FeatureCache:
    return FeatureCache(open_folder(folder, make_key(**key), "local"), CPU, limit)


def write(cache, *visits):
    rows, views = zip(*visits, strict=True)
    return cache.write(rows, views, [StageFeature(torch.rand(len(rows), 2, 3, 3))])


def entries(folder) -> int:
    return FeatureCache(folder, CPU).count()


def same_weights(first, second) -> bool:
    first, second = last_weights(first), last_weights(second)
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 1000**3), ("500MB", 500 * 1000**2), ("1TB", 1000**4), ("1.5 TB", 1500 * 1000**3),
        ("20GiB", 20 * 1024**3), ("20gb", 20 * 1000**3), ("20G", 20 * 1000**3), ("20Gi", 20 * 1024**3),
        (" 0.1GB ", 100 * 1000**2), ("64kB", 64000), (".5KiB", 512), ("1200B", 1200), ("0GB", 0),
    ],
)  # fmt: skip
def test_a_size_is_a_number_with_a_decimal_or_binary_unit(text, size):
    arguments = DistillationArguments(dataset="x", student="y", teacher="z", cache_limit=text)
    assert arguments.bytes_to_cache() == size


@pytest.mark.parametrize(
    "text", ["20", 20, 1.5, "", "GB", "-1GB", "20XB", "20iB", "1,5GB", "nan GB", "20 GB free", "half"]
)
def test_another_size_is_refused_by_name(text):
    with pytest.raises(ArgumentError, match=r"`cache_limit` is .*20GB"):
        DistillationArguments(dataset="x", student="y", teacher="z", cache_limit=text)


def test_entries_are_stored_up_to_the_limit_and_those_that_are_there_are_read_and_replaced(tmp_path):
    cache = limited(tmp_path, 3 * ENTRY + ENTRY - 1)
    write(cache, (0, 0), (1, 0), (0, 1), (2, 1), (0, 2))
    assert cache.room == 0 and cache.count() == 3 and cache.read([0, 1, 0, 2, 0], [0, 0, 1, 1, 2])[1] == [3, 4]
    files = sorted(path.name for path in cache.folder.path.glob("view_*"))
    assert files == ["view_0000.safetensors", "view_0001.safetensors"]
    (new,) = write(cache, (1, 0), (3, 0))
    (kept,), missing = cache.read([1, 3], [0, 0])
    assert missing == [1] and torch.equal(kept.map[0], new.map[0])
    smaller = limited(tmp_path, ENTRY)
    assert smaller.read([0, 1, 0], [0, 0, 1])[1] == [] and smaller.room == 0
    assert limited(tmp_path, 5 * ENTRY).room == 2


def test_other_views_count_and_other_caches_do_not(tmp_path):
    write(limited(tmp_path, 100 * ENTRY, rows=9), *[(row, 0) for row in range(9)])
    write(limited(tmp_path, 100 * ENTRY), *[(row, 40) for row in range(4)])
    cache = limited(tmp_path, 6 * ENTRY)
    assert cache.count() == 4 and cache.room == 2 and cache.has_room_for(2) and not cache.has_room_for(3)


def test_by_default_half_of_the_disk_is_left_free_whatever_the_cache_holds_already(tmp_path, monkeypatch):
    def free(entries):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=entries * ENTRY))

    free(8)
    cache = make_cache(tmp_path)
    assert cache.limit == 4 * ENTRY and cache.room == 4
    write(cache, (0, 0), (1, 0), (2, 0))
    free(5)  # the three entries take the rest
    cache = make_cache(tmp_path)
    assert cache.limit == 4 * ENTRY and cache.room == 1


def test_the_processes_of_a_run_stay_below_the_limit_together(tmp_path):
    caches = [limited(tmp_path, 7 * ENTRY, rows=20) for _ in range(3)]
    for number, cache in enumerate(caches):
        cache.share_room(3, number)
    assert [cache.room for cache in caches] == [3, 2, 2]
    for row in range(20):
        write(caches[row % 3], (row, 0))
    assert caches[0].count() == 7 and not any(cache.room for cache in caches)


def test_two_runs_at_once_stay_below_the_limit_together(tmp_path):
    caches = [limited(tmp_path, 100 * ENTRY, rows=200) for _ in range(2)]
    for row in range(200):
        write(caches[row % 2], (row, 0))
    assert 100 <= caches[0].count() <= 101


def test_a_limit_changes_no_weight_and_a_larger_one_fills_on(
    tmp_path, teacher, blobs_npz, cache_dir, monkeypatch, no_report
):  # fmt: skip
    values, images, seen = settings(teacher, blobs_npz, tmp_path / "whole"), Images(monkeypatch), {}
    rd_hf.distill(**(values | {"cache_dir": str(tmp_path / "elsewhere")}))
    runs = [("cold", 50, 50), ("warm", 50, 50), ("smaller", 10, 50), ("larger", 70, 70), ("unlimited", None, 80)]
    for name, limit, stored in runs:
        images.seen = 0
        changes = {"output_dir": str(tmp_path / name), "cache_limit": limit and f"{limit * TRAINED}B"}
        rd_hf.distill(**(values | changes))
        seen[name] = images.seen
        (folder,) = list_folders(cache_dir)
        assert entries(folder) == stored, name
        assert same_weights(tmp_path / "whole", tmp_path / name), name
    assert seen["cold"] > seen["warm"] == seen["smaller"] == seen["larger"] > seen["unlimited"] > 13


def test_with_a_limit_the_features_are_those_of_the_live_teacher(tmp_path, blobs_npz, cache_dir, no_report):
    teacher = make_teacher(tmp_path / "vit", "vit")
    values = settings(teacher, blobs_npz, tmp_path / "live", method="drd", cache_dtype="float32")
    rd_hf.distill(**(values | {"cache": False, "cache_dtype": None}))
    values |= {"output_dir": str(tmp_path / "limited"), "cache_limit": "300KB"}
    rd_hf.distill(**values)
    (folder,) = list_folders(cache_dir)
    assert 0 < entries(folder) < 80 and same_weights(tmp_path / "live", tmp_path / "limited")


def test_a_resumed_run_keeps_to_the_limit_or_to_a_new_one(
    tmp_path, teacher, blobs_npz, cache_dir, monkeypatch, caplog, no_report
):  # fmt: skip
    caplog.set_level(logging.INFO, "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "whole")
    rd_hf.distill(**(values | {"cache_dir": str(tmp_path / "elsewhere")}))
    for name, then, stored in (("same", f"{50 * TRAINED}B", 50), ("more", f"{60 * TRAINED}B", 60)):
        values |= {"output_dir": str(tmp_path / name), "cache_limit": f"{50 * TRAINED}B"}
        interrupted(monkeypatch, values, 3)
        rd_hf.distill(**(values | {"cache_limit": then}), resume=True)
        (folder,) = list_folders(cache_dir)
        assert entries(folder) == stored and same_weights(tmp_path / "whole", tmp_path / name)
    assert caplog.text.count("cache_limit: '22000B' then, '26400B' now") == 1


def test_the_size_and_what_follows_are_said_before_the_training_in_one_line(
    tmp_path, teacher, blobs_npz, cache_dir, caplog, no_report
):  # fmt: skip
    caplog.set_level(logging.INFO, "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "one", max_steps=2, eval_steps=2, cache_limit="22KB")
    rd_hf.distill(**values)
    (folder,) = list_folders(cache_dir)
    (line,) = [message for message in caplog.messages if "limit" in message]
    assert line == (
        f"The complete cache in {folder.path} would take 52.80 KB, but its limit is 22.00 KB: the other features (70 "
        "of 120) are computed at every step. To cache more, raise `cache_limit`, lower `num_views`, or put `cache_dir` "
        "on a larger disk."
    )
    assert caplog.messages.index(line) < next(n for n, m in enumerate(caplog.messages) if m.startswith("step"))
    there = entries(folder)
    caplog.clear()
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "two"), "cache_limit": f"{120 * TRAINED}B"}))
    assert "limit" not in caplog.text and f"{there} of 120 entries are cached" in caplog.text
    fill_cache.build(DistillationArguments(**(values | {"cache_limit": None})))
    caplog.clear()
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "three"), "cache_limit": "1KB"}))
    assert "limit" not in caplog.text and "120 of 120 entries are cached" in caplog.text
    caplog.clear()
    changes = {"output_dir": str(tmp_path / "four"), "cache_dtype": "float32", "augment": False}
    del values["num_views"]
    rd_hf.distill(**(values | changes | {"cache_limit": "1KB"}))
    assert "`num_views`" not in caplog.text and "choose a smaller `cache_dtype`, or put `cache_dir`" in caplog.text


def test_two_processes_keep_to_the_limit_together_and_end_with_the_same_weights(
    tmp_path, teacher, blobs_npz, cache_dir, job
):
    values = settings(teacher, blobs_npz, tmp_path / "whole", max_steps=6, eval_steps=6)
    values |= {"per_device_train_batch_size": 4, "cache_dir": str(tmp_path / "elsewhere")}
    changes = {"output_dir": str(tmp_path / "limited"), "cache_dir": str(cache_dir), "cache_limit": f"{31 * TRAINED}B"}
    for run, lines in ((values, [0, 0]), (values | changes, [3, 0])):  # of train, validation and test
        processes = job(2, "-m", "rd_hf", *options(run))
        assert [done.returncode for done in processes] == [0, 0], processes[0].stderr[-3000:]
        assert [done.stderr.count("its limit is") for done in processes] == lines
    assert same_weights(tmp_path / "whole", tmp_path / "limited")
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "limited")]
    assert metrics[0]["teacher"] == metrics[1]["teacher"]
    assert max(map(entries, list_folders(cache_dir))) == 31
    assert max(map(entries, list_folders(tmp_path / "elsewhere"))) > 31


def test_a_folder_is_told_from_its_copy_but_not_from_itself_by_another_path(tmp_path):
    folder = open_folder(tmp_path / "node", make_key(), "local")
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "node")
    copy, link, again = (open_folder(tmp_path / name, make_key(), "local") for name in ("copy", "link", "node"))
    assert folder.identity() == link.identity() == again.identity() != copy.identity()
    shutil.rmtree(tmp_path / "node")
    assert folder.identity() is None


def test_nodes_with_a_disk_each_fill_their_caches_up_to_the_limit(tmp_path, teacher, blobs_npz, warm_python):
    """Processes whose RD_HF_CACHE leads to other folders."""
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=6, eval_steps=6, cache_limit=f"{9 * TRAINED}B")
    command = ["-m", "rd_hf", *options(values | {"per_device_train_batch_size": 4})]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"} | EMPTY_PLOTS
    nodes = [tmp_path / "node_0", tmp_path / "node_1"]
    processes = []
    for rank, cache in enumerate(nodes):
        own = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "RD_HF_CACHE": str(cache)}
        processes.append(warm_python.start(*command, cwd=tmp_path, environment=meeting | own))
    for finish in processes:
        done = finish()
        assert done.returncode == 0 and "its limit is" in done.stderr, done.stderr[-3000:]
    assert [max(map(entries, list_folders(cache))) for cache in nodes] == [9, 9]


def test_building_stops_at_the_limit_and_says_how_far_it_came(
    tmp_path, teacher, blobs_npz, cache_dir, monkeypatch, job
):  # fmt: skip
    values, images = settings(teacher, blobs_npz, tmp_path / "run", cache_limit=f"{50 * TRAINED}B"), Images(monkeypatch)
    said = fill_cache.build(DistillationArguments(**values))
    assert "50 of 120 entries are cached, and this process computed 50. The limit of 22.00 KB" in said
    images.seen = 0
    said = fill_cache.build(DistillationArguments(**values))
    assert "50 of 120 entries are cached, and this process computed 0." in said and images.seen == 0
    (tmp_path / "x.yaml").write_text(
        config_text(DistillationArguments(**(values | {"cache_limit": f"{71 * TRAINED}B"})))
    )
    done, other = job(2, "-m", "rd_hf", "cache", "build", "--config", "x.yaml")
    assert done.returncode == other.returncode == 0, done.stderr[-3000:]
    assert "71 of 120 entries are cached, and this process computed 11." in done.stdout
    assert "71 of 120 entries are cached, and this process computed 10." in other.stdout
    said = fill_cache.build(DistillationArguments(**(values | {"cache_limit": f"{120 * TRAINED}B"})))
    assert said.endswith(": 120 entries, of which this process computed 49.")


def test_features_of_scored_images_keep_to_the_limit_and_the_scores_are_the_same(
    tmp_path, teacher, blobs_npz, cache_dir, caplog
):
    values = settings(teacher, blobs_npz, tmp_path / "whole", max_steps=2, eval_steps=2, per_device_eval_batch_size=5)
    rd_hf.distill(**(values | {"cache_dir": str(tmp_path / "elsewhere")}))
    assert {entries(folder) for folder in list_folders(tmp_path / "elsewhere") if folder.key["rows"] == 24} == {24}
    scored = 24 * 3 * 3 * 4 + 8
    for name in ("cold", "warm"):
        caplog.clear()
        rd_hf.distill(**(values | {"output_dir": str(tmp_path / name), "cache_limit": f"{12 * scored}B"}))
        metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", name)]
        assert metrics[0]["teacher"] == metrics[1]["teacher"]
        folders = [folder for folder in list_folders(cache_dir) if folder.key["rows"] == 24]
        assert len(folders) == 2 and {entries(folder) for folder in folders} == {12}
        lines = [m for m in caplog.messages if "would take 20.93 KB, but its limit is 10.46 KB" in m]
        assert len(lines) == 2 and all(
            "(12 of 24) are computed whenever they are scored." in line and "`num_views`" not in line for line in lines
        )
