"""Every transform against an independent reference: numpy, scipy, or the paper's matrices."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from scipy.linalg import polar
from torch import Tensor

from stn import (
    Affine,
    Affine3d,
    Attention,
    Projective,
    ThinPlateSpline,
    Transform,
    Translation,
    regular_grid,
    sample,
)
from stn.transforms import pose

TRANSFORMS = {
    "attention": lambda: Attention(),
    "translation": lambda: Translation(scale=1),
    "affine": lambda: Affine(),
    "projective": lambda: Projective(),
    "tps4x4": lambda: ThinPlateSpline((4, 4)),
    "tps2x2": lambda: ThinPlateSpline((2, 2)),
    "tps3x5": lambda: ThinPlateSpline((3, 5)),
}
SHAPES = [(4, 4), (2, 2), (3, 5)]
PADDINGS = ["zeros", "border"]


@pytest.fixture(params=TRANSFORMS)
def transform(request) -> Transform:
    return TRANSFORMS[request.param]()


def hat_matrix(out: int, n: int, padding: str) -> np.ndarray:
    """(out, n): bilinear weights along one axis, `out` pixel centres against n of them (eq. 5)."""
    x = (np.arange(out) + 0.5) * n / out - 0.5
    if padding == "border":
        x = x.clip(0, n - 1)
    return np.maximum(0, 1 - abs(x[:, None] - np.arange(n)))


def control_grid(rows: int, columns: int) -> np.ndarray:
    """(rows * columns, 2), (x, y), row by row, corners included."""
    return np.array([(x, y) for y in np.linspace(-1, 1, rows) for x in np.linspace(-1, 1, columns)])


def near_identity(transform: Transform, batch: int, *, spread: float, seed: int = 0) -> Tensor:
    noise = torch.randn(batch, transform.num_params, generator=torch.Generator().manual_seed(seed))
    return (transform.identity() + spread * noise).double()


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "size", [(28, 28), (45, 45), (13, 13), (17, 40)], ids=["same", "larger", "smaller", "oblong"]
)
def test_identity_in_identity_out(transform, size, padding):
    image = torch.rand(2, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    out = sample(image, transform.grid(transform.identity().expand(2, -1), size), padding=padding)
    tolerance = 2e-5 if isinstance(transform, ThinPlateSpline) else 1e-5
    if size == (28, 28):
        torch.testing.assert_close(out, image, atol=tolerance, rtol=0)
    rows, columns = hat_matrix(size[0], 28, padding), hat_matrix(size[1], 28, padding)
    np.testing.assert_allclose(out.numpy(), rows @ image.double().numpy() @ columns.T, atol=tolerance)


def test_identity_of_an_oblong_image(transform):
    image = torch.rand(1, 1, 11, 30, generator=torch.Generator().manual_seed(0))
    out = sample(image, transform.grid(transform.identity()[None], (11, 30)))
    torch.testing.assert_close(out, image, atol=2e-5, rtol=0)


def test_identity_has_the_shape_it_says(transform):
    assert transform.identity().shape == (transform.num_params,)
    assert transform.identity().dtype == torch.float32
    assert f"num_params={transform.num_params}" in repr(transform)


@pytest.mark.parametrize(
    ("name", "count"),
    [("attention", 3), ("translation", 2), ("affine", 6), ("projective", 8), ("tps4x4", 32)],
)
def test_number_of_parameters_is_the_papers(name, count):
    assert TRANSFORMS[name]().num_params == count


def test_grid_is_map_points_at_the_pixel_centres(transform):
    theta = near_identity(transform, 3, spread=0.1)
    centres = [[(2 * j + 1) / 6 - 1, (2 * i + 1) / 4 - 1] for i, j in itertools.product(range(4), range(6))]
    expected = transform.map_points(theta, torch.tensor(centres, dtype=torch.float64)).reshape(3, 4, 6, 2)
    torch.testing.assert_close(transform.grid(theta, (4, 6)), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(transform.grid(theta.float(), (4, 6)).double(), expected, atol=1e-5, rtol=0)


def test_each_theta_of_a_batch_makes_its_own_grid(transform):
    theta = near_identity(transform, 3, spread=0.1)
    alone = torch.cat([transform.grid(one[None], (5, 4)) for one in theta])
    torch.testing.assert_close(transform.grid(theta, (5, 4)), alone, atol=1e-12, rtol=0)


def test_float64_theta_gives_a_float64_grid_and_anything_less_float32(transform):
    theta = transform.identity()[None]
    assert transform.grid(theta.double(), (4, 4)).dtype == torch.float64
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert transform.grid(theta.to(dtype), (4, 4)).dtype == torch.float32


def test_wrong_theta_is_refused(transform):
    for shape in [(2, transform.num_params + 1), (transform.num_params,), (1, 1, transform.num_params)]:
        with pytest.raises(ValueError, match=f"theta of shape \\(batch, {transform.num_params}\\)"):
            transform.grid(torch.zeros(shape), (4, 4))


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck_of_grid_and_sample(transform, padding):
    image = torch.rand(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theta = near_identity(transform, 2, spread=0.1)
    assert torch.autograd.gradcheck(
        lambda theta, image: sample(image, transform.grid(theta, (4, 3)), padding=padding),
        (theta.requires_grad_(), image.requires_grad_()),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("padding", PADDINGS)
def test_pitfall_nonfinite_theta_raises_forward_whichever_entry_it_is(transform, padding, value):
    for entry in range(transform.num_params):
        theta = transform.identity().repeat(2, 1)
        theta[1, entry] = value
        with pytest.raises(FloatingPointError, match="1 of 2 images"):
            sample(torch.rand(2, 1, 6, 6), transform.grid(theta, (6, 6)), padding=padding)


def test_pitfall_grid_stays_float32_under_bf16_autocast(transform):
    """At 224 px: a thousandth of a pixel is allowed; bf16 coordinates are off by hundreds of times that."""
    theta = near_identity(transform, 2, spread=0.05)
    exact = transform.grid(theta, (224, 224))
    with torch.autocast("cpu", torch.bfloat16):
        grid = transform.grid(theta.float(), (224, 224))
        warped = sample(torch.rand(2, 1, 224, 224), grid)
    assert grid.dtype == warped.dtype == torch.float32
    assert (grid - exact).abs().max() * 112 < 1e-3
    assert (exact.bfloat16() - exact).abs().max() * 112 > 0.1


# -- the regular grid ------------------------------------------------------------------------------


def test_regular_grid_is_x_y_at_pixel_centres():
    expected = [[[-2 / 3, -0.5], [0, -0.5], [2 / 3, -0.5]], [[-2 / 3, 0.5], [0, 0.5], [2 / 3, 0.5]]]
    torch.testing.assert_close(regular_grid((2, 3)), torch.tensor(expected))


def test_regular_grid_of_a_volume_is_x_y_z():
    grid = regular_grid((2, 1, 4))
    assert grid.shape == (2, 1, 4, 3)
    assert grid[0, 0, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid[:, 0, 0, 2].tolist() == [-0.5, 0.5]
    assert (grid[..., 1] == 0).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_grid_first_made_in_inference_mode_still_trains(name):
    transform, size = (
        TRANSFORMS[name](),
        (3, 97 + list(TRANSFORMS).index(name)),
    )  # a size no other test caches
    with torch.inference_mode():
        transform.grid(transform.identity()[None], size)
    theta = transform.identity()[None].requires_grad_()
    transform.grid(theta, size).square().sum().backward()
    assert theta.grad is not None
    assert theta.grad.abs().sum() > 0


# -- attention, translation, affine: the paper's matrices ------------------------------------------


def test_affine_by_hand():
    """Paper eq. 1: x = a x' + b y' + tx, y = c x' + d y' + ty."""
    theta, points = torch.tensor([[1.0, 2, 3, 4, 5, 6]]), torch.tensor([[0.5, -0.25], [0, 0]])
    assert Affine().map_points(theta, points).tolist() == [[[3.0, 6.75], [3.0, 6.0]]]


def test_in_an_image_that_is_not_square_a_rotation_needs_the_ratio_of_the_sides():
    """Distances in pixels are kept by the matrix of Affine's docstring, and not by a plain rotation."""
    height, width, angle = 20, 50, 0.6
    cos, sin = np.cos(angle), np.sin(angle)
    pixels = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    for matrix, kept in (
        ([cos, -sin * height / width, 0, sin * width / height, cos, 0], True),
        ([cos, -sin, 0, sin, cos, 0], False),
    ):
        grid = Affine().grid(torch.tensor([matrix], dtype=torch.float64), (height, width))[0] * pixels
        sides = torch.stack([(grid[0, 0] - grid[0, -1]).norm(), (grid[0, 0] - grid[-1, 0]).norm()])
        expected = torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64)
        assert torch.allclose(sides, expected) == kept


