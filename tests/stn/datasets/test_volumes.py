"""Digits as solids: against scipy's rotations and affine_transform, and cases worked out by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from stn.datasets import volumes
from stn.datasets.digits import load_digits
from stn.datasets.volumes import SolidDigits, extrude, place_solid, rotation

STROKE = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
STROKE[..., 4:24, 12:16] = 1  # a vertical bar, 4 wide and 20 high
STROKE[..., 4:8, 12:20] = 1  # with an arm at its upper end, to the right


def test_rotation_is_scipys_about_x_then_y_then_z():
    angles = torch.tensor([[30.0, 0, 0], [0, 40, 0], [0, 0, -50], [10, -70, 125]], dtype=torch.float64)
    expected = Rotation.from_euler("xyz", angles.numpy(), degrees=True).as_matrix()
    np.testing.assert_allclose(rotation(angles).numpy(), expected, atol=1e-12)


def test_unturned_in_the_middle_it_is_the_extruded_digit():
    solid = place_solid(
        STROKE, 60, 14, torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    )
    expected = torch.zeros(60, 60, 60, dtype=torch.float64)
    expected[23:37, 16:44, 16:44] = STROKE[0, 0]
    torch.testing.assert_close(solid[0, 0], expected)


def test_turned_and_placed_it_is_scipys():
    angles = torch.tensor([[20.0, -35, 40]], dtype=torch.float64)
    centre = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    ours = place_solid(STROKE, 60, 14, angles, centre)[0, 0].numpy()
    solid = np.zeros((60, 60, 60))
    solid[23:37, 16:44, 16:44] = STROKE[0, 0]
    # scipy: input index (z, y, x) of every output index; the centre of both is 29.5.
    back = Rotation.from_euler("xyz", angles.numpy()[0], degrees=True).as_matrix().T[::-1, ::-1]
    shift = 30 * centre.numpy()[0][::-1]
    offset = 29.5 - back @ (29.5 + shift)
    theirs = ndimage.affine_transform(solid, back, offset, order=1, mode="constant")
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_the_canvas_scales_everything():
    angles, centre = torch.tensor([[10.0, 20, 30]]).double(), torch.tensor([[0.1, 0.2, -0.3]]).double()
    large = place_solid(STROKE, 60, 14, angles, centre)
    small = place_solid(STROKE, 30, 14, angles, centre)
    assert small.shape == (1, 1, 30, 30, 30)
    assert 8 * small.sum().item() == pytest.approx(large.sum().item(), rel=0.02)
    for axes in ((1, 2), (0, 2), (0, 1)):  # the same place
        profiles = [solid[0, 0].sum(axes) for solid in (large, small)]
        middles = [(p * ((torch.arange(len(p)) * 2 + 1) / len(p) - 1)).sum() / p.sum() for p in profiles]
        assert middles[0].item() == pytest.approx(middles[1].item(), abs=0.01)


def test_drawn_solids_are_seeded_and_stay_in_the_cube():
    images = STROKE.repeat(200, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    first = extrude(images, generator, canvas=20)
    second = extrude(images, generator, canvas=20)
    generator.set_state(state)
    assert first.equal(extrude(images, generator, canvas=20)) and not first.equal(second)
    assert first.min() >= 0 and first.max() <= 1 + 1e-9
    full = torch.ones(100, 1, 28, 28, dtype=torch.float64)
    upright = extrude(full, torch.Generator().manual_seed(1), max_angle=0)[:, 0]
    # Unturned, all of every solid is inside, wherever it stands, and some stand at every face.
    torch.testing.assert_close(upright.sum((1, 2, 3)), torch.full((100,), 14.0 * 28 * 28).double())
    for axes in ((2, 3), (1, 3), (1, 2)):
        seen = upright.sum(axes) > 0.01
        assert seen[:, :2].any() and seen[:, -2:].any()


def test_angles_and_places_are_uniform(monkeypatch):
    drawn = []
    monkeypatch.setattr(volumes, "place_solid", lambda images, canvas, thickness, *pose: drawn.extend(pose))
    extrude(STROKE.repeat(4000, 1, 1, 1), torch.Generator().manual_seed(2), max_angle=30, thickness=12)
    angles, centre = drawn
    rooms = [30.0] * 3 + [1 - 28 / 60, 1 - 28 / 60, 1 - 12 / 60]
    for values, room in zip([*angles.unbind(1), *centre.unbind(1)], rooms, strict=True):
        assert values.abs().max().item() == pytest.approx(room, rel=0.01) and values.abs().max() <= room
        assert values.std().item() == pytest.approx(room / 3**0.5, rel=0.05)
        assert abs(values.mean().item()) < 0.05 * room


@pytest.mark.parametrize("thickness", [0, 61])
def test_a_solid_that_does_not_fit_is_refused(thickness):
    with pytest.raises(ValueError, match="does not fit a cube of 60 voxels"):
        extrude(STROKE, torch.Generator(), thickness=thickness)


def test_the_data_set_is_that_of_images_with_an_axis_more():
    def small(images, generator):
        return extrude(images, generator, canvas=16)

    data = SolidDigits(load_digits(), small, val_size=10)
    assert data.in_shape == (1, 16, 16, 16) and data.num_classes == 10
    images, labels = data.train_stream(4).next_batch()
    assert images.shape == (4, 1, 16, 16, 16) and images.dtype == torch.float32 and labels.shape == (4,)
    assert data.test.images.shape == (360, 1, 16, 16, 16) and data.test.images.dtype == torch.uint8
    assert data.test.fingerprint == SolidDigits(load_digits(), small, seed=5).test.fingerprint
