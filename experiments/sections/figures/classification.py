"""Pictures of what a classifier's transformers do to single images."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.report.pictures import head, save, shorten, show
from experiments.report.subject import Subject
from experiments.sections.figures.drawing import (
    COLOURS,
    MARGIN,
    apply,
    draw_outline,
    frame,
    predictions_note,
    show_names,
    show_prediction,
    transformer_names,
    transforms_of,
    window_handles,
)
from experiments.sections.figures.whole_sets import class_means, collect, pose_histograms, undistorted_means

ACROSS = 10  # at most so many examples side by side
BATCH = 500  # test images that are computed at once
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@torch.inference_mode()
def examples(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    path: Path,
    *,
    title: str,
    note: str = "",
    files: Sequence[str] = (),
) -> Path:
    """Inputs with the outline of each window, warped outputs, predicted classes, in the layout of the paper's Table 1.

    Args:
        model: a classifier in eval mode; without transformers, inputs and classes are shown.
        images: (N, C, H, W) in [0, 1].
        labels: (N,); None where they are not known.
        path: the picture, which is written.
        title: above it.
        note: below it, before what the marks mean.
        files: the name of each image, to be written above it; empty: none.

    Returns:
        The path.
    """
    predicted, aux, transforms = apply(model, images)
    true = None if labels is None else labels.tolist()
    count, rows = len(images), 1 + len(transforms)
    blocks = math.ceil(count / ACROSS)
    across = math.ceil(count / blocks)
    size = (max(1.05 * across + 0.9, 5), (1.3 * rows + 0.2) * blocks + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows * blocks, across, squeeze=False)
    for r in range(rows):
        for c in range(count - across * (blocks - 1), across):  # places of the last block that stay empty
            axes[r - rows, c].set_axis_off()
    for i in range(count):
        column = axes[rows * (i // across) :][:rows, i % across]
        show(column[0], images[i], margin=MARGIN if transforms else 0)
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(column[0], transform, aux["theta"][i, k], images.shape[-2:], colour)
            show(column[1 + k], aux["warped"][i, k])
            frame(column[1 + k], colour)
        show_prediction(column[-1], str(int(predicted[i])), None if true is None else str(true[i]))
        show_names(column[:1], files[i : i + 1])
    names = ["input", *transformer_names(len(transforms))]
    for r, row in enumerate(axes):
        row[0].set_ylabel(names[r % rows], fontsize=10)
    note = f"{note} {predictions_note(true is not None)}".strip()
    head(figure, title, note=note, handles=window_handles(transforms, framed=True))
    shorten(figure)
    return save(figure, path)


@torch.inference_mode()
def pairs(
    model: nn.Module, images: Tensor, labels: Tensor, path: Path, *, title: str, note: str = ""
) -> Path:
    """Each input channel with the outlines of all windows, then each transformer's output of each channel.

    It is the layout of the paper's appendix A.1. Arguments as of `examples`.
    """
    predicted, aux, transforms = apply(model, images)
    count, channels = images.shape[:2]
    rows = channels * (1 + len(transforms))
    figure = Figure(figsize=(1.15 * count + 1.2, 1.15 * rows + 1.4), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        for c in range(channels):
            show(axes[c, i], images[i, c : c + 1], margin=MARGIN if transforms else 0)
            axes[c, 0].set_ylabel(f"channel {c + 1}", fontsize=10)
            for k, transform in enumerate(transforms):
                colour, theta = COLOURS[k % len(COLOURS)], aux["theta"][i, k]
                draw_outline(axes[c, i], transform, theta, images.shape[-2:], colour)
                row = channels * (1 + k) + c
                show(axes[row, i], aux["warped"][i, k, c : c + 1])
                frame(axes[row, i], colour)
                axes[row, 0].set_ylabel(f"output {k + 1},\nchannel {c + 1}", fontsize=9)
        show_prediction(axes[-1, i], str(int(predicted[i])), str(int(labels[i])))
    note = f"{note} {predictions_note(True).replace('class', 'sum')}".strip()
    head(figure, title, note=note, handles=window_handles(transforms, framed=True))
    shorten(figure)
    return save(figure, path)


@torch.inference_mode()
def projections(
    model: nn.Module, volumes: Tensor, labels: Tensor, path: Path, *, title: str, note: str = ""
) -> Path:
    """Input volumes and the outputs of each transformer, seen along z (front), y (above) and x (side).

    Each picture is the mean along its line of sight, scaled to its own maximum.

    Args:
        model: a classifier in eval mode.
        volumes: (N, 1, D, H, W) in [0, 1].
        labels: (N,).
        path: the picture, which is written.
        title: above it.
        note: below it.

    Returns:
        The path.
    """
    predicted, aux, transforms = apply(model, volumes)
    sets = [("input", volumes)]
    sets += [(name, aux["warped"][:, k]) for k, name in enumerate(transformer_names(len(transforms)))]
    views = (("front", 2), ("above", 3), ("side", 4))
    count = len(volumes)
    figure = Figure(figsize=(1.05 * count + 1.2, 1.1 * len(views) * len(sets) + 1.2), layout="constrained")
    axes = figure.subplots(len(views) * len(sets), count, squeeze=False)
    for s, (name, solids) in enumerate(sets):
        for v, (view, axis) in enumerate(views):
            row = axes[s * len(views) + v]
            for i, picture in enumerate(solids.mean(axis)):
                show(row[i], picture / picture.max().clamp(min=1e-6))
            row[0].set_ylabel(f"{name}\n{view}", fontsize=9)
    for i in range(count):
        show_prediction(axes[-1, i], str(int(predicted[i])), str(int(labels[i])))
    seen = "Seen along each axis: the mean brightness along the line of sight."
    head(figure, title, note=f"{note} {seen} {predictions_note(True)}".strip())
    return save(figure, path)


@torch.inference_mode()
def crops(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    names: Sequence[str],
    path: Path,
    *,
    title: str,
    note: str = "",
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
    columns = [
        1.4 if transforms else 1.8,
        *[1.0] * len(transforms),
    ] * pairs  # an image has a margin, and names below
    figure = Figure(figsize=(max(1.35 * sum(columns), 5), 2.6 * rows + 1.2), layout="constrained")
    axes = figure.subplots(rows, each * pairs, squeeze=False, width_ratios=columns)
    heads = ["image", *(name.replace("output", "crop") for name in transformer_names(len(transforms)))]
    for one, text in zip(axes[0], heads * pairs, strict=True):
        one.set_title(text, fontsize=9)
    for i in range(len(images)):
        line = axes[i // pairs, (i % pairs) * each :]
        show(line[0], images[i], margin=MARGIN if transforms else 0)
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(line[0], transform, aux["theta"][i, k], images.shape[-2:], colour)
            show(line[1 + k], aux["warped"][i, k])
            frame(line[1 + k], colour)
        known = None if true is None else names[true[i]]
        show_prediction(line[0], names[int(predicted[i])], known, size=9, separator="\n")
        show_names(line[:1], files[i : i + 1], size=9)
    note = f"{note} {predictions_note(true is not None)}".strip()
    head(figure, title, note=note, handles=window_handles(transforms, framed=True))
    shorten(figure)
    return save(figure, path, dpi=110)  # no more: PNG compresses camera images badly


def example_crops(
    model: nn.Module, data: Any, folder: Path, subject: Subject, count: int = 8
) -> dict[str, Path]:
    """`crops` of test images, evenly spread over the test set.

    Args:
        model: a classifier in eval mode.
        data: a data set of image files, with `test` and the names of the `classes`.
        folder: where crops.png is written.
        subject: the run.
        count: how many images.

    Returns:
        Name -> path.
    """
    rows = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).long().tolist()
    images = torch.from_numpy(data.test.pixels(rows)).permute(0, 3, 1, 2).float() / 255
    title = subject.title(f"{subject.network} on {subject.data} {_looks(model, 'image')}")
    note = subject.note(f"{len(rows)} test images, evenly spread over the test set.")
    path = folder / "crops.png"
    crops(model, images, data.test.labels[rows], data.classes, path, title=title, note=note)
    return {"crops": path}


@torch.inference_mode()
def first_wrong(
    model: nn.Module, batches: Iterable[tuple[Tensor, ...]], count: int, known: Sequence[int] = ()
) -> list[int]:
    """The first images of a set that a network misclassifies. Later batches than it takes are not computed.

    Args:
        model: a classifier in eval mode.
        batches: images (B, ...), labels (B,) and what else, on the network's device.
        count: at most so many.
        known: indices to leave out.

    Returns:
        Indices into the set, rising.
    """
    found: list[int] = []
    start = 0
    for images, labels, *_ in batches:
        wrong = (model(images)[0].argmax(1) != labels).nonzero()[:, 0].tolist()
        found += [start + i for i in wrong if start + i not in known]
        start += len(labels)
        if len(found) >= count:
            break
    return found[:count]


def right_and_wrong(
    model: nn.Module,
    test: Any,
    first: Sequence[int],
    which: str,
    kind: str,
    count: int,
    *,
    batch: int = BATCH,
) -> tuple[list[int], str]:
    """Chooses test images by a rule: given ones, then the first others that the network misclassifies.

    Args:
        model: a classifier in eval mode.
        test: the `FixedSet`.
        first: indices of the given ones.
        which: what they are, such as "the first test digit of each class".
        kind: what one image is called, such as "digit".
        count: at most so many wrong ones.
        batch: images that are computed at once.

    Returns:
        The indices, and the rule as a sentence.
    """
    wrong = first_wrong(model, test.batches(batch), count, first)
    if not wrong:
        return list(first), f"Shown: {which}; no other {kind} is misclassified."
    number = NUMBERS[len(wrong)] if len(wrong) < len(NUMBERS) else str(len(wrong))
    many = f"the first {number}" if len(wrong) == count else f"all {number}"
    if len(wrong) == 1:
        others = f"the {'first' if count == 1 else 'only'} other {kind} that is misclassified"
    else:
        others = f"{many} other {kind}s that are misclassified"
    return [*first, *wrong], f"Shown: {which}, then {others}."


def aligned_digits(
    model: nn.Module, data: Any, folder: Path, subject: Subject, wrong: int = 4
) -> dict[str, Path]:
    """`examples`, in the layout of Table 1; with transformers also `class_means` before and after, and `poses`.

    Args:
        model: a classifier in eval mode.
        data: distorted digits.
        folder: where the pictures are written.
        subject: the run.
        wrong: how many examples are misclassified digits, beside the first of each class.

    Returns:
        Name -> path.
    """
    labels = data.test.labels.cpu()
    firsts = [int((labels == c).nonzero()[0]) for c in range(data.num_classes) if (labels == c).any()]
    which = "the first test digit of each class"
    chosen, rule = right_and_wrong(model, data.test, firsts, which, "digit", wrong)
    images = data.test.images[chosen].cpu().float() / 255
    network, digits = subject.network, subject.data
    title = subject.title(f"{network} on {digits} {_looks(model, 'digit')}")
    path = folder / "examples.png"
    note = subject.note(rule)
    paths = {"examples": examples(model, images, labels[chosen], path, title=title, note=note)}
    if hasattr(model, "transformers"):
        before, after, poses = collect(model, data.test.batches(BATCH), data.num_classes)
        title = subject.title(
            f"The transformer of {network} changes the mean image of each class of {digits}"
        )
        note = f"The mean of all {len(labels):,} test digits by class, before and after the transformer."
        note = subject.note(note)
        means, path = undistorted_means(data), folder / "class_means.png"
        paths["class_means"] = class_means(before, after, path, title=title, undistorted=means, note=note)
        title = subject.title(f"{network} chooses angle, size and place of its windows on {digits}")
        note, path = subject.note(f"All {len(labels):,} test digits."), folder / "poses.png"
        paths["poses"] = pose_histograms(poses, path, title=title, applied=data.test_poses, note=note)
    return paths


def _looks(model: nn.Module, image: str) -> str:
    """What a network does with its images, for a title."""
    count = len(transforms_of(model))
    if not count:
        return f"classifies each {image} as it is"
    windows = "a window that it chooses" if count == 1 else f"{count} windows that it chooses"
    return f"looks at each {image} through {windows}"
