"""The scripts of the README's tables: what they print, and the cards that `examples/table.py` copies from its runs."""

import json
import re

from conftest import REPOSITORY
from huggingface_hub import ModelCard

import rd_hf


def test_the_cards_of_the_table_are_those_of_the_best_seeds_on_validation(blobs_npz, tmp_path, warm_python):
    student = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    runs, cards = tmp_path / "runs", tmp_path / "cards"
    cards.mkdir()
    for seed in (0, 1):
        rd_hf.distill(
            student=student, dataset=str(blobs_npz), method="ce", student_image_size=32, max_steps=1, seed=seed,
            output_dir=str(runs / "busi" / f"student_alone_seed{seed}"),
        )  # fmt: skip
        path = runs / "busi" / f"student_alone_seed{seed}" / "metrics.json"
        scores = json.loads(path.read_text())
        scores["validation"]["auroc"], scores["test"]["auroc"] = (0.6, 0.7) if seed else (0.5, 0.9)
        path.write_text(json.dumps(scores))
    line = ["examples/table.py", "--print_only", "--data", "busi", "--output_dir", str(runs), "--cards_dir", str(cards)]
    done = warm_python.run(*line, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "| student alone | 0.800 (0.141) |" in done.stdout
    assert [path.name for path in cards.iterdir()] == ["busi_student_alone.md"]
    card = (cards / "busi_student_alone.md").read_text()
    assert "This is the card of seed 1, the best of 2 seed(s) on validation;" in card and str(tmp_path) not in card
    assert "`seed` | `1`" in card
    assert not re.search(r"\]\([^h]", card) and "<!--" not in card  # no link to a file that is not there
    assert ModelCard(card).data.pipeline_tag == "image-classification"
