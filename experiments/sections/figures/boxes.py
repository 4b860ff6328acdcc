"""Pictures of boxes that a network predicts."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from experiments.report.pictures import head, save, show
from experiments.sections.figures.drawing import COLOURS, draw_box


def windows_over_steps(
    images: Tensor,
    truth: Tensor,
    windows: Mapping[int | str, Tensor],
    path: Path,
    *,
    title: str,
    note: str = "",
) -> Path:
    """The predicted boxes over training, as in the figure of appendix A.2: a row a step, true boxes dotted.

    Args:
        images: (N, C, H, W) in [0, 1].
        truth: (N, 4), the true boxes: left, top, right, bottom in pixels.
        windows: step -> (N, 4), the predicted boxes.
        path: the picture, which is written.
        title: above it.
        note: below it.

    Returns:
        The path.
    """
    count = len(images)
    figure = Figure(figsize=(1.05 * count + 0.9, 1.1 * len(windows) + 1.2), layout="constrained")
    axes = figure.subplots(len(windows), count, squeeze=False)
    for row, (step, boxes) in zip(axes, windows.items(), strict=True):
        for i in range(count):
            show(row[i], images[i])
            draw_box(row[i], truth[i], colour="white", style=":")
            draw_box(row[i], boxes[i], colour=COLOURS[0], style="-")
        row[0].set_ylabel(f"step {step}", fontsize=9)
    head(figure, title, note=note, handles=_handles())
    _darken(figure)
    return save(figure, path)


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=COLOURS[0], label="predicted window"),
        Line2D([], [], color="white", linestyle=":", label="true box of the digit, never shown in training"),
    ]


def _darken(figure: Figure) -> None:
    """Puts the legend on black, as the images are: its white line could not be seen on white."""
    (legend,) = figure.legends
    legend.set_frame_on(True)
    legend.get_frame().set(facecolor="black", edgecolor="black", alpha=1)
    for text in [legend.get_title(), *legend.get_texts()]:
        text.set_color("white")


def windows_animation(
    images: Tensor, truth: Tensor, windows: Mapping[int | str, Tensor], path: Path, *, title: str
) -> Path:
    """The same as `windows_over_steps` as an animation, a frame a step; the path ends in .gif."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    count = len(images)
    figure = Figure(figsize=(1.05 * count + 0.3, 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for i in range(count):
        show(axes[i], images[i])
        draw_box(axes[i], truth[i], colour="white", style=":")
    head(figure, f"{title}, step 0", handles=_handles(), size=9)
    _darken(figure)
    drawn: list[Line2D] = []
    frames = list(windows.items())

    def draw(k: int) -> list[Line2D]:
        step, boxes = frames[k]
        while drawn:
            drawn.pop().remove()
        drawn.extend(draw_box(axes[i], boxes[i], colour=COLOURS[0], style="-") for i in range(count))
        figure.suptitle(f"{title}, step {step}", fontsize=9)
        return drawn

    animation = FuncAnimation(figure, draw, frames=[*range(len(frames)), *[len(frames) - 1] * 4])
    animation.save(path, writer=PillowWriter(fps=4), dpi=80)
    return path
