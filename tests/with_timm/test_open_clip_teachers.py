"""Image towers of open_clip checkpoints as teachers: from a folder, from the Hub, without the text tower."""

import json

import numpy as np
import open_clip
import pytest
import torch
from conftest import blob_arrays
from huggingface_hub import ModelCard
from timm_checkpoints import save_weights
from transformers import AutoModelForImageClassification

import rd_hf
from rd_hf.data.timm_processor import open_clip_processor
from rd_hf.inference.model_names import ModelNameError, loading
from rd_hf.models.backbone import Backbone
from rd_hf.models.open_clip_tower import OpenClipError

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "a transformer": {"layers": 4, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "a model of timm": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token"},
    "a model of timm, as BiomedCLIP has it": {
        "timm_model_name": "test_vit",
        "image_size": 160,
        "timm_pool": "",
        "timm_proj": "linear",
    },
    "a ResNet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64},
}
STUDENT = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip
SMALL = (
    "--dataset blobs.npz --student_image_size 32 --max_steps 1 --num_views 1 --shots 5 "
    "--per_device_train_batch_size 8 --output_dir run"
)


def save_clip(folder, tower="a transformer", file="open_clip_model.safetensors", remote_text=True):
    """A checkpoint; its text tower may be one that only the Hub has. :return: the model."""
    torch.manual_seed(0)
    clip = open_clip.CLIP(16, TOWERS[tower], TEXT).eval()
    folder.mkdir(exist_ok=True)
    text = {"hf_model_name": "nobody/no-such-model"} if remote_text else TEXT
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": TOWERS[tower], "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_weights(folder, file, clip.state_dict())
    return clip


@pytest.mark.parametrize("tower", TOWERS)
def test_the_image_tower_is_read_and_has_stages(tmp_path, tower):
    clip = save_clip(tmp_path, tower)
    backbone = Backbone.from_pretrained(tmp_path)
    side = TOWERS[tower]["image_size"]
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.allclose(backbone.tower(pixels), clip.visual(pixels), atol=1e-6)
    stages = backbone.find_stages((side, side))
    assert len(stages) == (5 if tower == "a ResNet" else 4) and not backbone.missing  # there the stem counts
    assert {stage.prefix_tokens for stage in stages} == {0 if tower == "a ResNet" else 1}


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_run_and_its_teacher_need_the_folder_alone(tmp_path, file):
    np.savez(tmp_path / "blobs.npz", **blob_arrays())
    save_clip(tmp_path / "clip", file=file)
    rd_hf.distill(
        str(tmp_path / "clip"), STUDENT, str(tmp_path / "blobs.npz"), student_image_size=32, max_steps=2, num_views=1,
        shots=5, per_device_train_batch_size=8, output_dir=str(tmp_path / "run"), verbose=False,
    )  # fmt: skip
    teacher = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "teacher", backbone=tmp_path / "clip")
    assert teacher(torch.randn(1, 3, 32, 32)).logits.shape == (1, 3)
    assert teacher.config.backbone_config is None and teacher.config.backbone_source["id"] == "local"


def test_pixels_follow_the_config(tmp_path):
    save_clip(tmp_path)
    processor = open_clip_processor(str(tmp_path))
    assert list(processor.image_mean) == [0.5, 0.4, 0.3] and dict(processor.size) == {"shortest_edge": 32}
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    processor = open_clip_processor(str(tmp_path))
    assert dict(processor.size) == {"height": 32, "width": 32}
    assert processor.image_mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)


def test_what_cannot_be_read_is_said(tmp_path):
    save_clip(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    save_weights(tmp_path, weights.name, {"text.weight": torch.zeros(2)})
    with pytest.raises(OpenClipError, match="has no weights of an image tower"):
        Backbone.from_pretrained(tmp_path)
    save_weights(tmp_path, weights.name, {"visual.no_such_layer": torch.zeros(2)})
    with pytest.raises(OpenClipError, match="no_such_layer"):
        Backbone.from_pretrained(tmp_path)
    weights.unlink()
    with (
        pytest.raises(ModelNameError, match="it has none of open_clip_model.safetensors"),
        loading("teacher", str(tmp_path)),
    ):
        Backbone.from_pretrained(tmp_path)
    torch.save({"visual.proj": torch.zeros(2), "code": print}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(OpenClipError, match="could run code"):
        Backbone.from_pretrained(tmp_path)


def test_a_repo_on_the_hub_is_found_again_by_its_teacher(server, client, tmp_path):
    np.savez(tmp_path / "blobs.npz", **blob_arrays())
    save_clip(tmp_path / "clip")
    code = (
        "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('me/clip');"
        "api.upload_folder(repo_id='me/clip', folder_path='clip')"
    )
    assert client("-c", code).returncode == 0
    done = client(
        "-m", "rd_hf", "distill", "--teacher", "hf-hub:me/clip", "--student", json.dumps(STUDENT), *SMALL.split()
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "teacher" / "config.json").read_text())
    assert config["backbone_source"]["id"] == "me/clip" and len(config["backbone_source"]["revision"]) == 40
    card = ModelCard((tmp_path / "run" / "student" / "README.md").read_text())
    assert card.data.base_model in ("me/clip", ["me/clip"])
    done = client("-m", "rd_hf", "evaluate", "--model", "run/teacher", "--dataset", "blobs.npz")
    assert done.returncode == 0, done.stderr
