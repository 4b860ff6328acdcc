"""Your own images: both layouts, the split by chance, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from stn.datasets.folder import OwnImages
from stn.files import DataNotFoundError


def fill(folder, classes, count, seed=0):
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
                folder / name / f"{i}.png"
            )


def own(root, tmp_path, **options):
    return OwnImages(root, size=32, cache_dir=tmp_path / "cache", **options)


def test_a_split_of_yours_is_kept(tmp_path):
    fill(tmp_path / "mine" / "train", ["ant", "bee", "cat"], 4)
    fill(tmp_path / "mine" / "val", ["bee", "cat"], 2, seed=1)  # a class may be missing there
    data = own(tmp_path / "mine", tmp_path)
    assert data.name == "mine" and data.classes == ["ant", "bee", "cat"] and data.in_shape == (3, 32, 32)
    images, labels = next(data.test.batches(9))
    assert labels.tolist() == [1, 1, 2, 2]
    path = tmp_path / "mine" / "val" / "cat" / "1.png"
    scaled = Image.open(path).resize((46, 37), Image.Resampling.BILINEAR)  # the shorter side to 32 * 8 / 7
    expected = np.asarray(scaled)[2:34, 7:39]
    assert images[3].permute(1, 2, 0).numpy() * 255 == pytest.approx(expected, abs=0.01)
    assert len(data.train_index) == 12


def test_without_one_it_is_split_by_chance_class_by_class_and_once_for_all(tmp_path):
    fill(tmp_path / "mine", ["ant", "bee"], 10)
    data = own(tmp_path / "mine", tmp_path, test_share=0.3)
    _, labels = next(data.test.batches(99))
    assert labels.tolist() == [0] * 3 + [1] * 3 and len(data.train_index) == 14
    assert not {*data.test.index.tolist()} & {*data.train_index.tolist()}
    again = own(tmp_path / "mine", tmp_path, test_share=0.3, seed=5)
    assert torch.equal(again.test.index, data.test.index)
    assert not torch.equal(
        own(tmp_path / "mine", tmp_path, test_share=0.3, test_seed=1).test.index, data.test.index
    )


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere holds no images to train on"):
        own(tmp_path / "nowhere", tmp_path)
    fill(tmp_path / "mine" / "train", ["ant", "bee"], 2)
    with pytest.raises(ValueError, match=r"dataset\.test_share=1 is not valid"):
        own(tmp_path / "mine" / "train", tmp_path, test_share=1)
    fill(tmp_path / "mine" / "val", ["ant", "dog"], 2)
    with pytest.raises(ValueError, match="classes that train/ has not: dog"):
        own(tmp_path / "mine", tmp_path)
