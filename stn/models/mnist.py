"""The paper's MNIST networks: FCN, CNN, ST-FCN, ST-CNN (section 4.1, appendix A.1).

Every network takes images (B, C, H, W) and returns `(logits, aux)`, with logits (B, num_classes). Without a spatial
transformer `aux` is empty; otherwise it holds `theta` (B, K, num_params) and `warped` (B, K, C, h, w) of the K parallel
transformers, and the network has them as `transformers`. `batch_norm` and `looks` are not the paper's.

All pooling is ceil-mode. With floor mode the ST-CNN cannot be built for RTS: 21 -> 13 -> 6 -> 0 pixels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.convolution import Conv2d
from stn.localisation import ConvTrunk, FCTrunk, LocalisationNetwork
from stn.models.budget import solve_width
from stn.transformer import ParallelTransformers
from stn.transforms import Transform

__all__ = ["CNN", "FCN", "STN", "average_pool", "cnn", "fcn", "st_cnn", "st_fcn"]

Shape = tuple[int, int, int]


class FCN(nn.Module):
    """Two hidden fully connected layers with ReLU, and a linear classifier (section 4.1).

    Args:
        in_shape: (C, H, W) of the image.
        num_classes: number of classes.
        width: units of each hidden layer.

    Shape:
        (B, C, H, W) -> logits (B, num_classes), and an empty dict.

    Examples:
        >>> logits, aux = FCN((1, 28, 28), width=8)(torch.rand(2, 1, 28, 28))
        >>> logits.shape, aux
        (torch.Size([2, 10]), {})
    """

    def __init__(self, in_shape: Shape, *, num_classes: int = 10, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden1 = nn.Linear(math.prod(in_shape), width)
        self.hidden2 = nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = F.relu(self.hidden1(image.flatten(1)))
        return self.classifier(F.relu(self.hidden2(x))), {}


class CNN(nn.Module):
    """9x9 convolution, 2x2 max-pool, 7x7 convolution, 2x2 max-pool, linear classifier; ReLU (section 4.1).

    Args:
        in_shape: (C, H, W) of the image, at least 21 pixels a side.
        num_classes: number of classes.
        width: filters of each convolution.
        batch_norm: whether batch normalisation, in place of a bias, follows each convolution. The paper has none.

    Shape:
        (B, C, H, W) -> logits (B, num_classes), and an empty dict.

    Raises:
        ValueError: The image is too small for the two convolutions.

    Examples:
        >>> logits, aux = CNN((1, 28, 28), width=4)(torch.rand(2, 1, 28, 28))
        >>> logits.shape, aux
        (torch.Size([2, 10]), {})
    """

    def __init__(
        self, in_shape: Shape, *, num_classes: int = 10, width: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        channels, *sides = in_shape
        left = [math.ceil((math.ceil((side - 8) / 2) - 6) / 2) for side in sides]
        if min(left) < 1:
            raise ValueError(f"CNN needs images of at least 21 x 21 pixels, not {sides[0]} x {sides[1]}.")
        self.width = width
        self.conv1 = Conv2d(channels, width, 9, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = Conv2d(width, width, 7, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.classifier = nn.Linear(width * math.prod(left), num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.activations(image)[-1], {}

    def activations(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of the three layers.

        Args:
            image: (B, C, H, W).

        Returns:
            Two feature maps (B, width, h, w), each after max-pooling and ReLU, and the logits (B, num_classes).
        """
        # ReLU after max-pooling gives the same as before it, on a quarter of the pixels.
        first = F.relu(F.max_pool2d(self.norm1(self.conv1(image)), 2, ceil_mode=True))
        second = F.relu(F.max_pool2d(self.norm2(self.conv2(first)), 2, ceil_mode=True))
        return first, second, self.classifier(second.flatten(1))


