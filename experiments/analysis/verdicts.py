"""Verdicts: whether finished runs and measured durations bear out the claims of the paper.

One rule for all: the claim puts a number in a range. If the number's interval lies within the range, the claim holds;
if it lies wholly outside, the claim does not hold; otherwise, or with too few seeds, it is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.analysis.significance import mcnemar, mean_interval, stored_right
from experiments.engine.result import Result
from experiments.report import MIN_SEEDS, Claim, Gain, Level, Ratio, Runs
from experiments.report.claims import Part
from experiments.report.results import trainer_order
from experiments.report.tables import shown_results

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
RECIPE = ("trainer", "optimizer", "task", "dataset")  # groups in which compared networks agree
OF_TRANSFORMERS = {"optimizer.localisation_lr", "task.smoothing"}
Benchmarks = Mapping[
    str, Sequence[Mapping[str, Any]]
]  # suite -> machines -> rows, as results/benchmarks.json has it


@dataclass(frozen=True)
class Interval:
    """A number and how sure it is.

    Attributes:
        middle: a mean over seeds, or a median over rounds.
        low, high: the confidence interval of the mean, or the quartiles; None for one seed.
        n: seeds or rounds.
    """

    middle: float
    low: float | None
    high: float | None
    n: int

    def verdict(self, above: float, below: float) -> tuple[str, str]:
        """Whether the number lies between two bounds, and why that is not decided; "" where it is."""
        if self.low is None or self.high is None:
            return OPEN, "no interval"
        if self.low > above and self.high < below:
            return HOLDS, ""
        if self.high < above or self.low > below:
            return FAILS, ""
        inside = [signed(bound) for bound in (above, below) if self.low <= bound <= self.high]
        return OPEN, f"the interval includes {' and '.join(inside)}"


def signed(bound: float) -> str:
    """A bound with a true minus sign."""
    return f"{bound:g}".replace("-", "\N{MINUS SIGN}")


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least one value, with its t interval."""
    return Interval(*mean_interval(values), len(values))


