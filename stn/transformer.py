"""The spatial transformer: localisation network, grid generator and sampler in one module (paper section 3)."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from stn.localisation import Head, LocalisationNetwork, count_features
from stn.sampler import sample
from stn.transforms import Transform

__all__ = ["ParallelTransformers", "SpatialTransformer", "localisation_parameters"]


class SpatialTransformer(nn.Module):
    """Predicts a warp for each image and applies it. It fits anywhere in a network (section 3.4).

    Args:
        localisation: the trunk, any module (B, C, H, W) -> (B, features) with an attribute `out_features`, or one whose
            last `nn.Linear` gives the features. `stn.localisation` has the paper's.
        transform: the family of warps. It sizes the head, which starts at the identity or at `start`.
        out_size: (H, W) of the output, or (D, H, W) for a transform of volumes; or one number, the length of every
            side. None: the size of the input.
        mode: `bilinear` or `nearest`, see `stn.sampler.sample`.
        padding: `zeros` or `border`, see `stn.sampler.sample`.
        start: (num_params,), theta at the start. None: the identity.
        head: module features -> theta (B, num_params), in place of one linear layer. It sets its own start.
        with_theta: whether `forward` returns theta too. False: the warped image alone, for `nn.Sequential`.

    Raises:
        ValueError: The number of features is unknown, `start` or `out_size` does not fit the transform, or `start` and
            `head` are both given.

    Examples:
        >>> from stn import Affine, FCTrunk
        >>> transformer = SpatialTransformer(FCTrunk((1, 28, 28)), Affine())
        >>> image = torch.rand(2, 1, 28, 28)
        >>> warped, theta = transformer(image)
        >>> bool((warped - image).abs().max() < 1e-4), theta[0].tolist()
        (True, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        >>> first = SpatialTransformer(FCTrunk((1, 28, 28)), Affine(), 14, with_theta=False)
        >>> nn.Sequential(first, nn.Flatten(), nn.Linear(14 * 14, 10))(image).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        localisation: nn.Module,
        transform: Transform,
        out_size: int | tuple[int, ...] | None = None,
        *,
        mode: str = "bilinear",
        padding: str = "zeros",
        start: Tensor | None = None,
        head: nn.Module | None = None,
        with_theta: bool = True,
    ) -> None:
        super().__init__()
        if head is not None and start is not None:
            raise ValueError("start is of the built-in head: a head of your own sets its own start.")
        self.localisation = localisation
        self.transform = transform
        self.head = Head(count_features(localisation), transform, start=start) if head is None else head
        self.out_size = _sides(out_size, transform)
        self.mode = mode
        self.padding = padding
        self.with_theta = with_theta

    def forward(self, image: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """Warps the image.

        Args:
            image: (B, C, H, W), or (B, C, D, H, W) for a transform of volumes.
            seen: what the localisation network sees, such as a smaller image. None: the image.

        Returns:
            The warped image (B, C, h, w), and theta (B, num_params), which may be fed forward. The warped image alone
            with `with_theta=False`.
        """
        theta = self.head(self.localisation(image if seen is None else seen))
        size = self.out_size or tuple(image.shape[2:])
        warped = sample(image, self.transform.grid(theta, size), mode=self.mode, padding=self.padding)
        return (warped, theta) if self.with_theta else warped


class ParallelTransformers(nn.Module):
    """K transformers of one image, all of one transform, side by side (section 3.4).

    The K transformers have a localisation network each (MNIST addition, appendix A.1), or share one (birds, section
    4.3). Transformers that share a network and start alike see and stay the same: give them different starts.

    Args:
        networks: the localisation networks. K is the sum of their `count`s; the order of the transformers is theirs.
        transform: the family of warps, that of the networks.
        out_size: (H, W) of the output, or (D, H, W) for a transform of volumes; or one number, the length of every
            side. None: the size of the input.
        mode: `bilinear` or `nearest`, see `stn.sampler.sample`.
        padding: `zeros` or `border`, see `stn.sampler.sample`.

    Attributes:
        count: K, the number of transformers.
        networks: the localisation networks.

    Raises:
        ValueError: There is no network, a network is of another transform, or `out_size` does not fit the transform.

    Examples:
        Two that have a network each, and two that share one and look at the left and the right half:

        >>> from stn import Affine, FCTrunk, LocalisationNetwork, Translation
        >>> image = torch.rand(5, 1, 28, 28)
        >>> each = [LocalisationNetwork(FCTrunk((1, 28, 28)), Affine()) for _ in range(2)]
        >>> warped, theta = ParallelTransformers(each, Affine())(image)
        >>> warped.shape, theta.shape
        (torch.Size([5, 2, 1, 28, 28]), torch.Size([5, 2, 6]))
        >>> starts = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
        >>> shared = LocalisationNetwork(FCTrunk((1, 28, 28)), Translation(0.5), starts=starts)
        >>> transformers = ParallelTransformers([shared], Translation(0.5), (14, 14))
        >>> transformers.count, transformers(image)[0].shape
        (2, torch.Size([5, 2, 1, 14, 14]))
    """

    def __init__(
        self,
        networks: Sequence[LocalisationNetwork],
        transform: Transform,
        out_size: int | tuple[int, ...] | None = None,
        *,
        mode: str = "bilinear",
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if not networks:
            raise ValueError("ParallelTransformers needs at least one localisation network.")
        # Named by number, not held in a ModuleList: so checkpoints written with a list of transformers still load.
        for k, network in enumerate(networks):
            if repr(network.transform) != repr(transform):
                raise ValueError(
                    f"Localisation network {k} predicts theta of {network.transform}, which is warped by {transform}: "
                    "give both the same transform."
                )
            self.add_module(str(k), network)
        self.transform = transform
        self.out_size = _sides(out_size, transform)
        self.mode = mode
        self.padding = padding

    @property
    def networks(self) -> list[LocalisationNetwork]:
        # By name: `children` gives a module once, however often it is used.
        named = {name: module for name, module in self._modules.items() if name.isdigit()}
        return cast(list[LocalisationNetwork], list(named.values()))

    @property
    def count(self) -> int:
        return sum(network.count for network in self.networks)

    def forward(self, image: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Warps the image K times.

        Args:
            image: (B, C, H, W), or (B, C, D, H, W) for a transform of volumes.
            seen: what the localisation networks see, such as a smaller image. None: the image.

        Returns:
            The warped images (B, K, C, h, w) and theta (B, K, num_params).
        """
        theta = self.locate(image if seen is None else seen)
        return self.warp(image, theta), theta

    def locate(self, seen: Tensor) -> Tensor:
        """The first half of `forward`: what the localisation networks predict.

        Args:
            seen: (B, C, H, W), what they see.

        Returns:
            theta, (B, K, num_params).
        """
        return torch.cat([network(seen) for network in self.networks], 1)

    def warp(self, image: Tensor, theta: Tensor) -> Tensor:
        """The second half of `forward`: the image warped by any theta.

        Args:
            image: (B, C, H, W), or (B, C, D, H, W) for a transform of volumes.
            theta: (B, K, num_params).

        Returns:
            The warped images, (B, K, C, h, w).
        """
        size = self.out_size or tuple(image.shape[2:])
        warped = [
            sample(image, self.transform.grid(each, size), mode=self.mode, padding=self.padding)
            for each in theta.unbind(1)
        ]
        return torch.stack(warped, 1)


def _sides(out_size: int | tuple[int, ...] | None, transform: Transform) -> tuple[int, ...] | None:
    if out_size is None:
        return None
    sides = (out_size,) * transform.dims if isinstance(out_size, int) else tuple(out_size)
    if len(sides) != transform.dims or min(sides) < 1:
        raise ValueError(
            f"out_size is one number, or {transform.dims} for {type(transform).__name__}, each from 1; not {out_size}."
        )
    return sides


def localisation_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that theta depends on: trunks and heads of all spatial transformers inside a model.

    They often need a learning rate of their own, since theta's gradient sums over all pixels. The order is that of the
    modules, trunk before head; the state of an optimizer in a checkpoint depends on it.

    Args:
        model: any module.

    Returns:
        Each parameter once. Empty without a spatial transformer.

    Examples:
        >>> from stn import Affine, FCTrunk
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> localisation_parameters(model)
        []
        >>> len(localisation_parameters(SpatialTransformer(FCTrunk((1, 28, 28)), Affine())))
        8
    """
    found = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, SpatialTransformer | LocalisationNetwork)
        for part in (module.localisation, module.head)
        for parameter in part.parameters()
    }
    return list(found.values())
