"""What unlabelled images in tar shards cost: seconds of the index, images per second, and memory.

    python examples/benchmark_shards.py --images 200000 --visits 20000

Writes tiny JPEG files in shards of 1000 to a temporary folder, indexes them, and loads batches of them in a run's
order, which jumps from shard to shard. Prints a table. The first row is the process before it has seen a shard. Without
workers the last column is what one core does alone, whatever else the machine is busy with.
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


def load(shards: ImageShards, visits: int, workers: int, pixels: int) -> int:
    """Load batches as a training does, and return the number of images."""
    transform = PixelTransform(ViTImageProcessorPil(size={"height": pixels, "width": pixels}))
    nothing = Dataset.from_dict({"image": [None]}, features=Features({"image": ImageFeature(decode=False)}))
    store = PixelStore(nothing, Transforms(transform, transform), "train", shards=shards)
    order = RowOrder(np.arange(len(shards)) + len(store), seed=0, stream=1, num_views=16)
    plan = StepPlan(order, None, labelled_size=BATCH, unlabelled_size=0)
    labels = torch.zeros(len(store) + len(shards), dtype=torch.long)
    loader = DataLoader(
        Visits(store, labels, lambda visit: True),
        batch_sampler=PlanSampler(plan, 0, max(1, visits // BATCH)),
        collate_fn=collate,
        num_workers=workers,
    )
    return sum(len(batch["rows"]) for batch in loader)


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
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), options.images, options.side)
        rows = [("before", f"{resident():.0f}", "", "")]
        with Speed() as speed:
            shards = ImageShards(find_shards(folder))
        rows.append((f"{len(shards)} images indexed", f"{resident():.0f}", *speed.of(len(shards))))
        for part in range(1, 5):
            with Speed() as speed:
                loaded = load(shards, options.visits // 4, options.workers, options.pixels)
            rows.append((f"{part} x {loaded} images loaded", f"{resident():.0f}", *speed.of(loaded)))
    print("| | resident MiB | images per second | images per CPU second |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
