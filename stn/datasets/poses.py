"""The poses that a distortion puts in, in the coordinates of the window that would take them out again."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stn.datasets import distortions
from stn.datasets.distortions import Placed
from stn.transforms import Affine, Projective, pose, regular_grid

__all__ = ["draw_poses"]

FINE = 41  # points along a side of the grid on which a spline is inverted


def draw_poses(
    distort: Callable[..., Any], images: Tensor, generator: torch.Generator
) -> dict[str, Tensor] | None:
    """The poses of the digits that `distort(images, generator)` would return, from the same random numbers.

    The pose is that of the window whose output is the digit as it was, in its own frame of H x H pixels: `pose` of the
    map from the undistorted digit to its place on the canvas, at the digit's centre. A window that only undoes the
    distortion has this angle, size and centre.

    Args:
        distort: a function of `stn.datasets.distortions`, or a partial of one.
        images: (B, 1, H, H), floating point; only their form counts.
        generator: on the device of the images; it is advanced as `distort` advances it.

    Returns:
        As `pose`, each (B,): `angle`, degrees, clockwise as displayed; `scale`, a share of the canvas; `x`, `y`, in
        [-1, 1] across the canvas. None for another distortion.

    Examples:
        >>> from stn.datasets.distortions import rotate
        >>> drawn = draw_poses(rotate, torch.zeros(2, 1, 28, 28), torch.Generator().manual_seed(0))
        >>> drawn["angle"].round().tolist(), drawn["scale"].tolist()
        ([-1.0, 48.0], [1.0, 1.0])
    """
    function: Any = distort
    while hasattr(function, "func"):  # a configuration's partial in one that binds the source
        function = function.func
    kind = _KINDS.get(function)
    if kind is None:
        return None
    parameters = inspect.signature(distort).parameters.values()
    options = {one.name: one.default for one in parameters if one.default is not one.empty}
    options.pop("return_angle", None)
    return kind(images, generator, options)


def _placed(placed: Placed, side: int, canvas: int) -> dict[str, Tensor]:
    share = placed.scale * side / canvas
    return {"angle": placed.angle, "scale": share, "x": 2 * placed.x / canvas, "y": 2 * placed.y / canvas}


def _rotate(images: Tensor, generator: torch.Generator, options: dict[str, Any]) -> dict[str, Tensor]:
    side = images.shape[-1]
    return _placed(distortions.draw_rotate(images, generator, **options), side, side)


def _rotate_translate_scale(
    images: Tensor, generator: torch.Generator, options: dict[str, Any]
) -> dict[str, Tensor]:
    placed = distortions.draw_rotate_translate_scale(images, generator, **options)
    return _placed(placed, images.shape[-1], options["canvas"])


def _translate_clutter(
    images: Tensor, generator: torch.Generator, options: dict[str, Any]
) -> dict[str, Tensor]:
    clutter = distortions.draw_clutter(images, generator, **options)
    side, canvas = images.shape[-1], options["canvas"]
    x, y = ((corner.to(images) + side / 2) - canvas / 2 for corner in (clutter.left, clutter.top))
    return _placed(Placed(torch.zeros_like(x), torch.ones_like(x), x, y), side, canvas)


def _project(images: Tensor, generator: torch.Generator, options: dict[str, Any]) -> dict[str, Tensor]:
    corners, scale = distortions.draw_project(images, generator, **options)
    a, b, c = distortions.quad_homography(corners).unbind(2)
    square = torch.stack([a / 2, b / 2, (a + b) / 2 + c], 2)  # from the square -1 to 1
    theta = (square / square[:, 2:, 2:]).flatten(1)[:, :8]
    if scale is not None:  # the digit is scaled before the corners move: the columns of x and y
        theta = torch.stack([theta[:, i] * (1 if i in (2, 5) else scale) for i in range(8)], 1)
    return pose(Projective(), theta)


def _elastic(images: Tensor, generator: torch.Generator, options: dict[str, Any]) -> dict[str, Tensor]:
    spline, theta = distortions.draw_elastic(images, generator, **options)
    # The spline takes the canvas to the image. Its inverse, which places the digit, has no closed form: it is taken
    # at the point of a grid that comes nearest to the digit's centre, and followed from there by one Newton step.
    grid = spline.grid(theta, (FINE, FINE))  # (B, FINE, FINE, 2)
    down, right = torch.gradient(grid, spacing=2 / FINE, dim=(1, 2))
    nearest = grid.square().sum(3).flatten(1).argmin(1)
    each = torch.arange(len(grid), device=grid.device)
    reached, along_x, along_y = (one.flatten(1, 2)[each, nearest] for one in (grid, right, down))
    back = torch.linalg.inv(torch.stack([along_x, along_y], 2))  # image to canvas
    points = regular_grid((FINE, FINE), grid.device, grid.dtype).reshape(-1, 2)[nearest]
    centre = points[:, :, None] - back @ reached[:, :, None]
    return pose(Affine(), torch.cat([back, centre], 2).flatten(1))


_KINDS = {
    distortions.rotate: _rotate,
    distortions.rotate_translate_scale: _rotate_translate_scale,
    distortions.translate_clutter: _translate_clutter,
    distortions.project: _project,
    distortions.elastic: _elastic,
}
