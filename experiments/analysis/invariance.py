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
from experiments.engine.build import UserError
from experiments.engine.run import load_run
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
INK: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1.3}  # of a drawn line
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


def measure(variant: Variant, circumstances: Mapping[str, Any], images: int | None = None) -> dict[str, Any]:
    """The curves of one configuration, over its seeds.

    Args:
        variant: its finished runs, in run directories.
        circumstances: where data are: `data_dir`.
        images: the number of test digits, the first ones; None: all.

    Returns:
        As `summary`.

    Raises:
        UserError: for a run without weights, other data than R or RTS, and fewer than one image.
    """
    if images is not None and images < 1:
        raise UserError(f"--images {images} is not valid: it is a whole number from 1.")
    runs = []
    for result in variant.results:
        data, model, _ = load_run(result.path.parent, circumstances)
        training = training_of(data)
        digits, labels = data.digits.test_images[:images], data.digits.test_labels[:images]
        runs.append(curves(model, digits, labels, training, AMOUNTS))
    seeds = [result.seed for result in variant.results]
    return summary(variant.letter, variant.name, seeds, len(labels), training, AMOUNTS, runs)


def summary(
    letter: str,
    name: str,
    seeds: Sequence[int],
    images: int,
    training: Training,
    amounts: Mapping[str, Sequence[float]],
    runs: Sequence[Mapping[str, Mapping[str, list[float]]]],
) -> dict[str, Any]:
    """The curves of the runs of one configuration, as `markdown` and `picture` take them.

    Args:
        letter, name: of the configuration.
        seeds: of the runs.
        images: the number of test digits.
        training: what the runs were trained on.
        amounts: factor -> amounts.
        runs: what `curves` returns for these amounts, one a run.

    Returns:
        `letter`, `name`, `seeds`, `images`, and `factors`: factor -> `amounts`, the range of `training`, `ink`, the
        `errors` (seeds, amounts), their `mean` and, of several seeds, sample standard deviation `std`.
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
    return {"letter": letter, "name": name, "seeds": list(seeds), "images": images, "factors": factors}


def markdown(measured: Sequence[Mapping[str, Any]]) -> str:
    """A table a factor: a row an amount, a column a configuration; amounts beyond the training range in italics."""
    names = "".join(
        f"- {one['letter']}: {one['name']}, seeds {', '.join(map(str, one['seeds']))}, {one['images']} test digits\n"
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

    The training range is grey; where it is one amount, a line. The dotted line is the share of ink on the canvas.

    Args:
        measured: what `measure` returns, one a configuration.
        path: the picture, which is written.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from experiments.report.pictures import head, line, save

    figure = Figure(figsize=(12, 4.3 + 0.2 * len(measured)), layout="constrained")
    for axes, (factor, label) in zip(figure.subplots(1, len(LABELS)), LABELS.items(), strict=True):
        for k, one in enumerate(measured):
            column, look = one["factors"][factor], line(k)
            x, mean = column["amounts"], np.array(column["mean"])
            axes.plot(x, mean, linewidth=1.5, **look)
            if column["std"]:
                std = np.array(column["std"])
                axes.fill_between(x, mean - std, mean + std, color=look["color"], alpha=0.2, linewidth=0)
        for low, high in {tuple(one["factors"][factor]["training"]) for one in measured}:
            axes.axvspan(low, high, color="0.5", alpha=0.12, zorder=0)
        for ink in {tuple(one["factors"][factor]["ink"]) for one in measured}:
            axes.plot(x, 100 * np.array(ink), **INK)
        axes.set(xlabel=label, ylabel="test error, %", ylim=(0, 102))
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
    several = any(len(one["seeds"]) > 1 for one in measured)
    handles = [
        *(Line2D([], [], label=f"{one['letter']}: {one['name']}, {_seeds(one)}", **line(k))
          for k, one in enumerate(measured)),
        Patch(color="0.5", alpha=0.2, label="range of the training"),
        Line2D([], [], label="share of the digit's ink on the canvas, %", **INK),
    ]  # fmt: skip
    images = " and ".join(sorted({f"{one['images']:,}" for one in measured}))
    note = f"{images} test digits; the other two factors stay at the middle of their training range." + (
        " Band: the standard deviation over seeds." if several else ""
    )
    title = (
        "The test error depends on angle, size and place of the digits, within the training range and beyond"
    )
    head(figure, title, note=note, handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)


def _seeds(one: Mapping[str, Any]) -> str:
    return f"seed {one['seeds'][0]}" if len(one["seeds"]) == 1 else f"{len(one['seeds'])} seeds"
