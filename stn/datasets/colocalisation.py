"""Co-localisation (appendix A.2): images that share one digit class, and random crops of them to compare with."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from stn.datasets.distortions import draw_clutter, paste_clutter
from stn.datasets.mnist import Digits, FixedSet, TrainStream, bind_source, stream_seed

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
    """The unscaled digit at a uniform whole-pixel place (T), among patches of other digits (TC), and where it is.

    patches: 0 for T. The rest as in `stn.datasets.distortions.translate_clutter`.
    images: (B, 1, H, H), floating point in [0, 1].
    returns: (B, 1, canvas, canvas), and boxes (B, 4): left, top, right, bottom in pixels, edges not centres.
    """
    side = images.shape[-1]
    clutter = draw_clutter(images, generator, source, canvas, patches, patch_size)
    corner = torch.stack([clutter.left, clutter.top], 1)
    return paste_clutter(images, clutter, canvas), torch.cat([corner, corner + side], 1).float()


class CropStream(TrainStream):
    """Batches of the images, in a new order every time round, each with a uniform place for a random crop of it.

    roll: each image is moved by up to so many pixels, across and down, what leaves it coming in at the other side.
    With the state restored, the same batches follow, to the bit.
    """

    def __init__(self, images: Tensor, *, roll: int, batch_size: int, seed: int) -> None:
        labels = torch.zeros(len(images), device=images.device)  # there is nothing to tell
        super().__init__(images, labels, lambda images, _: images, batch_size=batch_size, seed=seed)
        self.roll = roll

    def batch(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """returns: images (B, 1, S, S) in [0, 1]; places (B, 2), x and y, from -1 for a crop at the left or upper edge
        of the image to 1 at the right or lower one, whatever the crop's size.
        """
        images = self.images.index_select(0, drawn).float() / 255
        if self.roll:
            span = 2 * self.roll + 1
            shift = torch.randint(span, (2, len(drawn), 1), generator=self.generator, device=images.device)
            images = rolled(images, *(shift - self.roll))
        return images, 2 * torch.rand(len(drawn), 2, generator=self.generator, device=images.device) - 1


def rolled(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved in a circle.   images: (B, 1, S, S).   down, right: (B, 1), whole pixels."""
    side = images.shape[-1]
    span = torch.arange(side, device=images.device)
    rows, columns = (span - down) % side, (span - right) % side  # (B, S)
    at = rows[:, :, None] * side + columns[:, None, :]
    return images.flatten(1).gather(1, at.flatten(1)).view_as(images)


class SharedDigit:
    """Images with a digit of one class each, to be found without ever being told where it is or what it looks like.

    The images are a fixed draw, made on the CPU in float64: the same on every machine and for every seed. They are
    test digits, which the network that describes crops was not trained on. The test set's labels are the digits' boxes.

    place: `place_digit`, its options bound.   digit: the class, 0 to 9.   count: at most so many images.
    roll: as of `CropStream`; training images only.   val_size: must be 0; there is nothing to hold out.
    seed: of the order and the random crops.   test_seed: of the images.
    raises: ValueError for a class there is not, or images to hold out.
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
        val_size: int = 0,
        seed: int = 0,
        test_seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if digit not in range(10):
            raise ValueError(f"dataset.digit={digit} is not valid: choose a class from 0 to 9.")
        if val_size:
            raise ValueError(
                f"dataset.val_size={val_size} is not valid here: nothing is learnt from labels, so nothing is held out."
            )
        if roll < 0:
            raise ValueError(f"dataset.roll={roll} is not valid: it is a number of pixels from 0.")
        self.name = digits.name
        self.device = torch.device(device)
        self.digit = digit
        self._seed, self._roll = seed, roll
        generator = torch.Generator().manual_seed(stream_seed(test_seed, f"co-localisation {digit}"))
        mine = (digits.test_labels == digit).nonzero()[:, 0]
        mine = mine[torch.randperm(len(mine), generator=generator)][:count]
        place = bind_source(distort, digits.train_images)
        images, self._boxes = place(digits.test_images[mine].double() / 255, generator)
        self._images = (images * 255).round().to(torch.uint8).to(self.device)
        self.val = None

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return tuple(self._images.shape[1:])

    def train_stream(self, batch_size: int) -> CropStream:
        """Batches of `batch_size`, or of all images where there are fewer."""
        return CropStream(
            self._images,
            roll=self._roll,
            batch_size=min(batch_size, len(self._images)),
            seed=self._seed,
        )

    @cached_property
    def test(self) -> FixedSet:
        return FixedSet(self._images, self._boxes.to(self.device))
