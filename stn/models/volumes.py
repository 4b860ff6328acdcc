"""Networks for volumes (appendix A.3): projected along the depth, then section 4.1's CNN, with or without an ST."""

from torch import Tensor, nn

from stn.localisation import ConvTrunk3d, LocalisationNetwork
from stn.models.budget import solve_width
from stn.models.mnist import CNN, STN
from stn.transformer import ParallelTransformers
from stn.transforms import Transform

__all__ = ["ProjectedCNN", "cnn_3d", "st_cnn_3d"]

VolumeShape = tuple[int, int, int, int]


class ProjectedCNN(nn.Module):
    """The mean of a volume along its depth, then the CNN of section 4.1 (appendix A.3).

    Args:
        in_shape: (C, D, H, W) of the volume; H and W are at least 21 voxels.
        num_classes: number of classes.
        width: filters of each convolution.

    Shape:
        (B, C, D, H, W) -> logits (B, num_classes), and an empty dict.

    Raises:
        ValueError: H or W is too small for the two convolutions.

    Examples:
        >>> logits, aux = ProjectedCNN((1, 9, 28, 28), width=4)(torch.rand(2, 1, 9, 28, 28))
        >>> logits.shape, aux
        (torch.Size([2, 10]), {})
    """

    def __init__(self, in_shape: VolumeShape, *, num_classes: int = 10, width: int) -> None:
        super().__init__()
        channels, _, height, side = in_shape
        self.cnn = CNN((channels, height, side), num_classes=num_classes, width=width)
        self.width = width

    def forward(self, volume: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, aux = self.cnn(volume.mean(2))
        return logits, aux


def cnn_3d(
    in_shape: VolumeShape, *, num_classes: int = 10, width: int | None = None, param_budget: int = 400_000
) -> nn.Module:
    """The baseline for volumes, without a transformer (appendix A.3).

    Args:
        in_shape: (C, D, H, W) of the volume.
        num_classes: number of classes.
        width: filters of each convolution. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.

    Returns:
        A `ProjectedCNN`.

    Raises:
        ValueError: `in_shape` is of images or too small, or the budget is too small for any width.

    Examples:
        >>> cnn_3d((1, 32, 32, 32)).width
        89
    """
    _check_volumes(in_shape)

    def make(width: int) -> nn.Module:
        return ProjectedCNN(in_shape, num_classes=num_classes, width=width)

    return make(solve_width(make, param_budget) if width is None else width)


def st_cnn_3d(
    in_shape: VolumeShape,
    *,
    transform: Transform,
    num_classes: int = 10,
    num_transformers: int = 1,
    width: int | None = None,
    param_budget: int = 400_000,
) -> nn.Module:
    """The `ProjectedCNN` behind parallel transformers of volumes (appendix A.3).

    Args:
        in_shape: (C, D, H, W) of the volume.
        transform: the family of warps, of volumes.
        num_classes: number of classes.
        num_transformers: K; each has a localisation network of its own, with a `ConvTrunk3d`.
        width: filters of each convolution of the classifier. None: as many as `param_budget` allows.
        param_budget: number of parameters of the whole network.

    Returns:
        An `STN`.

    Raises:
        ValueError: `in_shape` or `transform` is of images, the volume is too small, `num_transformers` is below 1, or
            the budget is too small for any width.

    Examples:
        >>> from stn import Affine3d
        >>> model = st_cnn_3d((1, 32, 32, 32), transform=Affine3d(), width=4)
        >>> logits, aux = model(torch.rand(2, 1, 32, 32, 32))
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        (torch.Size([2, 10]), torch.Size([2, 1, 12]), torch.Size([2, 1, 1, 32, 32, 32]))
    """
    _check_volumes(in_shape)
    if transform.dims != 3:
        raise ValueError(
            f"{type(transform).__name__} transforms images, and these are volumes: choose transform=affine3d."
        )
    if num_transformers < 1:
        raise ValueError(f"num_transformers is at least 1, not {num_transformers}.")
    channels, depth, height, side = in_shape

    def make(width: int) -> nn.Module:
        networks = [LocalisationNetwork(ConvTrunk3d(in_shape), transform) for _ in range(num_transformers)]
        warped_shape = (num_transformers * channels, depth, height, side)
        classifier = ProjectedCNN(warped_shape, num_classes=num_classes, width=width)
        return STN(ParallelTransformers(networks, transform), classifier)

    return make(solve_width(make, param_budget) if width is None else width)


def _check_volumes(in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 4:
        raise ValueError(
            f"cnn_3d and st_cnn_3d take volumes (C, D, H, W), not {tuple(in_shape)}: choose model=cnn or st_cnn."
        )
