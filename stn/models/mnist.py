"""The paper's MNIST networks: FCN, CNN, ST-FCN, ST-CNN (section 4.1, appendix A.1).

All take images (B, C, H, W) and return `(logits, aux)`, logits (B, num_classes). aux is empty without a spatial
transformer, else `theta` (B, K, num_params) and `warped` (B, K, C, h, w) of its K parallel transformers.
Pooling is ceil-mode throughout: with floor mode the ST-CNN cannot be built for RTS (21 -> 13 -> 6 -> 0).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.convolution import Conv2d
from stn.localisation import ConvTrunk, FCTrunk
from stn.transformer import SpatialTransformer
from stn.transforms import Transform

__all__ = ["CNN", "FCN", "STN", "average_pool", "cnn", "fcn", "solve_width", "st_cnn", "st_fcn"]

Shape = tuple[int, int, int]
Aux = dict[str, Tensor]


class FCN(nn.Module):
    """Two hidden fully connected layers of `width` and the classifier. in_shape: (C, H, W)."""

    def __init__(self, in_shape: Shape, *, num_classes: int = 10, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden1 = nn.Linear(math.prod(in_shape), width)
        self.hidden2 = nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Aux]:
        x = F.relu(self.hidden1(image.flatten(1)))
        return self.classifier(F.relu(self.hidden2(x))), {}


class CNN(nn.Module):
    """9x9 convolution, 2x2 max-pool, 7x7 convolution, 2x2 max-pool, classifier; `width` filters each.

    in_shape: (C, H, W).   raises: ValueError for an image too small for the two convolutions.
    """

    def __init__(self, in_shape: Shape, *, num_classes: int = 10, width: int) -> None:
        super().__init__()
        channels, *sides = in_shape
        left = [math.ceil((math.ceil((side - 8) / 2) - 6) / 2) for side in sides]
        if min(left) < 1:
            raise ValueError(f"CNN needs images of at least 21 x 21 pixels, not {sides[0]} x {sides[1]}.")
        self.width = width
        self.conv1 = Conv2d(channels, width, 9)
        self.conv2 = nn.Conv2d(width, width, 7)
        self.classifier = nn.Linear(width * math.prod(left), num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Aux]:
        return self.activations(image)[-1], {}

    def activations(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the three layers give: (B, width, h, w) twice, after max-pooling and ReLU, and the logits."""
        # max and ReLU commute: a quarter of the work
        first = F.relu(F.max_pool2d(self.conv1(image), 2, ceil_mode=True))
        second = F.relu(F.max_pool2d(self.conv2(first), 2, ceil_mode=True))
        return first, second, self.classifier(second.flatten(1))


class STN(nn.Module):
    """Parallel spatial transformers on the input, then a classifier (ST-FCN, ST-CNN, 2xST-FCN ...).

    transformers: each sees and warps all channels; the outputs are concatenated along the channels.
    classifier: takes (B, K * C, h / pool, w / pool) and returns (logits, aux).
    pool: average pooling after the transformers, as the paper does with 2 on RTS and TC; 1 for none.
    """

    def __init__(
        self, transformers: list[SpatialTransformer], classifier: nn.Module, *, pool: int = 1
    ) -> None:
        super().__init__()
        self.transformers = nn.ModuleList(transformers)
        self.classifier = classifier
        self.pool = pool
        self.width = classifier.width

    def forward(self, image: Tensor) -> tuple[Tensor, Aux]:
        # A list, then two stacks: the K transformers are independent of one another.
        outputs = [transformer(image) for transformer in self.transformers]
        warped = torch.stack([w for w, _ in outputs], dim=1)  # (B, K, C, h, w)
        theta = torch.stack([t for _, t in outputs], dim=1)  # (B, K, num_params)
        x = warped.flatten(1, 2)
        if self.pool > 1:
            x = average_pool(x, self.pool)
        logits, _ = self.classifier(x)
        return logits, {"theta": theta, "warped": warped}


