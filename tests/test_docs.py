"""The documentation: commands run, links and names lead somewhere, generated pages are up to date."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from pages import (
    DOCS,
    NOT_RUN,
    PAGES,
    Reader,
    check_arguments,
    code_spans,
    make_workplace,
    run_here,
    small,
    steps,
    text_of,
    to_run,
)  # fmt: skip

import rd_hf
from rd_hf.cli import CACHE_COMMANDS, COMMANDS
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Plan
from rd_hf.exports.web import runtime
from rd_hf.students.zoo import READY_STUDENTS

FIRST_RUN, STUDENTS = "docs/getting-started/first-run.md", "docs/how-to/choose-a-student.md"
EXPORTS, PUBLISHING = "docs/how-to/load-and-export.md", "docs/how-to/publish.md"
BROWSER = "docs/how-to/browser.md"
COMPARING, PYTHON, MAP = "docs/how-to/compare-methods.md", "docs/reference/python.md", "CONTRIBUTING.md"

OF_README = to_run("README.md")
TO_RUN = [page for page in PAGES if any(step not in OF_README for step in to_run(page))]
NOT_TO_RUN = sorted({step.text for page in PAGES for step in steps(page) if step.reason_not_to_run})
SMALLEST = ["resnet_tiny", "mobilenet_v2_0.35", "resnet_10_0.25", "mobilenet_v1_0.25"]
FOLDERS = ("examples/", "model_cards/", "docs/", "tests/", "rd_hf/")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workplace with the student of the first run and its ONNX form, which pages take for granted."""
    folder = make_workplace(tmp_path_factory.mktemp("workplace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for page, part in ((FIRST_RUN, "rd-hf distill"), (EXPORTS, "exports/onnx")):
            command = next(step.text for step in steps(page) if part in step.text)
            done = run_here("-m", "rd_hf", *small(command)[1:])
            assert done.returncode == 0, done.stderr
    return folder


def check_students(answers, folder, server):
    text = next(text for text in answers if text.startswith("rd-hf students"))
    header, *rows = answers[text].splitlines()
    names = [row.split()[0] for row in rows]
    assert names == SMALLEST
    shown = re.search(r"^name .*?(?=^```)", text_of(STUDENTS), flags=re.DOTALL | re.MULTILINE)[0].splitlines()
    assert header.split() == shown[0].split()
    configs = {row.split()[0]: row[row.index("'{") :] for row in rows}
    assert all(configs[row.split()[0]] == row[row.index("'{") :] for row in shown[1:])


def check_exports(answers, folder, server):
    assert next(answer for text, answer in answers.items() if "classify =" in text).strip().startswith("class_")
    plain, onnx, int8, scores = (json.loads(answer) for text, answer in answers.items() if text.startswith("rd-hf"))
    assert plain["max_abs_difference"] == 0 and onnx["max_abs_difference"] < 1e-4
    assert int8["scores"]["int8"]["accuracy"] == scores["accuracy"]
    assert f"opset {onnx['opset']}" in text_of(EXPORTS)


def check_publishing(answers, folder, server):
    assert {"me/xray-student", "me/xray-teacher"} == set(server.repos)
    sent = server.repos["me/xray-student"].at("main").files
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "roc.png"} <= set(sent)
    assert not any(str(folder).encode() in content or name.endswith(".py") for name, (content, _) in sent.items())
    loaded = next(answer for text, answer in answers.items() if text.startswith("AutoModel"))
    assert loaded.strip() == "ResNetForImageClassification"


def check_browser(answers, folder, server):
    page, int8, _ = answers.values()
    assert json.loads(page)["runtime"] == "linked" and json.loads(int8)["precision"] == "int8"
    sent = set(server.repos["spaces/me/xray-page"].at("main").files)
    here = folder / "exports" / "page"
    assert sent - {".gitattributes"} == {p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()}
    assert f"onnxruntime-web {runtime.VERSION}" in text_of(BROWSER)


def check_comparison(answers, folder, server):
    text = (folder / "runs/compare/results.md").read_text()
    assert "## xrays, teacher dinov2, with the unlabelled rest" in text and "| linear probe then KD |" in text
    spans = code_spans(COMPARING)
    assert set(METHODS) <= set(spans)
    ablation = yaml.safe_load(next(span for span in spans if span.startswith("{name: ")))
    Plan(ComparisonArguments(data={"x": {}}, teachers={"t": {"teacher": "t"}}, methods=[ablation], output_dir="x"))


CHECKS = {
    STUDENTS: check_students, EXPORTS: check_exports, PUBLISHING: check_publishing, COMPARING: check_comparison,
    BROWSER: check_browser,
}  # fmt: skip


@pytest.mark.parametrize("page", TO_RUN)
def test_every_command_and_python_block_of_a_page_runs(
    page, trained, python, client, server, job, tmp_path, monkeypatch
):
    """Those in `pages.NOT_RUN` aside, whatever stands in a block of a page is run here (README.md: in test_readme).

    Commands of rd-hf run in this process, those that accelerate launches in two.
    """
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    few = [student for student in READY_STUDENTS if student.name in (*SMALLEST, "vit_tiny")]
    monkeypatch.setattr("rd_hf.students.budget.INSTALLED_STUDENTS", few)
    if page == EXPORTS:
        shutil.rmtree(tmp_path / "exports")

    def run(*words):
        if words[:2] == ("-m", "rd_hf") and words[2] != "compare":  # which starts processes of its own
            return run_here(*words)
        if words[0] == "-c" or words[2] == "compare":
            return python(*words)
        done, other = job(2, *words[words.index("rd_hf") - 1 :])
        assert other.returncode == 0, other.stderr
        return done

    answers = Reader(run, client, server).read(page, but=OF_README)
    if page in CHECKS:
        CHECKS[page](answers, tmp_path, server)


@pytest.mark.parametrize("command", NOT_TO_RUN)
def test_the_arguments_of_a_command_that_is_not_run_are_right(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    check_arguments(command)


def test_nothing_is_excused_that_no_page_has():
    assert all(any(command.startswith(start) for command in NOT_TO_RUN) for start in NOT_RUN)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_in_a_language_that_is_run(page):
    """A block in another language, such as `sh`, would be overlooked."""
    languages = re.findall(r"^ *```([^\n]*)\n.*?^ *```", text_of(page), flags=re.DOTALL | re.MULTILINE)
    assert set(languages) <= {"", "bash", "python", "bibtex"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_flags_in_a_sentence_exist(page):
    generator = load_generator()
    fields = {name for kind in generator.ARGUMENTS.values() if kind for name in kind.__dataclass_fields__}
    for span in code_spans(page):
        words = span.split()
        if words[0] == "rd-hf" and len(words) > 1 and words[1] != "COMMAND" and page != "CHANGELOG.md":
            assert words[1] in COMMANDS, span
        if words[0] == "make":
            assert f"\n{words[1]}:" in text_of("Makefile"), span
        if page != "CONTRIBUTING.md":
            for flag in re.findall(r"(?<![\w-])--([a-z0-9_]+)", span):
                assert flag.removeprefix("no_") in fields | {"help", "config"}, span
        if span.startswith(FOLDERS):
            assert (REPOSITORY / span).exists(), span


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        if target.startswith("http"):
            continue
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}, anchor


def test_the_site_has_every_page():
    config = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert {f"docs/{page}" for page in re.findall(r"[\w/-]+\.md", config)} == set(DOCS)


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_cli", REPOSITORY / "docs" / "generate_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_reference_is_up_to_date():
    generator = load_generator()
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run: python docs/generate_cli.py"
    cache = [f"cache {command}" for command in CACHE_COMMANDS]
    assert set(generator.ARGUMENTS) == {*COMMANDS, *cache} - {"cache"}


def test_the_python_reference_has_every_public_name_from_its_own_module():
    listed = re.findall(r"^::: (\S+)$", text_of(PYTHON), flags=re.MULTILINE)
    assert set(listed) == {f"rd_hf.{module}.{name}" for name, module in rd_hf._MODULE_OF.items()}
    assert all(f"`rd_hf.{name}`" in text_of(PYTHON) for name in rd_hf._MODULE_OF)


def test_the_architecture_map_has_every_package():
    rows = re.findall(r"^\| \d \| `(\w+)` \| \w.* \|$", text_of(MAP), flags=re.MULTILINE)
    packages = {path.parent.name for path in REPOSITORY.glob("rd_hf/*/__init__.py")}
    assert packages <= set(rows) and len(rows) == len(set(rows))
