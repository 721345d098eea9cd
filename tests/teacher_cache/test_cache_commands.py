"""`rd-hf cache`, in processes of its own and with two of them."""

import json
import os
import time

import pytest
import torch
from test_teacher_cache import CPU, Images, make_cache, make_key, settings, teacher  # noqa: F401

import rd_hf
from rd_hf.arguments.config import config_text
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.models.features import StageFeature
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.key import differences, in_words, key_id, list_folders
from rd_hf.training import fill_cache


def filled(root, **key) -> FeatureCache:
    cache = make_cache(root, **key)
    cache.write([0, 1, 2], [0, 0, 1], [StageFeature(torch.rand(3, 2, 3, 3))])
    return cache


def test_info_tells_keys_in_words_entries_bytes_and_age(cache_dir, capsys):
    assert main(["cache", "info"]) == 0 and "no cache" in capsys.readouterr().out
    filled(cache_dir)
    other = filled(cache_dir, dtype="float16")
    os.utime(other.folder.path / "key.json", (time.time() - 5 * 24 * 3600,) * 2)
    assert main(["cache", "info"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"2 caches in {cache_dir}") and printed.count("3 entries in 2 views") == 2
    assert printed.index("dtype: float32") < printed.index("used 5 days ago") < printed.index("dtype: float16")
    assert "0.1 KB per entry" in printed and "rows: 5" in printed


def test_verify_drops_damaged_entries_and_files(cache_dir, capsys):
    path = filled(cache_dir).folder.path
    content = bytearray((path / "view_0000.safetensors").read_bytes())
    content[-5 * 72] ^= 1  # row 0
    (path / "view_0000.safetensors").write_bytes(content)
    os.truncate(path / "view_0001.safetensors", 100)
    assert main(["cache", "verify"]) == 0
    printed = capsys.readouterr().out
    assert (
        "view_0001.safetensors: deleted, because its header or size was damaged" in printed
        and "2 entries, 1 of them damaged and dropped" in printed
    )
    assert make_cache(cache_dir).read([0, 1, 2], [0, 0, 1])[1] == [0, 2]
    assert main(["cache", "verify"]) == 0 and "1 entries, 0 of them" in capsys.readouterr().out


def test_clear_deletes_what_was_asked_for_and_only_what_is_ours(cache_dir, capsys):
    one, two, three = (filled(cache_dir, rows=rows).folder.path for rows in (5, 6, 7))
    (cache_dir / "mine").mkdir()
    (cache_dir / "mine" / "key.json").write_text('{"key": {"format": "another"}}')
    (three / "notes.txt").write_text("mine")
    os.utime(two / "key.json", (time.time() - 5 * 24 * 3600,) * 2)
    assert main(["cache", "clear", "--older_than_days", "3"]) == 0
    printed = capsys.readouterr().out
    assert str(two) in printed and str(one) not in printed and not two.exists() and one.exists()
    assert main(["cache", "clear", "--key", "no"]) == 2 and one.name in capsys.readouterr().err
    assert main(["cache", "clear", "--key", one.name[:8]]) == 0 and not one.exists() and three.exists()
    assert main(["cache", "clear"]) == 0
    assert [path.name for path in three.iterdir()] == ["notes.txt"] and (cache_dir / "mine" / "key.json").exists()
    assert main(["cache", "clear"]) == 0 and "There is nothing to delete" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "build"),
        (["inf"], "build"),
        (["info", "--key", "a"], "Unknown argument `key`"),
        (["verify", "--older_than_days", "1"], "Unknown argument `older_than_days`"),
    ],
)
def test_wrong_usage_is_answered_with_what_there_is(options, named, capsys):
    assert main(["cache", *options]) == 2
    assert named in capsys.readouterr().err


def test_what_a_run_needs_is_built_ahead_and_then_nothing_is_computed(
    tmp_path, teacher, blobs_npz, cache_dir, monkeypatch, no_report,  # noqa: F811
):  # fmt: skip
    values = settings(teacher, blobs_npz, tmp_path / "run")
    with monkeypatch.context() as patch:
        fill, calls = fill_cache._fill, []

        def interrupted_at_the_second(*arguments):
            calls.append(fill(*arguments) if not calls else None)
            if len(calls) > 1:
                raise KeyboardInterrupt

        patch.setattr(fill_cache, "_fill", interrupted_at_the_second)
        with pytest.raises(KeyboardInterrupt, match="8 of 120 entries are kept. Repeat the command to continue"):
            fill_cache.build(DistillationArguments(**values))
    images = Images(monkeypatch)
    assert "of which this process computed 112" in fill_cache.build(DistillationArguments(**values))
    assert images.seen == 112
    assert "this process computed 0" in fill_cache.build(DistillationArguments(**values)) and images.seen == 112
    rd_hf.distill(**values)
    assert images.seen == 112 + 13  # those of the calibration
    with pytest.raises(ArgumentError, match="no cache to build"):
        fill_cache.build(DistillationArguments(**(values | {"num_views": "endless"})))


