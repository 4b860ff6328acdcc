"""What a section of the paper consists of: its tables, its pictures and its claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from experiments.engine.classes import class_names
from experiments.engine.result import Result
from experiments.report.claims import Claim
from experiments.report.subject import Subject, Words
from experiments.report.tables import Table, against_paper

OF_ANY_RUN = ("batch", "confusion", "curves")  # pictures, whatever the section


@dataclass(frozen=True)
class Section:
    """A section of the paper. An experiment names its own with `section:` in its configuration.

    Attributes:
        name: the module's name in `experiments.sections`.
        tables: in the order of print.
        draw: draws the section's pictures: (network in eval mode, data, folder, subject) -> name -> path of what it
            wrote into the folder, which is the run directory.
        claims: what the paper claims there.
        words: what the titles of pictures call its runs.
    """

    name: str
    tables: tuple[Table, ...]
    draw: Callable[[nn.Module, Any, Path, Subject], dict[str, Path]]
    claims: tuple[Claim, ...] = ()
    words: Words = field(default_factory=Words)

    def figures(self, model: nn.Module, data: Any, folder: Path, result: Result) -> dict[str, Path]:
        """Draws the section's pictures of a trained network, which it leaves in eval mode, and those of any run.

        Args:
            model: the network.
            data: the data set of the run.
            folder: the run directory.
            result: of the run; titles name its network, its data and its error.

        Returns:
            Name -> path of the pictures.
        """
        from experiments.report.pictures import from_files  # matplotlib: slow to import

        subject = self.words.subject(result.to_dict())
        return self.draw(model.eval(), data, folder, subject) | from_files(folder, subject)

    def batch(
        self, images: Tensor, labels: Tensor, data: Any, folder: Path, run: Mapping[str, Any]
    ) -> dict[str, Path]:
        """Draws a training batch as the network sees it.

        Args:
            images: (B, C, H, W), or volumes.
            labels: (B, ...).
            data: the data set of the run.
            folder: the run directory.
            run: what `Words.subject` takes, of a run that has not begun.

        Returns:
            "batch" -> path of the picture.
        """
        from experiments.report.pictures import training_batch

        path = folder / "batch.png"
        return {"batch": training_batch(images, labels, class_names(data), path, self.words.subject(run))}

    def against_paper(self, result: Result) -> dict[str, Any] | None:
        """`Table.against_paper` of the first of the section's tables that the run belongs to."""
        return against_paper(self.tables, result)
