"""What a comparison says of its runs: paired differences, corrected p-values, ranks, tables, costs."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.stats import t, ttest_1samp, ttest_rel
from sklearn.metrics import roc_auc_score

from rd_hf.comparison.difference_tables import _difference, difference_table, overall_table
from rd_hf.comparison.figures import plot_scores
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Cell, Entry
from rd_hf.comparison.runs import Run
from rd_hf.comparison.statistics import (
    SAMPLES,
    Difference,
    difference_over_cells,
    holm,
    mask_score_resamples,
    paired_difference,
    score_resamples,
)
from rd_hf.comparison.tables import cost_table, overview_table, score_table
from rd_hf.scoring.classification import METRIC_NAMES
from rd_hf.students.cost import Cost


def predictions(seed: int, skill: float, images: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes that are right the more often the larger `skill` is; labels are always the same."""
    labels = np.arange(images) % 2
    noise = np.random.default_rng(seed).normal(size=images)
    positive = 1 / (1 + np.exp(-(skill * (2 * labels - 1) + noise)))
    return np.stack([1 - positive, positive], axis=1), labels


def test_the_first_row_is_the_score_and_the_others_those_of_stratified_resamples():
    run = predictions(0, 0.5)
    scores = score_resamples([run, predictions(1, 0.5)], "auroc")
    assert scores.shape == (1 + SAMPLES, 2)
    assert scores[0, 0] == pytest.approx(roc_auc_score(run[1], run[0][:, 1]))
    expected = np.std([_resampled(run, seed) for seed in range(400)])
    assert scores[1:, 0].std() == pytest.approx(expected, rel=0.15)
    accuracy = score_resamples([run], "accuracy")
    assert accuracy[0, 0] == pytest.approx((run[0].argmax(axis=1) == run[1]).mean())


def test_scores_of_classes_are_drawn_by_patient_where_there_are_some():
    probabilities, labels = predictions(0, 0.5, 24)
    copies = np.repeat(probabilities, 10, axis=0), np.repeat(labels, 10)  # ten images of each of 24 patients
    together = score_resamples([copies], "auroc", np.repeat(np.arange(24), 10))
    apart = score_resamples([copies], "auroc", np.arange(240))
    assert together[0] == apart[0] and np.isfinite(together).all()
    assert together[1:].std() == pytest.approx(10**0.5 * apart[1:].std(), rel=0.25)
    assert (score_resamples([copies], "auroc") == apart).all()


def _resampled(run, seed) -> float:
    generator = np.random.default_rng(1000 + seed)
    rows = np.concatenate([generator.choice(np.flatnonzero(run[1] == k), (run[1] == k).sum()) for k in (0, 1)])
    return roc_auc_score(run[1][rows], run[0][rows, 1])


