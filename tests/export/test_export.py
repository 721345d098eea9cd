"""Exports of a student: plain transformers checkpoints and ONNX models, checked where rd_hf is not importable too."""

import ast
import json
import re
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY, blob_images
from huggingface_hub import ModelCard
from PIL import Image
from test_model_card import sample_facts
from test_student_model import FAMILIES, NAMES, pixels, student
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    ConvNextV2Config,
    MobileViTImageProcessorPil,
    PoolFormerConfig,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    ViTImageProcessorPil,
)

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cards.card import HERE, is_edited, render_card, write_card
from rd_hf.data.pixels import PixelTransform
from rd_hf.exports.onnx import write_onnx
from rd_hf.exports.run import export, in_own_memory
from rd_hf.inference.onnx_runtime import OnnxError, OnnxModel
from rd_hf.models.backbone import Backbone
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.students.loading import load_student

FIRST_BLOCK = {"num_encoder_blocks": 1, "hidden_sizes": [8], "depths": [1], "patch_sizes": [7], "strides": [4]}
ONE_STAGE = {
    "convnextv2": ConvNextV2Config(num_stages=1, hidden_sizes=[8], depths=[1]),
    "poolformer": PoolFormerConfig(padding=[2], mlp_ratios=[2.0], **FIRST_BLOCK),
    "segformer": SegformerConfig(num_attention_heads=[1], sr_ratios=[4], mlp_ratios=[2], **FIRST_BLOCK),
}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A student with an own size and normalisation, saved with its processor."""
    folder = tmp_path_factory.mktemp("saved") / "student"
    student(provenance={"method": "rd"}).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 40}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """The same in ONNX, checked on random images, with the report."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return folder, export(str(saved), str(folder), "onnx")


def test_to_transformers_is_the_wrapped_classifier_and_knows_no_folder(saved):
    model = AutoModelForImageClassification.from_pretrained(saved)
    native = model.to_transformers()
    assert native is model.model and type(native) is ResNetForImageClassification
    assert native.config.id2label == NAMES and native.name_or_path == native.config.name_or_path == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_exports_to_the_same_logits(family, tmp_path):
    model = student(family, provenance={"method": "rd"})
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path / "student")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "student")
    export(str(tmp_path / "student"), str(tmp_path / "native"))
    native = AutoModelForImageClassification.from_pretrained(tmp_path / "native")
    in_own_memory(native)
    assert type(native).__module__.startswith("transformers.models.")
    assert torch.equal(native(pixels()).logits, model(pixels()).logits)
    config = json.loads((tmp_path / "native" / "config.json").read_text())
    assert (config["model_type"], config["problem_type"]) == (family, "multi_label_classification")
    assert config["id2label"] == {str(index): name for index, name in NAMES.items()}
    assert not {"auto_map", "provenance", "_name_or_path"} & set(config)
    assert config["rd_hf_provenance"] == {"method": "rd"}
    native.save_pretrained(tmp_path / "again")  # what rd_hf alone reads is carried on by transformers
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again["rd_hf_provenance"] == {"method": "rd"}


