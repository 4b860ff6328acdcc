"""What a section of the paper brings: its tables, the order in which cells are trained, and its pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from experiments.engine.result import Result
from experiments.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A section of the paper. An experiment names its own with `section:` in its configuration.

    Attributes:
        name: the module's name in `experiments.sections`.
        tables: in the order of print.
        figures: (trained network, data, run directory) -> name -> path of the pictures that it wrote there.
    """

    name: str
    tables: tuple[Table, ...]
    figures: Callable[[nn.Module, Any, Path], dict[str, Path]]

    def against_paper(self, result: Result) -> dict[str, Any] | None:
        """A run's line in the first of the section's tables that has a place for it, as `Table.against_paper`."""
        lines = (table.against_paper(result) for table in self.tables)
        return next((line for line in lines if line is not None), None)
