"""Digits that can be told apart, distortions of them, and batches compared: for the tests of streams and data sets."""

import torch
from torch import Tensor

from stn.datasets.digits import Digits
from stn.datasets.streams import TrainStream


def made(train: int = 50, test: int = 20, *, side: int = 4) -> Digits:
    """Digits that can be told apart: the first pixels hold the number; the label is its last figure."""
    images = torch.zeros(train + test, 1, side, side, dtype=torch.uint8)
    number = torch.arange(train + test)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 200, number % 200
    labels = number % 10
    return Digits("made", images[:train], labels[:train], images[train:], labels[train:])


def plain(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(images.shape, generator=generator, dtype=torch.float64).to(plain(images, generator))


def numbers(images: Tensor) -> list[int]:
    pixels = images if images.dtype == torch.uint8 else (images * 255).round()
    return (pixels[:, 0, 0, 0].long() * 200 + pixels[:, 0, 0, 1].long()).tolist()


def draw(stream: TrainStream, batches: int) -> list[tuple[Tensor, Tensor]]:
    return [stream.next_batch() for _ in range(batches)]


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )
