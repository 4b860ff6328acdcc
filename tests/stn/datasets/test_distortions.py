"""The distortions against rot90, scipy and numpy, and the laws of what they draw."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import affine_transform, binary_opening, map_coordinates
from torch import Tensor

from stn.datasets import distortions
from stn.datasets.distortions import (
    draw_clutter,
    elastic,
    project,
    rotate,
    rotate_translate_scale,
    translate_clutter,
    warp_affine,
    warp_quad,
)

DRAWS = 4000
UNLIKELY = (
    1e-3  # the p-value below which a sample is not of the stated law; seeds are fixed, so no test flickers
)

SOURCE = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(99))
ALL: dict[str, tuple[Callable[..., Tensor], int]] = {
    "rotate": (rotate, 28),
    "rotate_translate_scale": (rotate_translate_scale, 42),
    "project": (project, 28),
    "elastic": (elastic, 28),
    "translate_clutter": (partial(translate_clutter, source=SOURCE), 60),
}
all_five = pytest.mark.parametrize(("distort", "canvas"), ALL.values(), ids=ALL)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_images(batch: int, side: int = 28, *, frame: int = 0, seed: int = 1) -> Tensor:
    """Random pixels, float64 and above 0, in a black frame."""
    inner = side - 2 * frame
    images = 0.1 + 0.9 * torch.rand(batch, 1, inner, inner, generator=seeded(seed), dtype=torch.float64)
    return F.pad(images, (frame,) * 4)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_uniform(sample: Tensor, low: float, high: float) -> None:
    assert low <= sample.min() and sample.max() <= high
    assert stats.kstest(sample.numpy(), stats.uniform(low, high - low).cdf).pvalue > UNLIKELY


def assert_normal(sample: Tensor, std: float) -> None:
    assert stats.kstest(sample.flatten().numpy(), stats.norm(0, std).cdf).pvalue > UNLIKELY


def assert_unrelated(*samples: Tensor) -> None:
    correlation = torch.corrcoef(torch.stack(samples)) - torch.eye(len(samples), dtype=samples[0].dtype)
    assert correlation.abs().max() < 4.5 / math.sqrt(len(samples[0]))


def record(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple]:
    """The arguments of every call of a function of the module, which still does its work."""
    calls: list[tuple] = []
    real = getattr(distortions, name)

    def spy(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(distortions, name, spy)
    return calls


def read(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear reading at pixel coordinates, 0 outside. scipy does not interpolate to its constant: so pad."""
    return map_coordinates(np.pad(image, 2), [y + 2, x + 2], order=1, mode="constant")


# -- warp_affine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("angle", "turns"), [(0, 0), (90, -1), (180, 2), (-90, 1)])
@pytest.mark.parametrize("side", [6, 7])
def test_quarter_turns_are_rot90_clockwise_for_a_positive_angle(angle, turns, side):
    images = noise_images(2, side)
    a, one, zero = column(angle, angle), column(1, 1), column(0, 0)
    expected = torch.rot90(images, turns, (2, 3))
    torch.testing.assert_close(warp_affine(images, side, a, one, zero, zero), expected, atol=1e-12, rtol=0)
    in_larger = warp_affine(images, side + 4, a, one, zero, zero)
    torch.testing.assert_close(in_larger, F.pad(expected, (2,) * 4), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (0, -2), (-3, 2)])
