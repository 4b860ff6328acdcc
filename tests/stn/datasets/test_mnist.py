"""The loaders and their errors, the training stream and its resumption, the fixed draws and their fingerprints."""

import copy
import gzip
import hashlib
import inspect
import itertools
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor

from stn.datasets import distortions, mnist
from stn.datasets.mnist import (
    DataNotFoundError,
    Digits,
    DistortedDigits,
    FixedSet,
    TrainStream,
    load_digits,
    load_mnist,
    resolve_data_dir,
)

ROOT = Path(__file__).resolve().parents[3]
NAMES = list(mnist.FILES)
SHAPES = {
    "train-images-idx3-ubyte": (30, 28, 28),
    "train-labels-idx1-ubyte": (30,),
    "t10k-images-idx3-ubyte": (10, 28, 28),
    "t10k-labels-idx1-ubyte": (10,),
}


# -- MNIST's files: small ones stand in for the official ones --------------------------------------


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


def test_resolve_data_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    assert resolve_data_dir() == Path("data")
    monkeypatch.setenv("STN_DATA_DIR", "")
    assert resolve_data_dir() == Path("data")
    monkeypatch.setenv("STN_DATA_DIR", "/elsewhere")
    assert resolve_data_dir() == resolve_data_dir("") == Path("/elsewhere")
    assert resolve_data_dir("mine") == resolve_data_dir(Path("mine")) == Path("mine")
    assert resolve_data_dir("~/mine") == Path.home() / "mine"


def test_load_mnist_without_an_argument_reads_the_environments_folder(tmp_path, files, monkeypatch):
    write(tmp_path / "mnist", files)
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path))
    assert len(load_mnist().test_images) == 10


# -- the embedded digits ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Digits:
    return load_digits()


def test_digits_layout_and_split(embedded):
    assert embedded.name == "digits"
    assert embedded.train_images.shape == (1437, 1, 28, 28) and embedded.test_images.shape == (360, 1, 28, 28)
    for images, labels in (
        (embedded.train_images, embedded.train_labels),
        (embedded.test_images, embedded.test_labels),
    ):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        frame = images.clone()
        frame[:, :, 4:24, 4:24] = 0
        assert not frame.any()
        assert images.amax() == 255 and images.flatten(1).amax(1).min() > 128
    everything, test = torch.cat([embedded.train_labels, embedded.test_labels]), embedded.test_labels
    share = torch.bincount(test) / torch.bincount(everything, minlength=10)
    assert ((share - 0.2).abs() < 0.01).all()  # stratified


def test_digits_are_those_of_scikit_learn_and_in_the_split_once_each(embedded):
    from sklearn.datasets import load_digits as sklearn_digits

    # Bilinear, pixel centres: the 20 pixels of an axis lie at (i + 0.5) * 0.4 - 0.5 of the 8. Undone by least squares.
    places = (np.arange(20) + 0.5) * 0.4 - 0.5
    weights = np.stack([np.interp(places, np.arange(8), row) for row in np.eye(8)], axis=1)
    back = np.linalg.pinv(weights)
    bunch, seen = sklearn_digits(), []
    for images, labels in (
        (embedded.train_images, embedded.train_labels),
        (embedded.test_images, embedded.test_labels),
    ):
        small = back @ images[:, 0, 4:24, 4:24].numpy().astype(float) @ back.T / 255 * 16
        assert np.abs(small - small.round()).max() < 0.25
        seen += [
            (label, *row) for label, row in zip(labels.tolist(), small.round().reshape(-1, 64), strict=True)
        ]
    theirs = [(label, *row) for label, row in zip(bunch.target.tolist(), bunch.data, strict=True)]
    assert sorted(seen) == sorted(theirs)


def test_digits_are_the_same_everywhere(embedded):
    """Half of the interpolated values would round either way: pinned."""
    pixels = torch.cat([embedded.train_images, embedded.test_images]).numpy().tobytes()
    assert (
        hashlib.sha256(pixels).hexdigest()
        == "513ab128d9dd234def2a7383c10215b5a1fc9bf7e0d87151d74417e9969fb60e"
    )


# -- the training stream ---------------------------------------------------------------------------


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


