"""Images of any size, decoded and scaled once, in one memory-mapped file."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from stn.datasets.decoding import decode
from stn.files import DataNotFoundError, check_plain_name, list_problems

__all__ = ["LONGEST", "ImageCache", "shorter_side"]

VERSION = 2  # of how an image is decoded and scaled: another number makes every cache anew
LONGEST = 8  # times its shorter side is the longest that an image is kept


def shorter_side(size: int) -> int:
    """The shorter side that images are scaled to, for crops of `size` pixels. An eighth of it is left to move in.

    Args:
        size: side of a crop, pixels.

    Returns:
        8/7 of it, pixels.

    Examples:
        >>> shorter_side(224)
        256
    """
    return round(size * 8 / 7)


class ImageCache:
    """Images scaled to one shorter side and decoded, one after the other in a memory-mapped file.

    The file is made on first use, and anew when the size or the time of change of an image differs. Of several
    processes that start together one makes it, and the others wait. A process that has an older file open keeps it.

    Of an image that is more than `LONGEST` times as long as it is wide, the middle is kept: a line of pixels would be
    scaled to a huge one.

    `cache[i]` is image i, (channels, h, w), uint8.

    Args:
        files: images, decoded as `decode` says.
        side: the shorter side, pixels.
        folder: where the file is kept.
        name: stem of the file's name.
        channels: 1 for grey images, 3 for colour.

    Attributes:
        sizes: (N, 2), int64, (height, width) of every image before scaling, pixels.

    Raises:
        ValueError: Images are missing or cannot be decoded; the message names them. Or `name` is no plain name.

    Examples:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "red.png"
        ...     Image.new("RGB", (60, 40), (255, 0, 0)).save(file)
        ...     cache = ImageCache([file], side=20, folder=Path(folder), name="red")
        >>> len(cache), cache.shape(0), cache[0][:, 0, 0].tolist()
        (1, (20, 30), [255, 0, 0])
    """

    def __init__(
        self, files: Sequence[Path], *, side: int, folder: Path, name: str, channels: int = 3
    ) -> None:
        check_plain_name("name", name)
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise ValueError(list_problems(missing, "images are missing") + ". Unpack the data set anew.")
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = hashlib.sha256(json.dumps([VERSION, side, stats]).encode()).hexdigest()
        stem = f"{name}-{side}{'-grey' if channels == 1 else ''}"
        pixels, index = folder / f"{stem}.bin", folder / f"{stem}.json"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stem}.lock"):
            held = _read(index, pixels, channels)
            if held.get("key") != key:
                held = {"key": key, **_decode(files, side, channels, pixels)}
                _write(index, lambda path: path.write_text(json.dumps(held)))
            self._pixels = np.memmap(pixels, dtype=np.uint8, mode="r")
        self._shapes: list[list[int]] = held["shapes"]
        self.channels = channels
        self._starts = np.concatenate([[0], np.cumsum([channels * h * w for h, w in self._shapes])])
        self.sizes = torch.tensor(held["sizes"]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, i: int) -> tuple[int, int]:
        """The size of a scaled image.

        Args:
            i: number of the image.

        Returns:
            (h, w), pixels.
        """
        height, width = self._shapes[i]
        return height, width

    def crop(self, i: int, top: int, left: int, size: int) -> np.ndarray:
        """A square of a scaled image.

        Args:
            i: number of the image.
            top: first row, pixels.
            left: first column, pixels.
            size: side of the square, pixels.

        Returns:
            (size, size, channels), uint8, a view into the file.
        """
        height, width = self._shapes[i]
        whole = self._pixels[self._starts[i] : self._starts[i + 1]].reshape(height, width, self.channels)
        return whole[top : top + size, left : left + size]

    def __getitem__(self, i: int) -> Tensor:
        height, width = self._shapes[i]
        whole = np.array(self._pixels[self._starts[i] : self._starts[i + 1]])
        return torch.from_numpy(whole.reshape(height, width, self.channels)).permute(2, 0, 1)


def _read(index: Path, pixels: Path, channels: int) -> dict[str, Any]:
    """What an index says of a file of pixels; nothing where one of the two is missing, damaged or cut short."""
    try:
        held: dict[str, Any] = json.loads(index.read_text())
        places = sum(height * width for height, width in held["shapes"])
        return held if pixels.stat().st_size == channels * places else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _decode(files: Sequence[Path], side: int, channels: int, pixels: Path) -> dict[str, Any]:
    shapes, sizes, unusable = [], [], []

    def write(path: Path) -> None:
        with open(path, "wb") as out:
            for file in files:
                try:
                    image = decode(file, channels)
                except ValueError as error:
                    unusable.append(f"{file} ({error})")
                    continue
                sizes.append([image.height, image.width])
                kept = image.crop(_middle(*image.size))
                factor = side / min(kept.size)
                width, height = (max(side, round(factor * n)) for n in kept.size)
                shapes.append([height, width])
                scaled = kept.resize((width, height), Image.Resampling.BILINEAR)
                out.write(np.asarray(scaled).tobytes())
        if unusable:
            raise ValueError(f"{list_problems(unusable, 'images cannot be used')}. Mend or remove them.")

    _write(pixels, write)
    return {"shapes": shapes, "sizes": sizes}


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is kept of an image, pixels."""
    longest = LONGEST * min(width, height)
    left, top = (max(0, (side - longest) // 2) for side in (width, height))
    return left, top, left + min(width, longest), top + min(height, longest)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all. Whoever has the old file open keeps it.

    Raises:
        DataNotFoundError: The folder is gone, or goes while the file is written.
    """
    gone = (
        f"The folder of decoded images, {path.parent}, vanished while {path.name} was written: start again."
    )
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except FileNotFoundError as error:
        raise DataNotFoundError(gone) from error
    os.close(handle)
    try:
        write(Path(temporary))
        os.replace(temporary, path)
    except FileNotFoundError as error:
        if Path(temporary).exists():  # another file is missing
            Path(temporary).unlink()
            raise
        raise DataNotFoundError(gone) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
