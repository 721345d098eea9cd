"""What a process runs first so that it cannot import rd_hf; see the fixture `run_without_rd_hf`."""

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rd_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import json
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

torch.set_num_threads(1)  # as in the process that it is compared with: sums depend on it
assert "rd_student" not in CONFIG_MAPPING
"""
