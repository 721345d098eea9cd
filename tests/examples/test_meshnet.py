"""`examples/compare/meshnet.py`: the folder loads as a teacher, whose kernels are turned to the axes of rd_hf."""

import json

import torch
from conftest import REPOSITORY
from safetensors.torch import save_file
from torch.nn import functional as F

from rd_hf.models.backbone import Backbone

SCRIPT = REPOSITORY / "examples" / "compare" / "meshnet.py"  # not imported: the folder has to load by itself


def test_the_teacher_reads_volumes_of_other_axes_as_the_network_reads_its_own(tmp_path, python):
    source, folder = tmp_path / "source", tmp_path / "teacher"
    source.mkdir()
    stated = {"in_channels": 1, "channels": 3, "dilations": [1, 2]}
    (source / "config.json").write_text(json.dumps(stated | {"architecture": "MeshNet"}))
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.randn(3, width, 3, 3, 3, generator=generator) for width in (1, 3)]
    weights = {f"layers.{number}.weight": kernel for number, kernel in enumerate(kernels)}
    weights |= {f"layers.{number}.bias": torch.randn(3, generator=generator) for number in range(2)}
    save_file(
        weights | {"head.weight": torch.zeros(2, 3, 1, 1, 1), "head.bias": torch.zeros(2)}, source / "model.safetensors"
    )
    done = python(str(SCRIPT), str(source), str(folder))
    assert done.returncode == 0, done.stderr
    backbone = Backbone.from_pretrained(folder, trust_remote_code=True)
    (last,) = backbone.find_stages((8, 6, 4), ["hypercolumn"])
    assert (last.channels, last.grid) == (6, (4, 3, 2))
    backbone.tap([last], [last.grid], (8, 6, 4))
    volume = torch.rand(1, 1, 8, 6, 4, generator=generator)  # axes to the right, to the front and up
    (found,) = backbone.extract(volume)
    expected, layers = volume.permute(0, 1, 2, 4, 3).flip(2, 3), []  # to the left, down and to the front
    for number, kernel in enumerate(kernels):
        dilation = stated["dilations"][number]
        bias = weights[f"layers.{number}.bias"]
        expected = F.elu(F.conv3d(expected, kernel, bias, padding=dilation, dilation=dilation))
        layers.append(expected.flip(2, 3).permute(0, 1, 2, 4, 3))
    torch.testing.assert_close(found.map, F.avg_pool3d(torch.cat(layers, dim=1), 2), atol=1e-5, rtol=1e-4)
