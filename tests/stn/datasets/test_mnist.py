"""The official MNIST files: where they are found, what is refused of them, how they are downloaded."""

import gzip
import hashlib
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from stn.datasets import mnist
from stn.datasets.mnist import load_mnist
from stn.files import DataNotFoundError

NAMES = list(mnist.FILES)
SHAPES = {
    "train-images-idx3-ubyte": (30, 28, 28),
    "train-labels-idx1-ubyte": (30,),
    "t10k-images-idx3-ubyte": (10, 28, 28),
    "t10k-labels-idx1-ubyte": (10,),
}


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """Raw idx files of 30 and 10 random digits, taken for the official ones. name -> contents."""
    rng, raw = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        values = rng.integers(0, 10 if "labels" in name else 256, shape, dtype=np.uint8)
        raw[name] = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + values.tobytes()
    official = {name: (hashlib.md5(raw[name]).hexdigest(), shape) for name, shape in SHAPES.items()}
    monkeypatch.setattr(mnist, "FILES", official)
    return raw


def write(folder: Path, files: dict[str, bytes], *, zipped: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)


def idx_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "ubyte" in path.name] if folder.exists() else []


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw", "."])
def test_load_mnist_reads_the_three_layouts_zipped_or_not(tmp_path, files, layout, zipped, no_network):
    write(tmp_path / layout, files, zipped=zipped)
    digits = load_mnist(tmp_path)
    assert digits.name == "mnist"
    for part, prefix, count in (("train", "train", 30), ("test", "t10k", 10)):
        images, labels = getattr(digits, f"{part}_images"), getattr(digits, f"{part}_labels")
        assert images.shape == (count, 1, 28, 28) and images.dtype == torch.uint8
        assert labels.shape == (count,) and labels.dtype == torch.int64
        assert images.numpy().tobytes() == files[f"{prefix}-images-idx3-ubyte"][16:]
        assert bytes(labels.tolist()) == files[f"{prefix}-labels-idx1-ubyte"][8:]


def test_digits_are_frozen(tmp_path, files):
    write(tmp_path, files)
    with pytest.raises(AttributeError):
        load_mnist(tmp_path).name = "other"  # type: ignore[misc]


def test_the_official_files_shapes_and_md5():
    assert mnist.FILES["train-images-idx3-ubyte"] == ("6bbc9ace898e44ae57da46a324031adb", (60000, 28, 28))
    assert [shape[0] for _, shape in mnist.FILES.values()] == [60000, 60000, 10000, 10000]


def cut_short(raw: bytes) -> bytes:
    return gzip.compress(raw)[:-40]


