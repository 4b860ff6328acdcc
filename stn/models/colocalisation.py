"""Co-localisation (appendix A.2): a spatial transformer alone, whose window is the prediction."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.localisation import LocalisationNetwork, check_shape
from stn.transformer import ParallelTransformers
from stn.transforms import Attention, Transform

__all__ = ["Localiser", "WindowHead", "boxes"]


class WindowHead(nn.Module):
    """Features -> a window (s, tx, ty) of eq. 2 that stays within bounds and in the image.

    A sigmoid keeps s, the window's side as a share of the image's, between `smallest` and `largest`. A tanh keeps the
    centre within 1 - s of the image's centre, so that the whole window lies in the image. The centre has no bias: with
    features of mean zero all windows together do not move, and training can only learn how the images differ.

    Args:
        in_features: number of features.
        smallest: lower bound of s.
        largest: upper bound of s.
        start: s at the start, with the window in the middle of the image.

    Shape:
        (B, in_features) -> (B, 3), float32 under autocast too.

    Raises:
        ValueError: Not 0 < smallest < start < largest <= 1.

    Examples:
        >>> [round(number, 4) for number in WindowHead(8, start=0.75)(torch.rand(1, 8))[0].tolist()]
        [0.75, 0.0, 0.0]
    """

    def __init__(
        self,
        in_features: int,
        *,
        smallest: float = 1 / 6,
        largest: float = 1.0,
        start: float = 0.41,
    ) -> None:
        super().__init__()
        if not 0 < smallest < start < largest <= 1:
            raise ValueError(
                f"The window's size, model.start={start}, lies between model.smallest={smallest} and "
                f"model.largest={largest}, shares of the side from 0 to 1."
            )
        self.smallest, self.largest = smallest, largest
        self.weight = nn.Parameter(torch.zeros(3, in_features))
        share = (start - smallest) / (largest - smallest)
        self.start_logit = math.log(share / (1 - share))
        self.size_bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            raw = F.linear(features.to(self.weight.dtype), self.weight)
        logit = self.start_logit + raw[:, :1] + self.size_bias
        size = self.smallest + (self.largest - self.smallest) * logit.sigmoid()
        return torch.cat([size, (1 - size) * raw[:, 1:].tanh()], 1)


class Localiser(nn.Module):
    """One spatial transformer and nothing behind it (appendix A.2).

    Its trunk is a 9x9 convolution, a 2x2 max-pool and two fully connected layers, its head a `WindowHead`.

    Args:
        in_shape: (C, H, H) of the image, at least 9 pixels a side.
        transform: `Attention`, since a window is an upright square.
        width: filters of the convolution and units of the fully connected layers.
        stride: of the convolution. The paper says stride 4 and about 100k parameters; stride 4 gives 7k, stride 1 gives
            93k.
        out_size: side of the crops, pixels.
        smallest: as of `WindowHead`.
        largest: as of `WindowHead`.
        start: as of `WindowHead`.

    Shape:
        (B, C, H, H) -> boxes (B, 4), left, top, right, bottom in pixels; and `theta` (B, 1, 3) and `warped`
        (B, 1, C, out_size, out_size).

    Raises:
        ValueError: The transform is another one, the image is not square or too small, the stride is below 1, or the
            sizes are refused by `WindowHead`; in `forward`, the image is not of `in_shape`.

    Examples:
        >>> model = Localiser((1, 84, 84), transform=Attention(), start=0.5)
        >>> windows, aux = model(torch.rand(2, 1, 84, 84))
        >>> windows[0].round().tolist(), aux["warped"].shape
        ([21.0, 21.0, 63.0, 63.0], torch.Size([2, 1, 1, 28, 28]))
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
        start: float = 0.41,
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
        # PyTorch's own initial values make the features of so few units nearly the same for all images (their spread is
        # a thirtieth of their mean), so that all windows would move as one.
        for layer in trunk:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        head = WindowHead(width, smallest=smallest, largest=largest, start=start)
        network = LocalisationNetwork(trunk, transform, head=head)
        self.transformers = ParallelTransformers([network], transform, (out_size, out_size))
        self.in_shape = tuple(in_shape)
        self.width = width

    @property
    def head(self) -> WindowHead:
        """The head of the one transformer."""
        head = self.transformers.networks[0].head
        assert isinstance(head, WindowHead)
        return head

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        check_shape(self, image, self.in_shape)
        warped, theta = self.transformers(image)
        return boxes(theta[:, 0], image.shape[-1]), {"theta": theta, "warped": warped}


def boxes(theta: Tensor, side: int) -> Tensor:
    """The boxes of windows in a square image.

    Args:
        theta: (B, 3), windows (s, tx, ty) of eq. 2, centres from -1 to 1 between the image's edges.
        side: of the image, pixels.

    Returns:
        (B, 4), left, top, right, bottom in pixels.

    Examples:
        >>> boxes(torch.tensor([[0.5, 0.25, -0.5]]), 84).tolist()
        [[31.5, 0.0, 73.5, 42.0]]
    """
    size, centre = theta[:, :1], theta[:, 1:]
    return (torch.cat([centre - size, centre + size], 1) + 1) * (side / 2)
