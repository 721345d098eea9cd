"""A model and images in memory, in place of names: the answers are those of the files."""

import copy
import shutil

import nibabel
import numpy as np
import pytest
import torch
from conftest import blob_images
from PIL import Image
from small_volumes import saved_segmenter, smooth, write_volume
from transformers import (
    AutoModel,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    ViTImageProcessorPil,
    pipeline,
)

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.hub.publication import publishable_files
from rd_hf.inference import loading
from rd_hf.inference.classes import distinct
from rd_hf.inference.onnx_runtime import OnnxModel

NAMES = ["benign", "malignant", "normal"]  # those of blobs_npz
PROCESSOR = ViTImageProcessorPil(size={"height": 24, "width": 24}, image_mean=[0.2] * 3, image_std=[0.3] * 3)


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(NAMES)


@pytest.fixture
def folder(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    for number, image in enumerate(blob_images(np.array([0, 1, 0]), size=30)):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    return sorted((tmp_path / "images").iterdir())


def classifier_of(names, problem_type=None):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(names)),
        problem_type=problem_type,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def probabilities(answers) -> list[dict[str, float]]:
    return [answer["probabilities"] for answer in answers]


def test_a_model_is_loaded_once_and_answers_as_by_its_name(folder, files, blobs_npz, monkeypatch):
    model = rd_hf.load_model(folder)
    assert isinstance(model, rd_hf.LoadedModel) and model.name == folder and not model.model.training
    by_name = rd_hf.predict(folder, files), rd_hf.evaluate(folder, blobs_npz)
    monkeypatch.setattr(loading, "_load_named", lambda *_: pytest.fail("it is loaded again"))
    assert rd_hf.load_model(model) is model
    assert rd_hf.predict(model, files) == by_name[0]
    assert rd_hf.evaluate(model, blobs_npz) == by_name[1]


def test_a_pair_of_a_model_and_its_processor(classifier, folder, files):
    classifier.train()
    assert rd_hf.predict((classifier, PROCESSOR), files) == rd_hf.predict(folder, files)
    assert rd_hf.load_model((classifier, PROCESSOR)).model is classifier


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda model: model,
            r"`model` is a ResNetForImageClassification: .* Or give a pair of the model and its image processor",
        ),
        (lambda model: (model,), "The model is a tuple: give a pair of the model and its image processor"),
        (lambda model: (model, None), "The model, a ResNetForImageClassification, has no image processor"),
        (
            lambda model: (model, "here"),
            "ResNetForImageClassification, has a str, which is no image processor: give it",
        ),
        (lambda model: (AutoModel.from_config(model.config), PROCESSOR), "a ResNetModel, which gives neither classes"),
        (lambda model: (type(model)(model.config).bfloat16(), PROCESSOR), "is in torch.bfloat16, .*give model.float"),
    ],
)
def test_what_is_no_model_with_its_processor(classifier, given, message):
    with pytest.raises(ArgumentError, match=message):
        rd_hf.load_model(given(classifier))


def test_options_of_loading_beside_a_model_in_hand(classifier, folder, files):
    with pytest.raises(ArgumentError, match="`trust_remote_code` has no effect, because the model is in hand"):
        rd_hf.load_model((classifier, PROCESSOR), trust_remote_code=True)
    with pytest.raises(ArgumentError, match="`revision` has no effect, because the model is in hand"):
        rd_hf.predict(rd_hf.load_model(folder), files, revision="main")


def test_images_in_memory(folder, files):
    expected = probabilities(rd_hf.predict(folder, files))
    pictures = [Image.open(file) for file in files]
    answers = rd_hf.predict(folder, pictures)
    assert probabilities(answers) == expected and [answer["image"] for answer in answers] == [0, 1, 2]
    assert probabilities(rd_hf.predict(folder, (np.asarray(picture) for picture in pictures))) == expected
    for alone in (pictures[1], np.asarray(pictures[1])):
        assert probabilities(rd_hf.predict(folder, alone)) == [pytest.approx(expected[1], rel=1e-5)]


