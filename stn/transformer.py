"""The spatial transformer: localisation network, grid generator and sampler in one module (paper section 3)."""

import torch
from torch import Tensor, nn

from stn.localisation import Head
from stn.sampler import sample
from stn.transforms import Transform

__all__ = ["ParallelTransformers", "SpatialTransformer", "localisation_parameters"]


class SpatialTransformer(nn.Module):
    """Warps its input as its localisation network tells it to. Drops in anywhere in a network (section 3.4).

    localisation: any module (B, C, H, W) -> (B, features) with an `out_features` attribute (a trunk of
        `stn.localisation`), or an nn.Sequential whose last fully connected layer tells it.
    transform: the family of warps; sizes the head and starts it at the identity (or at `start`).
    out_size: (H, W) of the output, or (D, H, W) for a transform of volumes; the input's where None.
    mode, padding: as in `stn.sampler.sample`.
    head: features -> theta, where it is to be more than one linear layer; then `start` is the head's own business.
    raises: ValueError where the number of features cannot be told.
    """

    def __init__(
        self,
        localisation: nn.Module,
        transform: Transform,
        out_size: tuple[int, ...] | None = None,
        *,
        mode: str = "bilinear",
        padding: str = "zeros",
        start: Tensor | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.localisation = localisation
        self.transform = transform
        self.head = head or Head(_out_features(localisation), transform, start=start)
        self.out_size = out_size
        self.mode = mode
        self.padding = padding

    def forward(self, image: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """image: (B, C, H, W), or (B, C, D, H, W) for a transform of volumes.

        seen: what the localisation network looks at, the image unless given.

        returns: the warped image (B, C, h, w) and theta (B, num_params), which may be fed forward.
        """
        theta = self.head(self.localisation(image if seen is None else seen))
        size = self.out_size or tuple(image.shape[2:])
        return sample(image, self.transform.grid(theta, size), mode=self.mode, padding=self.padding), theta


class ParallelTransformers(nn.Module):
    """Several transformers of one image that share a localisation network, as the birds' do (section 4.3).

    localisation, transform, out_size, mode, padding: as of `SpatialTransformer`.
    starts: (K, num_params), where each of the K transformers begins; equal ones would see, and stay, the same.
    raises: ValueError where the number of features cannot be told, or starts have another shape.
    """

    def __init__(
        self,
        localisation: nn.Module,
        transform: Transform,
        starts: Tensor,
        out_size: tuple[int, ...] | None = None,
        *,
        mode: str = "bilinear",
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if starts.ndim != 2 or starts.shape[1] != transform.num_params:
            raise ValueError(
                f"starts must be of shape (K, {transform.num_params}), not {tuple(starts.shape)}."
            )
        self.localisation = localisation
        self.transform = transform
        self.count = len(starts)
        self.head = Head(_out_features(localisation), transform, start=starts.flatten(), count=self.count)
        self.out_size = out_size
        self.mode = mode
        self.padding = padding

    def forward(self, image: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """image: (B, C, H, W).   seen: what the localisation network looks at, the image unless given.

        returns: the warped images (B, K, C, h, w) and theta (B, K, num_params).
        """
        theta = self.locate(image if seen is None else seen)
        return self.warp(image, theta), theta

    def locate(self, seen: Tensor) -> Tensor:
        """seen: what the localisation network looks at.   returns: theta (B, K, num_params)."""
        return self.head(self.localisation(seen)).unflatten(1, (self.count, -1))

    def warp(self, image: Tensor, theta: Tensor) -> Tensor:
        """image: (B, C, H, W).   theta: (B, K, num_params).   returns: (B, K, C, h, w)."""
        size = self.out_size or tuple(image.shape[2:])
        warped = [
            sample(image, self.transform.grid(theta[:, k], size), mode=self.mode, padding=self.padding)
            for k in range(self.count)
        ]
        return torch.stack(warped, 1)


def localisation_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter that theta depends on, of all spatial transformers inside `model`, each once."""
    found = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, SpatialTransformer | ParallelTransformers)
        for part in (module.localisation, module.head)
        for parameter in part.parameters()
    }
    return list(found.values())


def _out_features(localisation: nn.Module) -> int:
    features = getattr(localisation, "out_features", None)
    if features is None:
        linears = [module for module in localisation.modules() if isinstance(module, nn.Linear)]
        features = linears[-1].out_features if linears else None
    if features is None:
        raise ValueError(
            f"SpatialTransformer cannot tell how many features {type(localisation).__name__} gives: "
            "set its `out_features` attribute."
        )
    return int(features)