def test_attention_is_the_affine_map_of_equation_2():
    theta = torch.tensor([[0.5, 0.1, -0.2], [1.3, -0.4, 0.7], [-1.0, 0, 0]])
    matrices = torch.stack([torch.tensor([s, 0, tx, 0, s, ty]) for s, tx, ty in theta.tolist()])
    torch.testing.assert_close(Attention().grid(theta, (5, 8)), Affine().grid(matrices, (5, 8)))


@pytest.mark.parametrize("scale", [0.5, 1, 1.75])
def test_translation_is_the_affine_map_with_a_fixed_scale(scale):
    theta = torch.tensor([[0.1, -0.2], [-0.4, 0.7]])
    matrices = torch.stack([torch.tensor([scale, 0, tx, 0, scale, ty]) for tx, ty in theta.tolist()])
    torch.testing.assert_close(Translation(scale=scale).grid(theta, (5, 8)), Affine().grid(matrices, (5, 8)))


def test_translation_by_half_cuts_the_birds_quarter_out():
    """scale 0.5 at (-0.5, +0.5) is the lower left quarter, pixel for pixel (paper section 4.3)."""
    image = torch.rand(1, 3, 16, 16)
    out = sample(image, Translation(scale=0.5).grid(torch.tensor([[-0.5, 0.5]]), (8, 8)))
    torch.testing.assert_close(out, image[..., 8:, :8], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_translation_refuses_a_window_that_is_none(scale):
    with pytest.raises(ValueError, match="scale above 0"):
        Translation(scale=scale)


# -- projective ------------------------------------------------------------------------------------

CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)


