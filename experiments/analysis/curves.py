"""The learning curves of compared runs in one picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis.compare import listed
from experiments.analysis.variants import Variant, names
from experiments.report import details

if TYPE_CHECKING:
    from matplotlib.artist import Artist

CURVES = {  # what is drawn: the first of these that all runs have -> the label of its axis
    "val/accuracy": "accuracy on held-out images, %",
    "val/error": "error on held-out images, %",
    "train/error": "error on training batches, %",
    "train/loss": "loss on training batches",
}


def curves(compared: Sequence[Variant], path: Path) -> Path | None:
    """Draws the learning curves: a line a configuration, the mean of its runs, and their range behind it.

    A network has a colour and a transform a style, where these tell the configurations apart.

    They are of the held-out images where all runs have such a log, else running means of the training batches.

    Args:
        compared: the configurations.
        path: the picture, which is written.

    Returns:
        The path; None where no run's log is stored.
    """
    logs = {v.letter: [log for result in v.results if (log := details.curves(result.path))] for v in compared}
    shown = [variant for variant in compared if logs[variant.letter]]
    shared = set.intersection(*(set(log) for each in logs.values() for log in each)) if shown else set()
    key = next((choice for choice in CURVES if choice in shared), None)
    if key is None:
        return None
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from experiments.report.pictures import head, save

    data = {variant.subject.data for variant in shown}
    figure = Figure(figsize=(7.2, 4.6 + 0.16 * len(shown)), layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    told = names(shown, data=len(data) > 1)
    for variant, name, look in zip(shown, told, _looks(shown), strict=True):
        series = [log[key] for log in logs[variant.letter]]
        steps = sorted(set.intersection(*(set(one) for one in series)))
        lines = [[one[step] for step in steps] for one in series]
        if not key.startswith("val/"):
            lines = [details.running_mean(line) for line in lines]
        mean = [statistics.fmean(values) for values in zip(*lines, strict=True)]
        runs = f", mean and range of {len(series)} seeds" if len(series) > 1 else ""
        handles += axes.plot(steps, mean, linewidth=1.6, label=f"{variant.letter}: {name}{runs}", **look)
        if len(lines) > 1:
            low, high = ([end(values) for values in zip(*lines, strict=True)] for end in (min, max))
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="training steps", ylabel=CURVES[key])
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    if not key.endswith("accuracy"):
        axes.set_yscale("log")  # late differences are small ones
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.92", linewidth=0.8)
    silent = [variant.letter for variant in compared if variant not in shown]
    what = CURVES[key].removesuffix(", %")
    of = f" of {data.pop()}" if len(data) == 1 else ""
    note = "" if key.startswith("val/") else "Running means over the training."
    note += f" No log is kept of {listed(silent)}." if silent else ""
    title = f"{what.capitalize()}{of}, over the training of {len(shown)} networks"
    head(figure, title, note=note.strip(), handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path, dpi=150)


def _looks(compared: Sequence[Variant]) -> list[dict[str, Any]]:
    """A colour a network, a style a transform; where these do not tell all lines apart, `line`."""
    from experiments.report.pictures import LINES, STYLES, line

    chosen = [(variant.results[0].model, variant.results[0].transform) for variant in compared]
    models, transforms = (list(dict.fromkeys(each)) for each in zip(*chosen, strict=True))
    transforms.sort(key=lambda one: one is not None)  # none is a full line
    if len(set(chosen)) < len(chosen) or len(models) > len(LINES) or len(transforms) > len(STYLES):
        return [line(i) for i in range(len(compared))]
    return [
        {"color": LINES[models.index(model)], "linestyle": STYLES[transforms.index(transform)]}
        for model, transform in chosen
    ]
