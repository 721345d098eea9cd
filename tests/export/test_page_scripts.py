"""The scripts of the web page in node: images as Pillow and rd_hf read and resize them, and the rules of answers."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from page_in_node import NODE, encoded, given, in_node, pixels
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from served_pages import smooth, varied_images
from small_images import png_of_16_bits
from transformers import (
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    MobileViTImageProcessorPil,
    ViTImageProcessorPil,
)

from rd_hf.arguments.values import ArgumentError
from rd_hf.data.decoding.images import read_image
from rd_hf.data.pixels import PixelTransform
from rd_hf.exports.web.steps import preprocessing, rows_may_come_first
from rd_hf.tasks.segmentation import class_map

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_images_are_resized_to_the_byte_as_pillow_does():
    """Larger, smaller and both at once, with each filter, in both orders of rows and columns."""
    shapes = [(96, 64), (17, 301), (7, 5), (40, 200), (200, 40), (64, 64)]
    targets = [(32, 32), (97, 55), (64, 40), (150, 150)]
    cases = [
        (Image.fromarray(smooth(*shape, seed)), target, resample)
        for seed, shape in enumerate(shapes)
        for target in targets
        for resample in range(6)
    ]
    turns = rows_may_come_first()
    made = in_node([["resize.js", "resize", [given(image), *to, how, turns]] for image, to, how in cases])
    for answer, (image, target, resample) in zip(made, cases, strict=True):
        expected = np.asarray(image.resize(target, resample))
        assert np.array_equal(pixels(answer), expected), (image.size, target, resample)


PROCESSORS = {
    "squash": ViTImageProcessorPil(size={"height": 30, "width": 41}, resample=3, image_mean=[0.1, 0.2, 0.3]),
    "crop": BitImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 30}),
    "padding_crop": BitImageProcessorPil(size={"shortest_edge": 21}, crop_size={"height": 32, "width": 33}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 40}),
    "reversed": MobileViTImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "lanczos": ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=1, do_normalize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_images_are_prepared_as_by_the_processor(name):
    transform = PixelTransform(PROCESSORS[name])
    steps = json.loads(json.dumps(preprocessing(transform)))
    images = [Image.fromarray(smooth(*shape, 0)) for shape in ((64, 96), (130, 50), (20, 21), (300, 301))]
    made = in_node([["prepare.js", "geometry", [given(image), steps["steps"]]] for image in images])
    values = in_node(
        [["prepare.js", "normalized", [one, steps]] for one in made]  # what came out of node goes in again
    )
    for image, bytes_made, value in zip(images, made, values, strict=True):
        expected = transform.geometry(image)
        shown = pixels(bytes_made)[..., ::-1] if steps["reversed"] else pixels(bytes_made)
        assert np.array_equal(shown, expected.permute(1, 2, 0).numpy())
        normalised = transform.normalize(expected[None])[0].numpy().ravel()
        assert np.abs(np.array(value["floats"]) - normalised).max() < 1e-6


def test_a_model_of_grey_images_gets_the_mean():
    transform = PixelTransform(PROCESSORS["squash"], channels=1)
    image = Image.fromarray(smooth(30, 41, 0))
    (value,) = in_node([["prepare.js", "normalized", [given(image), preprocessing(transform)]]])
    expected = transform.normalize(transform.geometry(image)[None])[0].numpy().ravel()
    assert np.abs(np.array(value["floats"]) - expected).max() < 1e-6


def test_a_processor_that_the_page_does_not_know_is_refused():
    class Mirrored(ViTImageProcessorPil):
        def resize(self, image, *args, **kwargs):
            return super().resize(image, *args, **kwargs)[..., ::-1].copy()

    transform = PixelTransform(Mirrored(size={"height": 32, "width": 32}))
    with pytest.raises(ArgumentError, match="cannot prepare images as Mirrored does"):
        preprocessing(transform)


def test_png_files_are_read_as_rd_hf_reads_them(tmp_path):
    files = [path for path in varied_images(tmp_path / "images") if path.suffix == ".png"]
    made = in_node([["png.js", "readPng", [{"file": encoded(path.read_bytes())}]] for path in files])
    for path, answer in zip(files, made, strict=True):
        assert np.array_equal(pixels(answer), np.asarray(read_image(path).rgb)), path.name


def test_png_files_of_all_depths_orientations_and_passes():
    """Each orientation in EXIF and XMP, one as text; two and four bits; interlaced lines, which Pillow reads only."""
    image = Image.fromarray(smooth(11, 23, 1))
    contents = []
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        contents.append(png(image, exif=exif))
    contents += [png(image, pnginfo=exif_as_text(6, is_compressed)) for is_compressed in (False, True)]
    contents += [png(image.quantize(3), bits=bits) for bits in (1, 2, 4)]
    contents += [interlaced(smooth(height, width, 2)) for height, width in ((1, 1), (3, 5), (8, 8), (19, 21))]
    contents += [png_of_16_bits(np.full((4, 5, 3), 77)), png_of_16_bits(np.arange(40).reshape(4, 5, 2))]
    made = in_node([["png.js", "readPng", [{"file": encoded(content)}]] for content in contents])
    for content, answer in zip(contents, made, strict=True):
        assert np.array_equal(pixels(answer), np.asarray(read_image(content).rgb))


def exif_as_text(turn, is_compressed):
    """An orientation as ImageMagick writes it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    digits = b"Exif\0\0".hex() + exif.tobytes().removeprefix(b"Exif\0\0").hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    info = PngInfo()
    info.add_text("Raw profile type exif", "\n".join(["", "exif", f"{len(digits) // 2:8}", *lines, ""]), is_compressed)
    return info


