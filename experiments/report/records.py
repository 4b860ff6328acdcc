"""Results as rows of plain values: what CSV files, W&B tables and notebooks are made from.

Lists of dictionaries and the csv module do it; `pandas.DataFrame(run_records(...))` or
`pandas.read_csv("results/tables/results.csv")` is the same as a data frame.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.engine.result import Result
from experiments.report.tables import Sheet, Table, against_paper

Record = dict[str, Any]  # column -> text or number; None where there is no value
_PLACE = ("table", "row", "column", "ours", "paper", "difference")


def run_records(results: Iterable[Result], tables: Sequence[Table] = ()) -> list[Record]:
    """One record a run, in the order of the results: what was run, what it measured, on what, with which code.

    Args:
        results: finished runs.
        tables: where a run has a place in one of these, the record has the place, the paper's number and the
            difference from it.

    Returns:
        Records with the same columns: `experiment`, `dataset`, `model`, `transform`, `trainer`, `seed`; the place
        `table`, `row`, `column`, and there `ours`, `paper`, `difference` in the table's unit; every metric that any
        of the runs has; then size, time, machine, code, test set, configuration, and the `path` of the result.
    """
    results = list(results)
    metrics = dict.fromkeys(name for result in results for name in result.metrics)
    records = []
    for result in results:
        place = against_paper(tables, result) or {}
        records.append(
            {
                "experiment": result.experiment,
                "dataset": result.dataset,
                "model": result.model,
                "transform": result.transform,
                "trainer": result.trainer,
                "seed": result.seed,
                **{key: place.get(key) for key in _PLACE},
                **{name: result.metrics.get(name) for name in metrics},
                "width": result.width,
                "parameters": result.parameters,
                "iterations": result.iterations,
                "wall_seconds": result.wall_seconds,
                "images_per_second": result.images_per_second,
                "device": result.device,
                "precision": result.precision,
                "torch": result.versions.get("torch"),
                "git_revision": result.git_revision,
                "git_dirty": result.git_dirty,
                "test_fingerprint": result.test_fingerprint,
                "configuration": result.configuration,
                "path": result.path.as_posix(),
            }
        )
    return records


def cell_records(sheet: Sheet) -> list[Record]:
    """One record a cell of a sheet, missing cells too (`n` = 0, no `mean`).

    Returns:
        Records with the same columns. `mean`, `std` and `difference` are rounded to four decimals. `paper` and
        `difference` are there only for the data set of the paper.
    """
    table, records = sheet.table, []
    for row, overrides, _ in sheet.lines:
        for column, header in table.columns.items():
            cell, paper = sheet.cells.get((row, overrides, column)), sheet.paper(row, column)
            mean, std = (cell.mean, cell.std) if cell else (None, None)
            record: Record = {
                "table": table.name,
                "dataset": sheet.dataset,
                "trainer": sheet.trainer,
                **dict(zip(table.row_names, row, strict=True)),
                "overrides": overrides,
                table.column_name: column,
                "column": header,
                "metric": table.metric_of(column),
                "mean": _rounded(mean),
                "std": _rounded(std),
                "n": cell.n if cell else 0,
                "seeds": " ".join(str(run.seed) for run in cell.results) if cell else "",
            }
            if sheet.comparable:
                difference = None if paper is None or mean is None else mean - paper
                record |= {"paper": paper, "difference": _rounded(difference)}
            records.append(record)
    return records


def cells_csv(sheet: Sheet) -> str:
    """The CSV file of a sheet: its cells, with four decimals and the paper's number as the paper prints it."""
    formats = {"mean": ".4f", "std": ".4f", "difference": ".4f", "paper": f".{sheet.table.paper_decimals}f"}
    return csv_text(cell_records(sheet), formats)


def csv_text(records: Sequence[Record], formats: Mapping[str, str] | None = None) -> str:
    """Records with the same columns as a CSV file; None is an empty field.

    Args:
        records: at least one.
        formats: column -> format specification of its numbers, such as `.4f`.
    """
    formats = formats or {}
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(
            {
                key: "" if value is None else format(value, formats.get(key, ""))
                for key, value in record.items()
            }
        )
    return out.getvalue()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4) + 0.0  # + 0.0: no negative zero
