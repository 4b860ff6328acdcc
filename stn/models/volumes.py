"""Networks for volumes (appendix A.3): flattened along the depth, then section 4.1's CNN, with or without an ST."""

from torch import Tensor, nn

from stn.localisation import ConvTrunk3d
from stn.models.mnist import CNN, STN, Aux, solve_width
from stn.transformer import SpatialTransformer
from stn.transforms import Transform

__all__ = ["ProjectedCNN", "cnn_3d", "st_cnn_3d"]

VolumeShape = tuple[int, int, int, int]


class ProjectedCNN(nn.Module):
    """The mean along the depth, one image, to the CNN.   in_shape: (C, D, H, W).   forward: (B, C, D, H, W)."""

    def __init__(self, in_shape: VolumeShape, *, num_classes: int = 10, width: int) -> None:
        super().__init__()
        channels, _, height, side = in_shape
        self.cnn = CNN((channels, height, side), num_classes=num_classes, width=width)
        self.width = width

    def forward(self, volume: Tensor) -> tuple[Tensor, Aux]:
        return self.cnn(volume.mean(2))


def cnn_3d(
    in_shape: VolumeShape, *, num_classes: int = 10, width: int | None = None, param_budget: int = 400_000
) -> nn.Module:
    """The baseline: no transformer. in_shape: (C, D, H, W). width: filters, solved from the budget if None."""
    _check(in_shape)

    def make(w: int) -> nn.Module:
        return ProjectedCNN(in_shape, num_classes=num_classes, width=w)

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
    """The same behind `num_transformers` parallel transformers of volumes.

    raises: ValueError for a transform of images.
    """
    _check(in_shape)
    if transform.dims != 3:
        raise ValueError(
            f"{type(transform).__name__} transforms images, and these are volumes: choose transform=affine3d."
        )
    if num_transformers < 1:
        raise ValueError(f"num_transformers is at least 1, not {num_transformers}.")
    channels, depth, height, side = in_shape
    seen = (num_transformers * channels, depth, height, side)

    def make(w: int) -> nn.Module:
        transformers = [SpatialTransformer(ConvTrunk3d(in_shape), transform) for _ in range(num_transformers)]
        return STN(transformers, ProjectedCNN(seen, num_classes=num_classes, width=w))

    return make(solve_width(make, param_budget) if width is None else width)


def _check(in_shape: tuple[int, ...]) -> None:
    if len(in_shape) != 4:
        raise ValueError(
            f"cnn_3d and st_cnn_3d take volumes (C, D, H, W), not {tuple(in_shape)}: choose model=cnn or st_cnn."
        )
