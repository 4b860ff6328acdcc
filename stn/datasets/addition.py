"""MNIST addition (appendix A.1): two digits, each distorted in a channel of its own, and their sum."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stn.datasets.distorted import DistortedDigits
from stn.datasets.streams import FixedSet
from stn.seeds import stream_seed

__all__ = ["AddedDigits", "PairStream"]


class PairStream:
    """Training pairs without end: two digits drawn at random, each distorted afresh and independently of the other.

    From a restored state the same batches follow, to the bit.

    Args:
        images: (N, 1, H, H), uint8, the training digits.
        labels: (N,), 0 to 9.
        distort: (images, generator) -> distorted images (B, 1, S, S), float32 in [0, 1].
        batch_size: number of pairs.
        seed: of draws and distortions.

    Examples:
        >>> images, labels = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
        >>> stream = PairStream(images, labels, lambda x, _: x.float() / 255, batch_size=4, seed=0)
        >>> batch, sums = stream.next_batch()
        >>> batch.shape, sums.shape
        (torch.Size([4, 2, 28, 28]), torch.Size([4]))
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        distort: Callable[[Tensor, torch.Generator], Tensor],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self.images, self.labels, self.distort, self.batch_size = images, labels, distort, batch_size
        self.generator = torch.Generator(images.device).manual_seed(stream_seed(seed, "train pairs"))

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch.

        Returns:
            Images (batch_size, 2, S, S), float32 in [0, 1], and sums (batch_size,), on the device of the digits.
        """
        return self.batch(self.draw())

    def draw(self) -> Tensor:
        """The first half of `next_batch`: which digits come next.

        Returns:
            (batch_size, 2), indices into the training digits.
        """
        size = (self.batch_size, 2)
        return torch.randint(len(self.images), size, generator=self.generator, device=self.images.device)

    def batch(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The second half of `next_batch`: these pairs, distorted.

        It never waits for a GPU, so that a CUDA graph may record it.

        Args:
            drawn: (batch_size, 2), as of `draw`.

        Returns:
            As `next_batch`.
        """
        images = self.distort(self.images.index_select(0, drawn.flatten()), self.generator)
        return images.unflatten(0, (-1, 2)).flatten(1, 2), self.labels[drawn].sum(1)

    def state_dict(self) -> dict[str, Any]:
        """The state, for `load_state_dict`: generator and number of digits."""
        return {"generator": self.generator.get_state(), "digits": len(self.images)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Args:
            state: as of `state_dict`, on any device.

        Raises:
            ValueError: The state is of a stream over another number of digits.
        """
        if state["digits"] != len(self.images):
            raise ValueError(
                f"The state is of a stream over {state['digits']} training digits, and here are "
                f"{len(self.images)}: was dataset.val_size another?"
            )
        self.generator.set_state(state["generator"].cpu())

    def __deepcopy__(self, memo: dict[int, Any]) -> "PairStream":
        twin = copy.copy(self)  # the digits are shared
        twin.generator = torch.Generator(self.images.device)
        twin.load_state_dict(self.state_dict())
        return twin


class AddedDigits(DistortedDigits):
    """Pairs of digits, one in each channel, labelled with their sum, 0 to 18 (appendix A.1).

    Arguments and errors are those of `DistortedDigits`. A fixed set pairs digit i with digit p(i) of a seeded
    permutation p: every digit is in it twice, once in each channel.

    Examples:
        >>> from stn.datasets.digits import load_digits
        >>> from stn.datasets.distortions import rotate
        >>> data = AddedDigits(load_digits(), rotate)
        >>> data.in_shape, data.num_classes, len(data.test.images)
        ((2, 28, 28), 19, 360)
    """

    num_classes = 19

    @cached_property
    def in_shape(self) -> tuple[int, ...]:
        channels, *size = self.digit_shape
        return 2 * channels, *size

    def train_stream(self, batch_size: int) -> PairStream:  # type: ignore[override]
        """Training pairs without end.

        Args:
            batch_size: number of pairs.

        Returns:
            A new stream, at its start.
        """
        return PairStream(self._images, self._labels, self._distort, batch_size=batch_size, seed=self._seed)

    @cached_property
    def test_poses(self) -> dict[str, Tensor] | None:
        """As of `DistortedDigits`: of the digits in the first channel, then of those in the second."""
        first, second = (self._poses(f"test {which}") for which in ("first", "second"))
        if first is None or second is None:
            return None
        return {key: torch.cat([first[key], second[key]]) for key in first}

    def _fix(
        self, images: Tensor, labels: Tensor, distort: Callable[[Tensor, torch.Generator], Tensor], which: str
    ) -> FixedSet:
        generator = torch.Generator().manual_seed(stream_seed(self._test_seed, f"{which} pairs"))
        partner = torch.randperm(len(images), generator=generator)
        first = super()._fix(images, labels, distort, f"{which} first")
        second = super()._fix(images[partner], labels[partner], distort, f"{which} second")
        return FixedSet(torch.cat([first.images, second.images], dim=1), first.labels + second.labels)
