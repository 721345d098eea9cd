"""The pages of the documentation, what they tell a user to run, and how that is run on tiny models.

`Reader.read` runs every command and Python block of a page in its order. What cannot run in a test is in `NOT_RUN`.
What README.md has too is run with it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import re
import runpy
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import nibabel
import numpy as np
import torch
from conftest import REPOSITORY, blob_images, blob_mask_arrays
from hub_server import HubServer
from PIL import Image
from small_volumes import smooth, write_series
from transformers import AutoModel, ResNetConfig, SegformerConfig, ViTConfig, ViTImageProcessorPil
from without_rd_hf import BLOCKER

from rd_hf.cli import main, parse_comparison, parse_distillation

DOCS = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/**/*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS]

HOURS = "trains for minutes or hours, on data that does not come with rd_hf"
MEASURES = "measures for minutes; tests of its own run it on tiny models"
TIMM = "needs timm, and weights that do not come with rd_hf; tests/with_timm runs such models"
NOT_RUN = {  # the beginning of a command, and why no test runs it; its arguments are parsed all the same
    "pip install": "changes the environment of the tests",
    "make demo": "trains for minutes",
    "rd-hf distill --teacher timm/": TIMM,
    "rd-hf distill --teacher hf-hub:": TIMM,
    "rd-hf distill --teacher facebook/dinov2-small --student timm/": TIMM,
    "rd-hf distill --teacher facebook/dinov2-small --student '{model_type: timm_wrapper": TIMM,
    "sbatch": "needs SLURM; test_processes starts processes with the environment that the script sets",
    "torchrun --nnodes 2": "needs two machines; test_processes runs two launchers on one",
    "accelerate launch --config_file": "test_processes runs this configuration",
    "python examples/benchmark_": MEASURES,
    "python examples/kill_and_resume.py": MEASURES,
    "python examples/table.py": HOURS,
    "python examples/compare/meshnet.py": "converts weights that do not come with rd_hf; a test of its own does too",
    "python examples/compare/small_sets.py": "reads data that do not come with rd_hf; a test of its own has small ones",
    "rd-hf compare --config examples/compare/medical.yaml": HOURS,
    "rd-hf compare --config examples/compare/four_sets.yaml": HOURS,
    "rd-hf compare --config examples/compare/labels_only.yaml": HOURS,
    "rd-hf compare --config examples/compare/unlabelled.yaml": HOURS,
    "rd-hf compare --config examples/compare/first_masks.yaml": HOURS,
    "rd-hf compare --config examples/compare/pretrained_student.yaml": HOURS,
    "rd-hf compare --config examples/compare/ablations.yaml": HOURS,
    "rd-hf compare --config examples/compare/views.yaml": HOURS,
    "rd-hf compare --config examples/compare/precision.yaml": HOURS,
    "rd-hf compare --config examples/compare/masks.yaml": HOURS,
    "rd-hf compare --config examples/compare/masks_few_labels.yaml": HOURS,
    "rd-hf compare --config examples/compare/rd_plus.yaml": HOURS,
    "rd-hf compare --config examples/compare/volumes.yaml": HOURS,
    "rd-hf compare --config examples/compare/first_volumes.yaml": HOURS,
    "rd-hf compare --config examples/compare/volume_classes.yaml": HOURS,
}

SMALL_RUN = "--max_steps 2 --num_views 1 --per_device_train_batch_size 8"
STAND_INS = "--teacher facebook/dinov2-small --dataset ./my_xrays --shots 5"
SMALL_COMPARISON = """--arguments '{student: google/mobilenet_v2_0.35_96, max_steps: 2, num_views: 1}' --seeds '[0]'
    --shots '[5]' --methods '[ce, lp_kd, rd]' --tuning '{seeds: [100], shots: 5, weight: [1.0]}' --workers 1"""
SMALL_PYTHON = {
    '{"shots": 10,': '{"shots": 5, "max_steps": 2, "num_views": 1,',
    "shots=20": "shots=5, max_steps=2, num_views=1, per_device_train_batch_size=8, per_device_unlabeled_batch_size=8, "
    "overwrite_output_dir=True",
    'max_params="1M", max_latency_ms=10': 'max_params="0.3M", max_latency_ms=10000',
    'methods=["ce", "rd"],': 'methods=["ce", "rd"], seeds=[0], shots=[5], workers=1,',
    '"max_steps": 400': '"max_steps": 2, "num_views": 1',
}
LINKNET = """from monai.networks.nets import UNet
class LinkNet3d(UNet):
    def __init__(self):
        super().__init__(spatial_dims=3, in_channels=1, out_channels=1, channels=[4, 8, 8], strides=[2, 2])
