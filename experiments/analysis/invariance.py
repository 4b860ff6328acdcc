"""How far a network is invariant: its error against the angle, the scale and the shift of the test digits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.analysis.variants import Variant
from experiments.analysis.weights import load_result
from experiments.engine.build import UserError
from experiments.engine.task import Classification
from experiments.report import markdown_table
from stn.datasets import distortions
from stn.datasets.streams import FixedSet

# Factor -> its amounts and its axis. Each goes beyond the training range of both R and RTS.
AMOUNTS: dict[str, tuple[float, ...]] = {
    "angle": tuple(np.linspace(-180, 180, 25).tolist()),
    "scale": tuple(np.linspace(0.4, 1.6, 13).round(1).tolist()),
    "shift": tuple(np.linspace(-12, 12, 25).tolist()),
}
LABELS = {
    "angle": "angle, degrees clockwise",
    "scale": "size of the digit, times the original",
    "shift": "shift to the right, pixels",
}
INK: tuple[dict[str, Any], ...] = (  # looks of drawn lines, one a canvas
    {"color": "0.45", "linestyle": ":", "linewidth": 1.3},
    {"color": "0.65", "linestyle": (0, (5, 2)), "linewidth": 1.1},
)
BELOW = 4.5  # percent, between the bars below the axis
CHUNK = 500  # digits that are distorted at once


@dataclass(frozen=True)
class Training:
    """What a network was trained on.

    Attributes:
        canvas: side of its images, pixels.
        ranges: factor -> (lowest, highest) amount, the shift's with the other factors at their middle; equal where the
            factor does not vary.
    """

    canvas: int
    ranges: Mapping[str, tuple[float, float]]

    def middle(self, factor: str) -> float:
        """The middle of a factor's range."""
        return sum(self.ranges[factor]) / 2


def training_of(data: Any) -> Training:
    """The training ranges of a data set of digits.

    Args:
        data: a `DistortedDigits` under `rotate` or `rotate_translate_scale`.

    Raises:
        UserError: for other data.
    """
    distort: Any = getattr(data, "distort", None)
    function = getattr(distort, "func", distort)
    if function not in (distortions.rotate, distortions.rotate_translate_scale) or data.num_classes != 10:
        raise UserError("Invariance is measured of digits under rotate or rotate_translate_scale (R, RTS).")
    parameters = inspect.signature(distort).parameters
    options = {name: parameter.default for name, parameter in parameters.items()}
    side = data.digits.test_images.shape[-1]
    middle, scale = options.get("middle", 0.0), tuple(options.get("scale", (1.0, 1.0)))
    canvas = options.get("canvas", side)
    room = (canvas - side * sum(scale) / 2) / 2
    angles = (middle - options["max_angle"], middle + options["max_angle"])
    return Training(canvas, {"angle": angles, "scale": scale, "shift": (-room, room)})


def distorted(images: Tensor, training: Training, factor: str, amount: float) -> Tensor:
    """Digits with one factor at an amount and the others at the middle of their training range.

    Args:
        images: (N, 1, H, H), uint8.
        training: canvas and middles.
        factor: of `AMOUNTS`; the shift is along x.
        amount: degrees, a ratio, or pixels.

    Returns:
        (N, 1, canvas, canvas), uint8.
    """
    chosen = {one: training.middle(one) for one in AMOUNTS} | {factor: amount}
    parts = []
    for chunk in images.split(CHUNK):
        one = torch.ones(len(chunk), dtype=torch.float64)
        how = (chosen["angle"] * one, chosen["scale"] * one, chosen["shift"] * one, 0 * one)
        warped = distortions.warp_affine(chunk.double() / 255, training.canvas, *how)
        parts.append((warped * 255).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def curves(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    training: Training,
    amounts: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, list[float]]]:
    """The error of a network over the amounts of each factor.

    Args:
        model: a classifier of images (B, 1, canvas, canvas).
        images: (N, 1, H, H), uint8, undistorted.
        labels: (N,).
        training: what it was trained on.
        amounts: factor -> amounts.

    Returns:
        Factor -> `error`, in percent, and `ink`, the share of the digits' ink that is left on the canvas, an entry an
        amount.
    """
    task, found = Classification(), {}
    whole = images.double().sum().item()
    for factor, each in amounts.items():
        errors, ink = [], []
        for amount in each:
            fixed = FixedSet(distorted(images, training, factor, amount), labels)
            errors.append(task.evaluate(model, fixed.batches(CHUNK))[0]["error"])
            size = amount if factor == "scale" else training.middle("scale")
            ink.append(round(fixed.images.double().sum().item() / (whole * size**2), 4))
        found[factor] = {"error": errors, "ink": ink}
    return found


def measure(
    variant: Variant, circumstances: Mapping[str, Any], images: int | None = None, name: str | None = None
) -> dict[str, Any]:
    """The curves of one configuration, over its seeds.

    Args:
        variant: its finished runs.
        circumstances: where data are: `data_dir`.
        images: the number of test digits, the first ones; None: all.
        name: of the configuration; None: that of its runs.

    Returns:
        As `summary`, and the name of the runs, `run`.

    Raises:
        UserError: for a run whose network is not there, other data than R or RTS, and fewer than one image.
    """
    if images is not None and images < 1:
        raise UserError(f"--images {images} is not valid: it is a whole number from 1.")
    runs = []
    for result in variant.results:
        data, model = load_result(result, circumstances)
        training = training_of(data)
        digits, labels = data.digits.test_images[:images], data.digits.test_labels[:images]
        runs.append(curves(model, digits, labels, training, AMOUNTS))
    seeds = [result.seed for result in variant.results]
    name = name or variant.name
    found = summary(variant.letter, name, seeds, len(labels), training, AMOUNTS, runs)
    return {**found, "run": variant.name}