def test_an_epoch_holds_every_digit_once_in_an_order_of_its_own():
    stream = DistortedDigits(made(48), plain).train_stream(8)
    epochs = []
    for _ in range(3):
        batches = draw(stream, 6)
        assert all(
            images.dtype == torch.float32 and labels.dtype == torch.int64 for images, labels in batches
        )
        drawn = [n for images, _ in batches for n in numbers(images)]
        assert [n % 10 for n in drawn] == [n for _, labels in batches for n in labels.tolist()]
        assert sorted(drawn) == list(range(48))
        epochs.append(drawn)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(48))


def test_the_remainder_of_an_epoch_is_dropped():
    stream = DistortedDigits(made(50), plain).train_stream(8)
    left_out = []
    for _ in range(40):
        drawn = [n for images, _ in draw(stream, 6) for n in numbers(images)]
        assert len(set(drawn)) == 48
        left_out += list({*range(50)} - {*drawn})
    assert len(set(left_out)) > 30  # not the same ones each time


def test_a_digit_is_distorted_afresh_each_time():
    stream = DistortedDigits(load_digits(), distortions.rotate).train_stream(1437)
    first, again = draw(stream, 2)
    assert torch.equal(first[1].bincount(), again[1].bincount())
    assert not {p.numpy().tobytes() for p in first[0]} & {p.numpy().tobytes() for p in again[0]}


@pytest.mark.parametrize("drawn", [0, 1, 5, 6, 7, 15])
@pytest.mark.parametrize(
    "distort", [distortions.rotate, partial(distortions.translate_clutter, canvas=12, patch_size=3), noisy]
)
def test_resuming_gives_the_same_batches_to_the_bit(tmp_path, drawn, distort):
    """Before, amid and at the end of an epoch of six batches, through a file read with weights_only."""
    data = DistortedDigits(made(50), distort, seed=3)
    stream = data.train_stream(8)
    draw(stream, drawn)
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    expected = draw(stream, 14)
    resumed = DistortedDigits(made(50), distort, seed=3).train_stream(8)
    draw(resumed, 2)
    torch.rand(5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(draw(resumed, 14), expected)


def test_a_state_holds_only_tensors_and_ints_and_does_not_move_with_the_stream():
    stream = DistortedDigits(made(), noisy).train_stream(8)
    draw(stream, 2)
    state = stream.state_dict()
    assert {type(v) for v in state.values()} == {Tensor, int}
    held = copy.deepcopy(state)
    expected = draw(stream, 9)
    assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(held[k])) for k in held)
    stream.load_state_dict(state)
    assert equal(draw(stream, 9), expected)
    stream.load_state_dict(state)
    assert equal(draw(stream, 9), expected)


def test_the_state_of_other_digits_is_refused():
    state = DistortedDigits(made(50), plain, val_size=5).train_stream(8).state_dict()
    with pytest.raises(ValueError, match="over 45 training digits, and here are 50"):
        DistortedDigits(made(50), plain).train_stream(8).load_state_dict(state)


def test_a_copy_draws_the_same_and_moves_nothing():
    stream = DistortedDigits(made(), noisy).train_stream(8)
    draw(stream, 2)
    twin = copy.deepcopy(stream)
    ahead = draw(twin, 9)
    assert equal(draw(stream, 9), ahead)


