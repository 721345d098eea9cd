import gzip
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin
from transformers.image_utils import load_image

from rd_hf.data.decoding.image_notes import Note
from rd_hf.data.decoding.images import BadImageError, image_bytes, read_image, to_rgb
from rd_hf.data.decoding.reading import Reading


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


def transparent_images():
    """An image of each mode that Pillow has with transparency, and one that is opaque throughout."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    rgba = Image.fromarray(colours)
    palette = Image.fromarray(colours[..., :3]).quantize(8)
    palette.info["transparency"] = bytes([0, 128, 255])
    keyed = Image.fromarray(colours[..., 0])
    keyed.info["transparency"] = int(colours[3, 3, 0])
    opaque = rgba.copy()
    opaque.putalpha(255)
    return {"RGBA": rgba, "LA": rgba.convert("LA"), "P": palette, "L with a key": keyed, "opaque": opaque}


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L with a key", "opaque"])
def test_alpha_is_dropped_as_the_pipeline_of_transformers_drops_it(kind, tmp_path):
    transparent_images()[kind].save(tmp_path / "x.png")
    made = read_image(tmp_path / "x.png")
    assert np.array_equal(np.asarray(made.rgb), np.asarray(load_image(str(tmp_path / "x.png"))))
    assert bool(made.notes & Note.TRANSPARENT) == (kind != "opaque")


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


@pytest.mark.parametrize(
    "image, message",
    [
        (b"", "it is empty"),
        (b"no image at all", "it is text, perhaps a pointer to a file that was not downloaded"),
        (b"\1\2\3 no image at all", "its format is unknown"),
        (b"/annex/objects/MD5E-s120--900150983cd24fb0d6963f7d28e17f72.png", "pointer of git-annex.*datalad get"),
        (b"../../.git/annex/objects/zW/3x/MD5E-s120--9001.png/MD5E-s120--9001.png", "pointer of git-annex"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "it is a HEIC picture.*save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(50), "it is a film"),
        (encoded(Image.effect_noise((64, 64), 90))[:1500], "trunc"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 3), np.uint8), r"shape \(0, 3\)"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.full((2, 2), np.nan), "no finite pixel"),
        (7, "a int is not a Pillow image"),
        (None, "a NoneType is not a Pillow image"),
    ],
)  # fmt: skip
def test_unreadable_images_say_which_and_why(image, message):
    with pytest.raises(BadImageError, match=f"row 5 of train is not a readable image: .*{message}"):
        to_rgb(image, name="row 5 of train")


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


def frames_of(kind):
    images = [Image.new("L", (20, 20), grey) for grey in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_a_file_of_several_pages_is_refused_until_one_is_chosen(kind):
    content = frames_of(kind)
    with pytest.raises(BadImageError, match=r"row 3 is not .* has 3 pages or frames.* `page` \(1 to 3\)"):
        to_rgb(content, "row 3")
    for page, grey in enumerate((10, 200, 90), start=1):
        made = read_image(content, reading=Reading(page=page))
        assert np.unique(made.rgb).tolist() == [grey] and made.notes & Note.PAGES
    with pytest.raises(BadImageError, match="has 3 pages, but `page` is 4"):
        to_rgb(content, reading=Reading(page=4))


def test_a_single_page_is_page_one():
    content = encoded(Image.fromarray(GREY))
    assert np.array_equal(pixels(content, reading=Reading(page=1))[..., 0], GREY)
    with pytest.raises(
        BadImageError, match="has 1 page, but `page` is 2, by the command or by the training of the model"
    ):
        to_rgb(content, reading=Reading(page=2))


def test_smaller_copies_and_thumbnails_are_no_pages(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", GREY)
    tifffile.imwrite(tmp_path / "x.tif", GREY[:1, :2], append=True, subfiletype=1)
    assert np.array_equal(pixels(tmp_path / "x.tif")[..., 0], GREY)
    photo = Image.new("RGB", (32, 32), (9, 99, 199))
    assert pixels(encoded(photo, "MPO", save_all=True, append_images=[photo.resize((8, 8))])).shape == (32, 32, 3)


def test_comments_and_profiles_of_a_png_do_not_matter():
    image = Image.fromarray(GREY)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 3_000_000)
    info.add_text("compressed", "y" * 3_000_000, zip=True)
    info.add_itxt("international", "z" * 3_000_000, zip=True)
    for options in ({"pnginfo": info}, {"icc_profile": b"broken" * 99}, {"icc_profile": b"\0" * 3_000_000}):
        assert np.array_equal(pixels(encoded(image, **options))[..., 0], GREY)


def test_a_broken_exif_block_does_not_matter():
    content = encoded(Image.fromarray(GREY), exif=b"Exif\0\0 not an exif block")
    assert np.array_equal(pixels(content)[..., 0], GREY)


def test_an_image_above_the_limit_of_pillow_is_read_and_the_limit_stays(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY)))[..., 0], GREY)
    assert Image.MAX_IMAGE_PIXELS == 2
    with pytest.raises(BadImageError):
        to_rgb(encoded(Image.fromarray(GREY))[:50])
    assert Image.MAX_IMAGE_PIXELS == 2


def test_an_image_of_more_than_two_gigabytes_is_refused_by_its_header():
    content = bytearray(encoded(Image.fromarray(GREY)))
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImageError, match="40000 x 40000 pixels.*make it smaller"):
        to_rgb(bytes(content))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page.*download"),
        (b"\n<html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML text"),
        (b'<?xml version="1.0"?>\n<svg width="3">', "SVG drawing"),
        (b'{"error": "not found"}', "text, such as a server sends"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (gzip.compress(b"\x5c\x01\0\0" + bytes(400), mtime=0), "NIfTI volume"),
        (gzip.compress(b"other", mtime=0), "compressed by gzip"),
        (bytes(5000), "nothing but zeros"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:1000], "cut off.*download.*truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "TIFF")[:1000], "cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "GIF")[:12], "cut off"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:100], "damaged or cut off"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_are_named(content, message, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    for image in (content, tmp_path / "x.png", {"bytes": content, "path": "x.png"}):
        with pytest.raises(BadImageError, match=message) as caught:
            to_rgb(image)
        assert "\n" not in str(caught.value)


def test_every_orientation_is_that_of_the_pipeline(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / "x.png", exif=exif)
        expected = np.asarray(load_image(str(tmp_path / "x.png")))
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            assert np.array_equal(pixels(encoded(image, kind, exif=exif, **options)), expected)


def test_a_path_is_named_once_however_the_user_wrote_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image at all")
    for name, said in (("a.png", "a.png is not"), ("row 0", rf"row 0 \({tmp_path}/a\.png\) is not")):
        with pytest.raises(BadImageError, match=f"^{said}"):
            read_image(str(tmp_path / "a.png"), name)
