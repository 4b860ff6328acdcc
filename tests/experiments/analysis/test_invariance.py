"""Curves of error: what they are at no distortion, of an invariant network, and of one whose errors are known."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.analysis import invariance
from experiments.analysis.invariance import (
    AMOUNTS,
    Training,
    curves,
    distorted,
    picture,
    summary,
    training_of,
)
from experiments.engine.build import UserError
from experiments.engine.run import load_run, run
from experiments.engine.task import Classification
from experiments.report import pictures
from stn.datasets.addition import AddedDigits
from stn.datasets.digits import load_digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.distortions import rotate, rotate_translate_scale, translate_clutter
from stn.datasets.streams import FixedSet

ROOT = Path(__file__).resolve().parents[3]
STILL = Training(28, {"angle": (0, 0), "scale": (1, 1), "shift": (0, 0)})


class Says(nn.Module):
    """Says 1 where a function of the images is above 0."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        score = self.function(images)
        return torch.stack([-score, score], 1), {}


def test_training_ranges_of_r_and_rts():
    digits = load_digits()
    r = training_of(DistortedDigits(digits, partial(rotate, middle=90, max_angle=45)))
    assert (r.canvas, r.ranges) == (28, {"angle": (45, 135), "scale": (1, 1), "shift": (0, 0)})
    rts = training_of(DistortedDigits(digits, rotate_translate_scale))
    assert rts.canvas == 42 and rts.ranges["angle"] == (-45, 45) and rts.ranges["scale"] == (0.7, 1.2)
    assert rts.ranges["shift"] == pytest.approx((-7.7, 7.7)) and rts.middle("scale") == 0.95
    for data in (DistortedDigits(digits, translate_clutter), AddedDigits(digits, rotate), SimpleNamespace()):
        with pytest.raises(UserError, match="R, RTS"):
            training_of(data)


def test_without_distortion_it_is_the_error_on_the_digits_as_they_are():
    digits = load_digits()
    torch.manual_seed(0)
    labels = digits.test_labels % 2
    for training, images in (
        (STILL, digits.test_images),
        (Training(42, STILL.ranges), F.pad(digits.test_images, (7,) * 4)),
    ):
        weights = torch.randn(training.canvas**2)
        model = Says(lambda images, weights=weights: images.flatten(1) @ weights - 1)
        expected = Classification().evaluate(model, FixedSet(images, labels).batches(100))[0]["error"]
        assert 0 < expected < 100
        amounts = {"angle": [0.0], "scale": [1.0], "shift": [0.0]}
        found = curves(model, digits.test_images, labels, training, amounts)
        assert [found[factor]["error"] for factor in amounts] == [[expected]] * 3
        assert [found[factor]["ink"] for factor in amounts] == [[1.0]] * 3


def test_a_network_that_sees_the_total_alone_is_flat_and_one_that_sees_the_side_is_not():
    images = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    images[:20, :, 10:18, 16:20] = 255  # right of the centre
    images[20:, :, 12:16, 16:20] = 255  # half as much
    labels = (torch.arange(40) < 20).long()
    labels[:4] = 0  # a tenth are wrong, whatever is done
    amounts = {"angle": np.linspace(-180, 180, 13), "shift": [-14.0, -3.0, 0.0, 3.0]}
    total = curves(Says(lambda x: x.sum((1, 2, 3)) - 24), images, labels, STILL, amounts)
    assert total["angle"]["error"] == [10.0] * 13 and total["shift"]["error"] == [10.0] * 4
    ones = torch.ones(40, dtype=torch.long)
    side = Says(lambda x: x[..., 14:].sum((1, 2, 3)) - x[..., :14].sum((1, 2, 3)))
    found = curves(
        side, images, ones, STILL, {"angle": [0.0, 60.0, -120.0, 180.0], "shift": [-14.0, -3.0, 3.0]}
    )
    assert found["angle"]["error"] == [0.0, 0.0, 100.0, 100.0]
    assert found["shift"]["error"] == [100.0, 0.0, 0.0]
    below = Says(lambda x: x[..., 14:, :].sum((1, 2, 3)) - x[..., :14, :].sum((1, 2, 3)))
    assert curves(below, images, ones, STILL, {"angle": [90.0, -90.0]})["angle"]["error"] == [0.0, 100.0]
    assert distorted(images, STILL, "shift", 3.0).argmax(3).amax() == 19  # whole pixels to the right
    gone = curves(side, images, ones, STILL, {"shift": [10.0]})["shift"]["ink"]
    assert gone == [0.5]  # of four columns, from 26, two are left


