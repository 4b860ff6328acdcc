"""Undistorted digits, and those that are embedded in scikit-learn."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Digits", "load_digits"]


@dataclass(frozen=True)
class Digits:
    """Undistorted digits in MNIST's layout.

    Attributes:
        name: of the data set.
        train_images: (N, 1, 28, 28), uint8, black background.
        train_labels: (N,), int64, 0 to 9.
        test_images: (M, 1, 28, 28), uint8.
        test_labels: (M,), int64, 0 to 9.

    Examples:
        >>> blank, labels = torch.zeros(5, 1, 28, 28, dtype=torch.uint8), torch.arange(5)
        >>> len(Digits("blank", blank, labels, blank[:2], labels[:2]).test_images)
        2
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn contains, in MNIST's layout.

    They are enlarged to 20x20 pixels by bilinear interpolation and framed by 4 black pixels. The split is fixed: of the
    digits sorted by class, every fifth is a test digit. The pixels are the same on every machine.

    Returns:
        1,437 training digits and 360 test digits.

    Examples:
        >>> digits = load_digits()
        >>> digits.train_images.shape, digits.test_labels[:5].tolist()
        (torch.Size([1437, 1, 28, 28]), [0, 2, 4, 7, 1])
    """
    from sklearn import datasets  # takes a second to import, and MNIST needs none of it

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).double()[:, None] / 16  # (1797, 1, 8, 8), in [0, 1]
    large = F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False).clamp(0, 1)
    # Many values lie exactly halfway between two integers. The small number makes all of them round up everywhere.
    images = F.pad((large * 255 + 1e-6).round().to(torch.uint8), (4, 4, 4, 4))
    labels = torch.from_numpy(bunch.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[::5]] = True
    return Digits("digits", images[~test], labels[~test], images[test], labels[test])
