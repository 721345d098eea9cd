"""Tables of a comparison in Markdown: scores with ranks, paired differences to RD, costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .methods import METHODS
from .statistics import Difference, holm, paired_difference, score_resamples

if TYPE_CHECKING:
    from ..efficiency import Cost
    from .report import Run

METRIC = "auroc"
REFERENCE = "rd"
SIGNIFICANT = 0.05


def score_table(runs: Sequence[Run], split: str) -> str:
    """AUROC on a split, mean and standard deviation over seeds, for each method and number of labels; best in bold.

    The rank is that among the methods that were run for all numbers of labels, averaged over these.
    """
    columns, groups = shots_of(runs), by_method(runs)
    means = {name: {s: _mean(own, s, split) for s in columns} for name, own in groups.items()}
    best = {s: max((m[s] for m in means.values() if m[s] is not None), default=None) for s in columns}
    ranks = _ranks({name: own for name, own in means.items() if None not in own.values()}, columns)
    seeds = sorted({run.cell.seed for run in runs})
    lines = [
        f"AUROC on {split}, mean (standard deviation) over seeds {', '.join(map(str, seeds))}.",
        "",
        "| labels a class | " + " | ".join(map(str, columns)) + " | rank |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, own in groups.items():
        entries = [_entry([r.row[f"{split}_{METRIC}"] for r in own if r.row["shots"] == s], best[s]) for s in columns]
        rank = f"{ranks[name]:.1f}" if name in ranks else ""
        lines.append(f"| {title_of(own[0])} | " + " | ".join(entries) + f" | {rank} |")
    if any(run.cell.entry.method.role == "teacher" for run in runs):
        lines += ["", "† deploys the teacher itself."]
    return "\n".join(lines)


def difference_table(runs: Sequence[Run]) -> str:
    """Paired differences to RD, with 95 % intervals; significant ones (Holm over the table) in bold."""
    columns, groups = shots_of(runs), by_method(runs)
    if REFERENCE not in groups:
        return "No differences: RD was not run."
    found: dict[tuple[str, object], Difference] = {}
    for shots in columns:
        reference = {r.cell.seed: r for r in groups[REFERENCE] if r.row["shots"] == shots}
        drawn = {seed: score_resamples([run.predictions()], METRIC) for seed, run in reference.items()}
        for name, own in groups.items():
            own = {r.cell.seed: r for r in own if r.row["shots"] == shots and r.cell.seed in reference}
            if name != REFERENCE and own:
                resampled = score_resamples([run.predictions() for run in own.values()], METRIC)
                found[name, shots] = paired_difference(resampled, np.concatenate([drawn[seed] for seed in own], axis=1))
    corrected = dict(zip(found, holm([difference.p_value for difference in found.values()]), strict=True))
    lines = [
        "Difference to RD (95 % interval; p, corrected by Holm over this table): bootstrap over seeds and test images.",
        "",
        "| labels a class | " + " | ".join(map(str, columns)) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, own in groups.items():
        if name != REFERENCE:
            entries = [_difference(found.get((name, s)), corrected.get((name, s))) for s in columns]
            lines.append(f"| {title_of(own[0])} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def cost_table(runs: Sequence[Run], costs: dict[str, Cost]) -> str:
    """What each method trains, deploys and takes."""
    lines = [
        "Training time is the mean over runs, with others beside; memory is the median of what a training took "
        "at most beyond its models and images. Arithmetic and latency are of one image on this machine's CPU.",
        "",
        "| | parameters trained | training, s | memory, MiB | parameters deployed | GFLOP an image | latency, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for own in by_method(runs, with_unlabelled=True).values():
        cost = costs.get(own[0].cost_key)
        measured = f"{cost.gflop:.2f} | {cost.milliseconds:.1f}" if cost else " | "
        seconds = statistics.mean(run.row["seconds"] for run in own)
        memory = [run.row["training_memory_mib"] for run in own if run.row["training_memory_mib"] not in ("", None)]
        memory = f"{statistics.median(memory):.0f}" if memory else ""
        title = title_of(own[0]) + (", with unlabelled" if own[0].cell.unlabelled else "")
        trained, deployed = (own[0].row[f"{kind}_parameters"] for kind in ("trained", "deployed"))
        lines.append(f"| {title} | {trained:,} | {seconds:.0f} | {memory} | {deployed:,} | {measured} |")
    return "\n".join(lines)


def shots_of(runs: Iterable[Run]) -> list:
    """Numbers of labels a class, ascending; "all" last."""
    found = {run.row["shots"] for run in runs}
    return sorted(found, key=lambda shots: (shots == "all", shots if shots != "all" else 0))


def by_method(runs: Iterable[Run], with_unlabelled: bool = False) -> dict:
    """Runs under the name of their method, in the order of the comparison."""
    groups: dict = defaultdict(list)
    for run in runs:
        groups[(run.cell.entry.name, run.cell.unlabelled) if with_unlabelled else run.cell.entry.name].append(run)
    return dict(groups)


def title_of(run: Run) -> str:
    """A method's name in tables: its title, or the name that the comparison gives it."""
    entry = run.cell.entry
    title = METHODS[entry.name].title if entry.name in METHODS else entry.name
    return f"{title} †" if entry.method.role == "teacher" else title


def _mean(runs: Sequence[Run], shots: object, split: str) -> float | None:
    values = [run.row[f"{split}_{METRIC}"] for run in runs if run.row["shots"] == shots]
    return statistics.mean(values) if values else None


def _ranks(means: dict[str, dict], columns: Sequence) -> dict[str, float]:
    ranks = defaultdict(list)
    for shots in columns:
        for rank, name in enumerate(sorted(means, key=lambda name: -means[name][shots]), start=1):
            ranks[name].append(rank)
    return {name: statistics.mean(own) for name, own in ranks.items()}


def _entry(values: Sequence[float], best: float | None) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    text = f"{mean:.3f}" + (f" ({statistics.stdev(values):.3f})" if len(values) > 1 else "")
    return f"**{text}**" if mean == best else text


def _difference(found: Difference | None, p_value: float | None) -> str:
    if found is None:
        return ""
    text = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}; p {p_value:.3f})"
    return f"**{text}**" if p_value < SIGNIFICANT else text
