"""Data sets of images of any size: cropped and mirrored at random for training, their middles for the test."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stn.datasets.image_cache import ImageCache, shorter_side
from stn.datasets.streams import Shuffled
from stn.files import list_problems
from stn.seeds import stream_seed

__all__ = ["FixedImages", "ImageDataset", "ImageStream"]


class ImageStream(Shuffled):
    """Training batches without end: shuffled anew every epoch, a random crop of each image, half of them mirrored.

    The remainder of an epoch that is smaller than a batch is dropped. From a restored state the same batches follow, to
    the bit.

    Args:
        cache: the decoded images.
        index: (N,), which images of the cache are trained on.
        labels: of all images of the cache.
        size: side of the crops, pixels.
        batch_size: from 1 to N.
        seed: of order, crops and mirroring.
        device: of the batches.
        mirror: whether half of the images are mirrored.

    Attributes:
        rows: a slice of every batch. Only these rows are decoded and returned; the random draws are those of all.

    Raises:
        ValueError: The batch is larger than the training set, or empty.
    """

    rows = slice(None)

    def __init__(
        self,
        cache: ImageCache,
        index: Tensor,
        labels: Tensor,
        *,
        size: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        mirror: bool = True,
    ) -> None:
        generator = torch.Generator().manual_seed(stream_seed(seed, "train"))
        super().__init__(len(index), batch_size=batch_size, generator=generator)
        self.cache, self.index, self.labels = cache, index, labels
        self.size, self.device, self.mirror = size, device, mirror

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch.

        Returns:
            Images (batch_size, C, size, size), float32 in [0, 1], and labels (batch_size,), on the device.
        """
        drawn = self.index[self.draw()]
        chances = torch.rand(len(drawn), 3, generator=self.generator)[self.rows].tolist()
        drawn = drawn[self.rows]
        images = np.empty((len(drawn), self.size, self.size, self.cache.channels), np.uint8)
        for row, (i, (y, x, side)) in enumerate(zip(drawn.tolist(), chances, strict=True)):
            height, width = self.cache.shape(i)
            top, left = int(y * (height - self.size + 1)), int(x * (width - self.size + 1))
            crop = self.cache.crop(i, top, left, self.size)
            images[row] = crop[:, ::-1] if self.mirror and side < 0.5 else crop
        return _to_device(images, self.device), self.labels[drawn].to(self.device)


