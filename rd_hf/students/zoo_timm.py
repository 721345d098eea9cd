"""Small classifiers of timm, ready to be taken as students where timm is installed."""

from __future__ import annotations

from transformers.utils import is_timm_available

from ..models.timm_models import TIMM
from .zoo import READY_STUDENTS, ReadyStudent, ready


def _timm(architecture: str, tag: str) -> ReadyStudent:
    """An entry.

    :param tag: of the weights of timm on the Hub.
    """
    return ready(f"timm_{architecture}", f"timm/{architecture}.{tag}", TIMM, architecture=architecture)


READY_TIMM_STUDENTS = (
    _timm("lcnet_050", "ra2_in1k"),
    _timm("lcnet_075", "ra2_in1k"),
    _timm("lcnet_100", "ra2_in1k"),
    _timm("mobilenetv3_small_050", "lamb_in1k"),
    _timm("mobilenetv3_small_100", "lamb_in1k"),
    _timm("mobilenetv3_large_100", "ra_in1k"),
    _timm("mobilenetv4_conv_small", "e2400_r224_in1k"),
    _timm("tinynet_e", "in1k"),
    _timm("mnasnet_small", "lamb_in1k"),
    _timm("ghostnet_100", "in1k"),
    _timm("efficientnet_lite0", "ra_in1k"),
    _timm("starnet_s1", "in1k"),
    _timm("repvit_m0_9", "dist_450e_in1k"),
    _timm("fastvit_t8", "apple_in1k"),
    _timm("edgenext_xx_small", "in1k"),
    _timm("convnext_atto", "d2_in1k"),
    _timm("resnet10t", "c3_in1k"),
    _timm("regnetx_002", "pycls_in1k"),
)

# those whose packages this machine has
INSTALLED_STUDENTS = (*READY_STUDENTS, *(READY_TIMM_STUDENTS if is_timm_available() else ()))
