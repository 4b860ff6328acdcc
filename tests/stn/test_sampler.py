"""The sampler against scipy and against the paper's equations 4-7, written out."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from stn import Affine, ThinPlateSpline, in_frame, regular_grid, sample

PADDINGS = ["zeros", "border"]


def to_pixels(grid: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised (x, y), edge to edge, -> pixel coordinates x and y, where pixel i's centre is i."""
    height, width = size
    return (grid[..., 0] + 1) * width / 2 - 0.5, (grid[..., 1] + 1) * height / 2 - 0.5


def scipy_sample(image: np.ndarray, grid: np.ndarray, order: int, padding: str) -> np.ndarray:
    """The reference. image: (B, C, H, W).   grid: (B, h, w, 2).

    Zeros are put round the image first: scipy does not interpolate towards the constant outside.
    """
    x, y = to_pixels(grid, image.shape[-2:])
    if padding == "zeros":
        image, x, y = np.pad(image, ((0, 0), (0, 0), (2, 2), (2, 2))), x + 2, y + 2
    mode = {"zeros": "constant", "border": "nearest"}[padding]
    return np.stack(
        [
            [map_coordinates(channel, [y[b], x[b]], order=order, mode=mode) for channel in image[b]]
            for b in range(len(image))
        ]
    )


def affine_sample(
    image: Tensor, theta: list[float], *, mode: str = "bilinear", padding: str = "zeros"
) -> Tensor:
    grid = Affine().grid(torch.tensor([theta] * len(image), dtype=image.dtype), image.shape[-2:])
    return sample(image, grid, mode=mode, padding=padding)


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(7, 9), (1, 5), (8, 8)])
def test_bilinear_is_scipys_order_1_inside_and_outside(padding, size):
    """Paper eq. 5."""
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, *size))
    grid = rng.uniform(-1.8, 1.8, (2, 11, 13, 2))
    out = sample(torch.tensor(image), torch.tensor(grid), padding=padding)
    np.testing.assert_allclose(out.numpy(), scipy_sample(image, grid, 1, padding), atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_nearest_is_scipys_order_0_away_from_ties(padding):
    """Paper eq. 4; where two pixels are equally near, either is right."""
    rng = np.random.default_rng(1)
    height, width = 7, 9
    image = rng.random((2, 3, height, width))
    x = rng.integers(-3, width + 3, (2, 11, 13)) + rng.uniform(-0.45, 0.45, (2, 11, 13))
    y = rng.integers(-3, height + 3, (2, 11, 13)) + rng.uniform(-0.45, 0.45, (2, 11, 13))
    grid = np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], axis=-1)
    out = sample(torch.tensor(image), torch.tensor(grid), mode="nearest", padding=padding)
    np.testing.assert_array_equal(out.numpy(), scipy_sample(image, grid, 0, padding))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(28, 28), (9, 14)])
@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-4, 5)])
def test_whole_pixel_shift_is_a_roll_without_its_wrap(mode, size, right, down):
    """theta maps target to source: a picture moved to the right has a negative tx."""
    height, width = size
    image = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    expected = image.roll((down, right), (-2, -1))
    rows, columns = torch.arange(height) - down, torch.arange(width) - right
    expected[..., (rows < 0) | (rows >= height), :] = 0
    expected[..., (columns < 0) | (columns >= width)] = 0
    theta = [1, 0, -2 * right / width, 0, 1, -2 * down / height]
    torch.testing.assert_close(affine_sample(image, theta, mode=mode), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        pytest.param([-1, 0, 0, 0, 1, 0], lambda image: image.flip(-1), id="left-right"),
        pytest.param([1, 0, 0, 0, -1, 0], lambda image: image.flip(-2), id="upside-down"),
        pytest.param([0, 1, 0, 1, 0, 0], lambda image: image.mT, id="transpose"),
        pytest.param([0, -1, 0, 1, 0, 0], lambda image: image.rot90(1, (-2, -1)), id="quarter-turn"),
        pytest.param([-1, 0, 0, 0, -1, 0], lambda image: image.rot90(2, (-2, -1)), id="half-turn"),
        pytest.param([0, 1, 0, -1, 0, 0], lambda image: image.rot90(3, (-2, -1)), id="three-quarter-turn"),
    ],
)
@pytest.mark.parametrize("side", [15, 28])
def test_flips_and_quarter_turns(mode, padding, theta, expected, side):
    image = torch.rand(2, 2, side, side, generator=torch.Generator().manual_seed(0))
    out = affine_sample(image, theta, mode=mode, padding=padding)
    torch.testing.assert_close(out, expected(image), atol=1e-5, rtol=0)


