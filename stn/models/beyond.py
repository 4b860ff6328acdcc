"""A network for distorted MNIST beyond the paper. Two others are options of `stn.models.mnist.st_cnn`."""

from torch import Tensor, nn

from stn.localisation import FCTrunk, LocalisationNetwork
from stn.models.mnist import CNN, Shape, average_pool, check_transform, of_width, warped_shape
from stn.transformer import ParallelTransformers
from stn.transforms import Transform

__all__ = ["SharedSTN", "st_cnn_shared"]


class SharedSTN(nn.Module):
    """An ST-CNN whose localisation network and classifier share their convolutions.

    The classifier's convolutions are applied twice: to the image, for theta, and to the warped image, for the class.
    The idea is that of Finnveden, Jansson and Lindeberg (2020), who share the first layers. Both times the image is
    pooled alike, so that a kernel sees digits at one scale. One fully connected layer with ReLU and the head, as in
    `ConvTrunk`, make theta of the features.

    The convolutions are the classifier's: `stn.localisation_parameters` has only what follows them in the localisation
    network, so that a learning rate of its own does not reach the classifier. What `transformers` see are features.

    Args:
        transform: the family of warps, of images.
        classifier: a CNN that takes (B, C, ceil(H / pool), ceil(W / pool)).
        pool: side of an average pooling before the convolutions. 1: none.
        features: units of the fully connected layer before the head.

    Shape:
        (B, C, H, W) -> logits (B, num_classes), and `theta` (B, 1, num_params) and `warped` (B, 1, C, H, W).

    Examples:
        >>> import torch
        >>> from stn import Affine
        >>> model = SharedSTN(Affine(), CNN((1, 28, 28), width=4))
        >>> logits, aux = model(torch.rand(2, 1, 28, 28))
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 6]), torch.Size([2, 1, 1, 28, 28]))
    """

    def __init__(self, transform: Transform, classifier: CNN, *, pool: int = 1, features: int = 20) -> None:
        super().__init__()
        trunk = FCTrunk((classifier.classifier.in_features, 1, 1), hidden=(features,))
        self.transformers = ParallelTransformers([LocalisationNetwork(trunk, transform)], transform)
        self.classifier = classifier
        self.pool = pool
        self.width = classifier.width

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        _, seen, _ = self.classifier.activations(self._pooled(image))
        features = seen.flatten(1)[:, :, None, None]  # (B, width * h * w, 1, 1)
        warped, theta = self.transformers(image, features)  # (B, 1, C, H, W), (B, 1, num_params)
        logits, _ = self.classifier(self._pooled(warped[:, 0]))
        return logits, {"theta": theta, "warped": warped}

    def _pooled(self, image: Tensor) -> Tensor:
        return average_pool(image, self.pool) if self.pool > 1 else image


def st_cnn_shared(
    in_shape: Shape,
    *,
    transform: Transform,
    num_classes: int = 10,
    pool: int = 1,
    width: int | None = None,
    param_budget: int = 400_000,
) -> nn.Module:
    """A `SharedSTN` of a budget of parameters.

    Args:
        in_shape: (C, H, W) of the image, at least 21 * pool pixels a side.
        transform: the family of warps, of images.
        num_classes: number of classes.
        pool: side of an average pooling before the convolutions. 1: none.
        width: filters of each convolution. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.

    Returns:
        A `SharedSTN`.

    Raises:
        ValueError: `in_shape` or `transform` is of volumes, the image is too small, `pool` is below 1, or the budget is
            too small for any width.

    Examples:
        >>> from stn import ThinPlateSpline
        >>> st_cnn_shared((1, 42, 42), transform=ThinPlateSpline(), pool=2).width
        89
    """
    classifier_shape = warped_shape(in_shape, 1, pool)
    check_transform(transform)

    def make(width: int) -> nn.Module:
        return SharedSTN(transform, CNN(classifier_shape, num_classes=num_classes, width=width), pool=pool)

    return of_width(make, width, param_budget)
