"""The configurations of students and teachers around networks of MONAI, which this file makes known to transformers.

Where a checkpoint is loaded without rd_hf, transformers reads its config by this file, before the wrapped one.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSemanticSegmentation

from .configuration_monai import MonaiNetConfig
from .configuration_rd import RDStudentConfig, RDTeacherConfig
from .modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation

__all__ = ["RDStudentConfig", "RDTeacherConfig"]

AutoConfig.register(MonaiNetConfig.model_type, MonaiNetConfig, exist_ok=True)
AutoModelForImageClassification.register(MonaiNetConfig, MonaiNetForImageClassification, exist_ok=True)
AutoModelForSemanticSegmentation.register(MonaiNetConfig, MonaiNetForSemanticSegmentation, exist_ok=True)
