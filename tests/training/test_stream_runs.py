"""Runs whose unlabelled images are a stream: resumed to the bit, the same on two processes, and what they say of it."""

import json
import logging
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, Image, IterableDataset, config, interleave_datasets
from small_images import png
from stopped_runs import interrupted, losses
from test_distillation import TINY_VIT
from test_interrupts import options
from test_resume import STEADY_VIT
from test_teacher_cache import last_weights, settings

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import parse_distillation
from rd_hf.comparison import bench
from rd_hf.data.columns import DataError
from rd_hf.runtime.checkpoint import CheckpointError
from rd_hf.tasks.classification import SingleLabel
from rd_hf.teacher_cache.key import list_folders
from rd_hf.training import target_start, unlabelled
from rd_hf.training.distillation import run_distillation

quick = pytest.mark.usefixtures("no_report")
IMAGES = Features({"image": Image()})


@pytest.fixture(autouse=True)
def no_long_sleep(monkeypatch):
    """`datasets` sleeps for 5 seconds after each epoch of parquet files."""
    monkeypatch.setattr(config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """A folder of 24 images in 2 parquet files."""
    folder = tmp_path_factory.mktemp("stream")
    for shard in range(2):
        rows = [
            {"image": {"bytes": png(5 * number, (24, 20)), "path": None}}
            for number in range(12 * shard, 12 * shard + 12)
        ]
        Dataset.from_list(rows, features=IMAGES).to_parquet(str(folder / f"{shard}.parquet"))
    return folder


def streaming(teacher, dataset, folder, parquet, **changes):
    values = settings(
        teacher, dataset, folder, use_unlabeled=False, unlabeled_dataset=str(parquet), unlabeled_streaming=True,
        stream_buffer_size=6, cache_dtype="float32", per_device_unlabeled_batch_size=6, logging_steps=1, save_steps=3,
    )  # fmt: skip
    return values | changes


def generator_of(count):
    def rows():
        for number in range(count):
            yield {"image": {"bytes": png(5 * number, (24, 20)), "path": None}}

    return IterableDataset.from_generator(rows, features=IMAGES)


@quick
@pytest.mark.parametrize("in_hand", [False, True])
def test_a_run_resumes_in_the_same_course_across_the_end_of_a_stream(
    tmp_path, teacher, blobs_npz, cache_dir, parquet, monkeypatch, caplog, in_hand
):
    caplog.set_level(logging.INFO, "rd_hf")
    mixed = interleave_datasets([generator_of(5), generator_of(9)], probabilities=[0.4, 0.6], seed=1)
    changes = {"unlabeled_dataset": mixed, "unlabeled_streaming": False} if in_hand else {}
    values = streaming(teacher, blobs_npz, tmp_path / "whole", parquet, **changes)
    rd_hf.distill(**values)
    assert f"read from a stream of {1 if in_hand else 2} shards and mixed in a buffer of 6" in caplog.text
    ended = set(re.findall("The stream has ended after ([0-9]+) images, and begins again", caplog.text))
    assert len(ended) > 1 if in_hand else ended == {"24"}
    (cache,) = list_folders(cache_dir)
    assert cache.key["rows"] == 60  # those of train: images of a stream have no place in a cache
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 6)
    rd_hf.distill(**values, resume=True, dataloader_num_workers=1)
    whole, cut = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert all(np.array_equal(whole[name], value) for name, value in cut.items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and len(losses(tmp_path / "cut")) == 10


@quick
def test_two_processes_follow_the_course_of_one_with_two_batches(teacher, blobs_npz, tmp_path, parquet, job):
    values = streaming(teacher, blobs_npz, tmp_path / "one", parquet, student=STEADY_VIT, max_steps=6, eval_steps=3)
    values |= {"per_device_unlabeled_batch_size": 4, "per_device_train_batch_size": 4}
    rd_hf.distill(**values, gradient_accumulation_steps=2)
    values["output_dir"] = str(tmp_path / "two")
    done, other = job(2, "-m", "rd_hf", *options(values))
    assert done.returncode == other.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    state = json.loads((sorted((tmp_path / "two" / "checkpoints").iterdir())[-1] / "state.json").read_text())
    assert state["stream_epochs"] == [[1, 24]]


def test_the_run_its_card_and_info_say_what_was_read(teacher, blobs_npz, tmp_path, parquet):
    values = streaming(teacher, blobs_npz, tmp_path / "run", parquet, max_steps=2, eval_steps=2, num_views="endless")
    del values["cache_dtype"]
    rd_hf.distill(**values)
    training = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]
    assert training["streamed_images"] == 12 and training["unlabelled_images"] == 0
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "12 training images without a label were read from a stream" in card and "unlabeled_streaming" in card
    assert "images without label, read from a stream" in (tmp_path / "run" / "report.html").read_text()
    assert rd_hf.info(tmp_path / "run")["training"]["streamed_images"] == 12
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("unlabeled_batch_size: 6", "unlabeled_batch_size: 3"))
    for kept in (True, False):  # a report by other processes is about the same images
        if not kept:
            shutil.rmtree(tmp_path / "run" / "checkpoints")
        again = rd_hf.report(tmp_path / "run")["training"]
        assert again["streamed_images"] == 12