"""
LOADS_A_STUDENT = """import rd_hf
from transformers import AutoModelForImageClassification
student = AutoModelForImageClassification.from_pretrained("runs/xray/student")
"""


class Step(NamedTuple):
    """One command or one Python block of a page."""

    language: str
    text: str

    @property
    def reason_not_to_run(self) -> str | None:
        return next((reason for start, reason in NOT_RUN.items() if self.text.startswith(start)), None)


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def steps(page: str) -> list[Step]:
    """What a page tells a user to run, in its order: each command of a bash block, and each Python block."""
    found = []
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            found.append(Step(language, block))
            continue
        lines = (line.strip() for line in block.replace("\\\n", " ").splitlines())
        found += [Step(language, line) for line in lines if line and not line.startswith("#")]
    return found


def to_run(page: str) -> list[Step]:
    """The steps of a page that are run."""
    return [step for step in steps(page) if step.reason_not_to_run is None]


def code_spans(page: str) -> list[str]:
    """What stands between single backticks."""
    without_blocks = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", without_blocks)


def small(command: str) -> list[str]:
    """A command's words, with a few steps on stand-ins in place of a real training."""
    words = shlex.split(command)
    if words[:2] == ["accelerate", "launch"]:
        words[2:2] = ["--cpu", "--num_processes", "1"]
    if "distill" in words or "build" in words:
        words += shlex.split(SMALL_RUN) + (shlex.split(STAND_INS) if "--config" in words else [])
        words += ["--shots", "5"] if "--shots" in words else []
        unlabelled = {"--use_unlabeled", "--unlabeled_dataset", "examples/busi.yaml", "examples/pneumonia.yaml"}
        if unlabelled & set(words) and not {"ce", "false"} & set(words):
            words += ["--per_device_unlabeled_batch_size", "8"]
        words += ["--overwrite_output_dir"] if "distill" in words else []
    elif words[1] == "compare":
        words += shlex.split(SMALL_COMPARISON)
    elif words[1] == "export" and "web" in words:  # npm is not asked
        words += ["--cdn"]
    elif words[1] == "students":  # fewer students to be timed, and a time that holds on any machine
        words += ["--max_params", "0.6M", "--max_latency_ms", "10000"]
        words += ["--max_params", "0.4M", "--image_size", "16"] if "--dimensions" in words else []
    return words


