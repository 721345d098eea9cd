"""Every processor splits into geometry and normalisation, or is refused by name."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    EfficientNetImageProcessorPil,
    GLPNImageProcessorPil,
    Idefics2ImageProcessorPil,
    LevitImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    MobileViTImageProcessorPil,
    Owlv2ImageProcessorPil,
    PvtImageProcessorPil,
    SamImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
    YolosImageProcessorPil,
)
from transformers.utils.import_utils import TORCHVISION_IMPORT_ERROR

from rd_hf.data.pixels import PixelError, PixelTransform, default_processor, load_processor
from rd_hf.inference.model_names import ModelNameError, loading

PROCESSORS = {
    "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "rectangle": ViTImageProcessorPil(size={"height": 24, "width": 40}),
    "bit, as dinov2 uses it": BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=32),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
    "siglip": SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "convnext, cropping": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8),
    "convnext, squashing": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "deit": DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size=32),
    "mobilenet_v2": MobileNetV2ImageProcessorPil(size={"shortest_edge": 36}, crop_size=32),
    "mobilevit, blue first": MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size=32),
    "mobilevit, padding": MobileViTImageProcessorPil(size={"shortest_edge": 28}, crop_size=32),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 32, "width": 32}),
    "efficientnet, offset": EfficientNetImageProcessorPil(
        size={"height": 32, "width": 32}, rescale_offset=True, rescale_factor=1 / 127.5, include_top=False
    ),
    "levit": LevitImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
    "pvt": PvtImageProcessorPil(size={"height": 32, "width": 32}),
    "raw bytes": ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False),
}


def noise(height: int, width: int, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
def test_geometry_then_normalize_is_the_processor(name):
    processor = PROCESSORS[name]
    transform = PixelTransform(processor)
    images = [noise(50, 70, 2), noise(81, 33, 3), noise(9, 200, 4)]
    bytes_ = torch.stack([transform.geometry(image) for image in images])
    assert bytes_.dtype == torch.uint8 and bytes_.shape == (3, 3, *transform.size)
    expected = torch.cat([processor(image, return_tensors="pt")["pixel_values"].float() for image in images])
    torch.testing.assert_close(transform.normalize(bytes_), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(transform.normalize(bytes_.float()), expected, atol=1e-4, rtol=0)


def test_sizes_are_measured_height_first():
    assert PixelTransform(PROCESSORS["rectangle"]).size == (24, 40)
    assert PixelTransform(PROCESSORS["convnext, squashing"]).size == (384, 384)


def test_mobilevit_sees_blue_first():
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    geometry = PixelTransform(PROCESSORS["mobilevit, blue first"]).geometry(red)
    assert geometry[:, 16, 16].tolist() == [0, 0, 255]


def test_normalize_leaves_its_input_alone():
    transform = PixelTransform(PROCESSORS["vit"])
    batch = torch.full((1, 3, 32, 32), 10.0)
    transform.normalize(batch)
    assert (batch == 10).all()


def test_an_image_that_is_not_rgb_is_refused():
    with pytest.raises(PixelError, match=r"'L'.*to_rgb"):
        PixelTransform(PROCESSORS["vit"]).geometry(Image.new("L", (8, 8)))


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (YolosImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 60}), "Yolos.*shape.*teacher_image_size"),
        (GLPNImageProcessorPil(), "GLPN.*shape"),
        (Idefics2ImageProcessorPil(), "Idefics2.*tiles.*teacher_image_size"),
        (ViTImageProcessorPil(image_std=[0.5, 0.0, 0.5]), "ViT.*image_std of 0.*preprocessor_config.json"),
        (SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}), "Sam.*affine.*do_pad"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(processor, message):
    with pytest.raises(PixelError, match=message):
        PixelTransform(processor)


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_size_holds_for_every_kind_of_size_key(name, tmp_path):
    PROCESSORS[name].save_pretrained(tmp_path)
    transform = PixelTransform.from_pretrained(str(tmp_path), image_size=48)
    assert transform.size == (48, 48)
    transform.processor.save_pretrained(tmp_path / "again")
    assert PixelTransform.from_pretrained(str(tmp_path / "again")).size == (48, 48)


def test_image_size_sees_the_same_part_of_the_image(tmp_path):
    """A 256 resize and 224 crop asked for at 56 must resize to 64 and crop 56."""
    MobileNetV2ImageProcessorPil().save_pretrained(tmp_path)
    processor = load_processor(str(tmp_path), image_size=56)
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (64, 56)


def test_image_size_squashes_what_has_no_fixed_size(tmp_path):
    YolosImageProcessorPil().save_pretrained(tmp_path)
    assert PixelTransform.from_pretrained(str(tmp_path), image_size=40).size == (40, 40)


@pytest.mark.parametrize("kind", [GLPNImageProcessorPil, SamImageProcessorPil, Idefics2ImageProcessorPil])
def test_image_size_in_place_of_padding_and_tiles_is_said_in_the_log(kind, tmp_path, caplog):
    kind().save_pretrained(tmp_path)
    with caplog.at_level("INFO", "rd_hf"):
        processor = load_processor(str(tmp_path), image_size=48)
    assert f"{kind.__name__}) does more than resize" in caplog.text
    transform = PixelTransform(processor)
    assert transform.size == (48, 48)
    grey = transform.normalize(torch.full((1, 3, 48, 48), 255.0))[0, :, 0, 0]
    own = kind()
    mean, std = (own.image_mean, own.image_std) if own.do_normalize else ([0.0] * 3, [1.0] * 3)
    torch.testing.assert_close(grey, (1 - torch.tensor(mean)) / torch.tensor(std))


DINOV3 = {
    "image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 40, "width": 24}, "resample": 2,
    "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_center_crop": None,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def test_a_processor_that_exists_for_torchvision_only_is_made_with_pil(tmp_path):
    """As facebook/dinov3-vits16-pretrain-lvd1689m has it; torchvision rounds by up to a grey level elsewhere."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(DINOV3))
    transform = PixelTransform.from_pretrained(str(tmp_path))
    assert transform.size == (40, 24)
    white = transform.normalize(torch.full((1, 3, 1, 1), 255.0)).flatten()
    torch.testing.assert_close(white, (1 - torch.tensor(DINOV3["image_mean"])) / torch.tensor(DINOV3["image_std"]))
    assert PixelTransform.from_pretrained(str(tmp_path), image_size=32).size == (32, 32)


