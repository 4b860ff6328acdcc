"""result.json files -> checked results -> cells (mean +- std over seeds) -> Markdown, LaTeX and CSV tables.

Nothing in here knows a section of the paper: a section's module says what its tables look like (`Table`) and
what the paper's numbers are; this package puts our numbers beside them. Every text it makes is a function of
the results alone (sorted, no time stamps, no paths of the machine): the same results give the same bytes.
"""

from experiments.engine.result import Result
from experiments.report.headline import headline
from experiments.report.render import (
    COMMAND,
    GENERATED_TEX,
    csv_text,
    document,
    embed,
    latex,
    markdown,
    provenance,
    render,
    write_tables,
)
from experiments.report.results import Row, load_results, row_of
from experiments.report.section import Section
from experiments.report.tables import (
    FEW,
    Cell,
    Sheet,
    Table,
    cells,
    choose_network_and_experiment,
    row_label,
    sheets,
)

__all__ = [
    "COMMAND",
    "FEW",
    "GENERATED_TEX",
    "Cell",
    "Result",
    "Row",
    "Section",
    "Sheet",
    "Table",
    "cells",
    "choose_network_and_experiment",
    "csv_text",
    "document",
    "embed",
    "headline",
    "latex",
    "load_results",
    "markdown",
    "provenance",
    "render",
    "row_label",
    "row_of",
    "sheets",
    "write_tables",
]
