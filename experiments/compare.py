"""Finished runs side by side, without W&B: what differs, how they end, how they learnt, and whether it is chance."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from scipy import stats
from torch import Tensor

from experiments.engine.build import UserError, build
from experiments.engine.run import put_back
from experiments.report import Result, load_results

LEVEL = 0.95  # of the intervals
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Variant:
    """The runs of one configuration, one a seed.   letter: what it is called in the comparison."""

    letter: str
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        """Of its run directories, or of its published files."""
        path = self.results[0].path
        run = path.parent.parent.name if path.name == "result.json" else path.stem.rsplit("-seed_", 1)[0]
        return f"{self.results[0].experiment}/{run}"

    @property
    def by_seed(self) -> dict[int, Result]:
        return {result.seed: result for result in self.results}

    def values(self, metric: str) -> list[float]:
        return [result.metric(metric) for result in self.results]


def variants(paths: Iterable[str | Path]) -> list[Variant]:
    """The runs below the given folders, or in the given files, by configuration.

    raises: UserError where there are fewer than two configurations, or more than there are letters.
    """
    groups: dict[str, list[Result]] = {}
    for result in load_results(paths):
        groups.setdefault(result.configuration, []).append(result)
    if not 2 <= len(groups) <= len(LETTERS):
        raise UserError(
            f"There are {len(groups)} configurations of finished runs in there, and 2 to {len(LETTERS)} can be "
            "compared: name the run directories."
        )
    return [
        Variant(letter, tuple(results)) for letter, results in zip(LETTERS, groups.values(), strict=False)
    ]


def differing(found: Sequence[Variant]) -> dict[str, list[str]]:
    """The keys in which the configurations differ -> their values, "-" where there is no such key."""
    settings = [variant.results[0].settings for variant in found]
    keys = sorted(set().union(*settings))
    rows = {key: [one.get(key, "-") for one in settings] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def common_metrics(found: Sequence[Variant]) -> list[str]:
    """The test's metrics that every run has, the first run's order."""
    every = [result.metrics for variant in found for result in variant.results]
    return [key for key in every[0] if key.startswith("test_") and all(key in metrics for metrics in every)]


def main_metric(found: Sequence[Variant], metric: str | None = None) -> str:
    """raises: UserError for a metric that not every run has."""
    known = common_metrics(found)
    if metric is not None and metric not in known:
        raise UserError(f"Not every run has {metric}: choose one of {', '.join(known) or 'none'}.")
    return metric or next((name for name in ("test_accuracy", "test_error") if name in known), known[0])


def paired(a: Variant, b: Variant, metric: str) -> dict[str, Any]:
    """b minus a, over the seeds that both have.

    returns: `seeds`, `difference` (mean), `low` and `high` of its interval (Student's t over seeds; None for one seed),
    `same_images`: whether each pair was tested on the same ones.
    """
    seeds = sorted(a.by_seed.keys() & b.by_seed.keys())
    pairs = [(a.by_seed[seed], b.by_seed[seed]) for seed in seeds]
    differences = [right.metric(metric) - left.metric(metric) for left, right in pairs]
    low = high = None
    if len(differences) > 1:
        mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        reach = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1)) * error
        low, high = mean - reach, mean + reach
    return {
        "seeds": seeds,
        "difference": statistics.fmean(differences) if differences else None,
        "low": low,
        "high": high,
        "same_images": all(left.test_fingerprint == right.test_fingerprint for left, right in pairs),
    }


def mcnemar(right_a: Tensor, right_b: Tensor) -> tuple[int, int, float]:
    """McNemar's exact test on the images that one network has right and the other wrong.

    right_a, right_b: (N,), bool.   returns: how many only a has right, only b, and the two-sided p.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def predictions(result: Result) -> Tensor | None:
    """The classes that a run predicted, (N,), or None where they are not beside its result, or are no classes."""
    path = result.path.parent / "predictions.pt"
    if result.path.name != "result.json" or not path.exists():
        return None
    predicted = torch.load(path, weights_only=True)
    return None if predicted.is_floating_point() else predicted.long()


def truth(result: Result, circumstances: dict[str, Any]) -> Tensor:
    """The labels of a run's test set, (N,), drawn anew.

    circumstances: where data are: `data_dir`, `cache_dir`.   raises: UserError where it is another test set today.
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
    a: Variant, b: Variant, circumstances: dict[str, Any]
) -> dict[int, tuple[int, int, float]]:
    """seed -> as `mcnemar`, for the seeds of which both runs' predictions are there, on the same test images."""
    found = {}
    for seed in sorted(a.by_seed.keys() & b.by_seed.keys()):
        left, right = a.by_seed[seed], b.by_seed[seed]
        told = predictions(left), predictions(right)
        if told[0] is None or told[1] is None or left.test_fingerprint != right.test_fingerprint:
            continue
        labels = truth(left, circumstances)
        found[seed] = mcnemar(told[0] == labels, told[1] == labels)
    return found


def report(found: Sequence[Variant], metric: str, circumstances: dict[str, Any]) -> str:
    """Everything but the picture, as Markdown."""
    lines = ["| | run | seeds |", "|:--|:--|:--|"]
    lines += [f"| {v.letter} | {v.name} | {', '.join(map(str, sorted(v.by_seed)))} |" for v in found]
    heads = " | ".join(v.letter for v in found)
    lines += ["", f"| key | {heads} |", "|:--" * (len(found) + 1) + "|"]
    lines += [f"| {key} | {' | '.join(values)} |" for key, values in differing(found).items()]
    lines += ["", f"| metric | {heads} |", "|:--" + "|--:" * len(found) + "|"]
    for name in common_metrics(found):
        digits = 4 if name.endswith("loss") else 2
        cells = [_mean(variant.values(name), digits) for variant in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"Differences of {metric}, later minus earlier, over seeds that both have:", ""]
    for a, b in itertools.combinations(found, 2):
        lines.append(f"- {_sentence(a, b, metric, circumstances)}")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread} ({len(values)})"