def test_what_torchvision_alone_can_do_besides_needs_a_size(tmp_path):
    settings = DINOV3 | {"image_processor_type": "PPLCNetImageProcessorFast"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(PixelError, match="PPLCNet.*does more than resize.*teacher_image_size"):
        PixelTransform.from_pretrained(str(tmp_path))
    assert PixelTransform.from_pretrained(str(tmp_path), image_size=32).size == (32, 32)


def test_one_grey_level_of_rounding_is_accepted():
    """Owlv2 resizes after rescaling, and so does not round to bytes in between."""
    assert PixelTransform(Owlv2ImageProcessorPil(size={"height": 128, "width": 128})).size == (128, 128)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
@pytest.mark.parametrize("labels", [{"num_classes": 1000}, {"num_classes": 1, "label_names": ["tumour"]}])
def test_a_checkpoint_of_timm_without_timm_asks_for_timm(tmp_path, labels):
    pretrained = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": pretrained, **labels})
    )
    with pytest.raises(PixelError, match=r"loaded for .*: it needs the package timm, which is not .*install timm\.$"):
        load_processor(str(tmp_path))


def test_an_older_transformers_without_torchvision_is_told_apart(tmp_path, monkeypatch):
    """Version 5.17 refuses as its dummy classes do: at the first use of an attribute, in the words of `Backend`."""
    ViTImageProcessorPil().save_pretrained(tmp_path)

    class Refusing(type):
        def __getattribute__(cls, name):
            raise ImportError(TORCHVISION_IMPORT_ERROR.format("AutoImageProcessor"))

    module = sys.modules["transformers"]  # which transformers itself replaces when a class is first used
    monkeypatch.setattr(module, "AutoImageProcessor", Refusing("AutoImageProcessor", (), {}))
    words = "pip install torchvision.*transformers>=5.23"
    with pytest.raises(PixelError, match=words):
        load_processor(str(tmp_path))
    with pytest.raises(PixelError, match=words):
        load_processor(str(tmp_path), image_size=32)  # which makes one for a class that cannot be built
    named = pytest.raises(ModelNameError, match=f"The student '{tmp_path}' cannot be used: transformers .*{words}")
    with named, loading("student", str(tmp_path)):
        load_processor(str(tmp_path))


def test_a_folder_without_processor_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(PixelError, match=f"{tmp_path.name}.*preprocessor_config.json.*default_processor"):
        load_processor(str(tmp_path))
    with pytest.raises(PixelError, match="nobody/nothing"):
        load_processor("nobody/nothing")


def test_default_processor_squashes_and_centres_and_survives_saving(tmp_path):
    default_processor(20).save_pretrained(tmp_path)
    transform = PixelTransform.from_pretrained(str(tmp_path))
    assert transform.size == (20, 20)
    white = transform.normalize(transform.geometry(Image.new("RGB", (70, 30), (255, 255, 255)))[None])
    black = transform.normalize(transform.geometry(Image.new("RGB", (70, 30)))[None])
    torch.testing.assert_close(white, torch.ones_like(white))
    torch.testing.assert_close(black, -torch.ones_like(black))


def test_the_real_teacher_beside_the_project(shared_data):
    folder = shared_data.parent / "models" / "mobilenet_v2_1.0_224_imagenet"
    if not folder.is_dir():
        pytest.skip("the MobileNetV2 checkpoint beside the project is not here")
    assert PixelTransform.from_pretrained(str(folder)).size == (224, 224)
    assert find_spec("torchvision") is not None or "torchvision" not in sys.modules


def test_a_model_of_grey_images_gets_the_mean_of_the_channels():
    settings = {"size": {"height": 24, "width": 20}, "image_mean": [0.3], "image_std": [0.2]}
    transform = PixelTransform(ViTImageProcessorPil(**settings), channels=1)
    assert list(transform.processor.image_mean) == [0.3]  # the model's own, which is saved with it
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    pixels = transform.geometry(rgb)
    shown = transform.normalize(pixels[None])
    assert shown.shape == (1, 1, 24, 20)
    torch.testing.assert_close(shown[0, 0], (pixels.float().mean(dim=0) / 255 - 0.3) / 0.2, rtol=1e-5, atol=1e-5)
    with pytest.raises(PixelError, match="images have another number of channels .4. than colour .3. or grey ones .1."):
        PixelTransform(ViTImageProcessorPil(**settings), channels=4)
    with pytest.raises(PixelError, match=r"cannot prepare a colour image \(its image_mean has 1 value"):
        PixelTransform(ViTImageProcessorPil(**settings))
