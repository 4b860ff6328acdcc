"""The networks of appendix A.3: shapes and counts by hand, the budget, and what they refuse."""

import pytest
import torch

from stn import Affine, Affine3d, localisation_parameters
from stn.models.budget import count_parameters
from stn.models.mnist import CNN, cnn, st_cnn
from stn.models.volumes import cnn_3d, st_cnn_3d


def test_the_baseline_is_the_cnn_on_the_mean_along_the_depth():
    model = cnn_3d((1, 9, 28, 30), width=3)
    volume = torch.rand(2, 1, 9, 28, 30)
    plain = CNN((1, 28, 30), width=3)
    plain.load_state_dict(model.cnn.state_dict())
    logits, aux = model(volume)
    assert aux == {}
    torch.testing.assert_close(logits, plain(volume.sum(2) / 9)[0])


@pytest.mark.parametrize("side", [32, 60])
def test_the_transformer_starts_as_the_identity_and_has_the_parameters_worked_out_by_hand(side):
    model = st_cnn_3d((1, side, side, side), transform=Affine3d(), width=3)
    # 8 filters of 5^3 and 16 of 3^3 on 8 channels; 16 voxels a side (60: 15) -> 12 (11) -> 6 -> 4; 20; 12.
    by_hand = (8 * 125 + 8) + (16 * 8 * 27 + 16) + (16 * 4**3 * 20 + 20) + (20 * 12 + 12)
    assert sum(p.numel() for p in localisation_parameters(model)) == by_hand
    volume = torch.rand(2, 1, side, side, side)
    logits, aux = model(volume)
    assert logits.shape == (2, 10) and aux["theta"].shape == (2, 1, 12)
    torch.testing.assert_close(aux["warped"][:, 0], volume, atol=1e-4, rtol=0)


def test_both_have_the_budget():
    for model in (cnn_3d((1, 32, 32, 32)), st_cnn_3d((1, 32, 32, 32), transform=Affine3d())):
        assert abs(count_parameters(model) - 400_000) < 4_000


def test_gradients_reach_theta():
    model = st_cnn_3d((1, 32, 32, 32), transform=Affine3d(), num_transformers=2, width=3)
    logits, aux = model(torch.rand(2, 1, 32, 32, 32))
    assert aux["theta"].shape == (2, 2, 12)
    logits.square().sum().backward()
    assert all(n.head.bias.grad.abs().sum() > 0 for n in model.transformers.networks)


def test_images_and_volumes_are_not_mixed_up():
    with pytest.raises(ValueError, match="choose transform=affine3d"):
        st_cnn_3d((1, 32, 32, 32), transform=Affine())
    with pytest.raises(ValueError, match="choose model=cnn or st_cnn"):
        cnn_3d((1, 28, 28))
    for make in (cnn, lambda shape: st_cnn(shape, transform=Affine())):
        with pytest.raises(ValueError, match="choose model=cnn_3d or st_cnn_3d"):
            make((1, 32, 32, 32))
    with pytest.raises(ValueError, match="at least 15 voxels"):
        st_cnn_3d((1, 14, 32, 32), transform=Affine3d())
    with pytest.raises(ValueError, match="num_transformers is at least 1"):
        st_cnn_3d((1, 32, 32, 32), transform=Affine3d(), num_transformers=0)
