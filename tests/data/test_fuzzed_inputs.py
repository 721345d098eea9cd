"""Trees of files and tables drawn at random: either every row is right, or one sentence names the file."""

import csv
import io
import logging
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, to_rgb
from rd_hf.data.scanner import scan
from rd_hf.data.sources import load_data, load_images_only
from rd_hf.data.volumes.reading import read_volume
from rd_hf.inference.images import find_images

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CLASS_NAMES = [
    "benign", "malignant", "normal", "0", "1", "01", "10", "1.0", "a$b$", "x_1", "a b", "é", "良性", "سليم", "p::q",
    "[a]*", "None", "nan", "train1", "a'b", 'a"b', "#", "%20", "a|b", "a,b", "a;b",
]  # fmt: skip
STEMS = ["1", "2", "03", "a b", "p::3", "im[1]", "é", "良", "x.y", "#4", "%41", "mask", "seg_7", "IMG_8", "9 (2)"]
IMAGE_SUFFIXES = [".png", ".PNG", ".jpg", ".JPEG", ".bmp", ".tif", ".TIFF", ".webp", ".pgm"]
JUNK = ["notes.txt", "Thumbs.db", ".DS_Store", "LICENSE", "a.heic", "__MACOSX/x.png", ".hidden/y.png", "._1.png", "b.7"]
WORDS = ["a", "b", "benign", "2", "007", "7", "None", "NA", "x y", "良性", "ü"]


@pytest.fixture
def tree():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def fresh(root):
    """An empty folder for one example."""
    place = root / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    Image.new("L", (8, 8), value).save(path, format=kind.get(path.suffix.lower(), "PNG"), **options)


def grey(image):
    return to_rgb(image).getpixel((4, 4))[0]


def plain(text):
    return unicodedata.normalize("NFC", text.strip())


images = st.tuples(st.sampled_from(STEMS), st.sampled_from(IMAGE_SUFFIXES))
class_folders = st.dictionaries(
    st.sampled_from(CLASS_NAMES), st.lists(images, min_size=1, max_size=4, unique_by=lambda file: file[0]), max_size=4
)


@FUZZ
@given(
    splits=st.dictionaries(st.sampled_from(["train", "val", "Test"]), class_folders, min_size=1, max_size=3),
    junk=st.lists(st.tuples(st.sampled_from(JUNK), st.integers(0, 9)), max_size=4),
    linked=st.booleans(),
    flat=st.booleans(),
)
def test_class_folders(tree, splits, junk, linked, flat):
    root, value, expected = fresh(tree), 0, {}
    if flat:
        splits = {"": next(iter(splits.values()))}
    for split, classes in splits.items():
        for name, files in classes.items():
            place = tree / "case" / split / name
            if linked:
                target = tree / "elsewhere" / split / name
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(target, target_is_directory=True)
            for stem, suffix in files:
                value += 3
                write(place / f"{stem}{suffix}", value)
                standard = {"": "train", "val": "validation", "Test": "test"}.get(split, split)
                expected.setdefault(standard, []).append((value, name))
    folders = [folder for folder, _, _ in os.walk(root)]
    for name, where in junk:
        path = Path(folders[where % len(folders)]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
    names = {name for rows in expected.values() for _, name in rows}
    try:
        data = load_data(root)
    except DataError as error:
        assert len(names) < 2 or "train" not in expected, error
        assert str(root) in str(error) or "'train'" in str(error)
        return
    assert data.label_names == sorted(names)
    found = {
        split: [(grey(row["image"]), data.label_names[row["label"]]) for row in rows]
        for split, rows in data.splits.items()
    }
    assert {split: Counter(rows) for split, rows in found.items()} == {
        split: Counter(rows) for split, rows in expected.items()
    }
    assert len(load_images_only(root)) == len(find_images([root])) == sum(map(len, expected.values()))


@FUZZ
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(STEMS),
            st.sampled_from(IMAGE_SUFFIXES),
            st.sampled_from(WORDS),
            st.sampled_from(["", " ", "\xa0"]),
        ),
        min_size=4,
        max_size=12,
        unique_by=lambda row: plain(row[0]).casefold(),
    ),
    written=st.sampled_from(["path", "windows", "name", "stem", "elsewhere"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    empty=st.sets(st.integers(0, 11), max_size=2),
)
def test_tables(tree, rows, written, separator, encoding, ending, empty):
    root = fresh(tree)
    expected, text = [], io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=ending)
    writer.writerow(["age", "file_name", "label"])
    for number, (stem, suffix, word, blank) in enumerate(rows):
        value = 10 * number + 5
        write(root / "scans" / f"{stem}{suffix}", value)
        forms = {
            "path": f"scans/{stem}{suffix}",
            "windows": f"D:\\set\\scans\\{stem}{suffix}",
            "name": f"{stem}{suffix}",
            "stem": stem,
            "elsewhere": f"/mnt/other/scans/{stem}{suffix}",
        }
        label = "" if number in empty else f"{blank}{word}{blank}"
        writer.writerow(["40,5", forms[written], label])
        expected.append((value, None if number in empty else word))
    (root / "t.csv").write_bytes(text.getvalue().encode(encoding))
    labelled = [(value, word) for value, word in expected if word is not None]
    data = load_data(root / "t.csv", image_column="file_name", label_column="label")
    found = [(grey(row["image"]), data.label_names[row["label"]]) for row in data.splits["train"]]
    assert found == labelled