def test_two_processes_share_the_building(tmp_path, teacher, blobs_npz, cache_dir, job):  # noqa: F811
    (tmp_path / "x.yaml").write_text(
        config_text(DistillationArguments(**settings(teacher, blobs_npz, tmp_path / "run")))
    )
    for done in job(2, "-m", "rd_hf", "cache", "build", "--config", "x.yaml"):
        assert done.returncode == 0, done.stderr[-3000:]
        assert "120 entries, of which this process computed 60" in done.stdout
    (folder,) = list_folders(cache_dir)
    cache = FeatureCache(folder, CPU)
    assert all(len(cache.present(view)) == 60 for view in (0, 1)) and cache.damaged == 0
    assert all(not cache.read(range(60), [view] * 60)[1] for view in (0, 1))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "drd"}, "stages"),
        ({"teacher_dtype": "bfloat16"}, "teacher_dtype"),
        ({"cache_dtype": "float32"}, "dtype"),
        ({"seed": 1}, "seed"),
        ({"augment": False}, "seed"),
        ({"vertical_flip": True}, "vertical_flip"),
        ({"gamma": 0.3}, "gamma"),
        ({"student_image_size": 16}, "grids"),
        ({"shots": 6, "learning_rate": 1.0, "per_device_train_batch_size": 4, "num_views": 3}, None),
    ],
)
def test_a_key_changes_with_what_features_depend_on_and_with_nothing_else(
    tmp_path, teacher, blobs_npz, cache_dir, changes, named  # noqa: F811
):  # fmt: skip
    values = settings(teacher, blobs_npz, tmp_path / "run", num_views=1)
    keys = []
    for options in (values, values | changes):
        fill_cache.build(DistillationArguments(**options))
        keys.append(list_folders(cache_dir)[0].key)
    changed = [line.split()[0] for line in differences(*keys)]
    assert len(list_folders(cache_dir)) == (1 if named is None else 2)
    assert (changed == []) if named is None else (named in changed), changed


def test_another_teacher_another_processor_other_images_and_another_code_version_are_other_keys(
    tmp_path, teacher, blobs_npz, cache_dir, monkeypatch  # noqa: F811
):  # fmt: skip
    import numpy as np
    from safetensors.torch import load_file, save_file

    def folders_after(**changes):
        values = settings(teacher, blobs_npz, tmp_path / "run", num_views=1, use_unlabeled=False)
        fill_cache.build(DistillationArguments(**(values | changes)))
        return len(list_folders(cache_dir))

    def copy(name, file, change):
        folder = tmp_path / name
        folder.mkdir()
        for path in teacher.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder / file)
        return str(folder)

    def nudge(path):
        tensors = load_file(path)
        next(value for value in tensors.values() if value.is_floating_point()).flatten()[0] += 1e-3
        save_file(tensors, path, metadata={"format": "pt"})

    def edit(**values):
        return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))

    assert folders_after() == 1
    assert folders_after(teacher=copy("same", "config.json", lambda path: None)) == 1  # the name does not enter
    assert folders_after(teacher=copy("weights", "model.safetensors", nudge)) == 2
    assert folders_after(teacher=copy("act", "config.json", edit(hidden_act="gelu"))) == 3
    assert folders_after(teacher=copy("mean", "preprocessor_config.json", edit(image_mean=[0.4] * 3))) == 4
    arrays = dict(np.load(blobs_npz))
    arrays["train_images"][17, 3, 3] ^= 1
    np.savez(tmp_path / "pixel.npz", **arrays)
    assert folders_after(dataset=str(tmp_path / "pixel.npz")) == 5
    monkeypatch.setattr("rd_hf.teacher_cache.key.AUGMENTATION_VERSION", 2)
    assert folders_after() == 6


def test_a_key_is_told_in_words_without_any_path(tmp_path, teacher, blobs_npz, cache_dir):  # noqa: F811
    fill_cache.build(DistillationArguments(**settings(teacher, blobs_npz, tmp_path / "run", num_views=1)))
    (folder,) = list_folders(cache_dir)
    text = (folder.path / "key.json").read_text()
    assert str(tmp_path) not in text and str(teacher) not in text
    words = in_words(folder.key)
    assert {"rotation_degrees: 10.0", "seed: 0", "teacher_config.hidden_act: relu"} <= set(words)
    assert key_id(make_key()) != key_id(make_key(rows=6))