def mask_rows(seed: int, skill: float, images: int = 60) -> np.ndarray:
    """Rows of a background, a class that most images have and one that few have."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((images, 3, 3))  # true positives, false positives, false negatives of each class
    for number, row in enumerate(rows):
        for k in (1, 2) if number % 20 == 0 else (1,):
            right = int(generator.binomial(100, skill))
            row[:, k] = right, 100 - right, generator.integers(0, 50)
        row[0, 0] = 1000
    return rows.reshape(images, 9).astype(np.float32)


def test_scores_of_masks_are_drawn_by_image():
    rows = mask_rows(0, 0.7)
    scores = mask_score_resamples(rows, np.arange(60), ["background", "often", "seldom"], "dice")
    assert scores.shape == (1 + SAMPLES, 1) and np.isfinite(scores).all()  # also where no drawn image has the third
    right, extra, missed = rows.reshape(60, 3, 3).swapaxes(0, 1)
    with np.errstate(invalid="ignore"):
        dice = (2 * right / (2 * right + extra + missed))[:, 1:]
    assert scores[0, 0] == pytest.approx(np.nanmean(dice, axis=0).mean())
    generator = np.random.default_rng(1)
    drawn = [dice[:, 0][generator.integers(60, size=60)].mean() for _ in range(500)]
    two = rows.reshape(60, 3, 3)[:, :, :2].reshape(60, 6)
    alone = mask_score_resamples(two, np.arange(60), ["background", "often"], "dice")
    assert alone[1:, 0].std() == pytest.approx(np.std(drawn), rel=0.15)
    copies = np.tile(two[:6], (10, 1))  # ten images of each of six patients
    together, apart = (
        mask_score_resamples(copies, unit_of, ["background", "often"], "dice")
        for unit_of in (np.arange(60) % 6, np.arange(60))
    )
    assert together[0] == apart[0] and together[1:].std() == pytest.approx(10**0.5 * apart[1:].std(), rel=0.15)
    names = ["background", "often", "seldom"]
    better, worse = (
        [mask_score_resamples(mask_rows(seed, skill), np.arange(60), names, "dice") for seed in range(3)]
        for skill in (0.9, 0.6)
    )
    found = paired_difference(np.concatenate(better, axis=1), np.concatenate(worse, axis=1))
    assert found.p_value < 0.05 and found.mean > 0.1


def test_a_difference_is_found_where_there_is_one_and_only_there():
    better, worse = (score_resamples([predictions(s, k) for s in range(5)], "auroc") for k in (1.5, 0.3))
    found = paired_difference(better, worse)
    assert found.p_value < 0.01 and 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(float((better[0] - worse[0]).mean()))
    back = paired_difference(worse, better)
    assert back.mean == -found.mean and back.p_value == pytest.approx(found.p_value)
    same = paired_difference(better, better)
    assert same.mean == 0 and np.isnan([same.low, same.high, same.p_value]).all()  # nothing varies: there is no test


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("methods", [1, 14])
@pytest.mark.parametrize("of_images", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("of_reference", [1, 3])
def test_methods_that_do_not_differ_are_seldom_told_apart(seeds, methods, of_images, of_reference):
    """Columns of equal methods whose scores scatter by the seed (by 1; the reference's more) and by the images."""
    columns = 300 if methods == 1 else 60
    generator = np.random.default_rng(0)
    any_different, p_values = 0, []
    for _ in range(columns):
        scores = generator.normal(0, 1, (methods + 1, seeds))
        scores[0] *= of_reference
        scores += generator.normal(0, of_images, (methods + 1, 1))
        resampled = scores[:, None] + generator.normal(0, of_images, (methods + 1, 200, 1))
        drawn = np.concatenate([scores[:, None], resampled], axis=1)
        found = [paired_difference(own, drawn[0]) for own in drawn[1:]]
        p_values += [difference.p_value for difference in found]
        any_different += min(holm(p_values[-methods:])) < 0.05
    assert any_different / columns < 0.08 and np.mean(np.array(p_values) < 0.05) < 0.08 and max(p_values) > 0.5


def test_without_a_spread_over_images_one_pair_has_the_paired_t_test():
    one, two = np.random.default_rng(1).normal(size=(2, 6))
    found = paired_difference(*(np.tile(scores, (SAMPLES + 1, 1)) for scores in (one, two)))
    expected = ttest_rel(one, two)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))


def test_seeds_that_happen_to_agree_are_no_proof():
    """Without a spread there is no interval and no test, also where three seeds or four images agree by chance."""
    reference = np.zeros((SAMPLES + 1, 3))
    found = paired_difference(reference + 1.0, reference)
    assert found.mean == 1.0 and np.isnan([found.low, found.high, found.p_value]).all()
    few = np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), np.array([0, 0, 1, 1])
    perfect, wrong = (score_resamples([(p.astype(float), few[1])] * 2, "auroc") for p in (few[0], few[0][::-1]))
    assert np.isnan(paired_difference(perfect, wrong).p_value)


def test_one_seed_and_an_undefined_score_have_no_interval():
    one = score_resamples([predictions(0, 1.0)], "auroc")
    found = paired_difference(one, one - 0.1)
    assert found.mean == pytest.approx(0.1) and np.isnan([found.low, found.high, found.p_value]).all()
    reference = np.zeros((SAMPLES + 1, 3))
    undefined = paired_difference(reference * np.nan, reference)
    assert np.isnan(undefined.mean) and np.isnan(undefined.p_value)


