"""The reprogrammed teacher for masks: a frozen backbone whose features the student's decoder and head read.

A segmenter's decoder reads the features of several stages. With `skips` "own" a hybrid pass injects its stage alone and
reads the student's own shallower features, so its logits depend on the student's image as well. With "reprogrammed" it
injects all shallower stages too, and its logits follow the teacher alone: also without the student's image, unless the
student reads the image itself again behind its stages, as UNETR and SwinUNETR do (`needs_student_pixels`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .configuration_rd import RDTeacherConfig
from .grids import resize
from .modeling_monai import IGNORED_LABEL
from .modeling_rd_segmentation import RDStudentForSemanticSegmentation
from .modeling_rd_teacher import RDTeacher


class RDTeacherForSemanticSegmentation(RDTeacher):
    """Frozen backbone, projectors, and the student whose remaining stages and head segment by the projected features.

    With `skips` "own" it is run with `student_pixel_values`; so it is with "reprogrammed" where the student reads its
    image again behind its stages (UNETR, SwinUNETR). `needs_student_pixels` says whether it must be.

    :param config: the teacher's configuration.
    """

    config_class = RDTeacherConfig
    student_class = RDStudentForSemanticSegmentation
    default_hybrid_norms = "own"

    def _loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """The mean cross-entropy of the pixels with a label, at the labels' size.

        :param labels: (B, H, W) class indices; 255 where there is no label.
        """
        return F.cross_entropy(resize(logits, tuple(labels.shape[1:])), labels, ignore_index=IGNORED_LABEL)


# `save_pretrained` then puts this file and those that it imports beside the weights
RDTeacherForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
