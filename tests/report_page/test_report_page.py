"""A report page: its values are those of the scores, nothing in it escapes, and it stays small and on its own."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report_facts import POINT, facts_of, mask_facts, multi_predictions, noise, single_predictions

from rd_hf.pages.cells import confusion, entries
from rd_hf.pages.charts import histogram, line_chart, ticks
from rd_hf.pages.choice import Case, confident_errors, least_certain
from rd_hf.pages.curves import counts_at, curve_tables
from rd_hf.pages.facts import Curve, Gallery
from rd_hf.pages.pictures import Budget, jpeg, shown_galleries
from rd_hf.pages.reliability import bins, confidences
from rd_hf.pages.report import MOST_BYTES, render_report
from rd_hf.scoring.classification import CALIBRATION_BINS, Predictions, class_values
from rd_hf.scoring.operating_point import decisions

NASTY = [
    "</script><script>alert(1)</script>",
    "a&b\"'`${x}<",
    "שלום\u202e عربي",
    "日本\u2028語",
    "x" * 200,
    "{{ 7*7 }}",
]


class Page(HTMLParser):
    """What a page's HTML consists of: tags with their attributes, the text to read, and the values of its script."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self.values = [], [], ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = "values" if dict(attrs).get("id") == "values" else tag

    def handle_data(self, data):
        if self.inside == "values":
            self.values += data
        elif self.inside not in ("script", "style"):
            self.text.append(data)

    @property
    def scripts(self) -> int:
        return sum(tag == "script" for tag, _ in self.tags)


def test_the_scores_are_those_of_the_metrics():
    facts = facts_of(single_predictions(60, ["benign", "malignant", "normal"]))
    page = Page(render_report(facts))
    scores, text = facts.models[0].scores, " ".join(page.text)
    for metric in facts.metrics:
        low, high = scores["intervals"][metric.name]
        assert f"{scores[metric.name]:.3f}" in text and f"{low:.3f} to {high:.3f}" in text
    for value in scores["sensitivity"].values():
        assert f"{value:.3f}" in text
    cells = {attrs["data-cell"]: attrs["aria-label"] for _, attrs in page.tags if "data-cell" in attrs}
    for row, counts in enumerate(scores["confusion_matrix"]):
        for column, count in enumerate(counts):
            assert cells[f"{row},{column}"].startswith(f"{count} of {sum(counts)} ")
    assert "1\u202f234\u202f567" in text and "2.5 ms" in text


def test_a_page_of_masks_has_the_dice_of_each_class_and_image():
    facts = mask_facts()
    text = " ".join(Page(render_report(facts)).text)
    scores, dice = facts.models[0].scores, facts.masks.per_image["dice"]
    for name in ("lesion", "cyst"):
        assert f"{scores['dice_per_class'][name]:.3f}" in text
    assert f"Here are all {len(dice) - 1} " in text  # one image has no class, neither in truth nor in prediction
    assert f"{np.nanmean(dice[0]):.3f}" in text and "Two splits share one." in text
    assert "ROC" not in text and "Confusion" not in text


def test_names_and_files_cannot_break_out():
    predictions = single_predictions(60, NASTY)
    files = [f"<img src=x onerror=alert({n})>&quot;.png" for n in range(60)]
    files[1] = "caf\udce9.png"  # a name on disk that is not UTF-8
    html = render_report(facts_of(predictions, files)).encode().decode()
    page = Page(html)
    plain = Page(render_report(facts_of(single_predictions(60, list("abcdef")))))
    assert page.scripts == plain.scripts == 2
    assert not any("onerror" in attrs for _, attrs in page.tags) and "{{ 7*7 }}" in "".join(page.text)
    data = json.loads(page.values)
    assert data["names"] == NASTY and data["files"]["0"] == files[0] and data["files"]["1"] == "caf?.png"
    assert html.count("</script>") == 2


@pytest.mark.parametrize(
    "facts", [facts_of(single_predictions(30, ["a", "b"])), mask_facts()], ids=["classes", "masks"]
)
def test_nothing_is_fetched_from_anywhere(facts):
    html = render_report(facts)
    for tag, attrs in Page(html).tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:image/jpeg;base64,")), (tag, attrs)
    assert "default-src 'none'" in html and not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", html)
    assert re.findall(r"https?://[^\"' ]+", html) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize("shape", [(2000, 2), (2000, 500)], ids=["many images", "many classes"])
