"""The model card: text and metadata of a run's student or reprogrammed teacher, and what keeps a user's edits.

A generated card ends with a comment that holds the hash of the text above it. A card whose hash does not fit, or that
has none, was written or edited by a person and is never replaced.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import validate_repo_id

from ..arguments.distillation import LICENSE
from ..arguments.values import listed
from ..runtime.files import write_text
from ..scoring.bootstrap import FEWEST_FOR_INTERVAL
from .image_notes import image_remarks, reading_steps

CARD_FILE = "README.md"
EVAL_RESULTS_FILE = ".eval_results/rd_hf.yaml"
LOCAL = "local"
DISTILLED = ("knowledge-distillation", "reprogramming-distillation")  # tags
# plots of a run that a card may show
IMAGES = (
    "curves.png", "cka.png", "stages.png", "confusion_matrix.png", "roc.png", "dice.png", "dice_images.png",
    "examples.png",
)  # fmt: skip
HERE = 'model_id = "."  # this folder; elsewhere its path, or the name of its repo on the Hub'
_MARKS = re.compile(r"[\\`*\[\]$~|]|(?<!\w)_|_(?!\w)")  # an underscore inside a word has no meaning
_ENTITY = re.compile(r"&(?=#?\w+;)")
_STAMP = re.compile(r"\n<!-- rd_hf card ([0-9a-f]{64}) -->\s*\Z")


class CardError(ValueError):
    """A card whose metadata the Hub would refuse."""


def render_card(facts: dict[str, Any], name: str) -> str:
    """The whole card, with metadata and stamp.

    :param facts: what `rd_hf.training.card_facts.card_facts` collects.
    :param name: the model's name in the Hub's index of results.
    :raises CardError: when its metadata is not valid.
    """
    own = {name: facts[name] for name in ("kind", "teacher", "needs_student_pixels", "needs_timm")}
    use = render_use("rd_hf", facts["dataset"], facts["pipeline_tag"], **own)
    results = _template(facts["results"]).render(**facts, has_intervals=_drawn_from(facts) >= FEWEST_FOR_INTERVAL)
    reads = _template("volumes.md").render(**facts) if _of_volumes(facts["dataset"]) else ""
    body = _template("template.md").render(**facts | {"results": results, "use": use, "reads": reads})
    text = f"---\n{metadata(facts, name).to_yaml()}\n---\n\n{body}"
    check_card(text)
    return stamp(text)


def _drawn_from(facts: dict[str, Any]) -> int:
    """The images of test that a bootstrap draws from, or the groups of them."""
    images = next(split["images"] for split in facts["splits"] if split["name"] == "test")
    return min(images, facts["scores"].get("groups") or images)


def render_use(form: str, dataset: dict[str, Any], pipeline_tag: str, **values: Any) -> str:
    """The section of a card that says how to use the model.

    :param form: "rd_hf" (with `kind`, `teacher`, `needs_student_pixels` and `needs_timm` of the card's facts),
        "transformers" (with `model_type`, and of volumes `network`, the expression that builds it), "onnx" (with its
        `report`) or "bundle".
    :param dataset: what is recorded of the training data.
    :param pipeline_tag: the Hub's name of the task.
    """
    shared = {"form": form, "pipeline_tag": pipeline_tag, "model_id_line": HERE, "steps": reading_steps(dataset)}
    shared |= {"channel_files": channel_files(dataset), "channels": dataset.get("volumes", {}).get("channels", 1)}
    template = "use_bundle.md" if form == "bundle" else "use_volumes.md" if _of_volumes(dataset) else "use.md"
    return _template(template).render(**shared, **values)


def _of_volumes(dataset: dict[str, Any]) -> bool:
    """Whether a model was trained on volumes, by what is recorded of its data."""
    return "volumes" in dataset


def channel_files(dataset: dict[str, Any]) -> int | None:
    """The files of each volume, where a model was trained on volumes with a file of each channel."""
    reading = dataset.get("volumes", {})
    in_files = reading.get("channels", 1) > 1 and not reading.get("channel_axis", False)
    return reading["channels"] if in_files else None


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "number": lambda value: f"{value:.3f}",
        "text": _text,
        "listed": listed,
        "code": _code,
        "model_link": lambda name: _link(name, ""),
        "image_remarks": image_remarks,
        "data_link": lambda name: _link(name, "datasets/"),
    }
    return environment.from_string((template_folder() / name).read_text(encoding="utf-8"))


def template_folder() -> Path:
    """The templates: beside this file where the package is installed, at the top of a checkout."""
    installed = Path(__file__).parents[1] / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "model_cards"


def shown_images(card: Path) -> set[str]:
    """The plots and pictures that a card names; none where there is no card."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return {name for name in IMAGES if re.search(rf"(?<![\w-]){re.escape(name)}", text)}


def read_metadata(path: Path) -> ModelCardData:
    """The metadata of a card that anybody may have written; empty where it is not YAML or not a card's."""
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (ValueError, yaml.YAMLError):
        return ModelCardData()


def metadata(facts: dict[str, Any], name: str) -> ModelCardData:
    """The card's metadata; of teacher, base and data only those that are on the Hub are named.

    The relation is that of the Hub: a student is fine-tuned from its base, projectors are an adapter of the teacher.
    """
    teacher = (facts["teacher"] or {}).get("id")
    origins = [facts["student_base"]["id"], teacher] if facts["kind"] == "student" else [teacher]
    bases = [origin for origin in origins if is_hub_id(origin)]
    dataset = facts["dataset"]
    return ModelCardData(
        base_model=bases or None,
        base_model_relation=("finetune" if facts["kind"] == "student" else "adapter") if bases else None,
        datasets=[dataset["id"]] if is_hub_id(dataset["id"]) else None,
        eval_results=_results(facts),
        library_name="transformers",
        license=facts["license"],
        metrics=sorted(metric.hub_name for metric in facts["metrics"] if metric.hub_name),
        model_name=name,
        pipeline_tag=facts["pipeline_tag"],
        tags=["rd_hf", *(DISTILLED if facts["teacher"] else ()), "medical", "vision"],
    )


def _results(facts: dict[str, Any]) -> list[EvalResult]:
    scores, dataset = facts["scores"], facts["dataset"]
    return [
        EvalResult(
            task_type=facts["pipeline_tag"],
            dataset_type=dataset["id"],
            dataset_name=dataset["id"],
            dataset_config=dataset["config_name"],
            dataset_revision=dataset["revision"],
            dataset_split="test",
            metric_type=metric.hub_name or metric.name,
            metric_name=metric.title,
            metric_value=round(scores[metric.name], 4),
        )
        for metric in facts["metrics"]
        if scores[metric.name] is not None
    ]


def eval_results(facts: dict[str, Any]) -> str | None:
    """The Hub's newer file of results, which it shows beside those of others on the same data; None for local data.

    It has room for one score of a task, so it is the one by which the model was chosen, on the test split.
    """
    dataset, scores = facts["dataset"], facts["scores"]
    titles = {metric.name: metric.title for metric in facts["metrics"]}
    metric = (facts["defaults"] | facts["arguments"])["metric_for_best_model"]
    if not is_hub_id(dataset["id"]) or scores[metric] is None:
        return None
    interval = scores["intervals"][metric]
    certain = "no interval" if interval is None else f"95 % bootstrap interval {interval[0]:.4f} to {interval[1]:.4f}"
    entry = EvalResultEntry(
        dataset_id=dataset["id"],
        task_id=dataset["config_name"] or "default",
        value=round(scores[metric], 4),
        dataset_revision=dataset["revision"],
        notes=f"{titles[metric]}, split test, {certain}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def check_card(text: str) -> None:
    """Check metadata as far as huggingface_hub does without the Hub: its parser, its results, its rules for ids.

    :raises CardError: naming what is wrong.
    """
    try:
        data = ModelCard(text, ignore_metadata_errors=False).data
        bases = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
        for name in [*bases, *(data.datasets or [])]:
            validate_repo_id(name)
    except ValueError as error:
        raise CardError(f"The model card's metadata is not valid: {error}") from error
    if data.license is not None and not LICENSE.fullmatch(data.license):
        raise CardError(
            f"`license` is {data.license!r}; it must be spelled as on the Hub, such as apache-2.0 or other."
        )


def origin_in_words(origin: str, local: str = "a local model") -> str:
    """The Hub id of a model or data set, or what stands for one that is not from the Hub."""
    return local if origin == LOCAL else origin


def is_hub_id(name: str | None) -> bool:
    """Whether a recorded origin is a repo of the Hub, and not a folder or a config."""
    return name is not None and name != LOCAL and " " not in name


def stamp(text: str) -> str:
    """`text` with the comment that tells a later write whether a person has changed it. It replaces an older one."""
    text = _STAMP.sub("", text).rstrip() + "\n"
    return f"{text}\n<!-- rd_hf card {_hash(text)} -->\n"


def is_edited(text: str) -> bool:
    """Whether a person wrote or changed this card."""
    found = _STAMP.search(text.replace("\r\n", "\n"))
    return found is None or _hash(_STAMP.sub("", text.replace("\r\n", "\n"))) != found.group(1)


def write_card(folder: Path, text: str) -> bool:
    """Write the card of `folder`, unless a person has edited the one that is there.

    :return: whether it was written.
    """
    path = folder / CARD_FILE
    if path.is_file() and is_edited(path.read_text(encoding="utf-8")):
        return False
    write_text(text, path)
    return True


def card_for(text: str, repo_id: str) -> str:
    """The card to upload to `repo_id`: a generated card names the repo in its snippet, an edited one stays as it is."""
    return text if is_edited(text) else stamp(text.replace(HERE, f'model_id = "{repo_id}"'))


def _hash(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()


def _text(value: Any) -> str:
    """A value as it is: it cannot break out of a table's cell, into HTML, or into a link, an emphasis or a formula."""
    text = _MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))
    return _ENTITY.sub("&amp;", text).replace("<", "&lt;")


def _code(value: Any) -> str:
    """The same in a span of code, inside which nothing but its end and the table's has a meaning."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")


def _link(name: str, folder: str) -> str:
    if is_hub_id(name):
        return f"[{name}](https://huggingface.co/{folder}{name})"
    return "local, not on the Hub" if name == LOCAL else _text(name)