def _to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, h, w, C) bytes -> (B, C, h, w) float32 in [0, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class FixedImages:
    """Images for validation or test, the middle square of each.

    Attributes:
        cache: the decoded images.
        index: (N,), which of them.
        labels: (N,).
        size: side of the squares, pixels.
        device: of the batches.
        names: of the files.
        extra: (N, ...), further numbers of each image for the evaluation, such as the places of a bird's parts.
    """

    cache: ImageCache
    index: Tensor
    labels: Tensor
    size: int
    device: torch.device
    names: Sequence[str]
    extra: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, rows: Sequence[int] | range) -> np.ndarray:
        """The middle squares of some images.

        Args:
            rows: their numbers in this set.

        Returns:
            (len(rows), size, size, C), uint8.
        """
        images = np.empty((len(rows), self.size, self.size, self.cache.channels), np.uint8)
        for k, row in enumerate(rows):
            i = int(self.index[row])
            height, width = self.cache.shape(i)
            images[k] = self.cache.crop(i, (height - self.size) // 2, (width - self.size) // 2, self.size)
        return images

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the pixels: two results with one fingerprint were measured on the same images."""
        digest = hashlib.sha256()
        for row in range(len(self)):
            digest.update(self.pixels(range(row, row + 1)).tobytes())
        return digest.hexdigest()

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
        """All images once, in order.

        Args:
            batch_size: of all batches but the last, which has what is left.

        Yields:
            Images (B, C, size, size), float32 in [0, 1], labels (B,), and `extra` (B, ...) where there is some.
        """
        for start in range(0, len(self), batch_size):
            rows = range(start, min(start + batch_size, len(self)))
            chosen = slice(rows.start, rows.stop)
            extra = () if self.extra is None else (self.extra[chosen].to(self.device),)
            yield _to_device(self.pixels(rows), self.device), self.labels[chosen].to(self.device), *extra


class ImageDataset:
    """A data set of images: a stream for training, fixed sets for validation and test.

    Images are scaled to 8/7 of `size` on their shorter side, and cut to `size`.

    Args:
        name: of the data set, and stem of its cache's name.
        files: of all images.
        labels: (N,), of all images.
        training: (N,), bool, which images are trained on.
        classes: names of the classes.
        size: side of the network's input, pixels, from 8.
        cache_dir: folder for the decoded images.
        channels: 3 for colour, 1 for grey.
        mirror: whether half of the training images are mirrored.
        validation: (N,), bool, which images are validated on, of those that are not trained on. None: none. The others
            are the test set.
        val_size: number of training images that are held out to validate on too, the same ones for every seed.
        seed: of the training stream.
        device: of the batches.

    Attributes:
        classes: names of the classes.
        files: of all images.
        cache: the decoded images.
        extra: (N, ...), as of `FixedImages`, for all images. A subclass may set it.
        val: the `FixedImages` for validation, None without images held out.
        test: the `FixedImages` for the test.

    Raises:
        ValueError: `size`, `channels`, `mirror` or `val_size` is out of range, a class has no image that is trained on,
            or images are missing or cannot be decoded.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = [Path(folder) / f"{i}.png" for i in range(4)]
        ...     for file in files:
        ...         Image.new("RGB", (60, 50)).save(file)
        ...     labels, training = torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, True, False])
        ...     data = ImageDataset("four", files, labels, training, ["a", "b"], size=32, cache_dir=folder)
        >>> data.in_shape, len(data.test), data.train_stream(2).next_batch()[0].shape
        ((3, 32, 32), 1, torch.Size([2, 3, 32, 32]))
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        labels: Tensor,
        training: Tensor,
        classes: Sequence[str],
        *,
        size: int,
        cache_dir: str | Path,
        channels: int = 3,
        mirror: bool = True,
        validation: Tensor | None = None,
        val_size: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 8:
            raise ValueError(f"dataset.size={size} is not valid: it is a number of pixels from 8.")
        if channels not in (1, 3):
            raise ValueError(f"dataset.channels={channels} is not valid: it is 3 for colour, 1 for grey.")
        if not isinstance(mirror, bool):
            raise ValueError(f"dataset.mirror={mirror} is not valid: it is true or false.")
        validation = torch.zeros_like(training) if validation is None else validation
        train = training.nonzero()[:, 0]
        self._test_index = (~training & ~validation).nonzero()[:, 0]
        if not 0 <= val_size < len(train):
            raise ValueError(
                f"dataset.val_size={val_size} is not valid: 0 to {len(train) - 1} of {len(train)} training images."
            )
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(stream_seed(0, "split")))
        self.train_index = train[order[: len(train) - val_size].sort().values]
        held_out = train[order[len(train) - val_size :].sort().values]
        self.val_index = torch.cat([held_out, validation.nonzero()[:, 0]])
        seen = set(labels[self.train_index].tolist())
        if unseen := [name for label, name in enumerate(classes) if label not in seen]:
            raise ValueError(
                f"{list_problems(unseen, 'classes have no image that is trained on')}. Lower dataset.val_size."
            )
        self.name, self.classes, self.size = name, list(classes), size
        self.files, self.device = list(files), torch.device(device)
        self.cache = ImageCache(
            files, side=shorter_side(size), folder=Path(cache_dir), name=name, channels=channels
        )
        self._labels, self._seed, self._mirror = labels, seed, mirror
        self.extra: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """The shape of the network's input, (channels, size, size)."""
        return self.cache.channels, self.size, self.size

    def train_stream(self, batch_size: int) -> ImageStream:
        """Training batches without end.

        Args:
            batch_size: from 1 to the number of training images.

        Returns:
            A new stream, at its start.

        Raises:
            ValueError: The batch is larger than the training set, or empty.
        """
        return ImageStream(
            self.cache,
            self.train_index,
            self._labels,
            size=self.size,
            batch_size=batch_size,
            seed=self._seed,
            device=self.device,
            mirror=self._mirror,
        )

    @cached_property
    def test(self) -> FixedImages:
        return self._fixed(self._test_index)

    @cached_property
    def val(self) -> FixedImages | None:
        return self._fixed(self.val_index) if len(self.val_index) else None

    def _fixed(self, index: Tensor) -> FixedImages:
        extra = None if self.extra is None else self.extra[index]
        above = os.path.commonpath([file.parent for file in self.files])
        names = [self.files[i].relative_to(above).as_posix() for i in index.tolist()]
        return FixedImages(self.cache, index, self._labels[index], self.size, self.device, names, extra)
