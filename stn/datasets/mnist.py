"""MNIST and the embedded digits, and what training sees of them: fresh distortions, and one fixed test draw."""

import copy
import gzip
import hashlib
import inspect
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stn.files import DataNotFoundError, resolve_data_dir

__all__ = [
    "DataNotFoundError",
    "Digits",
    "DistortedDigits",
    "FixedSet",
    "TrainStream",
    "load_digits",
    "load_mnist",
    "resolve_data_dir",
]

# name: (md5 of the official file's raw contents, shape)
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", (60000, 28, 28)),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", (60000,)),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", (10000,)),
}
CHUNK = (
    1000  # digits distorted at once for a fixed set; part of its definition, since it orders the random draws
)


@dataclass(frozen=True)
class Digits:
    """Undistorted digits. Images: uint8, (N, 1, 28, 28). Labels: int64, (N,), 0 to 9."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_mnist(data_dir: str | Path | None = None, *, download: bool = True) -> Digits:
    """MNIST, 60,000 training and 10,000 test digits, from the idx files, gzipped or not, under `data_dir`.

    data_dir: see `resolve_data_dir`. Looks in data_dir/mnist, data_dir/MNIST/raw and data_dir for all four files, and
    checks each against the official raw md5. Where none has all four, torchvision downloads them into
    data_dir/MNIST/raw.
    raises: DataNotFoundError where it cannot, ValueError for a damaged file.
    """
    data_dir = resolve_data_dir(data_dir)
    folder = _find(data_dir)
    if folder is None and download:
        _download(data_dir)
        folder = _find(data_dir)
    if folder is None:
        raise _missing(data_dir, "and downloading was not asked for")
    parts = {name: _read_idx(folder, name) for name in FILES}
    return Digits(
        "mnist",
        parts["train-images-idx3-ubyte"].unsqueeze(1),
        parts["train-labels-idx1-ubyte"].long(),
        parts["t10k-images-idx3-ubyte"].unsqueeze(1),
        parts["t10k-labels-idx1-ubyte"].long(),
    )


def load_digits() -> Digits:
    """The 1,797 8x8 handwritten digits embedded in scikit-learn, in MNIST's layout: 20x20 in a frame of 4 pixels.

    A fixed split: sorted by class, every fifth is a test digit: 1,437 for training, 360 for test.
    """
    from sklearn import datasets  # takes a second to import, and MNIST needs none of it

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).double()[:, None] / 16  # (1797, 1, 8, 8), in [0, 1]
    large = F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False).clamp(0, 1)
    # Many values lie on a half exactly: all go up, on every machine.
    images = F.pad((large * 255 + 1e-6).round().to(torch.uint8), (4, 4, 4, 4))
    labels = torch.from_numpy(bunch.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[labels.argsort(stable=True)[::5]] = True
    return Digits("digits", images[~test], labels[~test], images[test], labels[test])


class TrainStream:
    """Training batches without end: shuffled anew every epoch, each digit distorted afresh each time it is drawn.

    An epoch's remainder smaller than a batch is dropped. With the state restored, the same batches follow, to the bit.
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
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"A training batch of {batch_size} needs as many training digits, and there are {len(images)}: "
                "lower trainer.batch_size."
            )
        self.images, self.labels, self.distort, self.batch_size = images, labels, distort, batch_size
        self.generator = torch.Generator(images.device).manual_seed(stream_seed(seed, "train"))
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)
        self.position = 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """returns: images (batch_size, 1, S, S) float32 in [0, 1] and labels (batch_size,), on the data's device."""
        return self.batch(self.draw())

    def draw(self) -> Tensor:
        """Which digits come next: (batch_size,), indices into the training digits."""
        if self.position + self.batch_size > len(self.order):
            self._shuffle()
        drawn = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return drawn

    def batch(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """These digits distorted afresh, as in `next_batch`. Waits for nothing: a CUDA graph may record it."""
        return self.distort(self.images.index_select(0, drawn), self.generator), self.labels[drawn]

    def state_dict(self) -> dict[str, Any]:
        order = self.order.to(torch.int32)
        return {"generator": self.generator.get_state(), "order": order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """raises: ValueError for the state of a stream over another number of digits."""
        if len(state["order"]) != len(self.images):
            raise ValueError(
                f"The state is of a stream over {len(state['order'])} training digits, and here are "
                f"{len(self.images)}: was dataset.val_size another?"
            )
        self.generator.set_state(state["generator"].cpu())
        self.order = state["order"].to(self.images.device, torch.int64)
        self.position = state["position"]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainStream":
        twin = copy.copy(self)  # the digits are shared
        twin.generator = torch.Generator(self.images.device)
        twin.load_state_dict(self.state_dict())
        return twin


@dataclass(frozen=True)
class FixedSet:
    """Distorted digits drawn once. images: uint8, (N, 1, S, S). labels: (N,), or (N, ...) where they are no classes."""

    images: Tensor
    labels: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the pixels: two results with the same fingerprint were tested on the same images."""
        return hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes()).hexdigest()

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in order: float32 in [0, 1] (B, 1, S, S), and labels (B,)."""
        for start in range(0, len(self.images), batch_size):
            chosen = slice(start, start + batch_size)
            yield self.images[chosen].float() / 255, self.labels[chosen]


class DistortedDigits:
    """Digits under a distortion (section 4.1): a stream for training, fixed draws for validation and test.

    distort: a function of `stn.datasets.distortions`, its options bound. A `source` parameter left open is bound to
        the training digits, without those held out; for the test set to all of them, so that it is the same for every
        val_size.
    val_size: so many training digits are held out, the same ones for every seed; 0: none.
    seed: of the training stream alone. The test set hangs on `test_seed` only and is drawn on the CPU in float64, so
        that it is the same on every machine; it is made on first use.
    raises: ValueError where val_size leaves nothing to train on.
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
        self._digits, self._seed, self._test_seed = digits, seed, test_seed
        order = torch.randperm(total, generator=torch.Generator().manual_seed(stream_seed(0, "split")))
        self.train_index, self.val_index = order[: total - val_size], order[total - val_size :]
        images = digits.train_images if not val_size else digits.train_images[self.train_index]
        labels = digits.train_labels if not val_size else digits.train_labels[self.train_index]
        self._images, self._labels = images.to(self.device), labels.to(self.device)
        self._unbound = distort
        self._distort = bind_source(distort, self._images)

    @cached_property
    def in_shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the network sees, or (C, D, H, W)."""
        return self.digit_shape

    @cached_property
    def digit_shape(self) -> tuple[int, ...]:
        """(C, H, W) of a distorted digit, or (C, D, H, W)."""
        shape = self._distort(self._images[:1], torch.Generator(self.device).manual_seed(0)).shape
        return tuple(shape[1:])

    def train_stream(self, batch_size: int) -> TrainStream:
        """raises: ValueError for a batch larger than the training set."""
        return TrainStream(self._images, self._labels, self._distort, batch_size=batch_size, seed=self._seed)

    @cached_property
    def test(self) -> FixedSet:
        distort = bind_source(self._unbound, self._digits.train_images)
        return self._fix(self._digits.test_images, self._digits.test_labels, distort, "test")

    @cached_property
    def val(self) -> FixedSet | None:
        if not len(self.val_index):
            return None
        images, labels = self._digits.train_images, self._digits.train_labels
        distort = bind_source(self._unbound, images[self.train_index])
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


def stream_seed(seed: int, stream: str) -> int:
    """A generator's seed for one purpose, so that no two purposes share a stream."""
    return int.from_bytes(hashlib.sha256(f"{stream} {seed}".encode()).digest()[:7], "big")


def bind_source(distort: Callable[..., Any], source: Tensor) -> Callable[..., Any]:
    """A distortion with its parameter `source` bound, where it has one that is open."""
    parameter = inspect.signature(distort).parameters.get("source")
    return partial(distort, source=source) if parameter and parameter.default is parameter.empty else distort


def _find(data_dir: Path) -> Path | None:
    for folder in (data_dir / "mnist", data_dir / "MNIST" / "raw", data_dir):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES):
            return folder
    return None


def _read_idx(folder: Path, name: str) -> Tensor:
    """One idx file, a big-endian header and bytes. raises: ValueError where it is not the official one."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        raw = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it, and it is downloaded anew.") from error
    md5, shape = FILES[name]
    if hashlib.md5(raw).hexdigest() != md5:
        raise ValueError(
            f"{path} is not the official MNIST file (its raw md5 is not {md5}): delete it, and it is downloaded anew."
        )
    header = 4 + 4 * len(shape)
    held = struct.unpack(f">{len(shape)}I", raw[4:header])
    if held != shape:
        raise ValueError(f"{path} holds {held}, not {shape}.")
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape).copy())


def _download(data_dir: Path) -> None:
    from torchvision.datasets import MNIST  # slow to import, and needed only here

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # In a folder of its own, and moved when all is there: torchvision takes any file of the right name, whole or
        # not, for a download that is done.
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=data_dir) as temporary:
            MNIST(temporary, download=True)
            folder = data_dir / "MNIST" / "raw"
            folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                os.replace(Path(temporary) / "MNIST" / "raw" / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        raise _missing(data_dir, f"and downloading them failed ({' '.join(str(error).split())})") from error


def _missing(data_dir: Path, why: str) -> DataNotFoundError:
    return DataNotFoundError(
        f"The MNIST files are not in {Path(os.path.abspath(data_dir)) / 'mnist'}, {why}. Put {', '.join(FILES)} there, "
        "raw or as .gz, or name the folder above another mnist/ with data_dir=DIR or STN_DATA_DIR. Without MNIST, the "
        "embedded digits work: python train.py experiment=mnist_rts dataset=digits trainer=smoke"
    )