def test_images_in_memory_that_cannot_be_read(folder, files):
    wrong = [Image.open(files[0]), np.zeros((2, 3, 4, 5), np.uint8)]
    with pytest.raises(ValueError, match=r"image 1 is not a readable image: the array has shape \(2, 3, 4, 5\)"):
        rd_hf.predict(folder, wrong)
    answers = rd_hf.predict(folder, wrong, on_bad_image="skip")
    assert "label" in answers[0] and answers[1]["image"] == 1 and "shape" in answers[1]["error"]
    with pytest.raises(ArgumentError, match="Among 2 images some are in memory and some are not, such as 'a.png'"):
        rd_hf.predict(folder, [wrong[0], "a.png"])
    for rows in ([{"image": wrong[0]}], {"image": wrong[0]}):
        with pytest.raises(ArgumentError, match="a row of a data set: give its column"):
            rd_hf.predict(folder, rows)
    with pytest.raises(ArgumentError, match="One of the images is a NoneType: give paths"):
        rd_hf.predict(folder, None)
    with pytest.raises(ArgumentError, match="`page` has no effect, because the images are in memory"):
        rd_hf.predict(folder, wrong[:1], page=1)
    with pytest.raises(ArgumentError, match="One of the images is a Tensor: give paths .* or Pillow images or arrays"):
        rd_hf.predict(folder, torch.zeros(3, 8, 8))


def small_segmenter():
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[1, 1], hidden_sizes=[8, 8], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8, num_labels=2,
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_output_that_is_not_finite_is_no_answer(classifier, files, blobs_npz, value, tmp_path):
    broken = copy.deepcopy(classifier)
    torch.nn.init.constant_(broken.classifier[1].bias, value)
    pair = broken, PROCESSOR
    with pytest.raises(ValueError, match=rf"The model's output for {files[0]} is not finite \(NaN or infinite\)"):
        rd_hf.predict(pair, files, on_bad_image="skip")
    with pytest.raises(ValueError, match="The model's output for image 0 is not finite"):
        rd_hf.predict(pair, [Image.open(files[0])])
    with pytest.raises(ValueError, match="The model's output for row 0 of test is not finite"):
        rd_hf.evaluate(pair, blobs_npz, predictions=str(tmp_path / "table.csv"))
    assert not (tmp_path / "table.csv").exists()
    segmenter = small_segmenter()
    torch.nn.init.constant_(segmenter.decode_head.classifier.bias, value)
    with pytest.raises(ValueError, match=f"The model's output for {files[0]} is not finite"):
        rd_hf.predict((segmenter, PROCESSOR), files, output_dir=str(tmp_path / "masks"))
    assert not list(tmp_path.rglob("masks/*.png"))


def test_the_one_image_without_a_finite_output_is_named(classifier, files, monkeypatch):
    model, forward = rd_hf.load_model((copy.deepcopy(classifier), PROCESSOR)), type(classifier).forward

    def overflows(self, pixel_values):
        output = forward(self, pixel_values=pixel_values)
        output.logits[1, 2] = -torch.inf
        return output

    monkeypatch.setattr(type(classifier), "forward", overflows)
    with pytest.raises(ValueError, match=f"The model's output for {files[1]} is not finite"):
        rd_hf.predict(model, files)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_a_class_without_others_has_the_probability_of_transformers_pipeline(files, problem_type, bias, tmp_path):
    model = classifier_of(["pneumonia"], problem_type)
    torch.nn.init.constant_(model.classifier[1].bias, bias)
    for part in (model, PROCESSOR):
        part.save_pretrained(tmp_path / "model")
    classify = pipeline("image-classification", model=model.eval(), image_processor=PROCESSOR)
    expected = [classify(str(file))[0]["score"] for file in files]
    answers = rd_hf.predict(str(tmp_path / "model"), files)
    assert [answer["probabilities"]["pneumonia"] for answer in answers] == pytest.approx(expected, abs=1e-5)
    assert [answer["labels"] for answer in answers] == [["pneumonia"] if bias > 0 else []] * 3
    assert rd_hf.info(str(tmp_path / "model"))["problem_type"] == "multi_label_classification"


