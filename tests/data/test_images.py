from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rd_hf.data.images import BadImageError, image_bytes, to_rgb


def pixels(image, **options):
    made = to_rgb(image, **options)
    assert made.mode == "RGB"
    return np.asarray(made)


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


GREY = np.array([[0, 100, 200], [10, 20, 30]], dtype=np.uint8)


def test_every_form_of_a_grey_image_is_the_same(tmp_path):
    image = Image.fromarray(GREY)
    image.save(tmp_path / "x.png")
    expected = np.repeat(GREY[..., None], 3, axis=2)
    forms = [
        image, GREY, GREY[..., None], encoded(image), tmp_path / "x.png", str(tmp_path / "x.png"),
        {"bytes": encoded(image), "path": None}, {"bytes": None, "path": str(tmp_path / "x.png")},
        {"bytes": encoded(image), "path": "elsewhere.png"},
    ]  # fmt: skip
    for form in forms:
        assert np.array_equal(pixels(form), expected)


def test_bits_and_booleans_become_black_and_white():
    mask = np.array([[True, False]])
    assert pixels(mask)[..., 0].tolist() == [[255, 0]]
    assert pixels(Image.fromarray(mask))[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_deep_images_are_stretched_from_minimum_to_maximum(dtype):
    array = np.array([[1000, 2000], [1500, 3000]], dtype=dtype)
    assert pixels(array)[..., 0].tolist() == [[0, 128], [64, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files_keep_their_contrast(kind):
    array = np.linspace(30000, 31000, 256).astype(np.uint16).reshape(16, 16)
    assert np.abs(pixels(encoded(Image.fromarray(array), kind))[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1


def test_float_tiff_with_values_that_are_not_finite():
    array = np.array([[0.0, np.nan], [1.0, np.inf], [-np.inf, 0.5]], dtype=np.float32)
    assert pixels(encoded(Image.fromarray(array), "TIFF"))[..., 1].tolist() == [[0, 0], [255, 255], [0, 128]]


def test_a_constant_deep_image_is_black():
    assert pixels(np.full((2, 2), 700, dtype=np.uint16)).max() == 0


def test_transparent_pixels_lie_over_black():
    array = np.full((1, 2, 4), 200, dtype=np.uint8)
    array[0, 0, 3], array[0, 1, 3] = 0, 255
    assert pixels(array).tolist() == [[[0, 0, 0], [200, 200, 200]]]
    grey = Image.fromarray(np.array([[[90, 0], [90, 255]]], dtype=np.uint8), mode=None).convert("LA")
    assert pixels(encoded(grey))[..., 0].tolist() == [[0, 90]]


def test_palettes_and_cmyk_are_converted():
    colour = Image.new("RGB", (2, 2), (250, 10, 30))
    assert (
        np.abs(pixels(encoded(colour.convert("P", palette=Image.Palette.ADAPTIVE))).astype(int) - (250, 10, 30)).max()
        < 3
    )
    assert pixels(Image.new("CMYK", (2, 2), (0, 0, 0, 0))).min() == 255


def test_the_orientation_of_a_photo_is_applied():
    photo = Image.fromarray(np.array([[10, 10, 10, 10], [240, 240, 240, 240]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
    turned = pixels(encoded(photo, "PNG", exif=exif))
    assert turned.shape == (4, 2, 3) and turned[0, 1, 0] == 10 and turned[0, 0, 0] == 240


def test_the_first_of_several_frames_is_taken():
    first, second = Image.new("L", (2, 2), 40), Image.new("L", (2, 2), 90)
    assert pixels(encoded(first, "TIFF", save_all=True, append_images=[second])).max() == 40


@pytest.mark.parametrize(
    "image, message",
    [
        (b"", "empty or its format is unknown"),
        (b"no image at all", "empty or its format is unknown"),
        (encoded(Image.effect_noise((64, 64), 90))[:1500], "trunc"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 3), np.uint8), r"shape \(0, 3\)"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((2, 2, 4), np.uint16), "four channels of uint16"),
        (np.full((2, 2), np.nan), "no finite pixel"),
        (7, "a int is not a Pillow image"),
        (None, "a NoneType is not a Pillow image"),
    ],
)  # fmt: skip
def test_unreadable_images_say_which_and_why(image, message):
    with pytest.raises(BadImageError, match=f"row 5 of train is not a readable image: .*{message}"):
        to_rgb(image, name="row 5 of train")


def test_a_file_in_memory_is_not_named_by_its_buffer():
    with pytest.raises(BadImageError, match=r"readable image: the file is empty or its format is unknown\.$"):
        to_rgb(b"", name="row 5")


def test_the_path_is_named_beside_the_row(tmp_path):
    missing = {"bytes": None, "path": str(tmp_path / "gone.png")}
    with pytest.raises(BadImageError, match=r"row 1 \(.*gone\.png\) is not"):
        to_rgb(missing, name="row 1")
    with pytest.raises(BadImageError, match=r"gone\.png is not"):
        to_rgb(tmp_path / "gone.png")


def test_image_bytes(tmp_path):
    (tmp_path / "x.png").write_bytes(b"content")
    assert image_bytes({"bytes": b"inside", "path": "x.png"}) == b"inside"
    assert image_bytes({"bytes": None, "path": str(tmp_path / "x.png")}) == b"content"
    with pytest.raises(BadImageError, match="row 2"):
        image_bytes({"bytes": None, "path": None}, name="row 2")
    with pytest.raises(BadImageError, match=r"gone\.png"):
        image_bytes({"bytes": None, "path": str(tmp_path / "gone.png")})
