"""Finished runs side by side, without W&B: configurations, metrics, paired statistics."""

from __future__ import annotations

import itertools
import statistics
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from scipy import stats
from torch import Tensor

from experiments.engine.build import UserError, build
from experiments.engine.run import put_back
from experiments.report import Result, details, load_results, markdown_table
from experiments.report.results import trainer_order

LEVEL = 0.95  # confidence level of the intervals
ALL_PAIRS = 6  # up to so many configurations, all pairs are compared; of more, each with one of them


@dataclass(frozen=True)
class Variant:
    """The runs of one configuration, one a seed.

    Attributes:
        letter: its name in the comparison.
        results: the runs, sorted by seed.
    """

    letter: str
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        """The experiment, and the name that its run directories or published files share."""
        path = self.results[0].path
        run = path.parent.parent.name if path.name == "result.json" else path.stem.rsplit("-seed_", 1)[0]
        return f"{self.results[0].experiment}/{run}"

    @property
    def by_seed(self) -> dict[int, Result]:
        """Seed -> run."""
        return {result.seed: result for result in self.results}

    def values(self, metric: str) -> list[float]:
        """A metric of every run."""
        return [result.metric(metric) for result in self.results]


def variants(paths: Iterable[str | Path]) -> list[Variant]:
    """Finished runs by configuration, sorted by what was run.

    Args:
        paths: run directories, folders of them, or result files.

    Raises:
        UserError: where there is no finished run.
    """
    groups: dict[str, list[Result]] = {}
    for result in load_results(paths):
        groups.setdefault(result.configuration, []).append(result)
    if not groups:
        raise UserError(f"There is no finished run in {', '.join(map(str, paths))}.")
    unnamed = [Variant("", tuple(results)) for results in groups.values()]
    in_order = sorted(unnamed, key=lambda v: (*_order(v.results[0]), v.name))
    return [Variant(letter, v.results) for letter, v in zip(_letters(), in_order, strict=False)]


def _order(result: Result) -> tuple[Any, ...]:
    model = (result.model, result.transform or "")
    return (result.dataset, result.experiment, *model, *trainer_order(result.trainer))


def _letters() -> Iterator[str]:
    """A to Z, AA to ZZ, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def differing(compared: Sequence[Variant]) -> dict[str, list[str]]:
    """The keys in which configurations differ -> the value of each, "-" for one without the key.

    A key that adds nothing is left out: one with the same values as another, or a class whose name is there too.
    """
    settings = [variant.results[0].settings for variant in compared]
    keys = sorted(set().union(*settings))
    rows = {key: [one.get(key, "-").strip('"') for one in settings] for key in keys}
    rows = {key: values for key, values in rows.items() if len(set(values)) > 1}
    kept: dict[str, list[str]] = {}
    for key, values in rows.items():
        names = rows.get(f"{key.removesuffix('_target_')}name") if key.endswith("_target_") else None
        by_name = names is not None and len(set(names)) == len(set(zip(names, values, strict=True)))
        if not by_name and values not in kept.values():
            kept[key] = values
    return kept


def all_metrics(compared: Sequence[Variant]) -> list[str]:
    """The metrics on the test set that any run has, in the order of the runs."""
    every = [result.metrics for variant in compared for result in variant.results]
    return list(dict.fromkeys(key for metrics in every for key in metrics if key.startswith("test_")))


def main_metric(compared: Sequence[Variant], metric: str | None = None) -> str:
    """The metric whose differences are tested.

    Args:
        compared: the configurations.
        metric: the user's choice; None: accuracy, else error, else the first that all runs have.

    Raises:
        UserError: for a metric that not every run has, and where there is none that all have.
    """
    every = [result.metrics for variant in compared for result in variant.results]
    known = [key for key in all_metrics(compared) if all(key in metrics for metrics in every)]
    if not known:
        raise UserError("These runs have no test metric in common: compare runs that measure the same.")
    if metric is not None and metric not in known:
        raise UserError(f"Not every run has {metric}: choose one of {', '.join(known)}.")
    return metric or next((name for name in ("test_accuracy", "test_error") if name in known), known[0])


def paired(a: Variant, b: Variant, metric: str) -> dict[str, Any]:
    """The difference b minus a of a metric, paired by seed.

    Returns:
        `seeds`: those that both have; `difference`: the mean, None without such a seed; `low`, `high`: the confidence
        interval of the paired t-test (None for fewer than two seeds); `same_images`: whether the two runs of each seed
        were tested on the same images.
    """
    seeds = sorted(a.by_seed.keys() & b.by_seed.keys())
    pairs = [(a.by_seed[seed], b.by_seed[seed]) for seed in seeds]
    differences = [right.metric(metric) - left.metric(metric) for left, right in pairs]
    mean = statistics.fmean(differences) if differences else None
    low = high = None
    if mean is not None and len(differences) > 1:
        # Not stats.ttest_rel: it warns of lost precision where all seeds differ by the same amount.
        reach = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences))
        low, high = mean - reach, mean + reach
    return {
        "seeds": seeds,
        "difference": mean,
        "low": low,
        "high": high,
        "same_images": all(left.test_fingerprint == right.test_fingerprint for left, right in pairs),
    }


def mcnemar(right_a: Tensor, right_b: Tensor) -> tuple[int, int, float]:
    """McNemar's exact test on the images that one network has right and the other wrong.

    Args:
        right_a: (N,), bool, whether a has an image right.
        right_b: (N,), bool, the same of b.

    Returns:
        The number of images that only a has right, that only b has right, and the two-sided p.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def predictions(result: Result) -> Tensor | None:
    """The classes that a run predicted, (N,); None where they are not stored, or are boxes and no classes."""
    predicted = details.predictions(result.path)
    return None if predicted is None or predicted.dtype.kind == "f" else torch.from_numpy(predicted).long()


