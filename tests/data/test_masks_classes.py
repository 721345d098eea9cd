"""Which values of masks are classes, and the errors that name what does not fit."""

import numpy as np
import pytest
from PIL import Image as PillowImage

from rd_hf.arguments.values import ArgumentError
from rd_hf.data.columns import DataError
from rd_hf.data.masks.reading import MaskReading
from rd_hf.data.sources import load_data
from rd_hf.models.modeling_monai import IGNORED_LABEL


@pytest.fixture
def folder(tmp_path):
    """Writes one image and mask for each list of values, or for each Pillow image."""

    def written(*masks, root="data"):
        for row, mask in enumerate(masks):
            if not isinstance(mask, PillowImage.Image):
                mask = PillowImage.fromarray(np.asarray([mask], dtype=np.uint16 if max(mask) > 255 else np.uint8))
            for name, image in (("images", PillowImage.new("L", mask.size, row)), ("masks", mask)):
                (tmp_path / root / name).mkdir(parents=True, exist_ok=True)
                image.save(tmp_path / root / name / f"{row}.{'tif' if image.mode == 'I' else 'png'}")
        return tmp_path / root

    return written


def classes(data, split="train"):
    return [data.masks.read(row["mask"], "it")[0].tolist() for row in data.splits[split]]


def colored(*colors):
    return PillowImage.fromarray(np.array([colors], dtype=np.uint8))


RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("masks", "read", "names", "note"),
    [
        (([0, 1], [0, 0]), [[0, 1], [0, 0]], ["background", "foreground"], None),
        (([0, 255], [0, 0]), [[0, 1], [0, 0]], ["background", "foreground"], "The masks hold 0 and 255: read as"),
        (([0, 255], [0, 1]), [[0, 1], [0, 1]], ["background", "foreground"], "The masks hold 0 and 1 and 255: read"),
        (([0, 1], [2, 1]), [[0, 1], [2, 1]], ["background", "class 1", "class 2"], None),
        (
            ([0, 50], [100, 0]), [[0, 1], [2, 0]], ["background", "class 1", "class 2"],
            "0 is 'background', 50 is 'class 1', 100 is 'class 2'. They have gaps",
        ),
        (([1, 2], [3, 3]), [[0, 1], [2, 2]], ["background", "class 1", "class 2"], "1 is 'background', 2 is 'class 1'"),
        (
            ([0, 1, 255], [2, 255, 0]), [[0, 1, 255], [2, 255, 0]], ["background", "class 1", "class 2"],
            "Value 255 is read as pixels without label; 2 of 2 masks",
        ),
        (([0, 1, 255], [0, 1, 1]), [[0, 1, 255], [0, 1, 1]], ["background", "foreground"], "255 is read as pixels"),
        (([0, 15, 255],), [[0, 1, 255]], ["background", "foreground"], "They have gaps"),
        (([0, 128, 255],), [[0, 1, 2]], ["background", "class 1", "class 2"], "255 is 'class 2'. They have gaps"),
        (([0, 1000],), [[0, 1]], ["background", "foreground"], "1000 is 'foreground'"),
    ],
)  # fmt: skip
def test_values_without_names(folder, log, masks, read, names, note):
    data = load_data(folder(*masks))
    assert classes(data) == read and data.label_names == names
    assert "values" not in log.text if note is None else log.text.count(note) == 1
    counts = [[row.count(index) for index in range(len(names))] for row in read]
    assert data.labels("train").tolist() == counts  # without ignored pixels
    assert MaskReading.from_dict(data.source["masks"]) == data.masks


def test_files_of_one_bit_among_others(folder, log):
    bits = PillowImage.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert classes(load_data(folder(bits))) == [[0, 1]]
    assert "The masks have one bit, black and white: read as background (0) and foreground (1)" in log.text
    assert classes(load_data(folder(bits, [0, 255], root="both"))) == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (([0, 0], [0, 0]), "hold nothing but 'background' .value 0.*masks/0.png"),
        ((PillowImage.fromarray(np.array([[-1, 0, 1]], dtype=np.int32)),), "0.tif.* holds -1, .*not negative"),
        ((range(50),), "50 different values .*masks/0.png.* has most of them.*`label_names`"),
        ((PillowImage.fromarray(np.arange(4000, dtype=np.uint16)[None]),), "0.png.* has 4000 different values"),
    ],
)
def test_values_that_are_no_classes(folder, masks, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(*masks))