def test_whole_pixel_moves_are_to_the_right_and_down(x, y):
    images = noise_images(1, 6)
    out = warp_affine(images, 14, column(0), column(1), column(x), column(y))
    expected = torch.zeros(1, 1, 14, 14, dtype=torch.float64)
    expected[:, :, 4 + y : 10 + y, 4 + x : 10 + x] = images
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("side", "canvas"), [(12, 12), (12, 19), (13, 10)])
def test_warp_affine_is_scipys_affine_transform(side, canvas):
    batch = 8
    images = noise_images(batch, side, frame=1)
    rng = np.random.default_rng(0)
    angle, scale = rng.uniform(-180, 180, batch), rng.uniform(0.5, 2, batch)
    x, y = rng.uniform(-4, 4, (2, batch))
    out = warp_affine(images, canvas, *map(torch.tensor, (angle, scale, x, y)))
    for b in range(batch):
        cos, sin = np.cos(np.deg2rad(angle[b])), np.sin(np.deg2rad(angle[b]))
        forth = scale[b] * np.array([[cos, sin], [-sin, cos]])  # (row, column); clockwise with rows downwards
        back = np.linalg.inv(forth)
        offset = (side - 1) / 2 - back @ ((canvas - 1) / 2 + np.array([y[b], x[b]]))
        expected = affine_transform(
            images[b, 0].numpy(), back, offset, output_shape=(canvas, canvas), order=1, mode="constant"
        )
        np.testing.assert_allclose(out[b, 0].numpy(), expected, atol=1e-10)


# -- R ---------------------------------------------------------------------------------------------


def test_rotate_turns_by_a_uniform_angle():
    """Read off the picture: where a blob to the right of the centre ends up."""
    centre = torch.arange(28, dtype=torch.float64) - 13.5
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    blob = torch.exp(-((x - 7) ** 2 + y**2) / (2 * 1.5**2)).expand(DRAWS, 1, 28, 28)
    out = rotate(blob, seeded())
    assert out.shape == (DRAWS, 1, 28, 28)
    angle = torch.atan2((out * y).sum((1, 2, 3)), (out * x).sum((1, 2, 3))).rad2deg()
    assert -90.1 < angle.min() < -89 and 89 < angle.max() < 90.1
    assert stats.kstest(angle.numpy(), stats.uniform(-90, 180).cdf).pvalue > UNLIKELY


def test_rotate_changes_nothing_but_the_angle(monkeypatch):
    calls = record(monkeypatch, "warp_affine")
    rotate(noise_images(DRAWS, 3), seeded(), max_angle=20)
    ((_, canvas, angle, scale, x, y),) = calls
    assert canvas == 3
    assert_uniform(angle, -20, 20)
    assert (scale == 1).all() and (x == 0).all() and (y == 0).all()


def test_rotate_has_a_middle_and_returns_its_angles(monkeypatch):
    images = noise_images(DRAWS, 3)
    calls = record(monkeypatch, "warp_affine")
    turned, angle = rotate(images, seeded(), max_angle=20, middle=-70, return_angle=True)
    assert_uniform(angle, -90, -50)
    assert torch.equal(calls[0][2], angle)
    assert torch.equal(turned, rotate(images, seeded(), max_angle=20, middle=-70))
    quarter = rotate(images[:5], seeded(), max_angle=0, middle=90)  # clockwise as displayed
    assert torch.allclose(quarter, images[:5].rot90(-1, (2, 3)))


# -- RTS -------------------------------------------------------------------------------------------


def test_rts_draws_angle_scale_and_place_uniformly(monkeypatch):
    calls = record(monkeypatch, "warp_affine")
    rotate_translate_scale(torch.zeros(DRAWS, 1, 28, 28, dtype=torch.float64), seeded())
    ((_, canvas, angle, scale, x, y),) = calls
    assert canvas == 42
    assert_uniform(angle, -45, 45)
    assert_uniform(scale, 0.7, 1.2)
    room = 21 - 14 * scale  # how far the centre can go with the scaled box inside
    assert (x.abs() <= room).all() and (y.abs() <= room).all()
    assert_uniform(x / room, -1, 1)
    assert_uniform(y / room, -1, 1)
    assert_unrelated(angle, scale, x / room, y / room)


