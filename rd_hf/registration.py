"""Makes transformers' Auto classes know rd_hf's models without importing transformers or torch before they are needed.

Registering a model needs its class, and with it torch. So `install` only leaves a finder on `sys.meta_path` that lets
the import system find the modules of the Auto classes as ever, and registers as soon as they have been executed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"
_AUTO_MODELS = "transformers.models.auto.modeling_auto"
_CONFIGS = f"{__package__}.configuration_rd"
_STUDENT = f"{__package__}.modeling_rd_student"
_TEACHER = f"{__package__}.modeling_rd_teacher"


class _RegisteringFinder:
    """Finds nothing itself: has the other finders find a module of interest, and `register` run after its execution.

    rd_hf's own modules are of interest too: when the import of one of them is what brings in an Auto class, its classes
    do not exist yet at that moment and are registered when it is done.
    """

    modules = frozenset({_AUTO_CONFIGS, _AUTO_MODELS, _CONFIGS, _STUDENT, _TEACHER})

    def __init__(self) -> None:
        self.executing: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give for a module of interest, `None` for every other module."""
        if fullname not in self.modules:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._register_after(spec.loader, fullname)
        return spec

    def _register_after(self, loader, fullname: str) -> None:
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
        """Registers what can be registered now; doing so twice is harmless."""
        if self._is_imported(_AUTO_CONFIGS) and _CONFIGS not in self.executing:
            configs = importlib.import_module(_CONFIGS)
            auto_config = sys.modules[_AUTO_CONFIGS].AutoConfig
            auto_config.register("rd_student", configs.RDStudentConfig, exist_ok=True)
            auto_config.register("rd_teacher", configs.RDTeacherConfig, exist_ok=True)
        if self._is_imported(_AUTO_MODELS):
            auto_model = sys.modules[_AUTO_MODELS].AutoModelForImageClassification
            if _STUDENT not in self.executing:
                student = importlib.import_module(_STUDENT).RDStudentForImageClassification
                auto_model.register(student.config_class, student, exist_ok=True)
            if not self.executing & {_STUDENT, _TEACHER}:
                teacher = importlib.import_module(_TEACHER).RDTeacherForImageClassification
                auto_model.register(teacher.config_class, teacher, exist_ok=True)

    def _is_imported(self, fullname: str) -> bool:
        return fullname in sys.modules and fullname not in self.executing


def install() -> None:
    """Registers rd_hf's models with transformers' Auto classes, now if these are imported and else when they are."""
    if any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        return
    finder = _RegisteringFinder()
    sys.meta_path.insert(0, finder)
    finder.register()
