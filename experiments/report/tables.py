"""Results -> cells, one a configuration (mean +- std over seeds) -> sheets, one a table, data set and schedule."""

from __future__ import annotations

import cmath
import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.engine.result import Result
from experiments.report.results import Row, row_of, sort_key, trainer_order
from experiments.report.subject import NETWORKS

MIN_SEEDS = 3  # the paper reports means of three seeds; a cell with fewer is marked, and never in bold
_TRANSFORMS = {"tps": "TPS"}


def by_network_and_experiment(result: Result) -> tuple[Row, str]:
    """The place of a result in a table whose rows are networks and whose columns are experiments."""
    return row_of(result), result.experiment


def choose_network_and_experiment(row: Row, column: str) -> list[str]:
    """The overrides of `train.py` for a cell of such a table."""
    model, transform = row
    chosen = [f"transform={transform}"] if transform is not None else []
    return [f"experiment={column}", f"model={model}", *chosen]


@dataclass(frozen=True)
class Table:
    """What one table of the paper looks like, and the paper's numbers in it.

    Attributes:
        name: stem of the files: results/tables/<name>-<trainer>.csv.
        title: the heading.
        columns: key -> header, in the order of print.
        rows: row -> label, in the order of print.
        paper: row -> column -> the paper's number, in the metric's unit (percent for errors).
        source: where in the paper the numbers are.
        place: the (row, column) of a result; None, or a column that the table does not have, where the result does not
            belong to the table. By default rows are (model, transform) and columns are experiments.
        overrides: the inverse of `place`: the overrides of `train.py` that train the cell (row, column).
        row_names, column_name: the heads, in the CSV file, of the two parts of a row and of the column's key.
        trainers: name of a schedule -> its file in configs/trainer, where the two differ: the section has a schedule of
            its own, or the paper gives none.
        of_paper: whether the table is one of the paper's; the others are trained after all that are.
        priority: the rows in the order in which they are trained, the most informative first; None: as printed.
        same_test_set: whether all rows of a column share a test set.
        metric: key of the metric in result.json.
        metrics: column -> metric, of a table whose columns are metrics of the same runs. `place` gives the first
            column, and the run stands in all of them; `metric` plays no part.
        angles: those of `metrics` that are angles in degrees, whose means are circular.
        metric_label: what the metric is, with its unit.
        lower_is_better: whether the best mean of a column is the lowest; None: there is no best.
        dataset: the data set of the paper's numbers; they are shown beside no other.
        decimals, paper_decimals: printed digits of our numbers and of the paper's; angles have whole degrees.
        caveats: what else a reader must know about the numbers, a sentence each.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Mapping[Row, str]
    paper: Mapping[Row, Mapping[str, float]]
    source: str
    place: Callable[[Result], tuple[Row, str] | None] = by_network_and_experiment
    overrides: Callable[[Row, str], list[str]] = choose_network_and_experiment
    row_names: tuple[str, str] = ("model", "transform")
    column_name: str = "experiment"
    trainers: Mapping[str, str] = field(default_factory=dict)
    of_paper: bool = True
    priority: tuple[Row, ...] | None = None
    same_test_set: bool = True
    metric: str = "test_error"
    metrics: Mapping[str, str] = field(default_factory=dict)
    angles: frozenset[str] = frozenset()
    metric_label: str = "test error, %"
    lower_is_better: bool | None = True
    dataset: str = "mnist"
    decimals: int = 2
    paper_decimals: int = 1
    caveats: tuple[str, ...] = ()

    def metric_of(self, column: str) -> str:
        """The metric that stands in a column."""
        return self.metrics.get(column, self.metric)

    def columns_of(self, column: str) -> list[str]:
        """The columns that a run stands in which `place` puts into `column`."""
        return [one for one in self.metrics or (column,) if one in self.columns]

    def is_angle(self, column: str) -> bool:
        """Whether the metric of a column is an angle in degrees."""
        return self.metric_of(column) in self.angles

    def digits(self, column: str) -> int:
        """Decimals with which the numbers of a column are printed."""
        return 0 if self.is_angle(column) else self.decimals

    def against_paper(self, result: Result) -> dict[str, Any] | None:
        """One run beside the paper.

        Returns:
            `table`, `row`, `column`, `schedule`, `dataset`, `seed`, `metric` as texts and numbers; `ours`; `paper` and
            `difference`, which are None where the paper has no number, or one of another data set. None where the run
            does not belong to the table, or did not measure its metric.
        """
        where = self.place(result)
        if where is None or where[1] not in self.columns or self.metric_of(where[1]) not in result.metrics:
            return None
        row, column = where
        paper = self.paper.get(row, {}).get(column) if result.dataset == self.dataset else None
        ours = result.metric(self.metric_of(column))
        return {
            "table": self.title,
            "row": self.rows.get(row, row_label(row)),
            "column": self.columns[column],
            "schedule": result.trainer,
            "dataset": result.dataset,
            "seed": result.seed,
            "metric": self.metric_label,
            "paper": paper,
            "ours": ours,
            "difference": None if paper is None else ours - paper,
        }


def against_paper(tables: Iterable[Table], result: Result) -> dict[str, Any] | None:
    """`Table.against_paper` of the first of the tables that the run belongs to; None where it belongs to none."""
    lines = (table.against_paper(result) for table in tables)
    return next((line for line in lines if line is not None), None)


@dataclass(frozen=True)
class Cell:
    """The runs of one configuration in one place of a table, one run a seed.

    Attributes:
        table: its name.
        row, column: the place.
        trainer, dataset: of all of the runs.
        overrides: the keys in which the configurations of the row differ, with this one's values; "" for a row with
            one configuration.
        values: the column's metric, sorted by seed.
        results: the runs, sorted by seed.
        angle: whether the values are angles in degrees.
    """

    table: str
    row: Row
    column: str
    trainer: str
    dataset: str
    overrides: str
    values: tuple[float, ...]
    results: tuple[Result, ...]
    angle: bool = False

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over seeds; of angles the circular mean, from -180 to 180."""
        if not self.angle:
            return statistics.fmean(self.values)
        return math.degrees(cmath.phase(sum(cmath.rect(1, math.radians(value)) for value in self.values)))

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof = 1), of angles around their circular mean; None for one run."""
        if self.n < 2:
            return None
        if not self.angle:
            return statistics.stdev(self.values)
        away = [(value - self.mean + 180) % 360 - 180 for value in self.values]
        return math.sqrt(sum(one**2 for one in away) / (self.n - 1))


@dataclass(frozen=True)
class Sheet:
    """One table as it is printed: one schedule, one data set.

    Attributes:
        table: what the table looks like.
        trainer, dataset: of all of the runs.
        lines: (row, overrides, label), in the order of print.
        cells: (row, overrides, column) -> cell.
        test_sets: column -> fingerprints of its test sets, for columns that have more than one.
    """

    table: Table
    trainer: str
    dataset: str
    lines: tuple[tuple[Row, str, str], ...]
    cells: Mapping[tuple[Row, str, str], Cell]
    test_sets: Mapping[str, tuple[str, ...]]

    @property
    def stem(self) -> str:
        """The name of the sheet's files, without the ending."""
        dataset = [] if self.comparable else [self.dataset]
        return "-".join([self.table.name, *dataset, self.trainer])

    @property
    def comparable(self) -> bool:
        """Whether the paper's numbers were measured on this data set."""
        return self.dataset == self.table.dataset

    @property
    def results(self) -> list[Result]:
        """The runs of all cells."""
        each = {id(result): result for cell in self.cells.values() for result in cell.results}
        return sorted(each.values(), key=sort_key)

    @property
    def heading(self) -> str:
        """The title, the schedule, its iterations, and the data set where it is not the paper's."""
        data = "" if self.comparable else f", dataset {self.dataset}"
        return f"{self.table.title}: schedule {self.trainer}, {self.length}{data}"

    @property
    def length(self) -> str:
        """The iterations of its runs: the usual number, and columns with another, `8,000 iterations (RTS 12,000)`."""
        of: dict[str, set[int]] = {}
        for (_, _, column), cell in self.cells.items():
            of.setdefault(column, set()).update(result.iterations for result in cell.results)
        if any(len(counts) > 1 for counts in of.values()):
            each = sorted(set[int]().union(*of.values()))
            return f"{' / '.join(f'{count:,}' for count in each)} iterations"
        single = {column: min(counts) for column, counts in of.items()}
        usual = statistics.mode(sorted(single.values()))
        others = [
            f"{label} {single[column]:,}"
            for column, label in self.table.columns.items()
            if single.get(column, usual) != usual
        ]
        return f"{usual:,} iterations" + (f" ({', '.join(others)})" if others else "")

    def paper(self, row: Row, column: str) -> float | None:
        """The paper's number; None where it has none for this data set."""
        return self.table.paper.get(row, {}).get(column) if self.comparable else None

    def best(self, column: str) -> float | None:
        """The best mean of a column, rounded as printed; None for a column with fewer than two cells."""
        means = [
            round(cell.mean, self.table.decimals) for key, cell in self.cells.items() if key[2] == column
        ]
        lower = self.table.lower_is_better
        return None if len(means) < 2 or lower is None else (min if lower else max)(means)

    def is_best(self, cell: Cell) -> bool:
        """Whether a cell has the best mean of its column, over enough seeds that this is not one lucky run."""
        return cell.n >= MIN_SEEDS and round(cell.mean, self.table.decimals) == self.best(cell.column)

    def ours(self, cell: Cell, plus_minus: str) -> str:
        """Mean and deviation, such as `0.68 ± 0.03`; the mean alone for one run."""
        digits = self.table.digits(cell.column)
        deviation = "" if cell.std is None else f" {plus_minus} {cell.std:.{digits}f}"
        mean = f"{round(cell.mean, digits) + 0.0:.{digits}f}"  # + 0.0: no negative zero
        return f"{mean}{deviation}"

    def difference(self, cell: Cell, paper: float) -> str:
        """Ours minus the paper's, of the numbers as printed, with a plus or a minus sign (U+2212)."""
        digits = self.table.decimals
        text = f"{round(round(cell.mean, digits) - paper, digits) + 0.0:+.{digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")

    def notes(self) -> list[str]:
        """What a reader must know about this sheet's numbers, a sentence each."""
        table, runs = self.table, self.results
        better = {None: "", True: " (lower is better)", False: " (higher is better)"}[table.lower_is_better]
        notes = [f"{table.metric_label}{better}: mean ± sample standard deviation (number of seeds)."]
        if self.comparable:
            signed = "; the signed number is ours minus the paper's" if table.paper else ""
            notes.append(f"Paper: {table.source}{signed}.")
        else:
            notes.append(
                f"The dataset {self.dataset} is not the paper's ({table.dataset}): these numbers cannot be "
                "compared with the paper's, and none of the paper's are shown."
            )
        notes += table.caveats
        if any(cell.n < MIN_SEEDS for cell in self.cells.values()):
            notes.append(f"† fewer than {MIN_SEEDS} seeds.")
        for column, prints in self.test_sets.items():
            which = ", ".join(text[:12] for text in prints)
            notes.append(
                f"‡ {table.columns[column]}: {len(prints)} different test sets (fingerprints {which})."
            )
        machines, revisions = (sorted({getattr(run, key) for run in runs}) for key in ("device", "revision"))
        precisions = sorted({run.precision or "unknown precision" for run in runs})
        count = f"{len(runs)} run" + ("s" if len(runs) != 1 else "")
        notes.append(
            f"{count}, in {' and '.join(precisions)}; device: {', '.join(machines)}; "
            f"git revision: {', '.join(revisions)}."
        )
        return notes


