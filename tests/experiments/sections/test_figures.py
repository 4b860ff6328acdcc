"""The geometry that pictures show, against hand-computed cases; and that every picture is made."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import stn
from experiments.engine import rundir
from experiments.engine.classes import write_classes
from experiments.engine.run import run
from experiments.report.pictures import from_files, training_batch
from experiments.sections import SECTIONS
from experiments.sections.figures import outline
from stn.transforms import pose


def test_the_identitys_outline_is_the_images_frame():
    lines = outline(stn.Affine(), stn.Affine().identity(), (20, 40))
    assert len(lines) == 4
    np.testing.assert_allclose(lines[0][[0, -1]], [[-0.5, -0.5], [39.5, -0.5]], atol=1e-5)  # upper edge first
    np.testing.assert_allclose(lines[1][[0, -1]], [[-0.5, 19.5], [39.5, 19.5]], atol=1e-5)


def test_a_splines_outline_is_its_lattice():
    spline = stn.ThinPlateSpline((3, 5))
    lines = outline(spline, spline.identity(), (10, 10))
    assert len(lines) == 3 + 5
    np.testing.assert_allclose(lines[1][:, 1], 4.5, atol=1e-4)  # the middle row


@pytest.mark.parametrize("degrees", [-60.0, 0.0, 25.0])
def test_pose_reads_angle_size_and_centre_of_any_family(degrees):
    a, s, x, y = math.radians(degrees), 0.6, 0.2, -0.3
    matrix = [s * math.cos(a), -s * math.sin(a), x, s * math.sin(a), s * math.cos(a), y]
    affine = torch.tensor([matrix])
    spline = stn.ThinPlateSpline()
    points = stn.Affine().map_points(affine, spline.control_points.float())
    for transform, theta in (
        (stn.Affine(), affine),
        (stn.Projective(), torch.tensor([[*matrix, 0.0, 0.0]])),
        (spline, points.reshape(1, -1)),
    ):
        found = pose(transform, theta)
        assert found["angle"].item() == pytest.approx(degrees, abs=0.05)
        assert found["scale"].item() == pytest.approx(s, abs=1e-3)
        assert (found["x"].item(), found["y"].item()) == pytest.approx((x, y), abs=1e-3)


@pytest.mark.parametrize(
    ("model", "names"),
    [("st_cnn", {"examples", "class_means", "poses"}), ("st_fcn", {"examples", "class_means", "poses"}),
     ("cnn", {"examples", "batch"})],
)  # fmt: skip
def test_every_picture_is_made(configure, model, names):
    cfg = configure(f"model={model}", "transform=tps")
    cfg.figures = "batch" if "batch" in names else True
    run(cfg, (), SECTIONS)
    pictures = {path.stem: imread(path) for path in rundir.run_dir(cfg).glob("*.png")}
    assert set(pictures) == names | {"curves", "confusion"}
    for picture in pictures.values():
        assert picture.ndim == 3 and picture.std() > 0.05


def test_a_batch_of_volumes_or_without_classes_is_drawn_too(tmp_path):
    solids = torch.zeros(3, 1, 8, 20, 20)
    solids[:, :, :, 5:15, 5:15] = 1
    for images, names in ((solids, ["a", "b", "c"]), (solids[:, :, 0], [])):
        path = training_batch(images, torch.arange(3), names, tmp_path / "batch.png", title="x")
        picture = imread(path)[..., :3].mean(2)
        assert 0.1 < (picture < 0.1).mean() < 0.7  # black around each square


def test_a_matrix_of_many_classes_is_drawn_too(tmp_path):
    data = SimpleNamespace(num_classes=70, test=SimpleNamespace(labels=torch.arange(70)))
    write_classes(tmp_path, data, torch.arange(70).roll(1))
    (path,) = from_files(tmp_path, "x").values()  # there is no log, and so no curve
    assert path.name == "confusion.png" and imread(path).std() > 0.05
