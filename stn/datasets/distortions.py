"""The distortions of section 4.1 and appendix A.4: R, RTS, P, E, TC, for a whole batch at once.

Each is a pure function of images and a torch.Generator on the same device, and uses no other random numbers.

Convention: images are (B, 1, H, H), uint8, or floating point in [0, 1]. The result is (B, 1, S, S) in [0, 1], float64
for float64 images, else float32; S is the canvas, or H where a distortion has none. The background is 0, and so is what
lies outside. Lengths are in pixels. Places are measured from the centre of the canvas, x to the right and y down.
Angles are in degrees; a positive one turns the digit clockwise as displayed.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from stn.sampler import sample
from stn.transforms import Affine, ThinPlateSpline, homogeneous_grid

__all__ = [
    "Clutter",
    "Placed",
    "draw_clutter",
    "elastic",
    "paste_clutter",
    "project",
    "rotate",
    "rotate_translate_scale",
    "translate_clutter",
    "warp_affine",
    "warp_quad",
]

_AFFINE = Affine()


@overload
def rotate(
    images: Tensor, generator: torch.Generator, *, max_angle: float = ..., middle: float = ...
) -> Tensor: ...


@overload
def rotate(
    images: Tensor,
    generator: torch.Generator,
    *,
    max_angle: float = ...,
    middle: float = ...,
    return_angle: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def rotate(
    images: Tensor,
    generator: torch.Generator,
    *,
    max_angle: float = 90.0,
    middle: float = 0.0,
    return_angle: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """R: turns each image about its centre by a uniform random angle (appendix A.4).

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        max_angle: degrees; the angle is uniform in middle +- max_angle.
        middle: degrees; the mean of the angles.
        return_angle: whether to return the angles too. The images are the same.

    Returns:
        (B, 1, H, H); with `return_angle` also (B,), the angles in degrees.

    Examples:
        >>> images, generator = torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> rotate(images, generator).shape
        torch.Size([2, 1, 28, 28])
    """
    images = to_float(images)
    placed = draw_rotate(images, generator, max_angle=max_angle, middle=middle)
    turned = warp_affine(images, images.shape[-1], *placed)
    return (turned, placed.angle) if return_angle else turned


class Placed(NamedTuple):
    """How digits are turned, scaled and moved: the arguments of `warp_affine`.

    Attributes:
        angle: (B,), degrees, positive clockwise as displayed.
        scale: (B,), above 1 enlarges.
        x: (B,), pixels to the right of the canvas' centre.
        y: (B,), pixels below the canvas' centre.
    """

    angle: Tensor
    scale: Tensor
    x: Tensor
    y: Tensor


def draw_rotate(
    images: Tensor, generator: torch.Generator, *, max_angle: float = 90.0, middle: float = 0.0
) -> Placed:
    """The random part of `rotate`.

    Args:
        images: (B, 1, H, H), floating point; only their number, type and device count.
        generator: on the device of the images.
        max_angle: degrees; the angle is uniform in middle +- max_angle.
        middle: degrees; the mean of the angles.
    """
    angle = _uniform(images, generator, middle - max_angle, middle + max_angle)
    zero = torch.zeros_like(angle)
    return Placed(angle, torch.ones_like(angle), zero, zero)


def rotate_translate_scale(
    images: Tensor,
    generator: torch.Generator,
    *,
    canvas: int = 42,
    max_angle: float = 45.0,
    scale: tuple[float, float] = (0.7, 1.2),
) -> Tensor:
    """RTS: turns and scales each image, and puts it at a uniform random place of a canvas (appendix A.4).

    The box of the scaled image, before it is turned, stays on the canvas.

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        canvas: side of the result, pixels.
        max_angle: degrees; the angle is uniform in +-max_angle.
        scale: the size is uniform between the two; above 1 enlarges.

    Returns:
        (B, 1, canvas, canvas).

    Raises:
        ValueError: The largest box does not fit the canvas.

    Examples:
        >>> images, generator = torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> rotate_translate_scale(images, generator).shape
        torch.Size([2, 1, 42, 42])
    """
    images = to_float(images)
    side = images.shape[-1]
    if side * scale[1] > canvas:
        raise ValueError(
            f"A {side}-pixel digit scaled by {scale[1]} does not fit a canvas of {canvas} pixels."
        )
    placed = draw_rotate_translate_scale(images, generator, canvas=canvas, max_angle=max_angle, scale=scale)
    return warp_affine(images, canvas, *placed)


def draw_rotate_translate_scale(
    images: Tensor,
    generator: torch.Generator,
    *,
    canvas: int = 42,
    max_angle: float = 45.0,
    scale: tuple[float, float] = (0.7, 1.2),
) -> Placed:
    """The random part of `rotate_translate_scale`, whose arguments it takes; of the images only the form counts."""
    angle = _uniform(images, generator, -max_angle, max_angle)
    size = _uniform(images, generator, *scale)
    # How far the centre may move from the canvas' centre, pixels.
    room = (canvas - images.shape[-1] * size) / 2
    x = room * _uniform(images, generator, -1, 1)
    y = room * _uniform(images, generator, -1, 1)
    return Placed(angle, size, x, y)


def project(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.75, 1.0),
    std: float = 5.0,
    corners: str = "digit",
) -> Tensor:
    """P: scales each image about its centre, then moves four corners at random, by a homography (appendix A.4).

    With "digit" and 5 pixels, about 1.4 % of the quadrilaterals are not convex and cannot hold the whole digit, see
    `warp_quad`.

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        scale: the size is uniform between the two.
        std: standard deviation of the normal shift of each corner's coordinate, pixels, whatever the scale.
        corners: whose corners move. "digit": those of the scaled digit's box. "image": those of the whole image, with
            the scaled digit inside. "radial": the scaled digit's, each along its diagonal by one draw.

    Returns:
        (B, 1, H, H).

    Raises:
        ValueError: for another `corners`.

    Examples:
        >>> images, generator = torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> project(images, generator).shape
        torch.Size([2, 1, 28, 28])
    """
    images = to_float(images)
    return warp_quad(images, *draw_project(images, generator, scale=scale, std=std, corners=corners))


def draw_project(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.75, 1.0),
    std: float = 5.0,
    corners: str = "digit",
) -> tuple[Tensor, Tensor | None]:
    """The random part of `project`, whose arguments it takes: the corners (B, 4, 2) and the scale of `warp_quad`.

    Of the images, which are floating point, only the form counts.

    Raises:
        ValueError: for another `corners`.
    """
    size = _uniform(images, generator, *scale)
    square = _corners(images.device, images.dtype)
    draws = {"digit": 2, "image": 2, "radial": 1}.get(corners)
    if draws is None:
        raise ValueError(f"corners={corners} is not valid: it is digit, image or radial.")
    noise = torch.randn(len(images), 4, draws, generator=generator, device=images.device, dtype=images.dtype)
    noise = noise * (2 * std / images.shape[-1])
    if corners == "image":
        return square + noise, size
    if corners == "radial":
        noise = noise * square / math.sqrt(2)
    return square * size[:, None, None] + noise, None


def elastic(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.75, 1.0),
    std: float = 1.5,
    reach: float = 1.0,
) -> Tensor:
    """E: scales each image about its centre, then warps it by a 4x4 thin plate spline (appendix A.4).

    The source positions of the control points are moved at random. The spline is linear in them, so dividing them by
    the scale is exactly "scale, then warp".

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        scale: the size is uniform between the two.
        std: standard deviation of the normal shift of each coordinate, pixels.
        reach: the distance of the outermost control points from the centre, normalised: 1 puts them on the edge of the
            image, 0.75 at the centres of a tiling of the image by 4x4 squares (+-0.25, +-0.75).

    Returns:
        (B, 1, H, H).

    Examples:
        >>> images, generator = torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> elastic(images, generator).shape
        torch.Size([2, 1, 28, 28])
    """
    images = to_float(images)
    side = images.shape[-1]
    spline, theta = draw_elastic(images, generator, scale=scale, std=std, reach=reach)
    return sample(images, spline.grid(theta, (side, side)))


def draw_elastic(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.75, 1.0),
    std: float = 1.5,
    reach: float = 1.0,
) -> tuple[ThinPlateSpline, Tensor]:
    """The random part of `elastic`, whose arguments it takes: the spline and its theta (B, 32), result to image.

    Of the images, which are floating point, only the form counts.
    """
    size = _uniform(images, generator, *scale)
    noise = torch.randn(len(images), 32, generator=generator, device=images.device, dtype=images.dtype)
    moved = _regular(reach, images.device, images.dtype) + noise * (2 * std / images.shape[-1])
    return _spline(reach), moved / size[:, None]


def translate_clutter(
    images: Tensor,
    generator: torch.Generator,
    *,
    source: Tensor,
    canvas: int = 60,
    patches: int = 6,
    patch_size: int = 6,
) -> Tensor:
    """TC: puts each image at a uniform whole-pixel place of a canvas, and patches of other digits beside it.

    Patches are cut at uniform places (appendix A.4). Each lands uniformly on the places where it does not touch the box
    of the digit. Where patches overlap, the brighter pixel stays.

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        source: (N, 1, H, H), the digits that patches are cut from.
        canvas: side of the result, pixels.
        patches: number of patches.
        patch_size: side of a patch, pixels.

    Returns:
        (B, 1, canvas, canvas).

    Raises:
        ValueError: The canvas has no room for a patch beside the digit.

    Examples:
        >>> images, generator = torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> translate_clutter(images, generator, source=images).shape
        torch.Size([2, 1, 60, 60])
    """
    images = to_float(images)
    return paste_clutter(images, draw_clutter(images, generator, source, canvas, patches, patch_size), canvas)


class Clutter(NamedTuple):
    """The upper left corners of a digit and its patches on the canvas, in whole pixels, and the patches.

    Attributes:
        left: (B,), of the digit.
        top: (B,), of the digit.
        row: (B, P), of the patches.
        column: (B, P), of the patches.
        cut: (B, P, patch_size, patch_size), the patches, in [0, 1].
    """

    left: Tensor
    top: Tensor
    row: Tensor
    column: Tensor
    cut: Tensor


def draw_clutter(
    images: Tensor, generator: torch.Generator, source: Tensor, canvas: int, patches: int, patch_size: int
) -> Clutter:
    """The random part of `translate_clutter`.

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        source: (N, 1, H, H), the digits that patches are cut from.
        canvas: side of the canvas, pixels.
        patches: number of patches.
        patch_size: side of a patch, pixels.

    Returns:
        Places and patches.

    Raises:
        ValueError: The canvas has no room for a patch beside the digit.
    """
    batch, side, device = len(images), images.shape[-1], images.device
    places = canvas - patch_size + 1  # per axis
    if canvas < side + 2 * patch_size - 1:  # less, and a digit in the middle leaves too little on either side
        raise ValueError(
            f"A canvas of {canvas} pixels has no room for patches of {patch_size} beside a digit of {side} wherever "
            f"that stands: it takes {side + 2 * patch_size - 1}."
        )
    left, top = _integers(canvas - side + 1, (2, batch), generator, device)

    # A patch at row r meets the box's rows for r in [top - patch_size + 1, top + side - 1]; columns likewise.
    first_row, rows = _meeting(top, side, patch_size, places)
    first_column, columns = _meeting(left, side, patch_size, places)
    # Number the free places: first all of the free rows, then what is left of the rows that meet the box.
    free_rows = (places - rows) * places
    free = (free_rows + rows * (places - columns))[:, None]  # (B, 1)
    index = (
        torch.rand(batch, patches, generator=generator, device=device, dtype=torch.float64) * free
    ).long()
    index = index.minimum(free - 1)
    outside = index < free_rows[:, None]
    row_a, column_a = index // places, index % places
    row_a = torch.where(row_a >= first_row[:, None], row_a + rows[:, None], row_a)
    rest, width = index - free_rows[:, None], (places - columns).clamp(min=1)[:, None]
    row_b, column_b = first_row[:, None] + rest.div(width, rounding_mode="floor"), rest % width
    column_b = torch.where(column_b >= first_column[:, None], column_b + columns[:, None], column_b)
    row, column = torch.where(outside, row_a, row_b), torch.where(outside, column_a, column_b)

    digit = _integers(len(source), (batch, patches), generator, device)
    cut_y, cut_x = _integers(source.shape[-1] - patch_size + 1, (2, batch, patches), generator, device)
    span = torch.arange(patch_size, device=device)
    rows_of_source, line = source.shape[-2:]
    corner = (digit * rows_of_source + cut_y) * line + cut_x  # of each patch, among all pixels of the source
    at = corner[..., None, None] + span[:, None] * line + span
    cut = to_float(source.take(at)).to(to_float(images[:0]).dtype)
    return Clutter(left, top, row, column, cut)


def paste_clutter(images: Tensor, clutter: Clutter, canvas: int) -> Tensor:
    """The deterministic part of `translate_clutter`: the patches, and the boxes of the digits on top of them.

    Args:
        images: (B, 1, H, H), floating point.
        clutter: as of `draw_clutter`.
        canvas: side of the result, pixels.

    Returns:
        (B, 1, canvas, canvas).
    """
    batch, side, device = len(images), images.shape[-1], images.device
    left, top, row, column, cut = clutter
    span, box = torch.arange(cut.shape[-1], device=device), torch.arange(side, device=device)
    out = torch.zeros(batch, canvas * canvas, device=device, dtype=images.dtype)
    at = (row[..., None, None] + span[:, None]) * canvas + column[..., None, None] + span
    out.scatter_reduce_(1, at.flatten(1), cut.flatten(1), "amax")
    at = (top[:, None, None] + box[:, None]) * canvas + left[:, None, None] + box
    out.scatter_(1, at.flatten(1), images.flatten(1))
    return out.reshape(batch, 1, canvas, canvas)


def warp_affine(images: Tensor, canvas: int, angle: Tensor, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Turns and scales images about their centre, and puts the centre at (x, y).

    Args:
        images: (B, 1, H, H), floating point.
        canvas: side of the result, pixels.
        angle: (B,), degrees, positive clockwise as displayed.
        scale: (B,), above 1 enlarges.
        x: (B,), pixels to the right of the canvas' centre.
        y: (B,), pixels below the canvas' centre.

    Returns:
        (B, 1, canvas, canvas).

    Examples:
        >>> one, zero, image = torch.ones(1), torch.zeros(1), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> warp_affine(image, 2, 90 * one, one, zero, zero).tolist()
        [[[[3.0, 1.0], [4.0, 2.0]]]]
    """
    side = images.shape[-1]
    radians = angle * (math.pi / 180)
    # Target to source: undo the move, turn back, unscale; from the canvas' units to the image's.
    cos, sin = radians.cos() / (scale * side), radians.sin() / (scale * side)
    x, y = 2 * x, 2 * y
    theta = torch.stack(
        [canvas * cos, canvas * sin, -cos * x - sin * y, -canvas * sin, canvas * cos, sin * x - cos * y],
        dim=1,
    )
    return sample(images, _AFFINE.grid(theta, (canvas, canvas)))


