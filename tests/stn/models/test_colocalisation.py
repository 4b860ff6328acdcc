"""The localiser: the paper's sizes, its boxes, and windows that stay in bounds."""

import pytest
import torch

from stn import Affine, Attention
from stn.models.colocalisation import Localiser, WindowHead, boxes


@pytest.mark.parametrize(
    ("stride", "parameters"),
    [
        # 8 filters 9x9 + 8; (8 * 38 * 38) * 8 + 8; 8 * 8 + 8; 8 * 3 + 1, and likewise with 10 x 10 left
        (1, 8 * 82 + 8 * 38 * 38 * 8 + 8 + 72 + 25),
        (4, 8 * 82 + 8 * 10 * 10 * 8 + 8 + 72 + 25),
    ],
)
def test_both_readings_of_the_papers_network(stride, parameters):
    model = Localiser((1, 84, 84), transform=Attention(), stride=stride)
    assert sum(p.numel() for p in model.parameters()) == parameters
    windows, aux = model(torch.rand(3, 1, 84, 84))
    assert windows.shape == (3, 4)
    assert aux["theta"].shape == (3, 1, 3) and aux["warped"].shape == (3, 1, 1, 28, 28)


def test_boxes_by_hand():
    theta = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.25, -0.5], [1 / 3, 2 / 3, 2 / 3]])
    expected = torch.tensor([[0, 0, 84, 84], [31.5, 0, 73.5, 42], [56, 56, 84, 84]])
    torch.testing.assert_close(boxes(theta, 84), expected)


def test_it_starts_in_the_middle_and_its_crop_is_the_box():
    image = torch.zeros(2, 1, 84, 84)
    image[:, :, 20:60, 10:50] = 1
    model = Localiser((1, 84, 84), transform=Attention(), start=0.5, out_size=42)
    windows, aux = model(image)
    torch.testing.assert_close(windows, torch.tensor([[21.0, 21, 63, 63]]).expand(2, 4))
    torch.testing.assert_close(aux["warped"][:, 0], image[:, :, 21:63, 21:63])


def test_windows_stay_in_bounds_whatever_the_features():
    head = WindowHead(4, start=0.6)
    torch.nn.init.normal_(head.weight, std=100)  # far beyond what saturates
    theta = head(torch.randn(500, 4))
    size, centre = theta[:, 0], theta[:, 1:]
    assert size.min() >= head.smallest and size.max() <= head.largest
    assert (centre.abs() <= 1 - size[:, None] + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": Affine()}, "upright squares, not Affine: choose transform=attention"),
        ({"transform": Attention(), "start": 1.5}, "model.start=1.5, lies between"),
        ({"transform": Attention(), "stride": 0}, "a stride from 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Localiser((1, 84, 84), **options)
    with pytest.raises(ValueError, match="square images"):
        Localiser((1, 84, 42), transform=Attention())
