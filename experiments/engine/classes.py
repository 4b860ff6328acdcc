"""What a finished run leaves about its classes: how often each was taken for which, and each image's in words."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.engine.files import write_atomically

CONFUSION, PREDICTIONS = "confusion.csv", "predictions.csv"


def class_names(data: Any) -> list[str]:
    """The names of a data set's classes, their numbers where it has none; empty for images without classes."""
    return [str(name) for name in getattr(data, "classes", range(data.num_classes or 0))]


def write_classes(folder: Path, data: Any, predictions: Tensor) -> None:
    """Writes confusion.csv, of classified images; where they are files, predictions.csv too.

    confusion.csv has a line for each class: `class`, `images`, how many the test set has, `accuracy` in percent, empty
    without images, then how many were taken for each class. predictions.csv has a line for each test image: `image`,
    the name of its file, `class` and `predicted`.

    Args:
        folder: the run directory.
        data: the data set.
        predictions: (N,) classes, of the test set.
    """
    names = class_names(data)
    if not names or predictions.ndim != 1:
        return
    labels, predicted = data.test.labels.long().cpu(), predictions.long()
    counts = torch.bincount(labels * len(names) + predicted, minlength=len(names) ** 2)
    lines: list[Sequence[object]] = [["class", "images", "accuracy", *names]]
    for label, (name, taken) in enumerate(zip(names, counts.view(-1, len(names)).tolist(), strict=True)):
        images = sum(taken)
        lines.append([name, images, round(100 * taken[label] / images, 2) if images else "", *taken])
    _write(folder / CONFUSION, lines)
    if files := getattr(data.test, "names", ()):
        told = ([names[i] for i in numbers.tolist()] for numbers in (labels, predicted))
        _write(folder / PREDICTIONS, [("image", "class", "predicted"), *zip(files, *told, strict=True)])


def _write(path: Path, lines: Iterable[Sequence[object]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)

    write_atomically(path, write)
