"""A model of images that reads volumes slice by slice, and a reprogrammed teacher of volumes on top of it."""

import copy

import pytest
import torch
from transformers import AutoModel, Dinov2Config, MobileNetV2Config

from rd_hf.models.backbone import Backbone, BackboneError
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.configuration_rd import RDTeacherConfig
from rd_hf.models.features import Stage, StageFeature
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation
from rd_hf.models.slices import PLANES, SliceReading

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TEACHERS = {
    "dinov2": Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=32),
}


def backbone(name: str, slices: SliceReading | None = None, **options) -> Backbone:
    torch.manual_seed(0)
    return Backbone.from_model(AutoModel.from_config(copy.deepcopy(TEACHERS[name])), slices=slices, **options)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def as_volume(images: torch.Tensor, axis: str) -> torch.Tensor:
    """Images (B, 1, rows, columns) as volumes with one slice along `axis`, by the definition of that view."""
    plane = images[:, 0].flip(1, 2)  # rows and columns grow with the volume's axes
    if axis == "axial":  # rows are Y, columns X
        return plane.permute(0, 2, 1)[:, None, :, :, None]
    if axis == "coronal":  # rows are Z, columns X
        return plane.permute(0, 2, 1)[:, None, :, None, :]
    return plane.permute(0, 2, 1)[:, None, None, :, :]  # rows are Z, columns Y


def tapped(read: Backbone, size: tuple[int, ...], grid: tuple[int, ...] | None = None) -> Backbone:
    stages = read.find_stages(size)
    read.tap(stages, [grid or stage.grid for stage in stages], size)
    return read


@pytest.mark.parametrize("axis", PLANES)
@pytest.mark.parametrize("name", TEACHERS)
def test_a_volume_of_one_slice_gives_what_the_image_gives(name, axis):
    images = random(2, 1, 32, 48)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    volumes = as_volume(images, axis)

    expected = tapped(backbone(name), (32, 48)).extract((images.expand(-1, 3, -1, -1) - mean) / std)
    reading = SliceReading(axis, (32, 48), MEAN, STD)
    found = tapped(backbone(name, reading), tuple(volumes.shape[2:])).extract(volumes)

    assert len(found) == len(expected) >= 4
    for image, volume in zip(expected, found, strict=True):
        torch.testing.assert_close(volume.map, as_volume_map(image.map, axis))
        assert (volume.prefix is None) == (image.prefix is None) == (name == "mobilenet_v2")
        if image.prefix is not None:
            torch.testing.assert_close(volume.prefix, image.prefix)


def as_volume_map(maps: torch.Tensor, axis: str) -> torch.Tensor:
    return torch.cat([as_volume(channel[:, None], axis) for channel in maps.unbind(1)], dim=1)


@pytest.mark.parametrize("axis", PLANES)
def test_a_slice_is_shown_between_its_neighbours(axis):
    volume = random(2, 3, 4, 5)  # of two channels the first is read
    size = {"axial": (4, 3), "coronal": (5, 3), "sagittal": (5, 4)}[axis]
    reading = SliceReading(axis, size, MEAN, STD)
    shown = torch.cat(list(reading.images(volume, 2)))
    count = {"axial": 5, "coronal": 4, "sagittal": 3}[axis]
    assert shown.shape == (count, 3, *size)
    for number in range(count):
        for channel, neighbour in enumerate((max(number - 1, 0), number, min(number + 1, count - 1))):
            for row in range(size[0]):
                for column in range(size[1]):
                    place = {
                        "axial": (2 - column, 3 - row, neighbour),
                        "coronal": (2 - column, neighbour, 4 - row),
                        "sagittal": (neighbour, 3 - column, 4 - row),
                    }[axis]
                    expected = (volume[0][place] - MEAN[channel]) / STD[channel]
                    assert abs(shown[number, channel, row, column] - expected) < 1e-5


def test_slices_are_resized_and_grey_models_see_one_slice():
    shown = torch.cat(list(SliceReading("axial", (8, 12), (0.5,), (0.25,)).images(torch.full((1, 4, 4, 3), 0.75), 8)))
    assert shown.shape == (3, 1, 8, 12)
    torch.testing.assert_close(shown, torch.ones(3, 1, 8, 12))


@pytest.mark.parametrize("axis", PLANES)
def test_batches_of_slices_and_averaging_early_change_nothing(axis):
    size, grid = (20, 24, 28), (3, 2, 3)
    reading = SliceReading(axis, (32, 32), MEAN, STD)
    volumes = random(2, 1, *size)
    whole = tapped(backbone("dinov2", reading, batch_size=1000), size).extract(volumes)
    small = tapped(backbone("dinov2", reading, batch_size=5), size, grid).extract(volumes)
    for full, feature in zip(whole, small, strict=True):
        assert full.map.shape[2 + PLANES[axis][0]] == size[PLANES[axis][0]]
        torch.testing.assert_close(feature.map, torch.nn.functional.adaptive_avg_pool3d(full.map, grid))
        torch.testing.assert_close(feature.prefix, full.prefix)


def test_what_does_not_fit_is_refused():
    read = backbone("dinov2", SliceReading("axial", (32, 32), MEAN, STD))
    with pytest.raises(BackboneError, match="give three sides"):
        read.find_stages((32, 32))
    for fields in (("sideways", (32, 32), MEAN, STD), ("axial", (32,), MEAN, STD), ("axial", (8, 8), MEAN, (1, 1))):
        with pytest.raises(ValueError, match="of slices"):
            SliceReading(*fields)


RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10]}