def summary(
    letter: str,
    name: str,
    seeds: Sequence[int],
    images: int,
    training: Training,
    amounts: Mapping[str, Sequence[float]],
    runs: Sequence[Mapping[str, Mapping[str, list[float]]]],
) -> dict[str, Any]:
    """The curves of the runs of one configuration, as `picture` takes them.

    Args:
        letter, name: of the configuration.
        seeds: of the runs.
        images: the number of test digits.
        training: what the runs were trained on.
        amounts: factor -> amounts.
        runs: what `curves` returns for these amounts, one a run.

    Returns:
        `letter`, `name`, `seeds`, `images`, `canvas`, and `factors`: factor -> `amounts`, the range of `training`,
        `ink`, the `errors` (seeds, amounts), their `mean` and, of several seeds, sample standard deviation `std`.
    """
    factors = {}
    for factor, each in amounts.items():
        errors = np.array([run[factor]["error"] for run in runs])
        factors[factor] = {
            "amounts": list(each),
            "training": list(training.ranges[factor]),
            "ink": runs[0][factor]["ink"],
            "errors": errors.tolist(),
            "mean": errors.mean(0).tolist(),
            "std": errors.std(0, ddof=1).tolist() if len(runs) > 1 else None,
        }
    told = {"letter": letter, "name": name, "seeds": list(seeds), "images": images}
    return {**told, "canvas": training.canvas, "factors": factors}


def markdown(measured: Sequence[Mapping[str, Any]]) -> str:
    """A table a factor: a row an amount, a column a configuration; amounts beyond the training range in italics."""
    names = "".join(
        f"- {one['letter']}: {one['name']} (runs {one['run']}), seeds {', '.join(map(str, one['seeds']))}, "
        f"{one['images']} test digits\n"
        for one in measured
    )
    parts = [
        f"Error in percent, mean ± sample standard deviation over seeds. *Beyond the training range.*\n\n{names}"
    ]
    for factor, label in LABELS.items():
        columns = [one["factors"][factor] for one in measured]
        rows = [
            [f"{amount:g}", *(_cell(column, i) for column in columns)]
            for i, amount in enumerate(AMOUNTS[factor])
        ]
        heads = [label, *(one["letter"] for one in measured)]
        parts.append(markdown_table(heads, rows, "r" * len(heads)))
    return "\n".join(parts)


def _cell(column: Mapping[str, Any], i: int) -> str:
    spread = f" ± {column['std'][i]:.2f}" if column["std"] else ""
    text = f"{column['mean'][i]:.2f}{spread}"
    low, high = column["training"]
    return text if low - 1e-6 <= column["amounts"][i] <= high + 1e-6 else f"*{text}*"


def picture(measured: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws a graph a factor, a line a configuration, its standard deviation over seeds behind it.

    A bar below the axis is the training range of the configuration with its colour, a diamond a range of one amount.
    Grey lines are the share of ink on the canvas.

    Args:
        measured: what `measure` returns, one a configuration.
        path: the picture, which is written.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.lines import Line2D

    from experiments.report.pictures import head, line, save

    figure = Figure(figsize=(12, 4.3 + 0.25 * len(measured)), layout="constrained")
    ink = {one: INK[k % len(INK)] for k, one in enumerate(sorted({one["canvas"] for one in measured}))}
    for axes, (factor, label) in zip(figure.subplots(1, len(LABELS)), LABELS.items(), strict=True):
        for k, one in enumerate(measured):
            column, look = one["factors"][factor], line(k)
            x, mean = column["amounts"], np.array(column["mean"])
            axes.plot(x, mean, linewidth=1.5, **look)
            if column["std"]:
                std = np.array(column["std"])
                axes.fill_between(x, mean - std, mean + std, color=look["color"], alpha=0.2, linewidth=0)
            (low, high), y = column["training"], -BELOW * (k + 1)
            if low < high:
                axes.plot([low, high], [y, y], color=look["color"], linewidth=4, solid_capstyle="butt")
            else:
                axes.plot([low], [y], "D", color=look["color"], markersize=5)
        for canvas, shares in {(one["canvas"], tuple(one["factors"][factor]["ink"])) for one in measured}:
            axes.plot(x, 100 * np.array(shares), **ink[canvas])
        axes.set(xlabel=label, ylabel="test error, %", ylim=(-BELOW * (len(measured) + 1), 102))
        axes.set_yticks(range(0, 101, 20))
        axes.margins(x=0)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    several = any(len(one["seeds"]) > 1 for one in measured)
    handles = [
        *(Line2D([], [], label=f"{one['letter']}: {one['name']}, {_seeds(one)}", **line(k))
          for k, one in enumerate(measured)),
        *(Line2D([], [], label=f"share of the digit's ink on the {canvas}-pixel canvas, %", **look)
          for canvas, look in ink.items()),
    ]  # fmt: skip
    images = " and ".join(sorted({f"{one['images']:,}" for one in measured}))
    note = (
        f"{images} test digits; the other two factors stay at the middle of their training range. Below 0: the "
        "training range of the network of the same colour; a diamond: one amount."
    ) + (" Band: the standard deviation over seeds." if several else "")
    title = "Test error against angle, size and place of the digits, within the training range and beyond"
    head(figure, title, note=note, handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)


def _seeds(one: Mapping[str, Any]) -> str:
    return f"seed {one['seeds'][0]}" if len(one["seeds"]) == 1 else f"{len(one['seeds'])} seeds"
