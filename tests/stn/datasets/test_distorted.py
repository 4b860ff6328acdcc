"""Digits under a distortion: what is held out, the fixed draws and their fingerprints."""

import inspect
from functools import partial

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from stn.datasets import distortions
from stn.datasets.distorted import DistortedDigits, TurnedDigits, bind_source
from tests.stn.datasets.made import draw, equal, made, noisy, numbers, plain

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
    bound = bind_source(distort, torch.zeros(2, 1, 28, 28))
    assert inspect.signature(bound).parameters["source"].default is given


def test_the_test_set_of_the_embedded_digits_is_this_and_no_other(embedded):
    assert (
        DistortedDigits(embedded, distortions.rotate_translate_scale).test.fingerprint
        == "7343cfb405c7bf852f55bf0a96747bc705743b235645a710739b90fd800d8af5"
    )


def test_turned_digits_are_the_same_images_and_tell_their_angles(embedded):
    """Each angle belongs to its image: by scipy's rotation of the undistorted digit."""
    distort = partial(distortions.rotate, middle=90, max_angle=60)
    data, plain = (cls(embedded, distort, val_size=50) for cls in (TurnedDigits, DistortedDigits))
    data.chunk = plain.chunk = 100  # several chunks
    assert data.test.fingerprint == plain.test.fingerprint
    assert data.val is not None and plain.val is not None and data.val.fingerprint == plain.val.fingerprint
    (angles,) = data.test.extra
    assert angles.shape == (360,) and 30 <= angles.min() < 40 and 140 < angles.max() <= 150
    images, labels, held = next(iter(data.test.batches(250)))
    assert torch.equal(labels, embedded.test_labels[:250]) and torch.equal(held, angles[:250])
    for i in (0, 99, 100, 249):
        digit = embedded.test_images[i, 0].double() / 255
        turned = ndimage.rotate(digit, -held[i].item(), reshape=False, order=1)  # scipy's is anticlockwise
        assert abs(turned - images[i, 0].numpy()).max() < 0.02
    assert len(next(iter(plain.test.batches(8)))) == len(data.train_stream(8).next_batch()) == 2
    with pytest.raises(ValueError, match="with `return_angle`: rotate"):
        _ = TurnedDigits(embedded, distortions.elastic).test


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
