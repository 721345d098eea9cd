"""The commands of the README, run as they stand there on tiny models in place of those of the Hub."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, blob_images
from PIL import Image
from test_hub import make_student
from test_without_rd_hf import BLOCKER
from transformers import AutoModel, ResNetConfig, ViTConfig, ViTImageProcessorPil

from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Plan
from rd_hf.export.run import export

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the README's `my_xrays` and `new_images`, and stand-ins for the models that it names."""
    folder = tmp_path_factory.mktemp("workplace")
    labels = np.arange(60) % 3
    for number, (image, label) in enumerate(zip(blob_images(labels), labels, strict=True)):
        target = folder / "my_xrays" / f"class_{label}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target / f"{number}.png")
    (folder / "new_images").mkdir()
    Image.fromarray(blob_images(np.array([1]))[0]).save(folder / "new_images" / "one.png")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    stand_ins = {
        "facebook/dinov2-small": ViTConfig(**size, image_size=32, patch_size=8),
        "google/mobilenet_v2_0.35_96": ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
    }
    for name, config in stand_ins.items():
        AutoModel.from_config(config).save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    return folder


@pytest.fixture
def run(warm_python, cache_dir, workplace):
    """Runs a command that begins with rd-hf, python or accelerate; :return: what it printed."""
    starts = {"rd-hf": ["-m", "rd_hf"], "python": [], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}

    def run(command: list[str]) -> str:
        line = [*starts[command[0]], *command[1:]]
        done = warm_python.run(*line, cwd=workplace, environment={"RD_HF_CACHE": str(cache_dir)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_installed_command():
    done = subprocess.run([Path(sys.executable).parent / "rd-hf", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "distill" in done.stdout


def test_the_quickstart_in_a_terminal(workplace, run):
    script = next(block for block in blocks("bash") if "rd-hf distill" in block).replace("\\\n", " ")
    answers = []
    for line in filter(None, script.splitlines()):
        command = shlex.split(line.replace("--shots 20", "--shots 5"))
        answers.append(run(command + (["--max_steps", "2"] if command[1] == "distill" else [])))
    scores = json.loads((workplace / "runs/xray/metrics.json").read_text())
    assert json.loads(answers[1])["auroc"] == pytest.approx(scores["test"]["auroc"], abs=1e-9)
    assert set(json.loads(answers[2])["probabilities"]) == {"class_0", "class_1", "class_2"}


def test_choosing_a_student(run):
    line = next(block for block in blocks("bash") if "rd-hf students" in block).strip()
    # a budget of time that holds on any machine, and fewer students to be timed
    header, *rows = run(shlex.split(line.replace("1M", "0.6M").replace("ms 10", "ms 10000"))).splitlines()
    names = [row.split()[0] for row in rows]
    assert names == ["resnet_tiny", "mobilenet_v2_0.35", "resnet_10_0.25", "mobilenet_v1_0.25"]
    shown = README.split("### Choose a student")[1].split("```")[3].strip().splitlines()
    assert header.split() == shown[0].split()
    texts = {row.split()[0]: row[row.index("'{") :] for row in rows}
    assert all(texts[row.split()[0]] == row[row.index("'{") :] for row in shown[1:])


def test_the_quickstart_in_python_and_loading(run):
    quickstart = next(block for block in blocks("python") if "distill(" in block)
    loading = next(block for block in blocks("python") if "pipeline(" in block)
    quickstart = quickstart.replace("shots=20", "shots=5, max_steps=2, overwrite_output_dir=True")
    code = quickstart + loading + "\nprint(classify('new_images/one.png')[0]['label'], processor.size['height'])"
    assert re.fullmatch(r"class_\d 32", run(["python", "-c", code]).strip().splitlines()[-1])


def test_comparing_methods(workplace, run):
    line = next(block for block in blocks("bash") if "rd-hf compare" in block).strip()
    small = """--arguments '{student: google/mobilenet_v2_0.35_96, max_steps: 2, num_views: 1}' --seeds '[0]'
        --shots '[5]' --methods '[ce, lp_kd, rd]' --tuning '{seeds: [100], shots: 5, weight: [1.0]}' --workers 1"""
    run([*shlex.split(line), *shlex.split(small)])
    text = (workplace / "runs/compare/results.md").read_text()
    assert "## xrays, teacher dinov2, with the unlabelled rest" in text and "| linear probe then KD |" in text
    named = README.split("## Compare methods")[1].split("## What it does not do")[0]
    assert all(f"`{name}`" in named for name in METHODS)
    ablation = yaml.safe_load(re.search(r"`(\{name: .*?\})`", named)[1])
    Plan(ComparisonArguments(data={"x": {}}, teachers={"t": {"teacher": "t"}}, methods=[ablation], output_dir="x"))


def test_the_exports(workplace, run):
    if not (workplace / "runs/xray/student").exists():
        values = "--teacher facebook/dinov2-small --student google/mobilenet_v2_0.35_96 --dataset ./my_xrays"
        run(shlex.split(f"rd-hf distill {values} --max_steps 2 --output_dir runs/xray"))
    script = next(block for block in blocks("bash") if "rd-hf export" in block)
    answers = [json.loads(run(shlex.split(line))) for line in script.splitlines()]
    assert answers[0]["max_abs_difference"] == 0 and answers[1]["max_abs_difference"] < 1e-4
    assert answers[2]["scores"]["int8"]["accuracy"] == answers[3]["accuracy"]
    assert answers[1]["opset"] == 18 and "opset 18" in README


def test_the_cluster_launch(workplace, run):
    line = next(block for block in blocks("bash") if block.startswith("accelerate launch")).strip()
    stand_ins = (
        "--dataset my_xrays --teacher facebook/dinov2-small --max_steps 2 --shots 5 --per_device_train_batch_size 8"
    )
    command = shlex.split(line.replace("accelerate launch", "accelerate launch --cpu --num_processes 1"))
    run([*command, *shlex.split(stand_ins), "--per_device_unlabeled_batch_size", "8"])
    assert (workplace / "runs/busi_cluster/student/model.safetensors").exists()


def test_publishing_from_python_and_loading_in_one_line(server, client, workplace):
    publish = next(block for block in blocks("python") if "push_to_hub" in block)
    load = next(block for block in blocks("python") if '"me/xray-student")' in block and "push_to_hub" not in block)
    values = {
        "teacher": str(workplace / "facebook/dinov2-small"),
        "student": str(workplace / "google/mobilenet_v2_0.35_96"),
        "dataset": str(workplace / "my_xrays"),
    }
    done = client("-c", f"import rd_hf\nstudent = rd_hf.distill(**{values}, max_steps=1, output_dir='run')\n{publish}")
    assert done.returncode == 0, done.stderr
    sent = server.repos["me/xray-student"].at("main").files
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "roc.png"} <= set(sent)
    assert not any(str(workplace).encode() in content or name.endswith(".py") for name, (content, _) in sent.items())
    done = client("-c", f"{BLOCKER}\nprint(type({load.strip()}).__name__)")
    assert done.stdout.strip() == "ResNetForImageClassification", done.stderr


def test_publishing_from_a_terminal(server, client, workplace, tmp_path):
    folder = tmp_path / "runs/xray"
    exports = tmp_path / "exports/onnx"
    make_student(folder / "student")
    export(str(folder / "student"), str(exports), "onnx")
    script = next(block for block in blocks("bash") if "rd-hf push" in block)
    for line in script.splitlines():
        done = client("-m", "rd_hf", *shlex.split(line)[1:])
        assert done.returncode == 0, done.stderr
    assert server.repos["me/xray-student"].private
    assert "model.safetensors" in server.repos["me/xray-student"].at("main").files
    assert "model.onnx" in server.repos["me/xray-onnx"].at("main").files


def test_publishing_at_the_end_of_a_run(server, client, workplace, tmp_path):
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    line = next(block for block in blocks("bash") if "--push_to_hub" in block)
    stand_ins = f"""--dataset {workplace}/my_xrays --teacher {workplace}/facebook/dinov2-small --max_steps 2 --shots 5
        --per_device_train_batch_size 8 --per_device_unlabeled_batch_size 8 --output_dir run"""
    done = client("-m", "rd_hf", *shlex.split(line)[1:], *shlex.split(stand_ins))
    assert done.returncode == 0, done.stderr
    assert {"me/xray-student", "me/xray-teacher"} == set(server.repos)


def test_every_file_of_the_package_has_its_line_in_the_architecture_map():
    architecture = README.split("## Architecture")[1].split("## Citation")[0]
    for path in [*REPOSITORY.glob("rd_hf/**/*.py"), *REPOSITORY.glob("examples/*.*")]:
        if not path.name.startswith("__"):
            assert path.name in architecture or path.name == "_version.py", path.name
