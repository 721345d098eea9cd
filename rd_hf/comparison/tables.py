"""Tables of a comparison in Markdown: scores with ranks, and costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from .methods import METHODS

if TYPE_CHECKING:
    from ..students.cost import Cost
    from .runs import Run


def score_table(runs: Sequence[Run], split: str) -> str:
    """The score on a split, mean and standard deviation over seeds, for each method and number of labels; best in bold.

    The rank is averaged over the numbers of labels. A method with fewer runs than others of a column is neither best
    there nor ranked. Best are all that show the same three digits.
    """
    columns, groups = distinct_shots(runs), by_method(runs)
    values = {name: [metric_values(own, shots, split) for shots in columns] for name, own in groups.items()}
    means = _comparable_means(values)
    best = [np.nanmax([*column, -1.0]) for column in zip(*means.values(), strict=True)]
    ranks = _ranks(means)
    seeds = sorted({run.cell.seed for run in runs})
    mean = "with seed" if len(seeds) == 1 else "mean (standard deviation) over seeds"
    lines = [
        f"{runs[0].metric.title} on {split}, {mean} {', '.join(map(str, seeds))}; n is the number of runs if some are "
        "missing.",
        "",
        *head(runs[0].shots_title, [*columns, "rank"]),
    ]
    for name, own in groups.items():
        found = zip(values[name], means[name], best, strict=True)
        entries = [_entry(scores, _shows(mean) == _shows(high), len(seeds)) for scores, mean, high in found]
        lines.append(line_of(method_title(own[0]), [*entries, f"{ranks[name]:.1f}" if name in ranks else ""]))
    if any(run.cell.entry.method.role == "teacher" for run in runs):
        lines += ["", "† deploys the teacher itself."]
    return "\n".join(lines)


def teacher_table(runs: Sequence[Run]) -> str:
    """The test score of the teachers that methods have reprogrammed, mean and standard deviation over seeds.

    :return: "" where no method reprograms a teacher.
    """
    name = f"teacher_test_{runs[0].metric.name}"
    columns, groups = distinct_shots(runs), by_method(run for run in runs if name in run.row)
    if not groups:
        return ""
    lines = [
        f"{runs[0].metric.title} on test of the reprogrammed teachers themselves, which share the students' heads"
        + (": mean (standard deviation) over seeds." if has_seeds(runs) else "."),
        "",
        *head(runs[0].shots_title, columns),
    ]
    most = len({run.cell.seed for run in runs})
    for own in groups.values():
        values = [[run.row[name] for run in own if run.row["shots"] == shots] for shots in columns]
        entries = [_entry(scores, False, most) for scores in values]
        lines.append(line_of(f"teacher of {method_title(own[0])}", entries))
    return "\n".join(lines)


def overview_table(runs: Sequence[Run]) -> str:
    """Mean test score of each method on every data set side by side, best of each in bold; n: of fewer runs.

    The last column is the mean over the others, for methods that have them all.
    """
    found = {(run.cell.data, run.row["shots"]) for run in runs}
    data_sets = dict.fromkeys(run.cell.data for run in runs)
    columns = [(data, shots) for data in data_sets for shots in distinct_shots(runs) if (data, shots) in found]
    groups = by_method(runs)
    values = {
        name: [metric_values([run for run in own if run.cell.data == data], s, "test") for data, s in columns]
        for name, own in groups.items()
    }
    most, means = _most(values), _comparable_means(values)
    best = [np.nanmax([*column, -1.0]) for column in zip(*means.values(), strict=True)]
    titles = [f"{_cell(data)} {shots}" for data, shots in columns]
    lines = head(f"test {runs[0].metric.title}" + ", mean over seeds" * has_seeds(runs), [*titles, "mean"])
    over_all = {name: np.mean(own) for name, own in means.items()}
    highest = np.nanmax([*over_all.values(), -1.0])
    for name, own in groups.items():
        found = zip(values[name], means[name], best, most, strict=True)
        entries = [
            _entry(scores, _shows(mean) == _shows(high), number, spread=False) for scores, mean, high, number in found
        ]
        is_highest = _shows(over_all[name]) == _shows(highest)
        entries.append("" if np.isnan(over_all[name]) else _entry([over_all[name]], is_highest, 1))
        lines.append(line_of(method_title(own[0]), entries))
    return "\n".join(lines)


def cost_table(runs: Sequence[Run], costs: dict[str, Cost]) -> str:
    """What each method trains and deploys, and what it costs."""
    shown = " or ".join(dict.fromkeys(run.shown for run in runs))
    cases = " and ".join(dict.fromkeys(f"{run.case}s" for run in runs))
    lines = [
        "Training time is the mean over runs, with the probe that a method learns from and the teacher's passes that "
        "no earlier run had cached, perhaps beside other runs. Memory is the median peak of a training, beyond its "
        f"models and {cases}. If a method trains the teacher first, training time, memory and trained parameters are "
        f"those of its second training. GFLOP and latency are per {shown}, on this machine's CPU.",
        "",
        f"| | trained parameters | training, s | memory, MiB | deployed parameters | GFLOP per {shown} | latency, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, own in _by_cost(runs):
        cost = costs[own[0].cost_key]
        memory = [run.row["training_memory_mib"] for run in own if run.row["training_memory_mib"] not in ("", None)]
        trained, deployed = (own[0].row[f"{kind}_parameters"] for kind in ("trained", "deployed"))
        entries = [
            f"{trained:,}",
            f"{statistics.mean(run.row['seconds'] for run in own):.0f}",
            f"{statistics.median(memory):.0f}" if memory else "",
            f"{deployed:,}",
            f"{cost.gflop:.3g}" if cost.gflop < 100 else f"{cost.gflop:,.0f}",
            "" if cost.milliseconds is None else f"{cost.milliseconds:.1f}",
        ]
        lines.append(line_of(title, entries))
    return "\n".join(lines)


def has_seeds(runs: Iterable[Run]) -> bool:
    """Whether the runs have several seeds, over which there is a mean."""
    return len({run.cell.seed for run in runs}) > 1


def distinct_shots(runs: Iterable[Run]) -> list:
    """Numbers of labels, ascending; "all" last."""
    found = {run.row["shots"] for run in runs}
    return sorted(found, key=lambda shots: (shots == "all", shots if shots != "all" else 0))


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs under the name of their method, in the order of the comparison."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.cell.entry.name].append(run)
    return dict(groups)


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that cost the same by the name of their method, and of their teacher if there are several."""
    several = len({run.cell.teacher for run in runs if run.cell.teacher}) > 1
    of_both = {run.cell.entry.name for run in runs if run.cell.unlabelled}  # with and without the unlabelled rest
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        without = "all labels" if run.row["shots"] == "all" else "without unlabelled"
        rows = f", {'with unlabelled' if run.cell.unlabelled else without}" if run.cell.entry.name in of_both else ""
        teacher = f", {run.cell.teacher}" if several and run.cell.teacher else ""
        groups[method_title(run) + teacher + rows].append(run)
    return dict(groups)


