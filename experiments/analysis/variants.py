"""Finished runs grouped by configuration, and what differs between the configurations."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engine.build import UserError
from experiments.report import Result, load_results
from experiments.report.results import trainer_order
from experiments.report.subject import Subject
from experiments.sections import words_of


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
    def subject(self) -> Subject:
        """The first of its runs in words."""
        result = self.results[0]
        return words_of(result.experiment).subject(result.to_dict())

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


def names(compared: Sequence[Variant], *, data: bool = True) -> list[str]:
    """Configurations in words, such as "ST-CNN (affine) on rotated digits (R)".

    Args:
        compared: the configurations.
        data: whether the data are named.

    Returns:
        One a configuration; where several have the same words, the parts of their runs' names that differ follow.
    """
    subjects = [variant.subject for variant in compared]
    words = [f"{one.network} on {one.data}" if data else one.network for one in subjects]
    parts = [variant.name.replace("/", ",").split(",") for variant in compared]
    told = []
    for one, each in zip(words, parts, strict=True):
        alike = [other for other, word in zip(parts, words, strict=True) if word == one]
        common = set.intersection(*map(set, alike))
        own = [part for part in each if part not in common]
        told.append(", ".join([one, *own]) if len(alike) > 1 else one)
    return told


def _order(result: Result) -> tuple[Any, ...]:
    model = (result.model, result.transform or "")
    return (result.dataset, result.experiment, *model, *trainer_order(result.trainer))


def _letters() -> Iterator[str]:
    """A to Z, AA to ZZ, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def differing(compared: Sequence[Variant]) -> dict[str, list[str]]:
    """The keys in which configurations differ -> the value of each, "-" for one without the key.

    Keys with the same values are one, joined by commas. A class whose name is there too is left out.
    """
    settings = [variant.results[0].settings for variant in compared]
    keys = sorted(set().union(*settings))
    rows = {key: [one.get(key, "-").strip('"') for one in settings] for key in keys}
    rows = {key: values for key, values in rows.items() if len(set(values)) > 1}
    alike: dict[tuple[str, ...], list[str]] = {}  # values -> keys
    for key, values in rows.items():
        names = rows.get(f"{key.removesuffix('_target_')}name") if key.endswith("_target_") else None
        by_name = names is not None and len(set(names)) == len(set(zip(names, values, strict=True)))
        if not by_name:
            alike.setdefault(tuple(values), []).append(key)
    return {", ".join(keys): list(values) for values, keys in alike.items()}


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
