"""Checked results -> cells (mean +- std over seeds) -> sheets, one a table, dataset and schedule."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.engine.result import Result
from experiments.report.results import Row, row_of, sort_key, trainer_order

FEW = 3  # the paper reports means of three seeds; a cell with fewer is marked
_MODELS = {"fcn": "FCN", "cnn": "CNN"}
_TRANSFORMS = {"tps": "TPS"}


def by_network_and_experiment(result: Result) -> tuple[Row, str]:
    return row_of(result), result.experiment


def choose_network_and_experiment(row: Row, column: str) -> list[str]:
    model, transform = row
    chosen = [f"transform={transform}"] if transform is not None else []
    return [f"experiment={column}", f"model={model}", *chosen]


@dataclass(frozen=True)
class Table:
    """What one table of the paper looks like, and the paper's numbers in it.

    columns: key -> header.   rows: row -> label.   Both in the order of print.
    paper: row -> column -> the paper's number, in the metric's unit (percent for errors).
    place: where a result stands, (row, column); None, or a column the table has not, where it is not this table's.
        Unless given, rows are (model, transform) and columns are experiments.
    overrides: the way back, what `train.py` is told to fill (row, column).
    row_names, column_name: what the two parts of a row and a column's key are, for the heads of the CSV file.
    trainers: a schedule's name -> that of its file in configs/trainer, where the section has one of its own or
        the paper gives none.
    priority: the rows in the order in which a runner trains them, the most informative first; None: in that of print.
    same_test_set: of a column, unless each row has one of its own.
    dataset: the only dataset beside which the paper's numbers are shown.
    """

    name: str  # stem of the files: results/tables/<name>-<trainer>.csv
    title: str
    columns: Mapping[str, str]
    rows: Mapping[Row, str]
    paper: Mapping[Row, Mapping[str, float]]
    source: str  # where the paper says so
    place: Callable[[Result], tuple[Row, str] | None] = by_network_and_experiment
    overrides: Callable[[Row, str], list[str]] = choose_network_and_experiment
    row_names: tuple[str, str] = ("model", "transform")
    column_name: str = "experiment"
    trainers: Mapping[str, str] = field(default_factory=dict)
    priority: tuple[Row, ...] | None = None
    same_test_set: bool = True
    metric: str = "test_error"
    metric_label: str = "test error, %"
    lower_is_better: bool = True
    dataset: str = "mnist"
    decimals: int = 2  # of our numbers
    paper_decimals: int = 1

    def against_paper(self, result: Result) -> dict[str, Any] | None:
        """One run beside the paper: a line of this table; None where the run is not the table's.

        returns: the columns' names -> texts and numbers. `paper` and `difference` are None
        where the paper has no number, or one of another dataset.
        """
        where = self.place(result)
        if where is None or where[1] not in self.columns or self.metric not in result.metrics:
            return None
        row, column = where
        paper = self.paper.get(row, {}).get(column) if result.dataset == self.dataset else None
        ours = result.metric(self.metric)
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


@dataclass(frozen=True)
class Cell:
    """The runs of one (table, row, column, trainer, dataset, configuration), one a seed, sorted by seed."""

    table: str
    row: Row
    column: str
    trainer: str
    dataset: str
    overrides: str  # "" where the row has one configuration, else the keys that tell its configurations apart
    values: tuple[float, ...]
    results: tuple[Result, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof = 1); None for one run."""
        return statistics.stdev(self.values) if self.n > 1 else None


@dataclass(frozen=True)
class Sheet:
    """One table as it is printed: one schedule, one dataset."""

    table: Table
    trainer: str
    dataset: str
    lines: tuple[tuple[Row, str, str], ...]  # (row, overrides, label)
    cells: Mapping[tuple[Row, str, str], Cell]  # (row, overrides, column) -> cell
    test_sets: Mapping[str, tuple[str, ...]]  # column -> fingerprints, where there is more than one

    @property
    def stem(self) -> str:
        parts = (
            (self.table.name, self.trainer)
            if self.comparable
            else (self.table.name, self.dataset, self.trainer)
        )
        return "-".join(parts)

    @property
    def comparable(self) -> bool:
        """Whether the paper's numbers were measured on this dataset."""
        return self.dataset == self.table.dataset

    @property
    def results(self) -> list[Result]:
        return sorted((result for cell in self.cells.values() for result in cell.results), key=sort_key)

    @property
    def heading(self) -> str:
        counts = sorted({result.iterations for result in self.results})
        data = "" if self.comparable else f", dataset {self.dataset}"
        iterations = " / ".join(f"{count:,}" for count in counts)
        return f"{self.table.title}: schedule {self.trainer}, {iterations} iterations{data}"

    def paper(self, row: Row, column: str) -> float | None:
        return self.table.paper.get(row, {}).get(column) if self.comparable else None

    def best(self, column: str) -> float | None:
        """The best mean of a column as printed; None where there is nothing to compare."""
        means = [
            round(cell.mean, self.table.decimals) for key, cell in self.cells.items() if key[2] == column
        ]
        return None if len(means) < 2 else (min if self.table.lower_is_better else max)(means)

    def ours(self, cell: Cell, plus_minus: str) -> str:
        """Mean and deviation, such as `0.68 ± 0.03`; the mean alone for one run."""
        digits = self.table.decimals
        deviation = "" if cell.std is None else f" {plus_minus} {cell.std:.{digits}f}"
        return f"{cell.mean:.{digits}f}{deviation}"

    def difference(self, cell: Cell, paper: float) -> str:
        """Ours minus the paper's, of the numbers as printed, signed with + or U+2212."""
        digits = self.table.decimals
        text = f"{round(round(cell.mean, digits) - paper, digits) + 0.0:+.{digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")

    def notes(self) -> list[str]:
        """What a reader must know about this sheet's numbers, a sentence each."""
        table, runs = self.table, self.results
        better = "lower" if table.lower_is_better else "higher"
        notes = [
            f"{table.metric_label} ({better} is better): mean ± sample standard deviation (number of seeds)."
        ]
        if self.comparable:
            signed = "; the signed number is ours minus the paper's" if table.paper else ""
            notes.append(f"Paper: {table.source}{signed}.")
        else:
            notes.append(
                f"The dataset {self.dataset} is not the paper's ({table.dataset}): these numbers cannot be "
                "compared with the paper's, and none of the paper's are shown."
            )
        if any(cell.n < FEW for cell in self.cells.values()):
            notes.append(f"† fewer than {FEW} seeds.")
        for column, prints in self.test_sets.items():
            which = ", ".join(text[:12] for text in prints)
            notes.append(
                f"‡ {table.columns[column]}: {len(prints)} different test sets (fingerprints {which})."
            )
        machines, revisions = (sorted({getattr(run, key) for run in runs}) for key in ("device", "revision"))
        count = f"{len(runs)} run" + ("s" if len(runs) != 1 else "")
        notes.append(f"{count}; device: {', '.join(machines)}; git revision: {', '.join(revisions)}.")
        return notes