def _by_cost(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Groups of `by_title` that cost the same, with the data sets in the title where these make a difference."""
    for title, own in by_title(runs).items():
        groups = {key: [run for run in own if run.cost_key == key] for key in dict.fromkeys(r.cost_key for r in own)}
        for alike in groups.values():
            names = ", ".join(dict.fromkeys(run.cell.data for run in alike))
            yield (title if len(groups) == 1 else f"{title}, {names}"), alike


def method_title(run: Run) -> str:
    """A method's name in tables: its title, or the name that the comparison gives it."""
    entry = run.cell.entry
    title = METHODS[entry.name].title if entry.name in METHODS else entry.name
    return f"{title} †" if entry.method.role == "teacher" else title


def head(corner: str, columns: Sequence[object]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {corner} | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]


def _cell(name: str) -> str:
    """A name that does not end its cell of a Markdown table."""
    return name.replace("|", "\\|")


def line_of(name: str, entries: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {_cell(name)} | " + " | ".join(entries) + " |"


def metric_values(runs: Iterable[Run], shots: object, split: str) -> list[float]:
    """The scores of the runs with this number of labels."""
    return [run.row[f"{split}_{run.metric.name}"] for run in runs if run.row["shots"] == shots]


def _most(values: dict[str, list[Sequence[float]]]) -> list[int]:
    """The largest number of values that a method has, per column."""
    return [max(map(len, column)) for column in zip(*values.values(), strict=True)]


def _comparable_means(values: dict[str, list[Sequence[float]]]) -> dict[str, list[float]]:
    """Means by name and column; NaN if another method has more values in that column."""
    most = _most(values)
    return {
        name: [statistics.mean(v) if v and len(v) == n else np.nan for v, n in zip(own, most, strict=True)]
        for name, own in values.items()
    }


def _ranks(means: dict[str, list[float]]) -> dict[str, float]:
    """Mean ranks of the methods that have all values; equal values share theirs."""
    complete = {name: own for name, own in means.items() if not np.isnan(own).any()}
    if not complete:
        return {}
    ranks = rankdata(-np.array(list(complete.values())), axis=0).mean(axis=1)
    return dict(zip(complete, ranks.tolist(), strict=True))


def _shows(value: float) -> str:
    """What a table shows of a score."""
    return f"{value:.3f}"


def _entry(values: Sequence[float], is_best: bool, seeds: int, spread: bool = True) -> str:
    if not values:
        return ""
    if np.isnan(values).any():
        return "undefined"
    deviation = f" ({_shows(statistics.stdev(values))})" if spread and len(values) > 1 else ""
    text = _shows(statistics.mean(values)) + deviation
    text += f" n {len(values)}" if len(values) < seeds else ""
    return f"**{text}**" if is_best else text
