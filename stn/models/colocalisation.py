"""Co-localisation (appendix A.2): a spatial transformer alone, whose window is the answer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.models.mnist import Aux
from stn.transformer import SpatialTransformer
from stn.transforms import Attention, Transform

__all__ = ["Localiser", "WindowHead", "boxes"]


class WindowHead(nn.Module):
    """Features -> a window that can neither vanish nor outgrow its bounds nor leave the image: (s, tx, ty) of eq. 2.

    s lies between `smallest` and `largest` by a sigmoid; a centre within 1 - s / 2 of the image's by tanh, so that at
    most a quarter of the window's side sticks out. The place has no bias: with features of mean zero, what the windows
    do as one is nothing, and what is left to learn is how they differ.

    start: s at the beginning, in the middle of the image, and while it is held.
    forward: (B, in_features) -> (B, 3), float32.
    raises: ValueError for sizes that are not in this order: 0, smallest, start, largest, 1.
    """

    def __init__(
        self,
        in_features: int,
        *,
        smallest: float = 1 / 6,
        largest: float = 1.0,
        start: float = 0.75,
    ) -> None:
        super().__init__()
        if not 0 < smallest < start < largest <= 1:
            raise ValueError(
                f"The window's size, model.start={start}, lies between model.smallest={smallest} and "
                f"model.largest={largest}, shares of the side from 0 to 1."
            )
        self.smallest, self.largest = smallest, largest
        self.size_free: Tensor
        # Held until it is let go. A tensor, which a recorded CUDA graph reads anew.
        self.register_buffer("size_free", torch.zeros(()))
        self.weight = nn.Parameter(torch.zeros(3, in_features))
        share = (start - smallest) / (largest - smallest)
        self.held = math.log(share / (1 - share))
        self.size_bias = nn.Parameter(torch.zeros(()))

    def hold_size(self, hold: bool) -> None:
        """Whether the size stays where it starts, and only the place is learnt."""
        self.size_free.fill_(0.0 if hold else 1.0)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            raw = F.linear(features.to(self.weight.dtype), self.weight)
        grown = self.held + self.size_free * (raw[:, :1] + self.size_bias)
        size = self.smallest + (self.largest - self.smallest) * grown.sigmoid()
        return torch.cat([size, (1 - size / 2) * raw[:, 1:].tanh()], 1)


class Localiser(nn.Module):
    """One spatial transformer and nothing behind it.

    in_shape: (C, H, H).   transform: attention; a window is an upright square.
    width: filters and units: convolution 9x9, 2x2 max-pool, two fully connected layers.
    stride: of the convolution. The paper says 4 and about 100k parameters, and only 1 gives about 93k; 4 gives 7k.
    out_size: side of the crops, pixels.   smallest, largest, start: as of `WindowHead`.
    forward: (B, C, H, W) -> boxes (B, 4) in pixels: left, top, right, bottom; and aux, `theta` (B, 1, 3) and
    `warped` (B, 1, C, out_size, out_size).
    raises: ValueError for another transform, images that are not square or under 9 pixels, a stride under 1, and sizes
    as `WindowHead` does.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        transform: Transform,
        width: int = 8,
        stride: int = 4,
        out_size: int = 28,
        smallest: float = 1 / 6,
        largest: float = 1.0,
        start: float = 0.75,
    ) -> None:
        super().__init__()
        if not isinstance(transform, Attention):
            raise ValueError(
                f"The localiser's windows are upright squares, not {type(transform).__name__}: "
                "choose transform=attention."
            )
        if len(in_shape) != 3 or in_shape[1] != in_shape[2]:
            raise ValueError(f"The localiser takes square images (C, H, H), not {tuple(in_shape)}.")
        channels, side, _ = in_shape
        if side < 9 or stride < 1:
            raise ValueError(
                f"The localiser takes images of at least 9 x 9 and a stride from 1, not of side {side} and {stride}."
            )
        left = math.ceil(((side - 9) // stride + 1) / 2)
        trunk = nn.Sequential(
            nn.Conv2d(channels, width, 9, stride=stride),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(width * left**2, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.BatchNorm1d(width, affine=False),
        )
        trunk.out_features = width  # type: ignore[assignment]
        # So that what is said depends on the image: with torch's own initial values and so few units the features'
        # spread over the images is a thirtieth of their mean, and all windows move as one.
        for layer in trunk:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        head = WindowHead(width, smallest=smallest, largest=largest, start=start)
        transformer = SpatialTransformer(trunk, transform, (out_size, out_size), head=head)
        self.transformers = nn.ModuleList([transformer])
        self.width = width

    def forward(self, image: Tensor) -> tuple[Tensor, Aux]:
        warped, theta = self.transformers[0](image)
        return boxes(theta, image.shape[-1]), {"theta": theta[:, None], "warped": warped[:, None]}


def boxes(theta: Tensor, side: int) -> Tensor:
    """theta: (B, 3), (s, tx, ty) in a square image.   returns: (B, 4), left, top, right, bottom in pixels."""
    size, centre = theta[:, :1], theta[:, 1:]
    return (torch.cat([centre - size, centre + size], 1) + 1) * (side / 2)
