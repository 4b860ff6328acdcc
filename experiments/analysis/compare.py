"""Finished runs side by side, without W&B: configurations, metrics, paired statistics."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from experiments.analysis.significance import LEVEL, Labels, judgeable, mcnemar_by_seed, p_text, paired
from experiments.analysis.variants import Variant, all_metrics, differing
from experiments.engine.build import UserError
from experiments.report import markdown_table

ALL_PAIRS = 6  # up to so many configurations, all pairs are compared; of more, each with one of them


def report(
    compared: Sequence[Variant], metric: str, circumstances: dict[str, Any], against: str | None = None
) -> str:
    """The comparison as Markdown: the runs, what differs, all metrics, and the tested differences.

    Args:
        compared: the configurations.
        metric: the metric whose differences are tested.
        circumstances: as of `truth`.
        against: the letter of the configuration that all others are compared with; None: all pairs are compared, or
            all with the first where there are more than `ALL_PAIRS`.

    Raises:
        UserError: for a letter that there is not.
    """
    letters = [v.letter for v in compared]
    if against is not None and against not in letters:
        raise UserError(f"There is no configuration {against}: they are {letters[0]} to {letters[-1]}.")
    runs = [[v.letter, v.name, ", ".join(map(str, sorted(v.by_seed)))] for v in compared]
    parts = [markdown_table(["", "run", "seeds"], runs, "lll")]
    if keys := differing(compared):
        parts.append(_table("key", letters, keys))
    means = {name: [_mean(v, name, _digits(name)) for v in compared] for name in all_metrics(compared)}
    parts.append(_table("metric", letters, means))
    if against is None and len(compared) > ALL_PAIRS:
        against = letters[0]
    pairs = [(a, b) for a, b in itertools.combinations(compared, 2) if against in (None, a.letter, b.letter)]
    if pairs:
        parts += _pairs(pairs, metric, circumstances)
        if against is not None and len(compared) > 2:
            parts.append(f"All against {against}; --against names another.\n")
    return "\n".join(parts)


def _table(head: str, letters: Sequence[str], rows: dict[str, list[str]]) -> str:
    """A column a configuration, or a row each where these would be more than the columns otherwise."""
    names, cells = list(rows), list(rows.values())
    if len(letters) > max(len(names), ALL_PAIRS):
        head, letters, names, cells = "", names, list(letters), [list(c) for c in zip(*cells, strict=True)]
    align = "l" + ("l" if head == "key" else "r") * len(letters)
    lines = [[name, *row] for name, row in zip(names, cells, strict=True)]
    return markdown_table([head, *letters], lines, align)


def _pairs(pairs: Sequence[tuple[Variant, Variant]], metric: str, circumstances: dict[str, Any]) -> list[str]:
    """Paragraphs: a list of the differences, and what was left out and why."""
    labels: Labels = {}
    lines, elsewhere = "", []
    failed: dict[str, None] = {}  # reasons, each once
    for a, b in pairs:
        pair = paired(a, b, metric)
        if pair["seeds"] and not pair["same_images"]:
            elsewhere.append(f"{b.letter} - {a.letter}")
            continue
        tests: dict[int, tuple[int, int, float]] = {}
        try:
            tests = mcnemar_by_seed(a, b, circumstances, labels)
        except (UserError, FileNotFoundError) as error:
            failed[str(error)] = None
        lines += f"- {_sentence(a, b, pair, tests, _digits(metric))}\n"
    parts = [f"Differences of {metric}, later minus earlier, over seeds that both have:\n", lines]
    if elsewhere:
        parts.append(f"Left out, since not tested on the same images: {listed(elsewhere)}.\n")
    runs = {(v.letter, seed): r for pair in pairs for v in pair for seed, r in v.by_seed.items()}
    parts += [
        f"No McNemar's test, which needs the labels of the test images: {reason}\n" for reason in failed
    ]
    none = [f"{letter} seed {seed}" for (letter, seed), run in runs.items() if not judgeable(run)]
    if none:
        parts.append(f"No McNemar's test where no predicted classes are kept: {listed(none)}.\n")
    return parts


def _digits(metric: str) -> int:
    return 4 if metric.endswith("loss") else 2


def listed(words: Sequence[str], most: int = 12) -> str:
    """Words with commas; of more than `most` the first, and the number of the others."""
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def _mean(variant: Variant, metric: str, digits: int) -> str:
    if not all(metric in result.metrics for result in variant.results):
        return "-"
    values = variant.values(metric)
    spread = f" ± {statistics.stdev(values):.{digits}f} ({len(values)})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _sentence(
    a: Variant, b: Variant, pair: dict[str, Any], tests: dict[int, tuple[int, int, float]], digits: int
) -> str:
    head = f"{b.letter} - {a.letter}: "
    if pair["difference"] is None:
        return head + "no seed in common."
    text = f"{head}{pair['difference']:+.{digits}f}"
    if pair["low"] is not None:
        text += f", {LEVEL:.0%} interval {pair['low']:+.{digits}f} to {pair['high']:+.{digits}f}"
    text += f" (n = {len(pair['seeds'])})"
    for seed, (only_a, only_b, p) in tests.items():
        text += f"; seed {seed}: {only_a} images right only in {a.letter}, {only_b} only in {b.letter}, {p_text(p)}"
    return text + "."
