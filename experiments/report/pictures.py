"""Pictures of any run: a training batch, the learning curves, the confusion matrix. Imports matplotlib: slow."""

import csv
import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from experiments.engine.classes import CONFUSION
from experiments.report import details
from experiments.report.subject import Subject

# Colours of lines on white, of Okabe and Ito (2008). tests/experiments/report/test_pictures.py measures how far apart
# they are for colour-blind readers; a further line gets another style as well.
LINES = ("#0072b2", "#d55e00", "#56b4e9", "#cc79a7", "#e69f00", "#000000")
STYLES = ("-", "--", "-.", ":")
OUTSIDE = "0.87"  # colour of the margin around an image
SHOWN = 32  # images of a batch
NUMBERED, NAMED = 25, 60  # classes up to which a matrix has numbers, and names


def show(axes: Axes, image: Tensor, *, margin: float = 0) -> None:
    """Shows an image without ticks, cut to its frame, or to a margin around it.

    Args:
        axes: where.
        image: (C, H, W) in [0, 1]: three channels in colour; of any other number, their maximum in grey.
        margin: that is left around the image, in light grey, as a share of each side: room for lines that leave it.
    """
    channels, height, width = image.shape
    picture = image.permute(1, 2, 0) if channels == 3 else image.amax(0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    x, y = margin * width + 0.5, margin * height + 0.5
    axes.set(xlim=(-x, width - 1 + x), ylim=(height - 1 + y, -y), facecolor=OUTSIDE)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def line(k: int) -> dict[str, Any]:
    """Colour and style of the k-th line of a graph."""
    return {"color": LINES[k % len(LINES)], "linestyle": STYLES[k % len(STYLES)]}


def head(
    figure: Figure, title: str, *, note: str = "", handles: Sequence[Artist] = (), size: float = 11
) -> None:
    """Writes a title above a figure, and below it a legend and a note, in as many lines as they take.

    Args:
        figure: with the layout "constrained", which makes room.
        title: a sentence that says what is shown.
        note: what else a reader needs: how the images were chosen, what marks mean.
        handles: with labels, for the legend.
        size: of the title, points.
    """
    figure.suptitle(_wrapped(figure, title, size), fontsize=size)
    if not (note or handles):
        return
    legend = figure.legend(
        handles=list(handles),
        title=_wrapped(figure, note, 8.5),
        title_fontsize=8.5,
        fontsize=8.5,
        loc="outside lower center",
        ncols=_columns(handles, figure.get_figwidth()),
        frameon=False,
    )
    legend.get_title().set(color="0.3", multialignment="center")


def _columns(handles: Sequence[Artist], width: float) -> int:
    """How many columns of a legend fit, in inches."""
    each = [0.7 + 0.064 * len(str(handle.get_label())) for handle in handles]
    if sum(each) <= width:
        return max(1, len(each))
    return max(1, int(width / max(each)))


def _wrapped(figure: Figure, text: str, size: float) -> str:
    """A text in as few lines as fit, of about equal length."""
    across = int(125 * figure.get_figwidth() / size)  # characters of a line
    count = len(textwrap.wrap(text, across))
    while across > 20 and len(textwrap.wrap(text, across - 1)) == count:
        across -= 1
    return "\n".join(textwrap.wrap(text, across))


def shorten(figure: Figure) -> None:
    """Makes a figure as low as its grid of images allows, which its layout would surround with empty space.

    Args:
        figure: a grid of square images with the layout "constrained", complete.
    """
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    rows: dict[int, float] = {}  # row of the grid -> what its images leave empty, inches
    for axes in figure.axes:
        place, box = axes.get_subplotspec(), axes.get_position(original=True)
        if place is not None:
            row, empty = place.rowspan.start, height * box.height - width * box.width
            rows[row] = min(rows.get(row, empty), empty)
    figure.set_figheight(height - max(sum(rows.values()), 0))


def save(figure: Figure, path: Path, *, dpi: int = 130) -> Path:
    """Writes a figure without the version of the software, so that equal pictures are equal files."""
    figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})
    return path


