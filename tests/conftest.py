"""Fixtures shared by the tests: no network, one thread, tiny images, a Hub on a loopback address, own caches."""

import atexit
import functools
import gc
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["RD_HF_CACHE"] = tempfile.mkdtemp(prefix="rd_hf_tests_")  # for fixtures that several tests share

# Two processes of pytest-xdist share two cores: one thread for each, and for the commands that it starts. Both wait for
# the process that starts them: it reads this file too, and runs no test, so only fixtures import large libraries.
os.environ["OMP_NUM_THREADS"] = "1"

# oneDNN's code for AVX2 breaks the heap in the backward pass of some ResNets: see docs/explanation/limits.md.
if "avx512f" not in (Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else "avx512f"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from browser_pages import IS_INSTALLED as HAS_BROWSER
from browser_pages import chromium, open_page  # noqa: F401  (fixtures of tests/browser)
from hub_server import TOKEN, HubServer
from warm_python import FIRST_LIBRARIES, LIBRARIES, WarmPython
from warm_server import EMPTY_PLOTS, SHORT_WAITS, WARM_CHILDREN
from without_rd_hf import BLOCKER

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a background job of a script; tests interrupt runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["RD_HF_CACHE"], ignore_errors=True)

os.fsync = lambda handle: None  # no test outlives the power
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
LONGEST_FIRST = """test_docs test_export test_comparison test_step test_export_masks test_student_zoo
    test_distillation test_stream_runs test_volume_distillation test_processes test_hub test_readme test_mask_commands
    test_cache_limit test_run_report test_references test_teacher_cache test_hub_loading test_mask_comparison
    test_interrupts test_export_volumes test_pretrain_teacher test_benchmark_epoch test_volume_comparison test_resume
    test_meshnet test_feature_file test_compilation test_teacher_model test_mask_runs test_import test_fuzzed_inputs
    test_benchmark_masks test_segmentation_example test_export_web test_segmentation_models test_decisions
    test_report_page test_rd_plus test_push_space test_quickstart test_info"""
collect_ignore = [] if find_spec("timm") else ["with_timm"]  # see make test-timm
collect_ignore += [] if HAS_BROWSER else ["browser"]  # see make test-browser


def pytest_collection_finish():
    """What the tests have imported is left out of collections of garbage, which libraries ask for again and again.

    A report page of a run in this process has one saliency map per gallery.
    """
    if "rd_hf.inference.page_pictures" in sys.modules:
        sys.modules["rd_hf.inference.page_pictures"].MAPPED = 1
    if "rd_hf.exports.run" in sys.modules:  # each export would parse torch's translations of all operators again
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """The files that take longest start first, so that both processes of pytest-xdist end together."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST.split())}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch) -> Path:
    """An empty folder for cached teacher features, so that no test finds those of another."""
    monkeypatch.setenv("RD_HF_CACHE", str(tmp_path / "teacher_features"))
    return tmp_path / "teacher_features"


@pytest.fixture(autouse=True)
def empty_plots(monkeypatch):
    """Plots are composed but not drawn, which takes half of the time of a small run; tests of plots override this."""
    from drawing import leave_plots_empty

    leave_plots_empty(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def timed_once(monkeypatch):
    """A model whose cost is reported runs once for its time, not until its time is steady."""
    monkeypatch.setattr("rd_hf.students.cost.MAX_RUNS", 1)


@pytest.fixture
def kept_log_level():
    """The level of rd_hf's logger after a script that sets it is as before."""
    logger = logging.getLogger("rd_hf")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def log(caplog):
    """What rd_hf logs from INFO on."""
    caplog.set_level(logging.INFO, logger="rd_hf")
    return caplog


@pytest.fixture
def no_report(monkeypatch):
    """Runs in this process end with their training: scores, plots and cards take half of the time of a small run."""
    monkeypatch.setattr("rd_hf.training.distillation.write_report", lambda *_: {})
    monkeypatch.setattr("rd_hf.training.distillation.summary", lambda *_: "")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real data sets beside the project (../shared/data) are not here")
    return SHARED / "data"


def read_settings(values: dict) -> dict:
    """Settings of a run without those that it would refuse, because they have no effect on it."""
    left_out = set()
    if values.get("method") == "ce":
        left_out = {"teacher", "use_unlabeled", "unlabeled_dataset", "per_device_unlabeled_batch_size"}
    elif not values.get("use_unlabeled") and "unlabeled_dataset" not in values:
        left_out = {"per_device_unlabeled_batch_size"}
    return {name: value for name, value in values.items() if name not in left_out}


def blob_images(labels: np.ndarray, size: int = 24, seed: int = 0) -> np.ndarray:
    """Grey images (N, size, size) uint8 whose class is the quadrant of a bright blob, learnable within a few steps."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (len(labels), size, size))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half + 2 : (row + 1) * half - 2, column * half + 2 : (column + 1) * half - 2] += 150
    return images.astype(np.uint8)


def blob_arrays(test: int = 24) -> dict[str, np.ndarray]:
    """A three-class data set in MedMNIST's layout: 60 train and 24 validation images, and those of test."""
    arrays = {"classes": np.array(["benign", "malignant", "normal"])}
    for number, (split, count) in enumerate((("train", 60), ("val", 24), ("test", test))):
        labels = np.arange(count) % 3
        arrays[f"{split}_images"] = blob_images(labels, seed=number)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    return arrays


