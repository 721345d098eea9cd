"""The notebook: its cells run in their order, on tiny models with two steps per training, and publish the student."""

import json

from conftest import REPOSITORY
from pages import make_workplace

NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
SMALLER = {
    "load_digits()": "load_digits(n_class=3)",
    "digits.images / 16": "digits.images[:120] / 16",
    "digits.target}": "digits.target[:120]}",
    "range(10)": "range(3)",
    "shots=10": "shots=5",
    "max_steps=200": "max_steps=2, per_device_train_batch_size=8",
    "use_unlabeled=True": "use_unlabeled=True, per_device_unlabeled_batch_size=8",
    "num_views=2": "num_views=1",
}


def cells(kind: str) -> list[dict]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_every_cell_runs(client, server, tmp_path, monkeypatch):
    make_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    for text, smaller in SMALLER.items():
        assert text in code
        code = code.replace(text, smaller)
    done = client("-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if "AUROC" in line] == [
        "student", "reprogrammed teacher", "student alone",
    ]  # fmt: skip
    assert "model.safetensors" in server.repos["me/digits-student"].at("main").files


def test_it_is_stored_without_results():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