def solve_homography(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The eight numbers of the homography that takes four target points to four source points."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.linalg.solve(np.array(rows), source.flatten())


@pytest.mark.parametrize("seed", range(5))
def test_projective_takes_four_corners_where_a_solved_homography_says(seed):
    quad = CORNERS + np.random.default_rng(seed).normal(0, 0.2, (4, 2))
    theta = torch.tensor(solve_homography(CORNERS, quad))[None]
    mapped = Projective().map_points(theta, torch.tensor(CORNERS))[0].numpy()
    np.testing.assert_allclose(mapped, quad, atol=1e-12)
    # The centre of the square is where its diagonals meet, and a homography keeps lines straight.
    along = np.linalg.solve(np.stack([quad[2] - quad[0], quad[1] - quad[3]], axis=1), quad[1] - quad[0])[0]
    centre = Projective().map_points(theta, torch.zeros(1, 2, dtype=torch.float64))[0, 0].numpy()
    np.testing.assert_allclose(centre, quad[0] + along * (quad[2] - quad[0]), atol=1e-12)


def test_projective_with_an_affine_last_row_is_affine():
    theta = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([theta, torch.zeros(3, 2)], dim=1)
    torch.testing.assert_close(Projective().grid(padded, (5, 8)), Affine().grid(theta, (5, 8)))


def test_projective_points_near_the_horizon_stay_finite_and_on_their_side():
    x = torch.tensor([1 - 1e-3, 1 - 1e-7, 1, 1 + 1e-7, 1 + 1e-3], dtype=torch.float64)  # w = 1 - x
    theta = torch.tensor([[1, 0, 0, 0, 1, 0, -1, 0]], dtype=torch.float64, requires_grad=True)
    mapped = Projective().map_points(theta, torch.stack([x, torch.ones_like(x)], dim=1))
    assert mapped.isfinite().all()
    assert mapped.abs().max() < 2e6
    assert (mapped[0, :3] > 900).all()
    assert (mapped[0, 3:] < -900).all()
    mapped.sum().backward()
    assert theta.grad is not None
    assert theta.grad.isfinite().all()


@pytest.mark.parametrize("padding", PADDINGS)
def test_projective_image_across_the_horizon_trains_on(padding):
    """w = 1 + 2 x is exactly 0 at the left one of two pixel centres."""
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, 2, 0]], requires_grad=True)
    out = sample(torch.rand(1, 1, 6, 6), Projective().grid(theta, (2, 2)), padding=padding)
    out.sum().backward()
    assert out.isfinite().all()
    assert theta.grad is not None
    assert theta.grad.isfinite().all()


