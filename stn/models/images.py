"""Classifiers of photographs on a pretrained backbone, without and with parallel spatial transformers (section 4.3)."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.models.backbones import Backbone
from stn.models.mnist import Aux
from stn.transformer import ParallelTransformers
from stn.transforms import Affine, Attention, Transform, Translation

__all__ = ["ImageCNN", "ImageSTCNN", "tiling"]


class ImageCNN(nn.Module):
    """Backbone, mean over places, dropout, one linear layer.

    in_shape: (3, H, W).   forward: images (B, 3, H, W) in [0, 1] -> (logits (B, num_classes), {}).
    """

    def __init__(
        self, in_shape: tuple[int, ...], *, num_classes: int, backbone: Backbone, dropout: float = 0.7
    ) -> None:
        super().__init__()
        _check(in_shape)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.out_channels, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Aux]:
        return self.classifier(self.dropout(self.backbone(image).mean((2, 3)))), {}


class ImageSTCNN(nn.Module):
    """Parallel transformers on the image, a backbone for each of their crops, the pooled features put end to end.

    The localisation network is shared by all transformers: the backbone, a 1x1 convolution to 128 channels, 128 fully
    connected units, theta. All backbones begin as copies of the one given, and no two share parameters.

    in_shape: (3, H, H).   transform: what each crop may be; `Translation` in the paper, of half the image's side.
    num_transformers: in parallel, starting as `tiling` says.
    crop: side of what each gives its backbone, pixels; the image's unless given.
    seen: side of what the localisation network sees, pixels; an image larger by a whole factor is averaged down to it.
    forward: images (B, 3, H, H) in [0, 1] -> (logits (B, num_classes), aux with `theta` (B, K, num_params) and `warped`
    (B, K, 3, crop, crop)). With noise (B, K, num_params), the crops are those at theta + noise, and theta has no
    gradient through them; aux has `mirrored` too, the logits at theta - noise under the same dropout, without gradient.
    raises: ValueError for images that are not square or that `seen` does not divide, or transformers that would all
    start alike.
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
        _check(in_shape)
        if in_shape[1] != in_shape[2]:
            raise ValueError(f"These networks take square images, not {in_shape[1]} x {in_shape[2]} pixels.")
        crop, seen = crop or in_shape[1], seen or in_shape[1]
        if in_shape[1] % seen:
            raise ValueError(
                f"model.seen={seen} must divide the image's side, {in_shape[1]} pixels: the localisation network sees "
                "it averaged down."
            )
        self.factor = in_shape[1] // seen
        self.parallel = ParallelTransformers(
            Localisation(copy.deepcopy(backbone), seen),
            transform,
            tiling(transform, num_transformers),
            (crop, crop),
        )
        self.backbones = nn.ModuleList(
            [backbone, *(copy.deepcopy(backbone) for _ in range(num_transformers - 1))]
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(num_transformers * backbone.out_channels, num_classes)

    @property
    def transformers(self) -> list[ParallelTransformers]:
        """One entry a transformer, for what asks each for its transform."""
        return [self.parallel] * self.parallel.count

    def forward(self, image: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Aux]:
        seen = F.avg_pool2d(image, self.factor) if self.factor > 1 else image
        theta = self.parallel.locate(seen)
        at = theta if noise is None else theta.detach() + noise
        features, warped = self._read(image, at)
        kept = self.dropout(torch.ones_like(features))
        aux = {"theta": theta, "warped": warped}
        if noise is not None:
            with torch.no_grad():
                aux["mirrored"] = self.classifier(self._read(image, theta - noise)[0] * kept)
        return self.classifier(features * kept), aux

    def _read(self, image: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """returns: what the backbones make of the crops, pooled, end to end, and the crops."""
        warped = self.parallel.warp(image, theta)
        each = [
            backbone(crop).mean((2, 3))
            for backbone, crop in zip(self.backbones, warped.unbind(1), strict=True)
        ]
        return torch.cat(each, 1), warped


class Localisation(nn.Sequential):
    """Backbone -> 1x1 convolution to 128 channels -> 128 fully connected units.   seen: side of its input, pixels."""

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
        self.out_features = 128


def tiling(transform: Transform, count: int) -> Tensor:
    """Where parallel transformers begin: windows of half the image's side that tile it, the paper's (section 4.3).

    One begins as the transform's identity (a translation's in the middle), two at x = -0.5 and 0.5; a square number
    n^2 from 4 on as n rows of n, any other side by side, with centres from -0.5 to 0.5.
    returns: (count, num_params).
    raises: ValueError for several of a transform that has no window to place.
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


def _check(in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 3 or in_shape[0] != 3:
        raise ValueError(
            f"These networks take colour images (3, H, W), not {tuple(in_shape)}: choose a data set of photographs, "
            "such as dataset=cub50."
        )
