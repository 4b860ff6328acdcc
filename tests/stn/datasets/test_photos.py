"""Photographs: what is decoded, when it is decoded anew, and what training and testing see of it."""

import copy
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from stn.datasets import photos
from stn.datasets.photos import PhotoCache, Photos, shorter_side

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]


@pytest.fixture
def files(tmp_path):
    """Twelve pictures of several sizes, one grey, one with a palette."""
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    paths = []
    for i in range(12):
        pixels = generator.integers(0, 255, (50 + 7 * i, 90 - 3 * i, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert({3: "L", 4: "P"}.get(i, "RGB"))
        paths.append(tmp_path / "in" / f"{i}.png")
        image.save(paths[-1])
    return paths


def cache(files, tmp_path, side=40):
    return PhotoCache(files, side=side, folder=tmp_path / "cache", name="mine")


def test_images_are_scaled_to_their_shorter_side(files, tmp_path):
    cached = cache(files, tmp_path)
    assert len(cached) == 12 and cached.sizes[2].tolist() == [64, 84]
    for i, path in enumerate(files):
        image = Image.open(path).convert("RGB")
        height, width = cached.shape(i)
        assert min(height, width) == 40 and width / height == pytest.approx(
            image.width / image.height, abs=0.02
        )
        expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        assert (cached[i].permute(1, 2, 0).numpy() == expected).all()
        assert (cached.crop(i, 3, 5, 20) == expected[3:23, 5:25]).all()


def test_it_is_made_once_and_anew_when_a_file_changes(files, tmp_path, monkeypatch):
    made = []
    decode = photos._decode
    monkeypatch.setattr(photos, "_decode", lambda *a: made.append(1) or decode(*a))
    old = cache(files, tmp_path)
    cache(files, tmp_path)
    assert len(made) == 1
    before = old[0].clone()
    Image.new("RGB", (60, 60), (1, 2, 3)).save(files[0])
    new = cache(files, tmp_path)
    assert len(made) == 2 and new[0].flatten(1).tolist() == [[c] * 1600 for c in (1, 2, 3)]
    assert torch.equal(old[0], before)  # whoever has the old one open keeps it
    cache(files, tmp_path, side=48)
    assert len(made) == 3 and sorted(p.suffix for p in (tmp_path / "cache").glob("*-48.*")) == [
        ".bin",
        ".json",
        ".lock",
    ]


def test_two_that_start_together_make_one(files, tmp_path, monkeypatch):
    made = []
    decode = photos._decode
    monkeypatch.setattr(photos, "_decode", lambda *a: made.append(1) or decode(*a))
    got = []
    threads = [threading.Thread(target=lambda: got.append(cache(files, tmp_path)[5])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(got) == 4 and all(torch.equal(one, got[0]) for one in got)


def test_all_that_is_missing_or_broken_is_named_at_once(files, tmp_path):
    files[3].write_bytes(b"no picture")
    files[7].write_bytes(files[7].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2 images cannot be read: .*3\.png, .*7\.png\. Unpack"):
        cache(files, tmp_path)
    assert not list((tmp_path / "cache").glob("*.bin"))
    for file in files[2:9]:
        file.unlink()
    with pytest.raises(ValueError, match=r"7 images are missing: .*2\.png, .*6\.png and 2 more\. Unpack"):
        cache(files, tmp_path)


def data(files, tmp_path, **options):
    training = torch.arange(12) < 8
    labels = torch.arange(12) % 4
    defaults = {"size": 35, "cache_dir": tmp_path / "cache"}
    return Photos("mine", files, labels, training, list("abcd"), **{**defaults, **options})


def test_training_crops_are_pieces_of_the_image_half_of_them_mirrored(files, tmp_path):
    assert shorter_side(35) == 40 and shorter_side(224) == 256 and shorter_side(448) == 512
    photographs = data(files, tmp_path)
    stream = photographs.train_stream(8)
    mirrored = total = 0
    tops = set()
    for _ in range(60):
        images, labels = stream.next_batch()
        assert images.shape == (8, 3, 35, 35) and sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        for image, label in zip((images * 255).round().to(torch.uint8), labels, strict=True):
            found = []
            for i in (label.item(), label.item() + 4):
                whole = photographs.cache[i].numpy()
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
    photographs = data(files, tmp_path)
    batches = list(photographs.test.batches(3))
    assert [len(images) for images, _ in batches] == [3, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 3]
    whole = photographs.cache[8]
    top, left = ((n - 35) // 2 for n in whole.shape[1:])
    expected = whole[:, top : top + 35, left : left + 35].float() / 255
    torch.testing.assert_close(batches[0][0][0], expected)
    assert photographs.test.fingerprint == data(files, tmp_path, seed=3).test.fingerprint
    assert photographs.test.fingerprint != data(files, tmp_path, size=42).test.fingerprint


def test_what_is_held_out_is_the_same_for_every_seed_and_not_trained_on(files, tmp_path):
    one, other = data(files, tmp_path, val_size=3), data(files, tmp_path, val_size=3, seed=1)
    assert torch.equal(one.val_index, other.val_index) and len(one.val) == 3
    assert not {*one.val_index.tolist()} & {*one.train_index.tolist()}
    assert sorted([*one.val_index.tolist(), *one.train_index.tolist()]) == list(range(8))
    assert data(files, tmp_path).val is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "dataset.size=8 is not valid"),
        ({"val_size": 8}, "dataset.val_size=8 is not valid: 0 to 7 of 8"),
    ],
)
def test_what_cannot_be_is_refused(files, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data(files, tmp_path, **options)
    with pytest.raises(
        ValueError, match="A training batch of 9 needs as many training images, and there are 8"
    ):
        data(files, tmp_path).train_stream(9)
