"""Whether two configurations differ by more than chance: the paired t interval, and McNemar's test."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from scipy import stats
from torch import Tensor

from experiments.analysis.variants import Variant
from experiments.engine.build import UserError, build
from experiments.engine.run import put_back
from experiments.report import Result, details

LEVEL = 0.95  # confidence level of the intervals


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
