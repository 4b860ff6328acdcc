"""Transformers of volumes: against scipy.ndimage.affine_transform, turns by right angles, and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import stn
from stn import Affine3d, SpatialTransformer, in_frame, sample

SIZE = (5, 7, 9)  # D, H, W: no two alike, so that an exchanged axis shows


def volume(size=SIZE, seed=0):
    return torch.rand(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def theta_of(matrix, shift):
    return torch.cat([torch.as_tensor(matrix), torch.as_tensor(shift)[:, None]], 1).double().reshape(1, 12)


def warp(image, theta, size=None):
    grid = Affine3d().grid(theta.expand(len(image), -1), size or tuple(image.shape[2:]))
    return sample(image, grid)


def test_the_identity_changes_nothing():
    image = volume()
    torch.testing.assert_close(warp(image, Affine3d().identity().double()[None]), image, rtol=0, atol=1e-14)
    assert Affine3d().num_params == len(Affine3d().identity()) == 12


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], lambda v: v.rot90(1, (3, 4))),  # about z
        ([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], lambda v: v.rot90(1, (2, 3))),  # about x
        ([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], lambda v: v.rot90(-1, (2, 4))),  # about y
        ([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]], lambda v: v.flip(4)),  # x is the last axis
        ([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]], lambda v: v.flip(2)),  # z is the depth
    ],
)
def test_right_angles_are_exact(matrix, turned):
    image = volume((6, 6, 6))
    out = warp(image, theta_of(matrix, [0.0, 0, 0]))
    candidates = [turned(image)]
    torch.testing.assert_close(out, candidates[0], rtol=0, atol=1e-12)


def test_scipy_agrees():
    rng = np.random.default_rng(0)
    image = volume()
    matrix = np.eye(3) + 0.3 * rng.standard_normal((3, 3))  # (x, y, z), normalised, target to source
    shift = 0.2 * rng.standard_normal(3)
    ours = warp(image, theta_of(matrix, shift))
    # The same in scipy's terms: (z, y, x), in pixels with whole numbers at the centres.
    half = np.array(SIZE) / 2
    flipped = matrix[::-1, ::-1]
    pixels = half[:, None] * flipped / half[None, :]
    offset = half * (shift[::-1] + 1) - 0.5 - pixels @ (half - 0.5)
    padded = np.pad(
        image.numpy()[:, 0], ((0, 0), (4, 4), (4, 4), (4, 4))
    )  # scipy cuts off half a pixel at the edge
    offset = offset + 4 - pixels @ np.full(3, 4.0)
    for mine, theirs in zip(ours[:, 0].numpy(), padded, strict=True):
        expected = ndimage.affine_transform(theirs, pixels, offset, order=1, mode="constant", cval=0.0)
        np.testing.assert_allclose(mine, expected[4:-4, 4:-4, 4:-4], atol=1e-10)


def test_map_points_and_the_grids_short_cut_agree():
    theta = torch.randn(3, 12, dtype=torch.float64)
    grid = Affine3d().grid(theta, SIZE)
    points = stn.regular_grid(SIZE, dtype=torch.float64).reshape(-1, 3)
    assert grid.shape == (3, *SIZE, 3)
    torch.testing.assert_close(grid.reshape(3, -1, 3), Affine3d().map_points(theta, points))


def test_finite_differences_agree():
    image = volume((3, 4, 4))[:1].requires_grad_()
    angle = 0.3
    turn = [[math.cos(angle), -math.sin(angle), 0.1], [math.sin(angle), math.cos(angle), 0], [0.05, 0, 0.9]]
    theta = theta_of(turn, [0.03, -0.04, 0.02]).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, t: warp(i, t, (2, 3, 3)), (image, theta))


def test_a_transformer_of_volumes_crops_and_turns():
    class Trunk(nn.Sequential):
        out_features = 4

    trunk = Trunk(nn.Flatten(), nn.Linear(math.prod(SIZE), 4))
    image = volume().float()
    st = SpatialTransformer(trunk, Affine3d())
    warped, theta = st(image)
    torch.testing.assert_close(warped, image, atol=1e-6, rtol=0)
    assert theta.shape == (2, 12)
    assert SpatialTransformer(trunk, Affine3d(), (2, 3, 4))(image)[0].shape == (2, 1, 2, 3, 4)


def test_share_in_the_frame_of_a_volume():
    shift = torch.eye(3, 4).flatten()[None].repeat(2, 1)
    shift[1, 11] = 1.0  # half the depth away
    assert in_frame(Affine3d().grid(shift, (4, 4, 4))).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("image", "grid"),
    [((1, 1, 4, 4, 4), (1, 4, 4, 4, 2)), ((1, 1, 4, 4), (1, 4, 4, 4, 3)), ((1, 4, 4), (1, 4, 2))],
)
def test_images_and_grids_of_different_dimensions_are_refused(image, grid):
    with pytest.raises(ValueError, match="sample takes an image"):
        sample(torch.zeros(image), torch.zeros(grid))


def test_a_size_of_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"Affine3d makes grids of 3 axes, not of size \(4, 4\)"):
        Affine3d().grid(torch.zeros(1, 12), (4, 4))
    with pytest.raises(ValueError, match="Affine makes grids of 2 axes"):
        stn.Affine().grid(torch.zeros(1, 6), (4, 4, 4))
