"""A user's own images: the pictures. There is no table, since the paper has no such experiment."""

from pathlib import Path
from typing import Any

from torch import nn

from experiments.report import Section
from experiments.report.subject import Subject, Words


def draw(model: nn.Module, data: Any, folder: Path, subject: Subject) -> dict[str, Path]:
    """`crops`: test images with the window of each transformer, and its crop beside."""
    from experiments.sections.figures import example_crops  # matplotlib: slow to import

    return example_crops(model, data, folder, subject)


SECTION = Section(name="own_images", tables=(), draw=draw, words=Words({"own_images": "images of a folder"}))
