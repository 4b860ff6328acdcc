"""Pictures of what a classifier's transformers do to its inputs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.report.pictures import head, save, show
from experiments.sections.figures.drawing import (
    COLOURS,
    apply,
    draw_outline,
    show_names,
    show_prediction,
    transformer_names,
    transforms_of,
)
from stn.transforms import pose


@torch.inference_mode()
def examples(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    path: Path,
    *,
    title: str,
    files: Sequence[str] = (),
) -> Path:
    """Inputs with the outline of each window, warped outputs, predicted classes, in the layout of the paper's Table 1.

    Args:
        model: a classifier in eval mode; without transformers, inputs and classes are shown.
        images: (N, C, H, W) in [0, 1].
        labels: (N,); None where they are not known.
        path: the picture, which is written.
        title: above it.
        files: the name of each image, to be written above it; empty: none.

    Returns:
        The path.
    """
    predicted, aux, transforms = apply(model, images)
    true = None if labels is None else labels.tolist()
    count, rows = len(images), 1 + len(transforms)
    figure = Figure(figsize=(1.05 * count + 0.9, 1.2 * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        show(axes[0, i], images[i])
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(axes[0, i], transform, aux["theta"][i, k], images.shape[-2:], colour)
            show(axes[1 + k, i], aux["warped"][i, k])
        show_prediction(axes[-1, i], str(int(predicted[i])), None if true is None else str(true[i]))
    show_names(axes[0], files)
    for row, name in zip(axes, ["input", *transformer_names(len(transforms))], strict=True):
        row[0].set_ylabel(name, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


@torch.inference_mode()
def pairs(model: nn.Module, images: Tensor, labels: Tensor, path: Path, *, title: str) -> Path:
    """Each input channel with the outlines of all windows, then each transformer's output of each channel.

    It is the layout of the paper's appendix A.1. Arguments as of `examples`.
    """
    predicted, aux, transforms = apply(model, images)
    count, channels = images.shape[:2]
    rows = channels * (1 + len(transforms))
    figure = Figure(figsize=(1.15 * count + 1.2, 1.15 * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        for c in range(channels):
            show(axes[c, i], images[i, c : c + 1])
            axes[c, 0].set_ylabel(f"channel {c + 1}", fontsize=10)
            for k, transform in enumerate(transforms):
                colour, theta = COLOURS[k % len(COLOURS)], aux["theta"][i, k]
                draw_outline(axes[c, i], transform, theta, images.shape[-2:], colour)
                row = channels * (1 + k) + c
                show(axes[row, i], aux["warped"][i, k, c : c + 1])
                axes[row, 0].set_ylabel(f"ST {k + 1}, ch. {c + 1}", fontsize=10, color=colour)
        show_prediction(axes[-1, i], str(int(predicted[i])), str(int(labels[i])))
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def class_means(before: Tensor, after: Sequence[Tensor], path: Path, *, title: str) -> Path:
    """The mean input and the mean output of each transformer, for each class.

    Args:
        before: (classes, H, W).
        after: one (classes, h, w) a transformer.
        path: the picture, which is written.
        title: above it.

    Returns:
        The path.
    """
    rows = [before, *after]
    names = ["input", *transformer_names(len(after))]
    figure = Figure(figsize=(1.05 * len(before) + 0.9, 1.15 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), len(before), squeeze=False)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            show(axes[r, c], (image / image.max().clamp(min=1e-6))[None])
        axes[r, 0].set_ylabel(names[r], fontsize=10)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def pose_histograms(poses: Sequence[dict[str, Tensor]], path: Path, *, title: str) -> Path:
    """Histograms of angle, size and place of the predicted windows over a set, one colour a transformer.

    Args:
        poses: what `pose` returns, one a transformer.
        path: the picture, which is written.
        title: above it.

    Returns:
        The path.
    """
    labels = {
        "angle": "angle of the window, degrees",
        "scale": "size of the window / input",
        "x": "centre x, normalised",
        "y": "centre y, normalised",
    }
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 4), labels.items(), strict=True):
        for k, values in enumerate(poses):
            alpha = 0.85 if len(poses) == 1 else 0.6
            axes.hist(values[key].numpy(), bins=60, color=COLOURS[k % len(COLOURS)], alpha=alpha)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        mean, std = (float(f(torch.cat([p[key] for p in poses]))) for f in (torch.mean, torch.std))
        axes.set_title(f"mean {mean:.2f}, std {std:.2f}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


@torch.inference_mode()
def projections(model: nn.Module, volumes: Tensor, labels: Tensor, path: Path, *, title: str) -> Path:
    """Input volumes and the outputs of each transformer, seen along z (front), y (above) and x (side).

    Each picture is the mean along its line of sight, scaled to its own maximum.

    Args:
        model: a classifier in eval mode.
        volumes: (N, 1, D, H, W) in [0, 1].
        labels: (N,).
        path: the picture, which is written.
        title: above it.

    Returns:
        The path.
    """
    predicted, aux, transforms = apply(model, volumes)
    sets = [("input", volumes)]
    sets += [(name, aux["warped"][:, k]) for k, name in enumerate(transformer_names(len(transforms)))]
    views = (("front", 2), ("above", 3), ("side", 4))
    count = len(volumes)
    figure = Figure(figsize=(1.05 * count + 1.2, 1.1 * len(views) * len(sets) + 0.75), layout="constrained")
    axes = figure.subplots(len(views) * len(sets), count, squeeze=False)
    for s, (name, solids) in enumerate(sets):
        for v, (view, axis) in enumerate(views):
            row = axes[s * len(views) + v]
            for i, picture in enumerate(solids.mean(axis)):
                show(row[i], picture / picture.max().clamp(min=1e-6))
            row[0].set_ylabel(f"{name}\n{view}", fontsize=9)
    for i in range(count):
        show_prediction(axes[-1, i], str(int(predicted[i])), str(int(labels[i])))
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


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


@torch.inference_mode()
def crops(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    names: Sequence[str],
    path: Path,
    *,
    title: str,
    files: Sequence[str] = (),
) -> Path:
    """Images with one coloured outline a transformer, the crops beside, in the layout of the paper's Table 3.

    Arguments as of `examples`; the images are (N, 3, H, W), and `names` those of the classes.
    """
    predicted, aux, transforms = apply(model, images)
    each = 1 + len(transforms)
    pairs = 2 if len(images) % 2 == 0 else 1  # images in a row
    rows = len(images) // pairs
    true = None if labels is None else labels.tolist()
    figure = Figure(figsize=(2.1 * each * pairs, 2.35 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, each * pairs, squeeze=False)
    for i in range(len(images)):
        line = axes[i // pairs, (i % pairs) * each :]
        show(line[0], images[i])
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(line[0], transform, aux["theta"][i, k], images.shape[-2:], colour)
            show(line[1 + k], aux["warped"][i, k])
            for spine in line[1 + k].spines.values():
                spine.set(visible=True, color=colour, linewidth=2.5)
        known = None if true is None else names[true[i]]
        show_prediction(line[0], names[int(predicted[i])], known, size=9, separator="\n")
        show_names(line[:1], files[i : i + 1])
    head(figure, title, size=11)
    return save(figure, path, dpi=min(80, 300 // each))  # PNG compresses camera images badly


def example_crops(model: nn.Module, data: Any, folder: Path, title: str, count: int = 8) -> dict[str, Path]:
    """`crops` of test images, evenly spread over the test set.

    Args:
        model: a classifier in eval mode.
        data: a data set of image files, with `test` and the names of the `classes`.
        folder: where crops.png is written.
        title: above it.
        count: how many images.

    Returns:
        Name -> path.
    """
    rows = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).long().tolist()
    images = torch.from_numpy(data.test.pixels(rows)).permute(0, 3, 1, 2).float() / 255
    path = crops(model, images, data.test.labels[rows], data.classes, folder / "crops.png", title=title)
    return {"crops": path}


def aligned_digits(model: nn.Module, data: Any, folder: Path, title: str, count: int = 12) -> dict[str, Path]:
    """`examples`, in the layout of Table 1; with transformers also `class_means` before and after, and `poses`.

    Args:
        model: a classifier in eval mode.
        data: distorted digits.
        folder: where the pictures are written.
        title: above them.
        count: how many test digits are examples: the first of each class, then the next ones.

    Returns:
        Name -> path.
    """
    labels = data.test.labels.cpu()
    firsts = [int((labels == c).nonzero()[0]) for c in range(data.num_classes) if (labels == c).any()]
    chosen = (firsts + [i for i in range(len(labels)) if i not in firsts])[:count]
    images = data.test.images[chosen].cpu().float() / 255
    paths = {"examples": examples(model, images, labels[chosen], folder / "examples.png", title=title)}
    if hasattr(model, "transformers"):
        before, after, poses = collect(model, data.test.batches(500), data.num_classes)
        above = f"mean test image of each class before and after alignment: {title}"
        paths["class_means"] = class_means(before, after, folder / "class_means.png", title=above)
        above = f"predicted windows over the test set: {title}"
        paths["poses"] = pose_histograms(poses, folder / "poses.png", title=above)
    return paths