# -- thin plate spline -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_tps_is_scipys_thin_plate_spline(shape, seed):
    rng = np.random.default_rng(seed)
    control = control_grid(*shape)
    source = control + rng.normal(0, 0.3, control.shape)
    reference = RBFInterpolator(control, source, kernel="thin_plate_spline", degree=1, smoothing=0)
    points = np.concatenate([rng.uniform(-1.5, 1.5, (200, 2)), control])
    transform, theta = ThinPlateSpline(shape), torch.tensor(source.reshape(1, -1))
    mapped = transform.map_points(theta, torch.tensor(points))[0].numpy()
    np.testing.assert_allclose(mapped, reference(points), atol=1e-9)
    grid = transform.grid(theta, (9, 14)).reshape(-1, 2).numpy()
    np.testing.assert_allclose(
        grid, reference(regular_grid((9, 14), dtype=torch.float64).reshape(-1, 2)), atol=1e-9
    )


def test_tps_of_another_reach_is_scipys_spline_through_the_nearer_points():
    control = 0.75 * control_grid(4, 4)
    source = control + np.random.default_rng(0).normal(0, 0.1, control.shape)
    reference = RBFInterpolator(control, source, kernel="thin_plate_spline", degree=1, smoothing=0)
    transform = ThinPlateSpline((4, 4), reach=0.75)
    grid = transform.grid(torch.tensor(source.reshape(1, -1)), (9, 14)).reshape(-1, 2).numpy()
    points = regular_grid((9, 14), dtype=torch.float64).reshape(-1, 2)
    np.testing.assert_allclose(grid, reference(points), atol=1e-9)
    assert transform.identity().max() == 0.75


