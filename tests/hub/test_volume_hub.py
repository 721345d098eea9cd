"""A student of volumes is published with the code of its processor, and its card's own lines run without rd_hf."""

import nibabel as nib
import numpy as np
import pytest
from small_volumes import NAMES, saved_classifier, saved_segmenter, smooth, write_volume
from test_hub import files_of, push
from test_model_card import sample_facts, sample_scores
from without_rd_hf import BLOCKER

import rd_hf
from rd_hf.cards.card import render_card, write_card
from rd_hf.hub.publication import publishable_files
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.scoring.mask_metrics import segmentation_scores
from rd_hf.scoring.mask_rows import full_rows
from rd_hf.scoring.segmentation import VOLUMES, MaskRows
from rd_hf.tasks.segmentation import VolumeSegmentation

DATASET = {
    "id": "local", "config_name": None, "revision": None, "fingerprint": {},
    "volumes": {"channels": 1, "channel_axis": False},
}  # fmt: skip
PROCESSOR_CODE = {"image_processing_rd_volume.py", "volume_grid.py", "volume_sources.py"}


def facts_of(folder, **changes):
    """What the card of a student of volumes says."""
    return sample_facts(
        dataset=DATASET, teacher={"id": "local", "revision": None, "sha256": "f" * 64},
        preprocessing=RDVolumeProcessor.from_pretrained(folder).to_dict(), **changes,
    )  # fmt: skip


def facts_of_masks(folder):
    task = VolumeSegmentation(NAMES)
    masks = [smooth((9, 9, 9), seed).clip(0, 2).astype(np.uint8) for seed in (0, 1)]
    rows = MaskRows.of(full_rows(masks, masks[::-1], 3, [(1, 1, 2)] * 2), NAMES, VOLUMES)
    scores = segmentation_scores(rows, 20)
    return facts_of(
        folder, label_names=NAMES, metrics=task.metrics, results=task.card_template, pipeline_tag=task.pipeline_tag,
        problem_type=task.problem_type, images=task.figures_of_rows, scores=scores, other_scores=None,
        splits=[{"name": "test", "images": 2, "counts": [2, 2, 2]}], defaults={"metric_for_best_model": "dice"},
    )  # fmt: skip


def snippet(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def test_the_cards_lines_give_the_masks_of_predict_without_rd_hf(server, client, tmp_path):
    folder = saved_segmenter(tmp_path / "student", provenance={"method": "rd", "dataset": DATASET})
    write_card(folder, render_card(facts_of_masks(folder), "sample"))
    affine = write_volume(tmp_path / "volume.nii.gz", smooth((20, 26, 11), 4), axes="LSP")
    assert PROCESSOR_CODE | {"modeling_monai.py", "modeling_rd_segmentation.py"} <= set(publishable_files(folder))
    done = push(client, folder)
    assert done.returncode == 0, done.stderr
    published = files_of(server)
    assert set(published) >= PROCESSOR_CODE | {"modeling_monai.py", "preprocessor_config.json"}
    card = published["README.md"][0].decode()
    for line in (
        "A small volume segmenter for 3 classes",
        "| spacing | resampled to 1.5 x 1.5 x 1.5 mm, linearly |",
        "| windows | of 16 x 16 x 16 voxels, which overlap by 50 % |",
        "| intensities | from -100 to 200 in the units of the file (CT: Hounsfield units), brought to -1..1;",
        "HD95 is the 95 % Hausdorff distance of the surfaces, in millimetres.",
        "within 1 mm of each other",
        "| class | volumes with it | Dice | IoU | HD95, mm | surface Dice |",
    ):
        assert line in card, line
    assert "pixel" not in card.replace("pixel_values", "") and "an image" not in card
    (row,) = rd_hf.predict(str(folder), tmp_path / "volume.nii.gz")
    ran = client("-c", BLOCKER + snippet(card))
    assert ran.returncode == 0, ran.stderr
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), row["mask"]) and np.allclose(mask.affine, affine)
    assert str(row["voxels"]) in ran.stdout


def test_the_cards_lines_give_the_probabilities_of_predict(tmp_path, monkeypatch, capsys):
    folder = saved_classifier(tmp_path / "student")
    names = ["healthy", "ill"]
    scores = sample_scores()
    for measure in ("sensitivity", "specificity"):
        scores[measure] = dict.fromkeys(names, 0.7)
        scores["intervals"][measure] = {name: [0.6, 0.8] for name in names}
    facts = facts_of(
        folder, label_names=names, scores=scores, other_scores=None,
        splits=[{"name": "test", "images": 9, "counts": [5, 4]}],
    )  # fmt: skip
    card = render_card(facts, "sample")
    assert "| size | the whole volume is resized to 16 x 16 x 16 voxels |" in card
    assert "percentiles 0.5 and 99.5 of the volume, which become 0 and 1; then its mean and deviation" in card
    assert "over its volumes, stratified by class" in card and "Costs are per volume" in card
    write_volume(tmp_path / "volume.nii.gz", smooth((12, 16, 11), 4), axes="PIR")
    (row,) = rd_hf.predict(str(folder), tmp_path / "volume.nii.gz")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    exec(snippet(card).replace('model_id = "."', f'model_id = "{folder}"'), {})
    found = eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert found == pytest.approx(row["probabilities"], abs=1e-6)
