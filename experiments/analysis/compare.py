"""Finished runs side by side, without W&B: what differs, how they end, how they learnt, and whether it is chance."""

from __future__ import annotations

import itertools
import statistics
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from experiments.engine.build import UserError, build, with_arguments
from experiments.report import Result, details, load_results
from experiments.report.results import trainer_order

LEVEL = 0.95  # of the intervals
SMOOTH = 40  # a running mean of training batches is over the last of so many parts of the training
CURVES = {  # the first that is there is drawn
    "val/accuracy": "accuracy on held-out images, %",
    "val/error": "error on held-out images, %",
    "train/error": "error on training batches, %",
    "train/loss": "loss on training batches",
}
ALL_PAIRS = 6  # configurations that are all compared with each other; of more, each with one


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

    raises: UserError where there are none.
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


def differing(found: Sequence[Variant]) -> dict[str, list[str]]:
    """The keys in which the configurations differ -> their values, "-" where there is no such key.

    A key that says what another says already is left out: the same values again, or a class beside its name.
    """
    settings = [variant.results[0].settings for variant in found]
    keys = sorted(set().union(*settings))
    rows = {key: [one.get(key, "-").strip('"') for one in settings] for key in keys}
    rows = {key: values for key, values in rows.items() if len(set(values)) > 1}
    told: dict[str, list[str]] = {}
    for key, values in rows.items():
        names = rows.get(f"{key.removesuffix('_target_')}name") if key.endswith("_target_") else None
        by_name = names is not None and len(set(names)) == len(set(zip(names, values, strict=True)))
        if not by_name and values not in told.values():
            told[key] = values
    return told


def all_metrics(found: Sequence[Variant]) -> list[str]:
    """The test's metrics that any run has, in the runs' order."""
    every = [result.metrics for variant in found for result in variant.results]
    return list(dict.fromkeys(key for metrics in every for key in metrics if key.startswith("test_")))


def main_metric(found: Sequence[Variant], metric: str | None = None) -> str:
    """raises: UserError for a metric that not every run has, and where there is none that all have."""
    every = [result.metrics for variant in found for result in variant.results]
    known = [key for key in all_metrics(found) if all(key in metrics for metrics in every)]
    if not known:
        raise UserError("These runs have no test metric in common: compare runs that measure the same.")
    if metric is not None and metric not in known:
        raise UserError(f"Not every run has {metric}: choose one of {', '.join(known)}.")
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
    """The classes that a run predicted, (N,), or None where they are not kept, or are no classes."""
    predicted = details.predictions(result.path)
    return None if predicted is None or predicted.dtype.kind == "f" else torch.from_numpy(predicted).long()


def truth(result: Result, circumstances: dict[str, Any]) -> Tensor:
    """The labels of a run's test set, (N,), drawn anew.

    circumstances: where data are: `data_dir`, `cache_dir`.   raises: UserError where it is another test set today.
    """
    dataset = with_arguments(result.config["dataset"], circumstances)
    test = build(dataset, seed=result.seed, device="cpu").test
    if test.fingerprint != result.test_fingerprint:
        raise UserError(
            f"{result.path} was tested on other images than this code and these data give: check data_dir."
        )
    return test.labels.cpu()


def mcnemar_by_seed(
    a: Variant, b: Variant, circumstances: dict[str, Any], labels: dict[str, Tensor] | None = None
) -> dict[int, tuple[int, int, float]]:
    """seed -> as `mcnemar`, for the seeds of which both runs' predictions are there, on the same test images.

    labels: of test sets by their fingerprint; those that are drawn are put there.
    """
    found = {}
    labels = {} if labels is None else labels
    for seed in sorted(a.by_seed.keys() & b.by_seed.keys()):
        left, right = a.by_seed[seed], b.by_seed[seed]
        told = predictions(left), predictions(right)
        if told[0] is None or told[1] is None or left.test_fingerprint != right.test_fingerprint:
            continue
        if left.test_fingerprint not in labels:
            labels[left.test_fingerprint] = truth(left, circumstances)
        true = labels[left.test_fingerprint]
        found[seed] = mcnemar(told[0] == true, told[1] == true)
    return found


