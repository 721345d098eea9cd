"""Each figure is written, shows what it was given, and stands a missing series or a single point."""

import warnings
from contextlib import contextmanager

import matplotlib
import numpy as np
import pytest
from PIL import Image

from rd_hf.scoring import drawn_names, plots
from rd_hf.scoring.classification import MetricError

HISTORY = [
    {
        "step": 10,
        "loss": 3.0,
        "supervised": 1.0,
        "hybrid": 1.2,
        "kl": 0.3,
        "cka_loss": 0.5,
        "cka/1": 0.1,
        "cka/2": -0.05,
    },
    {"step": 20, "loss": 2.0, "supervised": 0.8, "hybrid": 0.9, "kl": 0.2, "cka_loss": 0.1, "cka/1": 0.6, "cka/2": 0.4},
    {"step": 20, "validation/auroc": 0.8, "validation/accuracy": 0.7},
]


@pytest.fixture
def empty_plots():
    """Plots are drawn here."""


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that a test draws, to look at what is in them."""
    kept = []
    original = plots.new_figure

    @contextmanager
    def keeping(*arguments, **keywords):
        with original(*arguments, **keywords) as (figure, axes):
            kept.extend(axes)
            yield figure, axes

    monkeypatch.setattr(plots, "new_figure", keeping)
    return kept


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    """Label to points of the lines that the legend names."""
    return {
        line.get_label(): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
        for line in axes.get_lines()
        if not line.get_label().startswith("_child")
    }


def assert_figure(path):
    """A PNG that is more than a white page."""
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 5


def test_curves_show_each_recorded_term(tmp_path, drawn):
    plots.plot_curves(HISTORY, tmp_path / "curves.png")
    assert_figure(tmp_path / "curves.png")
    loss, validation = drawn
    assert lines(loss)["total"] == [(10, 3.0), (20, 2.0)]
    assert list(lines(loss)) == [
        "total",
        "supervised (student)",
        "hybrid (reprogrammed teacher)",
        "KL, hybrid to student",
        "1 - CKA, sum of stages",
    ]
    assert lines(validation) == {"accuracy": [(20, 0.7)], "AUROC": [(20, 0.8)]}


def test_curves_with_one_point_and_no_validation(tmp_path, drawn):
    plots.plot_curves([{"step": 1, "loss": 2.0, "kl": None}], tmp_path / "curves.png")
    assert_figure(tmp_path / "curves.png")
    assert list(lines(drawn[0])) == ["total"]
    assert drawn[0].get_lines()[0].get_marker() == "o"
    assert [text.get_text() for text in drawn[1].texts] == ["no validation recorded"]


def test_curves_sort_what_a_resumed_run_wrote(tmp_path, drawn):
    plots.plot_curves(HISTORY[::-1], tmp_path / "curves.png")
    assert lines(drawn[0])["total"] == [(10, 3.0), (20, 2.0)]


def test_cka_has_a_line_per_stage_in_order_and_room_for_negatives(tmp_path, drawn):
    history = [*HISTORY, {"step": 30, "cka/10": 0.2}]
    plots.plot_cka(history, tmp_path / "cka.png")
    assert_figure(tmp_path / "cka.png")
    assert list(lines(drawn[0])) == ["stage 1", "stage 2", "stage 10"]
    assert lines(drawn[0])["stage 2"] == [(10, -0.05), (20, 0.4)]
    low, high = drawn[0].get_ylim()
    assert low < -0.05 and high > 1


def test_cka_without_any(tmp_path, drawn):
    plots.plot_cka([{"step": 1, "loss": 1.0}], tmp_path / "cka.png")
    assert [text.get_text() for text in drawn[0].texts] == ["no CKA recorded"]


def test_stages_that_were_on_are_shown_with_what_was_expected_of_them(tmp_path, drawn):
    history = [
        {"step": 10, "loss": 1.0, "stages/1": 0.5, "stages/2": 0.5, "rewards/1": 0.2, "rewards/2": -0.1},
        {"step": 10, "validation/auroc": 0.8},
        {"step": 30, "loss": 0.5, "stages/1": 0.0, "stages/2": 1.0, "rewards/1": 0.1, "rewards/2": 0.4},
    ]
    plots.plot_stages(history, tmp_path / "stages.png")
    assert_figure(tmp_path / "stages.png")
    shown, rewards, *_ = drawn
    (mesh,) = shown.collections
    assert mesh.get_array().tolist() == [[0.5, 0.0], [0.5, 1.0]]
    assert sorted(set(mesh.get_coordinates()[0, :, 0])) == [0, 10, 30]
    assert lines(rewards)["stage 2"] == [(10, -0.1), (30, 0.4)]
    plots.plot_stages([{"step": 10, "stages/1": 1.0}], tmp_path / "one.png")
    assert_figure(tmp_path / "one.png")
    plots.plot_stages([{"step": 10, "loss": 1.0}], tmp_path / "none.png")
    assert_figure(tmp_path / "none.png")


def test_confusion_matrix_has_truth_in_rows_and_a_blank_row_for_an_empty_class(tmp_path, drawn):
    plots.plot_confusion_matrix(
        [[7, 1, 2], [3, 5, 2], [0, 0, 0]], ["benign", "malignant", "normal"], tmp_path / "m.png"
    )
    assert_figure(tmp_path / "m.png")
    cells = {text.get_position(): text.get_text() for text in drawn[0].texts}
    assert cells[(2, 0)] == "2" and cells[(0, 1)] == "3"  # (column, row)
    shares = np.asarray(drawn[0].images[0].get_array())
    np.testing.assert_allclose(shares, [[0.7, 0.1, 0.2], [0.3, 0.5, 0.2], [0, 0, 0]])
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == ("predicted", "true")


def test_confusion_matrices_of_several_labels(tmp_path, drawn):
    matrices = (np.arange(20).reshape(5, 2, 2) + 1).tolist()
    plots.plot_confusion_matrix(matrices, list("abcde"), tmp_path / "m.png")
    assert_figure(tmp_path / "m.png")
    shown = [axes.get_title() for axes in drawn if axes.get_visible()]
    assert shown == list("abcde") and len(drawn) == 8


def outputs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % classes
    logits = generator.normal(size=(60, classes)) + 1.5 * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_roc_of_two_classes_is_one_curve_with_its_area(tmp_path, drawn):
    from sklearn.metrics import roc_auc_score

    probabilities, labels = outputs(2)
    plots.plot_roc(probabilities, labels, ["normal", "pneumonia"], True, tmp_path / "roc.png")
    assert_figure(tmp_path / "roc.png")
    area = roc_auc_score(labels, probabilities[:, 1])
    assert list(lines(drawn[0])) == [f"pneumonia (AUROC {area:.3f})", "chance (AUROC 0.500)"]


def test_roc_names_a_class_without_curve(tmp_path, drawn):
    probabilities, labels = outputs(3)
    plots.plot_roc(probabilities, labels % 2, list("abc"), True, tmp_path / "roc.png")
    assert_figure(tmp_path / "roc.png")
    assert [label.split()[0] for label in lines(drawn[0])] == ["a", "b", "c:", "chance"]


def test_roc_of_several_labels_draws_both_of_two(tmp_path, drawn):
    probabilities, labels = outputs(2)
    plots.plot_roc(probabilities, np.eye(2, dtype=int)[labels], ["a", "b"], False, tmp_path / "roc.png")
    assert len(lines(drawn[0])) == 3


def test_roc_says_which_label_is_alike_and_which_is_not_known(tmp_path, drawn):
    probabilities, _ = outputs(3)
    truth = np.zeros(probabilities.shape)
    truth[::2, 0], truth[:, 2] = 1, np.nan
    plots.plot_roc(probabilities, truth, ["a", "b", "c"], False, tmp_path / "roc.png")
    _, alike, unknown, _ = lines(drawn[0])
    assert alike == "b: no curve, only positive or only negative images" and unknown == "c: no curve, no known label"


def test_roc_of_many_classes_gives_their_mean(tmp_path, drawn):
    plots.plot_roc(*outputs(12), list("abcdefghijkl"), True, tmp_path / "roc.png")
    assert [label.split(" (")[0] for label in lines(drawn[0])] == ["12 classes", "chance"]


def test_roc_refuses_logits(tmp_path):
    with pytest.raises(MetricError, match="logits"):
        plots.plot_roc(np.full((4, 2), 5.0), np.zeros(4, int), ["a", "b"], True, tmp_path / "roc.png")


LONG = [
    "ductal carcinoma in situ, high grade, with comedo necrosis and microcalcifications, margins involved, oestrogen +",
    "ductal carcinoma in situ, low grade, without comedo necrosis, with microcalcifications, margins free, oestrogen -",
]


@pytest.mark.parametrize(
    "names",
    [
        ["a$_low_$", "$\\frac{$"], ["_left", "__"], LONG, ["x" * 119 + "y", "x" * 120], ["سرطان الثدي", "ורם"],
        ["心房颤动", "benign"], ["bell \x07", "zero\u200bwidth\ufeff"], ["byte \udce9", ""], ["two\nlines", "tab\t"],
    ],
)  # fmt: skip
def test_any_name_is_drawn_without_a_warning(tmp_path, names):
    probabilities, labels = outputs(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exclusive, matrix, truth in ((True, (2, 2), labels), (False, (2, 2, 2), np.eye(2, dtype=int)[labels])):
            path = tmp_path / f"{exclusive}.png"
            plots.plot_confusion_matrix(np.ones(matrix, int), names, path)
            plots.plot_roc(probabilities, truth, names, exclusive, tmp_path / f"roc_{path.name}")
            assert_figure(path), assert_figure(tmp_path / f"roc_{path.name}")


def test_names_are_drawn_as_they_are(tmp_path, drawn):
    plots.plot_roc(*outputs(3), ["_a_", "b$c$", "d_e"], True, tmp_path / "roc.png")
    assert [text.get_text().split(" (")[0] for text in drawn[0].get_legend().get_texts()] == [
        "_a_", "b$c$", "d_e", "chance",
    ]  # fmt: skip
    assert not any(text.get_parse_math() for text in drawn[0].findobj(matplotlib.text.Text))


def test_long_names_stay_different_and_inside_the_figure(tmp_path, drawn):
    plots.plot_confusion_matrix([[1, 2], [3, 4]], LONG, tmp_path / "m.png")
    labels = drawn[0].get_yticklabels()
    assert [" ".join(label.get_text().split("\n")) for label in labels] == LONG
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image.convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all(), "letters reach the edge"
    longer = drawn_names.drawn_names([LONG[0] * 2 + tail for tail in ("a", "b")]).texts
    assert longer[0] != longer[1] and all("…" in text for text in longer)
    same = drawn_names.drawn_names(["x" * 300 + "1" + "x" * 100, "x" * 300 + "2" + "x" * 100]).texts
    assert [text[:3] for text in same] == ["0: ", "1: "]


def test_a_name_in_letters_of_no_font_is_a_number_and_another_font_is_used_where_there_is_one(monkeypatch):
    fonts = {}
    monkeypatch.setattr(drawn_names, "_installed_fonts", lambda: fonts)
    found = drawn_names.drawn_names(["benign", "心房"])
    assert found.texts == ["benign", "class 1"] and "no installed font" in found.note
    letters = drawn_names._letters
    fonts |= {"Latin": "latin.ttf", "Han": "han.ttf"}
    own = {"latin.ttf": frozenset(map(ord, "benign")), "han.ttf": frozenset(map(ord, "心房"))}
    monkeypatch.setattr(drawn_names, "_letters", lambda font: own[font] if font in own else letters(font))
    found = drawn_names.drawn_names(["benign", "心房"])
    assert found.texts == ["benign", "心房"] and found.families[-1] == "Han" and not found.note


def test_cells_shrink_where_a_matrix_would_be_too_large(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(plots, "LARGEST_MATRIX", 4.0)
    plots.plot_confusion_matrix(np.eye(12, dtype=int), list("abcdefghijkl"), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert max(image.size) < (4.0 + 2.5 + 1.5) * plots.DOTS_PER_INCH
    assert [text.get_text() for text in drawn[0].texts] == ["1"] * 12  # cells without images are blank


def test_importing_plots_is_light(light_python, tmp_path):
    code = "import sys, rd_hf.scoring.plots; assert not {'matplotlib', 'evaluate'} & set(sys.modules)"
    done = light_python.run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
