"""Your own images: the layouts, the split by chance, the line that tells them, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from stn.datasets.folder import OwnImages
from stn.datasets.folder_layout import content_of, read_layout
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


def test_val_and_test_are_for_what_their_names_say_and_one_line_tells_it(tmp_path):
    mine = tmp_path / "mine"
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        fill(mine / part, ["ant", "bee"], count)
    (mine / "train" / "bee" / "4.gif").touch()
    Image.new("L", (50, 2)).save(mine / "train" / "bee" / "5.png")
    data = own(mine, tmp_path, channels=1)
    assert data.in_shape == (1, 32, 32)
    assert data.description == (
        "mine: 2 classes, ant 3 + 2 + 1, bee 4 + 2 + 1; 7 images to train on, 4 to validate on (valid/), 2 to test on "
        "(test/); left out: 1 .gif; cut to their middle: 1 longer than 8 times their width."
    )
    assert data.test.names == ["test/ant/0.png", "test/bee/0.png"]
    assert data.val.names == [f"valid/{name}/{i}.png" for name in ("ant", "bee") for i in range(2)]


def test_of_many_classes_the_first_are_named(tmp_path):
    fill(tmp_path / "mine", [f"c{i:02}" for i in range(20)], 2)
    line = own(tmp_path / "mine", tmp_path).description
    assert (
        line.startswith("mine: 20 classes, c00 1 + 1, c01 1 + 1, ")
        and ", c11 1 + 1, and 8 more; 20 images" in line
    )
    assert line.endswith("20 to test on (0.2 of each class, by chance).")


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere cannot be read"):
        own(tmp_path / "nowhere", tmp_path)
    fill(tmp_path / "mine", ["ant", "bee"], 2)
    with pytest.raises(ValueError, match=r"dataset\.test_share=1 is not valid"):
        own(tmp_path / "mine", tmp_path, test_share=1)
    content = content_of(read_layout(tmp_path / "mine"))
    own(tmp_path / "mine", tmp_path, content=content)
    fill(tmp_path / "mine", ["cat"], 1)
    with pytest.raises(ValueError, match="other images than those of the run: 5 images of 3 classes"):
        own(tmp_path / "mine", tmp_path, content=content)
    with pytest.raises(
        ValueError, match=r"cat holds too few images for dataset\.test_share=0\.2: 1 to test on"
    ):
        own(tmp_path / "mine", tmp_path)