def test_classes_of_one_name_are_told_apart(files, tmp_path, caplog):
    """ImageNet has a bird and a machine that are both a crane."""
    model = classifier_of(["crane", "dog", "crane"])
    for part in (model, PROCESSOR):
        part.save_pretrained(tmp_path / "model")
    with caplog.at_level("INFO", "rd_hf"):
        answers = rd_hf.predict(str(tmp_path / "model"), files)
    assert "the same name ('crane'), so their numbers are added" in caplog.text
    for answer in answers:
        assert list(answer["probabilities"]) == ["crane (0)", "dog", "crane (2)"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1) and answer["label"] in answer["probabilities"]
    rd_hf.export(str(tmp_path / "model"), str(tmp_path / "onnx"), "onnx")
    of_onnx = rd_hf.predict(str(tmp_path / "onnx"), files)
    assert of_onnx[0]["probabilities"] == pytest.approx(answers[0]["probabilities"], abs=1e-4)
    assert distinct(["a", "a", "a (0)"]) == ["a (0) (0)", "a (1)", "a (0) (2)"]


def test_a_stray_onnx_file_beside_weights_is_not_the_model(folder, files, tmp_path):
    """The form that its config states decides, as on the Hub; without one the weights do."""
    rd_hf.export(str(tmp_path / "model"), str(tmp_path / "onnx"), "onnx")
    expected = rd_hf.predict(folder, files)
    (tmp_path / "model" / "model.onnx").write_bytes(b"of another model")
    assert rd_hf.predict(folder, files) == expected and "model.onnx" not in publishable_files(tmp_path / "model")
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "onnx")
    assert isinstance(rd_hf.load_model(str(tmp_path / "onnx")).model, OnnxModel)
    assert "model.onnx" in publishable_files(tmp_path / "onnx")
    config = tmp_path / "onnx" / "config.json"
    config.write_text(config.read_text().replace("rd_hf_form", "other"))
    assert not isinstance(rd_hf.load_model(str(tmp_path / "onnx")).model, OnnxModel)
    (tmp_path / "onnx" / "model.safetensors").unlink()
    assert isinstance(rd_hf.load_model(str(tmp_path / "onnx")).model, OnnxModel)


@pytest.mark.parametrize("table", ["out.html", "./out.html", "link/out.html", "../here/out.html"])
def test_one_file_cannot_be_table_and_page(classifier, blobs_npz, tmp_path, monkeypatch, table):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ArgumentError, match="`report` and `predictions` are both out.html"):
        rd_hf.evaluate((classifier, PROCESSOR), blobs_npz, predictions=table, report="out.html")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["link"]


def test_a_regression_is_no_classifier():
    with pytest.raises(ValueError, match="problem_type is 'regression'"):
        rd_hf.load_model((classifier_of(["age"], "regression"), PROCESSOR))


def test_masks_of_images_in_memory(files, tmp_path):
    model = rd_hf.load_model((small_segmenter(), PROCESSOR))
    pictures = [Image.open(file) for file in files]
    of_files, of_memory = rd_hf.predict(model, files), rd_hf.predict(model, pictures)
    assert all(np.array_equal(one["mask"], other["mask"]) for one, other in zip(of_files, of_memory, strict=True))
    with pytest.raises(ArgumentError, match="The images are in memory, .*: leave `output_dir` out"):
        rd_hf.predict(model, pictures, output_dir=str(tmp_path / "masks"))


def test_volumes_in_memory(tmp_path):
    model = rd_hf.load_model(saved_segmenter(tmp_path / "segmenter"))
    for number in range(2):
        write_volume(tmp_path / f"{number}.nii.gz", smooth((20, 18, 12), number), axes="LIP")
    files = sorted(tmp_path.glob("*.nii.gz"))
    volumes = [nibabel.load(file) for file in files]
    of_files, of_memory = rd_hf.predict(model, files), rd_hf.predict(model, iter(volumes))
    assert [answer["image"] for answer in of_memory] == [0, 1]
    for one, other in zip(of_files, of_memory, strict=True):
        assert np.array_equal(one["mask"], other["mask"]) and one["millilitres"] == other["millilitres"]
    (alone,) = rd_hf.predict(model, volumes[1])
    assert np.array_equal(alone["mask"], of_files[1]["mask"])
    with pytest.raises(ArgumentError, match="The volumes are in memory, .*: leave `output_dir` out"):
        rd_hf.predict(model, volumes, output_dir=str(tmp_path / "masks"))
    with pytest.raises(ArgumentError, match="Among 2 volumes some are in memory and some are not"):
        rd_hf.predict(model, [volumes[0], str(files[1])])
    with pytest.raises(ArgumentError, match="One of the volumes is a ndarray: give paths .*, or images of nibabel"):
        rd_hf.predict(model, np.zeros((20, 18, 12)))
