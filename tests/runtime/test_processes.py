"""Several processes: launched as the README says, on one machine or two, and when one of them does not answer."""

import json
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.state import GradientState
from conftest import REPOSITORY
from test_distillation import settings
from test_interrupts import options
from warm_python import free_port
from warm_server import EMPTY_PLOTS

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.runtime.processes import share_of, start_accelerator
from rd_hf.training.run_folder import read_history


def launched(teacher, blobs_npz, folder, **changes):
    return ["-m", "rd_hf", *options(settings(teacher, blobs_npz, folder, max_steps=2, **changes))]


def check(folder, processes):
    state = json.loads((folder / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["processes"] == processes and state["rows_a_step"]["labelled"] == 8 * processes
    assert (folder / "student" / "model.safetensors").exists()
    row = read_history(folder)[0]
    assert row["memory_gib"] > 0 and row["images_per_second"] > 0 and row["gradient_norm"] > 0


def accelerate_launch(python, config, *command):
    path = REPOSITORY / "examples" / "accelerate" / f"{config}.yaml"
    done = python("-m", "accelerate.commands.launch", "--config_file", str(path), *command, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_accelerate_launch_starts_as_many_processes_as_its_config_says(teacher, blobs_npz, tmp_path, python):
    accelerate_launch(python, "two_cpu", *launched(teacher, blobs_npz, tmp_path / "run"))
    check(tmp_path / "run", 2)
    logs = sorted(path.name for path in (tmp_path / "run").glob("logs/*"))
    assert logs == ["process-0.log", "process-1.log"]


def test_accelerate_launch_starts_one_process_on_a_cpu_where_its_config_says_so(tmp_path, python):
    """A run in such a process is launched in test_readme."""
    code = "from accelerate import PartialState; state = PartialState(); print(state.num_processes, state.device)"
    (tmp_path / "script.py").write_text(code)
    assert accelerate_launch(python, "one_cpu", "script.py").split() == ["1", "cpu"]


@pytest.mark.parametrize("config", ["one_cpu", "two_cpu", "multi_gpu", "two_nodes"])
def test_the_accelerate_configs_are_ones_that_accelerate_takes(config):
    from accelerate.commands.config.config_args import load_config_from_file

    path = REPOSITORY / "examples" / "accelerate" / f"{config}.yaml"
    assert load_config_from_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"]


def test_an_accumulation_that_another_library_left_does_not_stop_the_steps():
    GradientState()._set_sync_gradients(False)
    arguments = DistillationArguments(dataset="d", student="s", teacher="t", output_dir="o")
    assert start_accelerator(arguments).sync_gradients


def test_what_the_users_configuration_of_accelerate_asks_for_is_refused_or_said(monkeypatch, caplog):
    arguments = DistillationArguments(dataset="d", student="s", teacher="t", output_dir="o")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert start_accelerator(arguments).gradient_accumulation_steps == 1
    assert "asks for bf16, which rd_hf takes from --bf16" in caplog.text
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    with pytest.raises(ArgumentError, match="torch.compile of the whole model.*examples/accelerate"):
        start_accelerator(arguments)


def test_a_model_is_never_the_last_holder_of_the_process_group(warm_python, tmp_path):
    """It would wait for gloo's threads under Python's lock, for which they may wait."""
    code = """
from pathlib import Path
import torch
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.runtime.processes import end_run, start_accelerator

def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")].count("pt_gloo_runloop")

accelerator = start_accelerator(DistillationArguments(teacher="t", student="s", dataset="d"))
model = accelerator.prepare(torch.nn.Linear(4, 2))
model(torch.ones(3, 4)).sum().backward()
end_run(accelerator)
before = threads()
accelerator.free_memory()
del model
assert 0 < before == threads(), (before, threads())
"""
    alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    done = warm_python.run("-c", code, cwd=tmp_path, environment=alone | {"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("items", "processes"), [(5, 2), (4, 2), (1, 3), (7, 3), (4, 3)])
def test_the_shares_of_the_processes_are_of_one_size_and_make_up_the_whole(items, processes):
    ranks = [SimpleNamespace(num_processes=processes, process_index=rank) for rank in range(processes)]
    shares = [share_of(list(range(items)), accelerator) for accelerator in ranks]
    assert len({len(share) for share in shares}) == 1
    assert [item for share in shares for item in share][:items] == list(range(items))


def test_a_program_distills_twice_in_two_processes(teacher, blobs_npz, tmp_path, job):
    """In folders of one name in both processes, also where that is the default; the second run ends too."""
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=1, eval_steps=1, method="rd_plus")
    del values["output_dir"]
    code = f"""
from itertools import count
import rd_hf
from rd_hf.training import distillation
rank = int(__import__("os").environ["RANK"])
number = count()
distillation._new_folder = lambda: f"runs/{{rank}}-{{next(number)}}"
for run in range(2):
    student = rd_hf.distill(**{values!r}, verbose=False)
    print(sum(value.double().sum().item() for value in student.state_dict().values()))
"""
    found = job(2, "-c", code)
    assert [done.returncode for done in found] == [0, 0], found[1].stderr[-3000:]
    assert len({*found[0].stdout.split(), *found[1].stdout.split()}) == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0-0", "0-1"]


def test_an_error_of_the_main_process_is_no_riddle_to_the_others(teacher, blobs_npz, tmp_path, job):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "of_the_user.txt").touch()
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=1)
    code = (
        "import os, sys; from rd_hf.cli import main; from rd_hf.training import distillation\n"
        "check = distillation.check_run_folder\n"
        "distillation.check_run_folder = lambda given: check(given) if os.environ['RANK'] == '0' else None\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    main_process, other = job(2, "-c", code, *options(values))
    assert main_process.returncode == 2 and "not empty" in main_process.stderr, main_process.stderr
    assert other.returncode == 1 and "Process 1 got no answer from process 0" in other.stderr, other.stderr
    assert "Traceback" not in other.stderr


def test_two_nodes_train_together(teacher, blobs_npz, tmp_path, warm_python):
    """With what two launchers, each with one process, tell their processes when they meet on the loopback address."""
    names = ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"]
    (tmp_path / "told.py").write_text(f"import json, os; print(json.dumps({{n: os.environ[n] for n in {names}}}))")
    port, nodes = free_port(), ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
    launchers = []
    for node in ("0", "1"):
        command = ["-m", "torch.distributed.run", *nodes, "--node_rank", node, "--master_port", port, "told.py"]
        launchers.append(warm_python.start(*command, cwd=tmp_path))
    told = []
    for finish in launchers:
        done = finish()
        assert done.returncode == 0, done.stderr[-3000:]
        told.append(json.loads(done.stdout))
    assert [(node["RANK"], node["LOCAL_RANK"]) for node in told] == [("0", "0"), ("1", "0")]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"} | EMPTY_PLOTS
    command = launched(teacher, blobs_npz, tmp_path / "run")
    for finish in [warm_python.start(*command, cwd=tmp_path, environment=meeting | node) for node in told]:
        done = finish()
        assert done.returncode == 0, done.stderr[-3000:]
    check(tmp_path / "run", 2)


def test_started_by_slurm_each_process_ends_with_the_code_of_the_run(teacher, blobs_npz, tmp_path, job):
    """The environment is what examples/slurm/distill.sbatch derives from SLURM's; there is no launcher in between."""
    for done in job(2, *launched(teacher, blobs_npz, tmp_path / "run", max_run_time=1e-9)):
        assert done.returncode == 85 and "Step 1 of 2 is saved" in done.stderr, done.stderr


def test_the_slurm_scripts_are_sound_shell():
    for path in (REPOSITORY / "examples" / "slurm").iterdir():
        subprocess.run(["bash", "-n", str(path)], check=True)


STUCK = "\n     while 'no answer' not in open('run/logs/process-0.log').read(): time.sleep(0.1)"


@pytest.mark.parametrize("fault", [STUCK, "os.kill(os.getpid(), 9)"], ids=["stuck", "killed"])
def test_a_process_that_does_not_answer_is_named(teacher, blobs_npz, tmp_path, job, fault):
    script = (
        "import os, sys, time; from rd_hf.cli import main; from rd_hf.training.step import Update\n"
        "call = Update.__call__\n"
        "def stuck(self, step, batches):\n"
        "    if step == 1 and self.accelerator.process_index == 1: FAULT\n"
        "    return call(self, step, batches)\n"
        "Update.__call__ = stuck\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    values = launched(teacher, blobs_npz, tmp_path / "run", process_timeout=0.2)[2:]
    done, _ = job(2, "-c", script.replace("FAULT", fault), *values)
    assert done.returncode == 1
    expected = f"Process 0 got no answer from process 1 on {socket.gethostname()}"
    assert expected in done.stderr, done.stderr[-3000:]
    assert expected in Path(tmp_path / "run" / "logs" / "process-0.log").read_text()
