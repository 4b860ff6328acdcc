"""The 3-D section: its picture from a run, and the cells of its table."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from experiments.engine.run import run
from experiments.sections import SECTIONS, mnist_3d
from experiments.sweeps.plan import plan


@pytest.mark.parametrize(("model", "rows"), [("cnn_3d", 3), ("st_cnn_3d", 6)])
def test_a_run_draws_three_projections_before_and_after(configure, model, rows):
    cfg = configure(
        "experiment=mnist_3d", f"model={model}", "dataset.distort.canvas=32", "trainer.iterations=2"
    )
    cfg.figures = True
    run(cfg, (), SECTIONS)
    picture = imread(next(Path(cfg.output_dir).rglob("projections.png")))
    assert picture.shape[0] > 100 * rows and picture[..., :3].std() > 0.1


def test_every_cell_of_the_table_can_be_run(tmp_path):
    runs = plan("3d", trainer="fast", seeds=[0], results=tmp_path)
    assert [run.label for run in runs] == [
        "mnist_3d/st_cnn_3d-affine3d-fast,dataset.distort.canvas=32-seed_0",
        "mnist_3d/st_cnn_3d-affine3d-fast-seed_0",
        "mnist_3d/cnn_3d-fast,dataset.distort.canvas=32-seed_0",
        "mnist_3d/cnn_3d-fast-seed_0",
    ]
    assert set(mnist_3d.SOLIDS.priority) == set(mnist_3d.ROWS)
