"""MNIST addition (appendix A.1): the paper's numbers, who takes which digit, and the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.engine.task import Batch, Classification
from experiments.report import Row, Section, Table
from stn import Transform, sample
from stn.datasets.addition import AddedDigits
from stn.transforms import regular_grid

# Test error in percent, nineteen classes; Jaderberg et al. 2015 (arXiv 1506.02025), Table 4.
PAPER: dict[Row, dict[str, float]] = {
    ("fcn", None): {"mnist_addition": 47.7},
    ("cnn", None): {"mnist_addition": 14.7},
    ("st_fcn", "affine"): {"mnist_addition": 22.6},
    ("st_fcn", "projective"): {"mnist_addition": 18.5},
    ("st_fcn", "tps"): {"mnist_addition": 19.1},
    ("2st_fcn", "affine"): {"mnist_addition": 9.0},
    ("2st_fcn", "projective"): {"mnist_addition": 5.9},
    ("2st_fcn", "tps"): {"mnist_addition": 5.8},
}

ROWS: dict[Row, str] = {
    ("fcn", None): "FCN",
    ("cnn", None): "CNN",
    ("st_fcn", "affine"): "ST-FCN affine",
    ("st_fcn", "projective"): "ST-FCN projective",
    ("st_fcn", "tps"): "ST-FCN TPS",
    ("2st_fcn", "affine"): "2xST-FCN affine",
    ("2st_fcn", "projective"): "2xST-FCN projective",
    ("2st_fcn", "tps"): "2xST-FCN TPS",
}

# The most informative rows first: two transformers against one and none.
PRIORITY: tuple[Row, ...] = (
    ("2st_fcn", "affine"),
    ("fcn", None),
    ("st_fcn", "affine"),
    ("cnn", None),
    ("2st_fcn", "tps"),
    ("2st_fcn", "projective"),
    ("st_fcn", "tps"),
    ("st_fcn", "projective"),
)

ADDITION = Table(
    name="addition",
    title="MNIST addition",
    columns={"mnist_addition": "sum of two digits"},
    rows=ROWS,
    paper=PAPER,
    source="Jaderberg et al. 2015, appendix A.1, Table 4",
    priority=PRIORITY,
)


HELD = 0.9  # a window holds a digit with at least this share of its mass
EXAMPLES = 6


def mass_inside(images: Tensor, transform: Transform, theta: Tensor, fine: int = 2) -> Tensor:
    """The share of each channel's mass that lies in a transformer's window.

    The window is the image of the output frame: the integral of the image over it is that of the warped image times
    the area that the warp gives each output point, taken from differences of the sampling grid.

    images: (B, C, H, W).   theta: (B, num_params).   fine: grid points per pixel and axis.   returns: (B, C), 0 to 1.
    """
    height, width = images.shape[-2] * fine, images.shape[-1] * fine
    grid = transform.grid(theta, (height, width))  # (B, h, w, 2)
    along_y, along_x = torch.gradient(grid, dim=(1, 2))
    area = (along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]).abs()  # (B, h, w)
    inside = (sample(images, grid) * area[:, None]).sum((2, 3))
    total = images.sum((2, 3)).clamp(min=1e-6) * 4 / (images.shape[-2] * images.shape[-1])
    return (inside / total).clamp(max=1)


def centres(images: Tensor) -> Tensor:
    """Centre of mass of each channel, normalised (x, y).   images: (B, C, H, W).   returns: (B, C, 2)."""
    points = regular_grid((images.shape[-2], images.shape[-1]), images.device, images.dtype)
    mass = images.sum((2, 3)).clamp(min=1e-6)
    return torch.einsum("bchw,hwd->bcd", images, points) / mass[..., None]


def followed(windows: Tensor, digits: Tensor) -> Tensor:
    """How well a digit's place explains a window's: the share of variance (R^2) of a linear fit.

    windows: (N, 2), centres of one transformer's windows.   digits: (N, 2), centres of one channel's digits.
    returns: a number from 0, no relation, to 1: the window goes where the digit is.
    """
    x = torch.cat([digits, torch.ones_like(digits[:, :1])], 1).double()
    y = windows.double()
    residual = y - x @ torch.linalg.lstsq(x, y).solution
    spread = (y - y.mean(0)).square().sum()
    return (1 - residual.square().sum() / spread.clamp(min=1e-12)).clamp(0, 1)


class Addition(Classification):
    """Classification of sums, and who takes which digit.

    evaluate also returns, for transformer k and the digit of channel j: `st{k}_holds_digit{j}`, in how many percent of
    the images its window holds at least nine tenths of that digit's mass; and `st{k}_follows_digit{j}`, the share of
    the variance of its window's place that the digit's place explains, in percent.
    """

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        batches = list(batches)
        metrics, predictions = super().evaluate(model, batches)
        if not hasattr(model, "transformers"):
            return metrics, predictions
        model.eval()
        shares, places, windows = [], [], []
        for images, _ in batches:
            theta = model(images)[1]["theta"]  # (B, K, P)
            transform, each = model.transformers.transform, theta.unbind(1)
            shares.append(torch.stack([mass_inside(images, transform, one) for one in each], 1))
            middle = torch.zeros(1, 2, device=images.device)
            windows.append(torch.stack([transform.map_points(one, middle)[:, 0] for one in each], 1))
            places.append(centres(images))
        model.train()
        share, window, place = torch.cat(shares), torch.cat(windows), torch.cat(places)
        for k in range(share.shape[1]):
            for j in range(share.shape[2]):
                metrics[f"st{k}_holds_digit{j}"] = 100 * (share[:, k, j] >= HELD).double().mean().item()
                metrics[f"st{k}_follows_digit{j}"] = 100 * followed(window[:, k], place[:, j]).item()
        return metrics, predictions


def figures(model: nn.Module, data: AddedDigits, folder: Path) -> dict[str, Path]:
    """`pairs`, the layout of the paper's figure, and `poses`, histograms of the windows; written into `folder`.

    returns: name -> path.
    """
    from experiments.sections.figures import collect, pairs, pose_histograms  # matplotlib: slow to import

    model.eval()
    what = f"{folder.parent.parent.name}, {folder.parent.name}, {folder.name}"
    images, labels = data.test.images[:EXAMPLES].cpu().float() / 255, data.test.labels[:EXAMPLES].cpu()
    paths = {"pairs": pairs(model, images, labels, folder / "pairs.png", title=what)}
    if hasattr(model, "transformers"):
        _, _, poses = collect(model, data.test.batches(500), data.num_classes)
        title = f"predicted windows over the test set: {what}"
        paths["poses"] = pose_histograms(poses, folder / "poses.png", title=title)
    return paths


SECTION = Section(name="mnist_addition", tables=(ADDITION,), figures=figures)
