"""The poses that distortions put in, against images: a window of that pose gives the digit back as it was."""

import math
from functools import partial

import pytest
import torch

import stn
from stn.datasets import distortions
from stn.datasets.addition import AddedDigits
from stn.datasets.digits import Digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.poses import draw_poses

# Away from its middle each digit is smooth, so that bilinear sampling loses little.
SIDE, COUNT = 28, 12


def late(function, **options):
    """A partial that another one does not take apart, as that of a configuration."""
    made = partial(function, **options)
    made.label = "has attributes"
    return made


def blobs(count=COUNT):
    """Two soft spots, unlike under any turn or mirror image.   (count, 1, SIDE, SIDE), uint8."""
    y, x = torch.meshgrid(*[torch.arange(SIDE) - (SIDE - 1) / 2] * 2, indexing="ij")
    large = torch.exp(-((x + 3) ** 2 + (y + 4) ** 2) / 18)
    small = torch.exp(-((x - 4) ** 2 + (y - 1) ** 2) / 6)
    return ((large + 0.7 * small).clamp(max=1) * 255).byte().expand(count, 1, SIDE, SIDE).contiguous()


def digits():
    images, labels = blobs(), torch.arange(COUNT) % 10
    return Digits("made", images, labels, images, labels)


def window(poses):
    """Theta of the affine windows of these poses, written out by hand: x right, y down, clockwise."""
    angle, scale = torch.deg2rad(poses["angle"]), poses["scale"]
    a, b = scale * angle.cos(), scale * angle.sin()
    return torch.stack([a, -b, poses["x"], b, a, poses["y"]], 1)


@pytest.mark.parametrize(
    ("distort", "most"),
    [
        (partial(distortions.rotate, max_angle=90.0), 0.03),
        (partial(distortions.rotate, max_angle=20.0, middle=90.0), 0.03),
        (partial(distortions.rotate_translate_scale, canvas=42), 0.04),
        (late(distortions.translate_clutter, canvas=60), 0.01),
        (partial(distortions.project, std=0.5), 0.05),
        (partial(distortions.project, std=0.5, corners="image"), 0.05),
        (partial(distortions.elastic, std=0.3), 0.05),
    ],
    ids=["R", "R about 90", "RTS", "TC", "P", "P of the image", "E"],
)
def test_a_window_of_the_pose_put_in_gives_the_digit_back(distort, most):
    data = DistortedDigits(digits(), distort, test_seed=3)
    data.chunk = 5  # the draws of a fixed set are made in parts
    distorted, poses = data.test.images.float() / 255, data.test_poses
    back = stn.sample(distorted, stn.Affine().grid(window(poses), (SIDE, SIDE)))
    error = (back - blobs().float() / 255).abs().mean((1, 2, 3))
    assert error.max() < most
    upside_down = {**poses, "angle": -poses["angle"], "x": -poses["x"]}
    wrong = stn.sample(distorted, stn.Affine().grid(window(upside_down), (SIDE, SIDE)))
    assert (wrong - blobs().float() / 255).abs().mean() > 1.3 * error.mean()


def test_poses_are_those_of_a_case_by_hand(monkeypatch):
    """A digit of 28 pixels, half as large, 5 pixels right of and 7 above the middle of 56, turned 30 degrees."""
    by_hand = {"angle": 30.0, "scale": 0.25, "x": 5 / 28, "y": -7 / 28}
    one = torch.ones(1, dtype=torch.float64)
    monkeypatch.setattr(
        distortions,
        "draw_rotate_translate_scale",
        lambda *_, **__: distortions.Placed(30 * one, 0.5 * one, 5 * one, -7 * one),
    )
    form, generator = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64), torch.Generator()
    found = draw_poses(partial(distortions.rotate_translate_scale, canvas=56), form, generator)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(by_hand)

    # The same place as corners of a quadrilateral, and as control points of a spline, which go the other way.
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    cos, sin = 0.25 * math.cos(math.pi / 6), 0.25 * math.sin(math.pi / 6)
    matrix, move = torch.tensor([[cos, -sin], [sin, cos]]).double(), torch.tensor([5 / 28, -7 / 28]).double()
    corners = (square @ matrix.T + move)[None]
    monkeypatch.setattr(distortions, "draw_project", lambda *_, **__: (corners, None))
    found = draw_poses(distortions.project, form, generator)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(by_hand, rel=1e-3)
    monkeypatch.setattr(distortions, "draw_project", lambda *_, **__: (2 * corners - move, 0.5 * one))
    found = draw_poses(distortions.project, form, generator)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(by_hand, rel=1e-3)
    spline = stn.ThinPlateSpline()
    theta = ((spline.control_points - move) @ torch.linalg.inv(matrix).T).flatten()[None]
    monkeypatch.setattr(distortions, "draw_elastic", lambda *_, **__: (spline, theta))
    found = draw_poses(distortions.elastic, form, generator)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(by_hand, rel=1e-3)


def test_of_pairs_both_digits_have_a_pose_and_of_an_unknown_distortion_none():
    data = AddedDigits(digits(), distortions.rotate)
    assert len(data.test_poses["angle"]) == 2 * COUNT == len(set(data.test_poses["angle"].tolist()))
    assert DistortedDigits(digits(), lambda images, _: images).test_poses is None