def test_the_difference_over_all_cells_averages_the_cells_of_a_data_set_by_seed():
    """Without any spread of images it is Student's test on the seeds' means; images widen the interval."""
    first, second = np.array([0.1, 0.3, 0.2, 0.4]), np.array([0.3, 0.1, 0.4, 0.2])
    without = [np.tile(own, (1 + SAMPLES, 1)) for own in (first, second)]
    alone, test = difference_over_cells([[without[0]]]), ttest_1samp(first, 0)
    assert (alone.mean, alone.p_value) == pytest.approx((first.mean(), test.pvalue))
    assert (alone.low, alone.high) == pytest.approx(tuple(test.confidence_interval()))
    opposite = difference_over_cells([without])  # the mean of each seed is .2 or .3
    test = ttest_1samp((first + second) / 2, 0)
    assert (opposite.mean, opposite.p_value) == pytest.approx((0.25, test.pvalue))
    two = difference_over_cells([without, [without[0] + 0.3]])  # counted by cells: (.25 + .25 + .55) / 3
    assert two.mean == pytest.approx(0.35)
    variances = (2 / 3) ** 2 * ((first + second) / 2).var(ddof=1) / 4, (1 / 3) ** 2 * first.var(ddof=1) / 4
    freedom = sum(variances) ** 2 / sum(own**2 / 3 for own in variances)  # Welch's: between 3 and 6
    assert two.high - two.mean == pytest.approx(t.ppf(0.975, freedom) * sum(variances) ** 0.5)
    images = np.random.default_rng(0).normal(size=(1 + SAMPLES, 1)) * [[0], *[[0.1]] * SAMPLES]
    wider = difference_over_cells([[without[0] + images]])
    spread = (first.var(ddof=1) / 4 + images[1:].var(ddof=1)) ** 0.5
    assert wider.mean == alone.mean and wider.high - wider.mean == pytest.approx(t.ppf(0.975, 3) * spread)
    one_seed = difference_over_cells([[own[:, :1]] for own in without])
    assert one_seed.mean == pytest.approx(0.2) and np.isnan([one_seed.low, one_seed.high, one_seed.p_value]).all()


def test_holm_by_hand():
    # sorted .01, .02, .03, .04: 4 * .01, 3 * .02, then max(.06, 2 * .03), max(.06, .04)
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.fixture
def make_run(tmp_path):
    """Makes the finished run of a method with predictions of some skill."""

    def make(method: str, skill: float, seed: int, shots: int | None = 10, score: float | None = None) -> Run:
        cell = Cell("blobs", "tiny", Entry(method, METHODS[method]), False, shots, seed)
        folder = tmp_path / cell.path
        folder.mkdir(parents=True)
        probabilities, labels = predictions(seed, skill)
        save_file({"test/probabilities": probabilities, "test/labels": labels}, folder / "predictions.safetensors")
        score = roc_auc_score(labels, probabilities[:, 1]) if score is None else score
        scores = dict.fromkeys(METRIC_NAMES, score)
        settings = {
            "learning_rate": 1e-3, "comparison_weight": 1.0, "student": {"model_type": "resnet"},
            "student_image_size": 32, "teacher": "tiny", "teacher_revision": None,
        }  # fmt: skip
        result = {
            "settings": settings, "test": scores, "validation": scores,
            "label_names": ["no", "yes"], "seconds": 2.5 + seed, "training_memory_mib": 100 * seed,
            "trained_parameters": 1234, "deployed_parameters": 1000, "rd_hf_version": "0",
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
        return Run(cell, tmp_path)

    return make


def test_the_table_of_scores_has_means_spreads_ranks_and_the_best_in_bold(make_run):
    runs = [make_run("ce", 0, seed, shots, 0.6 + 0.1 * seed) for seed in (0, 1) for shots in (10, None)]
    runs += [make_run("rd", 0, seed, shots, 0.7 + 0.1 * seed) for seed in (0, 1) for shots in (10, None)]
    runs += [make_run("linear_probe", 0, 0, 10, 0.9)]  # of one seed, and not with all labels: no rank, never the best
    table = score_table(runs, "test").splitlines()
    assert table[2] == "| labels per class | 10 | all | rank |"
    assert "| student alone | 0.650 (0.071) | 0.650 (0.071) | 2.0 |" in table
    assert "| RD | **0.750 (0.071)** | **0.750 (0.071)** | 1.0 |" in table
    assert "| linear probe † | 0.900 n 1 |  |  |" in table and table[-1] == "† deploys the teacher itself."


def test_the_table_of_differences_compares_same_seeds_and_marks_what_is_significant(make_run):
    runs = [make_run("rd", 1.5, seed) for seed in range(6)]
    runs += [make_run("ce", 0.0, seed) for seed in (1, 2, 3, 4, 5, 9)]  # RD has no run of seed 9
    runs += [make_run("drd", 1.5, seed) for seed in range(6)]
    table = difference_table(runs)
    alone = re.search(r"\| student alone \| \*\*([-+.\d]+) \((.*) to (.*); p (?:< )?0.0[0-4]\d\)\*\* \|", table)
    own = [roc_auc_score(y, p[:, 1]) for p, y in (predictions(s, 0.0) for s in range(1, 6))]
    reference = [roc_auc_score(y, p[:, 1]) for p, y in (predictions(s, 1.5) for s in range(1, 6))]
    assert float(alone[1]) == pytest.approx(np.mean(own) - np.mean(reference), abs=6e-4) and float(alone[3]) < 0
    assert "| DRD | +0.000 |" in table and "| RD |" not in table  # the same scores: nothing to test
    to_drd = difference_table(runs, "drd")
    assert "Difference from DRD" in to_drd and "| RD | +0.000" in to_drd and "| DRD |" not in to_drd
    assert difference_table(runs[6:12]) == "There are no differences, because there is no run of RD or DRD."
    assert difference_table(runs[6:12], "rd") == "There are no differences, because there is no run of rd."


def test_the_overview_has_the_data_sets_side_by_side(make_run):
    runs = [make_run(method, 0, seed, shots, score) for method, seed, shots, score in (
        ("ce", 0, 10, 0.6), ("ce", 1, 10, 0.7), ("rd", 0, 10, 0.7), ("rd", 1, 10, 0.7), ("rd", 0, None, 0.9),
        ("drd", 0, 10, 0.9),  # of one seed
    )]  # fmt: skip
    assert overview_table(runs).splitlines() == [
        "| test AUROC, mean over seeds | blobs 10 | blobs all | mean |",
        "|---|---|---|---|",
        "| student alone | 0.650 |  |  |",
        "| RD | **0.700** | **0.900** | **0.800** |",
        "| DRD | 0.900 n 1 |  |  |",
    ]


def test_one_test_over_all_columns_takes_the_seeds_that_all_of_them_have(make_run):
    runs = [make_run("rd", 1.0, seed, shots) for seed in range(5) for shots in (10, None)]
    runs += [make_run("ce", 0.0, seed, shots) for seed in range(5) for shots in (10, None)]
    runs += [make_run("drd", 1.0, seed, 10) for seed in range(5)]  # not with all labels: left out
    runs += [make_run("rd", 1.0, 9, 10), make_run("ce", 0.9, 9, 10)]  # with 10 labels only: not counted
    table = overall_table(runs)
    assert table.splitlines()[0].startswith("Difference from RD over all columns, of 5 seeds each")
    alone = re.search(r"\| student alone \| \*\*([-+.\d]+) \((.*) to (.*); p (?:< )?0.0[0-4]\d\)\*\* \|", table)
    scores = {
        skill: [roc_auc_score(y, p[:, 1]) for p, y in (predictions(s, skill) for s in range(5))] for skill in (0, 1)
    }
    assert float(alone[1]) == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]), abs=6e-4)
    assert "| DRD |" not in table and "| RD |" not in table
    of_drd = overall_table(runs, "drd")
    assert of_drd.startswith("Difference from DRD over the columns blobs 10, of 5 seeds each, with")
    assert "| RD | +0.000 |" in of_drd
    assert overall_table(runs, "at") == ""


