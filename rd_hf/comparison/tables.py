"""Tables of a comparison in Markdown: scores with ranks, paired differences, costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from .methods import METHODS
from .statistics import Difference, difference_over_cells, holm, paired_differences

if TYPE_CHECKING:
    from ..students.cost import Cost
    from .runs import Run

SIGNIFICANT = 0.05


def score_table(runs: Sequence[Run], split: str) -> str:
    """The score on a split, mean and standard deviation over seeds, for each method and number of labels; best in bold.

    The rank is averaged over the numbers of labels. A method with fewer runs than others of a column is neither best
    there nor ranked.
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
        *_head(runs[0].shots_title, [*columns, "rank"]),
    ]
    for name, own in groups.items():
        found = zip(values[name], means[name], best, strict=True)
        entries = [_entry(scores, mean == high, len(seeds)) for scores, mean, high in found]
        rank = f"{ranks[name]:.1f}" if name in ranks else ""
        lines.append(f"| {_cell(method_title(own[0]))} | " + " | ".join(entries) + f" | {rank} |")
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
        *_head(runs[0].shots_title, columns),
    ]
    for own in groups.values():
        values = [[run.row[name] for run in own if run.row["shots"] == shots] for shots in columns]
        entries = [_entry(scores, False, len(scores)) for scores in values]
        lines.append(f"| teacher of {_cell(method_title(own[0]))} | " + " | ".join(entries) + " |")
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
    lines = _head(f"test {runs[0].metric.title}" + ", mean over seeds" * has_seeds(runs), [*titles, "mean"])
    over_all = {name: np.mean(own) for name, own in means.items()}
    highest = np.nanmax([*over_all.values(), -1.0])
    for name, own in groups.items():
        found = zip(values[name], means[name], best, most, strict=True)
        entries = [_entry(scores, mean == high, number, spread=False) for scores, mean, high, number in found]
        entries.append("" if np.isnan(over_all[name]) else _entry([over_all[name]], over_all[name] == highest, 1))
        lines.append(f"| {_cell(method_title(own[0]))} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def difference_table(runs: Sequence[Run], reference: str | None = None) -> str:
    """Paired differences to one method, with 95 % intervals; significant ones (Holm over the table) in bold.

    :param reference: that method's name; by default rd, else the first one that is RD under another name, else DRD.
    """
    columns, groups = distinct_shots(runs), by_method(runs)
    reference = reference or _reference(groups)
    if reference not in groups:
        return f"There are no differences, because there is no run of {reference or 'RD or DRD'}."
    found: dict[tuple[str, object], Difference] = {}
    for shots in columns:
        of_reference = {r.cell.seed: r for r in groups[reference] if r.row["shots"] == shots}
        drawn = {seed: run.resampled_scores for seed, run in of_reference.items()}
        pairs = {}
        for name, own in groups.items():
            own = {r.cell.seed: r for r in own if r.row["shots"] == shots and r.cell.seed in of_reference}
            if name != reference and own:
                resampled = np.concatenate([run.resampled_scores for run in own.values()], axis=1)
                pairs[name, shots] = resampled, np.concatenate([drawn[seed] for seed in own], axis=1)
        found |= zip(pairs, paired_differences(list(pairs.values())), strict=True)
    corrected = _corrected(found)
    lines = [
        _head_of_differences(groups[reference], ""),
        "",
        *_head(runs[0].shots_title, columns),
    ]
    for name, own in groups.items():
        if name != reference:
            entries = [_difference(found.get((name, s)), corrected.get((name, s))) for s in columns]
            lines.append(f"| {_cell(method_title(own[0]))} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def overall_table(runs: Sequence[Run], reference: str | None = None) -> str:
    """Differences from one method as a mean over all data sets and numbers of labels; see `difference_over_cells`.

    It counts seeds with which the reference has a run for every number of labels of a data set, and names the columns
    that count if these are not all. A method that lacks one of these runs is left out, and so is a difference that a
    test split does not define.

    :param reference: as in `difference_table`.
    :return: "" if there is nothing to compare.
    """
    groups = by_method(runs)
    reference = reference or _reference(groups)
    drawn = {name: {(r.cell.data, r.row["shots"], r.cell.seed): r for r in own} for name, own in groups.items()}
    blocks = _blocks(drawn.get(reference, {}))
    places = [place for block in blocks for cell in block for place in cell]
    of_reference = {place: drawn[reference][place].resampled_scores for place in places}
    found: dict[str, Difference] = {}
    for name, own in drawn.items():
        if places and name != reference and own.keys() >= set(places):
            minus = {place: own[place].resampled_scores - of_reference[place] for place in places}
            columns = [[np.concatenate([minus[place] for place in cell], axis=1) for cell in block] for block in blocks]
            found[name] = difference_over_cells(columns)
    found = {name: difference for name, difference in found.items() if not np.isnan(difference.mean)}
    if not found:
        return ""
    corrected = _corrected(found)
    counted = {(data, shots): f"{data} {shots}" for data, shots, _ in places}
    has_all = len(counted) == len({(run.cell.data, run.row["shots"]) for run in runs})
    columns = "all columns" if has_all else "the columns " + ", ".join(counted.values())
    lines = [
        _head_of_differences(groups[reference], f" over {columns}"),
        "",
        *_head("", ["mean over these columns"]),
    ]
    for name, difference in found.items():
        lines.append(f"| {_cell(method_title(groups[name][0]))} | {_difference(difference, corrected.get(name))} |")
    return "\n".join(lines)


def _blocks(places: Iterable[tuple[str, object, int]]) -> list[list[list[tuple[str, object, int]]]]:
    """Runs by data set and then by number of labels, with the seeds that all numbers of labels of a data set have.

    :param places: data set, number of labels and seed of each run.
    """
    seeds: dict[str, dict[object, set[int]]] = defaultdict(lambda: defaultdict(set))
    for data, shots, seed in places:
        seeds[data][shots].add(seed)
    common = {data: sorted(set.intersection(*of.values())) for data, of in seeds.items()}
    return [[[(data, shots, s) for s in common[data]] for shots in of] for data, of in seeds.items() if common[data]]


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
            _cell(title),
            f"{trained:,}",
            f"{statistics.mean(run.row['seconds'] for run in own):.0f}",
            f"{statistics.median(memory):.0f}" if memory else "",
            f"{deployed:,}",
            f"{cost.gflop:.3g}" if cost.gflop < 100 else f"{cost.gflop:,.0f}",
            "" if cost.milliseconds is None else f"{cost.milliseconds:.1f}",
        ]
        lines.append("| " + " | ".join(entries) + " |")
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


def _head(corner: str, columns: Sequence[object]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {corner} | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]


def _cell(name: str) -> str:
    """A name that does not end its cell of a Markdown table."""
    return name.replace("|", "\\|")


def _reference(groups: dict[str, list[Run]]) -> str | None:
    if "rd" in groups:
        return "rd"
    for wanted in ("rd", "drd"):
        for name, own in groups.items():
            if own[0].cell.entry.method.name == wanted:
                return name
    return None


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


def _entry(values: Sequence[float], is_best: bool, seeds: int, spread: bool = True) -> str:
    if not values:
        return ""
    if np.isnan(values).any():
        return "undefined"
    text = f"{statistics.mean(values):.3f}" + (
        f" ({statistics.stdev(values):.3f})" if spread and len(values) > 1 else ""
    )
    text += f" n {len(values)}" if len(values) < seeds else ""
    return f"**{text}**" if is_best else text


def _corrected(found: dict[Any, Difference]) -> dict[Any, float]:
    """The p-values of a table's differences after Holm's correction; none where one seed gives none."""
    tested = {key: difference.p_value for key, difference in found.items() if not np.isnan(difference.p_value)}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _head_of_differences(reference: Sequence[Run], where: str) -> str:
    first, several = reference[0], has_seeds(reference)
    what = (
        f", with its 95 % interval over seeds and test {first.case}s, and the p-value after Holm correction over this "
        "table."
        if several
        else ". One seed gives neither an interval nor a p-value."
    )
    return f"Difference from {method_title(first)}{where}{what}"


def _difference(found: Difference | None, p_value: float | None) -> str:
    if found is None:
        return ""
    if np.isnan(found.mean):
        return "undefined"
    if p_value is None:  # one seed
        return f"{found.mean:+.3f}"
    text = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}; p {p_value:.3f})"
    return f"**{text}**" if p_value < SIGNIFICANT else text
