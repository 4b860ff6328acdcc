"""Spatial transformers (Jaderberg et al., 2015) for PyTorch: transforms, sampler, the module, the paper's networks.

What is imported here needs PyTorch alone. `stn.models.backbones`, `stn.models.images` and `stn.datasets.folder` need
torchvision, and `stn.datasets.mnist` to download. Data sets need NumPy, those of images Pillow and filelock, and the
embedded digits scikit-learn. `stn.models.weights` needs safetensors.

Examples:
    >>> import torch
    >>> transformer = SpatialTransformer(ConvTrunk((1, 28, 28)), Affine())
    >>> warped, theta = transformer(torch.rand(2, 1, 28, 28))
    >>> warped.shape, theta.shape
    (torch.Size([2, 1, 28, 28]), torch.Size([2, 6]))
"""

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