def training_batch(
    images: Tensor, labels: Tensor, names: Sequence[str], path: Path, subject: Subject
) -> Path:
    """The first images of a training batch as the network gets them, with the names of their classes.

    Args:
        images: (B, C, H, W) in [0, 1]; of volumes (B, C, D, H, W), the mean along the depth.
        labels: (B,).
        names: of the classes; empty for images without.
        path: the picture, which is written.
        subject: the run that is trained on them.

    Returns:
        The path.
    """
    flat = images[:SHOWN].float().cpu()
    if flat.ndim == 5:
        flat = flat.mean(2)
        flat = flat / flat.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    columns = min(8, len(flat))
    rows = math.ceil(len(flat) / columns)
    figure = Figure(figsize=(1.25 * columns, 1.45 * rows + 0.5), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in every[len(flat) :]:
        axes.set_axis_off()
    for axes, image, label in zip(every, flat, labels[:SHOWN].cpu(), strict=False):
        show(axes, image)
        if names:
            axes.set_xlabel(_short(names[int(label)]), fontsize=8)
    note = "Below each: its class. " if names else ""
    note += "Of a volume: the mean along its depth." if images.ndim == 5 else ""
    sees = f"{subject.network} sees these {subject.data} in training: {len(flat)} of a batch of {len(images)}"
    head(figure, sees, note=note, size=10)
    return save(figure, path, dpi=100)


def from_files(folder: Path, subject: Subject) -> dict[str, Path]:
    """Draws `curves` and, of a classification, `confusion`, from what a finished run has written.

    Args:
        folder: the run directory.
        subject: the run.

    Returns:
        Name -> path.
    """
    drawn = {"curves": _curves(folder, subject), "confusion": _confusion(folder, subject)}
    return {name: path for name, path in drawn.items() if path is not None}


def _curves(folder: Path, subject: Subject) -> Path | None:
    """Loss and error over the steps, in training and, where there is some, in validation."""
    logged = details.curves(folder / "result.json")
    panels = {ending: shown for ending in details.DRAWN if (shown := details.drawn(logged, ending))}
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (ending, shown) in zip(row, panels.items(), strict=True):
        for k, (label, curve) in enumerate(shown.items()):
            axes.plot(list(curve), list(curve.values()), label=label, linewidth=1.4, **line(k))
        axes.set(xlabel="training steps", ylabel=details.DRAWN[ending])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    title = subject.title(f"{subject.network} learns from {subject.data}")
    head(figure, title, note=subject.training, size=10)
    return save(figure, folder / "curves.png", dpi=100)


def _confusion(folder: Path, subject: Subject) -> Path | None:
    """The share of each class that was taken for which, as colours, and the accuracy of each class beside."""
    path = folder / CONFUSION
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        _, *lines = csv.reader(file)
    names = [name for name, *_ in lines]
    counts = torch.tensor([[int(count) for count in taken] for _, _, _, *taken in lines])
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(0.32 * len(names), 3.0), 12.0)
    figure = Figure(figsize=(side + 2.6, side + 2.2), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(100 * shares.numpy(), cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, label="share of the true class, %")
    axes.set(xlabel="predicted class", ylabel="true class")
    size = 7 if len(names) <= NUMBERED else 5
    if len(names) <= NAMED:
        places = range(len(names))
        accuracies = [f"{accuracy} %" if accuracy else "no image" for _, _, accuracy, *_ in lines]
        axes.set_xticks(places, [_short(name) for name in names], rotation=90, fontsize=size)
        axes.set_yticks(places, [_short(name) for name in names], fontsize=size)
        right = axes.secondary_yaxis("right")
        right.set_yticks(places, accuracies, fontsize=size)
        right.set_ylabel("accuracy of the class", fontsize=size + 1)
        right.tick_params(length=0)
    if len(names) <= NUMBERED:
        for (i, j), count in zip(itertools.product(places, places), counts.flatten().tolist(), strict=True):
            colour = "white" if shares[i, j] > 0.5 else "black"
            if count:
                axes.text(j, i, str(count), ha="center", va="center", fontsize=size, color=colour)
    title = subject.title(f"{subject.network} takes some classes of {subject.data} for others")
    head(figure, title, note=subject.training, size=10)
    return save(figure, folder / "confusion.png", dpi=100)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}\N{HORIZONTAL ELLIPSIS}"