def test_scores_that_a_rare_class_leaves_undefined_are_named_so_and_do_no_harm(make_run, tmp_path):
    runs = [
        make_run(method, 0.5, seed, shots, np.nan) for method in ("ce", "rd") for seed in (0, 1) for shots in (5, 10)
    ]
    assert "| student alone | undefined | undefined |  |" in score_table(runs, "test").splitlines()
    assert "| RD | undefined | undefined |  |" in overview_table(runs).splitlines()
    plot_scores(runs, "a|b $x$", tmp_path / "scores.png")
    assert (tmp_path / "scores.png").is_file()
    assert _difference(Difference(np.nan, np.nan, np.nan, np.nan), None) == "undefined"


def test_a_bar_in_a_name_does_not_end_its_cell(make_run):
    run = make_run("ce", 0.0, 0, 10, 0.6)
    run.cell = replace(run.cell, data="a|b")
    assert overview_table([run]).splitlines()[0] == "| test AUROC | a\\|b 10 | mean |"


def test_the_table_of_costs_has_a_row_for_each_cost(make_run):
    small, large = make_run("rd", 1.0, 0), make_run("rd", 1.0, 1)
    large.cell, large.cost_key = replace(large.cell, data="larger"), "another"
    table = cost_table([small, large], {small.cost_key: Cost(1000, 0.25, 3.14), "another": Cost(1000, 0.5, 6.28)})
    assert "| RD, blobs | 1,234 | 2 | 0 | 1,000 | 0.25 | 3.1 |" in table
    assert "| RD, larger | 1,234 | 4 | 100 | 1,000 | 0.5 | 6.3 |" in table


def test_the_table_of_costs_reads_what_was_measured(make_run):
    runs = [make_run("rd", 1.0, seed) for seed in (0, 1, 2)]
    table = cost_table(runs, {runs[0].cost_key: Cost(1000, 0.25, 3.14)})
    assert "| RD | 1,234 | 4 | 100 | 1,000 | 0.25 | 3.1 |" in table
