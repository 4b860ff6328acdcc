"""Photograph classifiers: where the windows begin, what they cut out, and what is shared."""

import pytest
import torch

from stn import Affine, Attention, Projective, Translation, localisation_parameters
from stn.models.backbones import Backbone
from stn.models.images import ImageCNN, ImageSTCNN, tiling

BACKBONE = {"arch": "mobilenet_v2", "weights": "none"}


def network(size=64, **options):
    torch.manual_seed(0)
    defaults = {
        "num_classes": 5,
        "transform": Translation(0.5),
        "num_transformers": 2,
        "crop": 32,
        "seen": 64,
    }
    return ImageSTCNN((3, size, size), backbone=Backbone(**BACKBONE), **{**defaults, **options}).eval()


def test_windows_begin_as_the_papers():
    expected = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
    torch.testing.assert_close(tiling(Translation(), 2), expected)
    expected = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(tiling(Translation(), 4), expected)
    torch.testing.assert_close(tiling(Attention(), 2), torch.tensor([[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]))
    expected = torch.tensor([[0.5, 0, -0.5, 0, 0.5, 0], [0.5, 0, 0, 0, 0.5, 0], [0.5, 0, 0.5, 0, 0.5, 0]])
    torch.testing.assert_close(tiling(Affine(), 3), expected)
    for transform in (Translation(), Affine(), Projective()):
        torch.testing.assert_close(tiling(transform, 1)[0], transform.identity())


def test_the_first_crops_tile_the_image():
    image = torch.rand(2, 3, 64, 64)
    logits, aux = network()(image)
    assert (
        logits.shape == (2, 5)
        and aux["theta"].shape == (2, 2, 2)
        and aux["warped"].shape == (2, 2, 3, 32, 32)
    )
    torch.testing.assert_close(aux["warped"][:, 0], image[:, :, 16:48, :32])
    torch.testing.assert_close(aux["warped"][:, 1], image[:, :, 16:48, 32:])


def test_crops_are_cut_at_full_resolution_though_less_is_seen():
    image = torch.rand(1, 3, 128, 128)
    model = network(size=128, crop=64, num_transformers=4)
    seen = []
    model.transformers.networks[0].localisation.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    _, aux = model(image)
    torch.testing.assert_close(aux["warped"][0, 3], image[0, :, 64:, 64:])
    expected = image.reshape(1, 3, 64, 2, 64, 2).mean((3, 5))
    torch.testing.assert_close(seen[0], expected)


def test_backbones_begin_equal_and_share_nothing():
    model = network()
    first, second = (dict(b.named_parameters()) for b in model.backbones)
    localisation = dict(model.transformers.networks[0].localisation[0].named_parameters())
    for name, parameter in first.items():
        assert torch.equal(parameter, second[name]) and torch.equal(parameter, localisation[name])
        assert len({parameter.data_ptr(), second[name].data_ptr(), localisation[name].data_ptr()}) == 3
    mine = {id(p) for p in localisation_parameters(model)}
    assert mine == {id(p) for p in model.transformers.parameters()} and len(mine) < len(
        list(model.parameters())
    )
    assert model.transformers.networks[0].head.out_features == 4  # one localisation network speaks for both


def test_theta_moves_each_window_by_itself():
    model, image = network(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.transformers.networks[0].head.bias.copy_(torch.tensor([-0.5, -0.5, 0.5, 0.5]))
    _, aux = model(image)
    torch.testing.assert_close(aux["warped"][0, 0], image[0, :, :32, :32])
    torch.testing.assert_close(aux["warped"][0, 1], image[0, :, 32:, 32:])
    model(image)[0].sum().backward()
    assert model.transformers.networks[0].head.weight.grad.abs().sum(1).min() > 0


def test_the_plain_network_is_the_pooled_backbone():
    torch.manual_seed(0)
    backbone = Backbone(**BACKBONE)
    model, image = ImageCNN((3, 64, 64), num_classes=5, backbone=backbone).eval(), torch.rand(2, 3, 64, 64)
    logits, aux = model(image)
    assert aux == {}
    torch.testing.assert_close(logits, model.classifier(backbone(image).mean((2, 3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 96}, "model.seen=64 must divide the image's side, 96 pixels"),
        ({"transform": Projective()}, "2 transformers of Projective would all start alike"),
        ({"num_transformers": 0}, "model.num_transformers=0 is not valid"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
    with pytest.raises(ValueError, match="take colour images"):
        ImageCNN((1, 28, 28), num_classes=10, backbone=Backbone(**BACKBONE))
