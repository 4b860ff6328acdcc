"""What the parts of a run offer one another."""

from pathlib import Path
from typing import Any, Protocol

from torch import nn

from experiments.engine.result import Result


class Section(Protocol):
    """What a section of the paper adds to its runs: pictures, and the paper's number beside ours."""

    name: str

    def figures(self, model: nn.Module, data: Any, folder: Path) -> dict[str, Path]:
        """Draws pictures of a trained network into the run directory; name -> path."""
        ...

    def against_paper(self, result: Result) -> dict[str, Any] | None:
        """A run's line in the section's table: the columns' names -> texts and numbers; None without a place."""
        ...