def blob_mask_arrays(test: int = 12, size: int = 24) -> dict[str, np.ndarray]:
    """A data set of masks: 24 train and 12 validation images of `blob_images`, whose blob is bright or dim.

    A third of the images has no blob: their masks are background alone.
    """
    arrays = {"classes": np.array(["background", "bright", "dim"])}
    half = size // 2
    for number, (split, count) in enumerate((("train", 24), ("val", 12), ("test", test))):
        kinds = np.arange(count) % 3  # none, bright on the left, dim on the right
        images = blob_images(np.maximum(kinds - 1, 0), size, seed=number)
        masks = np.zeros((count, size, size), dtype=np.uint8)
        for image, mask, kind in zip(images, masks, kinds, strict=True):
            area = (slice(2, half - 2), slice(half * (kind - 1) + 2, half * kind - 2))
            if kind == 0:
                image[2 : half - 2, 2 : half - 2] -= 150
                continue
            mask[area] = kind
            image[area] -= np.uint8(70 * (kind - 1))
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = images, masks
    return arrays


@pytest.fixture
def blobs_npz(tmp_path) -> Path:
    """The file of `blob_arrays`."""
    path = tmp_path / "blobs.npz"
    np.savez(path, **blob_arrays())
    return path


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A folder with a small frozen model of its own size and normalisation."""
    import torch
    from transformers import AutoModel, ResNetConfig, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 40, "width": 40}, image_mean=[0.2] * 3, image_std=[0.3] * 3).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def light_python():
    """A WarmPython without libraries of Hugging Face, from which the others are forked."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "3"}  # not the seed of the tests
    warm = WarmPython(Path(tempfile.gettempdir(), f"rd_hf_{run}", "light"), environment, FIRST_LIBRARIES)
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def warm_python(light_python):
    """Runs commands in a Python that has its libraries imported; see `WarmPython.run`."""
    values = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    warm = WarmPython(light_python.path.with_name("offline"), values, LIBRARIES, light_python, with_rd_hf=True)
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def run_without_rd_hf(warm_python, tmp_path_factory):
    """Runs code in a folder, in a process that cannot import rd_hf and has no earlier copies of its code."""
    environment = {"PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}

    def run(code: str, folder: Path) -> subprocess.CompletedProcess:
        return warm_python.run("-c", BLOCKER + code, cwd=folder, environment=environment)

    return run


@pytest.fixture
def python(warm_python, cache_dir, tmp_path):
    """Runs `python *command` in the test's folder, with empty plots; its own processes are forks too.

    :return: the finished process.
    """
    environment = {"RD_HF_CACHE": str(cache_dir)} | WARM_CHILDREN | EMPTY_PLOTS
    return functools.partial(warm_python.run, cwd=tmp_path, environment=environment)


@pytest.fixture
def python_alone(warm_python, cache_dir, tmp_path):
    """The same with drawn plots, and the Python processes that the command starts begin anew, as everywhere else."""
    return functools.partial(warm_python.run, cwd=tmp_path, environment={"RD_HF_CACHE": str(cache_dir)})


@pytest.fixture
def job(warm_python, cache_dir, tmp_path):
    """Runs `python *command` in several processes of one job, with empty plots; :return: the finished processes."""
    environment = {"RD_HF_CACHE": str(cache_dir)} | EMPTY_PLOTS | SHORT_WAITS
    return functools.partial(warm_python.processes, cwd=tmp_path, environment=environment)


@pytest.fixture(scope="session")
def hub_python(light_python, tmp_path_factory):
    """A WarmPython whose Hub is on a port of this machine, and whose HF_HOME leads where a test points it."""
    with HubServer() as hub:
        endpoint = hub.endpoint
    values = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    values |= {
        "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub") / "hf_home"),
        "HF_TOKEN": TOKEN, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1",
        **SHORT_WAITS, **EMPTY_PLOTS,
    }  # fmt: skip
    path = light_python.path.with_name(f"hub_{os.getpid()}")
    warm = WarmPython(path, values, LIBRARIES, light_python, with_rd_hf=True)
    yield warm
    warm.close()


@pytest.fixture
def server(hub_python):
    """An empty Hub, at the address that `client` knows."""
    hub = HubServer(int(hub_python.environment["HF_ENDPOINT"].rsplit(":", 1)[1]))
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def client(server, hub_python, warm_python, cache_dir, tmp_path):
    """Runs a command as a user of `server` with an own cache; :return: the finished process."""
    home = Path(hub_python.environment["HF_HOME"])
    home.unlink(missing_ok=True)
    home.symlink_to(tmp_path / "hf_home")

    def run(*command, **environment):
        (tmp_path / "hf_home").mkdir(exist_ok=True)
        values = {"RD_HF_CACHE": str(cache_dir)} | environment
        python = warm_python if "HF_HUB_OFFLINE" in environment else hub_python  # it is read when they start
        done = python.run(*command, cwd=tmp_path, environment=hub_python.environment | values)
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run