def test_a_page_stays_below_its_size(shape):
    count, classes = shape
    names = [f"{'é' * 190}{number}" for number in range(classes)] if classes > 2 else ["a", "b"]
    files = [f"folder/{'n' * 200}{number}.png" for number in range(count)]
    html = render_report(facts_of(single_predictions(count, names), files, samples=1))
    assert len(html.encode()) < MOST_BYTES


def test_pictures_take_turns_until_the_budget_is_used_up():
    facts = facts_of(single_predictions(90, ["a", "b", "c"]))
    budget = Budget(60_000)
    first, second = shown_galleries(facts.galleries, budget)
    assert abs(len(first["examples"]) - len(second["examples"])) <= 1 and first["examples"] and budget.left < 20_000
    assert len(first["examples"]) + first["left_out"] == 12
    assert len(jpeg(noise(500), 224, 6_000)) <= 6_000


@pytest.mark.parametrize("point", [None, POINT])
def test_counts_at_each_threshold_are_exact_also_where_some_are_left_out(monkeypatch, point):
    predictions = single_predictions(300, ["benign", "malignant"])
    monkeypatch.setattr("rd_hf.pages.curves.POINTS", 80)
    thresholds = {} if point is None else point["thresholds"]
    table = curve_tables(predictions, thresholds, class_values(predictions))[1]
    values, hits, alarms = (
        np.frombuffer(decoded(table[key]), kind) for key, kind in (("t", "<f8"), ("tp", "<u4"), ("fp", "<u4"))
    )
    scores, truth = predictions.probabilities[:, 1], predictions.truth[:, 1]
    assert len(values) < table["all"] and (np.diff(values) < 0).all()
    for value, hit, alarm in zip(values, hits, alarms, strict=True):
        assert hit == (scores[truth] >= value).sum() and alarm == (scores[~truth] >= value).sum()
    assert 0.5 in values and (point is None or 0.2 in values)
    assert (hits[-1], alarms[-1]) == (table["positives"], table["negatives"])


def decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


def test_equal_probabilities_are_one_threshold():
    values, hits, alarms = counts_at(np.array([0.5, 0.5, 1.0, 0.5]), np.array([True, False, True, True]))
    assert values.tolist() == [1.0, 0.5] and hits.tolist() == [1, 3] and alarms.tolist() == [0, 1]


def test_decisions_follow_the_operating_point():
    predictions = single_predictions(200, ["benign", "malignant", "normal"])
    probabilities, names = predictions.probabilities, ["benign", "malignant", "normal"]
    decided = decisions(probabilities, names, True, POINT)
    assert (decided == 1).sum() == (probabilities[:, 1] >= 0.2).sum()
    rest = decided != 1
    assert (decided[rest] == np.where(probabilities[rest, 0] >= probabilities[rest, 2], 0, 2)).all()
    assert (decisions(probabilities, names, True, None) == probabilities.argmax(axis=1)).all()
    several = decisions(probabilities, names, False, POINT)
    assert (several == (probabilities >= [0.5, 0.2, 0.5])).all()


def test_the_matrix_and_its_images_agree():
    for predictions in (single_predictions(120, list("abc")), multi_predictions(90, list("abcd"))):
        facts = facts_of(predictions)
        decided = decisions(predictions.probabilities, facts.names, predictions.exclusive, None)
        counts = confusion(facts, decided)["counts"]
        assert counts.tolist() == facts.models[0].scores["confusion_matrix"]
        found = np.zeros_like(counts)
        for _, row, column, _ in entries(facts, decided):
            found[(row, column) if predictions.exclusive else (row, column // 2, column % 2)] += 1
        assert (found <= counts).all() and (np.minimum(counts, 60) == found).all()
        sure = {}
        for _, row, column, probability in entries(facts, decided):
            sure.setdefault((row, column), []).append(probability if predictions.exclusive else abs(probability - 0.5))
        assert all(own == sorted(own, reverse=True) for own in sure.values())


def test_errors_come_surest_first_and_the_least_certain_closest_first():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.51, 0.49], [0.2, 0.8]])
    predictions = Predictions.check(probabilities, np.array([1, 1, 0, 1]), ["a", "b"], True)
    decided = decisions(probabilities, ["a", "b"], True, None)
    assert confident_errors(predictions, decided, None, 9) == [Case(0, 0), Case(1, 0)]
    assert [case.position for case in least_certain(predictions, decided, None, 2)] == [2, 1]
    point = {"rule": "youden", "thresholds": {"b": 0.15}}
    assert least_certain(predictions, decided, point, 1)[0].position == 0
    several = Predictions.check(np.array([[0.9, 0.45], [0.1, 0.05]]), np.array([[0, 1], [0, 1]]), ["a", "b"], False)
    wrong = decisions(several.probabilities, ["a", "b"], False, None)
    assert confident_errors(several, wrong, None, 9) == [Case(1, 1), Case(0, 0)]
    point = {"rule": "youden", "thresholds": {"b": 0.44, "a": 0.2}}  # 0.45 is hardly above it
    assert confident_errors(several, decisions(several.probabilities, ["a", "b"], False, point), point, 9) == [
        Case(0, 0), Case(1, 1),
    ]  # fmt: skip


