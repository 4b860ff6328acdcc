"""The picture of all poses."""

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.analysis.upright import concentrations, mosaic
from experiments.engine.run import run


def test_the_mosaic_has_the_classes_row_by_row():
    means = np.arange(1, 11)[:, None, None] * np.array([[0, 1], [1, 1]])
    picture = mosaic(means)
    assert picture.shape == (4, 10) and picture.max() == 1  # each scaled by itself
    assert picture[::2, ::2].max() == 0 and picture[1::2].min() == 1
    order = mosaic(np.stack([np.array([[255.0, c]]) for c in range(10)]))
    assert (order[:, 1::2] * 255).round().tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_opposite_directions_are_one_axis():
    assert concentrations(np.array([30.0, 210.0, 30.0, -150.0])) == pytest.approx((0, 1), abs=1e-6)
    assert concentrations(np.array([10.0, 100.0])) == pytest.approx((np.sqrt(0.5), 0), abs=1e-6)
    assert concentrations(np.full(3, -170.0)) == pytest.approx((1, 1))


def test_from_runs_to_the_picture(configure, script, tmp_path):
    for more in (["seed=0"], ["seed=1"], ["dataset.distort.max_angle=180"], ["model=cnn"]):
        run(configure("experiment=upright", "trainer.iterations=2", *more), more)
    path = tmp_path / "a" / "poses.png"
    status, said, _ = script("upright.py", str(tmp_path / "outputs"), "--out", str(path))
    assert (status, said) == (0, f"{path}\n")
    picture = imread(path)
    assert picture.shape[1] / picture.shape[0] == pytest.approx(
        2 * 2.3 / 5.9, rel=0.01
    )  # two ranges, two seeds
    status, _, error = script("upright.py", *map(str, tmp_path.glob("outputs/upright/cnn*")))
    assert status == 2 and "None of these runs" in error
