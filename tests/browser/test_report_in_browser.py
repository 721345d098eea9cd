"""The report page in a browser: no serious fault on any screen, and what a reader can do with pointer and keyboard."""

import pytest
from browser_pages import NARROW, WIDE, overflows, serious_violations
from report_facts import POINT, facts_of, mask_facts, multi_predictions, single_predictions

from rd_hf.pages.report import render_report

LONG = ["x" * 200, "<b>bold</b>", "שלום עربي", "normal", "other", "sixth", "seventh"]


def makers():
    """Facts of pages by name, made once."""
    return {
        "two classes": facts_of(single_predictions(120, ["benign", "malignant"]), point=POINT),
        "long names": facts_of(single_predictions(140, LONG), [f"{'folder' * 20}/{n}.png" for n in range(140)]),
        "many classes": facts_of(single_predictions(400, [f"class {n}" for n in range(100)]), samples=2),
        "labels": facts_of(multi_predictions(80, ["effusion", "nodule", "mass"])),
        "masks": mask_facts(),
        "two images": facts_of(single_predictions(2, ["a", "b"])),
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The files of pages by name."""
    folder = tmp_path_factory.mktemp("pages")
    for name, facts in makers().items():
        (folder / f"{name}.html").write_text(render_report(facts), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["two classes", "long names", "many classes", "labels", "masks", "two images"])
@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_a_page_has_no_serious_fault(pages, open_page, name, width, scheme):
    page = open_page(pages / f"{name}.html", width, scheme)
    for closed in page.locator("details:not([open]) > summary").all():
        closed.click()
    assert serious_violations(page) == [] and not overflows(page)


def test_the_operating_point_starts_where_it_was_stored_and_moves_by_keyboard(pages, open_page):
    page = open_page(pages / "two classes.html")
    predictions = single_predictions(120, ["benign", "malignant"])
    scores, truth = predictions.probabilities[:, 1], predictions.truth[:, 1]

    def shown():
        cells = page.locator("#rates tr").all_inner_texts()
        return [cell.split("\t") for cell in cells]

    assert page.locator("#class").input_value() == "1" and float(page.locator("#value").input_value()) == 0.2
    hits, alarms = (scores[truth] >= 0.2).sum(), (scores[~truth] >= 0.2).sum()
    assert f"{hits / truth.sum():.3f}" in shown()[0][1] and f"{hits} of {truth.sum()}" in shown()[0][0]
    assert f"{hits / (hits + alarms):.3f}" in shown()[2][1]
    page.locator("#point").focus()
    page.keyboard.press("Home")
    assert shown()[0][1].startswith("0.000") and "undefined" in shown()[2][1]
    page.keyboard.press("End")
    assert shown()[0][1].startswith("1.000") and shown()[1][1].startswith("0.000")
    page.get_by_role("button", name="Stored point").click()
    assert float(page.locator("#value").input_value()) == 0.2
    page.locator("#value").fill("0.7")
    page.locator("#value").press("Enter")
    assert f"{(scores[truth] >= 0.7).sum()} of {truth.sum()}" in shown()[0][0]


def test_predictive_values_follow_the_prevalence_and_images_of_1000_are_counted(pages, open_page):
    page = open_page(pages / "two classes.html")
    before = page.locator("#rates tr").nth(2).inner_text()
    page.locator("#prevalence").fill("1")
    after = page.locator("#rates tr").nth(2).inner_text()
    assert before.split("\t")[:2] == after.split("\t")[:2] and before != after
    assert "at a prevalence of 1.0 %, 10 have the class" in page.locator("#people").inner_text()


def test_a_press_on_the_curve_moves_the_point(pages, open_page):
    page = open_page(pages / "two classes.html")
    before = page.locator("#value").input_value()
    page.locator("#roc").scroll_into_view_if_needed()
    box = page.locator("#roc").bounding_box()
    page.locator("#roc").click(position={"x": 0.2 * box["width"], "y": 0.6 * box["height"]})
    assert page.locator("#value").input_value() != before


def test_a_cell_opens_its_images(pages, open_page):
    page = open_page(pages / "two classes.html")
    cell = page.locator("[data-cell='1,0']")
    count = int(cell.inner_text())
    cell.focus()
    page.keyboard.press("Enter")
    assert page.locator("#cell h3").inner_text() == "malignant, answered benign"
    assert page.locator("#cell li").count() == count and page.locator("#cell img").count() == count
    assert serious_violations(page) == []


def test_a_label_and_a_rare_confusion_open_theirs(pages, open_page):
    page = open_page(pages / "labels.html")
    page.locator("[data-cell='1,2']").click()
    assert page.locator("#cell h3").inner_text() == "nodule: missed"
    page = open_page(pages / "many classes.html")
    button = page.locator("[data-cell]").first
    count = int(button.inner_text())
    button.click()
    assert page.locator("#cell li").count() == count > 0


def test_charts_tell_their_values_to_the_arrow_keys(pages, open_page):
    page = open_page(pages / "two classes.html")
    chart = page.locator("svg[data-series]").last
    chart.focus()
    page.keyboard.press("Home")
    assert "total 1" in chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    assert "optimiser step 3: total 0.5" in chart.get_attribute("aria-valuetext")


@pytest.mark.parametrize("name", ["two classes", "masks"])
def test_the_page_asks_the_network_for_nothing(pages, open_page, name):
    page, asked = open_page("about:blank"), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((pages / f"{name}.html").resolve().as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
