"""Who takes which digit, against cases worked out by hand; the section's table and pictures."""

import math

import pytest
import torch
from matplotlib.image import imread

import stn
from experiments.engine import rundir
from experiments.engine.run import run
from experiments.sections import SECTIONS, mnist_addition
from experiments.sections.mnist_addition import centres, followed, mass_inside

SQUARE = torch.zeros(1, 2, 40, 40)
SQUARE[0, 0, 10:20, 20:30] = 1.0  # channel 0: x from 0 to 0.5, y from -0.5 to 0
SQUARE[0, 1, :, :] = 0.25  # channel 1: everywhere


def window(scale, x, y, degrees=0.0):
    a = math.radians(degrees)
    c, s = scale * math.cos(a), scale * math.sin(a)
    return torch.tensor([[c, -s, x, s, c, y]])


@pytest.mark.parametrize(
    ("theta", "square", "everywhere"),
    [
        (window(1, 0, 0), 1, 1),  # the identity
        (window(2, 0, 0), 1, 1),  # twice the canvas: everything, once
        (window(0.3, 0.25, -0.25), 1, 0.09),  # the square, and the half pixel that interpolation adds
        (window(0.25, 0.5, -0.25), 0.5, 1 / 16),  # its right half
        (window(0.25, -0.5, 0.5), 0, 1 / 16),  # elsewhere
        (window(0.3, 0.25, -0.25, 90), 1, 0.09),  # turned by 90 degrees, it is the same window
        (window(0.5, -1, 0), 0, 1 / 8),  # half of the window hangs over the edge
    ],
)
def test_the_mass_in_a_window(theta, square, everywhere):
    share = mass_inside(SQUARE, stn.Affine(), theta, fine=4)
    assert share[0].tolist() == pytest.approx([square, everywhere], abs=0.03)


def test_the_mass_in_a_window_of_any_family():
    affine = window(0.25, 0.5, -0.25)
    spline = stn.ThinPlateSpline()
    points = stn.Affine().map_points(affine, spline.control_points.float()).flatten(1)
    projective = torch.cat([affine, torch.zeros(1, 2)], 1)
    for transform, theta in ((spline, points), (stn.Projective(), projective)):
        assert mass_inside(SQUARE, transform, theta)[0, 0].item() == pytest.approx(0.5, abs=0.05)
    # A keystone: its area is where the grid is dense, not where the output has pixels.
    keystone = torch.tensor(
        [[1.0, 0, 0, 0, 1, 0, 0, 0.5]]
    )  # x / (1 + y / 2): from +-2 at the top to +-2/3 below
    corners = stn.Projective().map_points(keystone, torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]))[0]
    assert corners[:, 1].tolist() == pytest.approx([-2, -2, 2 / 3, 2 / 3])
    # Inside the canvas it is the part above y = 2/3, all of it as wide as x allows: 1 - |x| / ... integrated by hand
    # x reaches 1 - y / 2 at height y: at least 2/3, so 1 - y / 2 < 1 only below 0.
    area = (1 * 2 + 2 * (2 / 3 - (2 / 3) ** 2 / 4)) / 4
    assert mass_inside(SQUARE, stn.Projective(), keystone, fine=4)[0, 1].item() == pytest.approx(
        area, abs=0.02
    )


def test_centre_of_mass():
    place = centres(SQUARE)
    assert place[0, 0].tolist() == pytest.approx([0.25, -0.25], abs=1e-6)
    assert place[0, 1].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert torch.isfinite(centres(torch.zeros(1, 2, 8, 8))).all()


def test_followed_is_the_share_of_variance_that_a_place_explains():
    torch.manual_seed(0)
    digits, other = torch.randn(4000, 2), torch.randn(4000, 2)
    assert followed(0.3 * digits + 0.1, digits).item() == pytest.approx(1, abs=1e-6)
    assert followed(other, digits).item() < 0.01
    assert followed(digits + other, digits).item() == pytest.approx(0.5, abs=0.03)
    assert followed(torch.ones(10, 2), digits[:10]).item() <= 1  # windows that never move


def test_the_table_has_every_row_and_the_order_of_the_paper():
    table = mnist_addition.ADDITION
    assert set(table.rows) == set(table.paper) == set(table.priority)
    error = {row: numbers["mnist_addition"] for row, numbers in table.paper.items()}
    assert error["2st_fcn", "affine"] < error["cnn", None] < error["st_fcn", "affine"] < error["fcn", None]


@pytest.mark.parametrize("model", ["2st_fcn", "st_fcn", "cnn"])
def test_a_run_measures_who_takes_which_digit_and_draws_it(configure, model):
    cfg = configure("experiment=mnist_addition", f"model={model}", "transform=tps")
    cfg.figures = True
    result = run(cfg, (), SECTIONS)
    count = {"2st_fcn": 2, "st_fcn": 1, "cnn": 0}[model]
    names = {
        f"test_st{k}_{what}_digit{j}" for k in range(count) for what in ("holds", "follows") for j in (0, 1)
    }
    assert set(result.metrics) == {"test_error", "test_loss", *names}
    assert all(0 <= value <= 100 for key, value in result.metrics.items() if key != "test_loss")
    pictures = {path.stem: imread(path) for path in rundir.run_dir(cfg).glob("*.png")}
    assert set(pictures) == {"pairs", "curves", "confusion"} | ({"poses"} if count else set())
    assert all(picture.std() > 0.05 for picture in pictures.values())


def test_any_number_of_transformers_by_one_key(configure):
    result = run(configure("experiment=mnist_addition", "model.num_transformers=3", "trainer.iterations=2"))
    assert "test_st2_holds_digit1" in result.metrics and result.model == "2st_fcn"