class STN(nn.Module):
    """Parallel spatial transformers on the input, then a classifier: ST-FCN, ST-CNN, 2xST-FCN ... (section 4.1).

    Each transformer warps all channels. The classifier gets the K outputs as K * C channels.

    Args:
        transformers: the K transformers.
        classifier: a network with a `width` that takes (B, K * C, ceil(h / pool), ceil(w / pool)) and returns
            (logits, aux).
        pool: side of an average pooling after the transformers. The paper has 2 on RTS and TC. 1: none.

    Shape:
        (B, C, H, W) -> logits (B, num_classes), and `theta` (B, K, num_params) and `warped` (B, K, C, h, w).

    Examples:
        >>> from stn import Affine
        >>> network = LocalisationNetwork(FCTrunk((1, 28, 28)), Affine())
        >>> model = STN(ParallelTransformers([network], Affine()), FCN((1, 14, 14), width=8), pool=2)
        >>> logits, aux = model(torch.rand(2, 1, 28, 28))
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 6]), torch.Size([2, 1, 1, 28, 28]))
    """

    def __init__(self, transformers: ParallelTransformers, classifier: nn.Module, *, pool: int = 1) -> None:
        super().__init__()
        self.transformers = transformers
        self.classifier = classifier
        self.pool = pool
        self.width = classifier.width

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        warped, theta = self.transformers(image)  # (B, K, C, h, w), (B, K, num_params)
        x = warped.flatten(1, 2)
        if self.pool > 1:
            x = average_pool(x, self.pool)
        logits, _ = self.classifier(x)
        return logits, {"theta": theta, "warped": warped}


def average_pool(x: Tensor, size: int) -> Tensor:
    """Ceil-mode average pooling, as `torch.nn.functional.avg_pool2d`.

    Even sides are halved by slices: on a CPU the backward pass of avg_pool2d is slow (`scripts/benchmark.py tricks`
    measures it).

    Args:
        x: (B, C, H, W).
        size: side of the window and stride, pixels.

    Returns:
        (B, C, ceil(H / size), ceil(W / size)).

    Examples:
        >>> average_pool(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]), 2)
        tensor([[[[3.]]]])
    """
    if size == 2 and not torch.jit.is_tracing() and x.shape[2] % 2 == x.shape[3] % 2 == 0:
        x = x[:, :, ::2] + x[:, :, 1::2]
        return 0.25 * (x[..., ::2] + x[..., 1::2])
    return F.avg_pool2d(x, size, ceil_mode=True)


def fcn(
    in_shape: Shape, *, num_classes: int = 10, width: int | None = None, param_budget: int = 400_000
) -> nn.Module:
    """The fully connected baseline (section 4.1).

    Args:
        in_shape: (C, H, W) of the image.
        num_classes: number of classes.
        width: units of each hidden layer. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.

    Returns:
        An `FCN`.

    Raises:
        ValueError: `in_shape` is of volumes, or the budget is too small for any width.

    Examples:
        >>> fcn((1, 28, 28)).width
        349
    """
    check_images(in_shape)
    return of_width(lambda w: FCN(in_shape, num_classes=num_classes, width=w), width, param_budget)


def cnn(
    in_shape: Shape,
    *,
    num_classes: int = 10,
    width: int | None = None,
    param_budget: int = 400_000,
    batch_norm: bool = False,
) -> nn.Module:
    """The convolutional baseline (section 4.1).

    Args:
        in_shape: (C, H, W) of the image, at least 21 pixels a side.
        num_classes: number of classes.
        width: filters of each convolution. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.
        batch_norm: whether batch normalisation follows each convolution. The paper has none.

    Returns:
        A `CNN`.

    Raises:
        ValueError: `in_shape` is of volumes or too small, or the budget is too small for any width.

    Examples:
        >>> cnn((1, 28, 28)).width
        89
    """
    check_images(in_shape)
    return of_width(
        lambda w: CNN(in_shape, num_classes=num_classes, width=w, batch_norm=batch_norm), width, param_budget
    )


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
    """The FCN behind parallel transformers with fully connected localisation networks of 3 x 32 units (section 4.1).

    Args:
        in_shape: (C, H, W) of the image.
        transform: the family of warps, of images.
        num_classes: number of classes.
        num_transformers: K; each has a localisation network of its own.
        pool: side of an average pooling after the transformers. The paper has 2 on RTS and TC. 1: none.
        width: units of each hidden layer of the classifier. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.

    Returns:
        An `STN`.

    Raises:
        ValueError: `in_shape` or `transform` is of volumes, `num_transformers` or `pool` is below 1, or the budget is
            too small for any width.

    Examples:
        >>> from stn import Affine
        >>> logits, aux = st_fcn((1, 28, 28), transform=Affine())(torch.rand(2, 1, 28, 28))
        >>> logits.shape, aux["theta"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 6]))
    """
    classifier_shape = warped_shape(in_shape, num_transformers, pool)
    check_transform(transform)

    def make(width: int) -> nn.Module:
        networks = [LocalisationNetwork(FCTrunk(in_shape), transform) for _ in range(num_transformers)]
        classifier = FCN(classifier_shape, num_classes=num_classes, width=width)
        return STN(ParallelTransformers(networks, transform), classifier, pool=pool)

    return of_width(make, width, param_budget)


