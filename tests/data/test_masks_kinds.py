"""Which files are read as masks, and what their stored values are."""

import json
import struct
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, read_image
from rd_hf.data.masks.decoding import read_stored
from rd_hf.data.masks.digest import describe_mask
from rd_hf.data.masks.reading import MaskReading
from rd_hf.models.modeling_monai import IGNORED_LABEL

VALUES = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
PALETTE = [9, 9, 9, 255, 0, 0, 0, 255, 0]


def encoded(image, kind, **options):
    file = BytesIO()
    image.save(file, format=kind, **options)
    return {"bytes": file.getvalue(), "path": "folder/m.x"}


def palette(values, colors=PALETTE):
    image = PillowImage.fromarray(values, "P") if values.ndim == 2 else values
    image.putpalette(colors)
    return image


def tiff(values, **options):
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return {"bytes": file.getvalue(), "path": "folder/m.tif"}


def png_of_bits(values, bits):
    """A grey PNG of 2 or 4 bits, which Pillow does not write."""
    import zlib

    height, width = values.shape
    rows = b""
    for row in values:
        number = 0
        for value in row:
            number = number << bits | int(value)
        length = -(-width * bits // 8)
        rows += b"\0" + (number << (8 * length - width * bits)).to_bytes(length, "big")
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return {"bytes": b"\x89PNG\r\n\x1a\n" + body, "path": None}


def grey(values=VALUES):
    return PillowImage.fromarray(values)


FILES = {
    "png": encoded(grey(), "PNG"),
    "bmp": encoded(grey(), "BMP"),
    "gif": encoded(palette(VALUES), "GIF"),
    "tiff": encoded(grey(), "TIFF"),
    "tiff with lzw": encoded(grey(), "TIFF", compression="tiff_lzw"),
    "palette png": encoded(palette(VALUES), "PNG"),
    "palette png of two bits": encoded(palette(VALUES), "PNG", bits=2),
    "grey png of two bits": png_of_bits(VALUES, 2),
    "grey png of four bits": png_of_bits(VALUES, 4),
    "png of 16 bits": encoded(PillowImage.fromarray(VALUES.astype(np.uint16)), "PNG"),
    "tiff of 16 bits": tiff(VALUES.astype(np.uint16)),
    "tiff of 32 bits": tiff(VALUES.astype(np.int32)),
    "tiff of signed bytes": tiff(VALUES.astype(np.int8)),
    "tiff of floats": tiff(VALUES.astype(np.float32)),
    "rgb of equal channels": encoded(grey().convert("RGB"), "PNG"),
    "rgba of equal channels": encoded(grey().convert("RGBA"), "PNG"),
    "grey and alpha": encoded(grey().convert("LA"), "PNG"),
    "tiff of 16 bits and equal channels": tiff(np.repeat(VALUES[..., None], 3, 2).astype(np.uint16), photometric="rgb"),
}


@pytest.mark.parametrize("name", FILES)
def test_values_are_read_as_they_are_stored(name):
    assert read_stored(FILES[name], "a mask").values.tolist() == VALUES.tolist()


def test_values_above_a_byte_are_kept():
    values = np.array([[0, 300, 65535]], dtype=np.uint16)
    for file in (encoded(PillowImage.fromarray(values), "PNG"), tiff(values)):
        assert read_stored(file, "a mask").values.tolist() == values.tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_file_of_one_bit_has_the_values_0_and_1(kind):
    image = PillowImage.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read_stored(encoded(image, kind), "a mask").values.tolist() == [[0, 1]]


def bmp_of_four_bits(values, colors):
    """As Windows stores up to 16 colours, which Pillow does not write."""
    rows = b"".join(bytes(a << 4 | b for a, b in row.reshape(-1, 2)).ljust(4, b"\0") for row in values[::-1])
    table = b"".join(bytes([color, color, color, 0]) for color in colors)
    start = 54 + len(table)
    header = struct.pack("<IiiHHIIiiII", 40, values.shape[1], len(values), 1, 4, 0, len(rows), 0, 0, len(colors), 0)
    content = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + table + rows
    return {"bytes": content, "path": "folder/m.bmp"}


@pytest.mark.parametrize("colors", [[0, 255], [0], [0, 1, 2, 3]])
def test_a_bmp_with_a_grey_palette_keeps_its_depth(colors):
    """Pillow takes black and white for one bit, and 0, 1, 2, ... for eight."""
    values = np.tile(np.arange(8, dtype=np.uint8) % len(colors), (3, 1))
    eight = palette(values, [color for color in colors for _ in range(3)])
    for file in (encoded(eight, "BMP"), bmp_of_four_bits(values, colors)):
        stored = read_stored(file, "a mask")
        assert stored.values.tolist() == values.tolist()
        grey = np.asarray(read_image(file, "an image").rgb)
        assert grey[..., 0].tolist() == grey[..., 2].tolist() == np.array(colors)[values].tolist()


def test_booleans_of_tifffile_are_what_was_saved_and_a_white_zero_of_others_is_as_shown():
    """tifffile, and so scikit-image, stores True as 1 and says that 1 is black; a fax says that its paper is white."""
    values = np.array([[False, True, True]])
    assert read_stored(tiff(values), "a mask").values.tolist() == [[0, 1, 1]]
    assert read_stored(tiff(values, photometric="minisblack"), "a mask").values.tolist() == [[0, 1, 1]]
    other = read_stored(tiff(values, photometric="miniswhite", software="GIMP 2.10"), "a mask").values
    assert other.tolist() == [[1, 0, 0]]


def test_a_mask_is_turned_by_its_own_exif_orientation():
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    turned = read_stored(encoded(grey(), "PNG", exif=exif), "a mask").values
    assert turned.tolist() == np.rot90(VALUES, -1).tolist()


REFUSED = {
    "JPEG": (encoded(grey(), "JPEG"), "JPEG.*lossy"),
    "WEBP": (encoded(grey().convert("RGB"), "WEBP"), "WEBP file; expected PNG"),
    "JPEG in TIFF": (encoded(PillowImage.new("L", (16, 16)), "TIFF", compression="jpeg"), "with loss"),
    "floats": (tiff(np.array([[0.5, 1]], dtype=np.float32)), "floats such as 0.5"),
    "nan": (tiff(np.array([[np.nan, 1]], dtype=np.float32)), "floats such as nan"),
    "deep colours": (
        tiff(np.arange(18).reshape(2, 3, 3).astype(np.uint16), photometric="rgb"), "colours of more than 8 bits",
    ),
    "pages": (encoded(grey(), "TIFF", save_all=True, append_images=[grey()]), "has 2 pages"),
    "white zero": (tiff(VALUES, photometric="miniswhite"), "zero is white"),
    "inks": (encoded(grey().convert("CMYK"), "TIFF"), "colours are CMYK"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mask_is_refused_with_its_name(name):
    file, message = REFUSED[name]
    with pytest.raises(DataError, match=f"row 3 .*{file['path']}.*{message}"):
        read_stored(file, "row 3")


def test_a_damaged_or_missing_file_is_named(tmp_path):
    cut = {"bytes": FILES["png"]["bytes"][:40], "path": "cut.png"}
    with pytest.raises(BadImageError, match=r"row 3 \(cut.png\)"):
        read_stored(cut, "row 3")
    with pytest.raises(BadImageError, match="gone.png.*no such file"):
        read_stored({"bytes": None, "path": str(tmp_path / "gone.png")}, "row 3")


# --- readings


def test_a_reading_gives_classes_and_ignored_pixels():
    reading = MaskReading({0: 0, 50: 1, 100: 2}, ignored=(255,))
    mask = reading.read(encoded(grey(np.array([[0, 50], [100, 255]], dtype=np.uint8)), "PNG"), "row 3")
    assert mask.dtype == np.uint8 and mask.tolist() == [[0, 1], [2, IGNORED_LABEL]]
    with pytest.raises(DataError, match=r"row 3 \(folder/m.x\) holds 7, which is no class; .*0, 50, 100, 255"):
        reading.read(encoded(grey(np.array([[7]], dtype=np.uint8)), "PNG"), "row 3")


def test_colours_are_read_from_rgb_palette_and_grey_files():
    reading = MaskReading({0x090909: 0, 0xFF0000: 1, 0x00FF00: 2}, are_colors=True)
    for image in (palette(VALUES), palette(VALUES).convert("RGB"), palette(VALUES).convert("RGBA")):
        assert reading.read(encoded(image, "PNG"), "a mask").tolist() == VALUES.tolist()
    assert reading.read(encoded(grey(np.full((1, 2), 9, dtype=np.uint8)), "PNG"), "a mask").tolist() == [[0, 0]]
    with pytest.raises(DataError, match="holds #0000ff, which is no class"):
        reading.read(encoded(PillowImage.new("RGB", (1, 1), (0, 0, 255)), "PNG"), "a mask")
    with pytest.raises(DataError, match="has colours, and the other masks have none"):
        MaskReading({0: 0, 1: 1}).read(encoded(palette(VALUES).convert("RGB"), "PNG"), "a mask")


@pytest.mark.parametrize(
    "reading",
    [
        MaskReading({0: 0, 255: 1}),
        MaskReading({0: 0, 1: 1, 70000: 2}, ignored=(255, 7)),
        MaskReading({0: 0, 0xFF0000: 1}, (0x00000A,), are_colors=True),
    ],
)
def test_a_reading_is_plain_json(reading):
    assert MaskReading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading


def test_large_values_are_found_without_a_table():
    reading = MaskReading({0: 0, 70000: 1})
    assert reading.read(tiff(np.array([[70000, 0]], dtype=np.int32)), "a mask").tolist() == [[1, 0]]


def test_a_mask_in_words_tells_shares_and_other_masks_apart():
    first, second = np.zeros((2, 50), np.uint8), np.zeros((2, 50), np.uint8)
    first[0, 0], second[0, 1] = 1, 1
    words = describe_mask(first, ["background", "lesion"])
    assert words.startswith("lesion 1 % (mask ") and words != describe_mask(second, ["background", "lesion"])
    assert words == describe_mask(first.copy(), ["background", "lesion"])
    assert describe_mask(np.full((2, 2), IGNORED_LABEL, np.uint8), ["background", "lesion"]).startswith(
        "only background"
    )
