"""Streams of images: how they are opened by name, their order for any number of processes, and what they refuse."""

import gc
import io
import weakref
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasets import (
    Dataset,
    DatasetInfo,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    interleave_datasets,
)
from datasets.table import InMemoryTable
from PIL import Image as Picture
from test_shards import png, write_shard

from rd_hf.data import stream_order
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, read_image
from rd_hf.data.order import RowOrder, StepPlan
from rd_hf.data.pixel_store import PixelStore
from rd_hf.data.pixels import PixelTransform, Transforms
from rd_hf.data.stream_order import StreamOrder, number_of_lanes
from rd_hf.data.streams import open_stream

IMAGES = Features({"image": Image()})
FIRST = 10  # rows below those of the stream


@pytest.fixture(autouse=True)
def no_long_sleep(monkeypatch):
    """`datasets` sleeps for 5 seconds after each epoch of parquet files."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)


def content(number: int) -> bytes:
    return png(number)


def memory(shards=4, each=6):
    """A stream whose images have their number as grey value, and the numbers that have been read."""
    read = []

    def rows(parts):
        for part in parts:
            for number in range(part * each, (part + 1) * each):
                read.append(number)
                yield {"image": {"bytes": content(number), "path": None}}

    return IterableDataset.from_generator(rows, features=IMAGES, gen_kwargs={"parts": list(range(shards))}), read


def value(image) -> int:
    return read_image(image).rgb.getpixel((0, 0))[0]


def order_of(dataset, rows_a_step=8, buffer_size=16, seed=0, skip_bad=False) -> StreamOrder:
    return StreamOrder(open_stream(dataset), rows_a_step, FIRST, seed, buffer_size, skip_bad)


def plan_of(order, size=8, **changes) -> StepPlan:
    labelled = RowOrder(np.arange(FIRST), seed=0, stream=0)
    return StepPlan(labelled, order, labelled_size=1, unlabelled_size=size, **changes)


def shown(plan, step) -> list[int]:
    """The grey values of what this process shows at a step."""
    visits = chain.from_iterable(plan.with_images(plan.batch(step, part)) for part in range(plan.accumulation))
    return [value(v.images.images[v.row - v.images.first]) for v in visits if not v.labelled]


@pytest.mark.parametrize(("rows", "shards", "lanes"), [
    (8, 1, 1), (8, 4, 1), (8, 8, 1), (8, 31, 1), (8, 32, 2), (64, 1024, 8), (64, 1013, 8), (6, 96, 6), (7, 111, 1),
])  # fmt: skip
def test_lanes_divide_steps_evenly_and_have_many_files(rows, shards, lanes):
    assert number_of_lanes(rows, shards) == lanes


def files_of(*counts):
    """A stream of files with so many images, whose grey value is the number of the file."""

    def rows(files):
        for number, count in files:
            yield from ({"image": {"bytes": content(number), "path": None}} for _ in range(count))

    return IterableDataset.from_generator(rows, features=IMAGES, gen_kwargs={"files": list(enumerate(counts))})


def test_images_of_a_short_file_are_shown_as_often_as_others():
    plan = plan_of(order_of(files_of(*[10] * 7, 2)))
    values = [number for step in range(9) for number in shown(plan, step)]  # 72 images are one epoch
    assert [values.count(number) for number in range(8)] == [10] * 7 + [2]


def test_an_empty_part_shows_images_of_the_next(monkeypatch):
    monkeypatch.setattr(stream_order, "EVEN_SHARDS", 1)
    one = plan_of(order_of(files_of(0, 5, 0, 0)))
    parts = [plan_of(order_of(files_of(0, 5, 0, 0)), size=4, processes=2, rank=rank) for rank in range(2)]
    for step in range(4):
        assert shown(one, step) == [1] * 8 and shown(parts[0], step) == shown(parts[1], step) == [1] * 4


@pytest.mark.parametrize(("shards", "each"), [(32, 1), (1, 23), (3, 7)])
def test_processes_and_accumulation_show_the_images_of_one_process(shards, each):
    whole = plan_of(order_of(memory(shards, each)[0]))
    parts = plan_of(order_of(memory(shards, each)[0]), size=4, accumulation=2)
    ranks = [plan_of(order_of(memory(shards, each)[0]), size=4, processes=2, rank=rank) for rank in range(2)]
    assert len(whole.unlabelled.lanes) == number_of_lanes(8, shards)
    for step in range(9):  # 72 images, more than three epochs
        expected = shown(whole, step)
        assert expected == shown(parts, step) == [*shown(ranks[0], step), *shown(ranks[1], step)]


def test_what_is_no_longer_read_ends_at_once_and_not_in_the_garbage_collector():
    """It would wait for threads in whichever thread it runs: for ever in one that is about to start."""
    order, closed = order_of(memory()[0]), order_of(memory()[0])
    shown(plan_of(order), 0), shown(plan_of(closed), 0)
    left = [weakref.ref(lane._images) for lane in (*order.lanes, *closed.lanes)]
    gc.disable()
    try:
        del order
        closed.close()
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


def test_an_epoch_shows_every_image_once_and_the_next_one_in_another_order():
    order = order_of(memory()[0])
    plan = plan_of(order)
    epochs = [
        [number for step in range(3 * epoch, 3 * epoch + 3) for number in shown(plan, step)] for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])
    other = plan_of(order_of(memory()[0], seed=1))
    assert shown(other, 0) != epochs[0][:8]


def test_a_process_reads_only_its_lanes_and_no_more_than_the_buffer_ahead():
    dataset, read = memory(shards=32, each=10)
    plan = plan_of(order_of(dataset, buffer_size=20), size=4, processes=2, rank=1)
    shown(plan, 0)
    assert {number // 10 % 2 for number in read} == {1} and len(read) <= 4 + 20


def of_chance():
    """Epochs of different lengths."""
    kinds = [memory(1, 9)[0], memory(1, 14)[0]]
    return interleave_datasets(kinds, probabilities=[0.5, 0.5], seed=3, stopping_strategy="first_exhausted")


def short():
    """33 files in two lanes, of 17 and 16 images."""
    return memory(33, 1)[0]


@pytest.mark.parametrize("made", [lambda: memory(3, 7)[0], short, of_chance])
@pytest.mark.parametrize("step", [2, 5, 9, 16])
def test_a_resumed_order_goes_on_at_the_same_image(step, made):
    whole, expected = plan_of(order_of(made(), rows_a_step=6), size=6), []
    for number in range(20):
        expected.append(shown(whole, number))
    epochs = whole.unlabelled.epochs(step)  # what a checkpoint holds, also where later steps have been read ahead
    later = plan_of(order_of(made(), rows_a_step=6), size=6)
    later.unlabelled.take_over(epochs, step)
    assert [shown(later, number) for number in range(step, 20)] == expected[step:]
    assert shown(later, 0) == expected[0] and shown(later, step) == expected[step]
    assert (epochs[0] == [0, 0]) == (step == 2 or (made is short and step == 5))
    assert later.unlabelled.epochs(step) == epochs


def test_epochs_differ_in_length_where_chance_ends_them():
    order = order_of(of_chance(), rows_a_step=6)
    shown(plan_of(order, size=6), 40)
    starts = [order.epochs(step)[0] for step in range(40)]
    assert len({later[1] - start[1] for start, later in pairwise(sorted(set(map(tuple, starts))))}) > 1


def test_epochs_that_only_one_process_has_met_serve_all():
    """At step 3 the second process has met the end of the 12 images, and the first has not."""
    ranks = [plan_of(order_of(memory(1, 12)[0]), size=4, processes=2, rank=rank) for rank in range(2)]
    for step in range(2):
        expected = [shown(rank, step) for rank in ranks]
    first, second = (rank.unlabelled.epochs(2) for rank in ranks)
    assert first == [[0, 0]] and second == [[1, 12]]
    later = plan_of(order_of(memory(1, 12)[0]))
    later.unlabelled.take_over(max(first, second), 2)
    expected = [*shown(ranks[0], 2), *shown(ranks[1], 2)]
    assert shown(later, 2) == expected


@pytest.mark.parametrize("epochs", [[[0, 0]], [[1, 12]]])
def test_a_stream_that_has_become_shorter_is_refused(epochs):
    plan = plan_of(order_of(memory(1, 5)[0]))
    plan.unlabelled.take_over(epochs, 3)
    with pytest.raises(DataError, match="another number of images than before .now 5 in epoch"):
        shown(plan, 3)


def test_a_stream_that_breaks_off_says_why_and_what_to_do():
    def rows():
        yield {"image": {"bytes": content(0), "path": None}}
        raise OSError("no route to host")

    plan = plan_of(order_of(IterableDataset.from_generator(rows, features=IMAGES)))
    with pytest.raises(DataError, match="breaks off .OSError: no route to host.; .*`resume`"):
        shown(plan, 0)


@pytest.mark.parametrize("shards", [1, 32])
def test_an_empty_stream_is_refused(shards):
    with pytest.raises(DataError, match="is empty"):
        shown(plan_of(order_of(memory(shards, 0)[0])), 0)


@pytest.fixture
def files(tmp_path):
    """The same 12 images in tar files, in parquet files, and in a folder."""
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        write_shard(tmp_path / "tar" / f"{shard}.tar", {f"{n:02d}.png": content(n) for n in numbers})
        rows = [{"image": {"bytes": content(n), "path": None}, "finding": 1} for n in numbers]
        (tmp_path / "parquet").mkdir(exist_ok=True)
        table = Dataset.from_list(rows, features=Features(IMAGES | {"finding": Value("int64")}))
        table.to_parquet(str(tmp_path / "parquet" / f"{shard}.parquet"))
        (tmp_path / "folder").mkdir(exist_ok=True)
        for n in numbers:
            (tmp_path / "folder" / f"{n:02d}.png").write_bytes(content(n))
    return tmp_path


@pytest.mark.parametrize(("name", "shards", "images"), [
    ("tar", 3, 12), ("parquet", 3, 12), ("folder", 1, 12), ("tar/1.tar", 1, 4), ("parquet/2.parquet", 1, 4),
])  # fmt: skip
def test_what_can_be_named(files, name, shards, images, monkeypatch):
    monkeypatch.chdir(files)
    for named in (name, str(files / name)):
        stream = open_stream(named)
        assert stream.dataset.num_shards == shards
        first = 8 if name.endswith("2.parquet") else 4 if name.endswith("1.tar") else 0
        assert sorted(map(value, stream.images())) == list(range(first, first + images))


def test_a_table_beside_tar_files_or_images_is_not_the_stream(files):
    for kind in ("tar", "folder"):
        (files / kind / "sizes.csv").write_text("name,size\n0.tar,4\n")
        assert sorted(map(value, open_stream(str(files / kind)).images())) == list(range(12))


@pytest.mark.parametrize("name", ["-1.tar", "1-.tar"])
def test_an_empty_tar_file_is_passed_over(files, name):
    write_shard(files / "tar" / name, {})
    assert sorted(map(value, open_stream(str(files / "tar")).images())) == list(range(12))


def test_a_damaged_tar_file_is_named_or_breaks_the_stream_off(files):
    (files / "tar" / "0.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="/tar' cannot be read: .*header"):
        open_stream(str(files / "tar"))
    (files / "tar" / "0.tar").rename(files / "tar" / "9.tar")
    with pytest.raises(DataError, match="breaks off .ReadError: .*header"):
        list(open_stream(str(files / "tar")).images())


def test_streams_in_hand_give_bytes_pictures_or_a_split():
    def raw():
        yield {"content": content(7), "n": 0}

    def pictures():
        yield {"image": Picture.fromarray(np.full((3, 3), 9, dtype=np.uint8)), "n": 0}

    found = IterableDataset.from_generator(raw, features=Features({"content": Value("binary"), "n": Value("int64")}))
    assert [value(image) for image in open_stream(found, "content").images()] == [7]
    found = IterableDataset.from_generator(pictures, features=Features(IMAGES | {"n": Value("int64")}))
    assert [value(image) for image in open_stream(IterableDatasetDict(test=found)).images()] == [9]
    assert open_stream(found, "scan").column == "image"  # the labelled images' column need not be in the stream
    both = IterableDatasetDict(test=memory()[0], train=found)
    assert [value(image) for image in open_stream(both.with_format("numpy")).images()] == [*range(24), 9]


@pytest.mark.parametrize(("dataset", "column", "words"), [
    (lambda: Dataset.from_dict({"image": [b""]}), None, "to_iterable_dataset"),
    (lambda: IterableDataset.from_generator(lambda: iter([{"image": b""}])), None, "give `features=datasets.Features"),
    (lambda: memory()[0].map(lambda row: row), "scan", "stream does not say"),
    (lambda: memory()[0].rename_column("image", "x1").cast_column("x1", Value("string")), "scan", "x1 .string."),
    (lambda: Dataset.from_dict({"image": ["a.png"]}).to_iterable_dataset(), None, "has image .string., but a stream"),
    (lambda: "/nowhere/at/all", None, "'/nowhere/at/all' cannot be read"),
])  # fmt: skip
def test_what_is_refused(dataset, column, words):
    with pytest.raises(DataError, match=words):
        open_stream(dataset(), column)


def test_splits_without_the_column_of_train_are_left_out(caplog):
    other = memory()[0].rename_column("image", "scan")
    stream = open_stream(IterableDatasetDict(a=memory(1, 2)[0], b=other, train=memory(1, 3)[0]))
    assert sorted(map(value, stream.images())) == [0, 0, 1, 1, 2]
    assert "left out, because they have not the same column 'image' as the others: b" in caplog.text
    assert "without labels: a, train" in caplog.text


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_all_splits_of_a_folder_are_read(files, kind):
    folder = files / f"{kind} [1]"
    (files / kind).rename(folder)
    for split in ("train", "test"):
        (folder / split).mkdir()
    for number, file in enumerate(sorted(folder.glob("*.*"))):
        file.rename(folder / ("test" if number == 1 else "train") / file.name)
    assert sorted(map(value, open_stream(str(folder)).images())) == list(range(12))


def broken():
    def rows():
        for number in range(6):
            yield {"image": {"bytes": b"no image" if number in (2, 3) else content(number), "path": None}}

    return IterableDataset.from_generator(rows, features=IMAGES)


def test_an_image_that_cannot_be_read_ends_the_run_or_the_next_of_its_batch_is_shown(caplog):
    from transformers import ViTImageProcessorPil

    transform = PixelTransform(ViTImageProcessorPil(size={"height": 4, "width": 4}, resample=0))
    rows = Dataset.from_list([{"image": {"bytes": content(0), "path": None}}] * FIRST, features=IMAGES)
    store = PixelStore(rows.cast_column("image", Image(decode=False)), Transforms(transform, transform), "train")

    def fetched(skip_bad):
        plan = plan_of(order_of(broken(), rows_a_step=6, buffer_size=1, skip_bad=skip_bad), size=6)
        visits = [visit for visit in plan.with_images(plan.batch(0, 0)) if not visit.labelled]
        return [[int(p[0, 0, 0]) for p in store.fetch(visit, True)[:2]] for visit in visits]

    with pytest.raises(BadImageError, match="image 2 of the stream.*`on_bad_image` skip"):
        fetched(skip_bad=False)
    assert fetched(skip_bad=True) == [[0, 0], [1, 1], [4, 4], [4, 4], [4, 4], [5, 5]]
    assert "Skipped, another image of the batch is shown in its place: image 2 of the stream" in caplog.text


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": None}])
def test_a_missing_image_is_not_the_end_of_the_stream(missing):
    images = [missing if number == 2 else {"bytes": content(number), "path": None} for number in range(6)]
    table = pa.table({"image": pa.array(images, Image().pa_type)})
    rows = Dataset(InMemoryTable(table), info=DatasetInfo(features=IMAGES)).to_iterable_dataset()
    plan = plan_of(order_of(rows, rows_a_step=6, buffer_size=1), size=6)
    for step in range(2):
        with pytest.raises(BadImageError):
            shown(plan, step)
        read = next(visit.images.images for visit in plan.with_images(plan.batch(step, 0)) if not visit.labelled)
        assert sorted(value(image) for image in read if image is not None and image["bytes"]) == [0, 1, 3, 4, 5]


def test_content_is_read_from_files(files):
    """A folder's images are read where they are decoded, as `datasets` gives their paths."""
    image = next(open_stream(str(files / "folder")).images())
    assert image["bytes"] is None and io.BytesIO(content(0)).getvalue() == (files / "folder" / "00.png").read_bytes()
    assert value(image) == 0