def test_rts_keeps_the_whole_scaled_box_on_the_canvas():
    """Read off the picture: the mass of a white image is the box's area, so that nothing was cut off."""
    out = rotate_translate_scale(torch.ones(500, 1, 28, 28, dtype=torch.float64), seeded(), max_angle=0)
    assert out.shape == (500, 1, 42, 42)
    mass = out.sum((1, 2, 3))
    side = mass.sqrt()
    assert 28 * 0.7 - 0.3 < side.min() < 28 * 0.72 and 28 * 1.18 < side.max() < 28 * 1.2 + 0.3
    centre = torch.arange(42, dtype=torch.float64) - 20.5
    x, y = out.sum((1, 2)) @ centre / mass, out.sum((1, 3)) @ centre / mass
    for place in (x, y):
        assert (place.abs() + side / 2 < 21 + 0.3).all()
        assert place.min() < -5 and place.max() > 5


def test_rts_needs_a_canvas_for_its_largest_box():
    images = noise_images(1, 10)
    assert rotate_translate_scale(images, seeded(), canvas=12, scale=(0.7, 1.2)).shape[-1] == 12
    with pytest.raises(ValueError, match=r"10-pixel digit scaled by 1\.3 .* 12 pixels"):
        rotate_translate_scale(images, seeded(), canvas=12, scale=(0.7, 1.3))


# -- P ---------------------------------------------------------------------------------------------

SQUARE = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)


def solve_homography(corners: np.ndarray) -> np.ndarray:
    """From the four equations of the corners, h33 = 1: the 3x3 matrix from canvas to image, normalised."""
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, SQUARE.numpy(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1).reshape(3, 3)