def make_workplace(folder: Path) -> Path:
    """A folder with the data that the pages name, and stand-ins for the models that they name."""
    labels = np.arange(60) % 3
    rows = []
    for number, (image, label) in enumerate(zip(blob_images(labels), labels, strict=True)):
        target = folder / "my_xrays" / f"class_{label}" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
        rows.append([target.relative_to(folder).as_posix(), int(label == 0), int(label > 0), f"class_{label}"])
    write_table(
        folder / "patients.csv", ["image", "label", "patient_id"], [[r[0], r[3], n // 2] for n, r in enumerate(rows)]
    )
    splits = np.repeat(["train", "validation", "test"], 20)
    people = [[r[0], "ill" if r[1] else "healthy", splits[n], "FM"[n % 2]] for n, r in enumerate(rows)]
    write_table(folder / "people.csv", ["image", "finding", "split", "sex"], people)
    write_table(folder / "chest.csv", ["image", "effusion", "nodule"], [row[:3] for row in rows])
    make_shards(folder / "shards", folder / "my_xrays")
    make_masks(folder / "polyps")
    make_volumes(folder)
    (folder / "new_images").mkdir()
    Image.fromarray(blob_images(np.array([1]))[0]).save(folder / "new_images" / "one.png")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    stand_ins = {
        "facebook/dinov2-small": ViTConfig(**size, image_size=32, patch_size=8),
        "nvidia/mit-b0": SegformerConfig(
            num_encoder_blocks=2,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_attention_heads=[1, 2],
            sr_ratios=[4, 2],
            patch_sizes=[7, 3],
            strides=[4, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
        ),
        "google/mobilenet_v2_0.35_96": ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
    }
    for name, config in stand_ins.items():
        AutoModel.from_config(config).save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    return folder


def make_shards(folder: Path, images: Path) -> None:
    """Two tar files of images."""
    folder.mkdir()
    for number, image in enumerate(sorted(images.rglob("*.png"))[:16]):
        with tarfile.open(folder / f"{number % 2}.tar", "a") as archive:
            archive.add(image, image.name)


def make_masks(folder: Path) -> None:
    """Images in `images/`, and their masks of the same names in `masks/`."""
    arrays = blob_mask_arrays()
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for number, pixels in enumerate(arrays[f"train_{kind}"]):
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")


def make_volumes(folder: Path) -> None:
    """CTs in the layout of nnU-Net in `cts`, one more in `new_cts`, whose sides no network halves evenly, and DICOM.

    `ct_series` has series in class folders, and `linknet3d.py` a network of somebody else.
    """
    generator = np.random.default_rng(0)
    for number in range(13):
        mask = np.zeros((16, 16, 16), dtype=np.uint8)
        x, y, z = generator.integers(2, 9, 3)
        mask[x : x + 5, y : y + 5, z : z + 5] = 1
        volume = generator.normal(100 * mask, 20).astype(np.int16)
        odd = np.pad(volume, ((0, 5), (0, 3), (0, 1)), mode="reflect")
        of_train = {f"cts/imagesTr/{number}_0000.nii.gz": volume, f"cts/labelsTr/{number}.nii.gz": mask}
        for name, array in (of_train if number else {"new_cts/one.nii.gz": odd}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), folder / name)
    for number in range(16):
        write_series(folder / "ct_series" / ("healthy", "ill")[number % 2] / f"p{number}", smooth((16, 16, 6), number))
    (folder / "linknet3d.py").write_text(LINKNET)


def write_table(path: Path, names: list[str], rows: list[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


class Reader:
    """Runs pages in a folder made by `make_workplace`.

    :param python: runs `python *words` there; :return: the finished process.
    :param client: the same as a user of `server`.
    """

    def __init__(self, python: Callable, client: Callable, server: HubServer):
        self.python, self.client, self.server = python, client, server

    def read(self, page: str, but: Sequence[Step] = ()) -> dict[str, str]:
        """Run all that the page has, `but` some steps; :return: what each step that ran printed, under its text."""
        return {step.text: self.run(step) for step in to_run(page) if step not in but}

    def run(self, step: Step) -> str:
        """:return: what it printed."""
        pushes = "push" in step.text
        if pushes:  # as if it were the only one
            self.server.repos.clear()
        words = self.python_words(step.text) if step.language == "python" else self.command_words(step.text)
        done = (self.client if pushes or '"me/' in step.text else self.python)(*words)
        assert done.returncode == 0, f"{step.text}\n{done.stderr[-3000:]}"
        return done.stdout

    def command_words(self, command: str) -> list[str]:
        starts = {"rd-hf": ["-m", "rd_hf"], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}
        name, *words = small(command)
        return [*starts[name], *words]

    def python_words(self, code: str) -> list[str]:
        for text, smaller in SMALL_PYTHON.items():
            code = code.replace(text, smaller)
        if "student." in code:
            code = LOADS_A_STUDENT + code
        elif '"me/' in code:  # what is published needs no rd_hf
            code = f"{BLOCKER}\nprint(type({code.strip()}).__name__)"
        if "classify =" in code:
            code += "print(classify('new_images/one.png')[0]['label'])"
        return ["-c", code]


def run_here(*words: str) -> subprocess.CompletedProcess:
    """Run `python -m rd_hf *words[2:]` in this process, in the working directory; :return: as of a finished process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(list(words[2:]))
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


def check_arguments(command: str) -> None:
    """Parse the arguments of a command that is not run; the working directory is the repository.

    :raises Exception: of whoever parses them.
    """
    name, *words = shlex.split(command)
    if name == "pip":
        setup = ConfigParser()
        setup.read("setup.cfg")
        extras = re.findall(r"\[(.*?)\]", words[-1])
        assert words[0] == "install" and all(extra in setup["options.extras_require"] for extra in extras)
    elif name == "make":
        assert f"\n{words[0]}:" in Path("Makefile").read_text(encoding="utf-8")
    elif name == "python":
        parse_in_script(*words)
    elif name == "sbatch":
        assert Path(words[0]).is_file()
        parse_distillation(words[1:])
    elif name == "rd-hf":
        {"distill": parse_distillation, "compare": parse_comparison}[words[0]](words[1:])
    else:
        after = words.index("rd_hf") + 1
        if name == "torchrun":
            from torch.distributed.run import get_args_parser

            assert get_args_parser().parse_args(words).training_script_args == words[after:]
        else:
            from accelerate.commands.launch import launch_command_parser

            parsed = launch_command_parser().parse_args(words[1:])
            assert Path(parsed.config_file).is_file() and parsed.training_script_args == words[after:]
        parse_distillation(words[after + 1 :])


def parse_in_script(script: str, *words: str) -> None:
    """Run a script up to the point where it has parsed its arguments."""
    parse = argparse.ArgumentParser.parse_known_args

    class Parsed(Exception):
        pass

    def parse_known(self, *_):
        parse(self, words)
        raise Parsed

    def parse_all(self, *_):
        assert not parse(self, words)[1]
        raise Parsed

    patches = {"parse_args": parse_all, "parse_known_args": parse_known}
    beside = [str(Path(script).parent), *sys.path]  # as Python does for a script
    with (
        mock.patch.multiple(argparse.ArgumentParser, **patches),
        mock.patch.object(sys, "argv", [script, *words]),
        mock.patch.object(sys, "path", beside),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
        except Parsed:
            return
    raise AssertionError(f"{script} parsed no arguments")