def garbled(raw: bytes) -> bytes:
    zipped = bytearray(gzip.compress(raw))
    zipped[len(zipped) // 2 : len(zipped) // 2 + 20] = bytes(20)
    return bytes(zipped)


def one_pixel_off(raw: bytes) -> bytes:
    return gzip.compress(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "spoil", [cut_short, garbled, one_pixel_off, lambda raw: b"<html>not found</html>", lambda raw: b""]
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, files, name, spoil, no_network):
    write(tmp_path / "mnist", files)
    path = tmp_path / "mnist" / f"{name}.gz"
    path.write_bytes(spoil(files[name]))
    with pytest.raises(ValueError, match="delete it, and it is downloaded anew") as caught:
        load_mnist(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_raw_file_is_named_too(tmp_path, files):
    write(tmp_path, files, zipped=False)
    (tmp_path / NAMES[2]).write_bytes(files[NAMES[2]][:-1])
    with pytest.raises(ValueError, match=f"{NAMES[2]} is not the official MNIST file"):
        load_mnist(tmp_path)


def test_a_file_of_another_count_is_refused(tmp_path, files, monkeypatch):
    write(tmp_path, files)
    md5, _ = mnist.FILES[NAMES[0]]
    monkeypatch.setitem(mnist.FILES, NAMES[0], (md5, (31, 28, 28)))
    with pytest.raises(ValueError, match=r"holds \(30, 28, 28\), not \(31, 28, 28\)"):
        load_mnist(tmp_path)


def assert_says_what_to_do(message: str, folder: Path) -> None:
    for part in (
        str(folder),
        *NAMES,
        "data_dir=",
        "STN_DATA_DIR",
        "python train.py experiment=mnist_rts dataset=digits trainer=smoke",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("present", [0, 3])
def test_missing_and_no_network(tmp_path, files, no_network, present):
    """Three files of four are none; and never does another set stand in."""
    some = dict(itertools.islice(files.items(), present))
    write(tmp_path / "mnist", some)
    with pytest.raises(DataNotFoundError, match="no network") as caught:
        load_mnist(tmp_path)
    assert isinstance(caught.value, FileNotFoundError)
    assert_says_what_to_do(str(caught.value), tmp_path / "mnist")
    assert len(idx_files(tmp_path)) == present


def test_missing_and_not_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_download", lambda data_dir: pytest.fail("must not download"))
    with pytest.raises(DataNotFoundError, match="not asked for") as caught:
        load_mnist(tmp_path / "none", download=False)
    assert_says_what_to_do(str(caught.value), tmp_path / "none" / "mnist")
    assert not (tmp_path / "none").exists()


def test_a_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataNotFoundError) as caught:
        load_mnist(tmp_path / "file" / "data")
    assert_says_what_to_do(str(caught.value), tmp_path / "file" / "data" / "mnist")


def mirror(
    files: dict[str, bytes], *, serves: int = 4, then: BaseException | None = None
) -> Callable[..., None]:
    """torchvision's download_and_extract_archive with so many files to be had, the next one only by half."""
    served = itertools.count()

    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        name = filename.removesuffix(".gz")
        raw = files[name]
        if next(served) >= serves:
            Path(download_root, name).write_bytes(raw[: len(raw) // 2])
            raise then or URLError("connection reset")
        Path(download_root, filename).write_bytes(gzip.compress(raw))
        Path(download_root, name).write_bytes(raw)

    return fetch


FETCH = "torchvision.datasets.mnist.download_and_extract_archive"


def test_download(tmp_path, files, monkeypatch):
    monkeypatch.setattr(FETCH, mirror(files))
    first = load_mnist(tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new" / "MNIST" / "raw").iterdir()) == sorted(NAMES)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["MNIST"]
    monkeypatch.setattr(FETCH, mirror(files, serves=0))
    assert torch.equal(load_mnist(tmp_path / "new").train_images, first.train_images)  # from the disk


@pytest.mark.parametrize(
    "then", [URLError("connection reset"), ConnectionResetError("reset"), KeyboardInterrupt()]
)
def test_a_broken_download_leaves_nothing_and_can_be_repeated(tmp_path, files, monkeypatch, then):
    monkeypatch.setattr(FETCH, mirror(files, serves=2, then=then))
    with pytest.raises(KeyboardInterrupt if isinstance(then, KeyboardInterrupt) else DataNotFoundError):
        load_mnist(tmp_path)
    assert idx_files(tmp_path) == []
    monkeypatch.setattr(FETCH, mirror(files))
    assert len(load_mnist(tmp_path).train_images) == 30


def test_a_half_file_of_an_earlier_download_is_replaced(tmp_path, files, monkeypatch):
    """torchvision alone takes a raw file of the right name for whole."""
    write(tmp_path / "MNIST" / "raw", {NAMES[0]: files[NAMES[0]][:99]}, zipped=False)
    monkeypatch.setattr(FETCH, mirror(files))
    assert len(load_mnist(tmp_path).train_images) == 30


def test_load_mnist_without_an_argument_reads_the_environments_folder(tmp_path, files, monkeypatch):
    write(tmp_path / "mnist", files)
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path))
    assert len(load_mnist().test_images) == 10


@pytest.mark.real_data
def test_real_mnist(real):
    assert real.train_images.shape == (60000, 1, 28, 28) and real.test_images.shape == (10000, 1, 28, 28)
    assert real.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