def interlaced(array):
    """An interlaced PNG of colours (H, W, 3) uint8, without filters."""
    import struct
    import zlib

    lines = b""
    for left, top, x, y in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        part = array[top::y, left::x]
        lines += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 8, 2, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_files_that_are_no_image_are_refused_in_words():
    whole = png(Image.fromarray(smooth(40, 40, 0)))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    jpeg = io.BytesIO()
    Image.fromarray(smooth(40, 40, 0)).convert("CMYK").save(jpeg, "JPEG")
    gif = io.BytesIO()
    Image.new("L", (4, 4)).save(gif, "GIF")
    cases = {
        b"": "it is empty",
        whole[: len(whole) // 2]: "cut off",
        whole[:20]: "cut off",
        bytes(damaged): "cut off",
        jpeg.getvalue(): "CMYK",
        jpeg.getvalue()[:300]: "cut off",
        gif.getvalue(): "it is a GIF",
        b"II*\0" + bytes(100): "it is a TIFF",
        b"image,label\n1.png,0\n": "it is text",
        b"%PDF-1.7": "it is a PDF",
        bytes(range(200)): "not an image that this page knows",
    }
    made = in_node([["reading.js", "readImage", [{"file": encoded(content)}, {}]] for content in cases])
    for answer, expected in zip(made, cases.values(), strict=True):
        assert expected in answer["error"]


def student(**values):
    return {"labels": ["a", "b", "c"], "several_labels": False, "operating_point": None} | values


def test_the_decision_follows_the_operating_point():
    point = {"rule": "youden", "thresholds": {"b": 0.2}}
    several = student(several_labels=True, operating_point={"rule": "youden", "thresholds": {"b": 0.2}})
    calls = [
        ([0.6, 0.3, 0.1], student(), ["a"]),
        ([0.6, 0.3, 0.1], student(operating_point=point), ["b"]),
        ([0.1, 0.19, 0.71], student(operating_point=point), ["c"]),
        ([0.1, 0.2, 0.7], student(operating_point=point), ["b"]),
        ([0.5, 0.3, 0.49], several, ["a", "b"]),
        ([0.1, 0.1, 0.1], several, []),
    ]
    made = in_node([["answer.js", "decision", [values, own]] for values, own, _ in calls])
    assert made == [expected for *_, expected in calls]


def test_probabilities_and_their_calibration():
    logits = torch.tensor([2.0, -1.0, 0.5])
    calls = [["answer.js", "probabilities", [logits.tolist(), student(), 1]]]
    calls += [["answer.js", "probabilities", [logits.tolist(), student(), 1.7]]]
    calls += [["answer.js", "probabilities", [logits.tolist(), student(several_labels=True), 1.7]]]
    expected = [logits.softmax(0), (logits / 1.7).softmax(0), (logits / 1.7).sigmoid()]
    for made, wanted in zip(in_node(calls), expected, strict=True):
        assert torch.allclose(torch.tensor(made), wanted, atol=1e-6)


def test_logits_that_are_not_finite_are_no_answer():
    calls = [["answer.js", "checked", [{"floats": values}]] for values in ([1, -2.5], [1e39, 0])]  # too large: infinity
    good, infinite = in_node(calls)
    assert good == {"floats": [1, -2.5]}
    assert infinite == {"error": "the model's output for it is not finite (NaN or infinite)"}


def test_masks_are_those_of_python():
    """All but 1 in 1000 pixels, where two classes are equal to the last bit of float32."""
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.randn(3, 16, 12, generator=generator), size) for size in ((101, 77), (16, 12), (5, 9), (12, 40))]
    calls = [
        ["answer.js", "classMap", [{"floats": logits.flatten().tolist()}, list(logits.shape), size[1], size[0]]]
        for logits, size in cases
    ]
    for made, (logits, size) in zip(in_node(calls), cases, strict=True):
        mask = np.frombuffer(base64.b64decode(made["bytes"]), np.uint8).reshape(size)
        assert (mask != class_map(logits, size).numpy()).mean() <= 1e-3


def test_tables_are_quoted():
    (made,) = in_node([["table.js", "csv", [[["a,b.png", 'x "y"', "1"], ["c", "", "2"]]]]])
    (safe,) = in_node([["table.js", "csv", [[["=1+1", "-0.5", "@x", "-"]]]]])
    assert safe == "'=1+1,-0.5,'@x,'-\r\n"
    assert made == '"a,b.png","x ""y""",1\r\nc,,2\r\n'