@pytest.mark.parametrize("shape", SHAPES)
def test_tps_takes_its_control_points_exactly_to_theta(shape):
    """Also says which point is which: (x, y) each, row by row, corners included."""
    control = torch.tensor(control_grid(*shape))
    theta = torch.randn(2, 2 * len(control), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mapped = ThinPlateSpline(shape).map_points(theta, control)
    torch.testing.assert_close(mapped, theta.reshape(2, -1, 2), atol=1e-12, rtol=0)
    torch.testing.assert_close(ThinPlateSpline(shape).identity(), control.flatten().float())


@pytest.mark.parametrize("shape", SHAPES)
def test_tps_of_affinely_moved_control_points_is_that_affine_map(shape):
    affine = torch.tensor([[0.7, -0.4, 0.2, 0.3, 1.1, -0.5], [-1, 0, 0, 0, 1, 0]], dtype=torch.float64)
    theta = Affine().map_points(affine, torch.tensor(control_grid(*shape))).flatten(1)
    grid = ThinPlateSpline(shape).grid(theta, (20, 31))
    torch.testing.assert_close(grid, Affine().grid(affine, (20, 31)), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("shape", "size", "coincide"),
    [((3, 5), (5, 6), True), ((3, 3), (28, 28), False), ((3, 3), (27, 27), True), ((4, 4), (28, 28), False)],
)
def test_pitfall_tps_zero_log_zero_gives_no_nan(shape, size, coincide):
    """U(r) = r^2 log r^2 at r = 0: where pixel centres are control points, and where they are not."""
    centres = regular_grid(size, dtype=torch.float64).reshape(-1, 2)
    distance = torch.cdist(
        centres, torch.tensor(control_grid(*shape)), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert (distance.min() < 1e-12).item() is coincide
    transform = ThinPlateSpline(shape)
    theta = transform.identity()[None].requires_grad_()
    out = sample(torch.rand(1, 1, *size), transform.grid(theta, size))
    out.square().sum().backward()
    assert out.isfinite().all()
    assert theta.grad is not None
    assert theta.grad.isfinite().all()
    assert theta.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_pitfall_tps_gradient_at_the_control_points_themselves(shape):
    transform = ThinPlateSpline(shape)
    theta = transform.identity()[None].double().requires_grad_()
    transform.map_points(theta, torch.tensor(control_grid(*shape)))[0, 1, 0].backward()
    assert theta.grad is not None  # point 1 follows its own source position, and no other
    torch.testing.assert_close(
        theta.grad[0], torch.eye(len(theta[0]), dtype=torch.float64)[2], atol=1e-12, rtol=0
    )


def test_gradcheck_of_the_points(transform):
    theta = near_identity(transform, 2, spread=0.1)
    points = torch.tensor([[0.1, -0.3], [0.7, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda points: transform.map_points(theta, points), points)


def test_tps_has_a_finite_gradient_in_its_control_points():
    """The basis is even around each of them, so there the rest of the spline decides."""
    transform = ThinPlateSpline()
    points = torch.tensor(control_grid(4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda points: transform.map_points(near_identity(transform, 1, spread=0.1), points),
        points,
        atol=1e-4,
    )


def test_tps_keeps_grids_of_different_sizes_and_dtypes_apart():
    transform = ThinPlateSpline()
    theta = near_identity(transform, 1, spread=0.1)
    for size in [(4, 6), (6, 4), (4, 6)]:
        for dtype in (torch.float32, torch.float64):
            grid = transform.grid(theta.to(dtype), size)
            assert grid.dtype == dtype
            fresh = ThinPlateSpline().grid(theta.to(dtype), size)
            torch.testing.assert_close(grid, fresh, atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 0)])
def test_tps_refuses_fewer_than_two_points_a_side(shape):
    with pytest.raises(ValueError, match="at least 2 x 2"):
        ThinPlateSpline(shape)


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan, math.inf])
def test_tps_refuses_a_lattice_without_extent(reach):
    with pytest.raises(ValueError, match="needs a reach above 0"):
        ThinPlateSpline(reach=reach)


# -- composition -----------------------------------------------------------------------------------


def homogeneous(transform: Transform, theta: Tensor) -> np.ndarray:
    """(B, d + 1, d + 1), written out from the classes' descriptions."""
    dims, one = transform.dims, np.ones(len(theta))
    theta = theta.numpy()
    matrix = np.tile(np.eye(dims + 1), (len(theta), 1, 1))
    if isinstance(transform, Affine | Affine3d):
        matrix[:, :dims] = theta.reshape(-1, dims, dims + 1)
    elif isinstance(transform, Projective):
        matrix = np.column_stack([theta, one]).reshape(-1, 3, 3)
    else:
        scale, shift = (theta[:, 0], theta[:, 1:]) if isinstance(transform, Attention) else (one, theta)
        matrix[:, :2, :2] *= scale[:, None, None]
        matrix[:, :2, 2] = shift
    return matrix


@pytest.mark.parametrize("make", [Affine, Affine3d, Attention, Projective, lambda: Translation(1)])
def test_composition_is_the_product_of_matrices(make):
    transform = make()
    outer, inner = (near_identity(transform, 3, spread=0.2, seed=seed) for seed in (1, 2))
    theta = transform.compose(outer, inner)
    expected = homogeneous(transform, outer) @ homogeneous(transform, inner)
    expected /= expected[:, -1:, -1:]
    np.testing.assert_allclose(homogeneous(transform, theta), expected, atol=1e-12)
    # and as functions of points, outer after inner
    points = (
        torch.rand(5, transform.dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    )
    for k in range(3):
        between = transform.map_points(inner[k : k + 1], points)[0]
        both = transform.map_points(outer[k : k + 1], between)[0]
        torch.testing.assert_close(
            transform.map_points(theta[k : k + 1], points)[0], both, atol=1e-12, rtol=0
        )


def test_composition_by_hand():
    """Attention: x -> 2 (3 x) + 1 and y -> 2 (3 y + 0.5). A turn by 90 degrees after a shift, and before it."""
    outer, inner = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.5]])
    assert Attention().compose(outer, inner).tolist() == [[6.0, 1.0, 1.0]]
    turn, shift = torch.tensor([[0.0, -1, 0, 1, 0, 0]]), torch.tensor([[1.0, 0, 0.5, 0, 1, 0]])
    assert Affine().compose(turn, shift).tolist() == [[0, -1, 0, 1, 0, 0.5]]
    assert Affine().compose(shift, turn).tolist() == [[0, -1, 0.5, 1, 0, 0]]