@dataclass(frozen=True)
class Finding:
    """What is known of one part of a claim in one setting.

    Attributes:
        part: the part.
        verdict: `HOLDS`, `FAILS` or `OPEN`.
        reason: why it is not decided; "" where it is.
        number: the number that the verdict is about; None where there is none.
        means: of each network of the part, in its order; None for one without a run.
        tests: seed -> McNemar's test of the two networks of a gain, as `significance.mcnemar` returns it.
        results: the runs behind it.
    """

    part: Part
    verdict: str
    reason: str
    number: Interval | None = None
    means: tuple[Interval | None, ...] = ()
    tests: Mapping[int, tuple[int, int, float]] = field(default_factory=dict)
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """A claim in one setting: runs of one schedule on one data set, or durations on one machine.

    Attributes:
        claim: the claim.
        setting: such as `schedule fast`, or the name of the machine; "" where there is neither run nor duration.
        dataset: of the runs; "" for durations.
        findings: one a part.
    """

    claim: Claim
    setting: str
    dataset: str
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> how many parts have it."""
        return {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in (HOLDS, FAILS, OPEN)}

    @property
    def seen(self) -> int:
        """The seeds or rounds behind all numbers."""
        return sum(finding.number.n for finding in self.findings if finding.number)

    @property
    def verdict(self) -> str:
        """Of the whole claim: it holds if all of its parts hold, and does not if any part does not."""
        if self.counts[FAILS]:
            return FAILS
        return HOLDS if self.findings and self.counts[HOLDS] == len(self.findings) else OPEN

    @property
    def reason(self) -> str:
        """Why it is not decided; "" where it is."""
        if self.verdict != OPEN:
            return ""
        if not self.setting:
            return "no run yet"
        left = [finding.reason for finding in self.findings if finding.verdict == OPEN]
        return left[0] if len(set(left)) == 1 else "see its parts"


def judge(claim: Claim, results: Iterable[Result], benchmarks: Benchmarks) -> list[Judgement]:
    """Judges a claim in every setting of which there is a run or a duration.

    Args:
        claim: the claim.
        results: finished runs of anything; those of the schedule `smoke` are ignored.
        benchmarks: the content of results/benchmarks.json.

    Returns:
        One judgement a setting: the data set of the paper first, the paper's schedule first. Schedules and data sets
        are never mixed, nor are the machines of durations. One without a setting where there is nothing to judge by.
    """
    networks = [runs for part in claim.parts for runs in networks_of(part)]
    mine = [
        result
        for result in shown_results(results, include_smoke=False)
        if any(n.value(result) is not None for n in networks)
    ]
    papers = {runs.dataset for runs in networks}
    settings = sorted(
        {(run.dataset, run.trainer) for run in mine},
        key=lambda s: (s[0] not in papers, s[0], trainer_order(s[1])),
    )
    out = []
    for dataset, trainer in settings:
        chosen = [run for run in mine if (run.dataset, run.trainer) == (dataset, trainer)]
        name = f"schedule {trainer}" + ("" if dataset in papers else f", data set {dataset}")
        out.append(Judgement(claim, name, dataset, tuple(_finding(part, chosen, []) for part in claim.parts)))
    suites = {part.suite for part in claim.parts if isinstance(part, Ratio)}
    for device in sorted({entry["device"] for suite in suites for entry in benchmarks.get(suite, ())}):
        rows = [
            (suite, row, entry["rounds"])
            for suite in suites
            for entry in benchmarks.get(suite, ())
            if entry["device"] == device
            for row in entry["rows"]
        ]
        out.append(Judgement(claim, device, "", tuple(_finding(part, [], rows) for part in claim.parts)))
    return out or [Judgement(claim, "", "", tuple(_finding(part, [], []) for part in claim.parts))]


def networks_of(part: Part) -> tuple[Runs, ...]:
    """The networks whose runs a part is about."""
    match part:
        case Gain(first, second):
            return first, second
        case Level(runs):
            return (runs,)
        case Ratio():
            return ()


def _finding(
    part: Part, results: Sequence[Result], rows: Sequence[tuple[str, Mapping[str, Any], int]]
) -> Finding:
    if isinstance(part, Ratio):
        return _ratio(part, rows)
    networks = networks_of(part)
    runs = [[run for run in results if network.value(run) is not None] for network in networks]
    values = [
        {run.seed: _value(network, run) for run in each} for network, each in zip(networks, runs, strict=True)
    ]
    configurations = [len({run.configuration for run in each}) for each in runs]
    means = tuple(
        interval(list(by_seed.values())) if count == 1 else None
        for by_seed, count in zip(values, configurations, strict=True)
    )
    behind = tuple(run for each in runs for run in each)
    for network, count in zip(networks, configurations, strict=True):
        if count != 1:
            what = f"{count} configurations, 1 needed" if count else "no run"
            return Finding(part, OPEN, f"{network.name}: {what}", None, means, {}, behind)
    if isinstance(part, Level):
        return _judged(part, means[0], part.above, part.below, means, {}, behind)
    first, second = ({run.seed: run for run in each} for each in runs)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Finding(part, OPEN, "no seed in common", None, means, {}, behind)
    if any(first[seed].test_fingerprint != second[seed].test_fingerprint for seed in seeds):
        return Finding(part, OPEN, "tested on different images", None, means, {}, behind)
    if keys := _recipes_differ(first[seeds[0]], second[seeds[0]]):
        return Finding(part, OPEN, f"trained differently: {', '.join(keys)}", None, means, {}, behind)
    sign = 1 if part.first.lower_is_better else -1
    gains = [sign * (values[1][seed] - values[0][seed]) for seed in seeds]
    tests = {}
    for seed in seeds:
        right = [stored_right(run) for run in (first[seed], second[seed])]
        if right[0] is not None and right[1] is not None:
            tests[seed] = mcnemar(right[0], right[1])
    return _judged(part, interval(gains), part.above, part.below, means, tests, behind)


def _recipes_differ(first: Result, second: Result) -> list[str]:
    """The keys in which two runs differ that are not of the network, but for what only a transformer has.

    A schedule of the same name may have changed between them.
    """
    one, other = first.settings, second.settings
    keys = {key for key in {*one, *other} if key.split(".")[0] in RECIPE} - OF_TRANSFORMERS
    return sorted(key for key in keys if one.get(key) != other.get(key))


def _value(network: Runs, run: Result) -> float:
    value = network.value(run)
    assert value is not None
    return value


def _judged(
    part: Part,
    number: Interval | None,
    above: float,
    below: float,
    means: tuple[Interval | None, ...],
    tests: Mapping[int, tuple[int, int, float]],
    behind: tuple[Result, ...],
) -> Finding:
    """The verdict about a mean over seeds."""
    assert number is not None
    if number.n < MIN_SEEDS:
        of = " in common" if isinstance(part, Gain) else ""
        seeds = "seed" if number.n == 1 else "seeds"
        reason = f"{number.n} {seeds}{of}, {MIN_SEEDS} needed"
        return Finding(part, OPEN, reason, number, means, tests, behind)
    verdict, reason = number.verdict(above, below)
    return Finding(part, verdict, reason, number, means, tests, behind)


def _ratio(part: Ratio, rows: Sequence[tuple[str, Mapping[str, Any], int]]) -> Finding:
    key, value = part.row
    for suite, row, rounds in rows:
        ratio = row.get(part.key)
        if suite == part.suite and row.get(key) == value and ratio is not None:
            number = Interval(ratio["median"], ratio["q1"], ratio["q3"], rounds)
            return Finding(part, *number.verdict(-math.inf, part.below), number)
    return Finding(part, OPEN, "not measured")
