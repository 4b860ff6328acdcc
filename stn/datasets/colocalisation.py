"""Co-localisation (appendix A.2): images that contain one digit class each, and random crops of them."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from stn.datasets.digits import Digits
from stn.datasets.distorted import bind_source
from stn.datasets.distortions import draw_clutter, paste_clutter
from stn.datasets.streams import FixedSet, TrainStream
from stn.seeds import stream_seed

__all__ = ["CropStream", "SharedDigit", "place_digit"]


def place_digit(
    images: Tensor,
    generator: torch.Generator,
    *,
    source: Tensor,
    canvas: int = 84,
    patches: int = 16,
    patch_size: int = 6,
) -> tuple[Tensor, Tensor]:
    """T or TC of appendix A.2: each unscaled digit at a uniform whole-pixel place, and its box.

    Args:
        images: (B, 1, H, H), floating point in [0, 1].
        generator: on the device of the images.
        source: (N, 1, H, W), the digits that patches are cut from.
        canvas: side of the result, pixels.
        patches: number of patches of other digits: 0 for T, 16 for TC.
        patch_size: side of a patch, pixels.

    Returns:
        Images (B, 1, canvas, canvas) in [0, 1], and boxes (B, 4), left, top, right, bottom in pixels between the edges
        of pixels.

    Raises:
        ValueError: The canvas has no room for the patches.

    Examples:
        >>> digit, generator = torch.ones(2, 1, 28, 28), torch.Generator().manual_seed(0)
        >>> images, boxes = place_digit(digit, generator, source=digit, patches=0)
        >>> left, top, right, bottom = boxes[0].int().tolist()
        >>> images.shape, bool((images[0, 0, top:bottom, left:right] == 1).all()), right - left
        (torch.Size([2, 1, 84, 84]), True, 28)
    """
    side = images.shape[-1]
    clutter = draw_clutter(images, generator, source, canvas, patches, patch_size)
    corner = torch.stack([clutter.left, clutter.top], 1)
    return paste_clutter(images, clutter, canvas), torch.cat([corner, corner + side], 1).float()


class CropStream(TrainStream):
    """Training batches without end: images in a new order every epoch, each with a shift and windows of random crops.

    From a restored state the same batches follow, to the bit.

    Args:
        images: (N, 1, S, S), uint8.
        roll: the largest shift, pixels across and down. It is left to the reader of a batch to shift the images
            (`roll_each`): a shift may cut a digit in two, which crops of the image as it was still show whole.
        crops: number of random crops of each image.
        smallest_crop: their least side, as a share of the image's. Logarithms of sides are uniform from there to 1, and
            places are uniform among those in the image.
        batch_size: from 1 to N.
        seed: of order, shifts and crops.

    Raises:
        ValueError: The batch is larger than the number of images, or empty.
    """

    def __init__(
        self, images: Tensor, *, roll: int, crops: int, smallest_crop: float, batch_size: int, seed: int
    ) -> None:
        labels = torch.zeros(len(images), device=images.device)  # never used: there are none
        super().__init__(images, labels, lambda images, _: images, batch_size=batch_size, seed=seed)
        self.roll, self.crops, self.smallest_crop = roll, crops, smallest_crop

    def batch(self, drawn: Tensor) -> tuple[Tensor, ...]:
        """The second half of `next_batch`.

        Args:
            drawn: (B,), as of `draw`.

        Returns:
            Images (B, 1, S, S), float32 in [0, 1]; shifts (B, 2), int64, pixels right and down; and the windows of the
            crops (B, crops, 3) in the images as they are, each (s, tx, ty) of eq. 2: its side as a share of the
            image's, and its centre, -1 to 1 from edge to edge.
        """
        images = self.images.index_select(0, drawn).float() / 255
        shift = torch.randint(
            -self.roll, self.roll + 1, (len(drawn), 2), generator=self.generator, device=images.device
        )
        shape = (len(drawn), self.crops, 3)
        side, x, y = torch.rand(shape, generator=self.generator, device=images.device).unbind(2)
        side = self.smallest_crop ** (1 - side)
        return images, shift, torch.stack([side, (1 - side) * (2 * x - 1), (1 - side) * (2 * y - 1)], 2)


def roll_each(images: Tensor, shift: Tensor) -> Tensor:
    """Shifts each image by its own number of pixels, as torch.roll; what leaves it comes in at the other side.

    Args:
        images: (B, 1, S, S).
        shift: (B, 2), int64, pixels right and down.

    Returns:
        (B, 1, S, S).

    Examples:
        >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> roll_each(image, torch.tensor([[1, 0]])).tolist()
        [[[[1.0, 0.0], [3.0, 2.0]]]]
    """
    side = images.shape[-1]
    span = torch.arange(side, device=images.device)
    rows, columns = (span - shift[:, 1:]) % side, (span - shift[:, :1]) % side  # (B, S)
    at = rows[:, :, None] * side + columns[:, None, :]
    return images.flatten(1).gather(1, at.flatten(1)).view_as(images)


class SharedDigit:
    """Images that contain a digit of one class each, to be located without any label (appendix A.2).

    The images are a fixed draw, made on the CPU in float64: the same on every machine and for every seed. They show
    test digits, on which the network that describes crops was not trained. The labels of the test set are the boxes of
    the digits.

    Args:
        digits: the undistorted digits.
        distort: `place_digit` with its options bound.
        digit: the class, 0 to 9.
        count: at most so many images.
        roll: as of `CropStream`, in training.
        crops: likewise.
        smallest_crop: likewise.
        val_size: must be 0, since no labels are learnt from.
        seed: of order, shifts and crops in training.
        test_seed: of the images.
        device: of the images.

    Attributes:
        name: of the undistorted digits.
        val: None.
        test: the `FixedSet` of images and boxes (N, 4).

    Raises:
        ValueError: `digit`, `roll`, `crops`, `smallest_crop` or `val_size` is out of range.

    Examples:
        >>> from functools import partial
        >>> from stn.datasets.digits import load_digits
        >>> data = SharedDigit(load_digits(), partial(place_digit, patches=0), digit=3, count=10)
        >>> data.in_shape, data.test.labels.shape
        ((1, 84, 84), torch.Size([10, 4]))
    """

    num_classes = None  # the network does not classify

    def __init__(
        self,
        digits: Digits,
        distort: Callable[..., tuple[Tensor, Tensor]],
        *,
        digit: int = 0,
        count: int = 100,
        roll: int = 14,
        crops: int = 8,
        smallest_crop: float = 1 / 6,
        val_size: int = 0,
        seed: int = 0,
        test_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if digit not in range(10):
            raise ValueError(f"dataset.digit={digit} is not valid: choose a class from 0 to 9.")
        if val_size:
            raise ValueError(
                f"dataset.val_size={val_size} is not valid here: no labels are learnt from, so no image is held out."
            )
        if roll < 0:
            raise ValueError(f"dataset.roll={roll} is not valid: it is a number of pixels from 0.")
        if crops < 1 or not 0 < smallest_crop <= 1:
            raise ValueError(
                f"dataset.crops={crops} and dataset.smallest_crop={smallest_crop} are not valid: the first is a number "
                "of crops from 1, the second a share of the image's side, above 0 to 1."
            )
        self.name = digits.name
        self.device = torch.device(device)
        self.digit = digit
        self._seed, self._roll, self._crops, self._smallest_crop = seed, roll, crops, smallest_crop
        generator = torch.Generator().manual_seed(stream_seed(test_seed, f"co-localisation {digit}"))
        chosen = (digits.test_labels == digit).nonzero()[:, 0]
        chosen = chosen[torch.randperm(len(chosen), generator=generator)][:count]
        place = bind_source(distort, digits.train_images)
        images, self._boxes = place(digits.test_images[chosen].double() / 255, generator)
        self._images = (images * 255).round().to(torch.uint8).to(self.device)
        self.val = None

    @property
    def in_shape(self) -> tuple[int, ...]:
        """The shape of the network's input, (C, H, W)."""
        return tuple(self._images.shape[1:])

    def train_stream(self, batch_size: int) -> CropStream:
        """Training batches without end.

        Args:
            batch_size: from 1; of all images where there are fewer.

        Returns:
            A new stream, at its start.

        Raises:
            ValueError: The batch is empty.
        """
        return CropStream(
            self._images,
            roll=self._roll,
            crops=self._crops,
            smallest_crop=self._smallest_crop,
            batch_size=min(batch_size, len(self._images)),
            seed=self._seed,
        )

    @cached_property
    def test(self) -> FixedSet:
        return FixedSet(self._images, self._boxes.to(self.device))
