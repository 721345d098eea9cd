"""What unlabelled images in tar shards cost: images per second of the index and of loading, and memory.

    python examples/benchmark_shards.py --images 200000 --visits 20000
    python examples/benchmark_shards.py --images 200000 --visits 20000 --streaming

Writes tiny JPEG files in shards of 1000 to a temporary folder, indexes them, and loads batches of them in a run's
order, which jumps from shard to shard. With `--streaming` nothing is indexed: they are read from the start, and a last
row passes over images up to the half of them, as a run does that is resumed there. Prints a table. The first row is the
process before it has seen a shard. Without workers the last column is what one core does alone, whatever else the
machine is busy with.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from rd_hf.data.order import PlanSampler, RowOrder, StepPlan
from rd_hf.data.pixel_store import PixelStore, Visits, collate
from rd_hf.data.pixels import PixelTransform, Transforms
from rd_hf.data.shards import ImageShards, find_shards
from rd_hf.data.stream_order import StreamOrder
from rd_hf.data.streams import open_stream

IMAGES_PER_SHARD = 1000
DIFFERENT_IMAGES = 64
BATCH = 64


def write_shards(folder: Path, images: int, side: int) -> None:
    """Tar files of JPEG images, each with a label file that is passed over."""
    contents = []
    for seed in range(DIFFERENT_IMAGES):
        file, pixels = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "jpeg")
        contents.append(file.getvalue())
    for first in range(0, images, IMAGES_PER_SHARD):
        with tarfile.open(folder / f"train-{first // IMAGES_PER_SHARD:05d}.tar", "w") as archive:
            for row in range(first, min(first + IMAGES_PER_SHARD, images)):
                for name, content in ((f"{row:08d}.jpg", contents[row % len(contents)]), (f"{row:08d}.cls", b"0")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                archive.members.clear()


def load(plan: StepPlan, steps: range, shards: ImageShards | None, workers: int, pixels: int) -> int:
    """Load batches as a training does, and return the number of images."""
    transform = PixelTransform(ViTImageProcessorPil(size={"height": pixels, "width": pixels}))
    nothing = Dataset.from_dict({"image": [None]}, features=Features({"image": ImageFeature(decode=False)}))
    store = PixelStore(nothing, Transforms(transform, transform), "train", shards=shards)
    loader = DataLoader(
        Visits(store, torch.zeros(1, dtype=torch.long), lambda visit: True),
        batch_sampler=PlanSampler(plan, steps.start, steps.stop),
        collate_fn=collate,
        num_workers=workers,
    )
    return sum(len(batch["rows"]) for batch in loader)


def plan_of(folder: str, streaming: bool) -> tuple[StepPlan, ImageShards | None]:
    """Steps of unlabelled images alone, in the order of a run, and the shards if they are indexed."""
    rows = RowOrder(np.arange(1), seed=0, stream=0)  # in front of the images, and in no step
    if streaming:
        order, shards = StreamOrder(open_stream(folder), BATCH, 1, seed=0, buffer_size=1000, skip_bad=False), None
    else:
        shards = ImageShards(find_shards(folder))
        order = RowOrder(np.arange(len(shards)) + 1, seed=0, stream=1, num_views=16)
    return StepPlan(rows, order, labelled_size=0, unlabelled_size=BATCH), shards


class Speed:
    """Context in which time is measured, on the clock and of this process's CPU."""

    def __enter__(self) -> Speed:
        self.before = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds = [after - before for after, before in zip(now, self.before, strict=True)]

    def of(self, count: int) -> list[str]:
        """How many of so many passes fell into a second of each."""
        return [f"{count / seconds:.0f}" for seconds in self.seconds]


def resident() -> float:
    """Resident memory of this process in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--visits", type=int, default=20_000, help="images that are loaded")
    parser.add_argument("--side", type=int, default=32, help="of the stored images, in pixels")
    parser.add_argument("--pixels", type=int, default=64, help="that student and teacher see")
    parser.add_argument("--workers", type=int, default=0, help="processes that load")
    parser.add_argument("--streaming", action="store_true", help="read the shards as a stream")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), options.images, options.side)
        rows = [("before", f"{resident():.0f}", "", "")]
        with Speed() as speed:
            plan, shards = plan_of(folder, options.streaming)
        done = "opened" if options.streaming else "indexed"
        rows.append((f"{options.images} images {done}", f"{resident():.0f}", *speed.of(options.images)))
        steps = max(1, options.visits // 4 // BATCH)
        for part in range(4):
            with Speed() as speed:
                loaded = load(plan, range(part * steps, part * steps + steps), shards, options.workers, options.pixels)
            rows.append((f"{part + 1} x {loaded} images loaded", f"{resident():.0f}", *speed.of(loaded)))
        if options.streaming:
            half = options.images // 2 // BATCH
            with Speed() as speed:
                load(plan, range(half, half + 1), shards, options.workers, options.pixels)
            passed = (half - 4 * steps) * BATCH
            rows.append((f"{passed} images passed over", f"{resident():.0f}", *speed.of(passed)))
    print("| | resident MiB | images per second | images per CPU second |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
