"""Pictures of spatial transformers, for any transform and any number of transformers. Imports matplotlib: slow."""

from experiments.report.pictures import show
from experiments.sections.figures.boxes import windows_animation, windows_over_steps
from experiments.sections.figures.classification import (
    aligned_digits,
    class_means,
    collect,
    crops,
    example_crops,
    examples,
    pairs,
    pose_histograms,
    projections,
    right_and_wrong,
    undistorted_means,
)
from experiments.sections.figures.drawing import COLOURS, draw_outline, outline

__all__ = [
    "COLOURS",
    "aligned_digits",
    "class_means",
    "collect",
    "crops",
    "draw_outline",
    "example_crops",
    "examples",
    "outline",
    "pairs",
    "pose_histograms",
    "projections",
    "right_and_wrong",
    "show",
    "undistorted_means",
    "windows_animation",
    "windows_over_steps",
]
