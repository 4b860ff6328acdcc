"""Pictures of what a classifier's transformers do over a whole set: class means and poses."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn

from experiments.report.pictures import head, save, show
from experiments.sections.figures.drawing import COLOURS, transformer_names, transforms_of
from stn.transforms import pose

DECIMALS = {"angle": 0, "scale": 2, "x": 2, "y": 2}  # of a part of a pose
UNITS = {"angle": "\N{DEGREE SIGN}", "scale": "", "x": "", "y": ""}
BINS = 15, 60  # of a histogram, of few and of many images


def class_means(
    before: Tensor,
    after: Sequence[Tensor],
    path: Path,
    *,
    title: str,
    undistorted: Tensor | None = None,
    note: str = "",
) -> Path:
    """The mean input and the mean output of each transformer, for each class.

    Args:
        before: (classes, H, W).
        after: one (classes, h, w) a transformer.
        path: the picture, which is written.
        title: above it.
        undistorted: (classes, H, W), the means of the same digits as they were; None where they are not known.
        note: below it.

    Returns:
        The path.
    """
    rows = [before, *after, *([] if undistorted is None else [undistorted])]
    names = ["input", *transformer_names(len(after)), "undistorted"]
    figure = Figure(figsize=(1.05 * len(before) + 0.9, 1.15 * len(rows) + 0.95), layout="constrained")
    axes = figure.subplots(len(rows), len(before), squeeze=False)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            show(axes[r, c], (image / image.max().clamp(min=1e-6))[None])
        axes[r, 0].set_ylabel(names[r], fontsize=10)
    for c in range(len(before)):
        axes[-1, c].set_xlabel(str(c), fontsize=10)
    told = (
        "" if undistorted is None else " Undistorted: the mean of the same digits before they were distorted."
    )
    head(figure, title, note=f"{note}{told} Each mean is scaled to its own maximum.".strip())
    return save(figure, path)


def pose_histograms(
    poses: Sequence[Mapping[str, Tensor]],
    path: Path,
    *,
    title: str,
    applied: Mapping[str, Tensor] | None = None,
    note: str = "",
) -> Path:
    """Histograms of angle, size and place of the predicted windows over a set, one colour a transformer.

    Args:
        poses: what `pose` returns, one a transformer.
        path: the picture, which is written.
        title: above it.
        applied: as of `draw_poses`, of the digits of the set: drawn as an outline; None where it is not known.
        note: below it.

    Returns:
        The path.
    """
    labels = {
        "angle": "angle, degrees clockwise",
        "scale": "size, share of the input's side",
        "x": "centre x (\N{MINUS SIGN}1 left edge, 1 right edge)",
        "y": "centre y (\N{MINUS SIGN}1 top edge, 1 bottom edge)",
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        every = [values[key] for values in poses]
        known = None if applied is None else applied[key]
        edges = pose_edges(every if known is None else [*every, known])
        for k, values in enumerate(every):
            colour = COLOURS[k % len(COLOURS)]
            alpha = 0.85 if len(poses) == 1 else 0.55
            axes.hist(values.numpy(), edges, weights=_percent(values), color=colour, alpha=alpha)
        told = [f"windows: {_spread(torch.cat(every), key)}"]
        if known is not None and known.max() - known.min() < 1e-6:
            axes.axvline(float(known[0]), color="black", linewidth=1.2)
            told.append(f"applied: {_number(float(known[0]), key)} to every digit")
        elif known is not None:
            outline = {"histtype": "step", "color": "black", "linewidth": 1.2}
            axes.hist(known.numpy(), edges, weights=_percent(known), **outline)
            told.append(f"applied: {_spread(known, key)}")
        axes.set_xlabel(f"{label}\nbin width {edges[1] - edges[0]:.2g}{UNITS[key]}", fontsize=8.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title("\n".join(told), fontsize=8.5)
    panels[0].set_ylabel("share of the test images\nin a bin, %", fontsize=9)
    names = ["windows"] if len(poses) == 1 else [f"windows of transformer {k + 1}" for k in range(len(poses))]
    handles: list[Artist] = [
        Patch(color=COLOURS[k % len(COLOURS)], label=f"{name}, as the network predicts them")
        for k, name in enumerate(names)
    ]
    if applied is not None:
        label = "applied by the distortion: angle, size and centre of each digit's frame"
        handles.append(Patch(facecolor="none", edgecolor="black", label=label))
    numbers = "Above each panel: the median and, in brackets, the middle 90 %."
    head(figure, title, note=f"{note} {numbers}".strip(), handles=handles)
    return save(figure, path)


def pose_edges(samples: Sequence[Tensor]) -> np.ndarray:
    """The edges of the bins that several samples share: from end to end, but for a thousandth at either end.

    A sample of whole pixels is a lattice of few values: then each bin holds one of them.
    """
    ends = [np.quantile(sample.numpy(), (0.001, 0.999)) for sample in samples]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    room = max(0.02 * (high - low), 1e-3)
    low, high = low - room, high + room
    for sample in samples:
        values = np.unique(sample.numpy().astype(np.float64).round(5))
        if 1 < len(values) <= BINS[1] and len(values) < len(sample) / 10:
            step = (values[-1] - values[0]) / (len(values) - 1)
            first = values[0] - step / 2
            steps = np.arange(np.floor((low - first) / step), np.ceil((high - first) / step) + 1)
            return np.asarray(first + step * steps)
    bins = int(np.clip(np.sqrt(min(map(len, samples))), *BINS))
    return np.linspace(low, high, bins + 1)


def _percent(values: Tensor) -> np.ndarray:
    """Weights that sum to 100."""
    return np.full(len(values), 100 / len(values))


def _spread(values: Tensor, key: str) -> str:
    low, middle, high = (_number(value, key) for value in np.quantile(values.numpy(), (0.05, 0.5, 0.95)))
    return f"{middle} ({low} to {high})"


def _number(value: float, key: str) -> str:
    """A part of a pose with its unit and a true minus sign; never "-0"."""
    rounded = round(float(value), DECIMALS[key]) + 0.0
    return f"{rounded:.{DECIMALS[key]}f}{UNITS[key]}".replace("-", "\N{MINUS SIGN}")


@torch.inference_mode()
def collect(
    model: nn.Module, batches: Iterable[tuple[Tensor, ...]], classes: int
) -> tuple[Tensor, list[Tensor], list[dict[str, Tensor]]]:
    """The means of the classes and the poses of the windows, in one pass over a set.

    Args:
        model: a classifier with transformers, in eval mode.
        batches: images (B, C, H, W), labels (B,) and what else, on the network's device.
        classes: how many.

    Returns:
        The mean input of each class (classes, H, W); the mean output, one (classes, h, w) a transformer, of several
        channels their maximum; what `pose` returns, one a transformer.
    """
    before: Tensor | None = None
    after: list[Tensor] = []
    counts = torch.zeros(classes)
    thetas: list[Tensor] = []
    for images, labels, *_ in batches:
        _, aux = model(images)
        labels = labels.cpu()
        one_hot = torch.nn.functional.one_hot(labels, classes).float()  # (B, classes)
        counts += one_hot.sum(0)
        warped = aux["warped"].float().amax(2).cpu()  # (B, K, h, w)
        sums = torch.einsum("bc,bhw->chw", one_hot, images.float().amax(1).cpu())
        sums_after = [torch.einsum("bc,bhw->chw", one_hot, warped[:, k]) for k in range(warped.shape[1])]
        before = sums if before is None else before + sums
        after = [a + b for a, b in zip(after, sums_after, strict=True)] if after else sums_after
        thetas.append(aux["theta"].float().cpu())
    assert before is not None
    theta = torch.cat(thetas)  # (N, K, num_params)
    poses = [pose(transform, theta[:, k]) for k, transform in enumerate(transforms_of(model))]
    scale = counts.clamp(min=1)[:, None, None]
    return before / scale, [a / scale for a in after], poses


def undistorted_means(data: Any) -> Tensor:
    """The mean of each class of the test digits before they are distorted, (classes, H, W)."""
    images, labels = data.digits.test_images, data.digits.test_labels
    one_hot = torch.nn.functional.one_hot(labels, data.num_classes).float()
    sums = (one_hot.T @ (images.flatten(1).float() / 255)).unflatten(1, images.shape[-2:])
    return sums / one_hot.sum(0).clamp(min=1)[:, None, None]
