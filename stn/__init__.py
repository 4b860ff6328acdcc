"""Spatial transformers (Jaderberg et al., 2015) for PyTorch: transforms, sampler, the module, the paper's networks."""

from stn.localisation import ConvTrunk, FCTrunk, LocalisationNetwork
from stn.sampler import in_frame, sample
from stn.transformer import ParallelTransformers, SpatialTransformer, localisation_parameters
from stn.transforms import (
    Affine,
    Affine3d,
    Attention,
    Projective,
    ThinPlateSpline,
    Transform,
    Translation,
    regular_grid,
)

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Affine3d",
    "Attention",
    "ConvTrunk",
    "FCTrunk",
    "LocalisationNetwork",
    "ParallelTransformers",
    "Projective",
    "SpatialTransformer",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "in_frame",
    "localisation_parameters",
    "regular_grid",
    "sample",
]