def _sentence(a: Variant, b: Variant, metric: str, circumstances: dict[str, Any]) -> str:
    pair = paired(a, b, metric)
    head = f"{b.letter} - {a.letter}: "
    if pair["difference"] is None:
        return head + "no seed in common."
    text = f"{head}{pair['difference']:+.2f}"
    if pair["low"] is not None:
        text += f", {LEVEL:.0%} interval {pair['low']:+.2f} to {pair['high']:+.2f}"
    text += f" (n = {len(pair['seeds'])})"
    if not pair["same_images"]:
        return text + "; not tested on the same images."
    for seed, (only_a, only_b, p) in mcnemar_by_seed(a, b, circumstances).items():
        text += f"; seed {seed}: {only_a} images right only in {a.letter}, {only_b} only in {b.letter}, p = {p:.2g}"
    return text + "."


def curves(found: Sequence[Variant], path: Path) -> Path | None:
    """The learning curves in one picture: a thin line a run, a thick one their mean.

    Of what was logged on held-out data where every run has it, else of the training batches.
    returns: the path; None where the runs' logs are not beside their results.
    """
    logs = {v.letter: [history for result in v.results if (history := _history(result))] for v in found}
    keys = [set().union(*(line.keys() for line in log)) for each in logs.values() for log in each]
    if not keys or not all(logs.values()):
        return None
    shared = set.intersection(*keys)
    choices = ("val/accuracy", "val/error", "train/error", "train/loss")
    key = next((choice for choice in choices if choice in shared), None)
    if key is None:
        return None
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, variant in enumerate(found):
        series = [{line["step"]: line[key] for line in log if key in line} for log in logs[variant.letter]]
        for one in series:
            axes.plot(list(one), list(one.values()), color=f"C{i % 10}", alpha=0.35, linewidth=0.8)
        steps = sorted(set.intersection(*(set(one) for one in series)))
        mean = [statistics.fmean(one[step] for one in series) for step in steps]
        axes.plot(steps, mean, color=f"C{i % 10}", linewidth=1.8, label=f"{variant.letter}: {variant.name}")
    axes.set(xlabel="step", ylabel=key + ("" if key.endswith("loss") else ", %"))
    if not key.endswith("accuracy"):
        axes.set_yscale("log")  # late differences are small ones
    axes.legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _history(result: Result) -> list[dict[str, float]]:
    path = result.path.parent / "metrics.jsonl"
    if result.path.name != "result.json" or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