def test_a_model_of_grey_images_answers_in_onnx_as_it_does_itself(tmp_path, monkeypatch, capsys):
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path / "grey")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4], image_std=[0.5])
    processor.save_pretrained(tmp_path / "grey")
    export(str(tmp_path / "grey"), str(tmp_path / "onnx"), "onnx")
    Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3)).save(tmp_path / "a.png")
    own, other = (rd_hf.predict(str(tmp_path / name), str(tmp_path / "a.png"))[0] for name in ("grey", "onnx"))
    assert own["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    how = preprocessing(tmp_path / "onnx")
    assert (how["channels"], how["order"]) == ("grey", "RGB") and "the mean over the three colours" in how["formula"]
    of_card, expected = of_the_cards_code(tmp_path / "onnx", tmp_path, monkeypatch, capsys)
    assert of_card == pytest.approx(expected, abs=1e-5)


def of_the_cards_code(model, folder, monkeypatch, capsys):
    """What the code of an ONNX model's card prints of a grey image, and the probabilities of `predict`."""
    (code,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    Image.fromarray(np.arange(48 * 40, dtype=np.uint32).reshape(48, 40).astype(np.uint8)).save(folder / "image.png")
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code.replace(HERE, f"model_id = {str(model)!r}"), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    return printed, rd_hf.predict(str(model), "image.png")[0]["probabilities"]


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_the_cards_code_of_an_onnx_model_prints_the_probabilities_of_predict(
    saved, problem_type, tmp_path, monkeypatch, capsys
):
    shutil.copytree(saved, tmp_path / "student")
    model = AutoModelForImageClassification.from_pretrained(saved)
    model.config.problem_type = problem_type
    model.config.save_pretrained(tmp_path / "student")
    export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx")
    of_card, expected = of_the_cards_code(tmp_path / "onnx", tmp_path, monkeypatch, capsys)
    assert of_card == pytest.approx(expected, abs=1e-5)
    assert (sum(of_card.values()) == pytest.approx(1)) == (problem_type == "single_label_classification")


def preprocessing(folder):
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    return json.loads(metadata["preprocessing"])


def test_the_metadata_says_that_blue_comes_first(tmp_path):
    """Its formula, followed to the letter, gives what the processor gives."""
    student().save_pretrained(tmp_path / "student")
    size = {"height": 32, "width": 32}
    processor = MobileViTImageProcessorPil(size=size, do_center_crop=False, resample=2)
    processor.save_pretrained(tmp_path / "student")
    export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx")
    how = preprocessing(tmp_path / "onnx")
    assert how["channels"] == how["order"] == "BGR"
    image = Image.fromarray(np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3))
    rgb = np.asarray(image.resize(how["size"], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    scale, bias = (np.array(how[name]).reshape(3, 1, 1) for name in ("scale", "bias"))
    made = rgb[["RGB".index(letter) for letter in how["order"]]] * scale + bias
    assert np.allclose(made, processor(image, return_tensors="np")["pixel_values"][0], atol=1e-5)


def test_onnx_of_another_family(tmp_path):
    model = student("vit")
    write_onnx(model.to_transformers(), (32, 32), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 5):
        logits = session.run(None, {"pixel_values": pixels(count).numpy()})[0]
        assert np.abs(logits - model(pixels(count)).logits.detach().numpy()).max() < 1e-5


def test_a_plain_checkpoint_has_no_code_and_the_same_processor(saved, tmp_path, python):
    done = python("-m", "rd_hf", "export", "--model", str(saved), "--output_dir", str(tmp_path / "native"))
    assert json.loads(done.stdout)["max_abs_difference"] == 0, done.stderr
    names = {path.name for path in (tmp_path / "native").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in ("config.json", "preprocessor_config.json"):
        assert str(saved.parent) not in (tmp_path / "native" / name).read_text()
    image = Image.fromarray(blob_images(np.array([1]))[0]).convert("RGB")
    before, after = (PixelTransform.from_pretrained(str(folder)) for folder in (saved, tmp_path / "native"))
    assert torch.equal(before.geometry(image), after.geometry(image)) and torch.equal(before.scale, after.scale)


def test_onnx_alone_is_enough_to_classify(saved, exported):
    """Labels, size and normalisation come from the file's metadata; the batch is of any size."""
    folder, report = exported
    assert 0 <= report["max_abs_difference"] < 1e-5 and report["checked_on"] == "32 random images"
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "config.json", "preprocessor_config.json", "export.json", "README.md",
    }  # fmt: skip
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    how = json.loads(metadata["preprocessing"])
    assert json.loads(metadata["labels"]) == list(NAMES.values()) and how["size"] == [32, 40]
    assert how["channels"] == how["order"] == "RGB"
    assert np.allclose(how["scale"], 1 / 255 / np.array(STD)) and np.allclose(how["bias"], -np.array(MEAN) / STD)
    assert onnx.load(folder / "model.onnx").opset_import[0].version == report["opset"] == 18
    size = tuple(reversed(how["size"]))
    images = [Image.fromarray(i).convert("RGB") for i in blob_images(np.arange(5) % 3)]
    rows = [np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1) for image in images]
    scale, bias = (np.array(how[name], dtype=np.float32).reshape(3, 1, 1) for name in ("scale", "bias"))
    inputs = np.stack(rows) * scale + bias
    processor = PixelTransform.from_pretrained(str(saved)).processor
    model = AutoModelForImageClassification.from_pretrained(saved).eval()
    expected = model(processor(images, return_tensors="pt")["pixel_values"]).logits.detach().numpy()
    for count in (1, 5):
        logits = session.run(None, {"pixel_values": inputs[:count].astype(np.float32)})[0]
        assert np.abs(logits - expected[:count]).max() < 1e-4


def test_an_onnx_file_tells_nothing_of_the_machine(exported):
    content = (exported[0] / "model.onnx").read_bytes()
    assert not any(text in content for text in (b"site-packages", str(REPOSITORY).encode(), b"/tmp/"))


@pytest.fixture
def one_stage(family, monkeypatch):
    """The family's student has one stage: torch's exporter takes far longer for sides that it does not know."""
    monkeypatch.setitem(FAMILIES, family, ONE_STAGE.get(family, FAMILIES[family]))


@pytest.mark.parametrize("family", ["resnet", "segformer", "convnextv2", "poolformer"])
def test_a_model_of_any_image_size(family, tmp_path, one_stage):
    model = student(family).eval()
    model.save_pretrained(tmp_path / "student")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "student")
    report = export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx", dynamic_size=True)
    assert report["input"] == ["batch", 3, "rows", "columns"] and report["other_size"] == [64, 80]
    assert report["max_abs_difference_at_other_size"] < 1e-5
    exported = OnnxModel(tmp_path / "onnx" / "model.onnx")
    for size in ((32, 32), (65, 91)):
        batch = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(exported(batch).logits, model(batch).logits, atol=1e-5)


def test_a_model_of_one_image_size_is_refused_as_one_of_any(tmp_path, monkeypatch):
    student("vit").save_pretrained(tmp_path / "student")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "student")
    monkeypatch.setattr("rd_hf.exports.run.write_onnx", None)  # which would take a minute to find it
    with pytest.raises(OnnxError, match="A vit with this config supports one image size only: leave `dynamic_size`"):
        export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx", dynamic_size=True)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("sides", [(32, 40), (96, 136)])
