"""The sampler: (U, T_theta(G)) -> V (paper section 3.3). The one place that calls grid_sample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.eager import is_eager

__all__ = ["MODES", "PADDINGS", "in_frame", "sample"]

MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")
WIDE_INTEGERS = (torch.int32, torch.int64, torch.uint32, torch.uint64)  # float32 cannot hold them


def sample(image: Tensor, grid: Tensor, *, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Samples an image at the points of a grid (paper section 3.3).

    Convention: the grid is in (x, y) order, from -1 to 1 between the image's outer edges (`align_corners=False`).

    Differentiable in the image, and with "bilinear" in the grid (eqs. 6-7). It computes in float32, or in float64 if
    either input is, under autocast too: coordinates in half precision miss by 0.4 pixels at 224. Integers of 32 and 64
    bits are sampled in float64 too.

    The grid is checked in eager mode; on a GPU that waits for the device. Where nothing may wait or depend on data,
    points that are not finite give NaN in place of an error: under torch.compile, torch.export, torch.jit.trace and the
    transforms of torch.func, and while a CUDA graph is captured.

    Args:
        image: (B, C, H, W), or a volume (B, C, D, H, W). Not complex.
        grid: (B, h, w, 2); for a volume (B, d, h, w, 3), in (x, y, z) order.
        mode: "bilinear", for a volume trilinear (eq. 5, appendix A.3); or "nearest", the nearest pixel (eq. 4).
        padding: what is outside of the image: "zeros", or "border", the nearest pixel of the edge.

    Returns:
        (B, C, h, w) or (B, C, d, h, w), in the dtype of the image. In an image of integers, values are rounded.

    Raises:
        ValueError: The mode or padding is unknown, the shapes do not fit, or the image is complex.
        FloatingPointError: The grid is not finite. With border padding it would crash the backward pass on a CPU.

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
    if not torch.jit.is_tracing() and not _fit(image, grid):  # traced sizes are no numbers to compare
        raise ValueError(
            "sample takes an image (B, C, H, W) and a grid (B, h, w, 2), or a volume (B, C, D, H, W) and a grid "
            "(B, d, h, w, 3), of one batch size, "
            f"not {tuple(image.shape)} and {tuple(grid.shape)}."
        )
    if image.is_complex():
        raise ValueError("sample takes real images: sample the real and the imaginary part on their own.")
    if is_eager(grid) and not (grid.is_cuda and torch.cuda.is_current_stream_capturing()):
        _check_finite(image, grid)
        lost = None
    else:
        lost = ~grid.isfinite().all(-1)
        grid = grid.masked_fill(lost[..., None], 0)
    wide = torch.float64 in (image.dtype, grid.dtype) or image.dtype in WIDE_INTEGERS
    dtype = torch.float64 if wide else torch.float32
    with torch.autocast(image.device.type, enabled=False):
        out = F.grid_sample(image.to(dtype), grid.to(dtype), mode, padding, align_corners=False)
    if lost is not None:
        out = out.masked_fill(lost[:, None], math.nan)
    return out.to(image.dtype) if image.is_floating_point() else out.round().to(image.dtype)


def _fit(image: Tensor, grid: Tensor) -> bool:
    return (
        image.ndim in (4, 5)
        and grid.ndim == image.ndim
        and grid.shape[-1] == image.ndim - 2
        and image.shape[0] == grid.shape[0]
    )


def _check_finite(image: Tensor, grid: Tensor) -> None:
    # A NaN or infinity anywhere makes the sum non-finite. The images are counted only then: it is slower.
    if grid.numel() and not torch.isfinite(grid.detach().sum()):
        bad = ~torch.isfinite(grid.detach()).flatten(1).all(1)
        if bad.any():
            what = f"theta gave non-finite sampling points for {int(bad.sum())} of {len(bad)} images"
            unsound = int((~torch.isfinite(image.detach()).flatten(1).all(1)).sum())
            if unsound:
                raise FloatingPointError(
                    f"{what}, and {unsound} of the images hold NaN or infinity themselves: look at the data, or at the "
                    "layers before the transformer."
                )
            raise FloatingPointError(
                f"{what}: the localisation network has diverged. Lower the learning rate or "
                "`optimizer.localisation_lr`."
            )


def in_frame(grid: Tensor) -> Tensor:
    """The share of sampling points that lie inside the image.

    At 0 and with zero padding, the window is lost: theta has no gradient, but for points within half a pixel of the
    edge.

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