def test_reliability_has_the_bins_of_the_calibration_error():
    predictions = single_predictions(400, list("abc"))
    confidence, right = confidences(predictions, predictions.probabilities)
    curve = bins(confidence, right, "t")
    number = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    sizes = np.bincount(number, minlength=CALIBRATION_BINS)
    error = np.abs(np.array(curve.values) - curve.steps) @ sizes[sizes > 0] / len(confidence)
    assert error == pytest.approx(facts_of(predictions).models[0].scores["expected_calibration_error"])


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1]], ids=["none", "one", "two images"])
def test_splits_that_lack_a_class_make_a_page(labels):
    probabilities = np.linspace(0.1, 0.9, len(labels))
    predictions = Predictions.check(
        np.stack([1 - probabilities, probabilities], axis=1), np.array(labels), ["a", "b"], True
    )
    html = render_report(facts_of(predictions))
    text = " ".join(Page(html).text)
    assert ("undefined" in text) == (len(set(labels)) == 1)
    assert ("too few" in text) == (len(labels) < 5)
    assert ('class="drawn">95 % interval</th>' in html) == (len(labels) >= 5)


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_an_axis_that_counts_has_whole_numbers(count):
    axis = str(histogram([0.5] * count, "Dice", "Dice", "images")["svg"])
    left = re.findall(r'text-anchor="end">([^<]+)<', axis)
    assert left[0] == "0" and len(left) > 1 and all(text.isdigit() for text in left)


def test_a_page_without_images_names_no_file_and_shows_none():
    facts = facts_of(single_predictions(40, ["a", "b"]))
    facts.with_images, facts.files, facts.galleries, facts.thumbnails = False, None, [], {}
    html = render_report(facts)
    assert "data:image/jpeg" not in html and "Not to be published" not in html and "Images to look at" not in html
    assert "Not to be published as it is" in render_report(facts_of(single_predictions(40, ["a", "b"])))


def test_calibration_and_subgroups_are_shown_where_there_are_any():
    facts = facts_of(single_predictions(40, ["a", "b"]))
    assert "Subgroups" not in render_report(facts)
    errors = {"ece_before": 0.1234, "ece_after": 0.0567}
    facts.calibration = {"temperature": 1.5, "validation": errors, "test": errors}
    facts.calibrated = facts.predictions.probabilities
    point = {
        name: {"value": 0.4321, "interval": [0.3, 0.6], "count": [1, 2]} for name in ("sensitivity", "specificity")
    }
    women = {"images": 21, "auroc": 0.8765, "intervals": {"auroc": [0.7, 0.95]}, "operating_point": {"b": point}}
    men = {"images": 19, "auroc": None, "intervals": {"auroc": None}, "operating_point": {"b": point}}
    facts.subgroups = {"sex<b>": {"F": women, "M": men}}
    page = Page(render_report(facts))
    text = " ".join(page.text)
    for shown in (
        "0.123",
        "0.057",
        "1.500",
        "sex<b>",
        "21",
        "0.876",
        "0.700 to 0.950",
        "0.432",
        "specificity at the point",
        "after temperature scaling",
    ):
        assert shown in text


def test_charts_leave_out_what_is_not_finite():
    chart = line_chart([Curve("a", [1, 2, 3], [0.1, float("nan"), float("inf")]), Curve("b", [], [])], "l", "x", "y")
    assert chart["legend"] == ["a"] and "nan" not in chart["svg"] and "inf" not in chart["svg"]
    assert line_chart([Curve("a", [1], [float("nan")])], "l", "x", "y")["empty"]
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and len(ticks(5, 5)) > 1


def test_a_gallery_without_images_says_so():
    facts = facts_of(single_predictions(40, ["a", "b"]))
    facts.galleries = [Gallery("Most confident errors", "…", [])]
    assert "There are none." in render_report(facts)
