"""The table of the front page: a few rows of one table, ours and the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.report.grid import markdown_table
from experiments.report.results import Row
from experiments.report.tables import MIN_SEEDS, Sheet, Table, placed, sheets

# Each base network without a spatial transformer, then with one.
ROWS: tuple[Row, ...] = (("fcn", None), ("st_fcn", "affine"), ("cnn", None), ("st_cnn", "affine"))


def headline(table: Table, results: Iterable[Result], rows: Sequence[Row] = ROWS) -> str:
    """Rows of a table as Markdown, of the schedule that fills most of their cells; the paper's wins a tie.

    A cell is mean ± sample standard deviation (number of seeds), and below it the paper's number. The best mean of a
    column is bold if it is of at least `MIN_SEEDS` seeds: with fewer, the order may be chance.

    Args:
        table: The table of the paper.
        results: Published results. Those of other tables and of other data sets than the table's own are ignored.
        rows: The rows to show, in this order.

    Returns:
        The grid, and a line that names the schedule and says what the numbers are.

    Raises:
        UserError: No result belongs to one of the rows.
    """
    part = replace(table, rows={row: table.rows[row] for row in rows})
    ours = [run for run in results if run.dataset == table.dataset]
    found = sheets([part], [run for row, _, run in placed(part, ours) if row in part.rows])
    if not found:
        raise UserError(f"The front page has nothing to show: no published result is in {table.title}.")
    sheet = max(found, key=lambda one: len(one.cells))
    lines = [
        [label, *(_cell(sheet, row, overrides, column) for column in part.columns)]
        for row, overrides, label in sheet.lines
    ]
    grid = markdown_table(["", *part.columns.values()], lines, "l" + "c" * len(part.columns))
    note = (
        f"Schedule `{sheet.trainer}`, {sheet.length}: mean ± sample standard deviation (number of seeds), and "
        f"below it the paper's number. Bold: the best here of its column, if it is of at least {MIN_SEEDS} seeds."
    )
    return f"{grid}\n{note}\n"


def _cell(sheet: Sheet, row: Row, overrides: str, column: str) -> str:
    cell, paper = sheet.cells.get((row, overrides, column)), sheet.paper(row, column)
    ours = "\N{EM DASH}"
    if cell is not None:
        best = sheet.is_best(cell)
        mean = sheet.ours(cell, "±")
        ours = f"{f'**{mean}**' if best else mean} ({cell.n})"
    return ours if paper is None else f"{ours}<br><sub>paper {paper:.{sheet.table.paper_decimals}f}</sub>"
