"""Digits as solids: extruded, turned and placed in a cube (appendix A.3)."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from stn.datasets.mnist import DistortedDigits
from stn.sampler import sample
from stn.transforms import Affine3d

__all__ = ["SolidDigits", "extrude", "place_solid", "rotation"]

PAPER_CANVAS = (
    60  # voxels a side, of which a digit is 28 wide and high; on another canvas all is scaled in step
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
    """Digits extruded along z, turned about x, y and z, and put at a uniform random place of a cube.

    canvas: the cube's side in voxels; everything is scaled by canvas / 60.   thickness: of the solid, in voxels of the
    60-voxel cube.   max_angle: degrees about each axis, uniform in +-. The (unturned) solid's box stays in the cube.
    images: (B, 1, H, H), uint8 or floating point in [0, 1].   returns: (B, 1, canvas, canvas, canvas), in (z, y, x)
    order, in [0, 1], float64 for float64 images, else float32.
    raises: ValueError for a solid that does not fit the cube.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
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

    images: (B, 1, H, H), floating point.   angles: (B, 3), degrees about x, y and z.   centre: (B, 3), normalised
    (x, y, z) of the solid's centre.   returns: (B, 1, canvas, canvas, canvas), in (z, y, x) order.
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
    """The solid's half sides in x, y and z, normalised. Sent to a device once: a CUDA graph cannot record the copy."""
    with torch.inference_mode(False):
        return torch.tensor([side, side, thickness], device=device, dtype=dtype) / PAPER_CANVAS


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices about x, then y, then z; each positive angle turns the next axis in (x, y, z) order towards the
    one after it.

    angles: (B, 3), degrees.   returns: (B, 3, 3), acting on columns (x, y, z).
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
    """`DistortedDigits` for volumes: images are (N, 1, D, H, W), and a fixed set is made in smaller parts."""

    chunk = 50
