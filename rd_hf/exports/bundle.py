"""Writes a student of volumes as a MONAI bundle, whose weights are safetensors."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from .._version import __version__
from ..cards.card import channel_files
from ..data.volumes import names as names_of_files
from ..inference.label_values import LabelValues
from ..inference.loading import LoadedModel
from ..models.configuration_monai import EVALUATED, MonaiNetConfig
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..models.modeling_monai import MonaiNet, network_arguments
from ..tasks.segmentation import Segmentation
from .inputs import input_size

SCRIPT = Path(__file__).with_name("bundle_script.py")
PACKAGES = ("nibabel", "safetensors", "transformers")


def write_bundle(model: MonaiNet, loaded: LoadedModel, folder: Path) -> None:
    """The bundle: configs, weights, and scripts that do what `rd-hf predict` does, without rd_hf.

    :param model: the network of the loaded student.
    :param folder: new, or empty.
    """
    configs, models, scripts = (folder / name for name in ("configs", "models", "scripts"))
    for part in (configs, models, scripts):
        part.mkdir()
    save_model(model.network, str(models / "model.safetensors"), metadata={"format": "pt"})
    processor = loaded.transform.processor
    processor.save_pretrained(scripts)  # with the code of the processor
    shutil.copyfile(SCRIPT, scripts / "predict.py")
    shutil.copyfile(names_of_files.__file__, scripts / "names.py")
    (scripts / "__init__.py").touch()
    facts = {
        "masks": isinstance(loaded.task, Segmentation),
        "labels": loaded.task.names,
        "multi_label": loaded.task.problem_type == "multi_label_classification",
        "channel_files": channel_files(loaded.trained_on),
        "values": list(LabelValues.of(loaded.trained_on, len(loaded.task.names)).values),
    }
    _write(scripts / "model.json", facts)
    _write(configs / "inference.json", _inference(model.config, processor))
    _write(configs / "metadata.json", _metadata(model.config, loaded))


def bundle_network(folder: Path) -> nn.Module:
    """The network of a bundle of `write_bundle`, built from its configs as MONAI does it."""
    from monai.bundle import ConfigParser

    values = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
    network = ConfigParser({"network_def": values["network_def"]}).get_parsed_content("network_def")
    load_model(network, str(folder / "models" / "model.safetensors"))
    return network


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")


def _inference(config: MonaiNetConfig, processor: RDVolumeProcessor) -> dict[str, Any]:
    """What `python -m monai.bundle run --config_file configs/inference.json` runs, in the bundle's folder."""
    inferer: dict[str, Any] = {"_target_": "SimpleInferer"}
    if processor.crop_size is not None:
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": processor.crop_size, "sw_batch_size": 1}
        inferer |= {"overlap": processor.overlap, "mode": "gaussian"}
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import torch",
            "$from safetensors.torch import load_model",
            "$from scripts.predict import predict",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/volumes'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii')) + "
        "glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))",
        "network_def": {"_target_": f"monai.networks.nets.{config.network}", **network_arguments(config)},
        "inferer": inferer,
        "initialize": ["$load_model(@network_def, os.path.join(@bundle_root, 'models', 'model.safetensors'))"],
        "run": ["$print(predict(@datalist, @network_def, @inferer, @device, @output_dir))"],
    }


def _metadata(config: MonaiNetConfig, loaded: LoadedModel) -> dict[str, Any]:
    """The facts that MONAI's schema of bundles asks for."""
    masks = isinstance(loaded.task, Segmentation)
    names = {str(number): _plain(name) for number, name in enumerate(loaded.task.names)}
    image = {
        "type": "image", "format": "magnitude", "num_channels": config.in_channels, "dtype": "float32",
        "spatial_shape": list(input_size(loaded)), "value_range": _value_range(loaded.transform.processor),
        "is_patch_data": masks,
        "channel_def": {str(number): f"channel {number}" for number in range(config.in_channels)},
    }  # fmt: skip
    answer = image | {
        "format": "segmentation" if masks else "classes",
        "num_channels": len(names),
        "channel_def": names,
        "value_range": [],
        **({} if masks else {"spatial_shape": []}),
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20220324.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"written by rd_hf {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in PACKAGES},
        "task": "segmentation of volumes" if masks else "classification of volumes",
        "description": "A small network that was trained with rd_hf.",
        "authors": "see README.md",
        "copyright": "see README.md",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": answer}},
    }


def _value_range(processor: RDVolumeProcessor) -> list[int]:
    """What the network reads; empty where it is not bounded, as MONAI writes it."""
    if not processor.do_normalize:
        return [0, 1]
    return [-1, 1] if processor.intensity == "window" else []


def _plain(name: str) -> str:
    """A class name that MONAI does not evaluate."""
    return f" {name}" if name.startswith(EVALUATED) else name
