"""Photographs of any size: decoded once into one memory-mapped file, cropped and mirrored at random for training."""

import copy
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stn.datasets.mnist import stream_seed

__all__ = ["PhotoCache", "PhotoSet", "PhotoStream", "Photos", "complaint", "shorter_side"]

VERSION = 1  # of the cache's content: how an image is decoded and scaled


def complaint(problems: Sequence[str], what: str) -> str:
    """One sentence for any number of problems: how many, and the first five."""
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return f"{len(problems)} {what}: {', '.join(problems[:5])}{more}"


def shorter_side(size: int) -> int:
    """The shorter side that images are brought to, for crops of `size` pixels: an eighth is left to move in."""
    return round(size * 8 / 7)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds `path`, a file made for it, against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class PhotoCache:
    """Images with their shorter side brought to so many pixels, decoded, one after the other in a memory-mapped file.

    Made on first use, and anew when a file's size or time of change is another. Processes that start together wait for
    the first one; one that reads an older cache keeps it.

    files: paths of JPEG or PNG images; grey ones become colour ones.   side: the shorter side, pixels.
    folder: where the cache is kept.   name: its file's stem.
    cache[i]: (3, h, w), uint8.   sizes: (N, 2), each image's own (height, width), before it was scaled.
    raises: ValueError that names all files that are missing or cannot be read.
    """

    def __init__(self, files: Sequence[Path], *, side: int, folder: Path, name: str) -> None:
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise ValueError(complaint(missing, "images are missing") + ". Unpack the data set anew.")
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = hashlib.sha256(json.dumps([VERSION, side, stats]).encode()).hexdigest()
        pixels, index = folder / f"{name}-{side}.bin", folder / f"{name}-{side}.json"
        with locked(folder / f"{name}-{side}.lock"):
            held = json.loads(index.read_text()) if index.exists() and pixels.exists() else {}
            if held.get("key") != key:
                held = {"key": key, **_decode(files, side, pixels)}
                _write(index, lambda path: path.write_text(json.dumps(held)))
            self._pixels = np.memmap(pixels, dtype=np.uint8, mode="r")
        self._shapes: list[list[int]] = held["shapes"]
        self._starts = np.concatenate([[0], np.cumsum([3 * h * w for h, w in self._shapes])])
        self.sizes = torch.tensor(held["sizes"]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, i: int) -> tuple[int, int]:
        """(h, w) of the scaled image."""
        height, width = self._shapes[i]
        return height, width

    def crop(self, i: int, top: int, left: int, size: int) -> np.ndarray:
        """(size, size, 3), uint8, a view into the file."""
        height, width = self._shapes[i]
        whole = self._pixels[self._starts[i] : self._starts[i + 1]].reshape(height, width, 3)
        return whole[top : top + size, left : left + size]

    def __getitem__(self, i: int) -> Tensor:
        height, width = self._shapes[i]
        whole = np.array(self._pixels[self._starts[i] : self._starts[i + 1]])
        return torch.from_numpy(whole.reshape(height, width, 3)).permute(2, 0, 1)


