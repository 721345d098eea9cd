"""Reprogramming distillation: a small transformers model from a frozen foundation model.

Importing the package is cheap; what a name needs is imported when the name is first used. Importing it also makes
transformers' Auto classes and pipelines know the model types `rd_student`, `rd_teacher` and `monai`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .registration import install

if TYPE_CHECKING:
    from .arguments.distillation import DistillationArguments as DistillationArguments
    from .arguments.values import ArgumentError as ArgumentError
    from .comparison.run import compare as compare
    from .data.columns import DataError as DataError
    from .data.decoding.images import BadImageError as BadImageError
    from .exports.run import export as export
    from .hub.push import push as push
    from .inference.evaluation import evaluate as evaluate
    from .inference.info import info as info
    from .inference.loading import LoadedModel as LoadedModel
    from .inference.loading import load_model as load_model
    from .inference.model_names import ModelNameError as ModelNameError
    from .inference.prediction import predict as predict
    from .models.configuration_rd import RDStudentConfig as RDStudentConfig
    from .models.configuration_rd import RDTeacherConfig as RDTeacherConfig
    from .models.image_processing_rd_volume import RDVolumeProcessor as RDVolumeProcessor
    from .models.modeling_rd_segmentation import RDStudentForSemanticSegmentation as RDStudentForSemanticSegmentation
    from .models.modeling_rd_student import RDStudentForImageClassification as RDStudentForImageClassification
    from .models.modeling_rd_teacher import RDTeacherForImageClassification as RDTeacherForImageClassification
    from .models.modeling_rd_teacher_segmentation import (
        RDTeacherForSemanticSegmentation as RDTeacherForSemanticSegmentation,
    )
    from .models.teacher_network import TeacherNetwork as TeacherNetwork
    from .students.budget import students_within as students_within
    from .students.bundles import convert_bundle as convert_bundle
    from .training.distillation import distill as distill
    from .training.distillation import distill_from_models as distill_from_models
    from .training.run_report import report as report

_MODULE_OF = {
    "ArgumentError": "arguments.values",
    "BadImageError": "data.decoding.images",
    "DataError": "data.columns",
    "DistillationArguments": "arguments.distillation",
    "LoadedModel": "inference.loading",
    "ModelNameError": "inference.model_names",
    "RDStudentConfig": "models.configuration_rd",
    "RDStudentForImageClassification": "models.modeling_rd_student",
    "RDStudentForSemanticSegmentation": "models.modeling_rd_segmentation",
    "RDTeacherConfig": "models.configuration_rd",
    "RDTeacherForImageClassification": "models.modeling_rd_teacher",
    "RDTeacherForSemanticSegmentation": "models.modeling_rd_teacher_segmentation",
    "RDVolumeProcessor": "models.image_processing_rd_volume",
    "TeacherNetwork": "models.teacher_network",
    "compare": "comparison.run",
    "convert_bundle": "students.bundles",
    "distill": "training.distillation",
    "distill_from_models": "training.distillation",
    "evaluate": "inference.evaluation",
    "export": "exports.run",
    "info": "inference.info",
    "load_model": "inference.loading",
    "predict": "inference.prediction",
    "push": "hub.push",
    "report": "training.run_report",
    "students_within": "students.budget",
}

__all__ = ["__version__", *_MODULE_OF]

install()


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
