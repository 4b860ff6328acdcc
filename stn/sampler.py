"""The sampler: (U, T_theta(G)) -> V (paper section 3.3). The one place that calls grid_sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MODES", "PADDINGS", "in_frame", "sample"]

MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")


def sample(image: Tensor, grid: Tensor, *, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """The image's values at the grid's points, interpolated (paper eq. 5) or the nearest pixel's (eq. 4).

    Convention: grid in (x, y) order, -1 to 1 between the image's outer edges (`align_corners=False`). Outside the
    image: 0 ("zeros") or the nearest edge pixel ("border"). Runs in float32 (float64 if either input is) under
    autocast too, since half-precision coordinates miss by 0.4 px at 224. Differentiable in the image, and for
    "bilinear" in the grid (eqs. 6-7).

    image: (B, C, H, W).   grid: (B, h, w, 2).   returns: (B, C, h, w) in the image's dtype.
    Volumes (B, C, D, H, W) take grids (B, d, h, w, 3) in (x, y, z) order; "bilinear" is then trilinear (appendix A.3).
    raises: ValueError for an unknown mode or padding or mismatched shapes, FloatingPointError for a non-finite
    grid (checked first: with border padding it would crash the backward pass on CPU). The check is left out while
    a CUDA graph is captured, where nothing may wait for the device.
    """
    if mode not in MODES or padding not in PADDINGS:
        raise ValueError(
            f"mode is one of {MODES} and padding one of {PADDINGS}, not {mode!r} and {padding!r}."
        )
    fits = image.ndim in (4, 5) and grid.ndim == image.ndim and grid.shape[-1] == image.ndim - 2
    if not fits or len(image) != len(grid):
        raise ValueError(
            "sample takes an image (B, C, H, W) and a grid (B, h, w, 2), or a volume (B, C, D, H, W) and a grid "
            "(B, d, h, w, 3), of one batch size, "
            f"not {tuple(image.shape)} and {tuple(grid.shape)}."
        )
    if not (grid.is_cuda and torch.cuda.is_current_stream_capturing()):
        _check_finite(grid)
    dtype = torch.float64 if torch.float64 in (image.dtype, grid.dtype) else torch.float32
    with torch.autocast(image.device.type, enabled=False):
        out = F.grid_sample(image.to(dtype), grid.to(dtype), mode, padding, align_corners=False)
    return out.to(image.dtype)


def _check_finite(grid: Tensor) -> None:
    # One sum tells: a NaN or infinity anywhere makes it non-finite. Only then is it worth counting where.
    if grid.numel() and not torch.isfinite(grid.detach().sum()):
        bad = ~torch.isfinite(grid.detach()).flatten(1).all(1)
        if bad.any():
            raise FloatingPointError(
                f"theta gave non-finite sampling points for {int(bad.sum())} of {len(bad)} images: the localisation "
                "network has diverged. Lower the learning rate or `optimizer.localisation_lr`."
            )


def in_frame(grid: Tensor) -> Tensor:
    """Share of sampling points that fall inside the image. At 0 an image has no gradient and never comes back.

    grid: (..., h, w, 2), or (..., d, h, w, 3) of a volume.   returns: (...), in [0, 1].
    """
    axes = tuple(range(-grid.shape[-1], 0))
    return (grid.detach().abs() <= 1).all(-1).float().mean(axes)
