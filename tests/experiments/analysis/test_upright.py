"""The picture of all poses."""

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.analysis.upright import concentrations, mosaic
from experiments.engine.run import run
from experiments.report import load_results, pictures


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


def test_from_runs_to_the_picture(configure, script, tmp_path, monkeypatch):
    drawn, save = [], pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    full = "dataset.distort.max_angle=180"
    for more in (["seed=0"], ["seed=1"], ["seed=1", full], ["model=cnn"]):
        run(configure("experiment=upright", "trainer.iterations=2", *more), more)
    path = tmp_path / "a" / "poses.png"
    status, said, _ = script("upright.py", str(tmp_path / "outputs"), "--out", str(path))
    assert (status, said) == (0, f"{path}\n")
    picture = imread(path)
    assert picture.shape[1] / picture.shape[0] == pytest.approx(
        2 * 2.45 / 5.6, rel=0.01
    )  # two ranges, two seeds
    (figure,) = drawn
    # A seed has one colour: the range with seed 1 alone is drawn in that of the legend's second line.
    legend = {text.get_text(): one.get_color() for text, one in zip(
        figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=False)}  # fmt: skip
    first, second = (axes for axes in figure.axes if axes.name == "polar")
    assert [one.get_color() for one in first.lines[:2]] == [legend["seed 0"], legend["seed 1"]]
    assert second.lines[0].get_color() == legend["seed 1"]
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["seed 0", "seed 1"]
    assert figure._suptitle.get_text().startswith("ST-CNN (affine) on rotated digits: the pose")
    (narrow, wide) = (axes.get_title().split("\n") for axes in figure.axes if axes.get_title())
    assert (narrow[0], wide[0]) == ("rotations of −90° to 90°", "rotations of −180° to 180°")
    results = [one for one in load_results([tmp_path / "outputs"]) if one.transform]
    errors = {
        one.seed: one.metric("test_error")
        for one in results
        if one.config["dataset"]["distort"]["max_angle"] == 90
    }
    assert narrow[1] == f"test error {(errors[0] + errors[1]) / 2:.2f} %"
    assert wide[2].startswith("concentration: directions 0.") and ", axes 0." in wide[2]
    note = " ".join(figure.legends[0].get_title().get_text().split())
    assert "Without a run: −45° to 45°, −135° to 135°, 0° to 180°, −180° to 0°." in note
    assert "Numbers are means over seeds. Training: 2 steps, schedule smoke." in note
    status, _, error = script("upright.py", *map(str, tmp_path.glob("outputs/upright/cnn*")))
    assert status == 2 and "None of these runs" in error