@quick
def test_a_stream_goes_with_drd_and_without_a_cache(teacher, blobs_npz, tmp_path, parquet):
    changes = {"method": "drd", "augment": False, "cache": False, "max_steps": 2, "eval_steps": 2, "cache_dtype": None}
    changes["num_views"] = 1
    rd_hf.distill(**streaming(teacher, blobs_npz, tmp_path / "run", parquet, **changes))
    assert len(losses(tmp_path / "run")) == 2


@quick
def test_a_student_alone_reads_no_stream_of_its_file(blobs_npz, tmp_path, parquet, monkeypatch, caplog):
    monkeypatch.setattr(unlabelled, "open_stream", None)
    values = streaming("missing", blobs_npz, tmp_path / "run", parquet, max_steps=2, eval_steps=2)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    with caplog.at_level("INFO", logger="rd_hf"):
        run_distillation(parse_distillation(["--config", str(tmp_path / "job.yaml"), "--method", "ce"]))
    assert len(losses(tmp_path / "run")) == 2
    (told,) = (message for message in caplog.messages if "does not read" in message)
    assert all(name in told for name in ("teacher", "unlabeled_dataset", "stream_buffer_size"))


@quick
def test_rd_plus_goes_without_what_it_keeps_of_each_image(teacher, blobs_npz, tmp_path, parquet, monkeypatch):
    monkeypatch.setattr(target_start, "FITS", {0: target_start.Fit(20, 8, 3e-3)})
    started, images = target_start.start_at_probe, []
    monkeypatch.setattr(
        target_start, "start_at_probe", lambda *given: images.append(len(given[2][0].map)) or started(*given)
    )
    values = streaming(teacher, blobs_npz, tmp_path / "run", parquet, method="rd_plus", student=TINY_VIT, max_steps=2)
    with pytest.raises(ArgumentError, match="`target_views` to one, or leave `unlabeled_streaming` out"):
        rd_hf.distill(**values)
    values |= {"target_views": "one", "overwrite_output_dir": True}
    with pytest.raises(ArgumentError, match="`ensemble_share` to 0, or leave `unlabeled_streaming` out"):
        rd_hf.distill(**values)
    rd_hf.distill(**values | {"ensemble_share": 0.0, "eval_steps": 2})
    assert len(losses(tmp_path / "run")) == 2 and images == [10 + 10]  # with a label, and of the stream


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({"use_unlabeled": True}, ArgumentError, "`use_unlabeled` mixes rows of train"),
    ({"unlabeled_streaming": False}, ArgumentError, "`stream_buffer_size` is only for a stream"),
    ({"unlabeled_dataset": None}, ArgumentError, "`unlabeled_streaming` needs `unlabeled_dataset`"),
    ({"unlabeled_dataset": Dataset.from_dict({"image": []})}, DataError, "to_iterable_dataset"),
    ({"dataset": generator_of(3)}, DataError, "without streaming=True; .*`unlabeled_dataset`"),
])  # fmt: skip
def test_what_a_stream_does_not_go_with(teacher, blobs_npz, tmp_path, parquet, changes, error, words):
    with pytest.raises(error, match=words):
        rd_hf.distill(**streaming(teacher, blobs_npz, tmp_path / "run", parquet) | changes)


def test_a_comparison_takes_no_stream(monkeypatch):
    data = SimpleNamespace(task=SingleLabel(["a", "b"]), shards=None, stream=generator_of(1))
    monkeypatch.setattr(bench, "load_run_data", lambda *_, **__: data)
    with pytest.raises(ArgumentError, match="`unlabeled_dataset` cannot be a stream: download it"):
        bench.Bench(None, None)


@quick
def test_another_buffer_or_stream_ends_a_resumed_run(teacher, blobs_npz, tmp_path, parquet, monkeypatch):
    values = streaming(teacher, blobs_npz, tmp_path / "run", parquet, unlabeled_dataset=generator_of(23))
    interrupted(monkeypatch, values, 2)
    with pytest.raises(ArgumentError, match="stream_buffer_size: 6 then, 7 now"):
        rd_hf.distill(**values | {"stream_buffer_size": 7}, resume=True)
    other = Dataset.from_dict({"image": [{"bytes": png(1, (24, 20)), "path": None}] * 4}, features=IMAGES)
    with pytest.raises(CheckpointError):
        rd_hf.distill(**values | {"unlabeled_dataset": other.to_iterable_dataset(num_shards=2)}, resume=True)
