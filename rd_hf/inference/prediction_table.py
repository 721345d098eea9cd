"""Predictions on the screen, as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def print_predictions(answers: Iterable[dict[str, Any]], lines: Callable[..., list[str]], at_once: int) -> None:
    """Print answers when there are `at_once` of them, and what there is before an error or an interruption goes on.

    :param lines: of several answers, such as those of a `PredictionTable`.
    """
    waiting: list[dict[str, Any]] = []
    try:
        for answer in answers:
            waiting.append(answer)
            if len(waiting) == at_once:
                print("\n".join(lines(waiting)), flush=True)
                waiting.clear()
    finally:
        if waiting:
            print("\n".join(lines(waiting)), flush=True)


def json_lines(answers: Sequence[dict[str, Any]]) -> list[str]:
    """One object for each answer."""
    return list(map(json.dumps, answers))


class PredictionTable:
    """Predictions as lines of text: the image, then its `top_k` likeliest classes, or its mask and the classes there.

    Columns are as wide as the longest cell so far.

    :param with_answer: whether the classes that it is answered with stand before these.
    """

    def __init__(self, top_k: int, with_answer: bool = False) -> None:
        self.top_k, self.with_answer = top_k, with_answer
        self.width, self.of_masks = 0, 0

    def lines(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """A line for each prediction; of several that are given together the columns are aligned."""
        self.width = max([self.width, *(len(row["image"]) for row in rows)])
        self.of_masks = max([self.of_masks, *(len(row["mask"]) for row in rows if "mask" in row)])
        return [f"{row['image']:{self.width}}  {self._answer(row)}" for row in rows]

    def _answer(self, row: dict[str, Any]) -> str:
        if "error" in row:
            return f"could not be read: {row['error']}"
        if "mask" in row:
            return f"{row['mask']:{self.of_masks}}  {_amounts(row)}"
        ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])[: self.top_k]
        answer = "  ".join(f"{name} {value:.3f}" for name, value in ranked)
        if not self.with_answer:
            return answer
        return f"{row['label'] if 'label' in row else '|'.join(row['labels']) or 'none'}:  {answer}"


def _amounts(row: dict[str, Any]) -> str:
    """The size of each class that a mask has."""
    amounts = row["pixels"] if "pixels" in row else row["millilitres"]
    unit = " px" if "pixels" in row else " ml"
    return "  ".join(f"{name} {amount:g}{unit}" for name, amount in amounts.items() if amount)
