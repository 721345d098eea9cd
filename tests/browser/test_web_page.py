"""The page of a student in Chromium: it answers as `rd_hf.predict` does, keeps the images, and says what is wrong."""

import numpy as np
import pytest
import torch
from browser_pages import RUNTIME
from served_pages import give, ready, served, table, varied_images
from transformers import ViTImageProcessorPil

import rd_hf
from rd_hf.export.run import export
from rd_hf.students.loading import load_student

NAMES = ["benign", "malignant", "normal"]
CLASSES = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
MASKS = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 6, 8], "strides": [2, 2]}}
OTHER_PIXELS = 1e-3  # share of a mask's pixels that may be of another class than Python's


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """A random model whose probabilities differ from image to image."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return varied_images(tmp_path_factory.mktemp("varied") / "images")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Folders of a student and of its page."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model, _, _ = load_student(CLASSES, NAMES, "single_label_classification", 64)
    sharpened(model).save_pretrained(folder / "student")
    ViTImageProcessorPil(size={"height": 64, "width": 56}, image_mean=[0.4] * 3).save_pretrained(folder / "student")
    export(str(folder / "student"), str(folder / "page"), "web", web_runtime=str(RUNTIME))
    return folder / "student", folder / "page"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    torch.manual_seed(3)
    model, processor, _ = load_student(MASKS, ["background", "lesion", "cyst"], "segmentation", 64)
    for part in (sharpened(model), processor):
        part.save_pretrained(folder / "student")
    export(str(folder / "student"), str(folder / "page"), "web", web_runtime=str(RUNTIME))
    return folder / "student", folder / "page"


def test_twenty_images_have_the_probabilities_of_python(classifier, images, open_page):
    student, folder = classifier
    expected = rd_hf.predict(str(student), images)
    with served(folder) as address:
        page = ready(open_page(address))
        give(page, images)
        rows = table(page)
    assert {row["image"]: row["error"] for row in rows if row["error"]} == {}
    assert len(rows) == 20 and [row["image"] for row in rows] == [path.name for path in images]
    differences = [
        max(abs(float(row[name]) - one["probabilities"][name]) for name in NAMES)
        for row, one in zip(rows, expected, strict=True)
    ]
    print({path.name: f"{value:.1e}" for path, value in zip(images, differences, strict=True)})
    assert max(differences) < 1e-3
    assert [row["answer"] for row in rows] == [one["label"] for one in expected]
    spread = np.array([[float(row[name]) for name in NAMES] for row in rows])
    assert spread.std(axis=0).max() > 0.02