def report(
    found: Sequence[Variant], metric: str, circumstances: dict[str, Any], against: str | None = None
) -> str:
    """Everything but the picture, as Markdown.

    against: the letter that all others are compared with; None: all pairs, or the first where there are many.
    raises: UserError for a letter that there is not.
    """
    letters = [v.letter for v in found]
    if against is not None and against not in letters:
        raise UserError(f"There is no configuration {against}: they are {letters[0]} to {letters[-1]}.")
    lines = ["| | run | seeds |", "|:--|:--|:--|"]
    lines += [f"| {v.letter} | {v.name} | {', '.join(map(str, sorted(v.by_seed)))} |" for v in found]
    if keys := differing(found):
        lines += ["", *_table("key", letters, keys)]
    means = {name: [_mean(v, name, _digits(name)) for v in found] for name in all_metrics(found)}
    lines += ["", *_table("metric", letters, means)]
    if against is None and len(found) > ALL_PAIRS:
        against = letters[0]
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if against in (None, a.letter, b.letter)]
    if pairs:
        lines += ["", *_pairs(pairs, metric, circumstances)]
        if against is not None and len(found) > 2:
            lines += ["", f"All against {against}; --against names another."]
    return "\n".join(lines) + "\n"


def _table(head: str, letters: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
    """A column a configuration, or a row each where these would be more than the columns otherwise."""
    names, cells = list(rows), list(rows.values())
    if len(letters) > max(len(names), ALL_PAIRS):
        head, letters, names, cells = "", names, list(letters), [list(c) for c in zip(*cells, strict=True)]
    align = "|:--" if head == "key" else "|--:"
    lines = [f"| {head} | {' | '.join(letters)} |", "|:--" + align * len(letters) + "|"]
    return lines + [f"| {name} | {' | '.join(row)} |" for name, row in zip(names, cells, strict=True)]


def _pairs(pairs: Sequence[tuple[Variant, Variant]], metric: str, circumstances: dict[str, Any]) -> list[str]:
    lines = [f"Differences of {metric}, later minus earlier, over seeds that both have:", ""]
    labels: dict[str, Tensor] = {}
    elsewhere, untested = [], ""
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
        lines.append(f"- {_sentence(a, b, pair, tests, _digits(metric))}")
    if elsewhere:
        lines += ["", f"Left out, since not tested on the same images: {_few(elsewhere)}."]
    runs = {(v.letter, seed): r for pair in pairs for v in pair for seed, r in v.by_seed.items()}
    if none := [f"{letter} seed {seed}" for (letter, seed), r in runs.items() if not _kept(r)]:
        untested = untested or f"No McNemar's test where no predictions are kept: {_few(none)}."
    return lines + (["", untested] if untested else [])


def _digits(metric: str) -> int:
    return 4 if metric.endswith("loss") else 2


def _kept(result: Result) -> bool:
    return details.predictions(result.path) is not None


def _few(words: Sequence[str], most: int = 12) -> str:
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


def curves(found: Sequence[Variant], path: Path) -> Path | None:
    """The learning curves in one picture: a line a configuration, the mean of its runs, and their range behind it.

    Of what was logged on held-out data where all have it, else of the training batches, those as running means.
    returns: the path; None where no run's log is kept.
    """
    logs = {v.letter: [log for result in v.results if (log := details.curves(result.path))] for v in found}
    shown = [variant for variant in found if logs[variant.letter]]
    shared = set.intersection(*(set(log) for each in logs.values() for log in each)) if shown else set()
    key = next((choice for choice in CURVES if choice in shared), None)
    if key is None:
        return None
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(7.2, 4 + 0.16 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for i, (variant, name) in enumerate(zip(shown, _short_names(shown), strict=True)):
        series = [log[key] for log in logs[variant.letter]]
        steps = sorted(set.intersection(*(set(one) for one in series)))
        width = 1 if key.startswith("val/") else -(-len(steps) // SMOOTH)
        lines = [_running_mean([one[step] for step in steps], width) for one in series]
        mean = [statistics.fmean(values) for values in zip(*lines, strict=True)]
        style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4]}
        runs = f" ({len(series)})" if len(series) > 1 else ""
        axes.plot(steps, mean, linewidth=1.6, label=f"{variant.letter}  {name}{runs}", **style)
        if len(lines) > 1:
            low, high = ([end(values) for values in zip(*lines, strict=True)] for end in (min, max))
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel=CURVES[key])
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    if not key.endswith("accuracy"):
        axes.set_yscale("log")  # late differences are small ones
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.92", linewidth=0.8)
    silent = [variant.letter for variant in found if variant not in shown]
    axes.set_title(f"no log kept of {_few(silent)}" if silent else "", fontsize=8, color="0.4", loc="right")
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Each value with those before it, `width` in all."""
    return [statistics.fmean(values[max(i + 1 - width, 0) : i + 1]) for i in range(len(values))]


def _short_names(found: Sequence[Variant]) -> list[str]:
    """The names without what all of them say."""
    parts = [variant.name.replace("/", ",").split(",") for variant in found]
    common = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return [", ".join(part for part in each if part not in common) for each in parts]