def test_a_composed_shift_by_whole_pixels_is_sampling_twice():
    """Whole pixels need no interpolation, and nothing leaves the image here: the two ways are equal."""
    image = torch.zeros(1, 1, 12, 12)
    image[:, :, 4:8, 5:9] = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    right, down = torch.tensor([[-4 / 12, 0.0]]), torch.tensor([[0.0, 6 / 12]])  # 2 and -3 pixels
    transform = Translation(1)

    def warp(image, theta):
        return sample(image, transform.grid(theta, (12, 12)))

    twice = warp(warp(image, right), down)
    torch.testing.assert_close(warp(image, transform.compose(right, down)), twice, atol=1e-5, rtol=0)
    torch.testing.assert_close(twice, image.roll((-3, 2), (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [ThinPlateSpline, lambda: Translation(0.5)])
def test_families_that_do_not_compose_say_which_do(make):
    theta = make().identity()[None]
    with pytest.raises(ValueError, match="do not compose to one of its kind: choose Affine, Affine3d"):
        make().compose(theta, theta)


def test_composition_is_exact_under_autocast_and_finite_at_the_horizon():
    theta = near_identity(Projective(), 2, spread=0.2).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = Projective().compose(theta, theta)
    assert inside.dtype == torch.float32 and torch.equal(inside, Projective().compose(theta, theta))
    outer, inner = Projective().identity()[None], Projective().identity()[None]
    outer[0, 6], inner[0, 2] = 1, -1  # the image's centre goes to the horizon: h33 = 0
    assert Projective().compose(outer, inner).isfinite().all()


def test_the_angle_of_a_pose_is_that_of_the_nearest_rotation():
    """By scipy's polar decomposition, of windows that are sheared and stretched too."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        matrix = generator.normal(size=(2, 2))
        matrix *= [[1], [np.sign(np.linalg.det(matrix))]]  # no flip
        rotation, _ = polar(matrix)
        theta = torch.tensor(np.c_[matrix, [0.3, -0.2]].reshape(1, 6), dtype=torch.float32)
        found = pose(Affine(), theta)
        assert found["angle"].item() == pytest.approx(np.degrees(np.arctan2(*rotation[::-1, 0])), abs=1e-2)
        assert found["scale"].item() == pytest.approx(np.sqrt(np.linalg.det(matrix)), abs=1e-4)


def test_a_pose_is_exact_in_float64_and_under_autocast():
    transform = ThinPlateSpline()
    theta = near_identity(transform, 3, spread=0.1)
    exact = pose(transform, theta)
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(pose(transform, theta), exact, atol=0, rtol=0)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = pose(transform, theta.float())
    for key, value in exact.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(found[key], value.float(), atol=5e-3, rtol=0)
