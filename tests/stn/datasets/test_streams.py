"""The training stream: epochs, fresh distortions, resumption to the bit."""

import copy
import hashlib
from functools import partial

import pytest
import torch
from torch import Tensor

from stn.datasets import distortions
from stn.datasets.digits import load_digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.streams import FixedSet
from tests.stn.datasets.made import draw, equal, made, noisy, numbers, plain


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
