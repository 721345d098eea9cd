"""Images deeper than eight bits: one rule of stretching, for grey and colour, whatever the file's format."""

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_images import png_of_16_bits

from rd_hf.data.decoding.image_notes import Note
from rd_hf.data.decoding.images import BadImageError, read_image, to_rgb
from rd_hf.data.decoding.intensity import stretch

DEEP = np.random.default_rng(0).integers(300, 4096, (24, 20, 3)).astype(np.uint16)


def stretched(values):
    values = values.astype(np.float64)
    made = np.rint((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8)
    return made if made.ndim == 3 else np.repeat(made[..., None], 3, axis=2)


def tiff(values, **options):
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def check(content, values, notes=Note.DEEP):
    made = read_image(content)
    assert np.array_equal(np.asarray(made.rgb), stretched(values)) and made.notes == notes


def test_16_bit_png_of_any_number_of_channels():
    alpha = np.full((24, 20, 1), 65535, dtype=np.uint16)
    hole = alpha.copy()
    hole[3, 4] = 7
    check(png_of_16_bits(DEEP[..., :1]), DEEP[..., 0])
    check(png_of_16_bits(DEEP), DEEP)
    check(png_of_16_bits(np.concatenate([DEEP, alpha], axis=2)), DEEP)
    check(png_of_16_bits(np.concatenate([DEEP[..., :1], alpha], axis=2)), DEEP[..., 0])
    check(png_of_16_bits(np.concatenate([DEEP, hole], axis=2)), DEEP, Note.DEEP | Note.TRANSPARENT)
    check(png_of_16_bits(np.concatenate([DEEP[..., :1], hole], axis=2)), DEEP[..., 0], Note.DEEP | Note.TRANSPARENT)


def test_memory_is_counted_as_it_is_needed():
    content = png_of_16_bits(np.zeros((2, 2, 4), np.uint16)).replace(
        struct.pack(">II", 2, 2), struct.pack(">II", 12000, 12000), 1
    )
    header = content[12:29]
    content = content.replace(content[29:33], struct.pack(">I", zlib.crc32(header)), 1)
    with pytest.raises(BadImageError, match="12000 x 12000 pixels, which are more than 2 GiB"):
        read_image(content)
    values = np.arange(3_000_000, dtype=np.uint32).astype(np.uint16).reshape(1000, 1000, 3)
    tracemalloc.start()
    stretch(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * values[..., 0].size * 2


def test_grey_and_colour_are_stretched_alike():
    grey = DEEP[..., :1]
    assert np.array_equal(to_rgb(png_of_16_bits(grey)), to_rgb(png_of_16_bits(np.repeat(grey, 3, axis=2))))


def test_the_orientation_of_a_deep_png_is_applied():
    plain = Image.new("L", (20, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    plain.save(buffer, "PNG", exif=exif)
    start = buffer.getvalue().index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(buffer.getvalue()[start : start + 4], "big")
    content = png_of_16_bits(DEEP)
    content = content[:33] + buffer.getvalue()[start:end] + content[33:]
    assert np.array_equal(np.asarray(to_rgb(content)), np.rot90(stretched(DEEP), -1))


@pytest.mark.parametrize(
    "options",
    [
        {}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)}, {"rowsperstrip": 5},
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint32", "float64", "int16"])
def test_colour_tiff(dtype, options):
    if options.get("predictor") and dtype.startswith("float"):
        pytest.skip("tifffile writes no such file")
    check(tiff(DEEP.astype(dtype), photometric="rgb", **options), DEEP)


def test_signed_bytes_are_stretched_as_deeper_values_are():
    values = np.array([[-128, -1, 0, 1, 127]])
    found = [np.asarray(to_rgb(tiff(values.astype(dtype))))[..., 0].tolist() for dtype in ("int8", "int16")]
    assert found[0] == found[1] == [[0, 127, 128, 129, 255]]


def test_colour_tiff_by_planes_and_with_alpha():
    check(tiff(np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate"), DEEP)
    alpha = np.full((24, 20, 1), 65535, dtype=np.uint16)
    four = np.concatenate([DEEP, alpha], axis=2)
    check(tiff(four, photometric="rgb", extrasamples=["unassalpha"]), DEEP)
    four[0, 0, 3] = 0
    check(tiff(four, photometric="rgb", extrasamples=["unassalpha"]), DEEP, Note.DEEP | Note.TRANSPARENT)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_colour_tiff_with_lzw(predictor, order):
    """Pillow compresses the strips; the tags around them are written here."""
    stored = DEEP.copy()
    if predictor == 2:
        stored[:, 1:] -= DEEP[:, :-1]
    strips = []
    for start in range(0, 24, 8):
        file = BytesIO()
        rows = stored[start : start + 8].reshape(8, -1).astype(order + "u2").view("<u2")
        Image.fromarray(rows.astype(np.uint16)).save(file, "TIFF", compression="tiff_lzw")
        with tifffile.TiffFile(BytesIO(file.getvalue())) as written:
            page = written.pages[0]
            assert len(page.dataoffsets) == 1
            strips.append(file.getvalue()[page.dataoffsets[0] :][: page.databytecounts[0]])
    tags = [
        (256, 20),
        (257, 24),
        (258, 16),
        (259, 5),
        (262, 2),
        (273, 0),
        (277, 3),
        (278, 8),
        (279, 0),
        (317, predictor),
    ]
    lists, count = 8 + 2 + 12 * len(tags) + 4, len(strips)
    starts = np.cumsum([lists + 8 * count, *map(len, strips)])[:-1]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, value in tags:
        places = {273: lists, 279: lists + 4 * count}
        number = count if tag in places else 1
        head += struct.pack(f"{order}HHII", tag, 4, number, places.get(tag, value))
    head += struct.pack(f"{order}I", 0) + struct.pack(f"{order}{2 * count}I", *starts, *map(len, strips))
    check(head + b"".join(strips), DEEP)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_where_zero_is_white_the_image_is_turned(dtype):
    grey = (DEEP[..., 0] // 17).astype(dtype)
    grey.ravel()[:2] = 0, 255
    plain = np.asarray(to_rgb(tiff(grey, photometric="minisblack")))
    turned = read_image(tiff(grey, photometric="miniswhite"))
    assert np.array_equal(np.asarray(turned.rgb), 255 - plain)
    assert bool(turned.notes & Note.WHITE_IS_ZERO) == (dtype != "uint8")


def test_grey_tiff_with_lzw_and_turned():
    file = BytesIO()
    Image.fromarray(DEEP[..., 0]).save(file, "TIFF", compression="tiff_lzw", tiffinfo={262: 0})
    check(file.getvalue(), 4096 - DEEP[..., 0].astype(int), Note.DEEP | Note.WHITE_IS_ZERO)


def test_cmyk_of_16_bits_is_that_of_8():
    inks = np.random.default_rng(1).integers(0, 256, (6, 5, 4)).astype(np.uint8)
    inks[0, 0], inks[0, 1] = 0, 255  # white and black, so that nothing is stretched
    deep = np.asarray(to_rgb(tiff(inks.astype(np.uint16) * 257, photometric="separated"))).astype(int)
    assert np.abs(deep - np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))).max() <= 1


def test_deep_netpbm_colour():
    head = b"P6\n# a comment\n20 24\n4095\n"
    check(head + DEEP.astype(">u2").tobytes(), DEEP)
    check(b"P3 20 24 4095\n" + b" ".join(str(value).encode() for value in DEEP.ravel()), DEEP)
    with pytest.raises(BadImageError, match="truncated"):
        to_rgb(head + b"\0" * 100)


def test_arrays_with_four_deep_channels_lose_the_last():
    assert np.array_equal(to_rgb(np.concatenate([DEEP, DEEP[..., :1]], axis=2)), stretched(DEEP))


@pytest.mark.parametrize(
    "content, message",
    [
        (tiff(np.zeros((8, 8, 6), np.uint16), photometric="minisblack", planarconfig="contig"), "6 channels.*16 bits"),
        (tiff(np.zeros((8, 8, 6), np.uint8), photometric="minisblack", planarconfig="contig"), "6 channels.*8 bits"),
        (tiff(np.zeros((5, 8, 8), np.uint16), photometric="minisblack", truncate=True), "stack of 5 pictures"),
        (tiff(np.zeros((5, 8, 8), np.uint8), photometric="minisblack", volumetric=True), "stack of 5 pictures"),
        (tiff(DEEP, photometric="rgb")[:-500], "damaged or cut off"),
        (tiff(np.zeros((8, 8, 3), np.complex64), photometric="rgb"), "complex|bits"),
        (png_of_16_bits(DEEP)[:900], "cut off"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(content, message):
    with pytest.raises(BadImageError, match=f"row 1 is not a readable image: .*({message})"):
        to_rgb(content, "row 1")


def test_deep_colour_in_jpeg_2000_is_refused_by_its_bits():
    file = BytesIO()
    Image.fromarray((DEEP >> 4).astype(np.uint8)).save(file, "JPEG2000")
    content = bytearray(file.getvalue())
    assert np.asarray(to_rgb(bytes(content))).shape == (24, 20, 3)
    start = content.index(b"\xffO\xffQ")
    content[start + 42 : start + 51 : 3] = bytes([11] * 3)  # says 12 bits for each of the three
    with pytest.raises(BadImageError, match="JPEG2000 files of 12 bits per colour"):
        to_rgb(bytes(content))