def test_the_stream_hangs_on_the_seed_alone():
    def first(seed: int, **options: int) -> list[tuple[Tensor, Tensor]]:
        return draw(DistortedDigits(made(), noisy, seed=seed, **options).train_stream(8), 8)

    torch.manual_seed(0)
    expected = first(0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert equal(first(0), expected)
    assert equal(first(0, test_seed=5), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(first(1), expected)


@pytest.mark.parametrize("batch_size", [51, 1000, 0, -1])
def test_a_batch_that_cannot_be_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch of {batch_size} .* there are 50.* trainer.batch_size"):
        DistortedDigits(made(50), plain).train_stream(batch_size)


def test_no_two_streams_share_their_seed():
    seeds = [
        mnist.stream_seed(seed, stream) for seed in range(50) for stream in ("train", "val", "test", "split")
    ]
    assert len(set(seeds)) == len(seeds)


# -- the fixed draws -------------------------------------------------------------------------------


def test_what_it_says_of_itself(embedded):
    data = DistortedDigits(embedded, distortions.rotate_translate_scale)
    assert (data.name, data.num_classes, data.in_shape) == ("digits", 10, (1, 42, 42))
    assert data.val is None
    assert data.test.images.shape == (360, 1, 42, 42) and data.test.images.dtype == torch.uint8
    assert torch.equal(data.test.labels, embedded.test_labels)


def test_held_out_digits_are_never_trained_on():
    data = DistortedDigits(made(50), plain, val_size=13)
    assert data.val is not None
    held_out = numbers(data.val.images)
    assert len(held_out) == 13 and [n % 10 for n in held_out] == data.val.labels.tolist()
    drawn = {n for images, _ in draw(data.train_stream(5), 70) for n in numbers(images)}
    assert not drawn & set(held_out)
    assert drawn | set(held_out) == set(range(50))
    for seed in (1, 2):
        other = DistortedDigits(made(50), plain, val_size=13, seed=seed, test_seed=seed)
        assert other.val is not None and numbers(other.val.images) == held_out
    larger = DistortedDigits(made(50), plain, val_size=20)
    assert larger.val is not None and numbers(larger.val.images)[-13:] == held_out


@pytest.mark.parametrize("val_size", [-1, 50, 51])
def test_a_val_size_that_leaves_nothing_is_refused(val_size):
    with pytest.raises(ValueError, match=f"val_size={val_size} is not valid"):
        DistortedDigits(made(50), plain, val_size=val_size)


def test_the_test_set_hangs_on_the_test_seed_alone(embedded):
    def fingerprint(**options: int) -> str:
        return DistortedDigits(embedded, distort, **options).test.fingerprint

    for distort in (distortions.rotate, distortions.translate_clutter):
        expected = fingerprint()
        torch.rand(3)
        assert fingerprint(seed=7) == expected
        assert fingerprint(val_size=100) == expected
        assert fingerprint(test_seed=1) != expected
        data = DistortedDigits(embedded, distort, val_size=100)
        draw(data.train_stream(9), 2)
        assert data.val is not None and len(data.val.fingerprint) == 64
        assert data.test.fingerprint == expected


def test_test_and_val_are_drawn_once_when_first_asked_for():
    calls: list[int] = []

    def counting(images: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(len(images))
        return plain(images, generator)

    data = DistortedDigits(made(50, 20), counting, val_size=10)
    assert 20 not in calls and 10 not in calls
    assert data.test is data.test and data.val is data.val
    assert calls.count(20) == 1 and calls.count(10) == 1


def test_fixed_draws_are_made_in_float64_chunk_by_chunk_and_rounded_to_the_nearest(monkeypatch):
    """The chunk orders the draws: sets of 2,300 and of 1,000 digits begin with the same thousand."""
    seen: list[Tensor] = []

    def record(images: Tensor, generator: torch.Generator) -> Tensor:
        assert images.device.type == generator.device.type == "cpu"
        out = noisy(images, generator)
        seen.append(out)
        return out

    def draw_test(count: int) -> Tensor:
        data = DistortedDigits(made(10, count, side=2), record)
        seen.clear()
        return data.test.images

    long = draw_test(2300)
    assert [len(x) for x in seen] == [1000, 1000, 300]
    assert all(x.dtype == torch.float64 for x in seen)
    nearest = torch.cat(seen) * 255
    assert ((long - nearest).abs() <= 0.5).all()
    assert torch.equal(draw_test(1000), long[:1000])


def test_threads_change_nothing(embedded):
    threads = torch.get_num_threads()
    prints = set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            prints.add(DistortedDigits(embedded, distortions.elastic).test.fingerprint)
    finally:
        torch.set_num_threads(threads)
    assert len(prints) == 1


@pytest.mark.parametrize("batch_size", [1, 7, 20, 33])
def test_batches_hold_every_image_once_in_order(batch_size):
    fixed = DistortedDigits(made(), noisy).test
    batches = list(fixed.batches(batch_size))
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == torch.float32
    assert torch.equal(images, fixed.images.float() / 255) and torch.equal(labels, fixed.labels)


def test_fingerprint_is_the_sha256_of_the_pixels_in_c_order():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    expected = hashlib.sha256(bytes(range(24))).hexdigest()
    assert FixedSet(images, labels).fingerprint == expected
    strided = (
        images.contiguous(memory_format=torch.channels_last).transpose(2, 3).contiguous().transpose(2, 3)
    )
    assert torch.equal(strided, images) and FixedSet(strided, labels).fingerprint == expected
    images[1, 0, 2, 3] ^= 1
    assert FixedSet(images, labels).fingerprint != expected


def test_an_open_source_is_bound_to_the_training_digits():
    """Those held out lend nothing to training and validation; the test set borrows from all, whatever val_size is."""
    seen: list[tuple[int, list[int]]] = []

    def borrowing(images: Tensor, generator: torch.Generator, *, source: Tensor, twist: int = 0) -> Tensor:
        assert twist == 3
        seen.append((len(images), numbers(source)))
        return plain(images, generator)

    data = DistortedDigits(made(50, 20), partial(borrowing, twist=3), val_size=13)
    data.train_stream(5).next_batch()
    assert data.val is not None and data.test.images.shape == (20, 1, 4, 4)
    sources = dict(seen)
    held_out = set(numbers(data.val.images))
    assert set(sources[5]) == set(sources[13]) == set(range(50)) - held_out
    assert set(sources[20]) == set(range(50))


def test_a_source_given_by_the_caller_stays():
    given = torch.ones(2, 1, 28, 28)
    distort = partial(distortions.translate_clutter, source=given)
    bound = mnist.bind_source(distort, torch.zeros(2, 1, 28, 28))
    assert inspect.signature(bound).parameters["source"].default is given


def test_the_test_set_of_the_embedded_digits_is_this_and_no_other(embedded):
    assert (
        DistortedDigits(embedded, distortions.rotate_translate_scale).test.fingerprint
        == "7343cfb405c7bf852f55bf0a96747bc705743b235645a710739b90fd800d8af5"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("distort", [distortions.project, distortions.translate_clutter])
def test_on_a_gpu(embedded, distort):
    data = DistortedDigits(embedded, distort, device="cuda")
    assert data.test.fingerprint == DistortedDigits(embedded, distort).test.fingerprint
    stream = data.train_stream(64)
    draw(stream, 3)
    state = stream.state_dict()
    expected = draw(stream, 30)
    assert expected[0][0].is_cuda and expected[0][1].is_cuda
    resumed = data.train_stream(64)
    resumed.load_state_dict(state)
    assert equal(draw(resumed, 30), expected)


# -- the real files --------------------------------------------------------------------------------

FINGERPRINTS = {
    "R": "eaed642e7b1138ab40ce0e954670abe0e276383008e0ea519810a6ca526285f9",
    "RTS": "4e06fcd81019378ddfd59c2f8a9955b3ebbffc0ca7f87368a2c200b2d9c6b48f",
    "P": "3063f1df58ec153f38dc2a690096da8310306b56af45a7ab9d12b3da6aaa7cfc",
    "E": "5fc1fa361d309d049f0b2d451c563daa87a5e3f9f8acc8a18146884d17eca538",
    "TC": "90d0872016eff6104eca072c93a025ddc6f352876c0683e0e88b3514545e9d12",
}
DISTORTIONS = {
    "R": distortions.rotate,
    "RTS": distortions.rotate_translate_scale,
    "P": distortions.project,
    "E": distortions.elastic,
    "TC": distortions.translate_clutter,
}


@pytest.fixture(scope="module")
def real() -> Digits:
    """MNIST from STN_DATA_DIR, ./data, or a folder shared beside the repository."""
    for folder in (os.environ.get("STN_DATA_DIR"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if folder:
            try:
                return load_mnist(folder, download=False)
            except DataNotFoundError:
                continue
    pytest.skip("no MNIST in STN_DATA_DIR or data/")


@pytest.mark.real_data
def test_real_mnist(real):
    assert real.train_images.shape == (60000, 1, 28, 28) and real.test_images.shape == (10000, 1, 28, 28)
    assert real.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


@pytest.mark.real_data
@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_five_test_sets_are_these_and_no_others(real, name):
    """Every published number was measured on these pixels. Another fingerprint is another test set."""
    data = DistortedDigits(real, DISTORTIONS[name], seed=1)
    assert data.test.fingerprint == FINGERPRINTS[name]
    assert torch.equal(data.test.labels, real.test_labels)
    blank = (data.test.images.flatten(1).amax(1) == 0).double().mean().item()
    assert blank < (
        0.002 if name == "P" else 1e-9
    )  # of P: quads folded over themselves or moved off the canvas


def test_the_five_fingerprints_differ():
    assert len(set(FINGERPRINTS.values())) == 5