def placed(table: Table, results: Iterable[Result]) -> list[tuple[Row, str, Result]]:
    """The results that belong to a table, with their row and column."""
    found = ((table.place(result), result) for result in results)
    return [(*place, result) for place, result in found if place is not None and place[1] in table.columns]


def cells(tables: Iterable[Table], results: Iterable[Result]) -> list[Cell]:
    """Group results by (table, row, column, trainer, dataset, overrides), in the tables' order.

    Runs of different configurations (the config without its seed) never share a cell: where a row has a cell
    with more than one, the row is split by the keys that differ there, in every column. A row the table does
    not name comes last. Raises UserError where a run lacks the table's metric.
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
                values = tuple(run.metric(table.metric) for run in runs)
                mine.append(Cell(table.name, row, column, trainer, dataset, overrides, values, tuple(runs)))
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
    """The dotted config keys in which any two runs of the same column differ."""
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
    """Such as `optimizer.lr=0.1, width=64`; of many keys the first few, and a hash over all of them."""
    settings = result.settings
    parts = [f"{key}={_bare(settings[key])}" if key in settings else f"{key} not set" for key in keys]
    if len(parts) <= most:
        return ", ".join(parts)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return f"{', '.join(parts[:most])} and {len(parts) - most} more ({digest})"


def _bare(text: str) -> str:
    """JSON without the quotes of a string, where it cannot be mistaken for anything else without them."""
    inner = text[1:-1]
    if not text.startswith('"') or '"' in inner:
        return text
    try:
        json.loads(inner)
    except ValueError:
        return inner
    return text


def row_label(row: Row) -> str:
    """The paper's spelling: ("st_cnn", "tps") -> "ST-CNN TPS"."""
    model, transform = row
    name = _MODELS.get(model, model.upper().replace("_", "-"))
    return name if transform is None else f"{name} {_TRANSFORMS.get(transform, transform)}"


def sheets(tables: Sequence[Table], results: Iterable[Result], *, include_smoke: bool = False) -> list[Sheet]:
    """One sheet for every table, dataset and trainer with a result; schedules are never mixed in one."""
    shown = shown_results(results, include_smoke)
    grouped: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells(tables, shown):
        grouped[cell.table, cell.dataset, cell.trainer].append(cell)
    by_name = {table.name: table for table in tables}
    out = []
    for (name, dataset, trainer), members in grouped.items():
        table = by_name[name]
        found: dict[Row, dict[str, None]] = defaultdict(dict)
        for cell in members:
            found[cell.row][cell.overrides] = None
        lines = []
        for row in [*table.rows, *(row for row in found if row not in table.rows)]:
            label = table.rows.get(row, row_label(row))
            lines += [
                (row, over, f"{label} [{over}]" if over else label) for over in found.get(row, {"": None})
            ]
        prints: dict[str, dict[Row | None, set[str]]] = defaultdict(lambda: defaultdict(set))
        for row, column, result in placed(table, shown):
            # Across schedules too, so that they can be compared; a smoke run may cut its test set short.
            if result.dataset == dataset and (result.trainer == "smoke") == (trainer == "smoke"):
                prints[column][None if table.same_test_set else row].add(result.test_fingerprint)
        test_sets = {
            column: tuple(
                sorted(set[str]().union(*(some for some in prints[column].values() if len(some) > 1)))
            )
            for column in table.columns
            if any(cell.column == column for cell in members)
            and any(len(some) > 1 for some in prints[column].values())
        }
        table_cells = {(cell.row, cell.overrides, cell.column): cell for cell in members}
        out.append(Sheet(table, trainer, dataset, tuple(lines), table_cells, test_sets))
    return out


def shown_results(results: Iterable[Result], include_smoke: bool) -> list[Result]:
    shown = (result for result in results if include_smoke or result.trainer != "smoke")
    return sorted(shown, key=sort_key)
