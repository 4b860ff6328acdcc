"""The sampler: (U, T_theta(G)) -> V (paper section 3.3). The one place that calls grid_sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MODES", "PADDINGS", "in_frame", "sample"]

MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")


def sample(image: Tensor, grid: Tensor, *, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Samples an image at the points of a grid (paper section 3.3).

    Convention: the grid is in (x, y) order, from -1 to 1 between the image's outer edges (`align_corners=False`).

    Differentiable in the image, and with "bilinear" in the grid (eqs. 6-7). It computes in float32, or in float64 if
    either input is, under autocast too: coordinates in half precision miss by 0.4 pixels at 224.

    Args:
        image: (B, C, H, W), or a volume (B, C, D, H, W).
        grid: (B, h, w, 2); for a volume (B, d, h, w, 3), in (x, y, z) order.
        mode: "bilinear", for a volume trilinear (eq. 5, appendix A.3); or "nearest", the nearest pixel (eq. 4).
        padding: what is outside of the image: "zeros", or "border", the nearest pixel of the edge.

    Returns:
        (B, C, h, w) or (B, C, d, h, w), in the dtype of the image.

    Raises:
        ValueError: The mode or padding is unknown, or the shapes do not fit.
        FloatingPointError: The grid is not finite. With border padding it would crash the backward pass on a CPU. Not
            checked while a CUDA graph is captured, where nothing may wait for the device.

    Examples:
        >>> from stn.transforms import Affine
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> mirrored = Affine().grid(torch.tensor([[-1.0, 0, 0, 0, 1, 0]]), (2, 2))
        >>> sample(image, mirrored).tolist()
        [[[[2.0, 1.0], [4.0, 3.0]]]]
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
    # A NaN or infinity anywhere makes the sum non-finite. The images are counted only then: it is slower.
    if grid.numel() and not torch.isfinite(grid.detach().sum()):
        bad = ~torch.isfinite(grid.detach()).flatten(1).all(1)
        if bad.any():
            raise FloatingPointError(
                f"theta gave non-finite sampling points for {int(bad.sum())} of {len(bad)} images: the localisation "
                "network has diverged. Lower the learning rate or `optimizer.localisation_lr`."
            )


def in_frame(grid: Tensor) -> Tensor:
    """The share of sampling points that lie inside the image. At 0 theta has no gradient, and the window is lost.

    Args:
        grid: (..., h, w, 2), or (..., d, h, w, 3) of a volume; -1 to 1 between the image's outer edges.

    Returns:
        (...), float32, from 0 to 1.

    Examples:
        >>> from stn.transforms import Affine
        >>> in_frame(Affine().grid(torch.tensor([[1.0, 0, 1, 0, 1, 0]]), (8, 8))).tolist()
        [0.5]
    """
    axes = tuple(range(-grid.shape[-1], 0))
    return (grid.detach().abs() <= 1).all(-1).float().mean(axes)
