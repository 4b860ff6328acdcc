"""Localisation networks: from an image to theta (paper section 3.1).

A localisation network is a trunk (image -> features) and a head (features -> theta). The trunks of the paper are here;
any other module works as a trunk.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stn.sampler import sample
from stn.transforms import Transform

__all__ = [
    "ConvTrunk",
    "ConvTrunk3d",
    "FCTrunk",
    "Head",
    "LocalisationNetwork",
    "check_shape",
    "count_features",
]


class FCTrunk(nn.Sequential):
    """Fully connected layers with ReLU on the flattened image: the trunk of the paper's ST-FCN (section 4.1).

    Args:
        in_shape: (C, H, W) of the image.
        hidden: units of each layer; the paper has three layers of 32.

    Shape:
        (B, C, H, W) -> (B, hidden[-1]).

    Raises:
        ValueError: In `forward`, the image is not of `in_shape`.

    Examples:
        >>> FCTrunk((1, 28, 28))(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 32])
    """

    def __init__(self, in_shape: tuple[int, int, int], *, hidden: tuple[int, ...] = (32, 32, 32)) -> None:
        sizes = (math.prod(in_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.in_shape = tuple(in_shape)
        self.out_features = sizes[-1]

    def forward(self, image: Tensor) -> Tensor:
        check_shape(self, image, self.in_shape)
        return super().forward(image)


class ConvTrunk(nn.Sequential):
    """The trunk of the paper's ST-CNN (section 4.1).

    2x2 average pooling, 5x5 convolution, 2x2 max-pooling, 5x5 convolution, one fully connected layer. ReLU throughout,
    no padding. Pooling is ceil-mode: a last, incomplete window counts.

    Args:
        in_shape: (C, H, W) of the image, at least 25 pixels a side.
        filters: of each convolution.
        features: units of the fully connected layer.
        batch_norm: whether batch normalisation, in place of a bias, stands before each ReLU. The paper has none.

    Shape:
        (B, C, H, W) -> (B, features).

    Raises:
        ValueError: The image is too small for the second convolution; in `forward`, it is not of `in_shape`.

    Examples:
        >>> ConvTrunk((1, 28, 28))(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 20])
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        *,
        filters: int = 20,
        features: int = 20,
        batch_norm: bool = False,
    ) -> None:
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
            nn.Conv2d(channels, filters, 5, bias=not batch_norm),
            *([nn.BatchNorm2d(filters)] if batch_norm else []),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(filters, filters, 5, bias=not batch_norm),
            *([nn.BatchNorm2d(filters)] if batch_norm else []),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, features, bias=not batch_norm),
            *([nn.BatchNorm1d(features)] if batch_norm else []),
            nn.ReLU(),
        )
        self.in_shape = tuple(in_shape)
        self.out_features = features

    def forward(self, image: Tensor) -> Tensor:
        check_shape(self, image, self.in_shape)
        return super().forward(image)


