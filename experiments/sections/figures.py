"""Pictures of what spatial transformers do, for any transform and any number of transformers. Imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from stn import Transform
from stn.datasets.images import ImageDataset

COLOURS = ("#ff9f1c", "#2ec4b6", "#e71d36", "#9b5de5")  # one per parallel transformer
LINES = 25  # points along a drawn line, so that a bent one looks bent


def outline(transform: Transform, theta: Tensor, side: tuple[int, int]) -> list[np.ndarray]:
    """Where the output's border (of a spline: the lattice of its control points) lies in the input.

    theta: (num_params,).   side: (H, W) of the input, pixels.   returns: lines, each (LINES, 2) in pixels, (x, y), for
    imshow's frame; the first is the output's upper edge.
    """
    rows, columns = getattr(transform, "shape", (2, 2))
    t = torch.linspace(-1, 1, LINES)
    lines = [torch.stack([t, torch.full_like(t, float(y))], 1) for y in torch.linspace(-1, 1, rows)]
    lines += [torch.stack([torch.full_like(t, float(x)), t], 1) for x in torch.linspace(-1, 1, columns)]
    mapped = transform.map_points(theta[None].float(), torch.cat(lines))[0].reshape(len(lines), LINES, 2)
    size = torch.tensor([side[1], side[0]], dtype=torch.float32)
    return list(((mapped + 1) * size / 2 - 0.5).numpy())


def pose(transform: Transform, theta: Tensor) -> dict[str, Tensor]:
    """What a warp does near the output's centre, whatever its family: its linear part there, and where it looks.

    theta: (B, num_params).   returns, each (B,): `angle` of the window in the input, degrees, clockwise as displayed;
    `scale`, the window's size as a share of the input's; `x`, `y` of its centre, normalised.
    """
    step = 1e-2
    points = torch.tensor([[0.0, 0], [step, 0], [-step, 0], [0, step], [0, -step]])
    centre, right, left, down, up = transform.map_points(theta.float(), points).unbind(1)
    along_x, along_y = (right - left) / (2 * step), (down - up) / (2 * step)  # columns of the Jacobian
    determinant = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    angle = torch.atan2(along_x[:, 1] - along_y[:, 0], along_x[:, 0] + along_y[:, 1])
    return {
        "angle": torch.rad2deg(angle),
        "scale": determinant.abs().sqrt(),
        "x": centre[:, 0],
        "y": centre[:, 1],
    }


def draw_outline(axes: Axes, transform: Transform, theta: Tensor, side: tuple[int, int], colour: str) -> None:
    """The warp's outline on an image; the output's upper edge thicker, so that one sees which way is up."""
    for i, line in enumerate(outline(transform, theta, side)):
        axes.plot(
            line[:, 0], line[:, 1], color=colour, linewidth=2.4 if i == 0 else 1.0, solid_capstyle="round"
        )


def show(axes: Axes, image: Tensor) -> None:
    """image: (C, H, W) in [0, 1]; one channel in grey, three in colour, others as their maximum. Cut to its frame."""
    channels, height, width = image.shape
    picture = image.permute(1, 2, 0) if channels == 3 else image.amax(0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _transforms(model: nn.Module) -> list[Transform]:
    """The transform of each parallel transformer; empty for a network without any."""
    parallel = getattr(model, "transformers", None)
    return [] if parallel is None else [parallel.transform] * parallel.count


@torch.inference_mode()
def examples(model: nn.Module, images: Tensor, labels: Tensor, path: Path, *, title: str) -> Path:
    """The layout of the paper's Table 1: input with the predicted outline, warped output, predicted class.

    images: (N, C, H, W) in [0, 1].   labels: (N,).   A network without transformers shows inputs and classes only.
    """
    device = next(model.parameters()).device
    logits, aux = model(images.to(device))
    predicted = logits.argmax(1).cpu()
    transforms = _transforms(model)
    count, rows = len(images), 1 + len(transforms)
    figure = Figure(figsize=(1.05 * count + 0.9, 1.2 * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        show(axes[0, i], images[i])
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(axes[0, i], transform, aux["theta"][i, k].cpu(), images.shape[-2:], colour)
            show(axes[1 + k, i], aux["warped"][i, k].float().cpu())
        right = predicted[i] == labels[i]
        text = f"{predicted[i]}" if right else f"{predicted[i]} (is {labels[i]})"
        axes[-1, i].set_xlabel(text, color="black" if right else "#c1121f", fontsize=11)
    axes[0, 0].set_ylabel("input", fontsize=10)
    for k in range(len(transforms)):
        axes[1 + k, 0].set_ylabel("ST output" if len(transforms) == 1 else f"ST {k + 1}", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


@torch.inference_mode()
def pairs(model: nn.Module, images: Tensor, labels: Tensor, path: Path, *, title: str) -> Path:
    """The layout of the paper's appendix A.1: each input channel with every transformer's outline, then what each
    transformer makes of each channel, and the predicted class.

    images: (N, C, H, W) in [0, 1].   labels: (N,).
    """
    logits, aux = model(images.to(next(model.parameters()).device))
    predicted = logits.argmax(1).cpu()
    transforms = _transforms(model)
    count, channels = images.shape[:2]
    rows = channels * (1 + len(transforms))
    figure = Figure(figsize=(1.15 * count + 1.2, 1.15 * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        for c in range(channels):
            show(axes[c, i], images[i, c : c + 1])
            axes[c, 0].set_ylabel(f"channel {c + 1}", fontsize=10)
            for k, transform in enumerate(transforms):
                colour, theta = COLOURS[k % len(COLOURS)], aux["theta"][i, k].cpu()
                draw_outline(axes[c, i], transform, theta, images.shape[-2:], colour)
                row = channels * (1 + k) + c
                show(axes[row, i], aux["warped"][i, k, c : c + 1].float().cpu())
                axes[row, 0].set_ylabel(f"ST {k + 1}, ch. {c + 1}", fontsize=10, color=colour)
        right = predicted[i] == labels[i]
        text = f"{predicted[i]}" if right else f"{predicted[i]} (is {labels[i]})"
        axes[-1, i].set_xlabel(text, color="black" if right else "#c1121f", fontsize=11)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def class_means(before: Tensor, after: Sequence[Tensor], path: Path, *, title: str) -> Path:
    """Mean image of each class, as it comes in and as each transformer hands it on.

    before: (classes, H, W).   after: one (classes, h, w) a transformer.
    """
    rows = [before, *after]
    names = ["input", *(["ST output"] if len(after) == 1 else [f"ST {k + 1}" for k in range(len(after))])]
    figure = Figure(figsize=(1.05 * len(before) + 0.9, 1.15 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), len(before), squeeze=False)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            show(axes[r, c], (image / image.max().clamp(min=1e-6))[None])
        axes[r, 0].set_ylabel(names[r], fontsize=10)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def pose_histograms(poses: Sequence[dict[str, Tensor]], path: Path, *, title: str) -> Path:
    """Angle, scale and position of the predicted windows over a set, one colour a transformer."""
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
    return _save(figure, path)


@torch.inference_mode()
def projections(model: nn.Module, volumes: Tensor, labels: Tensor, path: Path, *, title: str) -> Path:
    """Volumes seen along z (front), y (above) and x (side), as they come and as each transformer hands them on.

    volumes: (N, 1, D, H, W) in [0, 1].   labels: (N,).   Each picture is the mean along its line of sight,
    scaled to its own maximum.
    """
    logits, aux = model(volumes.to(next(model.parameters()).device))
    predicted = logits.argmax(1).cpu()
    sets = [("input", volumes)]
    for k in range(len(_transforms(model))):
        sets.append(
            (
                "ST output" if model.transformers.count == 1 else f"ST {k + 1}",
                aux["warped"][:, k].float().cpu(),
            )
        )
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
        right = predicted[i] == labels[i]
        text = f"{predicted[i]}" if right else f"{predicted[i]} (is {labels[i]})"
        axes[-1, i].set_xlabel(text, color="black" if right else "#c1121f", fontsize=11)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def windows_over_steps(
    images: Tensor, truth: Tensor, windows: dict[int, Tensor], path: Path, *, title: str
) -> Path:
    """The layout of appendix A.2's figure: a row a step, with the true boxes dashed and the predicted ones solid.

    images: (N, C, H, W) in [0, 1].   truth: (N, 4).   windows: step -> (N, 4); left, top, right, bottom in pixels.
    """
    count = len(images)
    figure = Figure(figsize=(1.05 * count + 0.9, 1.1 * len(windows) + 0.6), layout="constrained")
    axes = figure.subplots(len(windows), count, squeeze=False)
    for row, (step, boxes) in zip(axes, windows.items(), strict=True):
        for i in range(count):
            show(row[i], images[i])
            _draw_box(row[i], truth[i], colour="white", style=":")
            _draw_box(row[i], boxes[i], colour=COLOURS[0], style="-")
        row[0].set_ylabel(f"step {step}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def windows_animation(
    images: Tensor, truth: Tensor, windows: dict[int, Tensor], path: Path, *, title: str
) -> Path:
    """The same as an animation, a frame a step.   path: ending in .gif.   Arguments as of `windows_over_steps`."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    count = len(images)
    figure = Figure(figsize=(1.05 * count + 0.3, 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for i in range(count):
        show(axes[i], images[i])
        _draw_box(axes[i], truth[i], colour="white", style=":")
    drawn: list[Any] = []
    frames = list(windows.items())

    def draw(k: int) -> list[Any]:
        step, boxes = frames[k]
        while drawn:
            drawn.pop().remove()
        drawn.extend(_draw_box(axes[i], boxes[i], colour=COLOURS[0], style="-") for i in range(count))
        figure.suptitle(f"{title}, step {step}", fontsize=10)
        return drawn

    animation = FuncAnimation(figure, draw, frames=[*range(len(frames)), *[len(frames) - 1] * 4])
    animation.save(path, writer=PillowWriter(fps=4), dpi=80)
    return path


def _draw_box(axes: Axes, box: Tensor, *, colour: str, style: str) -> Any:
    """box: left, top, right, bottom in pixels between pixel edges; imshow's pixel centres are whole numbers."""
    left, top, right, bottom = (float(edge) - 0.5 for edge in box)
    corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    return axes.plot(*corners, style, color=colour, linewidth=1.3)[0]


@torch.inference_mode()
def collect(
    model: nn.Module, batches: Any, classes: int
) -> tuple[Tensor, list[Tensor], list[dict[str, Tensor]]]:
    """One pass over a set: class means before (classes, H, W) and after each transformer, and the poses."""
    before: Tensor | None = None
    after: list[Tensor] = []
    counts = torch.zeros(classes)
    thetas: list[Tensor] = []
    for images, labels in batches:
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
    poses = [pose(transform, theta[:, k]) for k, transform in enumerate(_transforms(model))]
    scale = counts.clamp(min=1)[:, None, None]
    return before / scale, [a / scale for a in after], poses


PHOTOGRAPHS = 8


def some_photographs(model: nn.Module, data: ImageDataset, folder: Path) -> dict[str, Path]:
    """`photographs` of eight test images, evenly spread over the set; written into `folder`.

    returns: name -> path.
    """
    model.eval()
    what = f"{folder.parent.parent.name}, {folder.parent.name}, {folder.name}"
    rows = torch.linspace(0, len(data.test) - 1, min(PHOTOGRAPHS, len(data.test))).long().tolist()
    images = torch.from_numpy(data.test.pixels(rows)).permute(0, 3, 1, 2).float() / 255
    labels, path = data.test.labels[rows], folder / "photographs.png"
    return {"photographs": photographs(model, images, labels, data.classes, path, title=what)}


@torch.inference_mode()
def photographs(
    model: nn.Module, images: Tensor, labels: Tensor, names: Sequence[str], path: Path, *, title: str
) -> Path:
    """The layout of the paper's Table 3: photographs with one coloured outline a transformer, its crops beside, and
    below the class that is told, and the true one where it is another.

    images: (N, 3, H, W) in [0, 1].   labels: (N,).   names: of the classes.
    """
    logits, aux = model(images.to(next(model.parameters()).device))
    predicted = logits.argmax(1).cpu()
    transforms = _transforms(model)
    each = 1 + len(transforms)
    pairs = 2 if len(images) % 2 == 0 else 1  # photographs in a row
    rows = len(images) // pairs
    figure = Figure(figsize=(2.1 * each * pairs, 2.35 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, each * pairs, squeeze=False)
    for i in range(len(images)):
        line = axes[i // pairs, (i % pairs) * each :]
        show(line[0], images[i])
        for k, transform in enumerate(transforms):
            colour = COLOURS[k % len(COLOURS)]
            draw_outline(line[0], transform, aux["theta"][i, k].cpu(), images.shape[-2:], colour)
            show(line[1 + k], aux["warped"][i, k].float().cpu())
            for spine in line[1 + k].spines.values():
                spine.set(visible=True, color=colour, linewidth=2.5)
        right = predicted[i] == labels[i]
        text = names[predicted[i]] if right else f"{names[predicted[i]]}\n(is {names[labels[i]]})"
        line[0].set_xlabel(text, color="black" if right else "#c1121f", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path, dpi=min(80, 300 // each))  # photographs do not compress


def _save(figure: Figure, path: Path, *, dpi: int = 130) -> Path:
    figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})
    return path
