"""MNIST in 3-D (appendix A.3): the table, which has no number of the paper's, and the picture."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from experiments.report import Row, Table
from stn.datasets.volumes import SolidDigits

ROWS: dict[Row, str] = {("cnn_3d", None): "CNN, no ST", ("st_cnn_3d", "affine3d"): "ST-CNN 3-D affine"}

SOLIDS = Table(
    name="3d",
    title="MNIST in 3-D",
    columns={"mnist_3d": "extruded, turned, placed"},
    rows=ROWS,
    paper={},
    source="Jaderberg et al. 2015, appendix A.3, which gives no number",
)

TELLING: tuple[Row, ...] = (("st_cnn_3d", "affine3d"), ("cnn_3d", None))

EXAMPLES = 8


def figures(model: nn.Module, data: SolidDigits, folder: Path) -> dict[str, Path]:
    """`projections`: test volumes from the front, from above and from the side, before and after the transformer.

    returns: name -> path.
    """
    from experiments.figures import projections  # matplotlib: slow to import

    model.eval()
    what = f"{folder.parent.parent.name}, {folder.parent.name}, {folder.name}"
    volumes, labels = data.test.images[:EXAMPLES].cpu().float() / 255, data.test.labels[:EXAMPLES].cpu()
    return {"projections": projections(model, volumes, labels, folder / "projections.png", title=what)}
