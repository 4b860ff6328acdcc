"""Data sets of images: what training and testing see of them."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from stn.datasets.image_cache import shorter_side
from stn.datasets.images import ImageDataset


def data(files, tmp_path, **options):
    training = torch.arange(12) < 8
    labels = torch.arange(12) % 4
    defaults = {"size": 35, "cache_dir": tmp_path / "cache"}
    return ImageDataset("mine", files, labels, training, list("abcd"), **{**defaults, **options})


def test_training_crops_are_pieces_of_the_image_half_of_them_mirrored(files, tmp_path):
    assert shorter_side(35) == 40 and shorter_side(224) == 256 and shorter_side(448) == 512
    dataset = data(files, tmp_path)
    stream = dataset.train_stream(8)
    mirrored = total = 0
    tops = set()
    for _ in range(60):
        images, labels = stream.next_batch()
        assert images.shape == (8, 3, 35, 35) and sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        for image, label in zip((images * 255).round().to(torch.uint8), labels, strict=True):
            found = []
            for i in (label.item(), label.item() + 4):
                whole = dataset.cache[i].numpy()
                windows = np.lib.stride_tricks.sliding_window_view(whole, (35, 35), (1, 2))[:, :, :]
                for flip in (False, True):
                    piece = image.numpy()[:, :, ::-1] if flip else image.numpy()
                    same = (windows == piece[:, None, None]).all((0, 3, 4))
                    found += [(i, flip, top) for top in same.nonzero()[0].tolist()]
            assert len(found) == 1
            mirrored += found[0][1]
            tops.add(found[0][2])
            total += 1
    assert abs(mirrored / total - 0.5) < 0.1  # the standard error is 0.023
    assert {0, 5} <= tops


def test_a_stream_goes_on_from_its_state(files, tmp_path):
    stream = data(files, tmp_path).train_stream(3)
    stream.next_batch()
    state, twin = copy.deepcopy(stream.state_dict()), copy.deepcopy(stream)
    following = [stream.next_batch() for _ in range(5)]
    other = data(files, tmp_path, seed=4).train_stream(3)
    assert not torch.equal(other.next_batch()[0], data(files, tmp_path).train_stream(3).next_batch()[0])
    other.load_state_dict(state)
    for images, labels in following:
        for again in (other.next_batch(), twin.next_batch()):
            assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    with pytest.raises(ValueError, match="a stream over 8 training images, and here are 6"):
        data(files, tmp_path, val_size=2).train_stream(3).load_state_dict(state)


def test_test_images_are_middles_once_and_in_order(files, tmp_path):
    dataset = data(files, tmp_path)
    batches = list(dataset.test.batches(3))
    assert [len(images) for images, _ in batches] == [3, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 3]
    whole = dataset.cache[8]
    top, left = ((n - 35) // 2 for n in whole.shape[1:])
    expected = whole[:, top : top + 35, left : left + 35].float() / 255
    torch.testing.assert_close(batches[0][0][0], expected)
    assert dataset.test.fingerprint == data(files, tmp_path, seed=3).test.fingerprint
    assert dataset.test.fingerprint != data(files, tmp_path, size=42).test.fingerprint


def test_what_is_held_out_is_the_same_for_every_seed_and_not_trained_on(files, tmp_path):
    one, other = data(files, tmp_path, val_size=2), data(files, tmp_path, val_size=2, seed=1)
    assert torch.equal(one.val_index, other.val_index) and len(one.val) == 2
    assert not {*one.val_index.tolist()} & {*one.train_index.tolist()}
    assert sorted([*one.val_index.tolist(), *one.train_index.tolist()]) == list(range(8))
    assert data(files, tmp_path).val is None
    given = torch.arange(12) == 9  # one to validate on, which is neither trained nor tested on
    both = data(files, tmp_path, val_size=2, validation=given)
    assert both.val_index.tolist() == [*one.val_index.tolist(), 9]
    assert both.val.names == [f"{i}.png" for i in both.val_index.tolist()]
    assert both.test.index.tolist() == [8, 10, 11] and torch.equal(both.train_index, one.train_index)


def test_no_image_is_mirrored_where_left_and_right_differ(files, tmp_path):
    for path in files:  # dark on the left
        Image.fromarray(np.repeat(np.linspace(0, 255, 60, dtype=np.uint8)[None], 50, 0)).save(path)
    for mirror, share in ((False, 0), (True, 0.5)):
        stream = data(files, tmp_path, mirror=mirror, channels=1).train_stream(8)
        images = torch.cat([stream.next_batch()[0] for _ in range(12)])
        assert images.shape == (96, 1, 35, 35)
        mirrored = images[:, 0, :, 0].mean(1) > images[:, 0, :, -1].mean(1)
        assert mirrored.float().mean().item() == pytest.approx(share, abs=0.2)  # the standard error is 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 7}, "dataset.size=7 is not valid"),
        ({"channels": 2}, "dataset.channels=2 is not valid: it is 3 for colour, 1 for grey"),
        ({"mirror": "no"}, "dataset.mirror=no is not valid: it is true or false"),
        ({"val_size": 8}, "dataset.val_size=8 is not valid: 0 to 7 of 8"),
        (
            {"val_size": 7},
            r"3 classes have no image that is trained on: \w, \w, \w\. Lower dataset\.val_size",
        ),
    ],
)
def test_what_cannot_be_is_refused(files, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data(files, tmp_path, **options)
    with pytest.raises(
        ValueError, match="A training batch of 9 needs as many training images, and there are 8"
    ):
        data(files, tmp_path).train_stream(9)
