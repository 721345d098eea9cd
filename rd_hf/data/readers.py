"""What a user can name as a data set, each read by the `datasets` loader made for it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from datasets.utils.logging import get_logger

from .columns import DataError, nearest_name
from .medmnist import read_medmnist
from .split_names import standard_split_name