def st_cnn(
    in_shape: Shape,
    *,
    transform: Transform,
    num_classes: int = 10,
    num_transformers: int = 1,
    pool: int = 1,
    width: int | None = None,
    param_budget: int = 400_000,
    batch_norm: bool = False,
    looks: int = 1,
) -> nn.Module:
    """The CNN behind parallel transformers with convolutional localisation networks, `ConvTrunk` (section 4.1).

    Args:
        in_shape: (C, H, W) of the image, at least 25 pixels a side.
        transform: the family of warps, of images.
        num_classes: number of classes.
        num_transformers: K; each has a localisation network of its own.
        pool: side of an average pooling after the transformers. The paper has 2 on RTS and TC. 1: none.
        width: filters of each convolution of the classifier. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.
        batch_norm: whether both networks have batch normalisation. The paper's have none.
        looks: how often a localisation network is applied, see `LocalisationNetwork`. The paper has 1.

    Returns:
        An `STN`.

    Raises:
        ValueError: `in_shape` or `transform` is of volumes, the image is too small, `num_transformers`, `pool` or
            `looks` is below 1, the transform does not compose though `looks` is above 1, or the budget is too small
            for any width.

    Examples:
        >>> from stn import ThinPlateSpline
        >>> model = st_cnn((1, 42, 42), transform=ThinPlateSpline(), pool=2)
        >>> logits, aux = model(torch.rand(2, 1, 42, 42))
        >>> logits.shape, aux["theta"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 32]))
    """
    classifier_shape = warped_shape(in_shape, num_transformers, pool)
    check_transform(transform)

    def make(width: int) -> nn.Module:
        trunks = [ConvTrunk(in_shape, batch_norm=batch_norm) for _ in range(num_transformers)]
        networks = [LocalisationNetwork(trunk, transform, looks=looks) for trunk in trunks]
        classifier = CNN(classifier_shape, num_classes=num_classes, width=width, batch_norm=batch_norm)
        return STN(ParallelTransformers(networks, transform), classifier, pool=pool)

    return of_width(make, width, param_budget)


def of_width(make: Callable[[int], nn.Module], width: int | None, param_budget: int) -> nn.Module:
    """The network of a width, or of the one that comes closest to the budget."""
    return make(solve_width(make, param_budget) if width is None else width)


def warped_shape(in_shape: Shape, num_transformers: int, pool: int) -> Shape:
    """The (C, H, W) that a classifier behind parallel transformers gets."""
    check_images(in_shape)
    if num_transformers < 1 or pool < 1:
        raise ValueError(f"num_transformers and pool are at least 1, not {num_transformers} and {pool}.")
    channels, height, width = in_shape
    return num_transformers * channels, math.ceil(height / pool), math.ceil(width / pool)


def check_images(in_shape: tuple[int, ...]) -> None:
    """Refuses volumes."""
    if len(in_shape) != 3:
        raise ValueError(
            f"Images are (C, H, W), not {tuple(in_shape)}: for volumes choose model=cnn_3d or st_cnn_3d."
        )


def check_transform(transform: Transform) -> None:
    """Refuses transforms of volumes."""
    if transform.dims != 2:
        raise ValueError(
            f"{type(transform).__name__} transforms volumes: choose one of images, such as affine."
        )
