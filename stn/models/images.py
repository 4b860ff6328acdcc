"""Classifiers of images on a pretrained backbone, without and with parallel spatial transformers (section 4.3)."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.localisation import LocalisationNetwork, check_shape
from stn.models.backbones import Backbone
from stn.transformer import ParallelTransformers
from stn.transforms import Affine, Attention, Transform, Translation

__all__ = ["BackboneTrunk", "ImageCNN", "ImageSTCNN", "tiling"]


class ImageCNN(nn.Module):
    """A pretrained backbone, the mean over all places, dropout, one linear layer (section 4.3).

    Args:
        in_shape: (3, H, W) of the image.
        num_classes: number of classes.
        backbone: the convolutional part.
        dropout: share of the features that is dropped in training.

    Shape:
        Images (B, 3, H, W) in [0, 1] -> logits (B, num_classes), and an empty dict.

    Raises:
        ValueError: `in_shape` is not of colour images.

    Examples:
        >>> backbone = Backbone("mobilenet_v2", weights="none")
        >>> logits, aux = ImageCNN((3, 64, 64), num_classes=5, backbone=backbone)(torch.rand(2, 3, 64, 64))
        >>> logits.shape, aux
        (torch.Size([2, 5]), {})
    """

    def __init__(
        self, in_shape: tuple[int, ...], *, num_classes: int, backbone: Backbone, dropout: float = 0.7
    ) -> None:
        super().__init__()
        _check_colour(in_shape)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.out_channels, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.classifier(self.dropout(self.backbone(image).mean((2, 3)))), {}


class ImageSTCNN(nn.Module):
    """Parallel transformers on the image, a backbone for each crop, one classifier of all crops (section 4.3).

    The transformers share one localisation network: backbone, 1x1 convolution to 128 channels, 128 fully connected
    units, theta. Every backbone starts as a copy of the one given, and no two share parameters.

    Args:
        in_shape: (3, H, H) of the image.
        num_classes: number of classes.
        backbone: the convolutional part.
        transform: the family of crops. The paper has `Translation`, with windows of half the image's side.
        num_transformers: K. They start as `tiling` says.
        crop: side of each crop, pixels. None: the image's side.
        seen: side of what the localisation network sees, pixels; the image's side must be a multiple of it. The image
            is averaged down. None: the image's side.
        dropout: share of the features that is dropped in training.

    Shape:
        Images (B, 3, H, H) in [0, 1] -> logits (B, num_classes), and `theta` (B, K, num_params) and `warped`
        (B, K, 3, crop, crop).

    Raises:
        ValueError: The image is not square or not in colour, `seen` does not divide its side, `num_transformers` is
            below 1, or all transformers would start alike.

    Examples:
        >>> backbone = Backbone("mobilenet_v2", weights="none")
        >>> transform = Translation(0.5)
        >>> model = ImageSTCNN(
        ...     (3, 64, 64), num_classes=5, backbone=backbone, transform=transform, num_transformers=2, crop=32
        ... )
        >>> logits, aux = model.eval()(torch.rand(2, 3, 64, 64))
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        (torch.Size([2, 5]), torch.Size([2, 2, 2]), torch.Size([2, 2, 3, 32, 32]))
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        *,
        num_classes: int,
        backbone: Backbone,
        transform: Transform,
        num_transformers: int = 1,
        crop: int | None = None,
        seen: int | None = None,
        dropout: float = 0.7,
    ) -> None:
        super().__init__()
        _check_colour(in_shape)
        if in_shape[1] != in_shape[2]:
            raise ValueError(f"These networks take square images, not {in_shape[1]} x {in_shape[2]} pixels.")
        crop, seen = crop or in_shape[1], seen or in_shape[1]
        if in_shape[1] % seen:
            raise ValueError(
                f"model.seen={seen} must divide the image's side, {in_shape[1]} pixels: the localisation network sees "
                "it averaged down."
            )
        self.in_shape = tuple(in_shape)
        self.factor = in_shape[1] // seen
        trunk = BackboneTrunk(copy.deepcopy(backbone), seen)
        network = LocalisationNetwork(trunk, transform, starts=tiling(transform, num_transformers))
        self.transformers = ParallelTransformers([network], transform, (crop, crop))
        self.backbones = nn.ModuleList(
            [backbone, *(copy.deepcopy(backbone) for _ in range(num_transformers - 1))]
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(num_transformers * backbone.out_channels, num_classes)
        self.register_load_state_dict_pre_hook(_rename_parallel)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        theta = self.locate(image)
        features, warped = self.describe(image, theta)
        return self.classify(features, self.draw_dropout(features)), {"theta": theta, "warped": warped}

    def locate(self, image: Tensor) -> Tensor:
        """Where the localisation network places the windows.

        Args:
            image: (B, 3, H, H) in [0, 1].

        Returns:
            theta, (B, K, num_params).

        Raises:
            ValueError: The images are not of `in_shape`.
        """
        check_shape(self, image, self.in_shape)
        return self.transformers.locate(F.avg_pool2d(image, self.factor) if self.factor > 1 else image)

    def describe(self, image: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The features of the crops at any theta.

        Args:
            image: (B, 3, H, H) in [0, 1].
            theta: (B, K, num_params).

        Returns:
            The mean of each crop's backbone features over all places, one crop after the other, (B, K * channels); and
            the crops, (B, K, 3, crop, crop).
        """
        warped = self.transformers.warp(image, theta)
        each = [
            backbone(crop).mean((2, 3))
            for backbone, crop in zip(self.backbones, warped.unbind(1), strict=True)
        ]
        return torch.cat(each, 1), warped

    def draw_dropout(self, features: Tensor) -> Tensor:
        """The factors of one draw of dropout, for `classify`: two calls with the same factors drop the same features.

        Args:
            features: (B, K * channels), for shape and dtype.

        Returns:
            (B, K * channels): in training 0 or 1 / (1 - dropout), in evaluation 1.
        """
        return self.dropout(torch.ones_like(features))

    def classify(self, features: Tensor, kept: Tensor) -> Tensor:
        """The logits of features.

        Args:
            features: (B, K * channels), as of `describe`.
            kept: (B, K * channels), as of `draw_dropout`.

        Returns:
            (B, num_classes).
        """
        return self.classifier(features * kept)


class BackboneTrunk(nn.Sequential):
    """The trunk of the birds' localisation network: backbone, 1x1 convolution, fully connected layer (section 4.3).

    The convolution has 128 channels and the fully connected layer 128 units.

    Args:
        backbone: the convolutional part.
        seen: side of the input, pixels.

    Shape:
        (B, 3, seen, seen) -> (B, 128).

    Raises:
        ValueError: In `forward`, the image is of another size.

    Examples:
        >>> BackboneTrunk(Backbone("mobilenet_v2", weights="none"), 64)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """

    def __init__(self, backbone: Backbone, seen: int) -> None:
        side = math.ceil(seen / 32)
        super().__init__(
            backbone,
            nn.Conv2d(backbone.out_channels, 128, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * side**2, 128),
            nn.ReLU(),
        )
        self.in_shape = (3, seen, seen)
        self.out_features = 128

    def forward(self, image: Tensor) -> Tensor:
        check_shape(self, image, self.in_shape)
        return super().forward(image)


def tiling(transform: Transform, count: int) -> Tensor:
    """Where parallel transformers start: windows of half the image's side that tile it (section 4.3).

    One window starts at the identity of the transform; for a translation, that is the middle. Two have their centres at
    x = -0.5 and 0.5, as in the paper. A square number n^2 from 4 on gives n rows of n; any other number gives one row.
    Centres run from -0.5 to 0.5.

    Args:
        transform: the family of windows.
        count: K, the number of windows.

    Returns:
        (K, num_params).

    Raises:
        ValueError: `count` is below 1, or above 1 for a transform without a window to place.

    Examples:
        >>> tiling(Translation(0.5), 2).tolist()
        [[-0.5, 0.0], [0.5, 0.0]]
    """
    if count < 1:
        raise ValueError(f"model.num_transformers={count} is not valid: it is a whole number from 1.")
    if count == 1:
        return transform.identity()[None]
    root = math.isqrt(count)
    square = count >= 4 and root * root == count
    across = torch.linspace(-0.5, 0.5, root if square else count)
    down = across if square else torch.zeros(1)
    centres = torch.stack([torch.stack([x, y]) for y in down for x in across])  # (count, 2)
    x, y = centres.T
    half, zero = torch.full_like(x, 0.5), torch.zeros_like(x)
    if isinstance(transform, Translation):
        return centres
    if isinstance(transform, Attention):
        return torch.stack([half, x, y], 1)
    if isinstance(transform, Affine):
        return torch.stack([half, zero, x, zero, half, y], 1)
    raise ValueError(
        f"{count} transformers of {type(transform).__name__} would all start alike, and stay alike: choose "
        "transform=translation, attention or affine, or model.num_transformers=1."
    )


def _rename_parallel(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Older checkpoints call the transformers `parallel`, with one network without a number."""
    old = f"{prefix}parallel."
    for key in [key for key in state if key.startswith(old)]:
        state[f"{prefix}transformers.0.{key.removeprefix(old)}"] = state.pop(key)


def _check_colour(in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 3 or in_shape[0] != 3:
        raise ValueError(
            f"These networks take colour images (3, H, W), not {tuple(in_shape)}: choose a data set of colour images, "
            "such as dataset=cub50; of your own, dataset.channels=3."
        )
