"""Digits as solids: extruded, turned and placed in a cube (appendix A.3)."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from stn.datasets.distorted import DistortedDigits
from stn.datasets.distortions import to_float
from stn.sampler import sample
from stn.transforms import Affine3d

__all__ = ["SolidDigits", "extrude", "place_solid", "rotation"]

PAPER_CANVAS = (
    60  # voxels a side, for digits 28 wide and high. On another canvas everything is scaled in step
)
_AFFINE = Affine3d()


def extrude(
    images: Tensor,
    generator: torch.Generator,
    *,
    canvas: int = PAPER_CANVAS,
    thickness: int = 14,
    max_angle: float = 45.0,
) -> Tensor:
    """Extrudes digits along z, turns them about x, y and z, and puts them at a uniform random place of a cube.

    The box of the solid before it is turned stays in the cube.

    Args:
        images: (B, 1, H, H), uint8, or floating point in [0, 1].
        generator: on the device of the images.
        canvas: side of the cube, voxels. Everything is scaled by canvas / 60.
        thickness: of the solid, in voxels of the cube of 60.
        max_angle: degrees; the angle about each axis is uniform in +-max_angle.

    Returns:
        (B, 1, canvas, canvas, canvas) in (z, y, x) order, in [0, 1], float64 for float64 images, else float32.

    Raises:
        ValueError: The solid does not fit the cube.

    Examples:
        >>> extrude(torch.ones(2, 1, 28, 28), torch.Generator().manual_seed(0), canvas=30).shape
        torch.Size([2, 1, 30, 30, 30])
    """
    images = to_float(images)
    side, device, dtype = images.shape[-1], images.device, images.dtype
    if max(side, thickness) > PAPER_CANVAS or thickness < 1:
        raise ValueError(
            f"A digit {side} wide and {thickness} thick does not fit a cube of {PAPER_CANVAS} voxels a side."
        )
    angles = max_angle * (2 * torch.rand(len(images), 3, generator=generator, device=device, dtype=dtype) - 1)
    half = _half_sides(side, thickness, device, dtype)
    where = 2 * torch.rand(len(images), 3, generator=generator, device=device, dtype=dtype) - 1
    return place_solid(images, canvas, thickness, angles, where * (1 - half))


def place_solid(images: Tensor, canvas: int, thickness: int, angles: Tensor, centre: Tensor) -> Tensor:
    """The deterministic part of `extrude`.

    Args:
        images: (B, 1, H, H), floating point.
        canvas: side of the cube, voxels.
        thickness: of the solid, in voxels of the cube of 60.
        angles: (B, 3), degrees about x, y and z, see `rotation`.
        centre: (B, 3), (x, y, z) of the solid's centre, from -1 to 1 between the cube's faces.

    Returns:
        (B, 1, canvas, canvas, canvas) in (z, y, x) order, in the dtype of the images.

    Examples:
        >>> solid = place_solid(torch.ones(1, 1, 28, 28), 60, 14, torch.zeros(1, 3), torch.zeros(1, 3))
        >>> int(solid.sum().round()) == 28 * 28 * 14
        True
    """
    side = images.shape[-1]
    half = _half_sides(side, thickness, images.device, images.dtype)
    # Target to source: undo the move, turn back, and measure in half sides of the solid.
    back = rotation(angles).mT / half[:, None]  # (B, 3, 3)
    theta = torch.cat([back, -back @ centre[:, :, None]], 2).flatten(1)
    solid = images[:, :, None].expand(-1, -1, thickness, -1, -1)  # (B, 1, thickness, H, H)
    return sample(solid, _AFFINE.grid(theta, (canvas, canvas, canvas)))


@lru_cache
def _half_sides(side: int, thickness: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Half of the solid's sides in x, y and z, normalised. Cached: a CUDA graph cannot record a copy to the device."""
    with torch.inference_mode(False):
        return torch.tensor([side, side, thickness], device=device, dtype=dtype) / PAPER_CANVAS


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices: about x, then y, then z.

    A positive angle turns y towards z (about x), z towards x (about y), and x towards y (about z).

    Args:
        angles: (B, 3), degrees about x, y and z.

    Returns:
        (B, 3, 3), for columns (x, y, z).

    Examples:
        >>> rotation(torch.tensor([[0.0, 0.0, 90.0]]))[0, :, 0].round().tolist()  # x becomes y
        [-0.0, 1.0, 0.0]
    """
    radians = angles * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    matrix = torch.eye(3, device=angles.device, dtype=angles.dtype).expand(len(angles), 3, 3)
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.zeros_like(matrix)
        turn[:, axis, axis] = 1
        turn[:, a, a] = turn[:, b, b] = cos[:, axis]
        turn[:, b, a], turn[:, a, b] = sin[:, axis], -sin[:, axis]
        matrix = turn @ matrix
    return matrix


class SolidDigits(DistortedDigits):
    """`DistortedDigits` for volumes (appendix A.3): images are (N, 1, D, H, W).

    Arguments and errors are those of `DistortedDigits`; `distort` is `extrude` with its options bound.

    Examples:
        >>> from functools import partial
        >>> from stn.datasets.digits import load_digits
        >>> data = SolidDigits(load_digits(), partial(extrude, canvas=16))
        >>> data.in_shape
        (1, 16, 16, 16)
    """

    chunk = 50  # volumes take more memory than images
