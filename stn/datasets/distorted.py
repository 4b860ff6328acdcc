"""Digits under a distortion (section 4.1): a stream for training, fixed draws for validation and test."""

import inspect
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from stn.datasets.digits import Digits
from stn.datasets.poses import draw_poses
from stn.datasets.streams import FixedSet, TrainStream
from stn.seeds import stream_seed

__all__ = ["DistortedDigits", "TurnedDigits", "bind_source"]

CHUNK = 1000  # digits of a fixed set that are distorted at once. It orders the random draws: another gives other pixels


class DistortedDigits:
    """Digits under a distortion (section 4.1).

    The test set depends on `test_seed` alone. It is drawn on the CPU in float64, so that it is the same on every
    machine, and made on first use.

    Args:
        digits: the undistorted digits.
        distort: a function of `stn.datasets.distortions` with its options bound. An open parameter `source` is bound to
            the training digits without those held out; for the test set, to all training digits, so that the test set
            is the same for every `val_size`.
        val_size: number of training digits that are held out for validation, the same ones for every seed.
        seed: of the training stream.
        test_seed: of the fixed draws.
        device: of the training and test images.

    Attributes:
        name: of the undistorted digits.
        digits: the undistorted digits.
        distort: as given.
        num_classes: number of classes.
        val: the `FixedSet` for validation, None without digits held out.
        test: the `FixedSet` for the test.

    Raises:
        ValueError: `val_size` is negative or leaves nothing to train on.

    Examples:
        >>> from stn.datasets.digits import load_digits
        >>> from stn.datasets.distortions import rotate
        >>> data = DistortedDigits(load_digits(), rotate, val_size=100)
        >>> data.in_shape, len(data.test.images), data.train_stream(16).next_batch()[0].shape
        ((1, 28, 28), 360, torch.Size([16, 1, 28, 28]))
    """

    num_classes = 10
    chunk = CHUNK

    def __init__(
        self,
        digits: Digits,
        distort: Callable[..., Tensor],
        *,
        val_size: int = 0,
        seed: int = 0,
        test_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        total = len(digits.train_images)
        if not 0 <= val_size < total:
            raise ValueError(
                f"dataset.val_size={val_size} is not valid: 0 to {total - 1} of {total} training digits."
            )
        self.name = digits.name
        self.device = torch.device(device)
        self.digits, self.distort = digits, distort
        self._seed, self._test_seed = seed, test_seed
        order = torch.randperm(total, generator=torch.Generator().manual_seed(stream_seed(0, "split")))
        self.train_index, self.val_index = order[: total - val_size], order[total - val_size :]
        images = digits.train_images if not val_size else digits.train_images[self.train_index]
        labels = digits.train_labels if not val_size else digits.train_labels[self.train_index]
        self._images, self._labels = images.to(self.device), labels.to(self.device)
        self._distort = bind_source(distort, self._images)

    @cached_property
    def in_shape(self) -> tuple[int, ...]:
        """The shape of the network's input, (C, H, W) or (C, D, H, W)."""
        return self.digit_shape

    @cached_property
    def digit_shape(self) -> tuple[int, ...]:
        """The shape of one distorted digit, (C, H, W) or (C, D, H, W)."""
        shape = self._distort(self._images[:1], torch.Generator(self.device).manual_seed(0)).shape
        return tuple(shape[1:])

    def train_stream(self, batch_size: int) -> TrainStream:
        """Training batches without end.

        Args:
            batch_size: from 1 to the number of training digits.

        Returns:
            A new stream, at its start.

        Raises:
            ValueError: The batch is larger than the training set, or empty.
        """
        return TrainStream(self._images, self._labels, self._distort, batch_size=batch_size, seed=self._seed)

    @cached_property
    def test(self) -> FixedSet:
        distort = bind_source(self.distort, self.digits.train_images)
        return self._fix(self.digits.test_images, self.digits.test_labels, distort, "test")

    @cached_property
    def test_poses(self) -> dict[str, Tensor] | None:
        """The poses that the distortion gave the test digits, as `draw_poses`; None where it is not known of it."""
        return self._poses("test")

    def _poses(self, which: str) -> dict[str, Tensor] | None:
        """Repeats the random numbers of `_fix`, without the images."""
        generator = torch.Generator().manual_seed(stream_seed(self._test_seed, which))
        distort = bind_source(self.distort, self.digits.train_images)
        images = self.digits.test_images
        forms = (one.new_zeros((), dtype=torch.float64).expand(one.shape) for one in images.split(self.chunk))
        drawn = [draw_poses(distort, form, generator) for form in forms]
        known = [one for one in drawn if one is not None]
        if len(known) < len(drawn):
            return None
        return {key: torch.cat([one[key] for one in known]).float() for key in known[0]}

    @cached_property
    def val(self) -> FixedSet | None:
        if not len(self.val_index):
            return None
        images, labels = self.digits.train_images, self.digits.train_labels
        distort = bind_source(self.distort, images[self.train_index])
        return self._fix(images[self.val_index], labels[self.val_index], distort, "val")

    def _fix(
        self,
        images: Tensor,
        labels: Tensor,
        distort: Callable[[Tensor, torch.Generator], Tensor],
        which: str,
    ) -> FixedSet:
        generator = torch.Generator().manual_seed(stream_seed(self._test_seed, which))
        pixels = torch.cat(
            [
                (distort(chunk.double() / 255, generator) * 255).round().clamp(0, 255).to(torch.uint8)
                for chunk in images.split(self.chunk)
            ]
        )
        return FixedSet(pixels.to(self.device), labels.to(self.device))


class TurnedDigits(DistortedDigits):
    """`DistortedDigits` whose fixed sets also tell the angle of each digit: batches are images, labels, angles (B,).

    The images and their fingerprint are those of `DistortedDigits`. Angles are in degrees, as the distortion's.
    Arguments and errors are those of `DistortedDigits`.

    Raises:
        ValueError: The distortion has no option `return_angle`.

    Examples:
        >>> from stn.datasets.digits import load_digits
        >>> from stn.datasets.distortions import rotate
        >>> images, labels, angles = next(iter(TurnedDigits(load_digits(), rotate).test.batches(8)))
        >>> images.shape, angles.shape
        (torch.Size([8, 1, 28, 28]), torch.Size([8]))
    """

    def _fix(self, images: Tensor, labels: Tensor, distort: Callable[..., Any], which: str) -> FixedSet:
        if "return_angle" not in inspect.signature(distort).parameters:
            raise ValueError("The angles of digits are known of a distortion with `return_angle`: rotate.")
        angles: list[Tensor] = []

        def turn(images: Tensor, generator: torch.Generator) -> Tensor:
            turned: Tensor
            turned, angle = distort(images, generator, return_angle=True)
            angles.append(angle)
            return turned

        fixed = super()._fix(images, labels, turn, which)
        return FixedSet(fixed.images, fixed.labels, (torch.cat(angles).float().to(self.device),))


def bind_source(distort: Callable[..., Any], source: Tensor) -> Callable[..., Any]:
    """Binds the parameter `source` of a distortion, where it has one without a value.

    Args:
        distort: a function of `stn.datasets.distortions`, or a partial of one.
        source: (N, 1, H, W), the digits to bind.

    Returns:
        The distortion with the source bound, or as it was.

    Examples:
        >>> from stn.datasets.distortions import rotate, translate_clutter
        >>> source = torch.zeros(1, 1, 28, 28)
        >>> bind_source(rotate, source) is rotate, bind_source(translate_clutter, source).keywords["source"] is source
        (True, True)
    """
    parameter = inspect.signature(distort).parameters.get("source")
    return partial(distort, source=source) if parameter and parameter.default is parameter.empty else distort