def truth(result: Result, circumstances: dict[str, Any]) -> Tensor:
    """The labels of a run's test set, (N,), drawn anew.

    Args:
        result: the run.
        circumstances: where data are: `data_dir`, `cache_dir`.

    Raises:
        UserError: where code and data give another test set than the run's.
        FileNotFoundError: where the data are missing.
    """
    cfg = OmegaConf.create(result.config)
    assert isinstance(cfg, DictConfig)
    put_back(cfg.dataset, circumstances)
    test = build(cfg.dataset, seed=result.seed, device="cpu").test
    if test.fingerprint != result.test_fingerprint:
        raise UserError(
            f"{result.path} was tested on other images than this code and these data give: check data_dir."
        )
    return test.labels.cpu()


def mcnemar_by_seed(
    a: Variant, b: Variant, circumstances: dict[str, Any], labels: dict[str, Tensor] | None = None
) -> dict[int, tuple[int, int, float]]:
    """`mcnemar` for every seed of which both runs have stored predictions on the same test images.

    Args:
        a, b: the configurations.
        circumstances: as of `truth`.
        labels: fingerprint of a test set -> its labels; those that are drawn are added.

    Returns:
        Seed -> what `mcnemar` returns.

    Raises:
        UserError, FileNotFoundError: as `truth`.
    """
    tests = {}
    labels = {} if labels is None else labels
    for seed in sorted(a.by_seed.keys() & b.by_seed.keys()):
        left, right = a.by_seed[seed], b.by_seed[seed]
        by_a, by_b = predictions(left), predictions(right)
        if by_a is None or by_b is None or left.test_fingerprint != right.test_fingerprint:
            continue
        if left.test_fingerprint not in labels:
            labels[left.test_fingerprint] = truth(left, circumstances)
        true = labels[left.test_fingerprint]
        tests[seed] = mcnemar(by_a == true, by_b == true)
    return tests


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
    labels: dict[str, Tensor] = {}
    lines, elsewhere, untested = "", [], ""
    for a, b in pairs:
        pair = paired(a, b, metric)
        if pair["seeds"] and not pair["same_images"]:
            elsewhere.append(f"{b.letter} - {a.letter}")
            continue
        tests: dict[int, tuple[int, int, float]] = {}
        try:
            if not untested:
                tests = mcnemar_by_seed(a, b, circumstances, labels)
        except (UserError, FileNotFoundError) as error:
            untested = f"No McNemar's test, which needs the labels of the test images: {error}"
        lines += f"- {_sentence(a, b, pair, tests, _digits(metric))}\n"
    parts = [f"Differences of {metric}, later minus earlier, over seeds that both have:\n", lines]
    if elsewhere:
        parts.append(f"Left out, since not tested on the same images: {listed(elsewhere)}.\n")
    runs = {(v.letter, seed): r for pair in pairs for v in pair for seed, r in v.by_seed.items()}
    none = [f"{key[0]} seed {key[1]}" for key, r in runs.items() if details.predictions(r.path) is None]
    if none and not untested:
        untested = f"No McNemar's test where no predictions are kept: {listed(none)}."
    return [*parts, f"{untested}\n"] if untested else parts


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
        text += f"; seed {seed}: {only_a} images right only in {a.letter}, {only_b} only in {b.letter}, p = {p:.2g}"
    return text + "."
