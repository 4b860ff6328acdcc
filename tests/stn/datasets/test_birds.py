"""Birds: their parts in the frame of the network's input, and the real ones where they are."""

import os
from pathlib import Path

import pytest
import torch

from stn.datasets.bird_lists import PARTS
from stn.datasets.birds import Birds, to_middle_square


def test_the_frame_of_the_middle_by_hand():
    places = torch.tensor([[[150.0, 100], [50, 0], [0, 200]]])
    sizes = torch.tensor([[200.0, 300]])  # 200 high, 300 wide: the middle square is from x = 50 to 250
    expected = torch.tensor([[[0.0, 0], [-1, -1], [-1.5, 1]]])
    torch.testing.assert_close(to_middle_square(places, sizes, 1.0), expected)
    torch.testing.assert_close(to_middle_square(places, sizes, 0.5), 2 * expected)


def test_parts_are_given_in_the_frame_that_the_network_sees(tmp_path):
    data = Birds("toy_birds", size=112, cache_dir=tmp_path)
    images, _, parts = next(data.test.batches(36))
    dark = 0
    for image, told in zip(images, parts, strict=True):
        for name in ("left eye", "right eye"):
            x, y, visible = told[PARTS.index(name)].tolist()
            if visible and max(abs(x), abs(y)) < 0.95:
                column, row = int((x + 1) * 56), int((y + 1) * 56)
                assert image[:, row, column].max() < 0.45
                dark += 1
    assert dark > 20
    assert len(data.train_stream(4).next_batch()) == 2  # training is not told of parts


def real_data() -> Path | None:
    places = [Path(os.environ.get("STN_DATA_DIR") or "data"), Path(__file__).parents[4] / "shared" / "data"]
    return next((place for place in places if (place / "cub50").is_dir()), None)


@pytest.mark.skipif(real_data() is None, reason="needs cub50/ in STN_DATA_DIR")
def test_real_birds(tmp_path):
    data = Birds(
        "cub50",
        data_dir=real_data(),
        cache_dir=tmp_path,
        size=32,  # JPEG is decoded at an eighth of its side
        expected={"classes": 50, "images": 2889, "train": 1500, "test": 1389},
    )
    assert data.num_classes == 50 and data.in_shape == (3, 32, 32) and len(data.test) == 1389
    parts = data.test.extra
    seen = parts[..., 2] == 1
    assert (
        parts[..., :2][seen].abs() <= 1
    ).float().mean() > 0.75  # most of a bird is in the middle of its photograph
    images, labels = data.train_stream(16).next_batch()
    assert images.shape == (16, 3, 32, 32) and labels.max() < 50 and images.std() > 0.1
