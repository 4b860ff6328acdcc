"""Batches of digits: endless and distorted afresh for training, or drawn once for validation and test."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from stn.seeds import stream_seed

__all__ = ["FixedSet", "Shuffled", "TrainStream"]


class Shuffled:
    """The order of training images: shuffled anew every epoch, without the remainder that is smaller than a batch.

    Args:
        count: of the training images.
        batch_size: from 1 to `count`.
        generator: of the order, and of what else a stream draws; it is a part of the state. Its device has the indices.
        what: the images are, for the messages.

    Raises:
        ValueError: The batch is larger than the training set, or empty.

    Examples:
        >>> order = Shuffled(5, batch_size=2, generator=torch.Generator().manual_seed(0))
        >>> len(set(torch.cat([order.draw(), order.draw()]).tolist()))
        4
    """

    def __init__(
        self, count: int, *, batch_size: int, generator: torch.Generator, what: str = "images"
    ) -> None:
        if not 1 <= batch_size <= count:
            raise ValueError(
                f"A training batch of {batch_size} needs as many training {what}, and there are {count}: "
                "lower trainer.batch_size."
            )
        self.count, self.batch_size, self.generator, self.what = count, batch_size, generator, what
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = torch.randperm(self.count, generator=self.generator, device=self.generator.device)
        self.position = 0

    def draw(self) -> Tensor:
        """Which images come next.

        Returns:
            (batch_size,), from 0 to `count` - 1.
        """
        if self.position + self.batch_size > self.count:
            self._shuffle()
        drawn = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The state, for `load_state_dict`: generator, order and position."""
        order = self.order.to(torch.int32)
        return {"generator": self.generator.get_state(), "order": order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Args:
            state: as of `state_dict`, on any device.

        Raises:
            ValueError: The state is of a stream over another number of images.
        """
        if len(state["order"]) != self.count:
            raise ValueError(
                f"The state is of a stream over {len(state['order'])} training {self.what}, and here are "
                f"{self.count}: was dataset.val_size another?"
            )
        self.generator.set_state(state["generator"].cpu())
        self.order = state["order"].to(self.generator.device, torch.int64)
        self.position = state["position"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy.copy(self)  # the images are shared
        twin.generator = torch.Generator(self.generator.device)
        twin.load_state_dict(self.state_dict())
        return twin


class TrainStream(Shuffled):
    """Training batches without end: shuffled anew every epoch, each digit distorted afresh each time it is drawn.

    The remainder of an epoch that is smaller than a batch is dropped. From a restored state the same batches follow, to
    the bit.

    Args:
        images: (N, 1, H, H), uint8, the training digits.
        labels: (N,).
        distort: (images, generator) -> distorted images (B, 1, S, S), float32 in [0, 1].
        batch_size: from 1 to N.
        seed: of order and distortions.

    Raises:
        ValueError: The batch is larger than the training set, or empty.

    Examples:
        >>> images, labels = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
        >>> stream = TrainStream(images, labels, lambda x, _: x.float() / 255, batch_size=4, seed=0)
        >>> batch, labels = stream.next_batch()
        >>> batch.shape, batch.dtype, len(set(labels.tolist()))
        (torch.Size([4, 1, 28, 28]), torch.float32, 4)
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
        generator = torch.Generator(images.device).manual_seed(stream_seed(seed, "train"))
        super().__init__(len(images), batch_size=batch_size, generator=generator, what="digits")
        self.images, self.labels, self.distort = images, labels, distort

    def next_batch(self) -> tuple[Tensor, ...]:
        """The next batch.

        Returns:
            Images (batch_size, 1, S, S), float32 in [0, 1], and labels (batch_size,), on the device of the digits.
        """
        return self.batch(self.draw())

    def batch(self, drawn: Tensor) -> tuple[Tensor, ...]:
        """The second half of `next_batch`: these digits, distorted.

        It never waits for a GPU, so that a CUDA graph may record it.

        Args:
            drawn: (batch_size,), as of `draw`.

        Returns:
            As `next_batch`.
        """
        return self.distort(self.images.index_select(0, drawn), self.generator), self.labels[drawn]


@dataclass(frozen=True)
class FixedSet:
    """Images that were drawn once.

    Attributes:
        images: (N, C, S, S), or (N, C, D, S, S) for volumes, uint8.
        labels: (N,) classes, or (N, ...) other targets.
        extra: each (N, ...), what else is known of the images, such as the angles that they were turned by.

    Examples:
        >>> fixed = FixedSet(torch.full((3, 1, 4, 4), 255, dtype=torch.uint8), torch.arange(3))
        >>> [(images.shape, labels.tolist()) for images, labels in fixed.batches(2)]
        [(torch.Size([2, 1, 4, 4]), [0, 1]), (torch.Size([1, 1, 4, 4]), [2])]
    """

    images: Tensor
    labels: Tensor
    extra: tuple[Tensor, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the pixels: two results with one fingerprint were measured on the same images."""
        return hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes()).hexdigest()

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
        """All images once, in order.

        Args:
            batch_size: of all batches but the last, which has what is left.

        Yields:
            Images (B, C, S, S), float32 in [0, 1], their labels, and what else is known of them.
        """
        for start in range(0, len(self.images), batch_size):
            chosen = slice(start, start + batch_size)
            yield self.images[chosen].float() / 255, self.labels[chosen], *(x[chosen] for x in self.extra)
