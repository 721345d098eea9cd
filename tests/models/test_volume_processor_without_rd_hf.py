"""A volume's processor loads, and works, in a process that cannot import rd_hf."""

import os

import nibabel
import numpy as np
import torch
from warm_python import WarmPython

from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor

CODE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rd_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import torch
from types import SimpleNamespace
from transformers import AutoImageProcessor

torch.set_num_threads(1)
for folder in ("saved", "again"):
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules."), type(processor)
    pixels = processor("ct.nii.gz")["pixel_values"]
    maps = processor.post_process_semantic_segmentation(SimpleNamespace(logits=torch.cat([-pixels, pixels], 1)), "ct.nii.gz")
    torch.save({"pixels": pixels, "mask": maps[0]}, folder + ".pt")
    if folder == "saved":
        processor.save_pretrained("again")
"""  # noqa: E501
FILES = {"image_processing_rd_volume.py", "volume_grid.py", "volume_sources.py", "preprocessor_config.json"}


def test_it_loads_and_saves_again(tmp_path):
    values = np.random.default_rng(0).normal(0, 300, (12, 10, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.7, 1, 2.5, 1])), tmp_path / "ct.nii.gz")
    processor = RDVolumeProcessor(spacing=1.2, intensity="window", window=(-160, 240))
    processor.save_pretrained(tmp_path / "saved")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    warm = WarmPython(environment | {"HF_MODULES_CACHE": str(tmp_path / "modules")})
    done = warm.run("-c", CODE, cwd=tmp_path)
    warm.close()
    assert done.returncode == 0, done.stderr
    expected = processor(tmp_path / "ct.nii.gz")["pixel_values"]
    for folder in ("saved", "again"):
        assert {path.name for path in (tmp_path / folder).iterdir() if path.is_file()} == FILES
        found = torch.load(tmp_path / f"{folder}.pt")
        assert torch.equal(found["pixels"], expected)
        assert found["mask"].shape == values.shape
