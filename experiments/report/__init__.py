"""result.json files -> checked results -> cells (mean +- std over seeds) -> Markdown, LaTeX and CSV tables.

A section's module defines what its tables look like (`Table`) and what the paper's numbers are; this package, which
names no section, puts our numbers beside them. Every text is a function of the results alone (sorted, no time stamps,
no paths of the machine): the same results give the same bytes.
"""

from experiments.engine.result import Result
from experiments.report.claims import Claim, Gain, Level, Ratio, Runs, gain_in, runs_in
from experiments.report.grid import markdown_table
from experiments.report.headline import headline
from experiments.report.records import cell_records, cells_csv, run_records
from experiments.report.render import document, embed, latex, markdown, provenance, render, write_tables
from experiments.report.results import Row, load_results, row_of
from experiments.report.section import Section
from experiments.report.tables import (
    MIN_SEEDS,
    Cell,
    Sheet,
    Table,
    by_network_and_experiment,
    cells,
    choose_network_and_experiment,
    row_label,
    sheets,
)

__all__ = [
    "MIN_SEEDS",
    "Cell",
    "Claim",
    "Gain",
    "Level",
    "Ratio",
    "Result",
    "Row",
    "Runs",
    "Section",
    "Sheet",
    "Table",
    "by_network_and_experiment",
    "cell_records",
    "cells",
    "cells_csv",
    "choose_network_and_experiment",
    "document",
    "embed",
    "gain_in",
    "headline",
    "latex",
    "load_results",
    "markdown",
    "markdown_table",
    "provenance",
    "render",
    "row_label",
    "row_of",
    "run_records",
    "runs_in",
    "sheets",
    "write_tables",
]
