"""Checkpoints written before there was one kind of parallel transformer: they load, and a seed makes the same network.

The old structure is built here by hand, of the parts that it was made of and in the order of that time.
"""

import copy

import pytest
import torch
from torch import nn

from stn import (
    Affine,
    Affine3d,
    Attention,
    ConvTrunk,
    FCTrunk,
    SpatialTransformer,
    Translation,
    localisation_parameters,
)
from stn.localisation import ConvTrunk3d, Head
from stn.models.backbones import Backbone
from stn.models.colocalisation import Localiser
from stn.models.images import BackboneTrunk, ImageSTCNN, tiling
from stn.models.mnist import CNN, FCN, st_cnn, st_fcn
from stn.models.volumes import ProjectedCNN, st_cnn_3d


class OldSTN(nn.Module):
    """A list of transformers, then the classifier."""

    def __init__(self, make_trunk, transform, count, make_classifier):
        super().__init__()
        self.transformers = nn.ModuleList(SpatialTransformer(make_trunk(), transform) for _ in range(count))
        self.classifier = make_classifier()

    def forward(self, image):
        outputs = [transformer(image) for transformer in self.transformers]
        warped = torch.stack([w for w, _ in outputs], dim=1)
        return self.classifier(warped.flatten(1, 2))[0], warped, torch.stack([t for _, t in outputs], dim=1)


class OldParallel(nn.Module):
    """One shared localisation network and its head."""

    def __init__(self, localisation, transform, starts):
        super().__init__()
        self.localisation = localisation
        self.transform = transform
        self.head = Head(128, transform, start=starts.flatten(), count=len(starts))


class OldImageSTCNN(nn.Module):
    def __init__(self, backbone, transform, count, classes):
        super().__init__()
        trunk = BackboneTrunk(copy.deepcopy(backbone), 64)
        self.parallel = OldParallel(trunk, transform, tiling(transform, count))
        self.backbones = nn.ModuleList([backbone, *(copy.deepcopy(backbone) for _ in range(count - 1))])
        self.dropout = nn.Dropout(0.7)
        self.classifier = nn.Linear(count * backbone.out_channels, classes)


def seeded(make):
    torch.manual_seed(3)
    return make(), torch.get_rng_state()


def shaken(model):
    """The same with other weights, as after some training."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


PAIRS = {
    "st_cnn": (
        lambda: OldSTN(lambda: ConvTrunk((1, 28, 28)), Affine(), 1, lambda: CNN((1, 28, 28), width=3)),
        lambda: st_cnn((1, 28, 28), transform=Affine(), width=3),
        torch.rand(2, 1, 28, 28),
    ),
    "2st_fcn": (
        lambda: OldSTN(lambda: FCTrunk((2, 28, 28)), Attention(), 2, lambda: FCN((4, 28, 28), width=3)),
        lambda: st_fcn((2, 28, 28), transform=Attention(), num_transformers=2, width=3),
        torch.rand(2, 2, 28, 28),
    ),
    "st_cnn_3d": (
        lambda: OldSTN(
            lambda: ConvTrunk3d((1, 32, 32, 32)),
            Affine3d(),
            2,
            lambda: ProjectedCNN((2, 32, 32, 32), width=2),
        ),
        lambda: st_cnn_3d((1, 32, 32, 32), transform=Affine3d(), num_transformers=2, width=2),
        torch.rand(2, 1, 32, 32, 32),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_seed_makes_the_same_network_and_its_old_weights_load(name):
    make_old, make_new, image = PAIRS[name]
    (old, state), (new, new_state) = seeded(make_old), seeded(make_new)
    assert torch.equal(state, new_state)  # as many random numbers drawn
    assert list(old.state_dict()) == list(new.state_dict())
    for ours, theirs in zip(new.parameters(), old.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    new.load_state_dict(shaken(old).state_dict())
    logits, warped, theta = old(image)
    ours, aux = new(image)
    assert (
        torch.equal(ours, logits) and torch.equal(aux["warped"], warped) and torch.equal(aux["theta"], theta)
    )


def image_networks():
    def make(build):
        return lambda: build(Backbone("mobilenet_v2", weights="none"))

    old = make(lambda backbone: OldImageSTCNN(backbone, Translation(0.5), 2, 5))
    new = make(
        lambda backbone: ImageSTCNN(
            (3, 64, 64),
            num_classes=5,
            backbone=backbone,
            transform=Translation(0.5),
            num_transformers=2,
            crop=32,
        )
    )
    return seeded(old), seeded(new)


def test_networks_of_images_load_weights_that_say_parallel():
    (old, state), (new, new_state) = image_networks()
    assert torch.equal(state, new_state)
    assert [key for key in old.state_dict() if key.startswith("parallel.head")] == [
        "parallel.head.weight",
        "parallel.head.bias",
    ]
    for ours, theirs in zip(new.parameters(), old.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    saved = shaken(old).state_dict()
    keys = list(saved)
    for model in (new, copy.deepcopy(new)):
        model.load_state_dict(saved)
        assert list(saved) == keys  # the caller's dict is left alone
        assert torch.equal(model.transformers.networks[0].head.weight, old.parallel.head.weight)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old.parameters(), strict=True))
    inside = nn.ModuleDict({"net": new})  # with a prefix before the keys
    inside.load_state_dict({f"net.{key}": value for key, value in saved.items()})
    new.load_state_dict(new.state_dict())
    with pytest.raises(RuntimeError, match="parallel_head"):
        new.load_state_dict({**saved, "parallel_head": torch.zeros(1)})


def old_localisation_parameters(model):
    found = [m for m in model.modules() if isinstance(m, SpatialTransformer | OldParallel)]
    return [p for module in found for part in (module.localisation, module.head) for p in part.parameters()]


def names(model, parameters):
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [of[id(parameter)].replace("parallel.", "transformers.0.") for parameter in parameters]


def test_parameters_keep_the_order_that_an_optimizers_state_depends_on():
    pairs = [(make_old(), make_new()) for make_old, make_new, _ in PAIRS.values()]
    (old, _), (new, _) = image_networks()
    for before, after in [*pairs, (old, new)]:
        assert names(before, before.parameters()) == names(after, after.parameters())
        expected = names(before, old_localisation_parameters(before))
        assert names(after, localisation_parameters(after)) == expected and len(expected) > 7


def test_the_momentum_of_an_old_optimizer_goes_to_the_same_parameters():
    (old, _), (new, _) = image_networks()

    def optimizer(model, mine):
        rest = [p for p in model.parameters() if id(p) not in {id(q) for q in mine}]
        return torch.optim.SGD([{"params": rest}, {"params": mine}], lr=0.1, momentum=0.9)

    before = optimizer(old, old_localisation_parameters(old))
    for parameter in old.parameters():
        parameter.grad = torch.rand_like(parameter)
    before.step()
    after = optimizer(new, localisation_parameters(new))
    after.load_state_dict(before.state_dict())
    for ours, theirs in zip(new.parameters(), old.parameters(), strict=True):
        assert torch.equal(after.state[ours]["momentum_buffer"], before.state[theirs]["momentum_buffer"])


def test_the_localiser_keeps_its_keys():
    model = Localiser((1, 84, 84), transform=Attention())
    trunk = [f"transformers.0.localisation.{i}.{what}" for i in (0, 4, 6) for what in ("weight", "bias")]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    head = [f"transformers.0.head.{what}" for what in ("weight", "size_bias")]
    assert list(model.state_dict()) == [
        *trunk,
        *(f"transformers.0.localisation.8.{s}" for s in statistics),
        *head,
    ]
    assert localisation_parameters(model) == list(model.parameters())
