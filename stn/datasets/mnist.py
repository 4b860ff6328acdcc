"""The official MNIST files: where they are looked for, how they are checked, how they are fetched."""

import gzip
import hashlib
import os
import struct
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stn.datasets.digits import Digits
from stn.files import DataNotFoundError, resolve_data_dir

__all__ = ["load_mnist"]

# name: (md5 of the official file, unpacked; shape)
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", (60000, 28, 28)),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", (60000,)),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", (10000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", (10000,)),
}


def load_mnist(data_dir: str | Path | None = None, *, download: bool = True) -> Digits:
    """MNIST, 60,000 training and 10,000 test digits, from the official idx files, gzipped or not.

    All four files are looked for in data_dir/mnist, then data_dir/MNIST/raw, then data_dir, and each is checked against
    the official md5.

    Args:
        data_dir: the folder, as of `stn.files.resolve_data_dir`.
        download: whether torchvision may download the files into data_dir/MNIST/raw where no folder has all four.

    Returns:
        The digits.

    Raises:
        DataNotFoundError: The files are not there, and downloading failed or was not allowed.
        ValueError: A file is damaged or not the official one.
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


def _find(data_dir: Path) -> Path | None:
    for folder in (data_dir / "mnist", data_dir / "MNIST" / "raw", data_dir):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES):
            return folder
    return None


def _read_idx(folder: Path, name: str) -> Tensor:
    """The bytes behind the big-endian header of one idx file. ValueError where it is not the official file."""
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
        # Into a temporary folder, and moved when all four are there: torchvision takes any file of the right name, even
        # half of one, for a finished download.
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
