"""Localisation networks: U -> features (paper section 3.1). The head that makes theta of them is in `Head`."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stn.transforms import Transform

__all__ = ["ConvTrunk", "ConvTrunk3d", "FCTrunk", "Head"]


class FCTrunk(nn.Sequential):
    """Fully connected layers with ReLU, on the flattened image; the paper's ST-FCN has three of 32 (section 4.1).

    in_shape: (C, H, W).   forward: (B, C, H, W) -> (B, out_features).
    """

    def __init__(self, in_shape: tuple[int, int, int], *, hidden: tuple[int, ...] = (32, 32, 32)) -> None:
        sizes = (math.prod(in_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.out_features = sizes[-1]


class ConvTrunk(nn.Sequential):
    """The ST-CNN's trunk (section 4.1): half size, 5x5 convolution, 2x2 max-pool, 5x5 convolution, fully connected.

    in_shape: (C, H, W), at least 25 pixels a side: fewer leave the second convolution nothing.
    Pooling is ceil-mode, no padding, ReLU.   forward: (B, C, H, W) -> (B, out_features).
    raises: ValueError for an image too small.
    """

    def __init__(self, in_shape: tuple[int, int, int], *, filters: int = 20, features: int = 20) -> None:
        channels, *sides = in_shape
        flat = filters
        for side in sides:
            left = math.ceil((math.ceil(side / 2) - 4) / 2) - 4
            if left < 1:
                raise ValueError(
                    f"ConvTrunk needs images of at least 25 x 25 pixels, not {sides[0]} x {sides[1]}."
                )
            flat *= left
        super().__init__(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(channels, filters, 5),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(filters, filters, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, features),
            nn.ReLU(),
        )
        self.out_features = features


class ConvTrunk3d(nn.Sequential):
    """For volumes: averaged down to about 16 voxels a side, two convolutions with a max-pool between, fully connected.

    The paper does not say what its 3-D localisation network is (appendix A.3); this is `ConvTrunk` with an axis more.
    in_shape: (C, D, H, W), at least 15 voxels a side.   forward: (B, C, D, H, W) -> (B, out_features).
    raises: ValueError for a volume too small.
    """

    def __init__(self, in_shape: tuple[int, int, int, int], *, filters: int = 16, features: int = 20) -> None:
        channels, *sides = in_shape
        if min(sides) < 15:
            raise ValueError(f"ConvTrunk3d needs volumes of at least 15 voxels a side, not {tuple(sides)}.")
        factor = round(min(sides) / 16)
        flat = filters
        for side in sides:
            flat *= math.ceil((math.ceil(side / factor) - 4) / 2) - 2
        super().__init__(
            nn.AvgPool3d(factor, ceil_mode=True),
            nn.Conv3d(channels, filters // 2, 5),
            nn.ReLU(),
            nn.MaxPool3d(2, ceil_mode=True),
            nn.Conv3d(filters // 2, filters, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, features),
            nn.ReLU(),
        )
        self.out_features = features


class Head(nn.Linear):
    """The last layer: features -> theta, started at a fixed pose: zero weights, bias = start (section 4).

    count: of transformers that it speaks for, theirs one after the other.
    start: (count * num_params,), the transform's identity for each unless given.
    forward: (B, in_features) -> (B, count * num_params), float32 under autocast too: bf16 has 8 bits, a step of 0.004
    near 1.
    """

    def __init__(
        self, in_features: int, transform: Transform, *, start: Tensor | None = None, count: int = 1
    ) -> None:
        start = transform.identity().repeat(count) if start is None else start
        if start.shape != (count * transform.num_params,):
            raise ValueError(
                f"start must have {count * transform.num_params} numbers, not shape {tuple(start.shape)}."
            )
        super().__init__(in_features, count * transform.num_params)
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(start)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.linear(features.to(self.weight.dtype), self.weight, self.bias)
