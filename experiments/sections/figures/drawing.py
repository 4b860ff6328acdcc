"""What all pictures are drawn with: images, the outlines of windows, predictions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor, nn

from stn import Transform

# Orange, turquoise, violet, apricot: one a parallel transformer, in turn. On dark images, and apart from each other for
# colour-blind readers too (tests/experiments/report/test_pictures.py measures it).
COLOURS = ("#e67300", "#00cccc", "#a98cff", "#ffc68c")
WRONG, RED = "\N{BALLOT X}", "#a4161a"  # before a predicted class that is wrong, and its colour
MARGIN = 0.25  # around inputs with windows, which may be larger than the image; a share of its side
THIN, THICK = 1.4, 2.8  # points, of a window's edges and of its upper one
EDGE = 0.5  # points, of black around a window's lines: light ones would not be seen on a light margin
NAME = 20  # characters of an image's name
LINES = 25  # points along a drawn line: straight lines of the output are curves in the input of a spline


def outline(transform: Transform, theta: Tensor, side: Sequence[int]) -> list[np.ndarray]:
    """The border of a transformer's output, drawn in its input; of a spline, the lattice of its control points.

    Args:
        transform: the family.
        theta: (num_params,).
        side: (H, W) of the input, in pixels.

    Returns:
        Lines, each (LINES, 2): (x, y) in pixels in the frame of imshow, where pixel centres are whole numbers. The
        first is the output's upper edge.
    """
    lines = lattice(transform)
    mapped = transform.map_points(theta[None].float(), lines.flatten(0, 1))[0].reshape(lines.shape)
    size = torch.tensor([side[1], side[0]], dtype=torch.float32)
    return list(((mapped + 1) * size / 2 - 0.5).numpy())


def lattice(transform: Transform) -> Tensor:
    """The lines of `outline` in a transformer's output.

    Args:
        transform: the family.

    Returns:
        (lines, LINES, 2), (x, y) from -1 to 1 between the outer edges; horizontal lines from the top, then vertical
        ones from the left.
    """
    rows, columns = getattr(transform, "shape", (2, 2))
    t = torch.linspace(-1, 1, LINES)
    lines = [torch.stack([t, torch.full_like(t, float(y))], 1) for y in torch.linspace(-1, 1, rows)]
    lines += [torch.stack([torch.full_like(t, float(x)), t], 1) for x in torch.linspace(-1, 1, columns)]
    return torch.stack(lines)


def draw_outline(axes: Axes, transform: Transform, theta: Tensor, side: Sequence[int], colour: str) -> None:
    """Draws `outline` on an image; the output's upper edge is thicker and shows which way is up."""
    for i, line in enumerate(outline(transform, theta, side)):
        width = THICK if i == 0 else THIN
        edge = [Stroke(linewidth=width + 2 * EDGE, foreground="black"), Normal()]
        look: dict[str, Any] = {
            "color": colour,
            "linewidth": width,
            "solid_capstyle": "round",
            "path_effects": edge,
        }
        axes.plot(line[:, 0], line[:, 1], **look)


def window_handles(transforms: Sequence[Transform], *, framed: bool = False) -> list[Line2D]:
    """The legend of `draw_outline`.

    Args:
        transforms: one a transformer; empty for no legend.
        framed: whether the outputs have frames in the colours of their windows.
    """
    if not transforms:
        return []
    lattice = hasattr(transforms[0], "shape")
    what = "grid of the window" if lattice else "window"
    shown = ", frame of its output" if framed else ""
    several = len(transforms) > 1
    names = [f"transformer {k + 1}" if several else "the transformer" for k in range(len(transforms))]
    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], label=f"{what} of {name}{shown}")
        for k, name in enumerate(names)
    ]
    colour = COLOURS[0] if len(transforms) == 1 else "0.5"
    return [
        *handles,
        Line2D([], [], color=colour, linewidth=2 * THICK, label="thick edge: top of the window"),
    ]


def frame(axes: Axes, colour: str) -> None:
    """Frames an image."""
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.5)


def show_prediction(
    axes: Axes, predicted: str, true: str | None, *, size: int = 11, separator: str = " "
) -> None:
    """Writes a predicted class below an image; a wrong one in red, after `WRONG`, and with the true class."""
    right = true is None or predicted == true
    text = predicted if right else f"{WRONG} {predicted}{separator}(is {true})"
    axes.set_xlabel(text, color="black" if right else RED, fontsize=size)


def predictions_note(known: bool) -> str:
    """What `show_prediction` writes, for the note of a figure."""
    told = f"; {WRONG} a wrong one, with the true class" if known else ""
    return f"Below: the predicted class{told}."


def show_names(row: Iterable[Axes], names: Sequence[str], *, size: float = 7) -> None:
    """Writes the name of each image above it, the end of a long one, below a header that is there."""
    for axes, name in zip(row, names, strict=False):
        short = name if len(name) <= NAME else f"...{name[3 - NAME :]}"
        axes.set_title("\n".join(filter(None, (axes.get_title(), short))), fontsize=size)


def apply(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Transform]]:
    """The predictions of a network, on the CPU.

    Args:
        model: a classifier in eval mode.
        images: (N, C, H, W), or volumes (N, C, D, H, W), in [0, 1].

    Returns:
        The predicted classes (N,); `theta` and `warped`, where the network has transformers; `transforms_of` it.
    """
    logits, aux = model(images.to(next(model.parameters()).device))
    shown = {key: value.float().cpu() for key, value in aux.items() if key in ("theta", "warped")}
    return logits.argmax(1).cpu(), shown, transforms_of(model)


def transforms_of(model: nn.Module) -> list[Transform]:
    """The transform of each transformer of a network; empty for a network without any."""
    parallel = getattr(model, "transformers", None)
    return [] if parallel is None else [parallel.transform] * parallel.count


def transformer_names(count: int) -> list[str]:
    """What the outputs of transformers are called beside a picture."""
    return ["output"] if count == 1 else [f"output {k + 1}" for k in range(count)]


def draw_box(axes: Axes, box: Tensor, *, colour: str, style: str) -> Line2D:
    """Draws a box on an image.

    Args:
        axes: where.
        box: (4,), left, top, right, bottom in pixels, where pixel edges are whole numbers.
        colour, style: of its line.

    Returns:
        The line.
    """
    left, top, right, bottom = (float(edge) - 0.5 for edge in box)
    corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    return axes.plot(*corners, style, color=colour, linewidth=1.3)[0]
