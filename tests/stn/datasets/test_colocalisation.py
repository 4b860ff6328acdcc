"""Images that share a digit: where it stands, where random crops are cut, and that both are fixed."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from stn.datasets.colocalisation import SharedDigit, place_digit, roll_each
from stn.datasets.digits import load_digits

DIGITS = load_digits()


def shared(patches=16, **options):
    return SharedDigit(DIGITS, partial(place_digit, patches=patches), **{"digit": 3, **options})


@pytest.mark.parametrize("patches", [0, 16])
def test_the_box_holds_the_digit_itself(patches):
    images = DIGITS.test_images[:20].double() / 255
    generator = torch.Generator().manual_seed(1)
    placed, boxes = place_digit(images, generator, source=DIGITS.train_images, patches=patches)
    assert placed.shape == (20, 1, 84, 84) and boxes.shape == (20, 4)
    for image, whole, box in zip(images, placed, boxes, strict=True):
        left, top, right, bottom = (int(edge) for edge in box)
        assert (right - left, bottom - top) == (28, 28)
        assert torch.equal(whole[:, top:bottom, left:right], image)
        outside = whole.sum() - whole[:, top:bottom, left:right].sum()
        assert (outside > 1e-6) == (patches > 0)


def test_images_are_of_one_class_and_the_same_for_every_seed():
    data = shared(seed=0)
    assert 0 < len(data.test.images) == int((DIGITS.test_labels == 3).sum())
    assert data.in_shape == (1, 84, 84) and data.test.labels.shape == (len(data.test.images), 4)
    again = shared(seed=5)
    assert again.test.fingerprint == data.test.fingerprint
    assert shared(test_seed=1).test.fingerprint != data.test.fingerprint
    assert shared(digit=4).test.fingerprint != data.test.fingerprint
    assert len(shared(count=7).test.images) == 7
    # the box on the fixed image holds a three, to the pixel
    left, top, right, bottom = (int(edge) for edge in data.test.labels[0])
    cut = data.test.images[0, :, top:bottom, left:right]
    threes = DIGITS.test_images[DIGITS.test_labels == 3]
    assert (threes == cut).flatten(1).all(1).any()


def test_random_crops_lie_in_the_image_and_are_log_uniform():
    data = shared(crops=3, smallest_crop=0.25)
    stream = data.train_stream(10)
    images, _, windows = stream.next_batch()
    assert images.shape == (10, 1, 84, 84) and images.max() <= 1 and windows.shape == (10, 3, 3)
    windows = torch.cat([stream.next_batch()[2] for _ in range(100)]).flatten(0, 1)
    side, centre = windows[:, :1], windows[:, 1:]
    assert side.min() >= 0.25 and side.max() <= 1 and (centre.abs() <= 1 - side).all()
    doubling = side.log2()  # uniform from -2 to 0
    assert doubling.mean() == pytest.approx(-1, abs=0.042)  # 4 standard errors: 2 / sqrt(12 * 3000)
    assert doubling.square().mean() == pytest.approx(4 / 3, abs=0.088)  # of a standard error of 0.022
    share = centre / (1 - side)  # uniform from -1 to 1
    assert share.mean(0).abs().max() < 0.042
    assert (share.square().mean(0) - 1 / 3).abs().max() < 0.022  # of a standard error of 0.0054


def test_a_stream_goes_on_from_its_state_and_its_copy_leaves_it_alone():
    stream = shared().train_stream(10)
    stream.next_batch()
    state, twin = copy.deepcopy(stream.state_dict()), copy.deepcopy(stream)
    following = [stream.next_batch() for _ in range(6)]
    other = shared(seed=9).train_stream(10)
    other.load_state_dict(state)
    for batch, copied in zip(following, [twin.next_batch() for _ in range(6)], strict=True):
        assert len(batch) == 3 and all(map(torch.equal, batch, copied))
    for batch in following:
        assert all(map(torch.equal, batch, other.next_batch()))


def test_images_move_in_a_circle_as_numpy_rolls_them_and_every_shift_is_drawn():
    images = torch.rand(3, 1, 6, 6)
    shifts = [(-2, 2), (3, 0), (0, -1)]
    moved = roll_each(images, torch.tensor(shifts))
    for i, (dx, dy) in enumerate(shifts):
        assert (moved[i, 0].numpy() == np.roll(images[i, 0].numpy(), (dy, dx), (0, 1))).all()
    data = shared(count=1, roll=3)
    stream, seen = data.train_stream(1), set()
    for _ in range(600):
        image, shift, _ = stream.next_batch()
        assert torch.equal((image * 255).round().to(torch.uint8), data.test.images)
        seen.add(tuple(shift[0].tolist()))
    # 49 shifts, each as likely: 600 draws miss one with a chance of 0.02 %
    assert seen == {(dx, dy) for dx in range(-3, 4) for dy in range(-3, 4)}


def test_a_larger_batch_takes_all_images():
    data = shared(count=7, roll=0)
    images = data.train_stream(50).next_batch()[0]
    assert len(images) == 7
    rows = {image.numpy().tobytes() for image in (images * 255).round().to(torch.uint8)}
    assert rows == {image.numpy().tobytes() for image in data.test.images}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digit": 10}, "dataset.digit=10 is not valid: choose a class from 0 to 9"),
        ({"val_size": 5}, "dataset.val_size=5 is not valid here"),
        ({"roll": -1}, "dataset.roll=-1 is not valid"),
        ({"crops": 0}, "dataset.crops=0 and dataset.smallest_crop=0.16.* are not valid"),
        ({"smallest_crop": 1.5}, "dataset.crops=8 and dataset.smallest_crop=1.5 are not valid"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shared(**options)