class ConvTrunk3d(nn.Sequential):
    """A convolutional trunk for volumes.

    Average pooling to about 16 voxels a side, two convolutions with a max-pooling between them, one fully connected
    layer. The paper does not describe its 3-D localisation network (appendix A.3); this one is `ConvTrunk` with one
    more axis.

    Args:
        in_shape: (C, D, H, W) of the volume, at least 15 voxels a side.
        filters: of the second convolution; the first has half as many.
        features: units of the fully connected layer.

    Shape:
        (B, C, D, H, W) -> (B, features).

    Raises:
        ValueError: The volume is too small; in `forward`, it is not of `in_shape`.

    Examples:
        >>> ConvTrunk3d((1, 32, 32, 32))(torch.rand(2, 1, 32, 32, 32)).shape
        torch.Size([2, 20])
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
        self.in_shape = tuple(in_shape)
        self.out_features = features

    def forward(self, image: Tensor) -> Tensor:
        check_shape(self, image, self.in_shape)
        return super().forward(image)


class Head(nn.Linear):
    """The regression layer of a localisation network: features -> theta (section 3.1).

    It starts at a fixed theta for every image: zero weights, and the start as bias (section 4). It computes in float32
    under autocast too: bfloat16 has 8 significant bits, a step of 0.004 near 1.

    Args:
        in_features: number of features.
        transform: gives the number of parameters, and the identity as default start.
        start: (count * num_params,), theta at the start, one transformer after the other. None: the identity for each.
        count: number of transformers whose theta this layer predicts.

    Shape:
        (B, in_features) -> (B, count * num_params), in the dtype of the weights.

    Raises:
        ValueError: `start` has another shape.

    Examples:
        >>> from stn.transforms import Translation
        >>> Head(4, Translation(), start=torch.tensor([0.5, 0.0]))(torch.rand(1, 4)).tolist()
        [[0.5, 0.0]]
    """

    def __init__(
        self, in_features: int, transform: Transform, *, start: Tensor | None = None, count: int = 1
    ) -> None:
        start = transform.identity().repeat(count) if start is None else start
        if start.shape != (count * transform.num_params,):
            raise ValueError(
                f"start must have {count * transform.num_params} numbers, not shape {tuple(start.shape)}."
            )
        self._start = start
        super().__init__(in_features, count * transform.num_params)

    def reset_parameters(self) -> None:
        """The start again: `nn.Linear` calls this, and so do functions that initialise a whole network."""
        super().reset_parameters()  # draws as nn.Linear does, so that a seed gives the same network as ever
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(self._start)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.linear(features.to(self.weight.dtype), self.weight, self.bias)


class LocalisationNetwork(nn.Module):
    """A trunk and a head: image -> theta of one transformer, or of several that share the network (section 3.1).

    With `looks` above 1 the network corrects itself, as in inverse compositional spatial transformer networks (Lin and
    Lucey 2017): it looks again, with the same weights, at the image warped by theta, and its answer is composed with
    theta. Each look is sampled from the image itself, so interpolation errors do not add up.

    Args:
        localisation: the trunk, any module (B, C, H, W) -> (B, features) whose number of features `count_features` can
            tell.
        transform: gives the number of parameters, and the identity as default start.
        starts: (K, num_params), theta of each of the K transformers at the start. None: one that starts at the
            identity.
        head: module features -> theta (B, num_params) of one transformer, in place of `Head`. It sets its own start.
        looks: how often the network is applied; the paper's is once. A head that does not start at the identity is
            composed with itself as often. The looks are sampled bilinearly, with zeros outside of the image.

    Shape:
        (B, C, H, W) -> (B, K, num_params).

    Raises:
        ValueError: The number of features is unknown, `starts` has another shape, or `starts` and `head` are both
            given. `looks` is below 1; or it is above 1, and there are `starts`, or the transform does not compose.

    Examples:
        >>> from stn.transforms import Translation
        >>> starts = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
        >>> network = LocalisationNetwork(FCTrunk((1, 28, 28)), Translation(), starts=starts)
        >>> network(torch.rand(1, 1, 28, 28)).tolist()
        [[[-0.5, 0.0], [0.5, 0.0]]]
    """

    def __init__(
        self,
        localisation: nn.Module,
        transform: Transform,
        *,
        starts: Tensor | None = None,
        head: nn.Module | None = None,
        looks: int = 1,
    ) -> None:
        super().__init__()
        if looks < 1 or (looks > 1 and starts is not None):
            raise ValueError(
                f"looks is at least 1, and exactly 1 for a network with starts of its own, not {looks}."
            )
        if looks > 1:  # raises where maps of the family do not compose
            transform.compose(transform.identity()[None], transform.identity()[None])
        if head is not None and starts is not None:
            raise ValueError("starts is of the built-in head: a head of your own sets its own start.")
        if starts is not None and (starts.ndim != 2 or starts.shape[1] != transform.num_params):
            raise ValueError(
                f"starts must be of shape (K, {transform.num_params}), not {tuple(starts.shape)}."
            )
        self.count = 1 if starts is None else len(starts)
        self.looks = looks
        self.transform = transform
        self.localisation = localisation
        if head is None:
            start = None if starts is None else starts.flatten()
            head = Head(count_features(localisation), transform, start=start, count=self.count)
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        theta: Tensor = self.head(self.localisation(image))
        for _ in range(self.looks - 1):  # of one transformer alone: theta is (B, num_params)
            view = sample(image, self.transform.grid(theta, tuple(image.shape[2:])))
            theta = self.transform.compose(theta, self.head(self.localisation(view)))
        return theta.unflatten(1, (self.count, -1))


def count_features(trunk: nn.Module) -> int:
    """The number of features that a trunk gives.

    Args:
        trunk: a module with an attribute `out_features`, or one whose last `nn.Linear` gives the features.

    Returns:
        The number of features.

    Raises:
        ValueError: The trunk has neither.

    Examples:
        >>> count_features(nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU()))
        16
    """
    features = getattr(trunk, "out_features", None)
    if features is None:
        linears = [module for module in trunk.modules() if isinstance(module, nn.Linear)]
        features = linears[-1].out_features if linears else None
    if features is None:
        raise ValueError(
            f"The number of features that {type(trunk).__name__} gives is unknown: set its `out_features` attribute."
        )
    return int(features)


def check_shape(module: nn.Module, image: Tensor, in_shape: tuple[int, ...]) -> None:
    """Refuses images of another shape than a module was made for. Nothing is checked under torch.jit.trace.

    Args:
        module: for the message.
        image: (B, C, H, W), or a volume (B, C, D, H, W).
        in_shape: what is expected, (C, H, W) or (C, D, H, W).

    Raises:
        ValueError: The shape is another.

    Examples:
        >>> check_shape(nn.Identity(), torch.zeros(2, 1, 30, 30), (1, 28, 28))
        Traceback (most recent call last):
        ValueError: Identity was made for another shape of images: expected (B, 1, 28, 28), got (2, 1, 30, 30).
    """
    if not torch.jit.is_tracing() and tuple(image.shape[1:]) != tuple(in_shape):
        expected = ", ".join(map(str, ("B", *in_shape)))
        raise ValueError(
            f"{type(module).__name__} was made for another shape of images: expected ({expected}), "
            f"got {tuple(image.shape)}."
        )