# --- names


@pytest.mark.parametrize(
    ("masks", "names", "read"),
    [
        (([0, 1, 2],), ["none", "a", "b"], [[0, 1, 2]]),
        (([0, 255],), ["none", "a"], [[0, 1]]),
        (([0, 1, 255],), ["none", "a"], [[0, 1, IGNORED_LABEL]]),
        (([0, 50, 100],), {"0": "none", "50": "a", "100": "b"}, [[0, 1, 2]]),
        (([0, 50, 100],), {0: "none", 50: "a", 100: "a"}, [[0, 1, 1]]),
        (([0, 50, 100],), {0: "none", 50: "ignore", 100: "a"}, [[0, IGNORED_LABEL, 1]]),
        (([7, 3],), {7: "a", 3: "none"}, [[1, 0]]),
    ],
)
def test_values_with_names(folder, masks, names, read):
    data = load_data(folder(*masks), label_names=names)
    assert classes(data) == read and data.label_names[:2] == ["none", "a"]


@pytest.mark.parametrize(
    ("masks", "names", "message"),
    [
        (([0, 1], [1, 7]), ["a", "b"], r"masks/1.png\) holds 7, .*`label_names`.*The classes are 0 \(a\), 1 \(b\)"),
        (([0, 1, 2],), ["lesion", "node"], "holds 2, .*begins with the class of value 0, here 'lesion'"),
        (([0, 255],), ["a", "b", "c"], "holds 255"),
        (([0, 255],), ["lesion"], "holds 255, .*begins with the class of value 0, here 'lesion'"),
        (([0, 50],), {"50": "a", "51": "b"}, r"holds 0, .*The classes are 50 \(a\), 51 \(b\)"),
    ],
)
def test_a_value_without_a_name_is_an_error(folder, masks, names, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(*masks), label_names=names)


def test_a_mapping_of_values_is_refused_for_classes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        PillowImage.new("L", (1, 1)).save(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="`label_names` names the values of masks"):
        load_data(tmp_path, label_names={0: "a"})


# --- colours


def test_colours_need_mask_colors(folder):
    root = folder(colored(BLACK, BLACK), colored(RED, GREEN))
    with pytest.raises(
        DataError, match="masks/1.png.* has colours. The colours found are #00ff00, #ff0000. Name .*`mask_colors`"
    ):
        load_data(root)
    data = load_data(root, mask_colors={"#ff0000": "tumour", "0,255,0": "organ"})
    assert data.label_names == ["background", "tumour", "organ"] and classes(data) == [[0, 0], [1, 2]]
    assert data.masks.are_colors and MaskReading.from_dict(data.source["masks"]) == data.masks
    with pytest.raises(DataError, match=r"masks/1.png\) holds #00ff00, .*`mask_colors`.*#ff0000 \(tumour\)"):
        load_data(root, mask_colors={"#ff0000": "tumour"})
    with pytest.raises(ArgumentError, match="`mask_colors` has the colour 'red'"):
        load_data(root, mask_colors={"red": "tumour"})


def test_colours_of_any_file_and_a_background_of_another_colour(folder):
    palette = colored(GREEN, WHITE).convert("P", palette=PillowImage.Palette.ADAPTIVE)
    root = folder(palette, colored(RED, WHITE), PillowImage.new("L", (2, 1), 255))
    data = load_data(root, mask_colors={"#ff0000": "a", "#00ff00": "b", "#ffffff": "background"})
    assert data.label_names == ["background", "a", "b"] and classes(data) == [[2, 0], [1, 0], [0, 0]]
    data = load_data(root, mask_colors={"#ff0000": "a", "#00ff00": "ignore", "#ffffff": "background"})
    assert data.label_names == ["background", "a"] and classes(data)[0] == [IGNORED_LABEL, 0]


def test_palettes_that_contradict_each_other_are_no_indices(folder, log):
    def indexed(colors):
        image = PillowImage.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
        image.putpalette(colors)
        return image

    assert classes(load_data(folder(indexed([*WHITE, *BLACK]), root="inverted"))) == [[0, 1]]
    assert "0 is white and 1 is black. The numbers count" in log.text
    root = folder(indexed([0, 0, 0, *RED]), indexed([0, 0, 0, *GREEN]))
    with pytest.raises(DataError, match=r"1.png\) has the colour #00ff00 for palette index 1, but .*0.png.*#ff0000"):
        load_data(root)
    assert classes(load_data(root, mask_colors={"#ff0000": "a", "#00ff00": "b"})) == [[0, 1], [0, 2]]


