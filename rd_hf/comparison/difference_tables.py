"""Tables of paired differences in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .statistics import Difference, difference_over_cells, holm, paired_difference
from .tables import by_method, distinct_shots, has_seeds, head, line_of, method_title

if TYPE_CHECKING:
    from .runs import Run

SIGNIFICANT = 0.05


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
        for name, own in groups.items():
            own = {r.cell.seed: r for r in own if r.row["shots"] == shots and r.cell.seed in of_reference}
            if name != reference and own:
                resampled = np.concatenate([run.resampled_scores for run in own.values()], axis=1)
                same_seeds = np.concatenate([drawn[seed] for seed in own], axis=1)
                found[name, shots] = paired_difference(resampled, same_seeds)
    corrected = _corrected(found)
    lines = [
        _head_of_differences(groups[reference], ""),
        "",
        *head(runs[0].shots_title, columns),
    ]
    for name, own in groups.items():
        if name != reference:
            entries = [_difference(found.get((name, s)), corrected.get((name, s))) for s in columns]
            lines.append(line_of(method_title(own[0]), entries))
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
    seeds = " or ".join(map(str, sorted({len(block[0]) for block in blocks})))
    lines = [
        _head_of_differences(groups[reference], f" over {columns}, of {seeds} seed{'s' * (seeds != '1')} each"),
        "",
        *head("", ["mean over these columns"]),
    ]
    for name, difference in found.items():
        lines.append(line_of(method_title(groups[name][0]), [_difference(difference, corrected.get(name))]))
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


def _reference(groups: dict[str, list[Run]]) -> str | None:
    if "rd" in groups:
        return "rd"
    for wanted in ("rd", "drd"):
        for name, own in groups.items():
            if own[0].cell.entry.method.name == wanted:
                return name
    return None


def _corrected(found: dict[Any, Difference]) -> dict[Any, float]:
    """The p-values of a table's differences after Holm's correction; none where one seed gives none."""
    tested = {key: difference.p_value for key, difference in found.items() if not np.isnan(difference.p_value)}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _head_of_differences(reference: Sequence[Run], where: str) -> str:
    first, several = reference[0], has_seeds(reference)
    what = (
        f", with the 95 % interval of this one difference over seeds and test {first.case}s, and the p-value after "
        "Holm correction over this table."
        if several
        else ". One seed gives neither an interval nor a p-value."
    )
    return f"Difference from {method_title(first)}{where}{what}"


def _difference(found: Difference | None, p_value: float | None) -> str:
    if found is None:
        return ""
    if np.isnan(found.mean):
        return "undefined"
    if p_value is None:  # one seed, or nothing varies
        return f"{found.mean:+.3f}"
    shown = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    text = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}; p {shown})"
    return f"**{text}**" if p_value < SIGNIFICANT else text