def placed(table: Table, results: Iterable[Result]) -> list[tuple[Row, str, Result]]:
    """The results that belong to a table, as (row, column, result)."""
    places = ((table.place(result), result) for result in results)
    return [
        (place[0], column, result)
        for place, result in places
        if place is not None
        for column in table.columns_of(place[1])
    ]


def cells(tables: Iterable[Table], results: Iterable[Result]) -> list[Cell]:
    """Groups results into cells, in the tables' order.

    Runs of different configurations (the configuration without its seed) never share a cell: where a row has several
    in one column, the row is split by the keys in which they differ there, in every column. A row that the table does
    not name comes last.

    Raises:
        UserError: where a run lacks the table's metric.
    """
    results = sorted(results, key=sort_key)
    out: list[Cell] = []
    for table in tables:
        rows: dict[tuple[str, str, Row], list[tuple[str, Result]]] = defaultdict(list)
        for row, column, result in placed(table, results):
            rows[result.dataset, result.trainer, row].append((column, result))
        mine = []
        for (dataset, trainer, row), members in rows.items():
            keys = _differing(members)
            groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
            for column, result in members:
                groups[column, _overrides(result, keys), result.configuration].append(result)
            for (column, overrides, _), runs in groups.items():
                values = tuple(run.metric(table.metric_of(column)) for run in runs)
                of = (table.name, row, column, trainer, dataset, overrides)
                mine.append(Cell(*of, values, tuple(runs), table.is_angle(column)))
        order, columns = list(table.rows), list(table.columns)
        out += sorted(
            mine,
            key=lambda c: (
                (c.dataset != table.dataset, c.dataset, trainer_order(c.trainer)),
                (order.index(c.row) if c.row in order else len(order), c.row[0], c.row[1] or ""),
                (c.overrides, columns.index(c.column)),
            ),
        )
    return out