def test_a_graph_that_kept_the_size_it_was_made_with_is_refused(sides, saved, tmp_path, monkeypatch):
    """As the exporter makes them of some families: of the model's own size, or of the example's."""
    monkeypatch.setattr(
        "rd_hf.exports.run.write_onnx", lambda model, size, path, dynamic: write_onnx(model, sides, path)
    )
    with pytest.raises(OnnxError, match="A resnet with this config supports one image size only"):
        export(str(saved), str(tmp_path / "onnx"), "onnx", dynamic_size=True)
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_than_the_models_are_refused_with_it(exported):
    with pytest.raises(OnnxError, match="does not support images of size 1 x 3 x 64 x 64"):
        OnnxModel(exported[0] / "model.onnx")(torch.zeros(1, 3, 64, 64))


def test_a_reprogrammed_teacher_and_an_onnx_model_have_no_other_form(exported, tmp_path):
    tower = AutoModel.from_config(FAMILIES["vit"])
    tower.save_pretrained(tmp_path / "tower")
    backbone = Backbone.from_pretrained(tmp_path / "tower")
    teacher = RDTeacherForImageClassification.from_parts(student(), backbone, 32, "last", hidden_channels=8)
    teacher.attach(backbone)
    teacher.save_pretrained(tmp_path / "teacher")  # without its local foundation model, which is not asked for
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ArgumentError, match="Export its student"):
        export(str(tmp_path / "teacher"), str(tmp_path / "out"), "onnx")
    with pytest.raises(ArgumentError, match="already an ONNX model"):
        export(str(exported[0]), str(tmp_path / "out"), "onnx")
    assert not (tmp_path / "out").exists()