def average_pool(x: Tensor, size: int) -> Tensor:
    """Ceil-mode average pooling of (B, C, H, W).

    Halving is done by slices: avg_pool2d's backward pass is slow on a CPU (`scripts/benchmark.py tricks`
    measures it).
    """
    if size == 2 and x.shape[2] % 2 == x.shape[3] % 2 == 0:
        x = x[:, :, ::2] + x[:, :, 1::2]
        return 0.25 * (x[..., ::2] + x[..., 1::2])
    return F.avg_pool2d(x, size, ceil_mode=True)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def solve_width(make: Callable[[int], nn.Module], param_budget: int) -> int:
    """The width whose network has the number of parameters closest to the budget (paper.md section 2, decided).

    make: width -> network, its parameter count growing with the width. Networks are made on the meta device.
    raises: ValueError where even width 1 has over twice the budget.
    """

    def count(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(make(width))

    if count(1) > 2 * param_budget:
        raise ValueError(
            f"param_budget={param_budget} is too small: width 1 already has {count(1)} parameters."
        )
    low, high = 1, 2
    while count(high) < param_budget:
        low, high = high, 2 * high
    while high - low > 1:  # count(low) <= budget <= count(high), but for a budget under count(1)
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= param_budget else (low, middle)
    return min(low, high, key=lambda width: abs(count(width) - param_budget))


def _check(in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 3:
        raise ValueError(
            f"Images are (C, H, W), not {tuple(in_shape)}: for volumes choose model=cnn_3d or st_cnn_3d."
        )


def _build(make: Callable[[int], nn.Module], width: int | None, param_budget: int) -> nn.Module:
    return make(solve_width(make, param_budget) if width is None else width)


def fcn(
    in_shape: Shape, *, num_classes: int = 10, width: int | None = None, param_budget: int = 400_000
) -> nn.Module:
    """The fully connected baseline. in_shape: (C, H, W). width: hidden units, solved from the budget if None."""
    _check(in_shape)
    return _build(lambda w: FCN(in_shape, num_classes=num_classes, width=w), width, param_budget)


def cnn(
    in_shape: Shape, *, num_classes: int = 10, width: int | None = None, param_budget: int = 400_000
) -> nn.Module:
    """The convolutional baseline. in_shape: (C, H, W). width: filters, solved from the budget if None."""
    _check(in_shape)
    return _build(lambda w: CNN(in_shape, num_classes=num_classes, width=w), width, param_budget)


def st_fcn(
    in_shape: Shape,
    *,
    transform: Transform,
    num_classes: int = 10,
    num_transformers: int = 1,
    pool: int = 1,
    width: int | None = None,
    param_budget: int = 400_000,
) -> nn.Module:
    """FCN behind `num_transformers` parallel transformers with fully connected localisation networks (3 x 32)."""
    return _st(FCTrunk, FCN, in_shape, transform, num_classes, num_transformers, pool, width, param_budget)


def st_cnn(
    in_shape: Shape,
    *,
    transform: Transform,
    num_classes: int = 10,
    num_transformers: int = 1,
    pool: int = 1,
    width: int | None = None,
    param_budget: int = 400_000,
) -> nn.Module:
    """CNN behind `num_transformers` parallel transformers with convolutional localisation networks."""
    return _st(ConvTrunk, CNN, in_shape, transform, num_classes, num_transformers, pool, width, param_budget)


def _st(
    trunk: type[FCTrunk] | type[ConvTrunk],
    classifier: type[FCN] | type[CNN],
    in_shape: Shape,
    transform: Transform,
    num_classes: int,
    num_transformers: int,
    pool: int,
    width: int | None,
    param_budget: int,
) -> nn.Module:
    _check(in_shape)
    if num_transformers < 1 or pool < 1:
        raise ValueError(f"num_transformers and pool are at least 1, not {num_transformers} and {pool}.")
    if transform.dims != 2:
        raise ValueError(
            f"{type(transform).__name__} transforms volumes: choose one of images, such as affine."
        )
    channels, height, side = in_shape
    seen = (num_transformers * channels, math.ceil(height / pool), math.ceil(side / pool))

    def make(w: int) -> nn.Module:
        transformers = [SpatialTransformer(trunk(in_shape), transform) for _ in range(num_transformers)]
        return STN(transformers, classifier(seen, num_classes=num_classes, width=w), pool=pool)

    return _build(make, width, param_budget)