def _differing(results: Iterable[tuple[str, Result]]) -> list[str]:
    """The dotted configuration keys in which two runs of the same column differ, sorted."""
    settings: dict[str, list[dict[str, str]]] = defaultdict(list)
    for column, result in results:
        settings[column].append(result.settings)
    keys = {
        key
        for group in settings.values()
        for key in {key for one in group for key in one}
        if len({one.get(key) for one in group}) > 1
    }
    return sorted(keys)


def _overrides(result: Result, keys: Sequence[str], most: int = 4) -> str:
    """A run's values of some keys, as `optimizer.lr=0.1, width=64`; of more than `most` keys the first and a hash."""
    settings = result.settings
    parts = [f"{key}={_bare(settings[key])}" if key in settings else f"{key} not set" for key in keys]
    if len(parts) <= most:
        return ", ".join(parts)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return f"{', '.join(parts[:most])} and {len(parts) - most} more ({digest})"


def _bare(text: str) -> str:
    """JSON text, without the quotes of a string unless they tell it from a number or null."""
    inner = text[1:-1]
    if not text.startswith('"') or '"' in inner:
        return text
    try:
        json.loads(inner)
    except ValueError:
        return inner
    return text


def row_label(row: Row) -> str:
    """A network in the paper's spelling: ("st_cnn", "tps") -> "ST-CNN TPS"."""
    model, transform = row
    name = NETWORKS.get(model, model.upper().replace("_", "-"))
    return name if transform is None else f"{name} {_TRANSFORMS.get(transform, transform)}"