def classifier(rank: int, channels: int, size: list[int]) -> RDStudentForImageClassification:
    torch.manual_seed(1)
    config = MonaiNetConfig("ResNet", rank, channels, size, RESNET, num_labels=3)
    return RDStudentForImageClassification.from_classifier(MonaiNetForImageClassification(config))


def test_rd_logits_of_one_slice_are_those_of_the_image():
    images = random(2, 1, 32, 48)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    volumes = as_volume(images, "axial")
    of_images, of_volumes = backbone("dinov2"), backbone("dinov2", SliceReading("axial", (32, 48), MEAN, STD))
    flat = RDTeacherForImageClassification.from_parts(classifier(2, 3, [32, 48]), of_images, (32, 48))
    deep = RDTeacherForImageClassification.from_parts(classifier(3, 1, [48, 32, 1]), of_volumes, (48, 32, 1))
    with torch.no_grad():
        for here, there in zip(flat.projectors.parameters(), deep.projectors.parameters(), strict=True):
            if there.ndim == 5:  # a slice's rows and columns run against the volume's Y and X
                there.zero_()[..., there.shape[-1] // 2] = here.flip(2, 3).transpose(2, 3)
            else:
                there.copy_(here)
        deep.student.model.network.fc.load_state_dict(flat.student.model.network.fc.state_dict())
    flat.attach(of_images)
    deep.attach(of_volumes)
    expected = flat.eval()(pixel_values=(images.expand(-1, 3, -1, -1) - mean) / std).logits
    torch.testing.assert_close(deep.eval()(pixel_values=volumes).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_teacher_of_slices_answers_alone(tmp_path):
    reading, size = SliceReading("coronal", (32, 32), MEAN, STD), (32, 40, 32)
    read = backbone("mobilenet_v2", reading)
    model = RDTeacherForImageClassification.from_parts(classifier(3, 1, list(size)), read, size)
    model.attach(read)
    volumes = random(2, 1, *size)
    expected = model.eval()(pixel_values=volumes).logits
    model.save_pretrained(tmp_path)

    again = backbone("mobilenet_v2")  # knows nothing of slices
    loaded = RDTeacherForImageClassification.from_pretrained(tmp_path, backbone=again).eval()
    torch.testing.assert_close(loaded(pixel_values=volumes).logits, expected)
    assert loaded.config.slices == reading.to_dict() and loaded.config.teacher_image_size == list(size)


def test_a_config_of_images_knows_no_slices():
    read = backbone("dinov2")
    model = RDTeacherForImageClassification.from_parts(classifier(2, 3, [32, 32]), read, 32)
    values = model.config.to_dict()
    assert values.pop("slices") is None
    old = RDTeacherConfig(**{name: value for name, value in values.items() if name != "model_type"})
    assert old.slices is None


def segmenter(network: str, size: tuple[int, ...], **arguments) -> RDStudentForSemanticSegmentation:
    torch.manual_seed(1)
    config = MonaiNetConfig(network, 3, 2, size, arguments, num_labels=3)
    return RDStudentForSemanticSegmentation.from_classifier(MonaiNetForSemanticSegmentation(config))


UNET = {"channels": [4, 6, 8], "strides": [2, 2], "norm": "batch"}
SEGRESNET = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}


@pytest.mark.parametrize("teacher", ["slices", "volumes"])
@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
@pytest.mark.parametrize("norms", ["own", "student"])
@pytest.mark.parametrize(("network", "arguments"), [("UNet", UNET), ("SegResNet", SEGRESNET)])
def test_every_projector_gets_a_gradient(teacher, skips, norms, network, arguments):
    size = (16, 16, 24)
    student = segmenter(network, size, **arguments)
    if teacher == "slices":
        read = backbone("dinov2", SliceReading("axial", (32, 32), MEAN, STD))
    else:
        read = Backbone.from_model(segmenter("UNet", size, **UNET).model)
    model = RDTeacherForSemanticSegmentation.from_parts(
        student, read, size, "all", hidden_channels=4, skips=skips, hybrid_norms=norms
    ).train()
    assert len(model.projectors) > 1
    volumes = random(2, 2, *size)
    output = model(
        teacher_features=read.extract(volumes), student_pixel_values=volumes,
        labels=torch.randint(0, 3, (2, *size), generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    assert output.logits.shape == (2, 3, *size) and len(output.hybrid_logits) == len(model.projectors)
    for number, logits in enumerate(output.hybrid_logits):
        weight = model.projectors[number].bottleneck[0].weight
        (gradient,) = torch.autograd.grad(logits.square().sum(), weight, retain_graph=True)
        assert gradient.abs().max() > 0, f"projector {number}"


def test_a_student_of_volumes_says_what_it_reads():
    student = segmenter("UNet", (16, 16, 16), **UNET)
    assert (student.config.spatial_dims, student.config.in_channels) == (3, 2)
    with pytest.raises(ValueError, match=r"\(batch, 2, x, y, z\)"):
        student(pixel_values=random(1, 1, 16, 16, 16))
    with pytest.raises(ValueError, match=r"\(batch, 2, x, y, z\)"):
        student(pixel_values=random(1, 2, 16, 16))


def test_stages_of_slices_are_those_of_the_volume():
    reading = SliceReading("sagittal", (32, 64), MEAN, STD)
    assert reading.stage(Stage("a", 5, (4, 8), 1), (10, 20, 30)) == Stage("a", 5, (10, 8, 4), 1)
    feature = reading.assemble(StageFeature(random(10, 5, 4, 8), random(10, 1, 5)), (10, 8, 4))
    assert feature.map.shape == (1, 5, 10, 8, 4) and feature.prefix.shape == (1, 1, 5)