def quad_reference(image: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The warped image with what lies beyond the horizon in black, and what a ghost there would show."""
    height, width = image.shape
    back = solve_homography(corners)
    centre = np.linalg.inv(back)[:, 2]  # where the image's centre lands
    back = back * np.sign(back[2] @ (centre / centre[2]))  # so that w is positive on the centre's side
    y, x = np.meshgrid(
        (np.arange(height) * 2 + 1) / height - 1, (np.arange(width) * 2 + 1) / width - 1, indexing="ij"
    )
    u, v, w = np.tensordot(back, np.stack([x, y, np.ones_like(x)]), 1)
    u, v = u / w, v / w
    seen = read(image, (u + 1) * width / 2 - 0.5, (v + 1) * height / 2 - 0.5)
    return np.where(w > 0, seen, 0), np.where(w < 0, seen, 0)


def is_convex(corners: np.ndarray) -> bool:
    edges = np.roll(corners, -1, 0) - corners
    following = np.roll(edges, -1, 0)
    return len(set(np.sign(edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]))) == 1


@pytest.mark.parametrize("size", [(16, 16), (12, 17)])
@pytest.mark.parametrize("flipped", [False, True])
def test_warp_quad_is_the_homography_through_convex_corners(size, flipped):
    rng = np.random.default_rng(0)
    corners = SQUARE.numpy() * 0.8 + rng.normal(0, 0.2, (60, 4, 2))
    corners = np.stack([quad for quad in corners if is_convex(quad)])
    assert len(corners) >= 30
    if flipped:  # the corners the other way round show the image in a mirror
        corners = corners[:, [1, 0, 3, 2]]
    images = torch.rand(len(corners), 1, *size, generator=seeded(), dtype=torch.float64)
    out = warp_quad(images, torch.tensor(corners))
    for b in range(len(images)):
        expected, ghost = quad_reference(images[b, 0].numpy(), corners[b])
        assert not ghost.any()
        np.testing.assert_allclose(out[b, 0].numpy(), expected, atol=1e-9)


def test_warp_quad_with_the_corners_in_place_changes_nothing():
    images = noise_images(3)
    torch.testing.assert_close(warp_quad(images, SQUARE.expand(3, 4, 2)), images, atol=1e-12, rtol=0)


@pytest.mark.parametrize("inner", range(4))
def test_warp_quad_shows_no_ghost_beyond_the_horizon(inner):
    """With one corner inside the triangle of the others, the canvas holds a mirror image behind the horizon."""
    corners = SQUARE.numpy() * 0.6
    corners[inner] = -0.05 * SQUARE[inner].numpy()
    image = noise_images(1)[:1]
    expected, ghost = quad_reference(image[0, 0].numpy(), corners)
    assert (ghost > 0).sum() > 10 and (expected > 0).sum() > 10
    out = warp_quad(image, torch.tensor(corners)[None])[0, 0].numpy()
    np.testing.assert_allclose(out, expected, atol=1e-9)
    assert (out[ghost > 0] == 0).all()


def test_warp_quad_of_any_four_corners():
    """Bow ties and arrows among them."""
    rng = np.random.default_rng(1)
    corners = rng.uniform(-1.2, 1.2, (300, 4, 2))
    sides = corners - np.roll(corners, 1, 1)
    turns = sides[:, :, 0] * np.roll(sides, 1, 1)[:, :, 1] - sides[:, :, 1] * np.roll(sides, 1, 1)[:, :, 0]
    corners = corners[(np.abs(turns) > 0.2).all(1)]  # no three of them nearly in line
    assert len(corners) > 60 and sum(map(is_convex, corners)) < len(corners) / 2
    images = noise_images(len(corners), 16)
    out = warp_quad(images, torch.tensor(corners))
    for b in range(len(images)):
        expected, _ = quad_reference(images[b, 0].numpy(), corners[b])
        np.testing.assert_allclose(out[b, 0].numpy(), expected, atol=1e-7, err_msg=str(corners[b]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warp_quad_of_degenerate_corners_is_black(dtype):
    quads = [
        [[0.5, 0.5]] * 4,
        [[-1, -1], [0, 0], [1, 1], [2, 2]],  # a line
        [[-1, -1], [1, -1], [1, -1], [-1, 1]],  # two corners in one place
        [[-1, -1], [0, -1], [1, -1], [-1, 1]],  # three in a line
        [[0, 0], [0, 0], [1, 1], [1, 1]],
    ]
    out = warp_quad(torch.ones(len(quads), 1, 9, 9, dtype=dtype), torch.tensor(quads, dtype=dtype))
    assert (out == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warp_quad_of_nearly_degenerate_corners_is_finite(dtype):
    rng = np.random.default_rng(0)
    along, start, step = rng.uniform(-1, 1, (500, 4, 1)), *rng.uniform(-1, 1, (2, 500, 1, 2))
    corners = (
        start + along * step + rng.choice([0, 1e-12, 1e-8, 1e-4], (500, 1, 1)) * rng.normal(size=(500, 4, 2))
    )
    out = warp_quad(torch.ones(500, 1, 9, 9, dtype=dtype), torch.tensor(corners, dtype=dtype))
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1 + 1e-6


def test_project_draws_a_uniform_scale_about_the_centre(monkeypatch):
    calls = record(monkeypatch, "warp_quad")
    images = noise_images(DRAWS, 6)
    out = project(images, seeded(), std=0)
    scales = calls[0][1] / SQUARE  # (B, 4, 2)
    torch.testing.assert_close(scales, scales[:, :1, :1].expand_as(scales))
    assert_uniform(scales[:, 0, 0], 0.75, 1.0)
    zero = torch.zeros(DRAWS, dtype=torch.float64)
    torch.testing.assert_close(out, warp_affine(images, 6, zero, scales[:, 0, 0], zero, zero))


@pytest.mark.parametrize(("options", "scale", "std"), [({}, 1.0, 5.0), ({"std": 2.0}, 0.5, 2.0)])
@pytest.mark.parametrize("side", [28, 10])
def test_projects_corners_move_by_pixels_of_the_canvas(monkeypatch, side, options, scale, std):
    calls = record(monkeypatch, "warp_quad")
    images = torch.zeros(DRAWS // 4, 1, side, side, dtype=torch.float64)
    project(images, seeded(), scale=(scale, scale), **options)
    moved = (calls[0][1] - scale * SQUARE) * side / 2  # normalised 2 is `side` pixels
    assert_normal(moved, std)
    assert moved.std().item() == pytest.approx(std, rel=0.03)
    assert_unrelated(*moved.flatten(1).T)


def test_project_may_move_the_images_corners_with_the_scaled_digit_inside(monkeypatch):
    calls = record(monkeypatch, "warp_quad")
    images = noise_images(8)
    out = project(images, seeded(), scale=(0.5, 0.5), std=2.0, corners="image")
    _, corners, scale = calls[0]
    zero = torch.zeros(8, dtype=torch.float64)
    for b in range(len(images)):  # the digit at half size on a canvas of its own, then that canvas warped
        back = solve_homography(corners[b].numpy())
        y, x = np.meshgrid(*[(np.arange(28) * 2 + 1) / 28 - 1] * 2, indexing="ij")
        u, v, w = np.tensordot(back, np.stack([x, y, np.ones_like(x)]), 1)
        assert (w > 0).all()
        expected = read(images[b, 0].numpy(), (2 * u / w + 1) * 14 - 0.5, (2 * v / w + 1) * 14 - 0.5)
        np.testing.assert_allclose(out[b, 0].numpy(), expected, atol=1e-9)
    assert (scale == 0.5).all()
    still = project(images, seeded(), scale=(0.5, 0.5), std=0, corners="image")
    torch.testing.assert_close(still, warp_affine(images, 28, zero, scale, zero, zero))


def test_projects_images_corners_move_by_pixels_of_the_canvas(monkeypatch):
    calls = record(monkeypatch, "warp_quad")
    project(torch.zeros(DRAWS // 4, 1, 10, 10, dtype=torch.float64), seeded(), std=2.0, corners="image")
    moved = (calls[0][1] - SQUARE) * 5
    assert_normal(moved, 2.0)
    assert_unrelated(*moved.flatten(1).T)


def test_project_may_move_corners_along_their_diagonals(monkeypatch):
    calls = record(monkeypatch, "warp_quad")
    images = torch.zeros(DRAWS // 4, 1, 10, 10, dtype=torch.float64)
    project(images, seeded(), scale=(0.8, 0.8), std=2.0, corners="radial")
    outwards = (
        (calls[0][1] - 0.8 * SQUARE) * 5 * SQUARE
    )  # pixels along each axis, positive away from the centre
    torch.testing.assert_close(outwards[..., 0], outwards[..., 1])
    along = outwards[..., 0] * math.sqrt(2)
    assert_normal(along, 2.0)
    assert_unrelated(*along.T)


def test_project_knows_three_kinds_of_corners():
    with pytest.raises(ValueError, match="corners=box"):
        project(noise_images(1), seeded(), corners="box")


# -- E ---------------------------------------------------------------------------------------------


class SpySpline:
    """The module's spline, that notes theta."""

    def __init__(self) -> None:
        self.thetas: list[Tensor] = []

    def of(self, spline):
        self.spline, self.control_points = spline, spline.control_points
        return self

    def grid(self, theta, size):
        self.thetas.append(theta.clone())
        return self.spline.grid(theta, size)


@pytest.fixture
def spline(monkeypatch) -> SpySpline:
    spy, of = SpySpline(), distortions._spline
    monkeypatch.setattr(distortions, "_spline", lambda reach: spy.of(of(reach)))
    distortions._regular.cache_clear()
    return spy


def regular_points(reach: float = 1.0) -> np.ndarray:
    """4 x 4 from -reach to reach, (x, y), row by row."""
    axis = np.linspace(-reach, reach, 4)
    return np.array([(x, y) for y in axis for x in axis])


@pytest.mark.parametrize("reach", [1.0, 0.75])
def test_elastic_is_scipys_thin_plate_spline(spline, reach):
    images = noise_images(6)
    out = elastic(images, seeded(), reach=reach)
    centres = (np.arange(28) * 2 + 1) / 28 - 1
    points = np.array([(x, y) for y in centres for x in centres])
    for b in range(len(images)):
        at = spline.thetas[0][b].numpy().reshape(16, 2)
        x, y = RBFInterpolator(regular_points(reach), at, kernel="thin_plate_spline", degree=1)(points).T
        expected = read(images[b, 0].numpy(), (x + 1) * 14 - 0.5, (y + 1) * 14 - 0.5)
        np.testing.assert_allclose(out[b, 0].numpy().ravel(), expected, atol=1e-9)


def test_elastics_points_lie_at_the_centres_of_a_tiling_for_a_reach_of_three_quarters(spline):
    elastic(noise_images(1), seeded(), scale=(1.0, 1.0), std=0, reach=0.75)
    tiles = np.array([(x, y) for y in (-0.75, -0.25, 0.25, 0.75) for x in (-0.75, -0.25, 0.25, 0.75)])
    np.testing.assert_allclose(spline.thetas[0][0].reshape(16, 2).numpy(), tiles, atol=1e-12)


def test_elastic_draws_a_uniform_scale_about_the_centre(spline):
    images = noise_images(DRAWS, 6)
    out = elastic(images, seeded(), std=0)
    inverse = spline.thetas[0] / torch.tensor(regular_points()).flatten()
    torch.testing.assert_close(inverse, inverse[:, :1].expand_as(inverse))
    scale = 1 / inverse[:, 0]
    assert_uniform(scale, 0.75, 1.0)
    zero = torch.zeros(DRAWS, dtype=torch.float64)
    torch.testing.assert_close(out, warp_affine(images, 6, zero, scale, zero, zero))


@pytest.mark.parametrize(("options", "scale", "std"), [({}, 1.0, 1.5), ({"std": 3.0}, 0.5, 3.0)])
@pytest.mark.parametrize("side", [28, 10])
def test_elastics_points_move_by_pixels_of_the_canvas(spline, side, options, scale, std):
    images = torch.zeros(DRAWS // 4, 1, side, side, dtype=torch.float64)
    elastic(images, seeded(), scale=(scale, scale), **options)
    moved = (spline.thetas[0] * scale - torch.tensor(regular_points()).flatten()) * side / 2
    assert_normal(moved, std)
    assert moved.std().item() == pytest.approx(std, rel=0.03)
    assert_unrelated(*moved.T)


# -- TC --------------------------------------------------------------------------------------------


def first_corner(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image (B, 1, S, S), the first row and the first column with a mark."""
    return mask.any(3)[:, 0].int().argmax(1), mask.any(2)[:, 0].int().argmax(1)


def test_the_digit_is_put_intact_at_a_uniform_whole_pixel_place():
    images = noise_images(DRAWS, 6)
    out = translate_clutter(images, seeded(), source=torch.zeros(1, 1, 6, 6), canvas=16, patch_size=3)
    assert out.shape == (DRAWS, 1, 16, 16) and ((out > 0).sum((1, 2, 3)) == 36).all()
    top, left = first_corner(out > 0)
    for b in range(DRAWS):
        assert torch.equal(out[b, :, top[b] : top[b] + 6, left[b] : left[b] + 6], images[b])
    places = torch.bincount(top * 11 + left, minlength=121)
    assert len(places) == 121 and stats.chisquare(places).pvalue > UNLIKELY


def test_patches_of_uint8_digits_are_those_of_their_floats():
    images = (255 * noise_images(4, 28)).to(torch.uint8)
    found, expected = (
        draw_clutter(given, seeded(), images, canvas=60, patches=6, patch_size=6)
        for given in (images, images.float() / 255)
    )
    assert found.cut.max() > 0 and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("patches", [0, 1, 6])
def test_patches_stand_whole_beside_the_digits_box(patches):
    batch = 300
    source = torch.full((3, 1, 28, 28), 0.5)
    out = translate_clutter(torch.ones(batch, 1, 28, 28), seeded(), source=source, patches=patches)
    assert out.shape == (batch, 1, 60, 60) and set(out.unique().tolist()) <= {0.0, 0.5, 1.0}
    top, left = first_corner(out == 1)
    clutter = (out == 0.5).squeeze(1).numpy()
    for b in range(batch):
        box = out[b, 0, top[b] : top[b] + 28, left[b] : left[b] + 28]
        assert (box == 1).all() and (out[b] == 1).sum() == 28 * 28
        # One cut by the box would leave a piece that is no union of whole patches.
        assert np.array_equal(binary_opening(clutter[b], np.ones((6, 6))), clutter[b])
    area = clutter.sum((1, 2))
    assert area.max() == 36 * patches and area.min() >= 36 * min(patches, 1)
    assert (
        np.sort(area)[batch // 3 :] > 36 * (patches - 1)
    ).all()  # all of them, most often with some overlap


def test_of_overlapping_patches_the_brighter_pixel_stays():
    levels = torch.tensor([0.2, 0.4, 0.6, 0.8])
    source = levels.reshape(4, 1, 1, 1).expand(4, 1, 6, 6)
    out = translate_clutter(
        torch.ones(300, 1, 6, 6), seeded(), source=source, canvas=16, patch_size=3, patches=12
    )
    for level in levels:  # what is at least so bright is whole patches: no darker one covers a piece of it
        for bright in ((out >= level) & (out < 1)).squeeze(1).numpy():
            assert np.array_equal(binary_opening(bright, np.ones((3, 3))), bright)


def test_patches_are_cut_uniformly_from_uniform_digits():
    draws, digits = 8000, 3
    codes = (1 + torch.arange(digits * 64, dtype=torch.float64)) / 256  # each pixel of the source its own
    source = codes.reshape(digits, 1, 8, 8)
    black = torch.zeros(draws, 1, 6, 6, dtype=torch.float64)
    out = translate_clutter(black, seeded(), source=source, canvas=16, patch_size=3, patches=1)
    top, left = first_corner(out > 0)
    counts = torch.zeros(digits, 6, 6)
    for b in range(draws):
        patch = out[b, 0, top[b] : top[b] + 3, left[b] : left[b] + 3]
        code = round(patch[0, 0].item() * 256) - 1
        digit, y, x = code // 64, code % 64 // 8, code % 8
        counts[digit, y, x] += 1
        assert torch.equal(patch, source[digit, 0, y : y + 3, x : x + 3])
    assert counts.sum() == draws
    assert stats.chisquare(counts.flatten()).pvalue > UNLIKELY


def test_every_free_place_is_equally_likely():
    """Against the list of free places, by trying them all, for each place of the box."""
    draws, side, patch, canvas = 20_000, 6, 3, 16
    out = translate_clutter(
        torch.ones(draws, 1, side, side),
        seeded(),
        source=torch.full((1, 1, 6, 6), 0.5),
        canvas=canvas,
        patch_size=patch,
        patches=1,
    )
    assert ((out == 0.5).sum((1, 2, 3)) == patch**2).all() and ((out == 1).sum((1, 2, 3)) == side**2).all()
    boxes, patches = (torch.stack(first_corner(out == value), 1).numpy() for value in (1, 0.5))
    places = canvas - patch + 1
    counts = np.zeros((canvas - side + 1, canvas - side + 1, places, places))
    np.add.at(counts, (*boxes.T, *patches.T), 1)

    statistic, freedom, expected_anywhere = 0.0, 0, np.zeros((places, places))
    for top, left in np.ndindex(counts.shape[:2]):
        box = np.zeros((canvas, canvas), dtype=bool)
        box[top : top + side, left : left + side] = True
        free = np.array(
            [[not box[r : r + patch, c : c + patch].any() for c in range(places)] for r in range(places)]
        )
        count = counts[top, left]
        assert not count[~free].any()
        expected = free * (count.sum() / free.sum())
        statistic += ((count - expected)[free] ** 2 / expected[free]).sum()
        freedom += free.sum() - 1
        expected_anywhere += expected
    # So many cells that Pearson's statistic is normal: N(freedom, 2 freedom), however few fall into each.
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 4
    total = counts.sum((0, 1))
    assert stats.chisquare(total.ravel(), expected_anywhere.ravel()).pvalue > UNLIKELY


def test_clutter_needs_room_beside_a_digit_in_the_middle():
    images, source = torch.ones(200, 1, 6, 6), torch.full((1, 1, 6, 6), 0.5)
    out = translate_clutter(images, seeded(), source=source, canvas=11, patch_size=3, patches=1)
    assert ((out == 0.5).sum((1, 2, 3)) == 9).all()
    with pytest.raises(ValueError, match=r"canvas of 10 pixels .* it takes 11\."):
        translate_clutter(images, seeded(), source=source, canvas=10, patch_size=3)


def test_the_source_may_be_of_another_dtype_than_the_images():
    grey = torch.full((1, 1, 28, 28), 51, dtype=torch.uint8)
    out = translate_clutter(noise_images(2), seeded(), source=grey)
    assert out.dtype == torch.float64
    assert torch.isclose(out, torch.tensor(0.2, dtype=torch.float64), atol=1e-7).sum() >= 2 * 36


# -- all of them -----------------------------------------------------------------------------------


@all_five
def test_shape_dtype_and_range(distort, canvas):
    images = (255 * noise_images(4)).to(torch.uint8)
    images[0] = 255
    for dtype, expected in [
        (torch.uint8, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        given = images if dtype == torch.uint8 else (images / 255).to(dtype)
        out = distort(given, seeded())
        assert out.dtype == expected and out.shape == (4, 1, canvas, canvas)
        assert out.min() >= 0 and 0.5 < out.max() <= 1 + 1e-6
    assert torch.equal(distort(images, seeded()), distort(images.float() / 255, seeded()))


@all_five
def test_the_generator_alone_decides(distort, canvas):
    images = noise_images(1).expand(3, 1, 28, 28)
    before = torch.get_rng_state()
    generator = seeded(3)
    first, second = distort(images, generator), distort(images, generator)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert torch.equal(distort(images, seeded(3)), first)
    assert not torch.equal(first, second)  # the next draw is another
    assert not torch.equal(first[0], first[1])  # and so is the next image's


@all_five
def test_the_input_stays_as_it_was(distort, canvas):
    images, source = noise_images(2), SOURCE.clone()
    before = images.clone()
    distort(images, seeded()).zero_()
    assert torch.equal(images, before) and torch.equal(SOURCE, source)


@pytest.mark.parametrize(
    ("distort", "side"),
    [
        (partial(rotate_translate_scale, max_angle=0, scale=(0.5, 0.5)), 14),
        (partial(project, scale=(0.5, 0.5), std=0), 14),
        (partial(elastic, scale=(0.5, 0.5), std=0), 14),
        (partial(translate_clutter, source=torch.zeros(1, 1, 28, 28)), 28),
    ],
    ids=["rotate_translate_scale", "project", "elastic", "translate_clutter"],
)
def test_outside_the_digit_is_exactly_black(distort, side):
    out = distort(torch.ones(50, 1, 28, 28, dtype=torch.float64), seeded())
    for axis in (1, 2):
        lit = out[:, 0].amax(axis)
        assert (
            ((lit > 0).sum(1) >= side) & ((lit > 0).sum(1) <= side + 2)
        ).all()  # one pixel of slope a side
        assert ((lit == 0).sum(1) >= out.shape[-1] - side - 2).all()


def test_outside_the_turned_digit_is_exactly_black():
    spot = F.pad(torch.ones(50, 1, 4, 4, dtype=torch.float64), (12, 12, 12, 12))
    out = rotate(spot, seeded())
    centre = torch.arange(28) - 13.5
    far = (centre[:, None] ** 2 + centre**2).sqrt() > math.sqrt(8) + math.sqrt(2)
    assert (out[:, 0, far] == 0).all() and (out > 0).flatten(1).any(1).all()
    corner = rotate(torch.ones(50, 1, 28, 28), seeded())[:, 0, 0, 0]
    assert (corner == 0).sum() > 40


@all_five
def test_black_stays_exactly_black(distort, canvas):
    if isinstance(distort, partial):
        distort = partial(translate_clutter, source=torch.zeros(1, 1, 28, 28))
    assert (distort(torch.zeros(20, 1, 28, 28), seeded()) == 0).all()
