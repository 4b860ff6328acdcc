"""Pairs: what they hold, how they are paired, and that streams resume and test sets do not move."""

from functools import partial

import pytest
import torch

from stn.datasets.addition import AddedDigits, PairStream
from stn.datasets.digits import Digits, load_digits
from stn.datasets.distorted import DistortedDigits
from stn.datasets.distortions import rotate_translate_scale


def plain(images, generator):
    return images if images.is_floating_point() else images.float() / 255


def made(count, offset=0):
    """Digits whose first pixel says which they are, and whose class is that number modulo 10."""
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count) + offset
    return images, torch.arange(count) % 10


@pytest.fixture
def marked():
    return Digits("marked", *made(100), *made(50, 100))


def marks(images):
    """(N, 2, 28, 28) -> (N, 2): which digit is in each channel."""
    return (images[:, :, 0, 0] * (255 if images.is_floating_point() else 1)).round().long()


def test_training_pairs_are_digits_drawn_at_random_and_their_sum(marked):
    data = AddedDigits(marked, plain)
    assert (data.in_shape, data.num_classes) == ((2, 28, 28), 19)
    stream = data.train_stream(64)
    drawn = []
    for _ in range(40):
        images, labels = stream.next_batch()
        which = marks(images)
        assert images.shape == (64, 2, 28, 28) and labels.dtype == torch.int64
        assert torch.equal(labels, (which % 10).sum(1))
        drawn.append(which)
    which = torch.cat(drawn)  # 2,560 pairs of 100 digits
    for channel in (0, 1):
        counts = which[:, channel].bincount(minlength=100)
        assert counts.min() >= 8 and counts.max() <= 50  # uniform: mean 25.6, std 5
    assert abs(torch.corrcoef(which.T.double())[0, 1]) < 0.1  # one channel says nothing of the other


def test_a_fixed_pair_is_a_digit_and_its_partner_in_one_permutation(marked):
    test = AddedDigits(marked, plain).test
    which = marks(test.images)
    assert torch.equal(which[:, 0], torch.arange(100, 150))
    assert (
        torch.equal(which[:, 1].sort().values, torch.arange(100, 150))
        and (which[:, 0] != which[:, 1]).sum() > 40
    )
    assert torch.equal(test.labels, ((which - 100) % 10).sum(1))


def test_the_fixed_pairs_hang_on_the_test_seed_alone(marked):
    distort = partial(rotate_translate_scale, canvas=42)
    expected = AddedDigits(marked, distort).test.fingerprint
    assert AddedDigits(marked, distort, seed=3, val_size=20).test.fingerprint == expected
    assert AddedDigits(marked, distort, test_seed=1).test.fingerprint != expected


def test_the_two_channels_are_distorted_independently_and_as_single_digits_are():
    digits = load_digits()
    same = Digits("same", *(part[:1].expand(400, *part.shape[1:]) if part.ndim else part
                            for part in (digits.train_images, digits.train_labels)),
                  digits.test_images[:1].expand(200, -1, -1, -1), digits.test_labels[:1].expand(200))  # fmt: skip
    data = AddedDigits(same, rotate_translate_scale)
    assert data.in_shape == (2, 42, 42)
    for images in (data.train_stream(200).next_batch()[0], data.test.images.float() / 255):
        columns = torch.arange(42.0)
        x = (images.sum(2) * columns).sum(2) / images.sum((2, 3))  # (200, 2): where each stands
        assert abs(torch.corrcoef(x.T)[0, 1]) < 0.2 and x.std(0).min() > 2
    index = torch.tensor([[3, 7], [5, 1]])
    stream = AddedDigits(digits, rotate_translate_scale).train_stream(2)
    generator = torch.Generator()
    generator.set_state(stream.generator.get_state())
    images, _ = stream.batch(index)
    alone = rotate_translate_scale(digits.train_images[index.flatten()], generator)
    assert torch.equal(images[1, 0], alone[2, 0]) and torch.equal(images[0, 1], alone[1, 0])


def test_held_out_digits_are_never_trained_on(marked):
    data = AddedDigits(marked, plain, val_size=30)
    held = set(data.val_index.tolist())
    stream = data.train_stream(50)
    trained = {int(m) for _ in range(20) for m in marks(stream.next_batch()[0]).flatten()}
    validated = set(marks(data.val.images).flatten().tolist())
    assert validated == held and not trained & held and len(trained) == 70


def test_a_stream_goes_on_to_the_bit_and_refuses_another_ones_state(marked):
    stream = AddedDigits(marked, rotate_translate_scale, seed=4).train_stream(8)
    stream.next_batch()
    state = stream.state_dict()
    expected = [stream.next_batch() for _ in range(3)]
    again = AddedDigits(marked, rotate_translate_scale, seed=9).train_stream(8)
    again.load_state_dict(state)
    for (a, b), (c, d) in zip(expected, (again.next_batch() for _ in range(3)), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    other = AddedDigits(marked, plain, val_size=1).train_stream(8)
    with pytest.raises(ValueError, match="was dataset"):
        other.load_state_dict(state)


def test_the_seed_decides_the_stream_and_no_pair_stream_is_a_digit_stream(marked):
    def first(seed, kind=AddedDigits):
        return kind(marked, rotate_translate_scale, seed=seed).train_stream(8).next_batch()[0]

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))
    assert not torch.equal(first(0)[:, :1], first(0, DistortedDigits))
    assert isinstance(AddedDigits(marked, plain).train_stream(2), PairStream)
