"""Makes transformers' Auto classes know rd_hf's models without importing transformers or torch before they are needed.

Registering a model needs its class, and with it torch. So `install` only leaves a finder on `sys.meta_path`. It lets
the other finders find the modules of the Auto classes as ever, and registers once these have been executed. What this
buys over registering at import: `import rd_hf` and `rd-hf --help` take a tenth of a second instead of several seconds.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"
_AUTO_MODELS = "transformers.models.auto.modeling_auto"
_AUTO_PROCESSORS = "transformers.models.auto.image_processing_auto"

_CONFIGS = [
    ("configuration_rd", "RDStudentConfig"),
    ("configuration_rd", "RDTeacherConfig"),
    ("configuration_monai", "MonaiNetConfig"),
]
_MODELS = [
    ("AutoModel", "modeling_monai", "MonaiNet"),
    ("AutoModelForImageClassification", "modeling_rd_student", "RDStudentForImageClassification"),
    ("AutoModelForImageClassification", "modeling_rd_teacher", "RDTeacherForImageClassification"),
    ("AutoModelForImageClassification", "modeling_monai", "MonaiNetForImageClassification"),
    ("AutoModelForSemanticSegmentation", "modeling_monai", "MonaiNetForSemanticSegmentation"),
    ("AutoModelForSemanticSegmentation", "modeling_rd_segmentation", "RDStudentForSemanticSegmentation"),
    ("AutoModelForSemanticSegmentation", "modeling_rd_teacher_segmentation", "RDTeacherForSemanticSegmentation"),
]


class _RegisteringFinder:
    """Finds nothing itself: has the other finders find a module of interest, and registers after its execution.

    rd_hf's own modules are of interest too: where the import of one of them brings in an Auto class, its own names do
    not exist yet at that moment. Of imports within imports, the outermost registers.
    """

    def __init__(self) -> None:
        self.executing: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give for a module of interest, `None` for every other module."""
        is_auto = fullname in (_AUTO_CONFIGS, _AUTO_MODELS, _AUTO_PROCESSORS)
        if not is_auto and not fullname.startswith(f"{__package__}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._register_after(spec.loader, fullname)
        return spec

    def _register_after(self, loader: Loader, fullname: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.executing.add(fullname)
            try:
                execute(module)
            finally:
                self.executing.discard(fullname)
            self.register()

        # on the instance, so that the loader keeps its type and everything else that readers of a spec look at
        loader.exec_module = exec_module

    def register(self) -> None:
        """Registers with the Auto classes that are imported, unless an import is under way; twice is harmless."""
        if self.executing:
            return
        if _AUTO_CONFIGS in sys.modules:
            for module, name in _CONFIGS:
                config = _read(module, name)
                sys.modules[_AUTO_CONFIGS].AutoConfig.register(config.model_type, config, exist_ok=True)
        if _AUTO_MODELS in sys.modules:
            for auto_class, module, name in _MODELS:
                model = _read(module, name)
                getattr(sys.modules[_AUTO_MODELS], auto_class).register(model.config_class, model, exist_ok=True)
        if _AUTO_PROCESSORS in sys.modules:
            # A folder names the class of its processor, and transformers finds it by that name under any configuration.
            sys.modules[_AUTO_PROCESSORS].AutoImageProcessor.register(
                _read("configuration_monai", "MonaiNetConfig"),
                image_processor_classes={"pil": _read("image_processing_rd_volume", "RDVolumeProcessor")},
                exist_ok=True,
            )


def _read(module: str, name: str) -> Any:
    """A class of one of the modules in `models`."""
    return getattr(importlib.import_module(f".models.{module}", __package__), name)


def install() -> None:
    """Registers rd_hf's models with transformers' Auto classes: now where these are imported, else when they are."""
    if any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        return
    finder = _RegisteringFinder()
    sys.meta_path.insert(0, finder)
    finder.register()
