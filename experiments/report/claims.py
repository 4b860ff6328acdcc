"""What a claim of the paper is made of: parts, each a number of ours and the range in which the claim puts it.

A section declares its claims with these classes; `experiments.analysis.verdicts` judges them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from experiments.engine.result import Result
from experiments.report.results import Row
from experiments.report.tables import Table


@dataclass(frozen=True)
class Runs:
    """The runs of one network on one task, whatever their seed and schedule, and what is asked of each.

    Attributes:
        name: such as `ST-CNN affine, R`.
        value: the number of a run; None for a run that is not one of these, or did not measure it.
        lower_is_better: as for an error.
        paper: the paper's number, if it gives one.
        dataset: the data set of the paper's number, which is shown beside no other.
        decimals, paper_decimals: printed digits of our number and of the paper's.
    """

    name: str
    value: Callable[[Result], float | None]
    lower_is_better: bool = True
    paper: float | None = None
    dataset: str = "mnist"
    decimals: int = 2
    paper_decimals: int = 1


@dataclass(frozen=True)
class Gain:
    """By how much one network is better than another: the claim is that the gain lies between two bounds.

    The gain of a seed is positive where `first` is better. Bounds 0 and infinity: it is better. -m and m: both are
    equal but for a margin m. -m and infinity: it is not worse by more than m.

    Attributes:
        first, second: the networks.
        above, below: the bounds, in the unit of the numbers.
    """

    first: Runs
    second: Runs
    above: float = 0.0
    below: float = math.inf


@dataclass(frozen=True)
class Level:
    """The mean over seeds of one network: the claim is that it lies between two bounds."""

    runs: Runs
    above: float = -math.inf
    below: float = math.inf


@dataclass(frozen=True)
class Ratio:
    """A ratio in results/benchmarks.json: the claim is that it lies below a bound.

    Attributes:
        name: what is divided by what.
        suite: the suite.
        row: key and value by which the suite's row is found, such as ("case", "R").
        key: of the ratio, a median with quartiles, in the row.
        below: the bound.
    """

    name: str
    suite: str
    row: tuple[str, str]
    key: str
    below: float


Part = Gain | Level | Ratio


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        number: its place on the page.
        text: the claim in one sentence.
        source: where in the paper it is.
        parts: all of which must hold; none where nothing can be measured yet.
        note: how the parts and their bounds were chosen, where that is not plain.
    """

    number: int
    text: str
    source: str
    parts: tuple[Part, ...] = ()
    note: str = ""


def runs_in(table: Table, row: Row, column: str) -> Runs:
    """The runs of a cell of a table."""

    metric = table.metric_of(column)

    def value(result: Result) -> float | None:
        place = table.place(result)
        here = place is not None and place[0] == row and column in table.columns_of(place[1])
        return result.metric(metric) if here and metric in result.metrics else None

    return Runs(
        name=f"{table.rows[row]}, {table.columns[column]}" if len(table.columns) > 1 else table.rows[row],
        value=value,
        lower_is_better=table.lower_is_better is not False,
        paper=table.paper.get(row, {}).get(column),
        dataset=table.dataset,
        decimals=table.decimals,
        paper_decimals=table.paper_decimals,
    )


def gain_in(
    table: Table, first: Row, second: Row, column: str, above: float = 0.0, below: float = math.inf
) -> Gain:
    """Two rows of a table in one column."""
    return Gain(runs_in(table, first, column), runs_in(table, second, column), above, below)