# --- sizes


def test_another_size_names_both_files(folder):
    root = folder([0, 1])
    PillowImage.new("L", (1, 2)).save(root / "images" / "0.png")
    with pytest.raises(DataError, match=r"masks/0.png\) has 2 x 1 pixels, but .*images/0.png\) has 1 x 2") as error:
        load_data(root)
    assert "EXIF" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_mask_has_the_size_of_the_turned_image(tmp_path, log, suffix):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    PillowImage.new("L", (4, 2)).save(tmp_path / "images" / f"0.{suffix}", exif=exif)
    PillowImage.fromarray(np.eye(4, 2, dtype=np.uint8)).save(tmp_path / "masks" / "0.png")
    assert load_data(tmp_path).labels("train").tolist() == [[6, 2]]
    assert "1 images are turned by their EXIF orientation" in log.text
    PillowImage.fromarray(np.eye(2, 4, dtype=np.uint8)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(DataError, match=r"has 4 x 2 pixels, but .* has 2 x 4; .*turned by its EXIF orientation \(6\)"):
        load_data(tmp_path)


def test_an_image_that_cannot_be_read_is_left_for_later(folder):
    root = folder([0, 1], [0, 1])
    (root / "images" / "0.png").write_bytes(b"nothing")
    assert len(load_data(root).splits["train"]) == 2


# --- provenance, and the data of a trained model


def test_fingerprint_follows_the_masks(folder):
    first = load_data(folder([0, 1], root="one")).source["fingerprint"]
    assert load_data(folder([0, 1], root="two")).source["fingerprint"] == first
    assert load_data(folder([1, 0], root="three")).source["fingerprint"] != first


def trained(folder, *masks, **options):
    data = load_data(folder(*masks, root="trained"), **options)
    return {"masks": MaskReading.from_dict(data.source["masks"]), "label_names": data.label_names}


def test_later_data_is_read_as_that_of_training(folder, log):
    model = trained(folder, [0, 50], [100, 0])
    data = load_data(folder([100, 50], root="later"), **model)
    assert classes(data) == [[2, 1]] and data.label_names == ["background", "class 1", "class 2"]
    with pytest.raises(DataError, match=r"masks/0.png\) holds 70, .*50 \(class 1\)"):
        load_data(folder([70, 0], root="other"), **model)
    binary = trained(folder, [0, 255], [255, 0])
    assert classes(load_data(folder([0, 255], root="same"), **binary)) == [[0, 1]]
    assert classes(load_data(folder([0, 1], root="written otherwise"), **binary)) == [[0, 1]]
    assert classes(load_data(folder([0, 0], root="empty"), **binary)) == [[0, 0]]
    assert "Masks of 0 and 1 are read as 'background' and 'foreground'" in log.text


def test_named_classes_of_later_data_are_matched_by_name(folder):
    model = trained(folder, [0, 1, 2], label_names=["background", "a", "b"])
    root = folder([0, 1, 2], root="later")
    (root / "classes.txt").write_text("background\nb\na\n")
    data = load_data(root, **model)
    assert classes(data) == [[0, 2, 1]] and data.label_names == ["background", "a", "b"]
    (root / "classes.txt").write_text("background\nb\nc\n")
    with pytest.raises(DataError, match="classes that the model does not know: c; the model's classes are background"):
        load_data(root, **model)
    (root / "masks" / "0.png").write_bytes((folder([0, 0, 0], root="empty") / "masks" / "0.png").read_bytes())
    assert load_data(root, **model).labels("train").tolist() == [[3, 0, 0]]  # nothing to learn, but to score
    nameless = trained(folder, [0, 1, 2])
    assert classes(load_data(folder([0, 1, 2], root="later"), **nameless)) == [[0, 1, 2]]


def test_colours_of_later_data(folder):
    model = trained(folder, colored(RED, GREEN, BLACK), mask_colors={"#ff0000": "a", "#00ff00": "b"})
    root = folder(colored(GREEN, BLACK), root="later")
    (root / "classes.txt").write_text("x\ny\n")
    assert classes(load_data(root, **model)) == [[2, 0]]
    assert classes(load_data(root, **model, mask_colors={"#00ff00": "a"})) == [[1, 0]]
