"""The poses of all runs of `experiment=upright` in one picture, from run directories or published results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.analysis.compare import listed
from experiments.analysis.variants import Variant
from experiments.engine.build import UserError
from experiments.report import Row, details
from experiments.sections.upright import UPRIGHT, circular

DEGREE, MINUS = "\N{DEGREE SIGN}", "\N{MINUS SIGN}"
WIDTH = 2.45  # inches of a column
BINS = 72  # of a polar histogram: 5 degrees each


def mosaic(means: np.ndarray) -> np.ndarray:
    """The mean images of ten classes in two rows of five, each scaled to its own maximum.

    Args:
        means: (10, h, w).

    Returns:
        (2 h, 5 w), from 0 to 1.
    """
    height, width = means.shape[1:]
    scaled = means / np.maximum(means.max((1, 2), keepdims=True), 1)
    return scaled.reshape(2, 5, height, width).swapaxes(1, 2).reshape(2 * height, 5 * width)


def concentrations(degrees: np.ndarray) -> tuple[float, float]:
    """How concentrated angles are, as directions and as axes.

    Args:
        degrees: (N,).

    Returns:
        The mean resultant length of the angles, and that of the doubled angles, for which opposite directions are one:
        each 1 where all are the same, and 0 where none is preferred.
    """
    angles = torch.from_numpy(degrees)
    return circular(angles)[1], circular(2 * angles)[1]


def picture(compared: Sequence[Variant], path: Path) -> Path:
    """Draws a column a range: a polar histogram of the residual angles, a line a seed; the class means of each seed.

    In the histogram, up is upright and clockwise is clockwise; the radius is the square root of the share of the test
    digits, so that areas compare. The grey sector is the range of the training angles, the dashed line its middle.
    Of several transformers the first is drawn.

    Args:
        compared: the configurations; those in no row of the table `upright` are left out.
        path: the picture, which is written.

    Returns:
        The path.

    Raises:
        UserError: no run is of the experiment, or one has kept no details.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from experiments.report.pictures import head, line, save

    placed = [(place[0], variant) for variant in compared if (place := UPRIGHT.place(variant.results[0]))]
    order = list(UPRIGHT.rows)
    placed.sort(key=lambda one: order.index(one[0]) if one[0] in order else len(order))
    if not placed:
        raise UserError("None of these runs is of experiment=upright with a spatial transformer.")
    seeds = sorted({result.seed for _, variant in placed for result in variant.results})
    rows = 1 + len(seeds)
    figure = Figure(figsize=(max(WIDTH * len(placed), 2 * WIDTH), 3.6 + 1.0 * (rows - 1)))
    figure.set_layout_engine("constrained", h_pad=0.07)
    grid = figure.add_gridspec(rows, len(placed), height_ratios=[2.2] + [1] * (rows - 1))
    labelled: set[int] = set()
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    for column, (row, variant) in enumerate(placed):
        polar = figure.add_subplot(grid[0, column], projection="polar")
        polar.set(theta_zero_location="N", theta_direction=-1, yticks=[])
        ticks = [f"0{DEGREE}", f"90{DEGREE}", f"±180{DEGREE}", f"{MINUS}90{DEGREE}"]
        polar.set_xticks(np.radians([0, 90, 180, 270]), ticks, fontsize=7)
        polar.tick_params(pad=1)
        distort = {"middle": 0.0, **variant.results[0].config["dataset"]["distort"]}
        middle, width = (np.radians(distort[key]) for key in ("middle", "max_angle"))
        top, found = 0.0, []
        for result in variant.results:
            k = seeds.index(result.seed)  # its line, in every column
            kept = details.measured(result.path)
            if "residual" not in kept:
                raise UserError(f"{result.path} has kept no residual angles: give runs with their details.")
            degrees = kept["residual"][:, 0].astype(np.float64)
            found.append(concentrations(degrees))
            angles = np.radians(degrees)
            heights = np.sqrt(np.histogram(angles, edges)[0] / len(angles))
            top = max(top, heights.max())
            closed = np.append(heights, heights[0])
            centres = edges + np.pi / BINS
            polar.plot(centres, closed, linewidth=1.1, **line(k))
            axes = figure.add_subplot(grid[1 + k, column])
            axes.imshow(mosaic(kept["class_means"][0]), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if result.seed not in labelled:  # in the first column that has it
                axes.set_ylabel(f"seed {result.seed}", fontsize=8)
                labelled.add(result.seed)
            for spine in axes.spines.values():
                spine.set(color=line(k)["color"], linewidth=1.5)
        directions, axes_of_them = np.mean(found, 0)
        told = [
            f"rotations of {_range(row)}",
            f"test error {statistics.fmean(variant.values('test_error')):.2f} %",
            f"concentration: directions {directions:.2f}, axes {axes_of_them:.2f}",
        ]
        polar.set_title("\n".join(told), fontsize=8, y=1.12)
        polar.bar([middle], [1.1 * top], width=2 * width, color="0.9", zorder=0)
        polar.plot([middle, middle], [0, 1.1 * top], "--", color="0.5", linewidth=0.8)
        polar.set_ylim(0, 1.1 * top)
    handles = [
        *(Line2D([], [], label=f"seed {seed}", **line(k)) for k, seed in enumerate(seeds)),
        Patch(color="0.9", label="rotations of the training; dashed: their middle"),
    ]
    several = "Numbers are means over seeds. " if len(seeds) > 1 else ""
    without = [_range(row) for row in UPRIGHT.rows if row not in [place for place, _ in placed]]
    note = (
        "A column is a range of rotations in training and test. Polar histogram: the angles by which test digits stand "
        "turned in the output, clockwise from upright; areas are shares. Concentration: 1 where all angles are the "
        "same, 0 where none is preferred; of axes, opposite directions are the same. Below: the mean output of each "
        f"class. {several}{_training(placed)}{f' Without a run: {listed(without)}.' if without else ''}"
    )
    networks = listed(sorted({variant.subject.network for _, variant in placed}))
    title = f"{networks} on rotated digits: the pose of the output depends on the rotations of the training"
    head(figure, title, note=note, handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)


def _range(row: Row) -> str:
    """("-45 to 45", None) with degree signs and true minus signs."""
    low, high = row[0].replace("-", MINUS).split(" to ")
    return f"{low}{DEGREE} to {high}{DEGREE}"


def _training(placed: Sequence[tuple[Row, Variant]]) -> str:
    """Steps and schedule of the runs."""
    told = {
        f"{one.iterations:,} steps, schedule {one.trainer}"
        for _, variant in placed
        for one in variant.results
    }
    return f"Training: {listed(sorted(told))}."
