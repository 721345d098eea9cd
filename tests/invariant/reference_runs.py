"""Trains twenty steps with each method and prints the results as JSON; test_references.py compares them.

    python tests/invariant/reference_runs.py FOLDER                               # as the test does
    python tests/invariant/reference_runs.py FOLDER --store references_avx2.json  # write anew: say why in the commit

Arithmetic is restricted to code paths that every x86-64 processor has. Even so, two kinds of processors round
differently. There is a file of references for each: references.json, and references_avx2.json of an AMD processor
without AVX-512.
"""

import os

os.environ |= {
    "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip

import argparse
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import numpy as np
import torch
from conftest import blob_arrays
from drawing import leave_plots_empty
from safetensors.torch import load_file

import rd_hf

STEPS = 20
TEACHER = HERE / "teacher"
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip
VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "patch_size": 8,
}  # fmt: skip
FALLING = {"kl_weight_end": 0.0, "temperature": 1.0}  # as DRD's paper has it
RUNS = {
    "ce": {"method": "ce", "student": RESNET},
    "rd": {"method": "rd", **FALLING, "student": RESNET, "use_unlabeled": True},
    "drd": {"method": "drd", **FALLING, "student": RESNET, "use_unlabeled": True, "gradient_accumulation_steps": 2},
    "drd_vit": {"method": "drd", **FALLING, "student": VIT, "cka_features": "flattened", "cache": False},
}
MEASURED = ("images_per_second", "data_wait", "memory_gib")  # what differs from run to run


def train(name: str, folder: Path) -> dict:
    """One run's logged values, the hash of its student's weights, and the ids of its caches."""
    cache = folder / f"{name}_cache"
    values = {"teacher": str(TEACHER)} if RUNS[name]["method"] != "ce" else {}
    if values and RUNS[name].get("cache", True):
        values["cache_dir"] = str(cache)
    rd_hf.distill(
        dataset=str(folder / "blobs.npz"), output_dir=str(folder / name), student_image_size=32, max_steps=STEPS,
        logging_steps=1, eval_steps=10, shots=8, per_device_train_batch_size=8, num_views=2,
        **values, **RUNS[name],
    )  # fmt: skip
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(folder / name / "student" / "model.safetensors")
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(f"{key} {tuple(weights[key].shape)} ".encode())
        digest.update(weights[key].contiguous().numpy().tobytes())
    return {
        "metrics": [{key: value for key, value in row.items() if key not in MEASURED} for row in rows],
        "weights_sha256": digest.hexdigest(),
        "caches": sorted(path.parent.name for path in cache.glob("*/key.json") if is_of_train(path)),
    }


def is_of_train(path: Path) -> bool:
    """Whether a key is of augmented images, as train's are; those that are only scored have no seed of views."""
    return json.loads(path.read_text())["key"]["seed"] is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", metavar="FILE", help="name of the file beside this one")
    options = parser.parse_args()
    torch.backends.mkldnn.enabled = False
    leave_plots_empty()
    np.savez(options.folder / "blobs.npz", **blob_arrays())
    found = json.dumps({name: train(name, options.folder) for name in RUNS}, indent=1)
    if options.store:
        (HERE / options.store).write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    main()
