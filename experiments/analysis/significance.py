"""Whether two configurations differ by more than chance: the paired t interval, and McNemar's test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from scipy import special  # scipy.stats takes seconds to import
from torch import Tensor

from experiments.analysis.variants import Variant
from experiments.engine.build import UserError, build, with_arguments
from experiments.report import Result, details

LEVEL = 0.95  # confidence level of the intervals
Labels = dict[str, Tensor | Exception]  # fingerprint of a test set -> its labels, or why they cannot be drawn


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
    mean, low, high = mean_interval(differences) if differences else (None, None, None)
    return {
        "seeds": seeds,
        "difference": mean,
        "low": low,
        "high": high,
        "same_images": all(left.test_fingerprint == right.test_fingerprint for left, right in pairs),
    }


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of at least one value, and its t interval; None for its ends where there is one value."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, None, None
    reach = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - reach, mean + reach


def mcnemar(right_a: Tensor, right_b: Tensor) -> tuple[int, int, float]:
    """McNemar's exact test on the images that one network has right and the other wrong.

    Args:
        right_a: (N,), bool, whether a has an image right.
        right_b: (N,), bool, the same of b.

    Returns:
        The number of images that only a has right, that only b has right, and the two-sided p.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    tail = float(
        special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    )  # of a fair coin, up to the smaller count
    return only_a, only_b, min(2 * tail, 1.0)


def p_text(p: float) -> str:
    """A p-value in words, such as "p = 0.021"; one that is too small for a float, as a bound."""
    return f"p = {p:.2g}" if p else "p < 1e-300"


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
    dataset = with_arguments(result.config["dataset"], circumstances)
    test = build(dataset, seed=result.seed, device="cpu").test
    if test.fingerprint != result.test_fingerprint:
        raise UserError(
            f"{result.path} was tested on other images than this code and these data give: check data_dir."
        )
    return test.labels.cpu()


def mcnemar_by_seed(
    a: Variant, b: Variant, circumstances: dict[str, Any], labels: Labels | None = None
) -> dict[int, tuple[int, int, float]]:
    """`mcnemar` for every seed of which both runs have stored predictions on the same test images.

    Args:
        a, b: the configurations.
        circumstances: as of `truth`.
        labels: those that are known; those that are drawn are added.

    Returns:
        Seed -> what `mcnemar` returns.

    Raises:
        UserError, FileNotFoundError: as `truth`.
    """
    tests = {}
    labels = {} if labels is None else labels
    for seed in sorted(a.by_seed.keys() & b.by_seed.keys()):
        pair = (a.by_seed[seed], b.by_seed[seed])
        if pair[0].test_fingerprint != pair[1].test_fingerprint or not all(map(judgeable, pair)):
            continue
        tests[seed] = mcnemar(*(right(run, circumstances, labels) for run in pair))
    return tests


def judgeable(result: Result) -> bool:
    """Whether it is known, or can be found out, which test images a run has right."""
    return details.right(result.path) is not None or predictions(result) is not None


def stored_right(result: Result) -> Tensor | None:
    """Which test images a run has right, (N,), bool; None where that is not stored."""
    stored = details.right(result.path)
    return None if stored is None else torch.from_numpy(stored)


def right(result: Result, circumstances: dict[str, Any], labels: Labels) -> Tensor:
    """Which test images a run has right, (N,), bool: as stored, else by its predictions and the labels, drawn anew.

    Args:
        result: a run that is `judgeable`.
        circumstances, labels: as of `mcnemar_by_seed`.

    Raises:
        UserError, FileNotFoundError: as `truth`.
    """
    stored = stored_right(result)
    if stored is not None:
        return stored
    if result.test_fingerprint not in labels:
        try:
            labels[result.test_fingerprint] = truth(result, circumstances)
        except (UserError, FileNotFoundError) as error:
            labels[result.test_fingerprint] = error
    known, predicted = labels[result.test_fingerprint], predictions(result)
    if isinstance(known, Exception):
        raise known
    assert predicted is not None
    return predicted == known


def keep_right(results: Iterable[Result], circumstances: dict[str, Any]) -> str:
    """Stores which test images published runs have right, where it is not stored, so that no test needs the data again.

    Args:
        results: finished runs; those in run directories, and those without predictions, are passed over.
        circumstances: as of `truth`.

    Returns:
        The runs for which it cannot be found out, and why, in one sentence; "" where there is none.
    """
    labels: Labels = {}
    failed: dict[str, list[str]] = {}
    for result in results:
        path = result.path
        if path.name == "result.json" or details.right(path) is not None or predictions(result) is None:
            continue
        try:
            details.keep_right(path, right(result, circumstances, labels).numpy())
        except (UserError, FileNotFoundError) as error:
            failed.setdefault(str(error), []).append(path.stem)
    return " ".join(f"No McNemar's test of {', '.join(runs)}: {error}" for error, runs in failed.items())