@FUZZ
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.tuples(
            st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"]), st.floats(0, 1), st.binary(max_size=8)
        ),
    )
)
def test_damaged_images_are_told_in_a_sentence(tree, content):
    if isinstance(content, tuple):
        kind, share, noise = content
        whole = io.BytesIO()
        pixels = np.random.default_rng(len(noise)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(whole, format=kind)
        cut = int(share * len(whole.getvalue()))
        content = whole.getvalue()[:cut] + noise
    path = fresh(tree) / "scan.png"
    path.write_bytes(content)
    try:
        assert to_rgb(path).mode == "RGB"
    except BadImageError as error:
        assert "scan.png" in str(error) and "\n" not in str(error)


@FUZZ
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=5),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "bool"]),
    labels=st.sampled_from([(), (3,), (3, 1), (3, 3), (2,), (3, 2, 2)]),
    largest=st.integers(-1, 3),
)
def test_npz(tree, shape, dtype, labels, largest):
    path = fresh(tree) / "data.npz"
    generator = np.random.default_rng(7)
    pixels = generator.integers(0, 2, [3, *shape]).astype(dtype)
    numbers = generator.integers(min(largest, 0), largest + 1, labels) if largest >= 0 else -np.ones(labels, int)
    np.savez(path, train_images=pixels, **({"train_labels": numbers} if labels else {}))
    try:
        data = load_data(path)
    except DataError as error:
        assert "\n" not in str(error) and "pickle" not in str(error)
        return
    assert len(data.splits["train"]) <= 3
    for number, row in enumerate(data.splits["train"]):
        if data.volumes is not None:
            values = read_volume(row["image"], "it", data.volumes).values
            assert len(values) == data.volumes.channels and values.size == pixels[number].size
            assert pixels.ndim > 4 or np.array_equal(values[0], pixels[number])
            continue
        rgb = np.asarray(to_rgb(row["image"]))
        if pixels.ndim == 3:
            assert np.array_equal(rgb[..., 0], pixels[number])


@FUZZ
@given(
    names=st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name), max_size=6
    )
)
def test_names_of_any_bytes(tree, names):
    root = fresh(tree)
    written = 0
    for number, name in enumerate({name for name in names if not name.startswith((b".", b"__"))}):
        for folder in (b"a", b"b"):
            path = os.path.join(os.fsencode(root), folder, name + b".png")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                Image.new("L", (4, 4), number).save(file, format="PNG")
            written += 1
    found = scan(root)
    assert len(found.images) + len(found.masks) == written
    if found.images:
        assert len(load_data(root).labels("train")) == len(found.images)


def test_the_fuzz_is_seen_by_the_log(tree, caplog):
    """The trees above are read in silence only because pytest captures the log; each omission is one line there."""
    caplog.set_level(logging.INFO)
    write(tree / "a" / "1.png", 1)
    write(tree / "b" / "1.png", 2)
    (tree / "notes.txt").touch()
    load_data(tree)
    assert len(caplog.records) == 1
