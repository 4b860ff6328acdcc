"""Pictures of spatial transformers, for any transform and any number of transformers. Imports matplotlib: slow."""

from experiments.report.pictures import show
from experiments.sections.figures.boxes import windows_animation, windows_over_steps
from experiments.sections.figures.classification import (
    aligned_digits,
    crops,
    example_crops,
    examples,
    pairs,
    projections,
    right_and_wrong,
)
from experiments.sections.figures.drawing import COLOURS, draw_outline, outline
from experiments.sections.figures.whole_sets import class_means, collect, pose_histograms, undistorted_means

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