def sheets(tables: Sequence[Table], results: Iterable[Result], *, include_smoke: bool = False) -> list[Sheet]:
    """One sheet for every table, data set and schedule with a result; a sheet never mixes schedules.

    Args:
        tables: in the order of print.
        results: finished runs; those that no table has a place for are left out.
        include_smoke: also runs of the schedule `smoke`.

    Raises:
        UserError: where a run lacks the metric of its table.
    """
    shown = shown_results(results, include_smoke)
    grouped: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells(tables, shown):
        grouped[cell.table, cell.dataset, cell.trainer].append(cell)
    by_name = {table.name: table for table in tables}
    out = []
    for (name, dataset, trainer), members in grouped.items():
        table = by_name[name]
        overrides: dict[Row, dict[str, None]] = defaultdict(dict)  # in order, each once
        for cell in members:
            overrides[cell.row][cell.overrides] = None
        lines = []
        for row in [*table.rows, *(row for row in overrides if row not in table.rows)]:
            label = table.rows.get(row, row_label(row))
            lines += [
                (row, over, f"{label} [{over}]" if over else label) for over in overrides.get(row, {"": None})
            ]
        test_sets = _test_sets(table, trainer, dataset, shown)
        filled = {cell.column for cell in members}
        table_cells = {(cell.row, cell.overrides, cell.column): cell for cell in members}
        marks = {key: test_sets[key] for key in table.columns if key in filled and key in test_sets}
        out.append(Sheet(table, trainer, dataset, tuple(lines), table_cells, marks))
    return out


def _test_sets(
    table: Table, trainer: str, dataset: str, results: Iterable[Result]
) -> dict[str, tuple[str, ...]]:
    """Column -> the fingerprints of its test sets, for columns where runs that ought to share one have several.

    Runs of all schedules ought to, so that schedules can be compared; those of `smoke`, which may shorten the test set,
    only among themselves.
    """
    prints: dict[str, dict[Row | None, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row, column, result in placed(table, results):
        if result.dataset == dataset and (result.trainer == "smoke") == (trainer == "smoke"):
            prints[column][None if table.same_test_set else row].add(result.test_fingerprint)
    several = {
        column: [prints for prints in by_row.values() if len(prints) > 1] for column, by_row in prints.items()
    }
    return {column: tuple(sorted(set[str]().union(*groups))) for column, groups in several.items() if groups}


def shown_results(results: Iterable[Result], include_smoke: bool) -> list[Result]:
    """The results that tables show, sorted: all, or all but those of the schedule `smoke`."""
    shown = (result for result in results if include_smoke or result.trainer != "smoke")
    return sorted(shown, key=sort_key)
