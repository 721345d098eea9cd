"""Which families of transformers work as teachers: builds a small model of each and reads its stages.

    PYTHONPATH=. python tests/models/sweep_teachers.py RESULTS.jsonl [MODEL_TYPE ...]

One line of JSON for each model type with images; types that the file has already are skipped. Run it with timm and
torchvision, as in the environment of `make test-timm`. It takes a quarter of an hour of one core, and
`sweep_tables.py` writes docs/reference/families.md from the results.
"""

from __future__ import annotations

import gc
import inspect
import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from small_configs import small_model, stated_size
from transformers import CONFIG_MAPPING, MODEL_MAPPING
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from rd_hf.data.pixels import PixelError, PixelTransform
from rd_hf.data.plain_processor import PLAIN_CLASSES
from rd_hf.models.backbone import Backbone
from rd_hf.models.packed_tower import PackedTower, whole_image_tower
from rd_hf.models.probe import random_pixels
from rd_hf.models.tape import input_channels

SECONDS = 60  # of one core, for one family
GRIDS = 7  # sides that features are averaged to


def reads_images(model_type: str) -> bool:
    """Whether the class of a model type says that it reads images; what never speaks of pixels is not imported.

    Classes that inherit "text" as what they read, such as RegNet's, say it by the first argument of their forward.
    """
    if model_type.endswith(("_text", "_audio")):
        return False
    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(model_type)
    if not any("pixel_values" in path.read_text() for path in folder.glob("modeling_*.py")):
        return False
    try:
        kind = MODEL_MAPPING[CONFIG_MAPPING[model_type]]
        kind = kind[0] if isinstance(kind, tuple) else kind
    except (ImportError, ValueError):  # a package is missing
        return False
    stated = {kind.input_modalities} if isinstance(kind.input_modalities, str) else {*(kind.input_modalities or ())}
    first = list(inspect.signature(kind.forward).parameters)[1]
    return "image" in stated or (first == "pixel_values" and "video" not in stated)


def stages_of(model_type: str, narrow: bool) -> dict[str, Any]:
    """The stages that a teacher of this type has, after it was read once."""
    tower = whole_image_tower(small_model(model_type, narrow))
    size = stated_size(tower, model_type)
    own = tower.tower if isinstance(tower, PackedTower) else tower
    row = {"tower": type(own).__name__, "size": size}
    try:
        backbone = Backbone(tower, {"id": model_type, "revision": None, "sha256": ""})
        stages = backbone.find_stages(size)
        backbone.tap(stages, [tuple(min(side, GRIDS) for side in stage.grid) for stage in stages], size)
        features = backbone.extract(random_pixels(tower, input_channels(tower), size))
        if not all(torch.isfinite(feature.map).all() for feature in features):
            raise ValueError("its features are not finite")
    except Exception as error:
        return row | {"fails": f"{type(error).__name__}: {first_line(error)}"}
    return row | {"stages": [[s.name, s.channels, list(s.grid), s.prefix_tokens] for s in stages]}


def processor_of(model_type: str) -> str:
    """How the image processor of a type is read: own, plain, size (`--teacher_image_size`), or none."""
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    name = names.get("pil")
    if name is None or not name.endswith("Pil"):
        return "plain" if names.get("torchvision") in PLAIN_CLASSES else "size" if names else "none"
    try:
        PixelTransform(get_image_processor_class_from_name(name)())
    except PixelError:
        return "size"
    return "own"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]


def sweep(model_type: str) -> dict[str, Any]:
    """One row of results: `stages`, or why there are none (`fails`, or `unbuilt`)."""
    row: dict[str, Any] = {"type": model_type, "processor": processor_of(model_type)}
    for narrow in (True, False):  # some configs cannot be narrowed field by field
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found = stages_of(model_type, narrow)
        except Exception as error:
            found = {"unbuilt": f"{type(error).__name__}: {first_line(error)}"}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if "stages" in found or "unbuilt" not in found or narrow:
            kept = found
        if "stages" in found or "TimeoutError" in str(found):
            break
    return row | kept


def give_up(*_: Any) -> None:
    """End a family that takes too long."""
    raise TimeoutError(f"it takes more than {SECONDS} seconds")


def main() -> None:
    """Sweep the types that are named, or all."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, give_up)
    results = Path(sys.argv[1])
    done = {json.loads(line)["type"] for line in results.read_text().splitlines()} if results.exists() else set()
    for model_type in sys.argv[2:] or MODEL_MAPPING_NAMES:
        if model_type not in done and reads_images(model_type):
            with results.open("a") as file:
                file.write(json.dumps(sweep(model_type)) + "\n")
            gc.collect()


if __name__ == "__main__":
    main()
