"""MNIST in 3-D (paper appendix A.3): the table, without numbers of the paper, which gives none, and the picture."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from experiments.report import (
    Claim,
    Result,
    Row,
    Section,
    Table,
    choose_network_and_experiment,
    gain_in,
    row_of,
)
from experiments.report.subject import Subject, Words
from stn.datasets.volumes import SolidDigits

ROWS: dict[Row, str] = {("cnn_3d", None): "CNN, no ST", ("st_cnn_3d", "affine3d"): "ST-CNN 3-D affine"}
PRIORITY: tuple[Row, ...] = (("st_cnn_3d", "affine3d"), ("cnn_3d", None))
CANVAS = 60  # voxels a side: the paper's, and the default of the experiment
EXAMPLES, WRONG = 8, 2  # volumes in the picture, and how many of them are misclassified


def place(result: Result) -> tuple[Row, str] | None:
    """A row a network, a column a side of the cube."""
    if result.experiment != "mnist_3d":
        return None
    return row_of(result), str(result.config["dataset"]["distort"]["canvas"])


def overrides(row: Row, column: str) -> list[str]:
    """The inverse of `place`."""
    smaller = [] if column == str(CANVAS) else [f"dataset.distort.canvas={column}"]
    return [*choose_network_and_experiment(row, "mnist_3d"), *smaller]


SOLIDS = Table(
    name="3d",
    title="MNIST in 3-D",
    columns={"32": "32 voxels a side", "60": "60 voxels a side"},
    rows=ROWS,
    paper={},
    source="Jaderberg et al. 2015, appendix A.3, which gives no number",
    place=place,
    overrides=overrides,
    column_name="canvas",
    trainers={"paper": "fast"},  # the paper gives no schedule
    priority=PRIORITY,
)

CLAIM = Claim(
    10,
    "A 3-D transformer, trained with labels alone, makes a network better at digits turned and placed in a volume.",
    "appendix A.3",
    tuple(gain_in(SOLIDS, ("st_cnn_3d", "affine3d"), ("cnn_3d", None), column) for column in SOLIDS.columns),
    f"The paper gives no number. We judge whether the network is better with the transformer than without; {CANVAS} "
    "voxels is the paper's size.",
)


def draw(model: nn.Module, data: SolidDigits, folder: Path, subject: Subject) -> dict[str, Path]:
    """`projections`: test volumes from the front, from above and from the side, before and after the transformer."""
    from experiments.sections.figures import projections, right_and_wrong  # matplotlib: slow to import

    which = f"the first {EXAMPLES - WRONG} test volumes"
    first = range(EXAMPLES - WRONG)
    chosen, rule = right_and_wrong(model, data.test, first, which, "volume", WRONG, batch=50)
    volumes, labels = data.test.images[chosen].cpu().float() / 255, data.test.labels[chosen].cpu()
    does = (
        "looks at each solid through a window that it chooses"
        if hasattr(model, "transformers")
        else ("sees each solid as it is")
    )
    title = subject.title(f"{subject.network} on {subject.data} {does}")
    path = folder / "projections.png"
    return {"projections": projections(model, volumes, labels, path, title=title, note=subject.note(rule))}


WORDS = Words({"mnist_3d": "solid digits, turned about three axes and moved"})
SECTION = Section(name="mnist_3d", tables=(SOLIDS,), draw=draw, claims=(CLAIM,), words=WORDS)
