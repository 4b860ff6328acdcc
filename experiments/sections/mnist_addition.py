"""MNIST addition (paper appendix A.1): the table, the task, which measures what each window holds, and the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.engine.task import Batch, Classification
from experiments.report import Claim, Row, Section, Table, gain_in
from experiments.report.subject import Subject, Words
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

# The order of training, the most informative first: two transformers against one and none.
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
    trainers={"paper": "paper_addition"},
    priority=PRIORITY,
)

TRANSFORMS = ("affine", "projective", "tps")
CLAIM = Claim(
    6,
    "Two transformers make a network without convolutions better than a CNN at addition; with one it is worse.",
    "appendix A.1, Table 4",
    (
        *(
            gain_in(ADDITION, ("2st_fcn", transform), ("cnn", None), "mnist_addition")
            for transform in TRANSFORMS
        ),
        *(
            gain_in(ADDITION, ("cnn", None), ("st_fcn", transform), "mnist_addition")
            for transform in TRANSFORMS
        ),
    ),
)

HELD = 0.9  # a window holds a digit if it covers at least this share of the digit's mass
EXAMPLES, WRONG = 6, 2  # pairs of digits in the picture, and how many of them are misclassified


def mass_inside(images: Tensor, transform: Transform, theta: Tensor, fine: int = 2) -> Tensor:
    """The share of each channel's mass that lies in a transformer's window.

    The integral of the image over the window is the integral, over the output frame, of the warped image times the area
    in the input of each output point; that area comes from differences of the sampling grid.

    Args:
        images: (B, C, H, W).
        transform: the family.
        theta: (B, num_params).
        fine: grid points per pixel and axis.

    Returns:
        (B, C), 0 to 1.
    """
    height, width = images.shape[-2] * fine, images.shape[-1] * fine
    grid = transform.grid(theta, (height, width))  # (B, h, w, 2)
    along_y, along_x = torch.gradient(grid, dim=(1, 2))
    area = (along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]).abs()  # (B, h, w)
    inside = (sample(images, grid) * area[:, None]).sum((2, 3))
    total = images.sum((2, 3)).clamp(min=1e-6) * 4 / (images.shape[-2] * images.shape[-1])
    return (inside / total).clamp(max=1)


def centres(images: Tensor) -> Tensor:
    """The centre of mass of each channel of images (B, C, H, W): (B, C, 2), (x, y) in [-1, 1]."""
    points = regular_grid((images.shape[-2], images.shape[-1]), images.device, images.dtype)
    mass = images.sum((2, 3)).clamp(min=1e-6)
    return torch.einsum("bchw,hwd->bcd", images, points) / mass[..., None]


def followed(windows: Tensor, digits: Tensor) -> Tensor:
    """How far the place of a digit explains that of a window: the share of variance (R^2) of a linear fit.

    Args:
        windows: (N, 2), centres of one transformer's windows.
        digits: (N, 2), centres of one channel's digits.

    Returns:
        A number from 0, no relation, to 1, where the window follows the digit.
    """
    x = torch.cat([digits, torch.ones_like(digits[:, :1])], 1).double()
    y = windows.double()
    residual = y - x @ torch.linalg.lstsq(x, y).solution
    spread = (y - y.mean(0)).square().sum()
    return (1 - residual.square().sum() / spread.clamp(min=1e-12)).clamp(0, 1)


class Addition(Classification):
    """Classification of sums; `evaluate` also measures which digit each transformer attends to.

    Of transformer k and the digit in channel j: `st{k}_holds_digit{j}` is the percentage of images in which the window
    covers at least nine tenths of the digit's mass; `st{k}_follows_digit{j}` the share, in percent, of the variance of
    the window's place that the digit's place explains.
    """

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        """As `Classification.evaluate`, with the metrics of this class where the network has transformers."""
        batches = list(batches)
        metrics, predictions = super().evaluate(model, batches)
        if not hasattr(model, "transformers"):
            return metrics, predictions
        transformers: Any = model.transformers
        transform: Transform = transformers.transform
        model.eval()
        shares, places, windows = [], [], []
        for images, _ in batches:
            theta = model(images)[1]["theta"]  # (B, K, P)
            each = theta.unbind(1)
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


def draw(model: nn.Module, data: AddedDigits, folder: Path, subject: Subject) -> dict[str, Path]:
    """`pairs`, in the layout of the paper's figure; with transformers also `poses`, histograms of their windows."""
    from experiments.sections.figures import (  # matplotlib: slow to import
        collect,
        pairs,
        pose_histograms,
        right_and_wrong,
    )

    which = f"the first {EXAMPLES - WRONG} test pairs"
    chosen, rule = right_and_wrong(model, data.test, range(EXAMPLES - WRONG), which, "pair", WRONG)
    images, labels = data.test.images[chosen].cpu().float() / 255, data.test.labels[chosen].cpu()
    network, digits = subject.network, subject.data
    title = subject.title(f"{network} adds two digits, each in a channel of its own")
    note = subject.note(rule)
    paths = {"pairs": pairs(model, images, labels, folder / "pairs.png", title=title, note=note)}
    if hasattr(model, "transformers"):
        _, _, poses = collect(model, data.test.batches(500), data.num_classes)
        title = subject.title(f"{network} chooses angle, size and place of its windows on {digits}")
        note, path = subject.note(f"All {len(data.test.labels):,} test pairs."), folder / "poses.png"
        paths["poses"] = pose_histograms(poses, path, title=title, applied=data.test_poses, note=note)
    return paths


WORDS = Words({"mnist_addition": "pairs of rotated, scaled and translated digits"})
SECTION = Section(name="mnist_addition", tables=(ADDITION,), draw=draw, claims=(CLAIM,), words=WORDS)
