"""Pre-train a small teacher, or a student, on images alone, self-supervised; no label is used.

    python examples/pretrain_teacher.py --dataset ../shared/data/mednist_7200.npz --output_dir runs/mednist_teacher
    rd-hf distill --teacher runs/mednist_teacher --config examples/busi.yaml --output_dir runs/from_mednist
    python examples/pretrain_teacher.py --dataset ../shared/data/mednist_7200.npz --output_dir runs/mednist_student \
        --hidden_sizes 24 48 96 160 --depths 1 1 1 1 --processor_size 64

SimCLR (Chen et al. 2020, arXiv 2002.05709): two random views of an image should be closer to each other than to the
views of the other images in the batch. The network is a ResNet-18 of half the width, if no other size is given. At the
end a linear probe on the frozen features reads the labels for the first time, beside the same network with random
weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import kornia.augmentation as augmentation
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, ResNetConfig, ResNetModel, get_cosine_schedule_with_warmup

from rd_hf.data.decoding.images import to_rgb
from rd_hf.data.pixels import PixelTransform, default_processor
from rd_hf.data.sources import ImageData, load_data
from rd_hf.data.splits import choose_labelled
from rd_hf.models.backbone import CPU_BATCH_SIZE
from rd_hf.runtime.allocator import keep_freed_memory
from rd_hf.tasks.make import make_task

PROJECTION_SIZE = 128
SHOTS, DRAWS = 20, 5
PROBE_SCORES = ("auroc", "accuracy")


def build_network(options: argparse.Namespace) -> ResNetModel:
    """A ResNet of basic blocks, with random weights."""
    sizes = {"embedding_size": options.hidden_sizes[0], "hidden_sizes": options.hidden_sizes, "depths": options.depths}
    return ResNetModel(ResNetConfig(**sizes, layer_type="basic"))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The loss of SimCLR, "normalised temperature-scaled cross-entropy".

    :param first: (B, D), a view of each image.
    :param second: (B, D), another view of each, in the same order.
    """
    views = nn.functional.normalize(torch.cat([first, second]).float())
    similarity = views @ views.T / temperature
    similarity.fill_diagonal_(-math.inf)
    partner = torch.arange(len(views)).roll(len(first))
    return nn.functional.cross_entropy(similarity, partner)