def test_the_training_ranges_are_bars_in_the_colours_of_the_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "save", lambda figure, path: figure)
    ranges = {"angle": (-45.0, 45.0), "scale": (0.7, 1.2), "shift": (-7.7, 7.7)}
    trainings = [STILL, Training(28, STILL.ranges | {"angle": (-90.0, 90.0)}), Training(42, ranges)]
    measured = []
    for letter, training in zip("ABC", trainings, strict=True):
        values = {
            f: {"error": [1.0] * len(a), "ink": [training.canvas / 56] * len(a)} for f, a in AMOUNTS.items()
        }
        measured.append(summary(letter, f"network {letter}", [0], 10, training, AMOUNTS, [values]))
    figure = picture(measured, tmp_path / "a.png")
    handles = {text.get_text(): line for text, line in zip(
        figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True)}  # fmt: skip
    named = [label for label in handles if label.startswith(("A: ", "B: ", "C: "))]
    assert named == [f"{letter}: network {letter}, seed 0" for letter in "ABC"]
    for axes, factor in zip(figure.axes, AMOUNTS, strict=True):
        below = {line.get_color(): line for line in axes.lines if max(line.get_ydata()) < 0}
        assert len(below) == 3 and axes.get_ylim()[0] < min(min(line.get_ydata()) for line in below.values())
        for name, training in zip(named, trainings, strict=True):
            bar, (low, high) = below[handles[name].get_color()], training.ranges[factor]
            assert list(bar.get_xdata()) == ([low] if low == high else [low, high])
            assert (bar.get_marker() == "D") is (low == high)
        for canvas in (28, 42):
            look = handles[f"share of the digit's ink on the {canvas}-pixel canvas, %"]
            (ink,) = (one for one in axes.lines if one.get_ydata()[0] == 100 * canvas / 56)
            assert (ink.get_color(), ink.get_linestyle()) == (look.get_color(), look.get_linestyle())
    assert len({line.get_color() for line in handles.values()}) == 5


def test_from_runs_to_the_files(configure, script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        invariance, "AMOUNTS", {"angle": (-180.0, 0.0, 90.0), "scale": (0.5, 1.0), "shift": (0.0,)}
    )
    for more in (["seed=0"], ["seed=1"], ["model=cnn"]):
        run(configure("experiment=mnist_r", "trainer.iterations=40", "trainer.batch_size=32", *more), more)
    out = tmp_path / "found"
    status, said, _ = script("invariance.py", str(tmp_path / "outputs"), "--images", "60", "--out", str(out))
    assert status == 0 and said.startswith((out / "invariance.md").read_text())
    cnn, stn = json.loads((out / "invariance.json").read_text())
    assert (cnn["seeds"], stn["seeds"], stn["images"]) == ([0], [0, 1], 60)
    assert (
        cnn["name"] == "CNN on rotated digits (R)"
        and "- A: CNN on rotated digits (R) (runs mnist_r/cnn" in said
    )
    angle = stn["factors"]["angle"]
    errors = np.array(angle["errors"])
    assert errors.shape == (2, 3) and errors[0].tolist() != errors[1].tolist()
    np.testing.assert_allclose(angle["mean"], errors.mean(0))
    np.testing.assert_allclose(angle["std"], [np.std(column, ddof=1) for column in errors.T])
    assert cnn["factors"]["angle"]["std"] is None and angle["training"] == [-90, 90]
    folder = next((tmp_path / "outputs" / "mnist_r").glob("st_cnn*/seed_1"))
    data, model, _ = load_run(folder)
    plain = FixedSet(data.digits.test_images[:60], data.digits.test_labels[:60])
    assert errors[1][1] == Classification().evaluate(model, plain.batches(60))[0]["error"]
    beyond = f"*{angle['mean'][0]:.2f} ± {angle['std'][0]:.2f}*"
    assert beyond in (out / "invariance.md").read_text() and f"*{angle['mean'][1]:.2f}" not in said
    assert (out / "invariance.png").stat().st_size > 10_000
    status, _, error = script("invariance.py", str(tmp_path / "outputs"), "--images", "0")
    assert status == 2 and "--images 0 is not valid" in error
    unpublished = ROOT / "results" / "runs" / "mnist_r" / "fcn-fast-seed_1.json"
    status, _, error = script("invariance.py", str(unpublished))
    assert status == 2 and "mnist_r/fcn-fast-seed_1 is not among the published weights" in error
