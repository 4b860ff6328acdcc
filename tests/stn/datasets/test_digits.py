"""The digits embedded in scikit-learn, in MNIST's layout."""

import hashlib

import numpy as np
import torch


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