def random_views(image_size: int) -> nn.Sequential:
    """What differs between two views of grey images (B, 1, H, W) in 0..1."""
    return nn.Sequential(
        augmentation.RandomResizedCrop((image_size, image_size), scale=(0.2, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.RandomBrightness((0.6, 1.4), p=0.8),
        augmentation.RandomContrast((0.6, 1.4), p=0.8),
        augmentation.RandomGamma((0.6, 1.6), p=0.5),
        augmentation.RandomGaussianBlur((7, 7), (0.1, 2.0), p=0.5),
    )


def read_images(data: ImageData, split: str, transform: PixelTransform) -> Tensor:
    """The images of a split as (N, 1, H, W) uint8, grey."""
    rows = data.splits[split].select_columns(["image"])
    return torch.stack([transform.geometry(to_rgb(row["image"]).convert("L").convert("RGB"))[:1] for row in rows])


def pretrain(images: Tensor, transform: PixelTransform, options: argparse.Namespace) -> PreTrainedModel:
    """Train a network on images alone.

    :param images: (N, 1, H, W) uint8.
    :param transform: normalises what the network reads.
    """
    network, views = build_network(options), random_views(options.image_size)
    width = network.config.hidden_sizes[-1]
    projection = nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, PROJECTION_SIZE)
    )
    network.to(memory_format=torch.channels_last).train()
    parameters = [*network.parameters(), *projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, options.max_steps // 20, options.max_steps)
    order = torch.empty(0, dtype=torch.long)
    started = time.perf_counter()
    for step in range(1, options.max_steps + 1):
        if len(order) < options.batch_size:
            order = torch.cat([order, torch.randperm(len(images))])
        rows, order = order[: options.batch_size], order[options.batch_size :]
        batch = images[rows].repeat(2, 1, 1, 1) / 255
        pixels = transform.normalize(views(batch).expand(-1, 3, -1, -1) * 255)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            features = network(pixels.contiguous(memory_format=torch.channels_last)).pooler_output.flatten(1)
            first, second = projection(features).chunk(2)
        loss = nt_xent(first, second, options.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == options.max_steps:
            speed = step / (time.perf_counter() - started)
            print(f"step {step:5}  loss {loss.item():.3f}  {speed:.2f} steps/s", flush=True)
    return network.eval()


@torch.no_grad()
def pooled_features(network: PreTrainedModel, transform: PixelTransform, data: ImageData, split: str) -> np.ndarray:
    """(N, D): the last stage's map of every image, averaged over its places."""
    images = torch.stack([transform.geometry(to_rgb(row["image"])) for row in data.splits[split]])
    chunks = [network(transform.normalize(chunk)).pooler_output.flatten(1) for chunk in images.split(CPU_BATCH_SIZE)]
    return torch.cat(chunks).numpy()


def linear_probe(network: PreTrainedModel, transform: PixelTransform, data: ImageData) -> dict[str, float]:
    """Test scores of a logistic regression on frozen features, mean and standard deviation over draws of few labels.

    The labels are those that `rd-hf distill --shots` draws with the seeds 0, 1, ...
    """
    train, test = (pooled_features(network, transform, data, split) for split in ("train", "test"))
    labels, truth = data.labels("train"), data.labels("test")
    marks = make_task(data.problem_type, data.label_names).marks
    values = {name: [] for name in PROBE_SCORES}
    for seed in range(DRAWS):
        rows = choose_labelled(data, marks, SHOTS, None, seed).rows
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        scores = probe.fit(train[rows], labels[rows]).predict_proba(test)
        binary = scores.shape[1] == 2
        values["auroc"].append(roc_auc_score(truth, scores[:, 1] if binary else scores, multi_class="ovr"))
        values["accuracy"].append(accuracy_score(truth, scores.argmax(1)))
    means = {name: statistics.mean(draws) for name, draws in values.items()}
    return means | {f"{name}_standard_deviation": statistics.stdev(draws) for name, draws in values.items()}


def read_out(options: argparse.Namespace, data_sets: dict[str, ImageData]) -> dict[str, dict[str, dict[str, float]]]:
    """Probe the saved teacher, the same network with random weights, and the models beside it; print and return."""
    transform = PixelTransform.from_pretrained(str(options.output_dir))
    torch.manual_seed(options.seed)
    models = {"random weights": (build_network(options).eval(), transform)}
    for name in (str(options.output_dir), *options.beside):
        network = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        models[Path(name).name] = (network, PixelTransform.from_pretrained(name))
    print(f"\nLinear probe, {SHOTS} labels per class, on test: mean (standard deviation) over {DRAWS} draws of labels")
    scores = {data_name: {} for data_name in data_sets}
    for data_name, data in data_sets.items():
        for name, (network, transform) in models.items():
            score = scores[data_name][name] = linear_probe(network, transform, data)
            columns = [f"{key} {score[key]:.3f} ({score[f'{key}_standard_deviation']:.3f})" for key in PROBE_SCORES]
            print(f"{data_name:16} {name:32} {'  '.join(columns)}", flush=True)
    return scores


def main(arguments: list[str] | None = None) -> None:
    """Pre-train, save a plain checkpoint with its image processor, and read it out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="as for `rd-hf distill --dataset`, with splits train and test")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/pretrained_teacher"))
    parser.add_argument("--hidden_sizes", type=int, nargs="+", default=[32, 64, 128, 256], help="channels per stage")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 2, 2, 2], help="blocks per stage")
    parser.add_argument("--image_size", type=int, default=64, help="side of the views in pixels")
    parser.add_argument(
        "--processor_size", type=int, default=96, help="side in pixels to which the saved image processor resizes"
    )
    parser.add_argument(
        "--max_steps", type=int, default=700, help="optimiser steps; 1600 transferred worse from MedNIST"
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="images per step; the network reads two views of each"
    )
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="use bfloat16 autocast")
    parser.add_argument("--probe", nargs="*", default=[], help="other data sets to probe")
    parser.add_argument("--beside", nargs="*", default=[], help="other checkpoints to probe for comparison")
    options = parser.parse_args(arguments)
    paths = (options.dataset, *options.probe)
    data_sets = {Path(path).stem: load_data(path) for path in paths}
    if len(data_sets) < len(paths):
        parser.error("two data sets have the same name: " + ", ".join(paths))
    keep_freed_memory()
    torch.manual_seed(options.seed)
    started = time.process_time()
    transform = PixelTransform(default_processor(options.image_size))
    images = read_images(data_sets[Path(options.dataset).stem], "train", transform)
    network = pretrain(images, transform, options)
    training = {
        "images": len(images), "parameters": network.num_parameters(), "cpu_seconds": time.process_time() - started
    }  # fmt: skip
    network.save_pretrained(options.output_dir)
    # A random crop shows things larger than the whole image does; Touvron et al. 2019, arXiv 1906.06423.
    default_processor(options.processor_size).save_pretrained(options.output_dir)
    of_places = ("dataset", "output_dir", "probe", "beside")
    recipe = {name: value for name, value in vars(options).items() if name not in of_places}
    metrics = {"recipe": recipe, "training": training, "test": read_out(options, data_sets)}
    (options.output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
