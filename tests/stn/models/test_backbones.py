"""Backbones: torchvision's numbers from torchvision's weights, and clear words for weights that do not fit."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import nn

from stn.models.backbones import Backbone, SameDepthwise, SamePadding


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18"])
def test_the_features_are_torchvisions(arch, tmp_path):
    torch.manual_seed(0)
    reference = getattr(zoo, arch)(weights=None).eval()
    torch.save({key: value.half() for key, value in reference.state_dict().items()}, tmp_path / "weights.pth")
    reference.load_state_dict({key: value.half().float() for key, value in reference.state_dict().items()})
    backbone = Backbone(arch, weights=tmp_path / "weights.pth").eval()
    images = torch.rand(2, 3, 64, 64)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    head = reference.fc if arch == "resnet18" else reference.classifier
    with torch.no_grad():
        features = backbone(images)
        assert features.shape == (2, backbone.out_channels, 2, 2)
        torch.testing.assert_close(head(features.mean((2, 3))), reference(normal), rtol=1e-4, atol=1e-5)


def test_googlenet_takes_what_torchvisions_own_makes_of_the_usual_scaling(tmp_path):
    torch.manual_seed(0)
    reference = zoo.googlenet(weights=None, transform_input=True, aux_logits=True, init_weights=False).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")  # with its auxiliary classifiers
    backbone = Backbone("googlenet", weights=tmp_path / "weights.pth").eval()
    images = torch.rand(2, 3, 64, 64)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    with torch.no_grad():
        told = reference.fc(backbone(images).mean((2, 3)))
        torch.testing.assert_close(told, reference(normal), rtol=1e-4, atol=1e-5)


def test_same_padding_by_hand():
    ones = torch.ones(1, 1, 4, 5)
    padded = SamePadding(3, 2)(ones)
    # 4 rows: 2 outputs reach over 2 + 3 = 5, one more, below. 5 columns: 3 outputs reach over 7, two more, one a side
    assert padded.shape == (1, 1, 5, 7)
    assert padded[0, 0, :, 3].tolist() == [1, 1, 1, 1, 0]
    assert padded[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("side", [(14, 14), (13, 15), (8, 7)])
def test_a_depthwise_convolution_is_the_same_at_stride_one_and_thinned(side):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, stride=2, groups=6)
    image = torch.randn(2, 6, *side, requires_grad=True)
    ours, strided = SameDepthwise(SamePadding(3, 2), conv)(image), conv(SamePadding(3, 2)(image))
    torch.testing.assert_close(ours, strided)
    one, two = (torch.autograd.grad(out.square().sum(), image)[0] for out in (ours, strided))
    torch.testing.assert_close(one, two)


def test_frozen_norms_keep_what_the_weights_say():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    for norm, moved in (("batch", True), ("frozen", False)):
        backbone = Backbone("resnet18", weights="none", norm=norm).train()
        before = backbone.features[1].running_mean.clone()
        trained = backbone(images)
        assert (not torch.equal(before, backbone.features[1].running_mean)) == moved
        if norm == "frozen":
            torch.testing.assert_close(trained, backbone.eval()(images))
        assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_padding_changes_the_strided_convolutions_and_no_size(tmp_path):
    torch.manual_seed(0)
    torch.save(zoo.mobilenet_v2(weights=None).state_dict(), tmp_path / "weights.pth")
    plain, same = (
        Backbone(
            "mobilenet_v2", weights=tmp_path / "weights.pth", scaling="symmetric", padding=padding
        ).eval()
        for padding in ("torch", "same")
    )
    assert sum(isinstance(module, SamePadding) for module in same.modules()) == 5
    assert not any(isinstance(module, SamePadding) for module in plain.modules())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert plain(images).shape == same(images).shape == (1, 1280, 2, 2)
        assert (plain(images) - same(images)).norm() > 0.1 * plain(images).norm()
        # the first layer, by torch's own padding
        first = same.features[0](2 * images - 1)
        conv, norm = same.features[0][0][1], same.features[0][1]
        expected = F.relu6(norm(F.conv2d(F.pad(2 * images - 1, (0, 1, 0, 1)), conv.weight, stride=2)))
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arch": "vgg"}, ValueError, r"backbone\.arch=vgg is not valid: choose one of googlenet"),
        ({"scaling": "x"}, ValueError, r"backbone\.scaling=x is not valid"),
        ({"norm": "x"}, ValueError, r"backbone\.norm=x is not valid: choose one of batch, frozen"),
        (
            {"weights": "nowhere.pth"},
            FileNotFoundError,
            r"backbone\.weights=nowhere\.pth is not there; looked at",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        Backbone(**{"arch": "resnet18", "weights": "none", **options})


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = zoo.resnet18(weights=None).state_dict()
    torch.save(
        {key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "fits.pth"
    )
    Backbone("resnet18", weights=tmp_path / "fits.pth")  # the classifier need not be there
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    state["mine"] = torch.zeros(1)
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError,
        match=r"1 missing \(layer1\.0\.conv1\.weight\); 1 not known \(mine\); 1 of another shape \(conv1\.weight\)",
    ):
        Backbone("resnet18", weights=tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_text("no")
    with pytest.raises(ValueError, match="cannot be read"):
        Backbone("resnet18", weights=tmp_path / "weights.pth")
    torch.save([1, 2], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        Backbone("resnet18", weights=tmp_path / "weights.pth")


def test_a_file_is_found_by_its_name_among_the_data(tmp_path):
    (tmp_path / "weights").mkdir()
    torch.save(zoo.resnet18(weights=None).state_dict(), tmp_path / "weights" / "mine.pth")
    assert Backbone("resnet18", weights="mine.pth", data_dir=tmp_path).weights_sha256


def real_data() -> Path | None:
    places = [Path(os.environ.get("STN_DATA_DIR") or "data"), Path(__file__).parents[4] / "shared" / "data"]
    return next(
        (place for place in places if (place / "weights").is_dir() and (place / "cub50").is_dir()), None
    )


@pytest.mark.skipif(real_data() is None, reason="needs cub50/ and weights/ in STN_DATA_DIR")
def test_real_weights_know_real_birds_best_as_they_were_trained(tmp_path):
    from stn.datasets.birds import Birds

    weights = real_data() / "weights" / "mobilenet_v2_imagenet_fp16.pth"
    head = torch.load(weights, weights_only=True)
    birds = {*range(7, 25), *range(80, 101), *range(127, 147)}  # of ImageNet's 1,000 classes
    data = Birds("cub50", data_dir=real_data(), cache_dir=tmp_path)
    images = torch.from_numpy(data.test.pixels(range(0, 1389, 50))).permute(0, 3, 1, 2).float() / 255

    def share(**options):
        backbone = Backbone("mobilenet_v2", weights=weights, **options).eval()
        with torch.no_grad():
            logits = F.linear(
                backbone(images).mean((2, 3)),
                head["classifier.1.weight"].float(),
                head["classifier.1.bias"].float(),
            )
        return logits.softmax(1)[:, sorted(birds)].sum(1).mean().item()

    auto = share()
    assert auto > 0.6
    assert auto > share(scaling="imagenet") + 0.01
    assert auto > share(padding="torch") + 0.01