def _decode(files: Sequence[Path], side: int, pixels: Path) -> dict[str, Any]:
    shapes, sizes, broken = [], [], []

    def write(path: Path) -> None:
        with open(path, "wb") as out:
            for file in files:
                try:
                    with Image.open(file) as image:
                        colour = image.convert("RGB")
                except (OSError, UnidentifiedImageError, SyntaxError):
                    broken.append(str(file))
                    continue
                factor = side / min(colour.size)
                width, height = (max(side, round(factor * n)) for n in colour.size)
                sizes.append([colour.height, colour.width])
                shapes.append([height, width])
                scaled = colour.resize((width, height), Image.Resampling.BILINEAR)
                out.write(np.asarray(scaled).tobytes())
        if broken:
            raise ValueError(complaint(broken, "images cannot be read") + ". Unpack the data set anew.")

    _write(pixels, write)
    return {"shapes": shapes, "sizes": sizes}


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all; whoever has the old file open keeps it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        write(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class PhotoStream:
    """Training batches without end: shuffled anew every epoch; each image a crop at a random place, half mirrored.

    An epoch's remainder smaller than a batch is dropped. With the state restored, the same batches follow, to the bit.
    `rows`: a slice of every batch, to be given instead of all of it.
    raises: ValueError for a batch larger than the training set.
    """

    rows = slice(None)

    def __init__(
        self,
        cache: PhotoCache,
        index: Tensor,
        labels: Tensor,
        *,
        size: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        if not 1 <= batch_size <= len(index):
            raise ValueError(
                f"A training batch of {batch_size} needs as many training images, and there are {len(index)}: "
                "lower trainer.batch_size."
            )
        self.cache, self.index, self.labels = cache, index, labels
        self.size, self.batch_size, self.device = size, batch_size, device
        self.generator = torch.Generator().manual_seed(stream_seed(seed, "train"))
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = torch.randperm(len(self.index), generator=self.generator)
        self.position = 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """returns: images (batch_size, 3, size, size), float32 in [0, 1], and labels (batch_size,), on the device."""
        if self.position + self.batch_size > len(self.order):
            self._shuffle()
        drawn = self.index[self.order[self.position : self.position + self.batch_size]]
        self.position += self.batch_size
        chances = torch.rand(len(drawn), 3, generator=self.generator)[self.rows].tolist()
        drawn = drawn[self.rows]
        images = np.empty((len(drawn), self.size, self.size, 3), np.uint8)
        for row, (i, (y, x, mirror)) in enumerate(zip(drawn.tolist(), chances, strict=True)):
            height, width = self.cache.shape(i)
            top, left = int(y * (height - self.size + 1)), int(x * (width - self.size + 1))
            crop = self.cache.crop(i, top, left, self.size)
            images[row] = crop[:, ::-1] if mirror < 0.5 else crop
        return _on(images, self.device), self.labels[drawn].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        order = self.order.to(torch.int32)
        return {"generator": self.generator.get_state(), "order": order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """raises: ValueError for the state of a stream over another number of images."""
        if len(state["order"]) != len(self.index):
            raise ValueError(
                f"The state is of a stream over {len(state['order'])} training images, and here are "
                f"{len(self.index)}: was dataset.val_size another?"
            )
        self.generator.set_state(state["generator"].cpu())
        self.order = state["order"].to("cpu", torch.int64)
        self.position = state["position"]

    def __deepcopy__(self, memo: dict[int, Any]) -> "PhotoStream":
        twin = copy.copy(self)  # the images are shared
        twin.generator = torch.Generator()
        twin.load_state_dict(self.state_dict())
        return twin


def _on(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, h, w, 3) bytes -> (B, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class PhotoSet:
    """Images to test on, each its middle.

    index: (N,), into the cache.   labels: (N,).   extra: (N, ...), what else is told of each, to those who count.
    """

    cache: PhotoCache
    index: Tensor
    labels: Tensor
    size: int
    device: torch.device
    extra: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, rows: Sequence[int] | range) -> np.ndarray:
        """(len(rows), size, size, 3), uint8."""
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for k, row in enumerate(rows):
            i = int(self.index[row])
            height, width = self.cache.shape(i)
            images[k] = self.cache.crop(i, (height - self.size) // 2, (width - self.size) // 2, self.size)
        return images

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the pixels: two results with the same fingerprint were tested on the same images."""
        digest = hashlib.sha256()
        for row in range(len(self)):
            digest.update(self.pixels(range(row, row + 1)).tobytes())
        return digest.hexdigest()

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
        """All images once, in order: float32 in [0, 1] (B, 3, size, size), labels (B,), and `extra` where there is."""
        for start in range(0, len(self), batch_size):
            rows = range(start, min(start + batch_size, len(self)))
            chosen = slice(rows.start, rows.stop)
            told = () if self.extra is None else (self.extra[chosen].to(self.device),)
            yield _on(self.pixels(rows), self.device), self.labels[chosen].to(self.device), *told


class Photos:
    """A data set of photographs: a stream for training, fixed sets for validation and test.

    files, labels: of all images.   training: (N,), which of them train; the others are the test set.
    val_size: so many training images are held out, the same ones for every seed; 0: none.
    size: of what the network sees, pixels a side. Images are brought to 8/7 of it, on the shorter side.
    cache_dir: where decoded images are kept.   `extra`: as of `PhotoSet`, of all images; for a subclass to set.
    raises: ValueError for sizes that cannot be, and as `PhotoCache`.
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
        val_size: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 32:
            raise ValueError(f"dataset.size={size} is not valid: it is a number of pixels from 32.")
        train, self._test_index = training.nonzero()[:, 0], (~training).nonzero()[:, 0]
        if not 0 <= val_size < len(train):
            raise ValueError(
                f"dataset.val_size={val_size} is not valid: 0 to {len(train) - 1} of {len(train)} training images."
            )
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(stream_seed(0, "split")))
        self.train_index = train[order[: len(train) - val_size].sort().values]
        self.val_index = train[order[len(train) - val_size :].sort().values]
        self.name, self.classes, self.size = name, list(classes), size
        self.device = torch.device(device)
        self.cache = PhotoCache(files, side=shorter_side(size), folder=Path(cache_dir), name=name)
        self._labels, self._seed = labels, seed
        self.extra: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the network sees."""
        return 3, self.size, self.size

    def train_stream(self, batch_size: int) -> PhotoStream:
        """raises: ValueError for a batch larger than the training set."""
        return PhotoStream(
            self.cache,
            self.train_index,
            self._labels,
            size=self.size,
            batch_size=batch_size,
            seed=self._seed,
            device=self.device,
        )

    @cached_property
    def test(self) -> PhotoSet:
        return self._fixed(self._test_index)

    @cached_property
    def val(self) -> PhotoSet | None:
        return self._fixed(self.val_index) if len(self.val_index) else None

    def _fixed(self, index: Tensor) -> PhotoSet:
        extra = None if self.extra is None else self.extra[index]
        return PhotoSet(self.cache, index, self._labels[index], self.size, self.device, extra)