def test_a_card_a_person_has_edited_keeps_its_words_in_every_form(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "student")
    write_card(tmp_path / "student", render_card(sample_facts(), "sample"))
    card = tmp_path / "student" / "README.md"
    generated = card.read_text()
    export(str(tmp_path / "student"), str(tmp_path / "plain"))
    plain = (tmp_path / "plain" / "README.md").read_text()
    assert not is_edited(plain) and "trust_remote_code" not in plain and "trust_remote_code=True" in generated
    assert plain.split("## Where it comes from")[1].split("<!--")[0] in generated
    edited = generated.replace("For research", "For us")
    card.write_text(edited)
    (tmp_path / "student" / "roc.png").write_bytes(b"curves")
    export(str(tmp_path / "student"), str(tmp_path / "plain_again"))
    assert (tmp_path / "plain_again" / "README.md").read_text() == edited
    assert (tmp_path / "plain_again" / "roc.png").read_bytes() == b"curves"
    export(str(tmp_path / "student"), str(tmp_path / "onnx"), "onnx")
    onnx_card = (tmp_path / "onnx" / "README.md").read_text()
    assert onnx_card.startswith(edited.rstrip()) and "## ONNX" in onnx_card and is_edited(onnx_card)


def test_predict_takes_the_onnx_folder(saved, exported, tmp_path):
    for number, image in enumerate(blob_images(np.arange(3))):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    before, after = (rd_hf.predict(str(folder), [str(tmp_path)]) for folder in (saved, exported[0]))
    assert [row["label"] for row in before] == [row["label"] for row in after]
    for one, other in zip(before, after, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_made_splits_are_made_again_for_the_onnx_model(tmp_path, python):
    """A test split that was cut from train: quantisation calibrates on the rest, and evaluate finds it."""
    labels = np.arange(90) % 3
    for number, (image, label) in enumerate(zip(blob_images(labels), labels, strict=True)):
        (tmp_path / "data" / list(NAMES.values())[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "data" / list(NAMES.values())[label] / f"{number}.png")
    rd_hf.distill(
        student={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        dataset=str(tmp_path / "data"), method="ce", student_image_size=32, max_steps=15, learning_rate=5e-3,
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    run = tmp_path / "run"
    options = ["--format", "onnx", "--quantize", "int8", "--dataset", "data", "--output_dir", "int8"]
    done = python("-m", "rd_hf", "export", "--model", str(run / "student"), *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    test = json.loads((run / "metrics.json").read_text())["test"]
    rows = sum(map(sum, test["confusion_matrix"]))
    card = (tmp_path / "int8" / "README.md").read_text()
    assert not is_edited(card) and f"On {rows} images of test:" in card
    for metric in ("accuracy", "auroc"):
        before, after = (report["scores"][precision][metric] for precision in ("float32", "int8"))
        assert f"| {metric} | {before:.3f} | {after:.3f} |" in card.splitlines()
    data = ModelCard(card).data
    assert data.eval_results is None and data.library_name == "onnx"  # results are those of the float32 model
    assert ModelCard.load(run / "student" / "README.md").data.eval_results
    assert (tmp_path / "int8" / "roc.png").is_file() and "![ROC curves](roc.png)" in card
    assert report["scored_on"] == f"{rows} images of test" and report["checked_on"] == f"{rows} images of test"
    assert int(report["calibrated_on"].split()[0]) < 90 - rows  # validation is left out as well
    assert report["max_abs_difference"] < 1e-5 < report["int8_max_abs_difference"]
    assert report["scores"]["float32"]["auroc"] == pytest.approx(test["auroc"], abs=1e-6)
    export(str(run / "student"), str(tmp_path / "native"))
    plain = rd_hf.evaluate(
        str(tmp_path / "native"), str(tmp_path / "data")
    )  # the plain checkpoint knows its splits too
    assert plain["auroc"] == pytest.approx(test["auroc"], abs=1e-6)
    scores = rd_hf.evaluate(str(tmp_path / "int8"), str(tmp_path / "data"))
    assert scores["auroc"] == pytest.approx(report["scores"]["int8"]["auroc"], abs=1e-9)
    assert scores["accuracy"] >= test["accuracy"] - 0.15
    weights = [i for i in onnx.load(tmp_path / "int8" / "model.onnx").graph.initializer if len(i.dims) == 4]
    assert weights and {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "`format`"),
        ({"format": "onnx", "quantize": "int4", "dataset": "x"}, "`quantize` is 'int4'; it must be int8"),
        ({"format": "onnx", "quantize": "int8"}, "needs a `dataset`"),
        ({"dataset": "x"}, "for `format` onnx and web only"),
        ({"dynamic_size": True}, "for `format` onnx only"),
        ({"format": "onnx", "quantize": "int8", "dataset": "x", "split": "train"}, "choose another split to score on"),
    ],
)
def test_contradictory_arguments_are_refused(options, message, saved, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        export(str(saved), str(tmp_path / "out"), **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(saved, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ArgumentError, match="is not empty"):
        export(str(saved), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(saved, tmp_path):
    np.savez(tmp_path / "data.npz", train_images=blob_images(np.arange(6) % 3), train_labels=np.arange(6)[:, None] % 3)
    with pytest.raises(ArgumentError, match="no split `test`"):
        export(str(saved), str(tmp_path / "out"), "onnx", dataset=str(tmp_path / "data.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_plain_model_is_no_student_to_unwrap(saved, tmp_path):
    export(str(saved), str(tmp_path / "native"))
    with pytest.raises(ArgumentError, match="model_type resnet"):
        export(str(tmp_path / "native"), str(tmp_path / "again"))


def test_a_student_that_starts_from_a_published_one_does_not_inherit_its_origin(saved, tmp_path):
    export(str(saved), str(tmp_path / "native"))
    assert "rd_hf_provenance" in (tmp_path / "native" / "config.json").read_text()
    model, _, source = load_student(str(tmp_path / "native"), list(NAMES.values()), "single_label_classification")
    assert "rd_hf_provenance" not in model.config.to_json_string() and source == {"id": "local", "revision": None}


def test_an_export_that_answers_otherwise_is_refused(saved, tmp_path, monkeypatch):
    forward = OnnxModel.forward

    def other(self, pixel_values):
        output = forward(self, pixel_values)
        output.logits += 0.01
        return output

    monkeypatch.setattr(OnnxModel, "forward", other)
    with pytest.raises(OnnxError, match=r"differ from those of the student by 0\.01"):
        export(str(saved), str(tmp_path / "out"), "onnx")
    assert not list(tmp_path.iterdir())


def test_foreign_and_broken_onnx_files_are_named(exported, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(OnnxError, match=r"model\.onnx is not an ONNX model"):
        rd_hf.evaluate(str(tmp_path), "nothing")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(OnnxError, match=r"model\.onnx cannot be run by onnxruntime .*It may be damaged"):
        rd_hf.evaluate(str(tmp_path), "nothing")
    model = onnx.load(exported[0] / "model.onnx")
    model.opset_import[0].version = 99  # of an exporter that is newer than the runtime
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(OnnxError, match="need a newer onnxruntime"):
        rd_hf.evaluate(str(tmp_path), "nothing")
    model = onnx.load(exported[0] / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(OnnxError, match="not exported by rd_hf"):
        rd_hf.evaluate(str(tmp_path), "nothing")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(package, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OnnxError, match=rf"{package}.*rd-hf\[onnx\]"):
        export(str(saved), str(tmp_path / "out"), "onnx")


def test_onnx_is_imported_only_when_it_is_needed(python):
    modules = "rd_hf.exports.run, rd_hf.inference.evaluation"
    code = f"import sys, {modules}; print(sorted({{'onnx', 'onnxruntime'}} & set(sys.modules)))"
    assert python("-c", code).stdout.strip() == "[]"


def test_unreadable_images_are_left_out_of_the_check_where_that_is_asked_for(saved, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("rd_hf.exports.run.load_splits", lambda *_, **__: None)
    monkeypatch.setattr("rd_hf.exports.run.open_split", lambda *given: opened.append(given[2:]) or 1 / 0)
    for choice in ("error", "skip"):
        with pytest.raises(ZeroDivisionError):
            export(str(saved), str(tmp_path / "out"), "onnx", dataset="d", on_bad_image=choice)
    assert opened == [("test", "error"), ("test", "skip")]
    with pytest.raises(ArgumentError, match="`on_bad_image` has no effect, because no `dataset` is given"):
        export(str(saved), str(tmp_path / "out"), "onnx", on_bad_image="skip")