def quad_homography(corners: Tensor) -> Tensor:
    """The homography from the unit square to quadrilaterals (Heckbert 1989, eq. 2.9-2.13 scaled to avoid division).

    Args:
        corners: (B, 4, 2), (x, y) of the places of (0, 0), (1, 0), (1, 1) and (0, 1).

    Returns:
        (B, 3, 3), up to a factor: (u, v, 1) to (x, y, 1).
    """
    p0, p1, p2, p3 = corners.unbind(1)
    d1, d2, d3 = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    area, g, h = _cross(d1, d2)[:, None], _cross(d3, d2)[:, None], _cross(d1, d3)[:, None]
    columns = [
        torch.cat([(p1 - p0) * area + g * p1, g], 1),
        torch.cat([(p3 - p0) * area + h * p3, h], 1),
        torch.cat([p0 * area, area], 1),
    ]
    return torch.stack(columns, 2)


def warp_quad(images: Tensor, corners: Tensor, scale: Tensor | None = None) -> Tensor:
    """Moves the four corners of images to given places, by the homography through them.

    Points beyond the horizon, seen from the image's centre, count as outside, so that no mirror image appears. For a
    convex quadrilateral none of the image lies there. Where a corner lies inside the triangle of the others, the
    opposite corner of the image does, and is lost. Three corners in a line, or a quadrilateral without area, give a
    black image.

    Args:
        images: (B, 1, H, W), floating point.
        corners: (B, 4, 2), (x, y) from -1 to 1 between the image's outer edges; upper left, upper right, lower right,
            lower left.
        scale: (B,), by which the digits are scaled about the image's centre first; None: they are not.

    Returns:
        (B, 1, H, W).

    Examples:
        >>> image, square = torch.rand(1, 1, 8, 8), torch.tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]])
        >>> bool((warp_quad(image, square) - image).abs().max() < 1e-5)
        True
    """
    a, b, c = quad_homography(corners).unbind(2)
    back = torch.stack(
        [b.cross(c, dim=1), c.cross(a, dim=1), a.cross(b, dim=1)], dim=1
    )  # adjugate: quad -> square
    # w of the inverse is the determinant divided by w of the homography: its sign tells the side of the horizon. The
    # centre's side is kept, not a corner's: of a quadrilateral that is not convex, that corner may be the one beyond.
    determinant, centre = (a * back[:, 0]).sum(1), c[:, 2] + (a[:, 2] + b[:, 2]) / 2
    side = torch.sign(determinant * centre)[:, None, None]
    back = back * side
    back = torch.cat(
        [2 * back[:, :2] - back[:, 2:], back[:, 2:]], dim=1
    )  # to the square -1 to 1, as is sampled
    # No area: every point of the canvas goes to (4, 4), outside.
    back = torch.where(side == 0, _nowhere(images.device, images.dtype), back)
    columns = homogeneous_grid(tuple(images.shape[-2:]), images.device, images.dtype)
    mapped = (back.reshape(-1, 3) @ columns).unflatten(0, (-1, 3))  # (B, 3, N)
    # Beyond the horizon w is negative. Divided by a tiny number instead, a point lands far outside.
    tiny = 1e-9 * back.abs().amax((1, 2))[:, None, None].clamp(min=1e-25)
    source = (mapped[:, :2] / mapped[:, 2:].maximum(tiny)).clamp(-4, 4)
    if scale is not None:
        source = source / scale[:, None, None]
    return sample(images, source.mT.unflatten(1, tuple(images.shape[-2:])))


# Constants are cached on their device: a CUDA graph cannot record a copy from the host.
@lru_cache
def _corners(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], device=device, dtype=dtype)


@lru_cache
def _nowhere(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([[0, 0, 4], [0, 0, 4], [0, 0, 1]], device=device, dtype=dtype)


@lru_cache
def _spline(reach: float) -> ThinPlateSpline:
    return ThinPlateSpline((4, 4), reach=reach)


@lru_cache
def _regular(reach: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return _spline(reach).control_points.flatten().to(device, dtype)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _meeting(start: Tensor, side: int, patch: int, places: int) -> tuple[Tensor, Tensor]:
    """Of the places of a patch along one axis: the first that touches the box at `start`, and how many do."""
    first = (start - patch + 1).clamp(min=0)
    return first, (start + side).clamp(max=places) - first


def to_float(images: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]; float32 and float64 as they are; other floating point as float32."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images if images.dtype in (torch.float32, torch.float64) else images.float()


def _uniform(images: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    draw = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
    return low + (high - low) * draw


def _integers(below: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(below, shape, generator=generator, device=device)
