"""Unlabelled images streamed from a data set on the Hub: parquet files, and the tar files of webdataset."""

import io
import json
import tarfile

import pytest
from datasets import Dataset, Features, Image
from small_images import png
from test_hub_loading import distill

IMAGES = Features({"image": Image()})


def parquet(numbers):
    rows = [{"image": {"bytes": png(5 * number, (24, 20)), "path": None}} for number in numbers]
    file = io.BytesIO()
    Dataset.from_list(rows, features=IMAGES).to_parquet(file)
    return file.getvalue()


def tar(numbers):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in numbers:
            content = png(5 * number, (24, 20))
            member = tarfile.TarInfo(f"{number:06d}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("shard", [parquet, tar], ids=["parquet", "tar"])
def test_a_run_streams_a_data_set_on_the_hub(server, client, tmp_path, shard):
    names = [f"data/train-{part:05d}.{shard.__name__}" for part in (0, 1)]
    server.make_repo(
        "datasets/me/scans", {name: shard(range(12 * part, 12 * part + 12)) for part, name in enumerate(names)}
    )
    stream = "--unlabeled_dataset me/scans --unlabeled_streaming --stream_buffer_size 6"
    done = distill(client, tmp_path, "me/xray", *stream.split(), "--per_device_unlabeled_batch_size", "6")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "read from a stream of 2 shards" in done.stderr
    read = {path for method, path, _ in server.requests if method == "GET" and "/resolve/" in path}
    assert {path.split("/", maxsplit=6)[-1] for path in read if "/scans/" in path} >= set(names)
    state = json.loads(next((tmp_path / "secret_run" / "checkpoints").glob("step-*/state.json")).read_text())
    assert state["stream_epochs"]