def test_each_image_of_a_batch_has_its_own_grid():
    image = torch.rand(1, 1, 6, 6).expand(2, -1, -1, -1)
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0], [-1.0, 0, 0, 0, 1, 0]])
    out = sample(image, Affine().grid(theta, (6, 6)))
    torch.testing.assert_close(out, torch.stack([image[0], image[1].flip(-1)]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("far", [1e6, 1e20, 1e37])
def test_points_far_away_are_outside_and_not_an_error(padding, far):
    """1e37: the sum that the finite check takes overflows, although every point is finite."""
    image = torch.rand(1, 1, 5, 5)
    out = sample(image, torch.full((1, 6, 6, 2), far), padding=padding)
    assert (out == (0 if padding == "zeros" else image[0, 0, -1, -1])).all()


# -- gradients -------------------------------------------------------------------------------------


def test_gradients_are_the_papers_equations_6_and_7():
    """The paper's sums over n and m written out, x and y in pixels; the chain rule gives W / 2 and H / 2."""
    rng = np.random.default_rng(2)
    height, width = 4, 5
    image = torch.tensor(rng.random((1, 1, height, width)), requires_grad=True)
    grid = torch.tensor(rng.uniform(-1.4, 1.4, (1, 6, 5, 2)), requires_grad=True)
    out = sample(image, grid)

    u = image.detach().numpy()[0, 0]
    n, m = np.arange(height)[:, None], np.arange(width)[None, :]
    xs, ys = to_pixels(grid.detach().numpy()[0], (height, width))
    for i, j in np.ndindex(*xs.shape):
        x, y = xs[i, j], ys[i, j]
        along_x, along_y = np.maximum(0, 1 - abs(x - m)), np.maximum(0, 1 - abs(y - n))
        slope_x = np.where(abs(m - x) >= 1, 0, np.where(m >= x, 1, -1))
        slope_y = np.where(abs(n - y) >= 1, 0, np.where(n >= y, 1, -1))
        d_image, d_grid = torch.autograd.grad(out[0, 0, i, j], (image, grid), retain_graph=True)

        assert out[0, 0, i, j].item() == pytest.approx((u * along_x * along_y).sum(), abs=1e-12)  # eq. 5
        np.testing.assert_allclose(d_image[0, 0].numpy(), along_x * along_y, atol=1e-12)  # eq. 6
        expected = np.zeros_like(d_grid[0].numpy())  # eq. 7, and no other point's gradient
        expected[i, j] = width / 2 * (u * slope_x * along_y).sum(), height / 2 * (u * along_x * slope_y).sum()
        np.testing.assert_allclose(d_grid[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_nearest_has_a_gradient_in_the_image_and_none_in_the_grid(padding):
    image = torch.rand(1, 1, 5, 5, requires_grad=True)
    grid = (regular_grid((5, 5))[None] * 0.9).requires_grad_()
    sample(image, grid, mode="nearest", padding=padding).sum().backward()
    assert image.grad is not None
    assert grid.grad is not None
    assert image.grad.sum() == 25
    assert (grid.grad == 0).all()


# -- pitfalls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [28, 42, 224])
def test_pitfall_align_corners_agrees_between_grid_and_sampler(side):
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    out = affine_sample(image, [1, 0, 0, 0, 1, 0])
    assert (out - image).abs().max() < 1e-5
    # What the mismatch costs, so that the bound above is known to see it.
    corners = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=True)
    assert (sample(image, corners) - image).abs().max() > 0.3


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("needs_grad", [True, False])
def test_pitfall_nonfinite_grid_raises_before_sampling(padding, value, needs_grad, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("sampled a non-finite grid")

    monkeypatch.setattr(torch.nn.functional, "grid_sample", never)
    grid = regular_grid((4, 4)).repeat(3, 1, 1, 1)
    grid[1, 2, 3, 0] = value
    grid.requires_grad_(needs_grad)
    with pytest.raises(
        FloatingPointError, match=r"non-finite sampling points for 1 of 3 images.*learning rate"
    ):
        sample(torch.rand(3, 1, 4, 4), grid, padding=padding)


def test_an_image_that_is_not_finite_is_not_blamed_on_the_learning_rate():
    grid = regular_grid((4, 4)).repeat(3, 1, 1, 1)
    image = torch.rand(3, 1, 4, 4)
    image[2, 0, 1, 1] = float("nan")
    assert sample(image, grid).isnan().any()  # a NaN pixel alone is no error
    grid[1:] = float("nan")
    with pytest.raises(FloatingPointError, match="2 of 3 images, and 1 of the images hold NaN") as caught:
        sample(image, grid)
    assert "learning" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_in_an_image_of_integers_values_are_rounded(dtype):
    image = (100 * torch.tensor([[[[0, 1, 0, 1]]]])).to(dtype)
    shifts = torch.tensor([[1.0, 0, -0.3 / 2, 0, 1, 0], [1.0, 0, -0.7 / 2, 0, 1, 0]], dtype=torch.float64)
    out = sample(image.expand(2, -1, -1, -1), Affine().grid(shifts, (1, 4)))
    expected = [[0, 70, 30, 70], [0, 30, 70, 30]]  # 0.3 and 0.7 pixels to the right
    if dtype == torch.bool:
        expected = [[False, True, False, True], [False, False, True, False]]
    assert out.dtype == dtype and out[:, 0, 0].tolist() == expected
    assert torch.equal(sample(image, regular_grid((1, 4))[None]), image)


def test_large_integers_are_sampled_exactly():
    image = torch.tensor([[[[2**24 + 1, 2**31 - 1]]]])
    assert torch.equal(sample(image, regular_grid((1, 2), dtype=torch.float64)[None], mode="nearest"), image)
    for dtype, largest in [(torch.uint32, 2**32 - 1), (torch.uint64, 2**40 + 1)]:
        image = torch.tensor([[[[largest, 0]]]]).to(dtype)
        assert sample(image, regular_grid((1, 2))[None], mode="nearest").flatten().tolist() == [largest, 0]


def test_a_complex_image_is_refused():
    with pytest.raises(ValueError, match="the real and the imaginary part"):
        sample(torch.zeros(1, 1, 4, 4, dtype=torch.complex64), regular_grid((4, 4))[None])


def test_pitfall_opposite_infinities_do_not_cancel():
    grid = regular_grid((4, 4))[None].clone()
    grid[0, 0, 0, 0], grid[0, 0, 1, 0] = float("inf"), float("-inf")
    with pytest.raises(FloatingPointError, match="1 of 1"):
        sample(torch.rand(1, 1, 4, 4), grid)


def test_pitfall_window_outside_the_image_has_no_gradient_and_in_frame_tells():
    image = torch.rand(1, 1, 8, 8)
    theta = torch.tensor([[1.0, 0, 4, 0, 1, 0]], requires_grad=True)
    grid = Affine().grid(theta, (8, 8))
    sample(image, grid).square().sum().backward()
    assert theta.grad is not None
    assert (theta.grad == 0).all()
    assert in_frame(grid).tolist() == [0]


def test_in_frame_is_the_share_of_points_inside():
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, -1], [2, 0, 0, 0, 2, 0]])
    assert in_frame(Affine().grid(theta, (8, 8))).tolist() == [1, 0.5, 0.25, 0.25]
    assert in_frame(Affine().grid(theta, (8, 8)).reshape(2, 2, 8, 8, 2)).tolist() == [[1, 0.5], [0.25, 0.25]]


def test_pitfall_gradient_of_theta_grows_with_the_pixel_count():
    """Twice the side, four times the gradient, for the same picture: hence `optimizer.localisation_lr`."""

    def gradient_norm(side: int) -> Tensor:
        x, y = regular_grid((side, side)).unbind(-1)
        picture = torch.exp(-4 * ((x - 0.2) ** 2 + (y + 0.1) ** 2))[None, None]
        theta = torch.tensor([[1.0, 0.1, 0.1, -0.1, 1, 0.2]], requires_grad=True)
        sample(picture, Affine().grid(theta, (side, side))).square().sum().backward()
        assert theta.grad is not None
        return theta.grad.norm()

    assert (gradient_norm(56) / gradient_norm(28)).item() == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("transform", [Affine(), ThinPlateSpline()], ids=["affine", "tps"])
def test_pitfall_zero_padding_keeps_the_background_exactly_zero(transform):
    """Black stays black wherever no pixel of the object is within reach, edges of the frame included."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(16, 1, 28, 28)
    image[:, :, 9:19, 9:19] = torch.rand(16, 1, 10, 10, generator=generator) + 0.1
    identity = transform.identity()
    grid = transform.grid(identity + 0.2 * torch.randn(16, len(identity), generator=generator), (28, 28))
    out = sample(image, grid)
    x, y = to_pixels(grid.numpy(), (28, 28))
    far = torch.tensor((x < 7.99) | (x > 19.01) | (y < 7.99) | (y > 19.01))[:, None]
    assert far.float().mean() > 0.5
    assert (out[far] == 0).all()
    assert (out >= 0).all()
    assert out.amax((1, 2, 3)).min() > 0.5


def test_pitfall_normalising_before_zero_padding_would_paint_a_frame():
    image = torch.zeros(1, 1, 8, 8)
    shifted = affine_sample((image - 0.13) / 0.31, [1, 0, 1, 0, 1, 0])
    assert shifted[..., :3].unique().numel() == 1
    assert (shifted[..., 5:] == 0).all()
    assert (shifted[..., 0] - shifted[..., -1]).abs().min() > 0.4
    assert (affine_sample(image, [1, 0, 1, 0, 1, 0]) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_pitfall_half_precision_images_are_sampled_in_float32_and_keep_their_dtype(dtype):
    image = torch.rand(1, 2, 32, 32).to(dtype)
    grid = Affine().grid(torch.tensor([[0.9, 0.2, 0.1, -0.2, 0.9, 0]]), (32, 32))
    expected = sample(image.double(), grid).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = sample(image, grid)
    assert out.dtype == dtype
    # Half a step of the dtype, once, on the way out.
    torch.testing.assert_close(out, expected, atol=max(torch.finfo(dtype).eps, 1e-5), rtol=0)


# -- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize("keywords", [{"mode": "bicubic"}, {"padding": "reflection"}])
def test_unknown_mode_or_padding_is_refused(keywords):
    with pytest.raises(ValueError, match="mode is one of"):
        sample(torch.rand(1, 1, 4, 4), regular_grid((4, 4))[None], **keywords)


@pytest.mark.parametrize(
    ("image", "grid"),
    [
        ((1, 4, 4), (1, 4, 4, 2)),
        ((1, 1, 4, 4), (4, 4, 2)),
        ((1, 1, 4, 4), (1, 4, 4, 3)),
        ((2, 1, 4, 4), (1, 4, 4, 2)),
    ],
)
def test_mismatched_shapes_are_refused(image, grid):
    with pytest.raises(ValueError, match="of one batch size"):
        sample(torch.rand(image), torch.zeros(grid))
